//! The store's suite: each trait, restart, several writers, damaged rows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod damage;
mod entries;
mod filters;
mod nodes;
mod opening;
mod others;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_identity::{Selector, SpiffeId, TrustDomain};

use super::*;
use crate::datastore::{Bundles, Entries, Entry, EntryMask, Node, Nodes};

pub(super) struct Fixture {
    pub(super) store: SqliteStore,
    dir: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("datastore.sqlite3")).await.unwrap();
        Self { store, dir }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("datastore.sqlite3")
    }

    /// Closes the store and opens the file anew, as a restart does.
    pub(super) async fn restart(&mut self) {
        self.store.close().await;
        self.store = SqliteStore::open(&self.path()).await.unwrap();
    }

    /// A second store on the same file, as another process would have it.
    pub(super) async fn another(&self) -> SqliteStore {
        SqliteStore::open(&self.path()).await.unwrap()
    }

    /// Runs SQL behind the store's back, with foreign keys off.
    pub(super) async fn sql(&self, sql: &'static str) {
        let mut tx = self.store.writer.acquire().await.unwrap();
        sqlx::raw_sql("PRAGMA foreign_keys = OFF").execute(&mut *tx).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap();
        sqlx::raw_sql("PRAGMA foreign_keys = ON").execute(&mut *tx).await.unwrap();
    }
}

pub(super) fn id(text: &str) -> SpiffeId {
    format!("spiffe://example.org{text}").parse().unwrap()
}

pub(super) fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(super) fn selectors(texts: &[&str]) -> Vec<Selector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn entry(path: &str, parent: &str, with: &[&str]) -> Entry {
    Entry {
        id: String::new(),
        spiffe_id: id(path),
        parent_id: id(parent),
        selectors: selectors(with),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: vec![],
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: vec![],
        revision_number: 0,
        store_svid: false,
        hint: String::new(),
        created_at: 1_700_000_000,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

pub(super) fn node(path: &str, serial: &str, with: &[&str]) -> Node {
    Node {
        id: id(path),
        attestation_type: "tpm_quote".into(),
        serial_number: serial.into(),
        expires_at: at(2_000_000_000),
        new_serial_number: String::new(),
        new_expires_at: None,
        can_reattest: true,
        agent_version: String::new(),
        selectors: selectors(with),
    }
}
