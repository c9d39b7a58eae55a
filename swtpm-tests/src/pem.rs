//! PEM for certificates, for tools that want files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Certificates (DER) as PEM, one block each.
#[must_use]
pub fn certificates(der: &[Vec<u8>]) -> String {
    der.iter().map(|certificate| block("CERTIFICATE", certificate)).collect()
}

/// One PEM block (RFC 7468): lines of 64 characters.
#[must_use]
pub fn block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
