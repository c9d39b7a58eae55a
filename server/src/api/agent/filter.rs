//! The filters of agent lists and counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_api::spire::api::server::agent::v1::{count_agents_request, list_agents_request};
use hardroot_api::spire::api::types::SelectorMatch;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tonic::Status;

use crate::api::{convert, faults};
use crate::datastore::NodeFilter;

/// The time is not written as SPIRE writes it.
#[derive(Debug, thiserror::Error)]
#[error("\"{text}\" is no time of the form \"2006-01-02 15:04:05 -0700 -07\"")]
pub struct BadTime {
    /// What was given.
    text: String,
}

const FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// Reads a time such as `2026-03-01 12:00:00 +0100 +01`.
///
/// # Errors
/// Any other form.
pub fn parse_expires_before(text: &str) -> Result<SystemTime, BadTime> {
    let bad = || BadTime { text: text.to_owned() };
    let (time, zone) = text.rsplit_once(' ').ok_or_else(bad)?;
    let hours = time.rsplit_once(' ').and_then(|(_, offset)| offset.get(..3));
    if hours != Some(zone) {
        return Err(bad());
    }
    let time = OffsetDateTime::parse(time, FORMAT).ok().ok_or_else(bad)?;
    let seconds = u64::try_from(time.unix_timestamp()).ok().ok_or_else(bad)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(bad)
}

pub(super) fn of_count(wanted: Option<&count_agents_request::Filter>) -> Result<NodeFilter, Status> {
    let Some(wanted) = wanted else { return Ok(NodeFilter::default()) };
    filter(
        &wanted.by_attestation_type,
        wanted.by_selector_match.as_ref(),
        wanted.by_banned,
        wanted.by_can_reattest,
        &wanted.by_expires_before,
    )
}

pub(super) fn of_list(wanted: Option<&list_agents_request::Filter>) -> Result<NodeFilter, Status> {
    let Some(wanted) = wanted else { return Ok(NodeFilter::default()) };
    filter(
        &wanted.by_attestation_type,
        wanted.by_selector_match.as_ref(),
        wanted.by_banned,
        wanted.by_can_reattest,
        &wanted.by_expires_before,
    )
}

fn filter(
    attestation_type: &str,
    selectors: Option<&SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: &str,
) -> Result<NodeFilter, Status> {
    let expires_before = match expires_before {
        "" => None,
        text => Some(
            parse_expires_before(text)
                .map_err(|fault| faults::invalid("failed to parse expires before", fault))?,
        ),
    };
    Ok(NodeFilter {
        attestation_type: (!attestation_type.is_empty()).then(|| attestation_type.to_owned()),
        selectors: selectors
            .map(convert::selector_filter)
            .transpose()
            .map_err(|fault| faults::invalid("failed to parse selectors", fault))?,
        banned,
        can_reattest,
        expires_before,
    })
}
