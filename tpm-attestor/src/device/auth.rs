//! Auth values from files.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tss_esapi::structures::Auth;
use zeroize::Zeroizing;

use super::{Config, TpmError};
use crate::verify::HashAlg;

/// Largest file that is read for an auth value.
const MAX_FILE_BYTES: u64 = 4096;
/// Largest auth value of a hierarchy: a SHA-512 digest.
const MAX_AUTH_BYTES: usize = 64;

/// The auth values of one TPM. They cannot be printed and wipe themselves.
#[derive(Clone, Default)]
pub(super) struct Secrets {
    pub(super) owner: Zeroizing<Vec<u8>>,
    pub(super) endorsement: Zeroizing<Vec<u8>>,
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |value: &Zeroizing<Vec<u8>>| if value.is_empty() { "empty" } else { "set" };
        f.debug_struct("Secrets")
            .field("owner", &set(&self.owner))
            .field("endorsement", &set(&self.endorsement))
            .field("key", &set(&self.key))
            .finish()
    }
}

impl Secrets {
    pub(super) fn read(config: &Config) -> Result<Self, TpmError> {
        let hierarchy = |path: &Option<PathBuf>| match path {
            None => Ok(Zeroizing::default()),
            Some(path) => {
                let value = read(path)?;
                if value.len() > MAX_AUTH_BYTES {
                    return Err(fault(
                        path,
                        format!("it has {} bytes, at most {MAX_AUTH_BYTES} are allowed", value.len()),
                    ));
                }
                Ok(value)
            }
        };
        Ok(Self {
            owner: hierarchy(&config.owner_auth_file)?,
            endorsement: hierarchy(&config.endorsement_auth_file)?,
            key: match &config.key_auth_file {
                None => Zeroizing::default(),
                // Any length will do, and the TPM wants at most 32 bytes.
                Some(path) => Zeroizing::new(HashAlg::Sha256.digest(&[&read(path)?])),
            },
        })
    }
}

/// An auth value as the library wants it; it wipes itself too.
pub(super) fn auth(value: &[u8]) -> Auth {
    Auth::try_from(value).unwrap_or_default()
}

fn fault(path: &Path, reason: String) -> TpmError {
    TpmError::AuthFile { path: path.to_owned(), reason, cause: None }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let failed = |cause| TpmError::AuthFile {
        path: path.to_owned(),
        reason: "it cannot be read".to_owned(),
        cause: Some(cause),
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(fault(path, format!("its mode is {:03o}: chmod 600 it", metadata.mode() & 0o777)));
    }
    let mut value = Zeroizing::new(Vec::with_capacity(4097));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut value).map_err(failed)?;
    if value.len() as u64 > MAX_FILE_BYTES {
        return Err(fault(path, "it is larger than 4096 bytes".to_owned()));
    }
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    if value.is_empty() {
        return Err(fault(path, "it is empty".to_owned()));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::device::Tcti;

    fn config(path: &Path) -> Config {
        let mut config = Config::new("swtpm:host=127.1.1.1,port=2321".parse::<Tcti>().unwrap());
        config.owner_auth_file = Some(path.to_owned());
        config.key_auth_file = Some(path.to_owned());
        config
    }

    #[test]
    fn files_that_others_may_read_are_refused_and_nothing_is_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth");
        fs::write(&path, "sesame\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Secrets::read(&config(&path)).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let secrets = Secrets::read(&config(&path)).unwrap();
        assert_eq!(secrets.owner.as_slice(), b"sesame");
        assert_eq!(secrets.key.len(), 32);
        let shown = format!("{secrets:?}");
        assert!(!shown.contains("sesame") && !shown.contains("115"), "{shown}");
        fs::write(&path, "").unwrap();
        assert!(Secrets::read(&config(&path)).is_err());
        fs::write(&path, [7; 65]).unwrap();
        assert!(Secrets::read(&config(&path)).is_err());
    }
}
