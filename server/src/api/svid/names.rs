//! What a CSR of `MintX509SVID` may ask for. Here alone the CSR names the identity: its caller is an admin.

use hardroot_identity::{Csr, SpiffeId, TrustDomain, check_dns_names};
use tonic::Status;

/// The identity and the CSR, checked.
///
/// # Errors
/// `InvalidArgument`: malformed, not signed by its own key, not exactly one URI, an ID of another trust
/// domain or a reserved one, DNS names that must not be certified.
pub(super) fn of_mint_csr(trust_domain: &TrustDomain, der: &[u8]) -> Result<(SpiffeId, Csr), Status> {
    let refuse = |message: String| Err(Status::invalid_argument(message));
    if der.is_empty() {
        return refuse("missing CSR".to_owned());
    }
    let csr = match Csr::parse(der) {
        Ok(csr) => csr,
        Err(error) => return refuse(format!("malformed CSR: {error}")),
    };
    if !csr.signature_valid {
        return refuse("failed to verify CSR signature".to_owned());
    }
    let uri = match csr.uris.as_slice() {
        [] => return refuse("CSR URI SAN is required".to_owned()),
        [uri] => uri,
        _ => return refuse("only one URI SAN is expected".to_owned()),
    };
    let id: SpiffeId = match uri.parse() {
        Ok(id) => id,
        Err(error) => return refuse(format!("CSR URI SAN is invalid: {error}")),
    };
    if !id.is_member_of(trust_domain) {
        return refuse(format!(
            "CSR URI SAN is invalid: {id} is not a member of trust domain {trust_domain}"
        ));
    }
    if id.path().is_empty() {
        return refuse(format!("CSR URI SAN is invalid: {id} has no path"));
    }
    if id.is_reserved() {
        return refuse(format!("CSR URI SAN is invalid: {id} is in the reserved namespace /spire"));
    }
    if let Err(error) = check_dns_names(&csr.dns_names) {
        return refuse(format!("CSR DNS name is invalid: {error}"));
    }
    Ok((id, csr))
}
