//! What a PKCS#11 module says, in words that help, and whose fault it is.

use std::path::PathBuf;
use std::time::Duration;

use cryptoki::error::{Error as CkError, RvError};

use crate::public::BadPublicKey;
use crate::types::{KeyError, KeyType};

/// What can be wrong with a PKCS#11 module, its token or a key on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Pkcs11Error {
    /// A setting that cannot be.
    #[error("{0}")]
    Config(String),
    /// The module cannot be loaded.
    #[error(
        "cannot load the PKCS#11 module {path}: {reason}. Is `module_path` right, and the token's driver installed?"
    )]
    Load {
        /// The module.
        path: PathBuf,
        /// The loader's reason.
        reason: String,
    },
    /// The module answered with an error code.
    #[error("{function}: {code}: {meaning}")]
    Call {
        /// The function, such as `C_Sign`.
        function: String,
        /// The code, such as `CKR_PIN_LOCKED`.
        code: String,
        /// What it means here and what to do.
        meaning: &'static str,
    },
    /// The wrapper around the module could not make sense of an answer.
    #[error("the PKCS#11 module gave an answer that cannot be read: {0}")]
    Answer(String),
    /// No such token.
    #[error("no token {wanted} in this module; it has: {seen}")]
    NoToken {
        /// What was asked for.
        wanted: String,
        /// The tokens there are.
        seen: String,
    },
    /// Several such tokens.
    #[error("{count} tokens are {wanted}; name one by `token_serial`: {seen}")]
    ManyTokens {
        /// How many.
        count: usize,
        /// What was asked for.
        wanted: String,
        /// The tokens there are.
        seen: String,
    },
    /// The PIN file cannot be used.
    #[error("the PIN file {path} cannot be used: {reason}")]
    PinFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The PIN file cannot be read.
    #[error("cannot read the PIN file {path}")]
    PinRead {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Box<hardroot_runtime::secret::SecretError>,
    },
    /// The token refused this PIN before, and is not asked again.
    #[error(
        "the token refused the PIN in {path} and is not asked again with it, so that it does not lock. Put the right PIN into the file"
    )]
    PinRefused {
        /// The PIN file.
        path: PathBuf,
    },
    /// The token is about to lock, or has.
    #[error("{0}")]
    PinTries(&'static str),
    /// No answer in time.
    #[error("the token did not answer within {}", human(*.after))]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// The token failed several times and is left alone for a moment.
    #[error("the token failed several times in a row and is left alone; the next try is in {}", human(*.next_try))]
    Resting {
        /// Until the next try.
        next_try: Duration,
    },
    /// The signature does not verify with the public key.
    #[error(
        "the token made a signature that does not verify with its public key ({kind}); it was not used. The token or its module is faulty, or the private and public objects do not belong together"
    )]
    BadSignature {
        /// The key's type.
        kind: KeyType,
    },
    /// The public object cannot be read as a key.
    #[error("the token's public key object cannot be used")]
    PublicKey(#[source] BadPublicKey),
    /// The key was replaced while it was in use.
    #[error("the key was replaced on the token while it was in use")]
    Replaced,
    /// A thread that spoke to the token ended.
    #[error("the thread that spoke to the token ended unexpectedly")]
    Thread,
}

