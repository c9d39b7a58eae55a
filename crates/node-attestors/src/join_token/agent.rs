//! The agent's half: shows the token.

use std::fmt;

use zeroize::Zeroizing;

use super::{MAX_TOKEN, NAME, is_token};
use crate::{AgentAttestor, AgentSession, AttestError, AttestationSubject};

/// The configured text is no token. The text itself is not repeated: it may be a secret put in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the join token is not 1 to {MAX_TOKEN} characters of A-Z a-z 0-9 . _ -; make one with \"hardroot-server token generate\""
)]
pub struct BadJoinToken;

/// Attests with a join token.
pub struct JoinTokenAgent {
    token: Zeroizing<String>,
}

impl JoinTokenAgent {
    /// Takes the token; white space around it (a file's last newline) is cut.
    ///
    /// # Errors
    /// The text is no token.
    pub fn new(token: Zeroizing<String>) -> Result<Self, BadJoinToken> {
        let token = Zeroizing::new(token.trim().to_owned());
        if is_token(&token) { Ok(Self { token }) } else { Err(BadJoinToken) }
    }
}

impl fmt::Debug for JoinTokenAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinTokenAgent")
    }
}

#[async_trait::async_trait]
impl AgentAttestor for JoinTokenAgent {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(
        &self,
        _subject: &AttestationSubject,
    ) -> Result<(Vec<u8>, Box<dyn AgentSession>), AttestError> {
        Ok((self.token.as_bytes().to_vec(), Box::new(NoChallenge)))
    }
}

struct NoChallenge;

#[async_trait::async_trait]
impl AgentSession for NoChallenge {
    async fn respond(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        Err(AttestError::Malformed {
            what: "join_token challenge",
            reason: "the server sent a challenge, and this attestor has none".to_owned(),
        })
    }
}
