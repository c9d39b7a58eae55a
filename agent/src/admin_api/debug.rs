//! `spire.agent.debug.v1.Debug`: how the agent is.

use std::time::SystemTime;

use hardroot_api::spire::agent::debug::v1::debug_server::Debug as Service;
use hardroot_api::spire::agent::debug::v1::get_info_response::Cert;
use hardroot_api::spire::agent::debug::v1::{GetInfoRequest, GetInfoResponse};
use hardroot_api::spire::api::types;
use hardroot_identity::{Bundle, SpiffeId, verify_x509_svid};
use tonic::{Request, Response, Status};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::AdminApi;

pub(super) struct Debug {
    pub(super) api: AdminApi,
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Debug {
    /// The agent's certificates up to the authority that vouches for them.
    fn chain(&self) -> Vec<Vec<u8>> {
        let mut chain = self.api.status.chain();
        if let Some(bundle) = self.api.cache.judge() {
            let vouches = |der: &Vec<u8>| {
                let mut only = Bundle::new(self.api.trust_domain.clone());
                only.x509_authorities =
                    bundle.x509_authorities.iter().filter(|a| a.der == *der).cloned().collect();
                verify_x509_svid(&chain, &only, self.api.clock.now()).is_ok()
            };
            let authority = bundle.x509_authorities.iter().map(|a| &a.der).find(|der| vouches(der)).cloned();
            chain.extend(authority);
        }
        chain
    }
}

#[tonic::async_trait]
impl Service for Debug {
    async fn get_info(&self, _request: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let (status, counts) = (&self.api.status, self.api.cache.counts());
        // It is deprecated and clients of its time still read it.
        #[expect(deprecated, reason = "SPIRE's agent fills it too")]
        let answer = GetInfoResponse {
            svid_chain: self.chain().iter().filter_map(|der| shown(der)).collect(),
            uptime: i32::try_from(status.uptime().as_secs()).unwrap_or(i32::MAX),
            svids_count: count(counts.svids),
            last_sync_success: status.last_sync().map_or(0, seconds),
            cached_x509_svids_count: count(counts.svids),
            cached_jwt_svids_count: count(counts.tokens),
            cached_svidstore_x509_svids_count: 0,
        };
        Ok(Response::new(answer))
    }
}

fn shown(der: &[u8]) -> Option<Cert> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let id = names.into_iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
        GeneralName::URI(uri) => uri.parse::<SpiffeId>().ok(),
        _ => None,
    });
    Some(Cert {
        id: id.map(|id| types::Spiffeid {
            trust_domain: id.trust_domain_name().to_owned(),
            path: id.path().to_owned(),
        }),
        expires_at: certificate.validity().not_after.timestamp(),
        subject: distinguished_name(certificate.subject()),
    })
}

/// As RFC 2253 writes names: the last part first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let attribute = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
                let kind = attribute.attr_type();
                let known = x509_parser::objects::oid2abbrev(kind, x509_parser::objects::oid_registry());
                let kind = match known {
                    // As SPIRE's agent writes it.
                    Ok("serialNumber") => "SERIALNUMBER".to_owned(),
                    Ok(name) => name.to_owned(),
                    Err(_unknown) => kind.to_id_string(),
                };
                format!("{kind}={}", attribute.as_str().unwrap_or_default())
            };
            rdn.iter().map(attribute).collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCa;
    use hardroot_identity::TrustDomain;

    #[test]
    fn a_certificate_is_shown_with_its_name_and_end() {
        let ca = TestCa::new(&TrustDomain::new("example.org").unwrap());
        let id: SpiffeId = "spiffe://example.org/spire/agent/x".parse().unwrap();
        let chain = ca.agent(&id, &ca.spki(), std::time::Duration::from_secs(60));
        let cert = shown(&chain[0]).unwrap();
        assert_eq!(cert.subject, "O=SPIRE,C=US");
        assert_eq!(cert.id.unwrap().path, "/spire/agent/x");
        assert_eq!(cert.expires_at, seconds(ca.now()) + 60);
        assert_eq!(shown(&ca.bundle().x509_authorities[0].der).unwrap().id.unwrap().path, "");
        assert!(shown(b"nonsense").is_none());
    }
}
