//! The audit log: a line for every call that changes, issues or reads something for an operator, for each item
//! of a batch, and for every refusal.
//!
//! Lines go where the ordinary log goes, with the fields of docs/guide/audit-log.md, whatever the log level.
//! They are written directly and in order, so that a line that could not be written is noticed. What peers
//! sent is escaped and cut, secrets are never recorded.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hardroot_hsm_keymanager::{Digest, HashAlgorithm};
use hardroot_runtime::logs::{LogField, LogFormat, LogHandle};
use serde_json::Value;
use tonic::Status;
use tracing::error;

use crate::authz::Peer;

/// Text of a peer is cut to this many characters in a line.
const LONGEST_VALUE: usize = 512;
/// A list of a peer's texts is cut to this many characters.
const LONGEST_LIST: usize = 8192;

/// Facts of a line: name and value, in order.
#[derive(Debug, Clone, Default)]
pub struct Details(Vec<LogField>);

impl Details {
    /// Adds a fact; text is cut to 512 characters.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        let value = match value.into() {
            Value::String(text) => cut(text, LONGEST_VALUE).into(),
            other => other,
        };
        self.0.push((name.into(), value));
    }

    /// Adds facts.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Adds texts separated by commas, as SPIRE writes lists; nothing for none.
    pub fn add_list<T: AsRef<str>>(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        texts: impl IntoIterator<Item = T>,
    ) {
        let mut all = String::new();
        for text in texts {
            if all.len() > LONGEST_LIST {
                break;
            }
            if !all.is_empty() {
                all.push(',');
            }
            all.push_str(text.as_ref());
        }
        if !all.is_empty() {
            self.0.push((name.into(), cut(all, LONGEST_LIST).into()));
        }
    }
}

