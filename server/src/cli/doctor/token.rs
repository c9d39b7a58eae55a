//! The token, chip or file with the keys.

use std::time::Duration;

use hardroot_hsm_keymanager::disk::DiskKeyManager;
use hardroot_hsm_keymanager::pkcs11::{Namespace, Pkcs11KeyManager, inspect};
use hardroot_hsm_keymanager::{Digest, HashAlgorithm, KeyId, KeyManager, KeyType, SignatureScheme};
use hardroot_runtime::doctor::{Finding, fault, fine};

use crate::attest::chain;
use crate::config::{KeyManagerConfig, ServerConfig};

const CHECK: &str = "token";

/// A key of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyFacts {
    /// `x509-CA-A` and the like.
    pub(super) id: String,
    /// What is wrong with its attributes.
    pub(super) faults: Vec<String>,
    /// SHA-256 of its public half.
    pub(super) spki_sha256: Option<[u8; 32]>,
}

/// The token, chip or file with the keys.
#[derive(Debug, Clone)]
pub(super) struct TokenFacts {
    pub(super) backend: &'static str,
    pub(super) hardware: bool,
    /// What it is, or why it cannot be used.
    pub(super) opened: Result<String, String>,
    /// One wrong PIN more would lock it.
    pub(super) pin_last_try: bool,
    pub(super) pin_locked: bool,
    /// Keys of this server; `None` where they cannot be listed without opening them for use.
    pub(super) keys: Option<Vec<KeyFacts>>,
    /// Result of `-sign`.
    pub(super) signed: Option<Result<Duration, String>>,
}

pub(super) async fn gather(config: &ServerConfig, sign: bool) -> TokenFacts {
    let backend = config.key_manager.name();
    let hardware =
        matches!(config.key_manager, KeyManagerConfig::Pkcs11 { .. } | KeyManagerConfig::Tpm { .. });
    let mut facts = TokenFacts {
        backend,
        hardware,
        opened: Ok(backend.to_owned()),
        pin_last_try: false,
        pin_locked: false,
        keys: None,
        signed: None,
    };
    match &config.key_manager {
        KeyManagerConfig::Pkcs11 { token, instance } => {
            let settings = token.clone();
            let seen = tokio::task::spawn_blocking(move || inspect::inspect(&settings)).await;
            match seen {
                Ok(Ok(report)) => pkcs11(&mut facts, &report, config.trust_domain.as_str(), instance),
                Ok(Err(error)) => facts.opened = Err(chain(&error)),
                Err(error) => facts.opened = Err(error.to_string()),
            }
            if sign && facts.opened.is_ok() {
                let namespace = Namespace { trust_domain: config.trust_domain.as_str(), instance: "doctor" };
                facts.signed = Some(match Pkcs11KeyManager::open(token.clone(), namespace).await {
                    Ok(keys) => try_signing(&keys).await,
                    Err(error) => Err(chain(&error)),
                });
            }
        }
        KeyManagerConfig::Tpm { device, .. } => {
            facts.opened = match hardroot_tpm_attestor::device::Tpm::open(device.as_ref().clone()).await {
                Ok(_) => Ok("a TPM 2.0".to_owned()),
                Err(error) => Err(chain(&error)),
            };
        }
        KeyManagerConfig::Disk { keys_path } => match DiskKeyManager::open(keys_path) {
            Ok(keys) => {
                facts.opened = Ok(keys_path.display().to_string());
                facts.keys = keys.list().await.ok().map(|keys| {
                    keys.into_iter()
                        .map(|key| KeyFacts {
                            id: key.id.to_string(),
                            faults: Vec::new(),
                            spki_sha256: Some(sha256(&key.public.spki_der)),
                        })
                        .collect()
                });
            }
            Err(error) => facts.opened = Err(chain(&error)),
        },
        KeyManagerConfig::Memory => {}
    }
    facts
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = Digest::of(HashAlgorithm::Sha256, bytes);
    digest.as_bytes().try_into().unwrap_or_default()
}

