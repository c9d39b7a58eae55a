//! Writing what SPIRE knows into our datastore, so that doing it again changes nothing.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use serde::Serialize;

use super::Source;
use super::entries::dns_names;
use super::rows::{NodeRow, RelationshipRow, TokenRow};
use crate::datastore::{
    BundleEndpointProfile, Datastore, FederationRelationship, JoinToken, Node, RelationshipMask, StoreError,
};

/// Entries that are written at once.
const LOT: usize = 500;

/// What became of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Created,
    Updated,
    Unchanged,
    /// It is here and not the same; ours stays.
    Differs,
    /// It is of no use any more.
    Skipped,
}

/// How many of a kind were found and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// In SPIRE's database.
    pub found: usize,
    /// New here.
    pub created: usize,
    /// Changed here.
    pub updated: usize,
    /// Here already, and the same.
    pub unchanged: usize,
    /// Here already, and not the same: ours stayed.
    pub differs: usize,
    /// Of no use any more: expired.
    pub skipped: usize,
    /// Could not be taken.
    pub failed: usize,
}

/// Something that could not be taken, or that is not the same here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// `entry`, `agent`, `bundle`, …
    pub what: &'static str,
    /// Which one.
    pub key: String,
    /// Why.
    pub why: String,
}

/// What was brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Trust bundles.
    pub bundles: Count,
    /// Federation relationships.
    pub federation_relationships: Count,
    /// Registration entries.
    pub entries: Count,
    /// Attested agents.
    pub agents: Count,
    /// Join tokens.
    pub join_tokens: Count,
    /// Authority journals.
    pub journals: Count,
    /// What could not be taken.
    pub faults: Vec<Fault>,
    /// What is here already and differs.
    pub differences: Vec<Fault>,
    /// What was taken without a part that means nothing to anybody.
    pub trimmed: Vec<Fault>,
}

impl Imported {
    /// Each kind with its count, in the order in which they are brought.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, Count); 6] {
        [
            ("bundles", self.bundles),
            ("federation relationships", self.federation_relationships),
            ("entries", self.entries),
            ("agents", self.agents),
            ("join tokens", self.join_tokens),
            ("authority journals", self.journals),
        ]
    }
}

/// An import under way.
pub(super) struct Import<'a> {
    pub(super) store: &'a dyn Datastore,
    pub(super) trust_domain: TrustDomain,
    pub(super) now: SystemTime,
    pub(super) overwrite: bool,
    pub(super) dry_run: bool,
}

