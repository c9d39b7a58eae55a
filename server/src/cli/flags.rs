//! What several commands read from their flags.

use std::io::Read;
use std::path::Path;

use hardroot_api::spire::api::types;
use hardroot_identity::SpiffeId;
use time::OffsetDateTime;

use super::CliError;

/// Most bytes read from a data file.
const MAX_DATA: u64 = 64 << 20;

pub(super) fn id_message(text: &str) -> Result<types::Spiffeid, CliError> {
    let id: SpiffeId = text.parse().map_err(|fault| CliError::usage(format!("\"{text}\": {fault}")))?;
    Ok(crate::api::spiffe_id(&id))
}

/// An ID that must be given.
pub(super) fn required_id(text: Option<&str>) -> Result<types::Spiffeid, CliError> {
    match text {
        None | Some("") => Err(CliError::usage("a SPIFFE ID is required")),
        Some(text) => id_message(text),
    }
}

pub(super) fn id_text(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
}

/// `type:value`; the server judges the parts.
pub(super) fn selector(text: &str) -> Result<types::Selector, CliError> {
    let (kind, value) = text
        .split_once(':')
        .ok_or_else(|| CliError::usage(format!("selector \"{text}\" must be formatted as type:value")))?;
    Ok(types::Selector { r#type: kind.to_owned(), value: value.to_owned() })
}

pub(super) fn selectors(texts: &[String]) -> Result<Vec<types::Selector>, CliError> {
    texts.iter().map(|text| selector(text)).collect()
}

/// `exact`, `any`, `superset`, `subset`, as `SelectorMatch` and `FederatesWithMatch` number them.
pub(super) fn match_number(text: &str) -> Result<i32, CliError> {
    match text {
        "exact" => Ok(0),
        "subset" => Ok(1),
        "superset" => Ok(2),
        "any" => Ok(3),
        _ => Err(CliError::usage(format!("match behavior \"{text}\" unknown"))),
    }
}

/// `-banned true`, `-canReattest false`; any other value does not filter, as in SPIRE.
pub(super) fn tri_state(text: Option<&str>) -> Option<bool> {
    match text {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    }
}

/// `1 entry`, `2 entries`.
pub(super) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Reads a file, or standard input for `-`.
pub(super) fn read_data(path: &Path) -> Result<Vec<u8>, CliError> {
    let fault = |cause: std::io::Error| CliError::File {
        op: "reading",
        path: path.display().to_string(),
        reason: cause.to_string(),
    };
    let mut data = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(MAX_DATA).read_to_end(&mut data).map_err(fault)?;
    } else {
        std::fs::File::open(path).map_err(fault)?.take(MAX_DATA).read_to_end(&mut data).map_err(fault)?;
    }
    Ok(data)
}

/// A time as Go prints it in UTC: `2026-03-01 12:00:00 +0000 UTC`.
pub(super) fn time_text(seconds: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02} +0000 UTC",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        ),
        Err(_) => format!("{seconds} seconds after 1970"),
    }
}