fn pkcs11(facts: &mut TokenFacts, report: &inspect::TokenReport, trust_domain: &str, instance: &str) {
    let token = &report.token;
    facts.opened = Ok(format!(
        "token \"{}\" ({} {}, serial {})",
        token.label, token.manufacturer, token.model, token.serial
    ));
    (facts.pin_last_try, facts.pin_locked) = (token.user_pin_last_try, token.user_pin_locked);
    let ours = report.objects.iter().filter_map(|object| {
        let owner = object.owner.as_ref()?;
        (owner.trust_domain == trust_domain && owner.instance == instance).then(|| KeyFacts {
            id: owner.key.clone(),
            faults: object.findings.faults.clone(),
            spki_sha256: object.spki_sha256,
        })
    });
    facts.keys = Some(ours.collect());
}

async fn try_signing(keys: &dyn KeyManager) -> Result<Duration, String> {
    let id = KeyId::new("doctor").map_err(|error| error.to_string())?;
    let public = keys.generate(&id, KeyType::EcP256).await.map_err(|error| chain(&error))?;
    let digest = Digest::of(HashAlgorithm::Sha256, b"hardroot-server doctor");
    let begun = std::time::Instant::now();
    let signed = keys.sign(&id, SignatureScheme::Ecdsa, &digest).await;
    let took = begun.elapsed();
    let gone = keys.destroy(&id).await;
    let signature = signed.map_err(|error| chain(&error))?;
    gone.map_err(|error| chain(&error))?;
    if hardroot_hsm_keymanager::verify(&public, SignatureScheme::Ecdsa, &digest, &signature) {
        Ok(took)
    } else {
        Err("the signature does not verify".to_owned())
    }
}

pub(super) fn judge(facts: &TokenFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    match &facts.opened {
        Ok(what) if facts.hardware => found.push(fine(CHECK, format!("{what} can be used"))),
        Ok(what) => found.push(fine(CHECK, format!("{}: {what}", facts.backend))),
        Err(why) => found.push(fault(
            CHECK,
            why.clone(),
            "the server cannot start, or cannot sign, without its keys; docs/guide/hsm.md tells what to look at",
        )),
    }
    if facts.pin_locked {
        found.push(fault(CHECK, "the user PIN is locked", "unlock it with the security officer's PIN"));
    } else if facts.pin_last_try {
        found.push(fault(
            CHECK,
            "one wrong PIN more locks the token",
            "log in once with the right PIN by the vendor's tool, and correct the PIN file",
        ));
    }
    for key in facts.keys.iter().flatten() {
        if facts.hardware && key.faults.is_empty() {
            found.push(fine(CHECK, format!("key {} cannot leave the token", key.id)));
        }
        found.extend(key.faults.iter().map(|why| {
            let text = format!("key {}: {why}", key.id);
            fault(CHECK, text, "the server refuses this key; see `hardroot-server hsm check`")
        }));
    }
    match &facts.signed {
        None => {}
        Some(Ok(took)) => {
            found.push(fine(
                CHECK,
                format!("a throw-away key was made, signed in {} ms, and destroyed", took.as_millis()),
            ));
        }
        Some(Err(why)) => found.push(fault(
            CHECK,
            format!("no test signature: {why}"),
            "look at the token with its vendor's tools; free space on it is needed for new keys",
        )),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judged, says};
    use super::*;
    use hardroot_runtime::doctor::Level;

    fn good() -> TokenFacts {
        let key = KeyFacts { id: "x509-CA-A".to_owned(), faults: Vec::new(), spki_sha256: None };
        TokenFacts {
            backend: "pkcs11",
            hardware: true,
            opened: Ok("token \"hardroot\"".to_owned()),
            pin_last_try: false,
            pin_locked: false,
            keys: Some(vec![key]),
            signed: None,
        }
    }

    #[test]
    fn each_thing_can_be_wrong() {
        judged(&judge(&good()), Level::Fine);
        let signed = judge(&TokenFacts { signed: Some(Ok(Duration::from_millis(7))), ..good() });
        judged(&signed, Level::Fine);
        says(&signed, "7 ms");
        let extractable = KeyFacts {
            id: "x509-CA-A".to_owned(),
            faults: vec!["CKA_EXTRACTABLE is true".to_owned()],
            spki_sha256: None,
        };
        for bad in [
            TokenFacts { opened: Err("no token".to_owned()), ..good() },
            TokenFacts { pin_last_try: true, ..good() },
            TokenFacts { pin_locked: true, ..good() },
            TokenFacts { keys: Some(vec![extractable]), ..good() },
            TokenFacts { signed: Some(Err("CKR_DEVICE_ERROR".to_owned())), ..good() },
        ] {
            judged(&judge(&bad), Level::Fault);
        }
    }
}
