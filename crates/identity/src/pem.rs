//! PEM for certificates (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};

/// Largest PEM text that is read, in bytes.
pub const MAX_PEM_BYTES: usize = 16 * 1024 * 1024;

/// Why a text holds no usable certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPem {
    /// Over [`MAX_PEM_BYTES`].
    #[error("the PEM text has {len} bytes, at most {MAX_PEM_BYTES} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A block that does not end, or is not base64.
    #[error("the PEM text is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A private key, request or list among the certificates.
    #[error("the PEM text holds a block {kind} where only CERTIFICATE is expected")]
    OtherBlock {
        /// The block's kind.
        kind: String,
    },
    /// No certificate at all.
    #[error("the PEM text holds no CERTIFICATE block")]
    Empty,
}

/// The certificates of a PEM text in order, as DER; text between the blocks is skipped.
///
/// # Errors
/// See [`BadPem`]. The DER itself is not read.
pub fn pem_decode(text: &[u8]) -> Result<Vec<Vec<u8>>, BadPem> {
    if text.len() > MAX_PEM_BYTES {
        return Err(BadPem::TooLong { len: text.len() });
    }
    let mut certificates = Vec::new();
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        match block {
            Ok((SectionKind::Certificate, der)) => certificates.push(der),
            Ok((kind, _)) => return Err(BadPem::OtherBlock { kind: format!("{kind:?}") }),
            Err(cause) => return Err(BadPem::Malformed { reason: cause.to_string() }),
        }
    }
    if certificates.is_empty() { Err(BadPem::Empty) } else { Ok(certificates) }
}

/// PEM of DER certificates, one CERTIFICATE block each.
pub fn pem_encode<D: AsRef<[u8]>>(certificates: impl IntoIterator<Item = D>) -> String {
    let mut text = String::new();
    for der in certificates {
        let base64 = STANDARD.encode(der);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = base64.as_str();
        while !rest.is_empty() {
            // Base64 is ASCII, so any place is a character boundary.
            let (line, tail) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = tail;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
