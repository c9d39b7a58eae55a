//! What every backend must do: one suite, run against each of them with the real thing behind it.
//!
//! A backend gives its [`Backend`]; [`run`] fails with the first sentence that does not hold.

use std::sync::Arc;

use crate::{
    Digest, HashAlgorithm, KeyError, KeyId, KeyInfo, KeyManager, KeyType, PublicKey, SignatureScheme, verify,
};

/// A sentence that did not hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unmet(pub String);

impl From<KeyError> for Unmet {
    fn from(error: KeyError) -> Self {
        let mut text = format!("unexpected error: {error}");
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        Self(text)
    }
}

fn require(holds: bool, sentence: impl Into<String>) -> Result<(), Unmet> {
    if holds { Ok(()) } else { Err(Unmet(sentence.into())) }
}

/// A backend under test, with a place of its own where its keys are.
#[async_trait::async_trait]
pub trait Backend: Send + Sync {
    /// Opens a key manager over the same keys, as a restarted process would.
    async fn open(&self) -> Arc<dyn KeyManager>;

    /// The types it must be able to make.
    fn types(&self) -> Vec<KeyType>;

    /// Whether keys outlive the key manager.
    fn survives_restart(&self) -> bool {
        true
    }

    /// Leaves behind what a process leaves that dies halfway through `generate(id, EcP256)`. `false` when
    /// there is nothing that such a process could leave.
    async fn die_halfway(&self, id: &KeyId) -> bool;
}

fn key_id(name: &str) -> Result<KeyId, Unmet> {
    Ok(KeyId::new(name)?)
}

/// Runs the whole suite.
///
/// # Errors
/// The first sentence that does not hold.
pub async fn run(backend: &dyn Backend) -> Result<(), Unmet> {
    unknown_keys(backend).await?;
    every_type_signs_with_every_hash(backend).await?;
    keys_are_found_again(backend).await?;
    many_sign_at_once(backend).await?;
    a_key_is_replaced(backend).await?;
    a_key_is_destroyed(backend).await?;
    a_half_made_key_is_never_found(backend).await
}

fn schemes(kind: KeyType) -> &'static [SignatureScheme] {
    if kind.is_ec() {
        &[SignatureScheme::Ecdsa]
    } else {
        &[SignatureScheme::RsaPkcs1, SignatureScheme::RsaPss]
    }
}

async fn signs(keys: &dyn KeyManager, id: &KeyId, public: &PublicKey) -> Result<(), Unmet> {
    for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512] {
        for scheme in schemes(public.kind) {
            let digest = Digest::of(hash, b"what is signed");
            let signature = keys.sign(id, *scheme, &digest).await?;
            require(
                verify(public, *scheme, &digest, &signature),
                format!("{id} ({}): {scheme:?} with {hash:?} verifies", public.kind),
            )?;
            let other = Digest::of(hash, b"something else");
            require(!verify(public, *scheme, &other, &signature), "a signature is over its digest alone")?;
            let modulus = match public.kind {
                KeyType::Rsa2048 => Some(256),
                KeyType::Rsa4096 => Some(512),
                KeyType::EcP256 | KeyType::EcP384 => None,
            };
            require(
                modulus.is_none_or(|length| signature.len() == length),
                "an RSA signature is as long as the modulus",
            )?;
        }
    }
    Ok(())
}

async fn unknown_keys(backend: &dyn Backend) -> Result<(), Unmet> {
    let keys = backend.open().await;
    let id = key_id("never-made")?;
    require(keys.find(&id).await?.is_none(), "find gives nothing for an unknown id")?;
    let digest = Digest::of(HashAlgorithm::Sha256, b"x");
    let signed = keys.sign(&id, SignatureScheme::Ecdsa, &digest).await;
    require(
        matches!(&signed, Err(KeyError::NotFound { id: named }) if *named == id),
        format!("signing with an unknown id says NotFound and not {signed:?}"),
    )?;
    keys.destroy(&id).await?;
    require(keys.list().await?.is_empty(), "a fresh backend has no keys")
}

async fn every_type_signs_with_every_hash(backend: &dyn Backend) -> Result<(), Unmet> {
    let keys = backend.open().await;
    for kind in backend.types() {
        let id = key_id(&format!("type-{kind}"))?;
        let public = keys.generate(&id, kind).await?;
        require(public.kind == kind, "generate makes the type asked for")?;
        require(keys.find(&id).await? == Some(public.clone()), "find gives what generate gave")?;
        signs(&*keys, &id, &public).await?;
        let wrong = if kind.is_ec() { SignatureScheme::RsaPss } else { SignatureScheme::Ecdsa };
        let refused = keys.sign(&id, wrong, &Digest::of(HashAlgorithm::Sha256, b"x")).await;
        require(
            matches!(&refused, Err(KeyError::Mismatch { kind: named, .. }) if *named == kind),
            format!("{kind} with {wrong:?} says Mismatch and not {refused:?}"),
        )?;
    }
    let listed = keys.list().await?;
    require(
        listed.len() == backend.types().len() && listed.is_sorted_by_key(|key| key.id.clone()),
        "list gives every key, sorted by id",
    )
}