fn human(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Whose fault an error is, and so what helps (the classes of PKCS#11 2.40 section 5.1, by experience).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Sessions or handles are gone: open, log in, find again, retry once.
    Session,
    /// The device is in trouble: set it up anew, and leave it alone when that does not help.
    Device,
    /// The PIN: never tried again.
    Pin,
    /// Trying again changes nothing.
    Permanent,
}

pub(super) fn class(error: &CkError) -> Class {
    use RvError as R;
    let CkError::Pkcs11(code, _) = error else { return Class::Permanent };
    match code {
        R::SessionHandleInvalid
        | R::SessionClosed
        | R::UserNotLoggedIn
        | R::ObjectHandleInvalid
        | R::KeyHandleInvalid
        | R::OperationActive
        | R::OperationNotInitialized => Class::Session,
        R::DeviceError
        | R::DeviceRemoved
        | R::DeviceMemory
        | R::HostMemory
        | R::TokenNotPresent
        | R::TokenNotRecognized
        | R::SlotIdInvalid
        | R::GeneralError
        | R::FunctionFailed
        | R::FunctionCanceled
        | R::CryptokiNotInitialized
        | R::SessionCount
        | R::VendorDefined(_)
        | R::UnknownErrorCode(_) => Class::Device,
        R::PinIncorrect
        | R::PinInvalid
        | R::PinLenRange
        | R::PinExpired
        | R::PinLocked
        | R::UserPinNotInitialized => Class::Pin,
        _ => Class::Permanent,
    }
}

/// What a failed step inside the token's threads is.
#[derive(Debug)]
pub(super) enum Failure {
    /// The module's error.
    Module(CkError),
    /// Ours about the token.
    Token(Pkcs11Error),
    /// Ours about the key: final.
    Key(KeyError),
}

impl From<CkError> for Failure {
    fn from(error: CkError) -> Self {
        Self::Module(error)
    }
}

impl From<Pkcs11Error> for Failure {
    fn from(error: Pkcs11Error) -> Self {
        Self::Token(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl Failure {
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Module(error) => class(error),
            Self::Token(Pkcs11Error::Timeout { .. } | Pkcs11Error::Thread | Pkcs11Error::NoToken { .. }) => {
                Class::Device
            }
            Self::Token(Pkcs11Error::PinRefused { .. } | Pkcs11Error::PinTries(_)) => Class::Pin,
            Self::Token(_) | Self::Key(_) => Class::Permanent,
        }
    }

    /// As the key manager's callers see it.
    pub(super) fn into_key_error(self, op: &'static str, id: &str) -> KeyError {
        let retryable = matches!(self.class(), Class::Session | Class::Device)
            || matches!(self, Self::Token(Pkcs11Error::Resting { .. } | Pkcs11Error::Replaced));
        let cause = match self {
            Self::Key(error) => return error,
            Self::Token(cause) => cause,
            Self::Module(cause) => cause.into(),
        };
        KeyError::Device { op, id: id.to_owned(), retryable, cause: Box::new(cause) }
    }
}

impl From<CkError> for Pkcs11Error {
    fn from(error: CkError) -> Self {
        match error {
            CkError::Pkcs11(code, function) => Self::Call {
                function: format!("C_{function:?}"),
                code: code_name(&code),
                meaning: meaning(&code),
            },
            other => Self::Answer(other.to_string()),
        }
    }
}

/// `CKR_PIN_INCORRECT` for `RvError::PinIncorrect`; numbers for what only the vendor knows.
fn code_name(code: &RvError) -> String {
    match code {
        RvError::VendorDefined(number) => format!("CKR_VENDOR_DEFINED + {:#x}", number & 0x7fff_ffff),
        RvError::UnknownErrorCode(number) => format!("the unknown code {number:#x}"),
        known => {
            let mut name = "CKR".to_owned();
            for letter in format!("{known:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    }
}

/// One sentence for people per code: what it means here, and what to do.
fn meaning(code: &RvError) -> &'static str {
    use RvError as R;
    match code {
        R::PinIncorrect => "the PIN is wrong. Put the right one into the PIN file; it is not tried again",
        R::PinLocked => {
            "the token locked the PIN after too many wrong tries. Unlock it with the security officer's PIN (softhsm2-util, pkcs11-tool --init-pin or the vendor's tool)"
        }
        R::PinInvalid => "the PIN has characters that this token does not take",
        R::PinLenRange => "the PIN is too short or too long for this token",
        R::PinExpired => "the PIN has expired. Set a new one with the vendor's tool",
        R::UserPinNotInitialized => {
            "the token has no user PIN yet. Run: hardroot-server hsm init-token, or the vendor's tool"
        }
        R::DeviceError | R::DeviceRemoved => {
            "the device failed or was removed. Check its cable, network and power; it is tried again by itself"
        }
        R::TokenNotPresent | R::TokenNotRecognized | R::SlotIdInvalid => {
            "the token is not there. Plug it in or reconnect it; it is looked for again by itself"
        }
        R::GeneralError => {
            "the module failed without saying why. Look into its own log and the system's journal; it is tried again by itself"
        }
        R::FunctionFailed => {
            "the token could not do it this time. Look into the module's own log; it is tried again by itself"
        }
        R::FunctionCanceled => "the token broke the call off; it is tried again by itself",
        R::DeviceMemory => {
            "the token is full. Delete keys that are no longer needed (hardroot-server hsm list shows them)"
        }
        R::HostMemory => "the module got no memory from this machine",
        R::SessionCount => {
            "the token has no session left. Lower `sessions`, or end other programs that use this token"
        }
        R::SessionHandleInvalid | R::SessionClosed | R::UserNotLoggedIn => {
            "the token closed the session; it is opened again by itself"
        }
        R::ObjectHandleInvalid | R::KeyHandleInvalid => {
            "the key is no longer where it was; it is looked for again by itself"
        }
        R::MechanismInvalid => "the token cannot do this mechanism. Choose another key type",
        R::MechanismParamInvalid => {
            "the token does not take these parameters of the mechanism. Choose another key type or scheme"
        }
        R::CurveNotSupported | R::DomainParamsInvalid => {
            "the token does not know this curve. Choose another key type"
        }
        R::KeySizeRange => "the token does not make keys of this size. Choose another key type",
        R::KeyTypeInconsistent | R::KeyFunctionNotPermitted => {
            "the key may not be used like this. It was made for something else"
        }
        R::TemplateIncomplete
        | R::TemplateInconsistent
        | R::AttributeTypeInvalid
        | R::AttributeValueInvalid => {
            "the token refuses the attributes that a non-exportable signing key must have"
        }
        R::TokenWriteProtected => "the token is write-protected: keys can be neither made nor destroyed",
        R::SessionReadOnly => "the session may not change the token",
        R::ActionProhibited => "the token's policy forbids this for the object",
        R::UserAnotherAlreadyLoggedIn => {
            "another user (such as the security officer) is logged in through this module in this process"
        }
        R::FunctionNotSupported => "the module does not have this function",
        R::CryptokiNotInitialized => {
            "something else in this process shut the module down; it is set up again by itself"
        }
        R::CryptokiAlreadyInitialized => "the module is in use already in this process",
        R::DataLenRange | R::DataInvalid => "the token does not sign data of this length with this key",
        R::BufferTooSmall => "the module's answer changed its size",
        R::FipsSelfTestFailed => "the token failed its self-test and has stopped. Ask its vendor",
        R::VendorDefined(_) | R::UnknownErrorCode(_) => {
            "look the number up in the documentation of the token's vendor; it is tried again by itself"
        }
        _ => "see PKCS#11 2.40, section 5.1",
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    fn text(code: RvError) -> String {
        Pkcs11Error::from(CkError::Pkcs11(code, Function::Login)).to_string()
    }

    #[test]
    fn codes_have_their_names_and_advice() {
        assert!(text(RvError::PinLocked).starts_with("C_Login: CKR_PIN_LOCKED: the token locked the PIN"));
        assert!(text(RvError::VendorDefined(0x8000_0105)).contains("CKR_VENDOR_DEFINED + 0x105"));
        assert!(text(RvError::UnknownErrorCode(0x77)).contains("0x77"));
    }

    #[test]
    fn each_class_of_codes_is_treated_as_such() {
        let class = |code| class(&CkError::Pkcs11(code, Function::Sign));
        assert_eq!(class(RvError::SessionHandleInvalid), Class::Session);
        assert_eq!(class(RvError::KeyHandleInvalid), Class::Session);
        assert_eq!(class(RvError::UserNotLoggedIn), Class::Session);
        assert_eq!(class(RvError::DeviceRemoved), Class::Device);
        assert_eq!(class(RvError::VendorDefined(0x8000_0001)), Class::Device);
        assert_eq!(class(RvError::PinIncorrect), Class::Pin);
        assert_eq!(class(RvError::PinLocked), Class::Pin);
        assert_eq!(class(RvError::MechanismInvalid), Class::Permanent);
        assert_eq!(class(RvError::KeyTypeInconsistent), Class::Permanent);
    }

    #[test]
    fn only_what_may_pass_is_retryable() {
        let retryable = |code| match Failure::from(CkError::Pkcs11(code, Function::Sign))
            .into_key_error("signing", "a")
        {
            KeyError::Device { retryable, .. } => retryable,
            other => panic!("{other}"),
        };
        assert!(retryable(RvError::DeviceError) && retryable(RvError::SessionClosed));
        assert!(!retryable(RvError::PinIncorrect) && !retryable(RvError::MechanismInvalid));
    }
}
