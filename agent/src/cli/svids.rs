//! What the Workload API answered, checked and shown as SPIRE's agent shows it.

use std::time::{Duration, SystemTime};

use hardroot_api::workload::X509svidResponse;
use hardroot_config::duration;
use hardroot_identity::{
    BadBundle, BadCertificate, BadSpiffeId, BadX509Svid, Bundle, Certificate, SpiffeId, TrustDomain,
    verify_x509_svid,
};
use zeroize::Zeroizing;

/// One SVID of an answer.
pub(super) struct Fetched {
    pub(super) id: SpiffeId,
    pub(super) hint: String,
    pub(super) chain: Vec<Certificate>,
    pub(super) chain_der: Vec<Vec<u8>>,
    pub(super) key_pkcs8: Zeroizing<Vec<u8>>,
    pub(super) bundle: Vec<Certificate>,
    pub(super) bundle_der: Vec<Vec<u8>>,
    /// By trust domain ID, sorted.
    pub(super) federated: Vec<(String, Vec<Certificate>, Vec<Vec<u8>>)>,
}

/// Why an answer is not usable.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAnswer {
    #[error("workload response contains no svids")]
    Empty,
    #[error("SVID {index}: \"{text}\" is no SPIFFE ID: {cause}")]
    Id { index: usize, text: String, cause: BadSpiffeId },
    #[error("SVID {index}: certificates: {cause}")]
    Certificates { index: usize, cause: BadBundle },
    #[error("SVID {index}: {cause}")]
    Certificate { index: usize, cause: BadCertificate },
    #[error("SVID {index}: no certificates in trust bundle")]
    NoBundle { index: usize },
    #[error("SVID {index}: the private key is not usable PKCS#8, or not the certificate's")]
    Key { index: usize },
    #[error("\"{id}\" SVID failed verification against bundle: {cause}")]
    Verify { id: SpiffeId, cause: BadX509Svid },
}

/// Reads and checks an answer.
pub(super) fn parse(response: X509svidResponse, now: SystemTime) -> Result<Vec<Fetched>, BadAnswer> {
    if response.svids.is_empty() {
        return Err(BadAnswer::Empty);
    }
    let mut federated_bundles: Vec<_> = response.federated_bundles.into_iter().collect();
    federated_bundles.sort();
    let mut fetched = Vec::new();
    for (index, svid) in response.svids.into_iter().enumerate() {
        let id: SpiffeId = svid.spiffe_id.parse().map_err(|cause| BadAnswer::Id {
            index,
            text: svid.spiffe_id.escape_default().to_string(),
            cause,
        })?;
        let td = id.trust_domain();
        let chain_der = split(&svid.x509_svid, &td, index)?;
        let bundle_der = split(&svid.bundle, &td, index)?;
        if bundle_der.is_empty() {
            return Err(BadAnswer::NoBundle { index });
        }
        let certificates = |ders: &[Vec<u8>]| {
            ders.iter()
                .map(|der| Certificate::parse(der).map_err(|cause| BadAnswer::Certificate { index, cause }))
                .collect::<Result<Vec<_>, _>>()
        };
        let bundle = Bundle::from_der_concat(td.clone(), &svid.bundle)
            .map_err(|cause| BadAnswer::Certificates { index, cause })?;
        let verified = verify_x509_svid(&chain_der, &bundle, now)
            .map_err(|cause| BadAnswer::Verify { id: id.clone(), cause })?;
        let key_pkcs8 = Zeroizing::new(svid.x509_svid_key);
        if !belongs(&key_pkcs8, &verified.spki_der) {
            return Err(BadAnswer::Key { index });
        }
        let federated = federated_bundles
            .iter()
            .map(|(name, der)| {
                let ders = split(der, &td, index)?;
                Ok((name.clone(), certificates(&ders)?, ders))
            })
            .collect::<Result<Vec<_>, BadAnswer>>()?;
        fetched.push(Fetched {
            id,
            hint: svid.hint,
            chain: certificates(&chain_der)?,
            chain_der,
            key_pkcs8,
            bundle: certificates(&bundle_der)?,
            bundle_der,
            federated,
        });
    }
    Ok(fetched)
}

/// Concatenated DER, one by one.
fn split(der: &[u8], trust_domain: &TrustDomain, index: usize) -> Result<Vec<Vec<u8>>, BadAnswer> {
    if der.is_empty() {
        return Ok(Vec::new());
    }
    let mut rest = der;
    let mut found = Vec::new();
    while !rest.is_empty() {
        match x509_parser::der_parser::der::parse_der(rest) {
            Ok((after, _)) => {
                let (one, _) = rest.split_at(rest.len() - after.len());
                found.push(one.to_vec());
                rest = after;
            }
            Err(_) => {
                // The bundle parser says what is wrong in words.
                let cause = Bundle::from_der_concat(trust_domain.clone(), der).err();
                return match cause {
                    Some(cause) => Err(BadAnswer::Certificates { index, cause }),
                    None => Ok(found),
                };
            }
        }
    }
    Ok(found)
}

fn belongs(pkcs8: &[u8], spki_der: &[u8]) -> bool {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8);
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&der.into())
        .ok()
        .and_then(|key| key.public_key().map(|public| public.as_ref() == spki_der))
        .unwrap_or(false)
}

/// Go's way of showing a time in UTC: `2026-01-31 07:00:00 +0000 UTC`.
fn go_time(time: SystemTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    time::OffsetDateTime::from(time).format(format).unwrap_or_default()
}