async fn keys_are_found_again(backend: &dyn Backend) -> Result<(), Unmet> {
    if !backend.survives_restart() {
        return Ok(());
    }
    let before: Vec<KeyInfo> = backend.open().await.list().await?;
    let keys = backend.open().await;
    require(keys.list().await? == before, "a restart finds the same keys")?;
    for key in &before {
        require(
            keys.find(&key.id).await?.as_ref() == Some(&key.public),
            "a restart finds the same public key",
        )?;
        signs(&*keys, &key.id, &key.public).await?;
    }
    Ok(())
}

async fn many_sign_at_once(backend: &dyn Backend) -> Result<(), Unmet> {
    let keys = backend.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    let mut publics = Vec::new();
    for name in ["many-a", "many-b"] {
        let id = key_id(name)?;
        publics.push((id.clone(), keys.generate(&id, KeyType::EcP256).await?));
    }
    for number in 0..64_u32 {
        for (id, public) in publics.clone() {
            let keys = Arc::clone(&keys);
            tasks.spawn(async move {
                let digest = Digest::of(HashAlgorithm::Sha256, &number.to_be_bytes());
                let signature = keys.sign(&id, SignatureScheme::Ecdsa, &digest).await?;
                Ok::<bool, KeyError>(verify(&public, SignatureScheme::Ecdsa, &digest, &signature))
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        let verified = done.map_err(|error| Unmet(format!("a signing task failed: {error}")))??;
        require(verified, "signatures made at once belong to their own key and digest")?;
    }
    Ok(())
}

async fn a_key_is_replaced(backend: &dyn Backend) -> Result<(), Unmet> {
    let keys = backend.open().await;
    let id = key_id("replaced")?;
    let mut last = keys.generate(&id, KeyType::EcP256).await?;
    for _ in 0..3 {
        let next = keys.generate(&id, KeyType::EcP256).await?;
        require(next != last, "generate over a key makes another one")?;
        require(keys.find(&id).await?.as_ref() == Some(&next), "the new key is the key")?;
        signs(&*keys, &id, &next).await?;
        last = next;
    }
    let count = keys.list().await?.iter().filter(|key| key.id == id).count();
    require(count == 1, "a replaced key is listed once")?;
    if backend.survives_restart() {
        let found = backend.open().await.find(&id).await?;
        require(found == Some(last), "a restart finds the new key")?;
    }
    Ok(())
}

async fn a_key_is_destroyed(backend: &dyn Backend) -> Result<(), Unmet> {
    let keys = backend.open().await;
    let (id, other) = (key_id("destroyed")?, key_id("destroyed-not")?);
    keys.generate(&id, KeyType::EcP256).await?;
    let kept = keys.generate(&other, KeyType::EcP256).await?;
    keys.destroy(&id).await?;
    require(keys.find(&id).await?.is_none(), "a destroyed key is not found")?;
    let signed = keys.sign(&id, SignatureScheme::Ecdsa, &Digest::of(HashAlgorithm::Sha256, b"x")).await;
    require(matches!(signed, Err(KeyError::NotFound { .. })), "a destroyed key does not sign")?;
    keys.destroy(&id).await?;
    require(keys.find(&other).await?.as_ref() == Some(&kept), "another key is untouched")?;
    signs(&*keys, &other, &kept).await?;
    if backend.survives_restart() {
        require(backend.open().await.find(&id).await?.is_none(), "a restart does not bring it back")?;
    }
    Ok(())
}

async fn a_half_made_key_is_never_found(backend: &dyn Backend) -> Result<(), Unmet> {
    let id = key_id("half-made")?;
    if backend.die_halfway(&id).await {
        let keys = backend.open().await;
        require(keys.find(&id).await?.is_none(), "a half-made key is not found")?;
        require(keys.list().await?.iter().all(|key| key.id != id), "a half-made key is not listed")?;
    }
    let keys = backend.open().await;
    let whole = keys.generate(&id, KeyType::EcP256).await?;
    signs(&*keys, &id, &whole).await?;
    if backend.die_halfway(&id).await {
        let keys = backend.open().await;
        require(keys.find(&id).await? == Some(whole.clone()), "a half-made replacement leaves the old key")?;
        signs(&*keys, &id, &whole).await?;
        let next = keys.generate(&id, KeyType::EcP256).await?;
        require(keys.find(&id).await?.as_ref() == Some(&next), "the next generate cleans up and replaces")?;
        signs(&*keys, &id, &next).await?;
        if backend.survives_restart() {
            let found = backend.open().await.find(&id).await?;
            require(found == Some(next), "a restart finds the replacement")?;
        }
    }
    Ok(())
}
