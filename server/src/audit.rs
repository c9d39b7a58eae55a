//! The audit log: one line for every call that changes or issues something, and for every refusal.
//!
//! Lines go to the ordinary log with the target `audit` and the fields of docs/guide/audit-log.md. What
//! peers sent is escaped, secrets are never recorded.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use hardroot_hsm_keymanager::{Digest, HashAlgorithm};
use tonic::Status;
use tracing::info;

use crate::authz::Peer;

/// Text of a peer is cut to this many characters in a line.
const LONGEST_VALUE: usize = 512;

/// Writes audit lines, if the configuration wants them.
#[derive(Debug, Clone, Copy)]
pub struct Audit {
    enabled: bool,
}

#[derive(Debug, Default)]
struct Facts {
    uid: Option<u32>,
    gid: Option<u32>,
    pid: Option<i32>,
    addr: Option<String>,
    id: Option<String>,
    details: Vec<(&'static str, String)>,
    /// The handler writes (or has written) this call's lines itself.
    by_handler: bool,
}

/// What is known of one call (request extension). Handlers add what they did to it.
#[derive(Debug, Clone)]
pub struct Record {
    request_id: Arc<str>,
    method: Arc<str>,
    facts: Arc<Mutex<Facts>>,
}

impl Record {
    /// A record of a call to `path`.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self {
            request_id: uuid::Uuid::new_v4().to_string().into(),
            method: path.escape_default().to_string().into(),
            facts: Arc::default(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        // A poisoned lock only means that another task panicked while adding a fact.
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes who is at the other end.
    pub fn peer(&self, peer: &Peer) {
        self.with(|facts| match peer {
            Peer::Local(local) => {
                (facts.uid, facts.gid, facts.pid) = (Some(local.uid), Some(local.gid), local.pid);
            }
            Peer::Remote(remote) => {
                facts.addr = Some(remote.addr.to_string());
                facts.id = remote.id.as_ref().map(ToString::to_string);
            }
        });
    }

    /// Adds a fact, such as `spiffe_id`, to the call's line.
    pub fn add(&self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        self.with(|facts| facts.details.push((name, value)));
    }

    /// Adds the SHA-256 of a CSR.
    pub fn add_csr(&self, csr: &[u8]) {
        self.add("csr", sha256_hex(csr));
    }

    /// The handler answers for the lines of this call: batches write one for each item, streams at their end.
    pub fn by_handler(&self) {
        self.with(|facts| facts.by_handler = true);
    }
}

/// SHA-256 in lower-case hex, as audit lines name CSRs and evidence.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Digest::of(HashAlgorithm::Sha256, bytes).as_bytes())
}

impl Audit {
    /// Writes lines when `enabled`.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        Self { enabled }
    }

    /// The call succeeded.
    pub fn done(&self, record: &Record) {
        if !record.with(|facts| facts.by_handler) {
            self.line(record, &[], None);
        }
    }

    /// The call was refused or failed.
    pub fn refused(&self, record: &Record, status: &Status) {
        if !record.with(|facts| facts.by_handler) {
            self.line(record, &[], Some(status));
        }
    }

    /// A line of its own, with facts of its own besides those of the call: an item of a batch, the end of an
    /// attestation. `failure` is what the peer was told.
    pub fn item(&self, record: &Record, details: &[(&'static str, String)], failure: Option<&Status>) {
        self.line(record, details, failure);
    }

    fn line(&self, record: &Record, extra: &[(&'static str, String)], failure: Option<&Status>) {
        if !self.enabled {
            return;
        }
        record.with(|facts| {
            let details = rendered(facts.details.iter().chain(extra));
            let text = |status: &Status| clean(status.message());
            info!(
                target: "audit",
                {
                "type" = "audit",
                request_id = &*record.request_id,
                method = &*record.method,
                status = if failure.is_some() { "error" } else { "success" },
                status_code = failure.map(|status| tracing::field::debug(status.code())),
                status_message = failure.map(text).as_deref(),
                caller_uid = facts.uid,
                caller_gid = facts.gid,
                caller_pid = facts.pid,
                caller_addr = facts.addr.as_deref(),
                caller_id = facts.id.as_deref(),
                reason = value(facts, extra, "reason").as_deref(),
                agent_id = value(facts, extra, "agent_id").as_deref(),
                spiffe_id = value(facts, extra, "spiffe_id").as_deref(),
                entry_id = value(facts, extra, "entry_id").as_deref(),
                node_attestor_type = value(facts, extra, "node_attestor_type").as_deref(),
                evidence_digest = value(facts, extra, "evidence_digest").as_deref(),
                key_id = value(facts, extra, "key_id").as_deref(),
                serial_number = value(facts, extra, "serial_number").as_deref(),
                expires_at = value(facts, extra, "expires_at").as_deref(),
                csr = value(facts, extra, "csr").as_deref(),
                details,
                },
                "API accessed"
            );
        });
    }
}

/// Facts with a field of their own in the line.
const NAMED: &[&str] = &[
    "reason",
    "agent_id",
    "spiffe_id",
    "entry_id",
    "node_attestor_type",
    "evidence_digest",
    "key_id",
    "serial_number",
    "expires_at",
    "csr",
];

fn value(facts: &Facts, extra: &[(&'static str, String)], name: &str) -> Option<String> {
    let all = extra.iter().chain(facts.details.iter());
    all.filter(|(known, _)| *known == name).map(|(_, value)| clean(value)).next()
}

/// The facts without a field of their own, as `name=value` separated by spaces.
fn rendered<'a>(all: impl Iterator<Item = &'a (&'static str, String)>) -> Option<String> {
    let mut text = String::new();
    for (name, value) in all.filter(|(name, _)| !NAMED.contains(name)) {
        let gap = if text.is_empty() { "" } else { " " };
        // Writing into a String cannot fail.
        let _written = write!(text, "{gap}{name}={}", clean(value));
    }
    (!text.is_empty()).then_some(text)
}

/// Text that may hold a peer's bytes, fit for one line of a log.
fn clean(value: &str) -> String {
    value.chars().take(LONGEST_VALUE).flat_map(char::escape_debug).collect()
}