/// SPIRE's output for people, line for line.
pub(super) fn pretty(svids: &[Fetched], took: Duration) -> String {
    let plural = if svids.len() == 1 { "" } else { "s" };
    let mut out = format!("Received {} svid{plural} after {}\n", svids.len(), duration::format(took));
    let pair = |out: &mut String, name: &str, certificate: &Certificate| {
        out.push_str(&format!("{name} Valid After:\t{}\n", go_time(certificate.not_before)));
        out.push_str(&format!("{name} Valid Until:\t{}\n", go_time(certificate.not_after)));
    };
    for svid in svids {
        out.push_str(&format!("\nSPIFFE ID:\t\t{}\n", svid.id));
        if !svid.hint.is_empty() {
            out.push_str(&format!("Hint:\t\t\t{}\n", hardroot_runtime::cli::printable(&svid.hint)));
        }
        for (n, certificate) in svid.chain.iter().enumerate() {
            let name = if n == 0 { "SVID".to_owned() } else { format!("Intermediate #{n}") };
            pair(&mut out, &name, certificate);
        }
        for (n, ca) in svid.bundle.iter().enumerate() {
            pair(&mut out, &format!("CA #{}", n + 1), ca);
        }
        for (trust_domain, authorities, _) in &svid.federated {
            for (n, ca) in authorities.iter().enumerate() {
                pair(&mut out, &format!("[{trust_domain}] CA #{}", n + 1), ca);
            }
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use hardroot_api::workload::X509svid;
    use hardroot_hsm_keymanager::KeyType;

    use super::*;
    use crate::cache::AuthorizedEntry;
    use crate::sync::{WorkloadKey, check_workload_svid};
    use crate::testing::TestCa;

    fn answer(hint: &str) -> (X509svidResponse, SystemTime) {
        let td = TrustDomain::new("example.org").unwrap();
        let (ca, foreign) = (TestCa::new(&td), TestCa::new(&TrustDomain::new("other.org").unwrap()));
        let id: SpiffeId = "spiffe://example.org/web".parse().unwrap();
        let entry = AuthorizedEntry {
            id: "e".into(),
            spiffe_id: id.clone(),
            selectors: vec![],
            federates_with: vec![],
            hint: String::new(),
            revision: 0,
            created_at: 0,
            prefetch: true,
            jwt_include_jti: false,
            store_svid: false,
        };
        let key = WorkloadKey::make(KeyType::EcP256, &id).unwrap();
        let spki = hardroot_identity::Csr::parse(key.csr()).unwrap().spki_der;
        let chain = ca.workload(&id, &spki, Duration::from_secs(3600));
        let (svid, _) = check_workload_svid(&entry, key, &chain, &ca.bundle(), ca.now()).unwrap();
        let wire = X509svid {
            spiffe_id: id.to_string(),
            x509_svid: chain.concat(),
            x509_svid_key: svid.key_pkcs8.to_vec(),
            bundle: ca.bundle().x509_der_concat(),
            hint: hint.into(),
        };
        let federated = [("spiffe://other.org".to_owned(), foreign.bundle().x509_der_concat())].into();
        (X509svidResponse { svids: vec![wire], crl: vec![], federated_bundles: federated }, ca.now())
    }

    #[test]
    fn the_pretty_output_is_spires() {
        let (response, now) = answer("internal");
        let shown = pretty(&parse(response, now).unwrap(), Duration::from_micros(1500));
        assert_eq!(
            shown,
            "Received 1 svid after 1.5ms\n\
             \n\
             SPIFFE ID:\t\tspiffe://example.org/web\n\
             Hint:\t\t\tinternal\n\
             SVID Valid After:\t2025-12-31 23:59:50 +0000 UTC\n\
             SVID Valid Until:\t2026-01-01 01:00:00 +0000 UTC\n\
             CA #1 Valid After:\t2025-12-31 23:59:50 +0000 UTC\n\
             CA #1 Valid Until:\t2027-01-01 00:00:00 +0000 UTC\n\
             [spiffe://other.org] CA #1 Valid After:\t2025-12-31 23:59:50 +0000 UTC\n\
             [spiffe://other.org] CA #1 Valid Until:\t2027-01-01 00:00:00 +0000 UTC\n\
             \n"
        );
    }

    #[test]
    fn answers_that_do_not_hold_together_are_refused() {
        let broken = |change: fn(&mut X509svidResponse)| {
            let (mut response, now) = answer("");
            change(&mut response);
            parse(response, now).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(broken(|r| r.svids.clear()), "workload response contains no svids");
        assert!(broken(|r| r.svids[0].spiffe_id = "http://x".into()).contains("no SPIFFE ID"));
        assert!(broken(|r| r.svids[0].bundle.clear()).contains("no certificates in trust bundle"));
        assert!(!broken(|r| r.svids[0].x509_svid.clear()).is_empty());
        assert!(!broken(|r| r.svids[0].x509_svid.truncate(100)).is_empty());
        assert!(broken(|r| r.svids[0].x509_svid_key.clear()).contains("private key"));
        let other = answer("").0.svids.remove(0).x509_svid_key;
        let (mut response, now) = answer("");
        response.svids[0].x509_svid_key = other;
        assert!(matches!(parse(response, now), Err(BadAnswer::Key { .. })), "a key of another certificate");
        let (response, now) = answer("");
        assert!(matches!(parse(response, now + Duration::from_secs(3601)), Err(BadAnswer::Verify { .. })));
    }
}