impl Import<'_> {
    /// Does a write, unless nothing is to be written.
    pub(super) async fn write<T>(
        &self,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<(), StoreError> {
        if !self.dry_run {
            write.await?;
        }
        Ok(())
    }

    /// Brings everything; `progress` is told what is being brought, how many are done and how many there are.
    /// One thing that cannot be taken does not keep the others out.
    ///
    /// # Errors
    /// The datastore went away.
    pub(super) async fn everything(
        &self,
        source: &Source,
        progress: &mut (dyn FnMut(&'static str, usize, usize) + Send),
    ) -> Result<Imported, StoreError> {
        let mut done = Imported::default();
        macro_rules! bring {
            ($what:literal, $noun:ident, $rows:expr, $key:expr, $each:ident) => {
                for (index, row) in $rows.iter().enumerate() {
                    progress($what, index, $rows.len());
                    let outcome = self.$each(row).await;
                    let Imported { $noun, faults, differences, .. } = &mut done;
                    settle($what, &$key(row), outcome, $noun, faults, differences)?;
                }
            };
        }
        for (index, (name, data)) in source.bundles.iter().enumerate() {
            progress("bundle", index, source.bundles.len());
            let outcome = self.bundle(name, data).await;
            settle("bundle", name, outcome, &mut done.bundles, &mut done.faults, &mut done.differences)?;
        }
        bring!(
            "federation relationship",
            federation_relationships,
            source.relationships,
            |row: &RelationshipRow| row.trust_domain.clone(),
            relationship
        );
        for (lot, rows) in source.entries.chunks(LOT).enumerate() {
            progress("entry", lot * LOT, source.entries.len());
            for (row, outcome) in rows.iter().zip(self.entries(rows).await) {
                let taken = matches!(outcome, Ok(Outcome::Created | Outcome::Updated | Outcome::Unchanged));
                let Imported { entries, faults, differences, .. } = &mut done;
                settle("entry", &row.entry_id, outcome, entries, faults, differences)?;
                let trim = |why| Fault { what: "entry", key: row.entry_id.clone(), why };
                done.trimmed.extend(dns_names(row).1.into_iter().filter(|_| taken).map(trim));
            }
        }
        bring!("agent", agents, source.nodes, |row: &NodeRow| row.spiffe_id.clone(), node);
        bring!("join token", join_tokens, source.tokens, |_: &TokenRow| "(secret)".to_owned(), token);
        bring!(
            "journal",
            journals,
            source.journals,
            |row: &super::rows::JournalRow| row.active_x509_authority_id.clone(),
            journal
        );
        Ok(done)
    }

    async fn relationship(&self, row: &RelationshipRow) -> Result<Outcome, StoreError> {
        let invalid = |what: &str, cause: &dyn std::fmt::Display| StoreError::Invalid {
            reason: format!("{what}: {cause}"),
        };
        let trust_domain = TrustDomain::from_name_or_id(&row.trust_domain)
            .map_err(|cause| invalid("its trust domain is none", &cause))?;
        let profile = match row.profile.as_str() {
            "https_web" => BundleEndpointProfile::HttpsWeb,
            "https_spiffe" => BundleEndpointProfile::HttpsSpiffe {
                endpoint_spiffe_id: row
                    .endpoint_spiffe_id
                    .parse()
                    .map_err(|cause| invalid("its endpoint SPIFFE ID is none", &cause))?,
            },
            other => return Err(invalid("its profile is not known", &other)),
        };
        let theirs = FederationRelationship { trust_domain, bundle_endpoint_url: row.url.clone(), profile };
        match self.store.relationship(&theirs.trust_domain).await? {
            None => {
                self.write(self.store.create_relationship(&theirs, None)).await?;
                Ok(Outcome::Created)
            }
            Some((ours, _)) if ours == theirs => Ok(Outcome::Unchanged),
            Some(_) if !self.overwrite => Ok(Outcome::Differs),
            Some(_) => {
                self.write(self.store.update_relationship(&theirs, RelationshipMask::ALL, None)).await?;
                Ok(Outcome::Updated)
            }
        }
    }

    async fn node(&self, row: &NodeRow) -> Result<Outcome, StoreError> {
        let theirs = node(row)?;
        let banned = theirs.is_banned();
        if let Some(ours) = self.store.node(&theirs.id).await? {
            if ours == theirs {
                return Ok(Outcome::Unchanged);
            }
            // A ban is never undone, and one that SPIRE's operator made counts here too.
            if banned && !ours.is_banned() {
                self.write(self.store.ban_node(&theirs.id)).await?;
                return Ok(Outcome::Updated);
            }
            if ours.is_banned() || !self.overwrite {
                return Ok(Outcome::Differs);
            }
        } else if !banned && theirs.expires_at < self.now && !theirs.can_reattest {
            // Its SVID is over and it cannot prove itself again: SPIRE would refuse it too.
            return Ok(Outcome::Skipped);
        }
        if self.dry_run {
            return Ok(Outcome::Created);
        }
        let (pending, version) = (theirs.new_serial_number.clone(), theirs.agent_version.clone());
        let (id, current) = (theirs.id.clone(), theirs.serial_number.clone());
        let pending_ends = theirs.new_expires_at;
        // A row without a serial is one of a banned agent: it is never there without the ban.
        let stored = if banned { Node { serial_number: "0".to_owned(), ..theirs } } else { theirs };
        self.store.attested(stored, None).await?;
        if banned {
            self.store.ban_node(&id).await?;
        } else if let Some(ends) = pending_ends.filter(|_| !pending.is_empty()) {
            self.store.node_renewed(&id, &current, &pending, ends).await?;
        }
        if !version.is_empty() {
            self.store.set_agent_version(&id, &version).await?;
        }
        Ok(Outcome::Created)
    }

    async fn token(&self, row: &TokenRow) -> Result<Outcome, StoreError> {
        let expires_at = time(row.expiry);
        if expires_at <= self.now {
            return Ok(Outcome::Skipped);
        }
        if self.dry_run {
            return Ok(Outcome::Created);
        }
        let token = JoinToken { value: row.token.to_string(), expires_at };
        match self.store.create_join_token(&token).await {
            Ok(()) => Ok(Outcome::Created),
            Err(StoreError::Exists { .. }) => Ok(Outcome::Unchanged),
            Err(error) => Err(error),
        }
    }
}

/// Counts what became of one thing. Only a datastore that is away ends the import.
fn settle(
    what: &'static str,
    key: &str,
    outcome: Result<Outcome, StoreError>,
    count: &mut Count,
    faults: &mut Vec<Fault>,
    differences: &mut Vec<Fault>,
) -> Result<(), StoreError> {
    count.found += 1;
    match outcome {
        Ok(Outcome::Created) => count.created += 1,
        Ok(Outcome::Updated) => count.updated += 1,
        Ok(Outcome::Unchanged) => count.unchanged += 1,
        Ok(Outcome::Skipped) => count.skipped += 1,
        Ok(Outcome::Differs) => {
            count.differs += 1;
            let why =
                "it is here already and not the same; ours stayed (-overwrite takes SPIRE's)".to_owned();
            differences.push(Fault { what, key: key.to_owned(), why });
        }
        Err(error @ (StoreError::Away { .. } | StoreError::NoRoom { .. } | StoreError::Database { .. })) => {
            return Err(error);
        }
        Err(error) => {
            count.failed += 1;
            faults.push(Fault { what, key: key.to_owned(), why: error.to_string() });
        }
    }
    Ok(())
}

pub(super) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

/// Seconds since 1970; what is before counts as 1970.
fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

pub(super) fn id(what: &str, text: &str) -> Result<SpiffeId, StoreError> {
    text.parse().map_err(|cause| StoreError::Invalid { reason: format!("its {what} is not valid: {cause}") })
}

pub(super) fn selectors(rows: &[(String, String)]) -> Result<Vec<Selector>, StoreError> {
    let parsed = rows.iter().map(|(kind, value)| {
        Selector::new(kind, value).map_err(|cause| StoreError::Invalid {
            reason: format!("one of its selectors is not valid: {cause}"),
        })
    });
    let mut selectors = parsed.collect::<Result<Vec<_>, _>>()?;
    selectors.sort();
    selectors.dedup();
    Ok(selectors)
}

fn node(row: &NodeRow) -> Result<Node, StoreError> {
    Ok(Node {
        id: id("SPIFFE ID", &row.spiffe_id)?,
        attestation_type: row.data_type.clone(),
        serial_number: row.serial_number.clone(),
        expires_at: time(row.expires_at),
        new_serial_number: row.new_serial_number.clone(),
        new_expires_at: row.new_expires_at.filter(|_| !row.new_serial_number.is_empty()).map(time),
        can_reattest: row.can_reattest,
        agent_version: row.agent_version.clone(),
        selectors: selectors(&row.selectors)?,
    })
}
