//! The messages, made of one update each.

use std::collections::BTreeMap;

use hardroot_api::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};
use hardroot_identity::{Bundle, TrustDomain};
use tonic::{Code, Status};

use crate::source::WorkloadUpdate;

fn own_bundle(update: &WorkloadUpdate) -> Result<&Bundle, Status> {
    let own = update.bundles.get(&update.trust_domain);
    own.map(|bundle| &**bundle).ok_or_else(|| {
        Status::new(Code::Unavailable, "the bundle of the trust domain is not here yet; try again")
    })
}

/// The identities that can be told completely: every field but the hint is mandatory (Workload API 5.1).
fn x509_svids(update: &WorkloadUpdate, bundle: &[u8]) -> Vec<X509svid> {
    let complete = update
        .identities
        .iter()
        .filter(|identity| !identity.svid.chain.is_empty() && !identity.svid.key_pkcs8.is_empty());
    complete
        .map(|identity| X509svid {
            spiffe_id: identity.spiffe_id.to_string(),
            x509_svid: identity.svid.chain.concat(),
            x509_svid_key: identity.svid.key_pkcs8.to_vec(),
            bundle: bundle.to_vec(),
            hint: identity.hint.clone(),
        })
        .collect()
}

pub(super) fn x509_svid(update: &WorkloadUpdate) -> Result<X509svidResponse, Status> {
    let bundle = own_bundle(update)?.x509_der_concat();
    let svids = x509_svids(update, &bundle);
    if svids.is_empty() || bundle.is_empty() {
        return Err(Status::new(Code::Unavailable, "the identities are not complete yet; try again"));
    }
    let mut federated_bundles = x509(update);
    federated_bundles.remove(&update.trust_domain.id().to_string());
    Ok(X509svidResponse { svids, crl: Vec::new(), federated_bundles })
}

pub(super) fn x509_bundles(update: &WorkloadUpdate) -> Result<X509BundlesResponse, Status> {
    own_bundle(update)?;
    Ok(X509BundlesResponse { crl: Vec::new(), bundles: x509(update) })
}

pub(super) fn jwt_bundles(update: &WorkloadUpdate) -> Result<JwtBundlesResponse, Status> {
    own_bundle(update)?;
    Ok(JwtBundlesResponse { bundles: by_id(update, Bundle::jwt_jwks) })
}

fn x509(update: &WorkloadUpdate) -> BTreeMap<String, Vec<u8>> {
    by_id(update, Bundle::x509_der_concat)
}

fn by_id(update: &WorkloadUpdate, form: impl Fn(&Bundle) -> Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    let entry =
        |(name, bundle): (&TrustDomain, &std::sync::Arc<Bundle>)| (name.id().to_string(), form(bundle));
    update.bundles.iter().map(entry).collect()
}
