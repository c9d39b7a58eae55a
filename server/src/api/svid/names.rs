//! What a CSR of `MintX509SVID` may ask for. Here alone the CSR names the identity: its caller is an admin.

use hardroot_identity::{BadDnsName, Csr, SpiffeId, TrustDomain, check_dns_names};
use tonic::Status;

use crate::api::convert::{self, BadMessage};
use crate::api::faults;

/// The identity and the CSR, checked.
///
/// # Errors
/// `InvalidArgument`: malformed, not signed by its own key, not exactly one URI, an ID of another trust
/// domain or a reserved one, DNS names that must not be certified.
pub(super) fn of_mint_csr(trust_domain: &TrustDomain, der: &[u8]) -> Result<(SpiffeId, Csr), Status> {
    let refuse = |message: &str| Err(Status::invalid_argument(message));
    if der.is_empty() {
        return refuse("missing CSR");
    }
    let csr = Csr::parse(der).map_err(|fault| faults::invalid("malformed CSR", fault))?;
    if !csr.signature_valid {
        return refuse("failed to verify CSR signature");
    }
    let uri = match csr.uris.as_slice() {
        [] => return refuse("CSR URI SAN is required"),
        [uri] => uri,
        _ => return refuse("only one URI SAN is expected"),
    };
    let id = uri
        .parse()
        .map_err(BadMessage::Id)
        .and_then(|id| convert::check_workload(trust_domain, id))
        .map_err(|fault| faults::invalid("CSR URI SAN is invalid", fault))?;
    check_dns_names(&csr.dns_names).map_err(|fault| match fault {
        BadDnsName::Overlap { .. } => {
            faults::invalid("CSR DNS name contains a wildcard that covers another non-wildcard name", fault)
        }
        fault => faults::invalid("CSR DNS name is invalid", fault),
    })?;
    Ok((id, csr))
}
