//! Taking over a changed configuration while serving: SIGHUP, and SIGUSR1 for the plugins alone.
//!
//! A configuration with a fault changes nothing. What cannot be changed while serving is named, and what can is
//! taken over all the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hardroot_config::{Body, Document, Kind, Value};
use hardroot_runtime::logs::LogHandle;
use hardroot_telemetry::count;
use hardroot_transport::BundleSource;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::attestors;
use crate::attest::{Attestation, chain};
use crate::config::{ConfigError, ServerConfig};
use crate::datastore::SqlStore;
use crate::endpoints::RateLimits;

/// Keys (lower case, without labels) below which a change is taken over while serving.
const TAKEN_OVER: &[&str] = &["server.log_level", "server.ratelimit", "plugins.nodeattestor"];

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// Everything that can change: SIGHUP.
    Everything,
    /// The data of the plugins: SIGUSR1.
    Plugins,
}

/// Reads the configuration anew, with its text for comparison.
pub type Loader = Box<dyn Fn() -> Result<(ServerConfig, Document), ConfigError> + Send + Sync>;

/// How a running server learns of changes.
pub struct Reloads {
    /// Requests.
    pub requests: mpsc::Receiver<Reload>,
    /// Reads the configuration.
    pub load: Loader,
    /// The log, whose level is part of it.
    pub log: LogHandle,
    /// The configuration as it was read at the start.
    pub running: Settings,
}

/// The parts of a running server that can change.
pub(super) struct Changeable {
    pub(super) attestation: Attestation,
    pub(super) limits: Arc<RateLimits>,
    pub(super) store: SqlStore,
    pub(super) bundles: Arc<dyn BundleSource>,
    pub(super) config: ServerConfig,
}

impl Reloads {
    /// The next request; never, when nobody can ask any more.
    pub(super) async fn next(&mut self) -> Reload {
        match self.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }

    /// Takes over what changed.
    pub(super) fn take_over(&mut self, what: Reload, server: &Changeable) {
        let (config, document) = match (self.load)() {
            Ok(read) => read,
            Err(fault) => {
                for line in chain(&fault).lines() {
                    error!(error = line, "the configuration has a fault and is not taken over");
                }
                count("hardroot.reload", &[("result", "invalid")]);
                return;
            }
        };
        let mut with_ours = config.clone();
        // The running server's trust domain stays, whatever the file says by now.
        with_ours.trust_domain = server.config.trust_domain.clone();
        let attestors = match attestors::build(&with_ours, &server.store, &server.bundles) {
            Ok(attestors) => attestors,
            Err(fault) => {
                error!(error = %chain(&fault), "the configuration is not taken over");
                count("hardroot.reload", &[("result", "invalid")]);
                return;
            }
        };
        server.attestation.replace(attestors);
        if what == Reload::Everything {
            server.limits.set(config.limit_attestation, config.limit_signing);
            if let Err(gone) = self.log.set_level(config.log_level) {
                error!(error = %gone, "the log level stays as it was");
            }
            let new = Settings::of(&document);
            let (taken, restart) = self.running.changes(&new);
            for (key, line) in &restart {
                warn!(key, line, "this change of the configuration needs a restart of the server");
            }
            info!(
                changed = taken.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(" "),
                log_level = %config.log_level, "the configuration was taken over"
            );
            self.running.take(new);
        } else {
            info!("the node attestors' data was read anew");
        }
        count("hardroot.reload", &[("result", "ok")]);
    }
}

