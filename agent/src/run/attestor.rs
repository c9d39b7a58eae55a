//! The node attestor that the configuration names.

use std::sync::Arc;

use hardroot_hsm_keymanager::{KeyId, KeyManager};
use hardroot_node_attestors::join_token::JoinTokenAgent;
use hardroot_node_attestors::x509pop::{NodeKey, X509popAgent};
use hardroot_node_attestors::{AgentAttestor, AgentSession, AttestError, AttestationSubject};
use hardroot_runtime::secret::{self, SecretError};
use zeroize::Zeroizing;

use super::RunError;
use crate::config::{AgentConfig, JoinToken, NodeAttestorConfig, X509PopKey};

/// Attests with a join token that is looked up at each attempt, so that a new token in the file counts.
pub struct TokenSource {
    token: Option<JoinToken>,
}

impl TokenSource {
    /// With the configured token. None is right for an agent that has an SVID already.
    #[must_use]
    pub fn new(token: Option<JoinToken>) -> Self {
        Self { token }
    }

    fn read(&self) -> Result<Zeroizing<String>, AttestError> {
        let rejected =
            |detail: &str| AttestError::Rejected { reason: "no_join_token", detail: detail.to_owned() };
        match &self.token {
            None => Err(rejected(
                "there is no valid SVID and no join token is configured; make one with \"hardroot-server token \
                 generate\" and set join_token_file",
            )),
            Some(JoinToken::Value(token)) => Ok(token.clone()),
            Some(JoinToken::File(path)) => {
                let unavailable = |cause: SecretError| AttestError::Unavailable {
                    op: "reading the join token",
                    cause: Box::new(cause),
                };
                let secret = secret::read(path).map_err(unavailable)?;
                let text = secret.expose_str().ok_or_else(|| rejected("the join token file is not text"))?;
                Ok(Zeroizing::new(text.to_owned()))
            }
        }
    }
}

#[async_trait::async_trait]
impl AgentAttestor for TokenSource {
    fn name(&self) -> &'static str {
        "join_token"
    }

    async fn begin(
        &self,
        subject: &AttestationSubject,
    ) -> Result<(Vec<u8>, Box<dyn AgentSession>), AttestError> {
        let token = JoinTokenAgent::new(self.read()?)
            .map_err(|bad| AttestError::Rejected { reason: "bad_join_token", detail: bad.to_string() })?;
        token.begin(subject).await
    }
}

/// The configured attestor.
pub(super) fn attestor(
    config: &AgentConfig,
    keys: &Arc<dyn KeyManager>,
    tpm: Option<&super::keys::TpmKeys>,
) -> Result<Arc<dyn AgentAttestor>, RunError> {
    let name = config.node_attestor.name();
    match &config.node_attestor {
        NodeAttestorConfig::JoinToken => Ok(Arc::new(TokenSource::new(config.join_token.clone()))),
        NodeAttestorConfig::X509Pop(pop) => {
            let key = match &pop.key {
                X509PopKey::File(path) => NodeKey::File(path.clone()),
                X509PopKey::KeyManager(id) => {
                    let id = KeyId::new(id).map_err(|bad| RunError::Attestor { name, cause: bad.into() })?;
                    NodeKey::Managed { keys: Arc::clone(keys), id }
                }
            };
            let intermediates = pop.intermediates_path.clone();
            Ok(Arc::new(X509popAgent::new(pop.certificate_path.clone(), intermediates, key)))
        }
        NodeAttestorConfig::TpmQuote => super::keys::tpm_quote(config, tpm),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use hardroot_identity::TrustDomain;

    use super::*;

    async fn payload(source: &TokenSource) -> Result<Vec<u8>, AttestError> {
        let subject = AttestationSubject {
            trust_domain: TrustDomain::new("example.org").unwrap(),
            csr_spki_der: vec![],
        };
        source.begin(&subject).await.map(|(payload, _)| payload)
    }

    #[tokio::test]
    async fn a_token_file_is_read_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let source = TokenSource::new(Some(JoinToken::File(path.clone())));
        assert!(
            matches!(payload(&source).await, Err(AttestError::Unavailable { .. })),
            "not there yet: tried again"
        );
        for token in ["first-token", "second-token"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(payload(&source).await.unwrap(), token.as_bytes());
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            matches!(payload(&source).await, Err(AttestError::Unavailable { .. })),
            "others could have read it"
        );
    }

    #[tokio::test]
    async fn no_token_and_no_text_are_told() {
        assert!(matches!(payload(&TokenSource::new(None)).await, Err(AttestError::Rejected { .. })));
        let odd = JoinToken::Value(Zeroizing::new("a b".into()));
        assert!(matches!(payload(&TokenSource::new(Some(odd))).await, Err(AttestError::Rejected { .. })));
    }
}
