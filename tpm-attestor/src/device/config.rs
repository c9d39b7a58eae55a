//! Where the TPM is and what opens it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tss_esapi::TctiNameConf;

use super::TpmError;

/// How the TPM is reached. tss-esapi accepts any text and silently falls back to `localhost:2321`; this does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcti {
    /// A device node, normally `/dev/tpmrm0`.
    Device(PathBuf),
    /// swtpm over TCP; the control port is the next one.
    Swtpm {
        /// IP address or host name.
        host: String,
        /// Data port.
        port: u16,
    },
    /// The Microsoft simulator over TCP.
    Mssim {
        /// IP address or host name.
        host: String,
        /// Command port.
        port: u16,
    },
    /// tpm2-abrmd over D-Bus, on the system bus or the session bus.
    Tabrmd {
        /// Whether to use the session bus.
        session_bus: bool,
    },
}

impl Tcti {
    /// A device node.
    ///
    /// # Errors
    /// The path is not absolute.
    pub fn device(path: &Path) -> Result<Self, TpmError> {
        let text = path.to_string_lossy();
        if !path.is_absolute() || text.contains(['\0', ',']) {
            return Err(bad(
                &format!("device:{text}"),
                "the device is an absolute path, such as /dev/tpmrm0",
            ));
        }
        Ok(Self::Device(path.to_owned()))
    }

    /// Whether something between us and the chip swaps objects in and out, so that slots are not ours to tidy.
    #[must_use]
    pub fn has_resource_manager(&self) -> bool {
        match self {
            Self::Device(path) => {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tpmrm"))
            }
            Self::Tabrmd { .. } => true,
            Self::Swtpm { .. } | Self::Mssim { .. } => false,
        }
    }

    /// In the form that tss-esapi reads.
    pub(super) fn name_conf(&self) -> Result<TctiNameConf, TpmError> {
        let text = match self {
            Self::Tabrmd { session_bus: true } => {
                "tabrmd:bus_name=com.intel.tss2.Tabrmd,bus_type=session".to_owned()
            }
            other => other.to_string(),
        };
        TctiNameConf::from_str(&text).map_err(|cause| TpmError::Open { tcti: text, cause: cause.into() })
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "device:{}", path.display()),
            Self::Swtpm { host, port } => write!(f, "swtpm:host={host},port={port}"),
            Self::Mssim { host, port } => write!(f, "mssim:host={host},port={port}"),
            Self::Tabrmd { session_bus: false } => f.write_str("tabrmd"),
            Self::Tabrmd { session_bus: true } => f.write_str("tabrmd:bus_type=session"),
        }
    }
}

impl FromStr for Tcti {
    type Err = TpmError;

    /// Reads `device:/dev/tpmrm0`, `swtpm:host=…,port=…`, `mssim:host=…,port=…`, `tabrmd` or
    /// `tabrmd:bus_type=system|session`. Every key is named, none is guessed.
    fn from_str(text: &str) -> Result<Self, TpmError> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "device" => Self::device(Path::new(rest)).map_err(|_same_fault| {
                bad(text, "write device: and an absolute path, such as device:/dev/tpmrm0")
            }),
            "swtpm" => network(text, rest).map(|(host, port)| Self::Swtpm { host, port }),
            "mssim" => network(text, rest).map(|(host, port)| Self::Mssim { host, port }),
            "tabrmd" => match rest {
                "" | "bus_type=system" => Ok(Self::Tabrmd { session_bus: false }),
                "bus_type=session" => Ok(Self::Tabrmd { session_bus: true }),
                _ => Err(bad(text, "tabrmd takes bus_type=system or bus_type=session")),
            },
            _ => Err(bad(text, "the kinds are device, swtpm, mssim and tabrmd")),
        }
    }
}

