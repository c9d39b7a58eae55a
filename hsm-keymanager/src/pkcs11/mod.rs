//! `pkcs11`: keys in a PKCS#11 token, made there, not exportable, and checked to be so at every start.
//!
//! Signing works through a few threads of its own, each with one session under one shared login; a lost
//! session is opened again, a lost login renewed, and the keys found again, without the caller noticing.

mod attributes;
mod breaker;
mod error;
pub mod inspect;
mod module;
mod names;
mod objects;
mod pin;
mod sessions;
mod token;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::slot::TokenInfo;
use tokio::sync::oneshot;

use crate::KeyManager;
use crate::types::{Custody, Digest, KeyError, KeyId, KeyInfo, KeyType, PublicKey, SignatureScheme};

pub use attributes::Findings;
pub use error::Pkcs11Error;
pub use names::Namespace;

use error::Failure;
use module::Module;
use names::Names;
use objects::Check;
use token::{Token, Wanted};
use worker::{Pool, Shared};

/// Most sessions that `sessions` may ask for: each is a thread.
const MOST_SESSIONS: usize = 64;

/// The settings of the `pkcs11` key manager, named as in the configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The vendor's PKCS#11 module, a shared library.
    pub module_path: PathBuf,
    /// The token's label. This or `token_serial` is needed; with both, both must fit.
    pub token_label: Option<String>,
    /// The token's serial number, for when labels are not unique.
    pub token_serial: Option<String>,
    /// A file of mode 0600 with the user PIN in its only line.
    pub pin_file: PathBuf,
    /// Sessions, and so signatures, at a time: 1 to 64, and no more than the token has. Default 4.
    pub sessions: usize,
    /// Longest wait for an answer of the token. Default 10 s.
    pub timeout: Duration,
    /// Longest wait for a new key; some tokens take a minute for RSA 4096. Default 2 min.
    pub generate_timeout: Duration,
    /// Whether each signature is verified in software before it is used, so that a faulty token harms nobody.
    /// Costs some 50 µs of processor time per EC P-256 signature. Default true.
    pub verify_signatures: bool,
    /// Attributes, such as `CKA_ALWAYS_SENSITIVE`, that this token is known not to report, and whose absence
    /// is accepted. An attribute that is reported with the wrong value is refused all the same. Default none.
    pub tolerate_missing_attributes: Vec<String>,
}

impl Config {
    /// Settings with every default; the token is still to be named.
    #[must_use]
    pub fn new(module_path: impl Into<PathBuf>, pin_file: impl Into<PathBuf>) -> Self {
        Self {
            module_path: module_path.into(),
            token_label: None,
            token_serial: None,
            pin_file: pin_file.into(),
            sessions: 4,
            timeout: Duration::from_secs(10),
            generate_timeout: Duration::from_secs(120),
            verify_signatures: true,
            tolerate_missing_attributes: Vec::new(),
        }
    }

    /// Everything that is wrong with these settings, without touching the token; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.token_label.is_none() && self.token_serial.is_none() {
            faults.push("token_label or token_serial is needed".to_owned());
        }
        if self.sessions == 0 || self.sessions > MOST_SESSIONS {
            faults.push(format!("sessions is {}; 1 to {MOST_SESSIONS} are possible", self.sessions));
        }
        for (name, time) in [("timeout", self.timeout), ("generate_timeout", self.generate_timeout)] {
            if time < Duration::from_millis(100) || time > Duration::from_secs(3600) {
                faults.push(format!("{name} is {time:?}; 100ms to 1h are possible"));
            }
        }
        for name in &self.tolerate_missing_attributes {
            if !attributes::tolerable().any(|known| known == name) {
                let known: Vec<_> = attributes::tolerable().collect();
                faults.push(format!(
                    "tolerate_missing_attributes has \"{}\"; known are {}",
                    name.escape_default(),
                    known.join(", ")
                ));
            }
        }
        faults
    }

    fn wanted(&self) -> Wanted {
        Wanted { label: self.token_label.clone(), serial: self.token_serial.clone() }
    }
}

/// Keys in a PKCS#11 token.
pub struct Pkcs11KeyManager {
    pool: Pool,
    lanes: usize,
    timeout: Duration,
    generate_timeout: Duration,
    detail: String,
}