/// Every setting of a file: its key, its line and a digest of its value, which may be a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    all: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Settings {
    /// Of a document.
    #[must_use]
    pub fn of(document: &Document) -> Self {
        let mut settings = Self::default();
        settings.body("", document.body());
        settings
    }

    fn body(&mut self, path: &str, body: &Body) {
        for item in &body.items {
            let mut key =
                if path.is_empty() { item.key.text.clone() } else { format!("{path}.{}", item.key.text) };
            for label in &item.labels {
                key = format!("{key}.{}", label.text);
            }
            self.value(&key, &item.value);
        }
    }

    fn value(&mut self, key: &str, value: &Value) {
        match &value.kind {
            Kind::Object(body) => self.body(key, body),
            Kind::List(list) => {
                for (at, element) in list.iter().enumerate() {
                    self.value(&format!("{key}.{at}"), element);
                }
            }
            Kind::Null => self.put(key, value, "null"),
            Kind::Bool(value_of) => self.put(key, value, if *value_of { "true" } else { "false" }),
            Kind::Number(text) | Kind::Text(text) => self.put(key, value, text),
        }
    }

    fn put(&mut self, key: &str, value: &Value, text: &str) {
        let digest = digest(&SHA256, text.as_bytes()).as_ref().to_vec();
        self.all.insert(key.to_owned(), (value.pos.line, digest));
    }

    /// What differs in `new`, with its line there (or here, when it is gone): what can be taken over, and what
    /// needs a restart.
    #[must_use]
    #[expect(clippy::type_complexity, reason = "two lists of the same kind")]
    pub fn changes(&self, new: &Self) -> (Vec<(String, u32)>, Vec<(String, u32)>) {
        let differs = |key: &String, digest: &Vec<u8>, other: &Self| {
            other.all.get(key).is_none_or(|(_, known)| known != digest)
        };
        let mut changed: BTreeMap<String, u32> = BTreeMap::new();
        for (key, (line, digest)) in &self.all {
            if differs(key, digest, new) {
                changed.insert(key.clone(), *line);
            }
        }
        for (key, (line, digest)) in &new.all {
            if differs(key, digest, self) {
                changed.insert(key.clone(), *line);
            }
        }
        changed.into_iter().partition(|(key, _)| is_taken_over(key))
    }

    /// What was taken over is running now; the rest is compared with what runs, again and again.
    fn take(&mut self, new: Self) {
        self.all.retain(|key, _| !is_taken_over(key));
        self.all.extend(new.all.into_iter().filter(|(key, _)| is_taken_over(key)));
    }
}

fn is_taken_over(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    TAKEN_OVER
        .iter()
        .any(|known| key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::of(&Document::parse(text).unwrap())
    }

    const OLD: &str = "server {\n log_level = \"info\"\n bind_port = 8081\n ratelimit { signing = true }\n admin_ids = [\"a\", \"b\"] }\n\
        plugins {\n NodeAttestor \"x509pop\" { plugin_data { ca_bundle_path = \"/a\" } }\n KeyManager \"memory\" {} }\n";

    fn keys(list: &[(String, u32)]) -> Vec<(&str, u32)> {
        list.iter().map(|(key, line)| (key.as_str(), *line)).collect()
    }

    #[test]
    fn changes_are_named_and_sorted_by_what_they_need() {
        let new = OLD
            .replace("\"info\"", "\"debug\"")
            .replace("8081", "8082")
            .replace("signing = true", "signing = false")
            .replace("\"b\"]", "\"b\", \"c\"]")
            .replace("\"/a\"", "\"/b\"");
        let (taken, restart) = settings(OLD).changes(&settings(&new));
        assert_eq!(
            keys(&taken),
            [
                ("plugins.NodeAttestor.x509pop.plugin_data.ca_bundle_path", 7),
                ("server.log_level", 2),
                ("server.ratelimit.signing", 4)
            ]
        );
        assert_eq!(keys(&restart), [("server.admin_ids.2", 5), ("server.bind_port", 3)]);
    }

    #[test]
    fn moved_lines_and_other_spelling_are_no_change() {
        let moved = format!("# a comment\n\n{OLD}");
        assert_eq!(settings(OLD).changes(&settings(&moved)), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_needs_a_restart_is_said_again_until_it_happens() {
        let new = settings(&OLD.replace("8081", "8082").replace("\"info\"", "\"warn\""));
        let mut running = settings(OLD);
        let (taken, restart) = running.changes(&new);
        assert_eq!((taken.len(), restart.len()), (1, 1));
        running.take(new.clone());
        let (taken, restart) = running.changes(&new);
        assert_eq!((taken.len(), restart.len()), (0, 1));
    }

    #[test]
    fn values_are_not_kept() {
        let text = format!("{:?}", settings("server { password_like = \"hunter2hunter2\" }"));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
