//! DNS names that may stand in an SVID.

use std::collections::BTreeSet;

/// Longest DNS name, in bytes (RFC 1035 3.1, without the root's label).
pub const MAX_DNS_NAME_BYTES: usize = 253;

/// Why a text is not accepted as a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadDnsName {
    /// Nothing there.
    #[error("the DNS name is empty")]
    Empty,
    /// Over [`MAX_DNS_NAME_BYTES`], or a label over 63.
    #[error("the DNS name or one of its labels is too long ({MAX_DNS_NAME_BYTES} and 63 bytes)")]
    TooLong,
    /// A `*` anywhere but alone in the first label, or more than one.
    #[error("a wildcard stands alone in the first label (\"*.example.org\") and occurs once")]
    Wildcard,
    /// An empty label, or one with a character outside `[A-Za-z0-9_-]`, or a hyphen at its edge.
    #[error("label {label:?} is not made of letters, digits, underscores and inner hyphens")]
    Label {
        /// The label, escaped.
        label: String,
    },
    /// A name that a wildcard of the same list already covers.
    #[error("{name:?} is already covered by the wildcard in the same list")]
    Overlap {
        /// The name.
        name: String,
    },
}

/// Judges one DNS name: letter-digit-hyphen labels, at most one wildcard as first label, no trailing dot.
/// Underscores are no part of host names (RFC 1123 2.1), but SPIRE takes them, names of services have them, and
/// verifiers compare them like any other character. International names come in their `xn--` form.
///
/// # Errors
/// See [`BadDnsName`].
pub fn check_dns_name(name: &str) -> Result<(), BadDnsName> {
    if name.is_empty() {
        return Err(BadDnsName::Empty);
    }
    if name.len() > MAX_DNS_NAME_BYTES {
        return Err(BadDnsName::TooLong);
    }
    let labels = match name.strip_prefix("*.") {
        Some(rest) => rest,
        None => name,
    };
    if labels.contains('*') {
        return Err(BadDnsName::Wildcard);
    }
    for label in labels.split('.') {
        if label.len() > 63 {
            return Err(BadDnsName::TooLong);
        }
        let fits = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        // A double hyphen at places three and four is reserved for encodings such as xn-- (RFC 5891 4.2.3.1).
        let reserved = label.get(2..4) == Some("--") && !label.starts_with("xn--");
        if label.is_empty() || !fits || label.starts_with('-') || label.ends_with('-') || reserved {
            return Err(BadDnsName::Label { label: label.escape_default().to_string() });
        }
    }
    Ok(())
}

/// Judges a list: each name by itself, and none covered by a wildcard beside it.
///
/// # Errors
/// See [`BadDnsName`].
pub fn check_dns_names(names: &[String]) -> Result<(), BadDnsName> {
    let mut wildcards = BTreeSet::new();
    for name in names {
        check_dns_name(name)?;
        wildcards.extend(name.strip_prefix("*."));
    }
    let covered = |name: &&String| {
        !name.starts_with("*.") && name.split_once('.').is_some_and(|(_, rest)| wildcards.contains(rest))
    };
    match names.iter().find(covered) {
        Some(name) => Err(BadDnsName::Overlap { name: name.clone() }),
        None => Ok(()),
    }
}