impl From<&[(&'static str, String)]> for Details {
    fn from(facts: &[(&'static str, String)]) -> Self {
        let mut details = Self::default();
        for (name, value) in facts {
            details.add(*name, value.as_str());
        }
        details
    }
}

impl<const N: usize> From<&[(&'static str, String); N]> for Details {
    fn from(facts: &[(&'static str, String); N]) -> Self {
        Self::from(facts.as_slice())
    }
}

/// At most `longest` characters, with a mark where more followed.
fn cut(mut text: String, longest: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(longest) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Writes audit lines, if the configuration wants them.
#[derive(Debug, Clone)]
pub struct Audit {
    log: Option<LogHandle>,
    required: bool,
}

#[derive(Debug, Default)]
struct Facts {
    /// Who calls: `caller_uid` and so on.
    caller: Vec<LogField>,
    /// As whom the call was let in, and by what means.
    authorized: Option<(&'static str, &'static str)>,
    details: Details,
    /// The handler writes (or has written) this call's lines itself.
    by_handler: bool,
}

/// What is known of one call (request extension). Handlers add what they did to it.
#[derive(Debug, Clone)]
pub struct Record {
    request_id: Arc<str>,
    service: Arc<str>,
    method: Arc<str>,
    facts: Arc<Mutex<Facts>>,
}

impl Record {
    /// A record of a call to `path`, such as `/spire.api.server.agent.v1.Agent/GetAgent`.
    #[must_use]
    pub fn new(path: &str) -> Self {
        let path = path.trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or(("", path));
        // As SPIRE shortens them.
        let service = service.strip_prefix("spire.api.server.").unwrap_or(service);
        let service = match service {
            "grpc.health.v1.Health" => "Health",
            "logger.v1.Logger" => "Logger",
            other => other,
        };
        Self {
            request_id: uuid::Uuid::new_v4().to_string().into(),
            service: cut(service.to_owned(), LONGEST_VALUE).into(),
            method: cut(method.to_owned(), LONGEST_VALUE).into(),
            facts: Arc::default(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        // A poisoned lock only means that another task panicked while adding a fact.
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes who is at the other end.
    pub fn peer(&self, peer: &Peer) {
        let mut caller: Vec<LogField> = Vec::new();
        match peer {
            Peer::Local(local) => {
                caller.push(("caller_uid".into(), local.uid.into()));
                caller.push(("caller_gid".into(), local.gid.into()));
                if let Some(pid) = local.pid {
                    caller.push(("caller_pid".into(), pid.into()));
                    // What runs there now; the process may be gone or not ours to look at.
                    if let Ok(path) = std::fs::read_link(format!("/proc/{pid}/exe")) {
                        let path = cut(path.to_string_lossy().into_owned(), LONGEST_VALUE);
                        caller.push(("caller_path".into(), path.into()));
                    }
                }
            }
            Peer::Remote(remote) => {
                caller.push(("caller_addr".into(), remote.addr.to_string().into()));
                if let Some(proxy) = remote.via {
                    caller.push(("proxy_addr".into(), proxy.to_string().into()));
                }
                if let Some(id) = &remote.id {
                    caller.push(("caller_id".into(), id.as_str().into()));
                }
            }
        }
        self.with(|facts| facts.caller = caller);
    }

    /// Notes as whom the call was let in (`admin`), and by what means (`entries`).
    pub fn authorized(&self, role: &'static str, means: &'static str) {
        self.with(|facts| facts.authorized = Some((role, means)));
    }

    /// Adds a fact, such as `spiffe_id`, to the call's line.
    pub fn add(&self, name: &'static str, value: impl Into<Value>) {
        self.with(|facts| facts.details.add(name, value));
    }

    /// Adds a list, such as `audience`, to the call's line; nothing for an empty one.
    pub fn add_list(&self, name: &'static str, texts: &[String]) {
        self.with(|facts| facts.details.add_list(name, texts));
    }

    /// Adds facts to the call's line.
    pub fn extend(&self, details: Details) {
        self.with(|facts| facts.details.extend(details));
    }

    /// Adds the SHA-256 of a CSR.
    pub fn add_csr(&self, csr: &[u8]) {
        self.add("csr", sha256_hex(csr));
    }

    /// The handler answers for the lines of this call: batches write one for each item, streams at their end.
    pub fn by_handler(&self) {
        self.with(|facts| facts.by_handler = true);
    }

    fn is_by_handler(&self) -> bool {
        self.with(|facts| facts.by_handler)
    }
}

/// SHA-256 in lower-case hex, as audit lines name CSRs, keys and evidence.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Digest::of(HashAlgorithm::Sha256, bytes).as_bytes())
}

impl Audit {
    /// Writes lines to `log`. With `required`, what was issued is handed out only when its line was written.
    #[must_use]
    pub fn new(log: LogHandle, required: bool) -> Self {
        Self { log: Some(log), required }
    }

    /// Writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { log: None, required: false }
    }

    /// The call succeeded.
    pub fn done(&self, record: &Record) {
        if !record.is_by_handler() {
            self.try_line(record, &Details::default(), None);
        }
    }

    /// The call issued something that is about to be handed out.
    ///
    /// # Errors
    /// `Internal`, to be answered instead, when the line is required and could not be written.
    pub fn done_issuing(&self, record: &Record) -> Result<(), Status> {
        if record.is_by_handler() { Ok(()) } else { self.issued(record, Details::default()) }
    }

    /// The call was refused or failed.
    pub fn refused(&self, record: &Record, status: &Status) {
        if !record.is_by_handler() {
            self.try_line(record, &Details::default(), Some(status));
        }
    }

    /// A line of its own, with facts of its own besides those of the call: an item of a batch, the end of an
    /// attestation. `failure` is what the peer was told.
    pub fn item(&self, record: &Record, details: impl Into<Details>, failure: Option<&Status>) {
        self.try_line(record, &details.into(), failure);
    }

    /// As [`Audit::item`], for something that was issued and is about to be handed out.
    ///
    /// # Errors
    /// `Internal`, to be answered instead, when the line is required and could not be written.
    pub fn issued(&self, record: &Record, details: impl Into<Details>) -> Result<(), Status> {
        match self.line(record, &details.into(), None) {
            Err(cause) if self.required => {
                error!(error = %cause, "an audit line could not be written: what was issued is not handed out");
                Err(Status::internal(
                    "the audit record could not be written; nothing is handed out without one",
                ))
            }
            Err(cause) => {
                lost(&cause);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn try_line(&self, record: &Record, details: &Details, failure: Option<&Status>) {
        if let Err(cause) = self.line(record, details, failure) {
            lost(&cause);
        }
    }

    fn line(&self, record: &Record, extra: &Details, failure: Option<&Status>) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut fields: Vec<LogField> = vec![
            ("type".into(), "audit".into()),
            ("subsystem_name".into(), "api".into()),
            ("request_id".into(), (&*record.request_id).into()),
            ("service".into(), (&*record.service).into()),
            ("method".into(), (&*record.method).into()),
            ("status".into(), if failure.is_some() { "error" } else { "success" }.into()),
        ];
        if let Some(status) = failure {
            // As SPIRE's log library writes a code.
            let code = match log.format() {
                LogFormat::Json => i32::from(status.code()).into(),
                LogFormat::Text => format!("{:?}", status.code()).into(),
            };
            fields.push(("status_code".into(), code));
            let message = cut(status.message().to_owned(), LONGEST_VALUE);
            fields.push(("status_message".into(), message.into()));
        }
        record.with(|facts| {
            fields.extend(facts.caller.iter().cloned());
            let (role, means) = facts.authorized.unwrap_or(("nobody", ""));
            fields.push(("authorized_as".into(), role.into()));
            fields.push(("authorized_via".into(), means.into()));
            // No fact of a call poses as one of these. Of two facts with one name the later one wins: the
            // item's own.
            let reserved = fields.len();
            for (name, value) in facts.details.0.iter().chain(&extra.0) {
                match fields.iter().position(|(known, _)| known == name) {
                    Some(at) if at < reserved => {}
                    Some(at) => {
                        if let Some((_, old)) = fields.get_mut(at) {
                            *old = value.clone();
                        }
                    }
                    None => fields.push((name.clone(), value.clone())),
                }
            }
        });
        log.write("API accessed", &fields)
    }
}

fn lost(cause: &io::Error) {
    error!(error = %cause, "an audit line could not be written");
}

#[cfg(test)]
mod tests;
