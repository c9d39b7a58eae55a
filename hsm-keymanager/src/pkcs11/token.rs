//! One token: which slot it is in, and the one login that all its sessions share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error as CkError, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};
use zeroize::Zeroizing;

use super::error::{Failure, Pkcs11Error};
use super::module::{Module, State};
use super::pin;
use super::sessions::{Access, Lease, Sessions};

/// How to recognise the token; never by slot, for slots move.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) label: Option<String>,
    pub(super) serial: Option<String>,
}

impl Wanted {
    fn fits(&self, info: &TokenInfo) -> bool {
        self.label.as_deref().is_none_or(|label| label == info.label())
            && self.serial.as_deref().is_none_or(|serial| serial == info.serial_number())
    }

    fn text(&self) -> String {
        let label = self.label.as_ref().map(|label| format!("labelled \"{label}\""));
        let serial = self.serial.as_ref().map(|serial| format!("with serial {serial}"));
        label.into_iter().chain(serial).collect::<Vec<_>>().join(" ")
    }

    /// The slot that holds the token now.
    pub(super) fn find(&self, context: &Pkcs11) -> Result<(Slot, TokenInfo), Failure> {
        let mut fitting = Vec::new();
        let mut seen = Vec::new();
        for slot in context.get_slots_with_token()? {
            // One broken reader must not hide the others.
            let Ok(info) = context.get_token_info(slot) else { continue };
            if !info.token_initialized() {
                continue;
            }
            seen.push(format!("\"{}\" (serial {})", info.label(), info.serial_number()));
            if self.fits(&info) {
                fitting.push((slot, info));
            }
        }
        let seen = if seen.is_empty() { "no initialised token".to_owned() } else { seen.join(", ") };
        let count = fitting.len();
        match fitting.pop() {
            Some(found) if count == 1 => Ok(found),
            Some(_) => Err(Pkcs11Error::ManyTokens { count, wanted: self.text(), seen }.into()),
            None => Err(Pkcs11Error::NoToken { wanted: self.text(), seen }.into()),
        }
    }
}

/// Which setup of the module and which login something belongs to: sessions and object handles of another
/// one mean nothing, or something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    epoch: u64,
    login: u64,
}

/// The token and its login.
pub(super) struct Token {
    module: Arc<Module>,
    wanted: Wanted,
    pin_file: PathBuf,
    login: Mutex<Login>,
    pub(super) sessions: Sessions,
}

#[derive(Default)]
struct Login {
    /// Kept open and used for nothing else: the login lives as long as one session does.
    anchor: Option<(Lease, Slot, Life)>,
    count: u64,
    /// Whether this token wants a PIN at all.
    required: bool,
    /// The PIN that the token refused: never tried again.
    refused: Option<Zeroizing<String>>,
}

impl Token {
    pub(super) fn new(module: Arc<Module>, wanted: Wanted, pin_file: PathBuf) -> Self {
        Self { module, wanted, pin_file, login: Mutex::default(), sessions: Sessions::default() }
    }

    /// The slot, after logging in when that is not done yet.
    pub(super) fn log_in(&self, state: &State) -> Result<(Slot, Life), Failure> {
        let mut login = self.lock();
        if let Some((_, slot, life)) = &login.anchor
            && life.epoch == state.epoch
        {
            return Ok((*slot, *life));
        }
        // A session of an earlier setup of the module is gone; its number may be another's by now.
        login.anchor = None;
        let (slot, info) = self.wanted.find(&state.context)?;
        let anchor = self.sessions.open(state, slot, Access::Read)?;
        if let Err(failure) = self.give_pin(&mut login, &anchor.session, &info) {
            self.sessions.close(anchor, state);
            return Err(failure);
        }
        login.count += 1;
        login.required = info.login_required();
        let life = Life { epoch: state.epoch, login: login.count };
        login.anchor = Some((anchor, slot, life));
        Ok((slot, life))
    }

    fn give_pin(&self, login: &mut Login, session: &Session, info: &TokenInfo) -> Result<(), Failure> {
        if !info.login_required() {
            return Ok(());
        }
        if matches!(
            session.get_session_info().map(|info| info.session_state()),
            Ok(SessionState::RoUser | SessionState::RwUser)
        ) {
            // Someone else in this process is logged in, and so are we.
            return Ok(());
        }
        let pin = pin::read(&self.pin_file)?;
        if login.refused.as_ref() == Some(&pin) {
            return Err(Pkcs11Error::PinRefused { path: self.pin_file.clone() }.into());
        }
        pin::may_try(info.into())?;
        match session.login(UserType::User, Some(&pin::auth(&pin))) {
            Ok(()) | Err(CkError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                login.refused = None;
                Ok(())
            }
            Err(error) => {
                if super::error::class(&error) == super::error::Class::Pin {
                    login.refused = Some(pin);
                }
                Err(error.into())
            }
        }
    }

    /// Whether `session` is logged in, by the same login as `life`: only then does finding nothing mean that there
    /// is nothing. A session that was opened while the login was lost sees no private object.
    pub(super) fn is_current(&self, session: &Session, life: Life) -> Result<bool, CkError> {
        let login = self.lock();
        let Some((_, _, current)) = &login.anchor else { return Ok(false) };
        let state = session.get_session_info()?.session_state();
        let user = matches!(state, SessionState::RoUser | SessionState::RwUser);
        Ok(*current == life && (user || !login.required))
    }

    /// After a session failed: finds out whether the login is gone too, and forgets it then.
    pub(super) fn check_login(&self, state: &State) {
        let mut login = self.lock();
        let Some((anchor, ..)) = &login.anchor else { return };
        if !self.sessions.is_held(anchor, state) {
            login.anchor = None;
            return;
        }
        let logged_in = match anchor.session.get_session_info().map(|info| info.session_state()) {
            Ok(SessionState::RoUser | SessionState::RwUser) => true,
            // Without a PIN there is no login to lose.
            Ok(_) => self.wanted.find(&state.context).is_ok_and(|(_, info)| !info.login_required()),
            Err(_) => false,
        };
        if !logged_in && let Some((anchor, ..)) = login.anchor.take() {
            self.sessions.close(anchor, state);
        }
    }

    // Whoever panicked with this lock held left at most an anchor that the next use checks.
    fn lock(&self) -> MutexGuard<'_, Login> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let state = self.module.read();
        let anchor = self.lock().anchor.take();
        if let Some((anchor, ..)) = anchor {
            self.sessions.close(anchor, &state);
        }
    }
}

/// How many sessions may be used for signing: one is the anchor's and one is for changes.
pub(super) fn usable_sessions(info: &TokenInfo, configured: usize) -> usize {
    let most = match info.max_session_count() {
        Limit::Max(most) => usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(2),
        Limit::Infinite | Limit::Unavailable => usize::MAX,
    };
    configured.min(most).max(1)
}
