//! Starting what the `telemetry` block asks for.

use std::sync::Arc;
use std::time::Duration;

use hardroot_transport::{BundleSource, IdentitySlot};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::{PrometheusConfig, TelemetryConfig};
use crate::emit::activate;
use crate::filter::Filter;
use crate::http::{Answer, Handler, HttpListener, Question, listen_with};
use crate::recorder::{Naming, Recorder};
use crate::statsd::{Flavour, Outlet, deliver};
use crate::{process, prometheus, tls};

/// Gauges that are read, not told, reach StatsD this often.
const READ: Duration = Duration::from_secs(10);

/// Sets gauges whose values are read when somebody asks.
pub type Reader = Arc<dyn Fn() + Send + Sync>;

/// What the daemon shows and trusts, for TLS of the listener.
#[derive(Clone)]
pub struct Identity {
    /// Its SVID.
    pub svid: IdentitySlot,
    /// The bundles it knows.
    pub bundles: Arc<dyn BundleSource>,
}

/// Why telemetry did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The listener's address cannot be had.
    #[error("cannot listen on {host}:{port} for Prometheus; is something else running there?")]
    Listen {
        /// Configured host.
        host: String,
        /// Configured port.
        port: u16,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// TLS cannot be had.
    #[error("the Prometheus listener has no TLS")]
    Tls(#[from] tls::BadTls),
    /// There is a recorder in this process already.
    #[error("metrics are already set up in this process")]
    Twice,
}

/// Telemetry that runs; it ends when this is dropped, but emissions go on being counted.
pub struct Telemetry {
    recorder: Option<Recorder>,
    reader: Reader,
    listener: Option<HttpListener>,
    in_mem: bool,
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Nothing is told.
    #[must_use]
    pub fn off() -> Self {
        let reader: Reader = Arc::new(|| {});
        Self { recorder: None, reader, listener: None, in_mem: false, _tasks: JoinSet::new() }
    }

    /// The listener that Prometheus scrapes.
    #[must_use]
    pub fn listener(&self) -> Option<&HttpListener> {
        self.listener.as_ref()
    }

    /// Writes every metric to the log, if `InMem` is configured.
    pub fn log(&self) {
        let Some(recorder) = self.recorder.as_ref().filter(|_| self.in_mem) else { return };
        (self.reader)();
        let mut all = recorder.all();
        all.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
        for series in all {
            let labels: Vec<String> =
                series.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            info!(metric = %series.name, labels = labels.join(" "), value = series.number(), "metric");
        }
    }
}

/// Counting has begun; [`Begun::serve`] lets others read it.
pub struct Begun {
    recorder: Option<Recorder>,
    prometheus: Option<PrometheusConfig>,
    in_mem: bool,
    sends: bool,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").field("recorder", &self.recorder).finish_non_exhaustive()
    }
}

/// Installs the recorder: whatever happens from now on is counted, and sent to collectors. `prefix` is the daemon's
/// default for `MetricPrefix`.
///
/// # Errors
/// [`TelemetryError::Twice`].
pub fn begin(config: &TelemetryConfig, prefix: &str, trust_domain: &str) -> Result<Begun, TelemetryError> {
    let (mut outlets, mut tasks) = (Vec::new(), JoinSet::new());
    if !config.is_on() {
        return Ok(Begun { recorder: None, prometheus: None, in_mem: false, sends: false, tasks });
    }
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let naming = Naming {
        prefix: config.prefix.clone().unwrap_or_else(|| prefix.to_owned()),
        host: host.filter(|_| config.host_label),
        trust_domain: config.trust_domain_label.then(|| trust_domain.to_owned()),
    };
    let filter = Filter::new(
        &config.allowed_prefixes,
        &config.blocked_prefixes,
        &config.allowed_labels,
        &config.blocked_labels,
    );
    let plain = config.statsd.iter().map(|address| (Flavour::Plain, address));
    let dog = config.dog_statsd.iter().map(|address| (Flavour::Dog, address));
    for (flavour, address) in plain.chain(dog) {
        let (outlet, lines) = Outlet::new(flavour);
        outlets.push(Arc::new(outlet));
        tasks.spawn(deliver(address.clone(), lines));
    }
    let sends = !outlets.is_empty();
    let recorder = Recorder::with(naming, filter, outlets);
    metrics::set_global_recorder(recorder.clone()).map_err(|_already| TelemetryError::Twice)?;
    activate();
    let prometheus = config.prometheus.clone();
    Ok(Begun { recorder: Some(recorder), prometheus, in_mem: config.in_mem, sends, tasks })
}

impl Begun {
    /// Opens the listener. `reader` sets the gauges that are read only when somebody asks.
    ///
    /// # Errors
    /// [`TelemetryError::Listen`], [`TelemetryError::Tls`].
    pub async fn serve(mut self, identity: &Identity, reader: Reader) -> Result<Telemetry, TelemetryError> {
        let Some(recorder) = self.recorder else { return Ok(Telemetry::off()) };
        let reader = dropped_too(reader, recorder.clone());
        let mut listener = None;
        if let Some(prometheus) = &self.prometheus {
            let tls = prometheus.tls.as_ref().map(|tls| tls::build(tls, identity)).transpose()?;
            let (host, port) = (prometheus.host.clone(), prometheus.port);
            if tls.is_none() && !matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1" | "[::1]") {
                warn!(%host, port, "metrics can be read by whoever reaches this port; see Prometheus.tls");
            }
            let handler = scrape(recorder.clone(), Arc::clone(&reader));
            let opened = listen_with(&host, port, tls, handler).await;
            let opened = opened.map_err(|cause| TelemetryError::Listen { host, port, cause })?;
            info!(address = %opened.address(), "serving metrics for Prometheus");
            listener = Some(opened);
        }
        if self.sends {
            let reader = Arc::clone(&reader);
            self.tasks.spawn(async move {
                loop {
                    reader();
                    tokio::time::sleep(READ).await;
                }
            });
        }
        Ok(Telemetry { recorder: Some(recorder), reader, listener, in_mem: self.in_mem, _tasks: self.tasks })
    }
}

fn dropped_too(reader: Reader, recorder: Recorder) -> Reader {
    Arc::new(move || {
        reader();
        metrics::counter!("hardroot.telemetry.dropped").absolute(recorder.dropped());
    })
}

/// Answers scrapes at `/metrics`, and, as SPIRE does, at every other path.
fn scrape(recorder: Recorder, reader: Reader) -> Handler {
    Arc::new(move |_question: Question| {
        reader();
        let mut body = recorder.render();
        body.push_str(&process::render());
        Box::pin(async move { Answer { status: 200, content_type: prometheus::CONTENT_TYPE, body } })
    })
}
