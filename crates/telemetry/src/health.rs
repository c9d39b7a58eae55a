//! `health_checks`: liveness and readiness over HTTP, with SPIRE's keys and answers.

use std::sync::Arc;

use async_trait::async_trait;
use hardroot_config::Block;
use serde_json::{Map, Value, json};

use crate::http::{Answer, Handler, HttpListener, Question, listen};

/// The block's values, with SPIRE's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// Whether there is a listener.
    pub listener_enabled: bool,
    /// Host or address.
    pub bind_address: String,
    /// Port; 0 lets the system choose (for tests).
    pub bind_port: u16,
    /// Path of liveness.
    pub live_path: String,
    /// Path of readiness.
    pub ready_path: String,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            listener_enabled: false,
            bind_address: "localhost".to_owned(),
            bind_port: 80,
            live_path: "/live".to_owned(),
            ready_path: "/ready".to_owned(),
        }
    }
}

impl HealthConfig {
    /// Reads the block `health_checks` of `root`.
    #[must_use]
    pub fn decode(root: &Block<'_>) -> Self {
        let usual = Self::default();
        let Some(block) = root.opt_block("health_checks") else { return usual };
        let path = |key: &str, usual: String| match block.string(key).filter(|path| !path.is_empty()) {
            None => usual,
            Some(path) if path.starts_with('/') => path,
            Some(_) => {
                block.fault(key, "must begin with /");
                usual
            }
        };
        let config = Self {
            listener_enabled: block.bool_or("listener_enabled", false),
            bind_address: block
                .string("bind_address")
                .filter(|address| !address.is_empty())
                .unwrap_or(usual.bind_address),
            bind_port: block
                .int_in("bind_port", 0..=i64::from(u16::MAX))
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(usual.bind_port),
            live_path: path("live_path", usual.live_path),
            ready_path: path("ready_path", usual.ready_path),
        };
        if config.live_path == config.ready_path {
            block.fault("ready_path", "and live_path must differ");
        }
        block.finish();
        config
    }
}

/// What is known of one part of a daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its name, SPIRE's where there is one (`server.ca`, `catalog.datastore`).
    pub name: &'static str,
    /// Whether it does its work, or will without a restart.
    pub live: bool,
    /// Whether it does its work now.
    pub ready: bool,
    /// Facts for people and programs. Never a secret: whoever reaches the port reads them.
    pub details: Map<String, Value>,
}

impl Part {
    /// A part that lives, ready or not, with facts.
    #[must_use]
    pub fn new(name: &'static str, ready: bool, details: Value) -> Self {
        let details = match details {
            Value::Object(details) => details,
            Value::Null => Map::new(),
            other => Map::from_iter([("message".to_owned(), other)]),
        };
        Self { name, live: true, ready, details }
    }
}

/// Says how a daemon is. The one source for HTTP and gRPC.
#[async_trait]
pub trait Healthy: Send + Sync {
    /// Every part. With `probe`, the token or chip is asked for a signature first, at most once in a stated time;
    /// without, nothing is asked of the hardware.
    async fn parts(&self, probe: bool) -> Vec<Part>;
}

/// Opens the listener.
///
/// # Errors
/// The address cannot be had.
pub async fn serve(config: &HealthConfig, health: Arc<dyn Healthy>) -> std::io::Result<HttpListener> {
    let (live, ready) = (config.live_path.clone(), config.ready_path.clone());
    let handler: Handler = Arc::new(move |question: Question| {
        let (health, live, ready) = (Arc::clone(&health), live.clone(), ready.clone());
        Box::pin(async move {
            if question.path == live {
                told(&health.parts(false).await, |part| part.live)
            } else if question.path == ready {
                let probe = question.query.split('&').any(|pair| pair == "probe=1");
                told(&health.parts(probe).await, |part| part.ready)
            } else {
                Answer::text(404, "404 page not found\n")
            }
        })
    });
    listen(&config.bind_address, config.bind_port, handler).await
}

/// 200 when every part is well, else 500; the body says how each one is.
fn told(parts: &[Part], well: impl Fn(&Part) -> bool) -> Answer {
    let mut body = Map::new();
    for part in parts {
        let mut details = part.details.clone();
        details.insert("live".to_owned(), json!(part.live));
        details.insert("ready".to_owned(), json!(part.ready));
        body.insert(part.name.to_owned(), Value::Object(details));
    }
    let status = if parts.iter().all(well) { 200 } else { 500 };
    Answer { status, content_type: "application/json", body: format!("{}\n", Value::Object(body)) }
}

#[cfg(test)]
mod tests {
    use hardroot_config::{Decoder, Document};

    use super::*;

    fn read(text: &str) -> Result<HealthConfig, String> {
        let document = Document::parse(text).unwrap();
        let decoder = Decoder::new(&document, "x.conf");
        let config = HealthConfig::decode(decoder.root());
        decoder.into_result().map(|()| config).map_err(|faults| faults.to_string())
    }

    #[test]
    fn keys_and_defaults_are_spires() {
        assert_eq!(read("").unwrap(), HealthConfig::default());
        let config = read(
            "health_checks { listener_enabled = true bind_address = \"0.0.0.0\" bind_port = \"8080\" live_path = \"/l\" ready_path = \"/r\" }",
        )
        .unwrap();
        assert!(config.listener_enabled);
        assert_eq!((config.bind_address.as_str(), config.bind_port), ("0.0.0.0", 8080));
        assert_eq!((config.live_path.as_str(), config.ready_path.as_str()), ("/l", "/r"));
        for bad in [
            "live_path = \"live\"",
            "live_path = \"/x\" ready_path = \"/x\"",
            "port = 1",
            "bind_port = 70000",
        ] {
            assert!(read(&format!("health_checks {{ {bad} }}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_part_that_is_not_ready_is_enough() {
        let parts = [
            Part::new("server", true, Value::Null),
            Part::new("server.ca", false, json!({"message": "no token"})),
        ];
        let answer = told(&parts, |part| part.ready);
        assert_eq!(answer.status, 500);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["server.ca"]["message"], "no token");
        assert_eq!((&body["server"]["ready"], &body["server.ca"]["live"]), (&json!(true), &json!(true)));
        assert_eq!(told(&parts, |part| part.live).status, 200);
    }
}