fn network(text: &str, rest: &str) -> Result<(String, u16), TpmError> {
    let (mut host, mut port) = (None, None);
    for pair in rest.split(',') {
        match pair.split_once('=') {
            Some(("host", value)) if host.is_none() => host = Some(value),
            Some(("port", value)) if port.is_none() => port = Some(value),
            Some(("path", _)) => {
                return Err(bad(text, "UNIX sockets do not work with tss-esapi 7: use host= and port="));
            }
            _ => return Err(bad(text, "the keys are host and port, each once")),
        }
    }
    let host = host.ok_or_else(|| bad(text, "host= is missing"))?;
    let port = port.ok_or_else(|| bad(text, "port= is missing"))?;
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(is_host) {
        return Err(bad(text, "host= is no IP address or host name"));
    }
    // The control port is the next one, so the last port cannot be a data port.
    match port.parse::<u16>() {
        Ok(port) if port != 0 && port != u16::MAX && !rest.contains("port=+") => Ok((host.to_owned(), port)),
        _ => Err(bad(text, "port= is no port number between 1 and 65534")),
    }
}

fn bad(text: &str, reason: &'static str) -> TpmError {
    TpmError::BadTcti { text: text.escape_default().take(200).collect(), reason }
}

/// How to open the TPM.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it is.
    pub tcti: Tcti,
    /// The owner hierarchy's auth value, if it has one: a file of at most 64 bytes, mode 0600.
    pub owner_auth_file: Option<PathBuf>,
    /// The endorsement hierarchy's auth value, if it has one: a file of at most 64 bytes, mode 0600.
    pub endorsement_auth_file: Option<PathBuf>,
    /// What becomes the auth value of the keys made here: a file, mode 0600, of which the SHA-256 is used. Without
    /// it anyone who may open the device can use the keys.
    pub key_auth_file: Option<PathBuf>,
    /// How long a caller waits for one operation, waiting in the queue included. Making an RSA endorsement key, which
    /// happens once, may take four times as long.
    pub timeout: Duration,
}

impl Config {
    /// A TPM without auth values, with a timeout of 30 seconds.
    #[must_use]
    pub fn new(tcti: Tcti) -> Self {
        Self {
            tcti,
            owner_auth_file: None,
            endorsement_auth_file: None,
            key_auth_file: None,
            timeout: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for text in [
            "device:/dev/tpmrm0",
            "swtpm:host=127.1.2.3,port=2321",
            "mssim:host=localhost,port=2321",
            "tabrmd",
            "tabrmd:bus_type=session",
        ] {
            let tcti: Tcti = text.parse().unwrap();
            assert_eq!(tcti.to_string(), text);
            assert!(tcti.name_conf().is_ok());
        }
    }

    #[test]
    fn what_tss_esapi_would_take_for_localhost_is_refused() {
        for text in [
            "",
            "swtpm",
            "swtpm:",
            "swtpm:path=/run/swtpm.sock",
            "swtpm:host=127.1.2.3",
            "swtpm:port=2321",
            "swtpm:hots=127.1.2.3,port=2321",
            "swtpm:host=127.1.2.3,port=2321,",
            "swtpm:host=127.1.2.3,host=127.1.2.4,port=2321",
            "swtpm:host=127.1.2.3,port=2321,extra=1",
            "swtpm:host=,port=2321",
            "swtpm:host=a b,port=2321",
            "swtpm:host=127.1.2.3,port=65535",
            "swtpm:host=127.1.2.3,port=+2321",
            "swtpm:host=127.1.2.3,port=0",
            "device",
            "device:",
            "device:dev/tpm0",
            "tabrmd:bus_type=other",
            "cmd:swtpm",
            "SWTPM:host=127.1.2.3,port=2321",
        ] {
            assert!(matches!(text.parse::<Tcti>(), Err(TpmError::BadTcti { .. })), "{text}");
        }
    }

    #[test]
    fn only_some_ways_have_a_resource_manager() {
        let has = |text: &str| text.parse::<Tcti>().unwrap().has_resource_manager();
        assert!(has("device:/dev/tpmrm0") && has("tabrmd"));
        assert!(!has("device:/dev/tpm0") && !has("swtpm:host=::1,port=2321"));
    }
}
