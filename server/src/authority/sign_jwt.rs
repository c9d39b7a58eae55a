//! Issuing JWT-SVIDs with the active JWT key (JWT-SVID 2 and 3).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hardroot_hsm_keymanager::{KeyId, PublicKey};
use hardroot_identity::{CannotSignJwt, JwtAlgorithm, JwtClaims, SpiffeId, jwt_assemble, jwt_signing_input};

use super::AuthorityError;
use super::queue::Class;
use super::sign::SignError;
use super::signer::Signer;
use super::slots::JwtSlot;
use hardroot_telemetry::count;

/// Why no JWT-SVID was issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtIssueError {
    /// No key is active: nothing was published yet, or JWT-SVIDs are disabled.
    #[error("JWT key is not available for signing")]
    NoKey,
    /// The active key ended.
    #[error("the active JWT key {key_id} has expired; its successor could not be activated")]
    Expired {
        /// Which one.
        key_id: String,
    },
    /// Another process is this server instance.
    #[error("another process runs as this server instance, so this one signs nothing; see the log")]
    Suspended,
    /// The claims cannot be made.
    #[error("the token cannot be built")]
    Build(#[source] CannotSignJwt),
    /// The signature failed, or did not verify.
    #[error("the token could not be signed")]
    Sign(#[from] SignError),
}

/// An issued JWT-SVID. The token is a bearer secret: `Debug` does not show it.
pub struct IssuedJwt {
    /// The token, compact serialisation.
    pub token: String,
    /// When it was made, in whole seconds.
    pub issued_at: SystemTime,
    /// When it ends.
    pub expires_at: SystemTime,
    /// The key that signed.
    pub key_id: String,
}

impl std::fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedJwt")
            .field("expires_at", &self.expires_at)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// What a token shall say.
#[derive(Debug, Clone, Copy)]
pub struct JwtRequest<'a> {
    /// Whom it names.
    pub id: &'a SpiffeId,
    /// For whom it is; empty values are dropped.
    pub audience: &'a [String],
    /// How long it lives; it never outlives the key.
    pub ttl: Duration,
    /// Whether it has a `jti`, 128 random bits.
    pub with_token_id: bool,
}

/// The key that signs tokens now.
#[derive(Debug)]
pub(super) struct ActiveJwt {
    key: KeyId,
    public: PublicKey,
    algorithm: JwtAlgorithm,
    key_id: String,
    not_after: SystemTime,
}

impl ActiveJwt {
    pub(super) fn new(key: KeyId, slot: &JwtSlot) -> Result<Self, AuthorityError> {
        let algorithm = JwtAlgorithm::for_key(&slot.public.spki_der)
            .map_err(|cause| AuthorityError::JwtKey { key: key.to_string(), cause })?;
        Ok(Self {
            key,
            public: slot.public.clone(),
            algorithm,
            key_id: slot.authority_id.clone(),
            not_after: slot.not_after,
        })
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }
}

impl Signer {
    /// Issues a JWT-SVID: `sub`, `aud`, `iat`, `exp`, and `iss` and `jti` when wanted. `patience` is how long the caller
    /// waits at most.
    ///
    /// # Errors
    /// [`JwtIssueError`]; nothing was issued then.
    pub async fn sign_jwt(
        &self,
        request: JwtRequest<'_>,
        patience: Option<Duration>,
    ) -> Result<IssuedJwt, JwtIssueError> {
        if self.is_suspended() {
            return Err(JwtIssueError::Suspended);
        }
        let active: Arc<ActiveJwt> = self.jwt.load_full().ok_or(JwtIssueError::NoKey)?;
        let now = self.clock.now();
        if active.not_after <= now {
            return Err(JwtIssueError::Expired { key_id: active.key_id.clone() });
        }
        let cap = Some(active.not_after);
        let mut claims = JwtClaims::new(request.id, request.audience, now, request.ttl, cap)
            .map_err(JwtIssueError::Build)?;
        if let Some(issuer) = &self.jwt_issuer {
            claims = claims.with_issuer(issuer);
        }
        if request.with_token_id {
            claims = claims.with_token_id(&URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes()));
        }
        let places = self.queue().admit(Class::Token, 1, patience).map_err(SignError::from)?;
        let input = jwt_signing_input(&claims, &active.key_id, active.algorithm);
        let signature = self.in_turn(&places, &active.key, &active.public, input.as_bytes()).await;
        // Verified with the key that the bundle publishes before anybody gets it.
        let token = signature.and_then(|signature| {
            jwt_assemble(&input, active.algorithm, &signature, &active.public.spki_der)
                .map_err(|cause| SignError::wrong(&active.key, cause))
        });
        self.note(&token);
        let token = token?;
        count("server_ca.sign.jwt_svid", &[]);
        Ok(IssuedJwt {
            token,
            issued_at: now,
            expires_at: claims.expires_at(),
            key_id: active.key_id.clone(),
        })
    }
}
