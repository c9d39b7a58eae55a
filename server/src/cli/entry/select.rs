//! Which entries to show or count.

use clap::Args;
use hardroot_api::spire::api::server::entry::v1::{count_entries_request, list_entries_request};
use hardroot_api::spire::api::types::{FederatesWithMatch, SelectorMatch, Spiffeid};

use crate::cli::CliError;
use crate::cli::flags::{id_message, match_number, selectors};

/// The flags of `show` and `count`. Without any, every entry matches.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Entries with this parent
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// Entries that give this identity
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Entries of downstream servers only
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    downstream: Option<bool>,
    /// Entries with this selector (type:value); may be repeated
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// Entries that federate with this trust domain; may be repeated
    #[arg(long = "federatesWith", value_name = "TRUST_DOMAIN")]
    federates_with: Vec<String>,
    /// How -federatesWith compares: exact, any, superset or subset
    #[arg(long = "matchFederatesWithOn", value_name = "HOW", default_value = "superset")]
    match_federates_with_on: String,
    /// How -selector compares: exact, any, superset or subset
    #[arg(long = "matchSelectorsOn", value_name = "HOW", default_value = "superset")]
    match_selectors_on: String,
    /// Entries with this hint
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,
}

struct Parts {
    by_spiffe_id: Option<Spiffeid>,
    by_parent_id: Option<Spiffeid>,
    by_selectors: Option<SelectorMatch>,
    by_federates_with: Option<FederatesWithMatch>,
}

impl Filter {
    /// Whether one of the filters is given that SPIRE does not take beside `-entryID`.
    pub(super) fn contradicts_id(&self) -> bool {
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        given(&self.parent_id) || given(&self.spiffe_id) || !self.selectors.is_empty()
    }

    fn parts(&self) -> Result<Parts, CliError> {
        let id =
            |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(id_message).transpose();
        let by_selectors = if self.selectors.is_empty() {
            None
        } else {
            Some(SelectorMatch {
                selectors: selectors(&self.selectors)?,
                r#match: match_number(&self.match_selectors_on)?,
            })
        };
        let by_federates_with = if self.federates_with.is_empty() {
            None
        } else {
            Some(FederatesWithMatch {
                trust_domains: self.federates_with.clone(),
                r#match: match_number(&self.match_federates_with_on)?,
            })
        };
        Ok(Parts {
            by_spiffe_id: id(&self.spiffe_id)?,
            by_parent_id: id(&self.parent_id)?,
            by_selectors,
            by_federates_with,
        })
    }

    pub(super) fn for_list(&self) -> Result<list_entries_request::Filter, CliError> {
        let parts = self.parts()?;
        Ok(list_entries_request::Filter {
            by_spiffe_id: parts.by_spiffe_id,
            by_parent_id: parts.by_parent_id,
            by_selectors: parts.by_selectors,
            by_federates_with: parts.by_federates_with,
            by_hint: self.hint.clone(),
            by_downstream: self.downstream,
        })
    }

    pub(super) fn for_count(&self) -> Result<count_entries_request::Filter, CliError> {
        let parts = self.parts()?;
        Ok(count_entries_request::Filter {
            by_spiffe_id: parts.by_spiffe_id,
            by_parent_id: parts.by_parent_id,
            by_selectors: parts.by_selectors,
            by_federates_with: parts.by_federates_with,
            by_hint: self.hint.clone(),
            by_downstream: self.downstream,
        })
    }
}
