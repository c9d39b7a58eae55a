//! Whether the SVID a server returned is the one this agent asked for.

use std::time::SystemTime;

use hardroot_identity::{BadX509Svid, Bundle, SpiffeId, X509Svid, verify_x509_svid};

/// Why the agent's new SVID is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadAgentSvid {
    /// It does not verify against the bundle.
    #[error("the agent's SVID does not verify: {0}")]
    Svid(#[source] BadX509Svid),
    /// Its time does not fit this machine's clock.
    #[error("the agent's SVID does not fit this machine's clock ({0}); is the clock right?")]
    Clock(#[source] BadX509Svid),
    /// It is for another key.
    #[error("the agent's SVID is for another key than the agent's")]
    OtherKey,
    /// It names something that is no agent, such as the server.
    #[error("the SVID names {id}, which is no agent's ID")]
    NoAgent {
        /// What it names.
        id: SpiffeId,
    },
}

/// Checks a chain that a server returned for the key `spki_der`. The bundle's trust domain is the agent's.
///
/// # Errors
/// See [`BadAgentSvid`].
pub fn check_agent_svid(
    chain: &[Vec<u8>],
    spki_der: &[u8],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<X509Svid, BadAgentSvid> {
    let svid = verify_x509_svid(chain, bundle, now).map_err(|bad| {
        // With a clock that is far off, authorities do not count either, and the error names them first.
        let fits = X509Svid::parse(chain.to_vec()).is_ok_and(|s| s.not_before <= now && now < s.not_after);
        match bad {
            BadX509Svid::Expired { .. } | BadX509Svid::NotYetValid { .. } => BadAgentSvid::Clock(bad),
            BadX509Svid::NoAuthority { .. } if !fits => BadAgentSvid::Clock(bad),
            bad => BadAgentSvid::Svid(bad),
        }
    })?;
    if svid.spki_der != spki_der {
        return Err(BadAgentSvid::OtherKey);
    }
    // Attestors may place agents anywhere (SPIRE only warns), but never at the server's own ID.
    if svid.id.path() == "/spire/server" {
        return Err(BadAgentSvid::NoAgent { id: svid.id });
    }
    Ok(svid)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hardroot_hsm_keymanager::{KeyId, KeyType};
    use hardroot_identity::TrustDomain;

    use super::*;
    use crate::testing::{TestCa, memory_keys};

    #[tokio::test]
    async fn only_our_key_our_trust_domain_and_our_time() {
        let td = TrustDomain::new("example.org").unwrap();
        let ca = TestCa::new(&td);
        let keys = memory_keys();
        let ours = keys.generate(&KeyId::new("a").unwrap(), KeyType::EcP256).await.unwrap().spki_der;
        let theirs = keys.generate(&KeyId::new("b").unwrap(), KeyType::EcP256).await.unwrap().spki_der;
        let hour = Duration::from_secs(3600);
        let id: SpiffeId = "spiffe://example.org/spire/agent/join_token/x".parse().unwrap();
        let good = ca.agent(&id, &ours, hour);
        assert_eq!(check_agent_svid(&good, &ours, &ca.bundle(), ca.now()).unwrap().id, id);
        assert!(matches!(
            check_agent_svid(&good, &theirs, &ca.bundle(), ca.now()),
            Err(BadAgentSvid::OtherKey)
        ));
        for wrong in [ca.now() + 2 * hour, ca.now() - hour] {
            assert!(matches!(
                check_agent_svid(&good, &ours, &ca.bundle(), wrong),
                Err(BadAgentSvid::Clock(_))
            ));
        }
        let stranger = TestCa::new(&td).agent(&id, &ours, hour);
        assert!(matches!(
            check_agent_svid(&stranger, &ours, &ca.bundle(), ca.now()),
            Err(BadAgentSvid::Svid(_))
        ));
        let other_td = TestCa::new(&TrustDomain::new("evil.org").unwrap());
        let foreign = other_td.agent(&"spiffe://evil.org/spire/agent/x".parse().unwrap(), &ours, hour);
        assert!(check_agent_svid(&foreign, &ours, &ca.bundle(), ca.now()).is_err());
        let server = ca.agent(&"spiffe://example.org/spire/server".parse().unwrap(), &ours, hour);
        assert!(matches!(
            check_agent_svid(&server, &ours, &ca.bundle(), ca.now()),
            Err(BadAgentSvid::NoAgent { .. })
        ));
        assert!(check_agent_svid(&[], &ours, &ca.bundle(), ca.now()).is_err());
    }
}
