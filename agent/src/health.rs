//! How the agent is, for the HTTP listener and the gauge `hardroot.ready`. Nothing here asks the hardware, the server or
//! the disk for anything: it is what they said last.
//!
//! An agent that is cut off from its server, or whose key's device is away, serves what is still valid, so neither makes
//! it other than ready; what makes it so is having nothing to say to workloads yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_hsm_keymanager::Custody;
use hardroot_runtime::clock::Clock;
use hardroot_telemetry::health::{Healthy, Part};
use hardroot_telemetry::token::TokenFacts;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::source::Availability;
use crate::status::AgentStatus;

/// What health looks at.
pub(crate) struct Subjects {
    pub(crate) status: Arc<AgentStatus>,
    /// What a caller without selectors is told: whether there is anything to be told yet.
    pub(crate) availability: watch::Receiver<Availability>,
    pub(crate) token: Arc<TokenFacts>,
    pub(crate) custody: Custody,
    pub(crate) clock: Arc<dyn Clock>,
}

struct Shared {
    of: Subjects,
    alive: AtomicBool,
}

/// Health of this agent; a cheap handle.
#[derive(Clone)]
pub(crate) struct AgentHealth {
    shared: Arc<Shared>,
}

impl AgentHealth {
    /// Of an agent that is about to serve.
    pub(crate) fn new(of: Subjects) -> Self {
        Self { shared: Arc::new(Shared { of, alive: AtomicBool::new(true) }) }
    }

    /// The agent is ending.
    pub(crate) fn stopping(&self) {
        self.shared.alive.store(false, Ordering::Relaxed);
    }

    /// Whether workloads are told what they may have, also if that is nothing.
    pub(crate) fn is_ready(&self) -> bool {
        let starting = matches!(*self.shared.of.availability.borrow(), Availability::Starting);
        self.shared.alive.load(Ordering::Relaxed) && !starting
    }

    fn agent(&self) -> Part {
        let (of, now) = (&self.shared.of, self.shared.of.clock.now());
        let alive = self.shared.alive.load(Ordering::Relaxed);
        let mut details = Map::new();
        details.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        details.insert("uptime_seconds".to_owned(), json!(of.status.uptime().as_secs()));
        let mut message = None;
        match of.status.svid_end() {
            None => message = Some("the node is not attested"),
            Some(end) => {
                details.insert("svid_remaining_seconds".to_owned(), json!(seconds(end, now)));
                if end <= now {
                    message = Some("the agent's SVID has expired; what is still valid is served");
                }
            }
        }
        if let Some(at) = of.status.last_sync() {
            details.insert("last_sync_age_seconds".to_owned(), json!(seconds(now, at)));
        }
        if !alive {
            message = Some("the agent is ending");
        } else if !self.is_ready() {
            message = message.or(Some("the agent was not in step with its server yet"));
        }
        say(&mut details, message.map(ToOwned::to_owned));
        let mut part = Part::new("agent", self.is_ready(), Value::Object(details));
        part.live = alive;
        part
    }

    fn keys(&self) -> Part {
        let (of, now, known) = (&self.shared.of, self.shared.of.clock.now(), self.shared.of.token.known());
        let mut details = Map::new();
        details.insert("key_manager".to_owned(), json!(of.custody.backend));
        details.insert("keys_in_hardware".to_owned(), json!(of.custody.hardware));
        if let Some(at) = known.last_signature {
            details.insert("last_signature_age_seconds".to_owned(), json!(seconds(now, at)));
        }
        if let Some((since, why)) = known.failing {
            details.insert("failing_seconds".to_owned(), json!(seconds(now, since)));
            say(&mut details, Some(why));
        }
        Part::new("agent.keys", true, Value::Object(details))
    }
}

#[async_trait]
impl Healthy for AgentHealth {
    // The agent's key signs when the server is connected to: there is nothing that a probe would tell in time.
    async fn parts(&self, _probe: bool) -> Vec<Part> {
        vec![self.agent(), self.keys()]
    }
}

fn say(details: &mut Map<String, Value>, message: Option<String>) {
    if let Some(message) = message {
        details.insert("message".to_owned(), Value::String(message));
    }
}

/// Whole seconds from `earlier` to `later`; negative when they are the other way round.
fn seconds(later: SystemTime, earlier: SystemTime) -> i64 {
    match later.duration_since(earlier) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(error) => i64::try_from(error.duration().as_secs()).map_or(i64::MIN, |back| -back),
    }
}
