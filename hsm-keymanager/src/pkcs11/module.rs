//! Modules loaded into this process. `C_Initialize` belongs to the process and not to a caller, so a module
//! is loaded and set up once, whoever asks, and shared from then on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as CkError, RvError};

use super::error::Pkcs11Error;

/// By canonical path: two spellings of one file are one module.
static MODULES: LazyLock<Mutex<BTreeMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

/// A loaded module. It stays until the process ends: many modules crash when they are unloaded.
pub(super) struct Module {
    path: PathBuf,
    state: RwLock<State>,
}

/// The module and how often it was set up: sessions and handles live no longer than one setup.
pub(super) struct State {
    pub(super) context: Pkcs11,
    pub(super) epoch: u64,
}

impl Module {
    /// The module at `path`, loaded and set up when it is not yet.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, Pkcs11Error> {
        let failed = |reason: String| Pkcs11Error::Load { path: path.to_owned(), reason };
        let canonical = path.canonicalize().map_err(|cause| failed(cause.to_string()))?;
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&canonical) {
            return Ok(Arc::clone(module));
        }
        let context = Pkcs11::new(&canonical).map_err(|cause| match cause {
            CkError::LibraryLoading(cause) => failed(cause.to_string()),
            other => failed(format!("it is no PKCS#11 module ({other})")),
        })?;
        initialize(&context)?;
        let state = RwLock::new(State { context, epoch: 1 });
        let module = Arc::new(Self { path: canonical.clone(), state });
        modules.insert(canonical, Arc::clone(&module));
        Ok(module)
    }

    /// The module for one operation: as long as the guard lives, nobody sets it up anew.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shuts the module down and sets it up again: some cache slots, or keep a dead connection until then.
    /// Does nothing while another thread is inside the module, be it a hanging one, and nothing when it has
    /// been set up since `epoch`.
    pub(super) fn set_up_anew(&self, epoch: u64) {
        let mut state = match self.state.try_write() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                tracing::info!(module = %self.path.display(), "the PKCS#11 module is in use and is not set up anew");
                return;
            }
        };
        if state.epoch != epoch {
            return;
        }
        state.epoch += 1;
        if let Err(error) = state.context.clone().finalize() {
            tracing::warn!(module = %self.path.display(), error = %Pkcs11Error::from(error), "C_Finalize failed");
        }
        match initialize(&state.context) {
            Ok(()) => tracing::info!(module = %self.path.display(), "set the PKCS#11 module up anew"),
            Err(error) => tracing::warn!(module = %self.path.display(), %error, "C_Initialize failed"),
        }
    }
}

fn initialize(context: &Pkcs11) -> Result<(), Pkcs11Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Another library in this process uses the same module; PKCS#11 lets us share it.
        Err(CkError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
