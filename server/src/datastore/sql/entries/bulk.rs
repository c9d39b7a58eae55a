//! Many entries at once: a transaction and a few statements for each lot of them.

use std::collections::{HashMap, HashSet};

use hardroot_identity::TrustDomain;

use super::super::access::{Session, retrying, sql};
use super::super::{SqlStore, StoreError, broken};
use super::write::{begin_life, insert_many, similar};
use crate::datastore::{Entries, Entry, rules};

/// How many entries are made in one transaction. Who else changes entries waits for it a moment.
const LOT: usize = 200;

const OP: &str = "create entries";

/// What became of an entry: as it is stored, and whether a similar one was there.
type Outcome = Result<(Entry, bool), StoreError>;

impl SqlStore {
    pub(super) async fn create_many(&self, entries: Vec<Entry>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for lot in entries.chunks(LOT) {
            match retrying!(self.create_lot(lot)) {
                Ok(done) => outcomes.extend(done),
                Err(StoreError::Away { op, cause }) => {
                    let away = |_: &Entry| Err(StoreError::Away { op, cause: cause.to_string().into() });
                    outcomes.extend(lot.iter().map(away));
                }
                Err(StoreError::NoRoom { op, cause }) => {
                    let full = |_: &Entry| Err(StoreError::NoRoom { op, cause: cause.to_string().into() });
                    outcomes.extend(lot.iter().map(full));
                }
                // One of them cannot be stored, and took the others along: each by itself shows which.
                Err(_) => {
                    for entry in lot {
                        outcomes.push(self.create_entry(entry.clone()).await);
                    }
                }
            }
        }
        outcomes
    }

    /// All of a lot that can be made, in one transaction.
    async fn create_lot(&self, lot: &[Entry]) -> Result<Vec<Outcome>, StoreError> {
        let mut tx = self.begin_changes(OP).await?;
        let bundles = bundles_of(&mut tx.session, lot).await?;
        let ids: Vec<&str> = lot.iter().map(|entry| entry.id.as_str()).filter(|id| !id.is_empty()).collect();
        let known = tx.known_entries(OP, &ids).await?;
        let mut outcomes = Vec::with_capacity(lot.len());
        let mut made: Vec<Entry> = Vec::new();
        let mut places = HashMap::new();
        for entry in lot {
            if let Err(refused) = rules::check_new(entry) {
                outcomes.push(Err(refused));
                continue;
            }
            let mut entry = entry.clone();
            begin_life(&mut entry);
            if known.contains(&entry.id) {
                entry.revision_number = tx.unused_number();
            }
            let place = (entry.spiffe_id.clone(), entry.parent_id.clone(), entry.selectors.clone());
            let twin = places.get(&place).and_then(|n: &usize| made.get(*n));
            let there = match twin {
                Some(twin) => Some(twin.clone()),
                None => similar(&mut tx.session, &entry).await?,
            };
            if let Some(there) = there {
                outcomes.push(Ok((there, true)));
                continue;
            }
            if let Some(unknown) =
                entry.federates_with.iter().find(|domain| !bundles.contains(domain.as_str()))
            {
                outcomes.push(Err(StoreError::NoFederatedBundle { trust_domain: unknown.clone() }));
                continue;
            }
            places.insert(place, made.len());
            made.push(entry.clone());
            outcomes.push(Ok((entry, false)));
        }
        if !made.is_empty() {
            insert_many(&mut tx, &made).await?;
            self.commit_changes(tx, OP).await?;
        }
        Ok(outcomes)
    }
}

/// Those of the trust domains which the entries federate with whose bundles are there. They stay there until the
/// transaction ends.
async fn bundles_of(session: &mut Session, lot: &[Entry]) -> Result<HashSet<String>, StoreError> {
    let wanted: HashSet<&str> =
        lot.iter().flat_map(|entry| &entry.federates_with).map(TrustDomain::as_str).collect();
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = session.fetch_all(OP, sql("SELECT trust_domain FROM bundles")).await?;
    let name = |row: &super::super::access::Row| row.text("trust_domain").map_err(|cause| broken(OP, cause));
    rows.iter().map(name).collect()
}