impl Pkcs11KeyManager {
    /// Loads the module, logs into the token, and finds and checks every key of `namespace`: attributes are
    /// read back, and a test signature proves that private and public object belong together.
    ///
    /// A key that fails the checks does not fail this call: it is logged, and [`KeyManager::find`] and
    /// [`KeyManager::sign`] refuse it with the reason.
    ///
    /// # Errors
    /// The settings are wrong, the module cannot be loaded, the token is not there or refuses the PIN, or it
    /// does not answer in time.
    pub async fn open(config: Config, namespace: Namespace<'_>) -> Result<Self, KeyError> {
        let failed = |failure: Failure| failure.into_key_error("opening the token", "*");
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(failed(Pkcs11Error::Config(faults.join("; ")).into()));
        }
        let names = Names::new(namespace).map_err(|error| failed(error.into()))?;
        let (module, info) = load(&config).await.map_err(failed)?;
        let threads = token::usable_sessions(&info, config.sessions);
        if threads < config.sessions {
            tracing::warn!(sessions = threads, configured = config.sessions, "the token has fewer sessions");
        }
        let token = Token::new(Arc::clone(&module), config.wanted(), config.pin_file.clone());
        let shared =
            Shared::new(module, token, names, config.tolerate_missing_attributes, config.verify_signatures);
        let pool = Pool::start(Arc::new(shared), threads).map_err(|error| failed(error.into()))?;
        let detail = format!(
            "token \"{}\" ({} {}, serial {}): private keys are sensitive, not extractable and never were; read back at start",
            info.label(),
            info.manufacturer_id(),
            info.model(),
            info.serial_number()
        );
        let manager = Self {
            pool,
            lanes: threads,
            timeout: config.timeout,
            generate_timeout: config.generate_timeout,
            detail,
        };
        let keys = manager.pool.call(manager.timeout, objects::ids).await.map_err(failed)?;
        for id in keys {
            match manager.find(&id).await {
                Ok(_) => tracing::info!(key = %id, "found a key on the token and checked it"),
                Err(error @ KeyError::Refused { .. }) => {
                    tracing::error!(key = %id, %error, "a key is refused")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(manager)
    }

    async fn sign_with(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        digest: &Digest,
        check: Check,
    ) -> Result<Vec<u8>, KeyError> {
        let (owned, digest) = (id.clone(), digest.clone());
        self.call("signing", id, self.timeout, move |at| objects::sign(at, &owned, scheme, &digest, check))
            .await
    }

    async fn call<T: Send + 'static>(
        &self,
        op: &'static str,
        id: &KeyId,
        timeout: Duration,
        work: impl Fn(&worker::At<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KeyError> {
        self.pool.call(timeout, work).await.map_err(|failure| failure.into_key_error(op, id.as_str()))
    }
}

/// Loads the module and finds the token on a thread of its own: both may hang.
async fn load(config: &Config) -> Result<(Arc<Module>, TokenInfo), Failure> {
    let (path, wanted) = (config.module_path.clone(), config.wanted());
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name("pkcs11-load".to_owned())
        .spawn(move || {
            let loaded = Module::load(&path).map_err(Failure::from).and_then(|module| {
                let (_, info) = wanted.find(&module.read().context)?;
                Ok((module, info))
            });
            // Whoever waited may be gone; the module stays loaded for the next.
            drop(reply.send(loaded));
        })
        .map_err(|_io| Pkcs11Error::Thread)?;
    match tokio::time::timeout(config.timeout, answer).await {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(_panicked)) => Err(Pkcs11Error::Thread.into()),
        Err(_elapsed) => Err(Pkcs11Error::Timeout { after: config.timeout }.into()),
    }
}

#[async_trait::async_trait]
impl KeyManager for Pkcs11KeyManager {
    fn custody(&self) -> Custody {
        Custody { backend: "pkcs11", hardware: true, detail: self.detail.clone() }
    }

    fn lanes(&self) -> usize {
        self.lanes
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        let owned = id.clone();
        self.call("generation", id, self.generate_timeout, move |at| objects::generate(at, &owned, kind))
            .await
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        let owned = id.clone();
        let found = self.call("search", id, self.timeout, move |at| objects::look_up(at, &owned)).await?;
        Ok(found.map(|key| key.public.clone()))
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let failed = |failure: Failure| failure.into_key_error("search", "*");
        let mut keys = Vec::new();
        for id in self.pool.call(self.timeout, objects::ids).await.map_err(failed)? {
            match self.find(&id).await {
                Ok(Some(public)) => keys.push(KeyInfo { id, public }),
                Ok(None) => {}
                Err(error @ KeyError::Refused { .. }) => tracing::warn!(%error, "a key is left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        self.sign_with(id, scheme, digest, Check::AsConfigured).await
    }

    async fn sign_unverified(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        digest: &Digest,
    ) -> Result<Vec<u8>, KeyError> {
        self.sign_with(id, scheme, digest, Check::ByCaller).await
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        let owned = id.clone();
        self.call("destruction", id, self.timeout, move |at| objects::destroy(at, &owned)).await
    }
}
