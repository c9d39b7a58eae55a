//! The server's half: redeems the token.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use hardroot_identity::SpiffeId;

use super::{NAME, is_token};
use crate::{AttestError, AttestedNode, ServerAttestor, ServerContext, Step};

/// How a join token was redeemed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    /// For the first time: it is now bound to the key that was shown.
    First,
    /// Again by the same key: an answer was lost, and the node may have it again.
    Again,
    /// By another key before.
    ByAnother,
    /// Its time is over.
    Expired,
    /// No such token.
    Unknown,
}

/// Where tokens are kept.
#[async_trait::async_trait]
pub trait RedeemTokens: Send + Sync {
    /// Binds `token` to `key`, the SHA-256 of the CSR's public key in lower-case hex, if nobody was faster.
    /// One transaction: of two calls at the same time with different keys exactly one succeeds.
    ///
    /// # Errors
    /// The store failed; the caller does not know whether the token is bound, and the same key may try again.
    async fn redeem(&self, token: &str, key: &str, now: SystemTime) -> Result<Redeemed, AttestError>;
}

/// Judges join tokens.
pub struct JoinTokenServer {
    tokens: Arc<dyn RedeemTokens>,
}

impl JoinTokenServer {
    /// Over this store.
    #[must_use]
    pub fn new(tokens: Arc<dyn RedeemTokens>) -> Self {
        Self { tokens }
    }
}

fn malformed(reason: &str) -> AttestError {
    AttestError::Malformed { what: "join token", reason: reason.to_owned() }
}

#[async_trait::async_trait]
impl ServerAttestor for JoinTokenServer {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(&self, context: &ServerContext, payload: &[u8]) -> Result<Step, AttestError> {
        // A text that could not be in an agent ID was never a token; the store need not be asked.
        let unusable = |reason| AttestError::Unusable { reason };
        let unknown = || unusable("join token does not exist or has already been used");
        let token = std::str::from_utf8(payload).ok().filter(|token| is_token(token)).ok_or_else(unknown)?;
        let agent_id = SpiffeId::new(&context.trust_domain, &format!("/spire/agent/{NAME}/{token}"))
            .map_err(|error| malformed(&error.to_string()))?;
        let key = hex::encode(digest(&SHA256, &context.csr_spki_der));
        let how = match self.tokens.redeem(token, &key, context.now).await? {
            Redeemed::First => "first",
            Redeemed::Again => "again",
            Redeemed::ByAnother => {
                return Err(AttestError::Rejected {
                    reason: "join_token_used_by_another_key",
                    detail:
                        "the join token was used by a node with another key before; make a new token, and \
                             find out who used this one if no node of yours did"
                            .to_owned(),
                });
            }
            Redeemed::Expired => return Err(unusable("join token expired; make a new one")),
            Redeemed::Unknown => return Err(unknown()),
        };
        Ok(Step::Attested(AttestedNode {
            agent_id,
            selectors: Vec::new(),
            can_reattest: false,
            evidence_digest: hex::encode(digest(&SHA256, payload)),
            record: None,
            audit: vec![("csr_key_sha256", key), ("redeemed", how.to_owned())],
        }))
    }
}
