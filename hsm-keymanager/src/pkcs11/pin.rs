//! PINs: from a private file, wiped after use, and never tried twice when wrong.

use std::path::Path;

use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;
use hardroot_runtime::secret;
use zeroize::Zeroizing;

use super::error::Pkcs11Error;

/// Longest PIN read, in bytes.
const MAX_PIN: usize = 256;

/// Reads a PIN file, or a systemd credential (`credential:NAME`): mode 0600 or stricter, one line of UTF-8.
/// A trailing newline is not part of the PIN.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, Pkcs11Error> {
    let secret = secret::read(path)
        .map_err(|cause| Pkcs11Error::PinRead { path: path.to_owned(), cause: Box::new(cause) })?;
    let bad = |reason| Pkcs11Error::PinFile { path: path.to_owned(), reason };
    match secret.expose_str() {
        None => Err(bad("it is not UTF-8 text")),
        Some("") => Err(bad("it is empty")),
        Some(pin) if pin.len() > MAX_PIN => Err(bad("it has more than 256 bytes")),
        Some(pin) if pin.contains(['\n', '\r', '\0']) => Err(bad("it has more than one line")),
        Some(pin) => Ok(Zeroizing::new(pin.to_owned())),
    }
}

/// As the module wants it; wiped on drop.
pub(super) fn auth(pin: &str) -> AuthPin {
    AuthPin::new(pin.into())
}

/// The token's counters of wrong PINs, as far as it tells them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tries {
    pub(super) low: bool,
    pub(super) last: bool,
    pub(super) locked: bool,
}

impl From<&TokenInfo> for Tries {
    fn from(info: &TokenInfo) -> Self {
        Self {
            low: info.user_pin_count_low(),
            last: info.user_pin_final_try(),
            locked: info.user_pin_locked(),
        }
    }
}

/// Whether a PIN may be tried at all: a program must not use up the last try that a person may need.
pub(super) fn may_try(tries: Tries) -> Result<(), Pkcs11Error> {
    if tries.locked {
        return Err(Pkcs11Error::PinTries(
            "the token's PIN is locked (CKF_USER_PIN_LOCKED). Unlock it with the security officer's PIN",
        ));
    }
    if tries.last {
        return Err(Pkcs11Error::PinTries(
            "one wrong PIN more would lock the token (CKF_USER_PIN_FINAL_TRY), so no PIN is tried. Log in once with the right PIN by another tool (pkcs11-tool --login --list-objects), and put it into the PIN file",
        ));
    }
    if tries.low {
        tracing::warn!(
            "a wrong PIN was given to the token since the last good login (CKF_USER_PIN_COUNT_LOW)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read_of(content: &[u8], mode: u32) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read(&path).map(|pin| pin.to_string()).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", cause.unwrap_or_default())
        })
    }

    #[test]
    fn pins_are_read_without_their_newline() {
        assert_eq!(read_of(b"12 34\n", 0o600).unwrap(), "12 34");
        assert_eq!(read_of(b"1234\r\n", 0o400).unwrap(), "1234");
        assert_eq!(read_of(b"1234", 0o600).unwrap(), "1234");
    }

    #[test]
    fn bad_pin_files_are_refused_without_showing_them() {
        for (content, mode, says) in [
            (b"1234\n".as_slice(), 0o640, "mode"),
            (b"\n", 0o600, "empty"),
            (b"1234\n5678\n", 0o600, "more than one line"),
            (&[b'7'; 300], 0o600, "more than 256"),
            (&[0xff, 0xfe], 0o600, "UTF-8"),
        ] {
            let error = read_of(content, mode).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("1234") && !error.contains("777"), "{error}");
        }
    }

    #[test]
    fn no_pin_is_tried_on_the_last_try_or_when_locked() {
        let tries = |low, last, locked| may_try(Tries { low, last, locked });
        assert!(tries(false, false, false).is_ok());
        assert!(tries(true, false, false).is_ok());
        assert!(tries(true, true, false).unwrap_err().to_string().contains("FINAL_TRY"));
        assert!(tries(true, true, true).unwrap_err().to_string().contains("locked"));
    }
}
