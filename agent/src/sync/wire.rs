//! From the wire's messages to ours.

use std::time::Duration;

use hardroot_api::spire::api::types;
use hardroot_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};

use super::server::ServerError;

/// A request whose deadline the server is told (`grpc-timeout`): it does not work for somebody who has gone, and says early
/// when it will not be done in time.
pub(super) fn within<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// A bundle that must be `trust_domain`'s and must hold an X.509 authority: an empty one would end all trust.
pub(crate) fn bundle(
    rpc: &'static str,
    wire: types::Bundle,
    trust_domain: &TrustDomain,
) -> Result<Bundle, ServerError> {
    let bad = |reason: String| ServerError::Protocol { rpc, reason };
    let named = TrustDomain::from_name_or_id(&wire.trust_domain)
        .map_err(|e| bad(format!("the bundle's trust domain is not usable: {e}")))?;
    if named != *trust_domain {
        return Err(bad(format!("the bundle is of {named}, expected {trust_domain}")));
    }
    if wire.x509_authorities.is_empty() {
        return Err(bad(format!("the bundle of {trust_domain} holds no X.509 authority")));
    }
    let mut bundle = Bundle::new(named);
    bundle.x509_authorities = wire
        .x509_authorities
        .into_iter()
        .map(|a| X509Authority { der: a.asn1, tainted: a.tainted })
        .collect();
    bundle.jwt_authorities = wire
        .jwt_authorities
        .into_iter()
        .map(|a| JwtAuthority {
            key_id: a.key_id,
            spki_der: a.public_key,
            expires_at: a.expires_at,
            tainted: a.tainted,
        })
        .collect();
    bundle.refresh_hint = wire.refresh_hint;
    bundle.sequence_number = wire.sequence_number;
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_and_not_empty_bundle_is_taken() {
        let td = TrustDomain::new("example.org").unwrap();
        let wire = |name: &str, authorities: usize| types::Bundle {
            trust_domain: name.into(),
            x509_authorities: vec![types::X509Certificate { asn1: vec![1], tainted: true }; authorities],
            sequence_number: 4,
            ..types::Bundle::default()
        };
        let good = bundle("GetBundle", wire("example.org", 1), &td).unwrap();
        assert!(good.x509_authorities[0].tainted && good.sequence_number == 4);
        assert!(bundle("GetBundle", wire("spiffe://example.org", 1), &td).is_ok());
        assert!(bundle("GetBundle", wire("evil.org", 1), &td).is_err());
        assert!(bundle("GetBundle", wire("example.org", 0), &td).is_err());
        assert!(bundle("GetBundle", wire("", 1), &td).is_err());
    }
}
