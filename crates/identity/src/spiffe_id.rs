//! SPIFFE IDs and trust domain names (SPIFFE-ID standard, sections 2.1 to 2.4).

use std::fmt;
use std::str::FromStr;

/// Longest SPIFFE ID that is accepted, in bytes, scheme included (SPIFFE-ID 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name, in bytes (SPIFFE-ID 2.1).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE ID or trust domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSpiffeId {
    /// Nothing there.
    #[error("the SPIFFE ID is empty")]
    Empty,
    /// Longer than [`MAX_ID_BYTES`].
    #[error("the SPIFFE ID has {len} bytes, at most {MAX_ID_BYTES} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The text does not begin with `spiffe://` in lower case.
    #[error("a SPIFFE ID begins with \"spiffe://\" in lower case")]
    Scheme,
    /// No trust domain name.
    #[error("the trust domain name is empty")]
    NoTrustDomain,
    /// Longer than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("the trust domain name has {len} bytes, at most {MAX_TRUST_DOMAIN_BYTES} are allowed")]
    TrustDomainTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A byte outside `[a-z0-9.-_]`.
    #[error("byte {at} of the trust domain name is not one of a-z 0-9 . - _")]
    TrustDomainByte {
        /// Offset within the name.
        at: usize,
    },
    /// A path byte outside `[a-zA-Z0-9.-_/]` (percent-encoding, query and fragment included).
    #[error("byte {at} of the path is not one of a-z A-Z 0-9 . - _ /")]
    PathByte {
        /// Offset within the path, which begins with `/`.
        at: usize,
    },
    /// An empty segment: `//` or a trailing `/`.
    #[error("the path has an empty segment or ends with a slash")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("the path has a segment \".\" or \"..\"")]
    DotSegment,
    /// A path that does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NoLeadingSlash,
}

/// A trust domain's name, such as `example.org`, without scheme.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Reads a bare name (`example.org`).
    ///
    /// # Errors
    /// Anything but 1 to 255 bytes of `[a-z0-9.-_]`.
    pub fn new(name: &str) -> Result<Self, BadSpiffeId> {
        if name.is_empty() {
            return Err(BadSpiffeId::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(BadSpiffeId::TrustDomainTooLong { len: name.len() });
        }
        if let Some(at) =
            name.bytes().position(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
        {
            return Err(BadSpiffeId::TrustDomainByte { at });
        }
        Ok(Self(name.to_owned()))
    }

    /// Reads a bare name or any SPIFFE ID, of which it keeps the trust domain.
    ///
    /// # Errors
    /// As [`TrustDomain::new`] and [`SpiffeId::from_str`].
    pub fn from_name_or_id(text: &str) -> Result<Self, BadSpiffeId> {
        if text.contains("://") { Ok(text.parse::<SpiffeId>()?.trust_domain()) } else { Self::new(text) }
    }

    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://name`, the form used as key of bundle maps and in databases.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{}", self.0), path_at: SCHEME.len() + self.0.len() }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = BadSpiffeId;
    fn from_str(s: &str) -> Result<Self, BadSpiffeId> {
        Self::new(s)
    }
}

/// A SPIFFE ID, valid by construction; compared bytewise, never normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    path_at: usize,
}

impl SpiffeId {
    /// Joins a trust domain and a path, which is empty or begins with `/`.
    ///
    /// # Errors
    /// A path that breaks SPIFFE-ID 2.2, or a result over [`MAX_ID_BYTES`].
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, BadSpiffeId> {
        check_path(path)?;
        let text = format!("{SCHEME}{}{path}", trust_domain.0);
        if text.len() > MAX_ID_BYTES {
            return Err(BadSpiffeId::TooLong { len: text.len() });
        }
        Ok(Self { text, path_at: SCHEME.len() + trust_domain.0.len() })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path with its leading `/`, or nothing.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// The trust domain's bare name.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_name().to_owned())
    }

    /// Whether this ID belongs to `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.0
    }

    /// Whether the path is `/spire` or below, which is reserved for the runtime itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.path() == "/spire" || self.path().starts_with("/spire/")
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = BadSpiffeId;

    fn from_str(s: &str) -> Result<Self, BadSpiffeId> {
        if s.is_empty() {
            return Err(BadSpiffeId::Empty);
        }
        if s.len() > MAX_ID_BYTES {
            return Err(BadSpiffeId::TooLong { len: s.len() });
        }
        let rest = s.strip_prefix(SCHEME).ok_or(BadSpiffeId::Scheme)?;
        let (name, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        Self::new(&TrustDomain::new(name)?, path)
    }
}

fn check_path(path: &str) -> Result<(), BadSpiffeId> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(inner) = path.strip_prefix('/') else { return Err(BadSpiffeId::NoLeadingSlash) };
    if let Some(at) = path
        .bytes()
        .position(|b| !matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/'))
    {
        return Err(BadSpiffeId::PathByte { at });
    }
    for segment in inner.split('/') {
        match segment {
            "" => return Err(BadSpiffeId::EmptySegment),
            "." | ".." => return Err(BadSpiffeId::DotSegment),
            _ => {}
        }
    }
    Ok(())
}
