//! The filters of agent lists and counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_api::spire::api::server::agent::v1::{CountAgentsRequest, ListAgentsRequest};
use hardroot_api::spire::api::types::SelectorMatch;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tonic::{Request, Status};

use crate::api::{convert, faults};
use crate::audit::{Details, Record};
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

/// The fields that the filters of lists and counts share.
struct Wanted<'a> {
    attestation_type: &'a str,
    selectors: Option<&'a SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: &'a str,
}

pub(super) fn of_count(request: &Request<CountAgentsRequest>) -> Result<NodeFilter, Status> {
    let Some(wanted) = &request.get_ref().filter else {
        return Ok(NodeFilter { may_lag: true, ..NodeFilter::default() });
    };
    let wanted = Wanted {
        attestation_type: &wanted.by_attestation_type,
        selectors: wanted.by_selector_match.as_ref(),
        banned: wanted.by_banned,
        can_reattest: wanted.by_can_reattest,
        expires_before: &wanted.by_expires_before,
    };
    wanted.describe(request);
    wanted.filter()
}

pub(super) fn of_list(request: &Request<ListAgentsRequest>) -> Result<NodeFilter, Status> {
    let Some(wanted) = &request.get_ref().filter else {
        return Ok(NodeFilter { may_lag: true, ..NodeFilter::default() });
    };
    let wanted = Wanted {
        attestation_type: &wanted.by_attestation_type,
        selectors: wanted.by_selector_match.as_ref(),
        banned: wanted.by_banned,
        can_reattest: wanted.by_can_reattest,
        expires_before: &wanted.by_expires_before,
    };
    wanted.describe(request);
    wanted.filter()
}

impl Wanted<'_> {
    /// For the call's audit line.
    fn describe<T>(&self, request: &Request<T>) {
        let Some(record) = request.extensions().get::<Record>() else { return };
        let mut details = Details::default();
        if !self.attestation_type.is_empty() {
            details.add("node_attestor_type", self.attestation_type);
        }
        if let Some(banned) = self.banned {
            details.add("by_banned", banned);
        }
        if let Some(can_reattest) = self.can_reattest {
            details.add("by_can_reattest", can_reattest);
        }
        if let Some(wanted) = self.selectors {
            details.add("by_selector_match", convert::match_text(wanted.r#match));
            details.add_list("by_selectors", wanted.selectors.iter().map(convert::selector_text));
        }
        if !self.expires_before.is_empty() {
            details.add("by_expires_before", self.expires_before);
        }
        record.extend(details);
    }

    fn filter(&self) -> Result<NodeFilter, Status> {
        let expires_before = match self.expires_before {
            "" => None,
            text => Some(
                parse_expires_before(text)
                    .map_err(|fault| faults::invalid("failed to parse expires before", fault))?,
            ),
        };
        Ok(NodeFilter {
            // For operators to look at.
            may_lag: true,
            attestation_type: (!self.attestation_type.is_empty()).then(|| self.attestation_type.to_owned()),
            selectors: self
                .selectors
                .map(convert::selector_filter)
                .transpose()
                .map_err(|fault| faults::invalid("failed to parse selectors", fault))?,
            banned: self.banned,
            can_reattest: self.can_reattest,
            expires_before,
        })
    }
}
