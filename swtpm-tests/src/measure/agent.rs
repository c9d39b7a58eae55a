//! The agent's memory, and FetchX509SVID against a null gRPC call (rows P8 to P10).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hardroot_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hardroot_api::workload::{JwtsvidRequest, X509svidRequest};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::report::{Row, quantile};
use crate::site::{Agent, AgentSetup, Site, uid};
use crate::wait;

const STREAMS: usize = 1000;
const CALLS: usize = 2000;
const CALLS_OF_A_CONNECTION: usize = 500;
/// Time between two pairs of calls: one user may make 1,000 calls a second.
const PACE: Duration = Duration::from_millis(4);
const TOKENS: usize = 300;

/// Resident memory idle and with 1,000 streams; the latency of the first message.
///
/// # Errors
/// The daemons failed.
pub fn measure(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let mut site = Site::new()?;
    site.start_server()?;
    site.write_bundle()?;
    let token = site.join_token()?;
    let mut agent = site.agent("agent", AgentSetup::join_token(&token))?;
    agent.start()?;
    let parent = site.agent_ids()?.into_iter().next().context("no agent")?;
    site.create_entry(&parent, "spiffe://example.org/app", &[&format!("unix:uid:{}", uid())], &[])?;
    wait::until("the workload's SVID", wait::DEADLINE, || Ok(agent.fetch().is_ok().then_some(())))?;
    let idle = resident(&mut agent)?;

    let mut rows = vec![Row {
        what: "agent resident memory, idle, one identity".into(),
        measured: idle,
        limit: 12.0,
        limit_is: "DESIGN.md".into(),
        unit: "MiB",
    }];
    let socket = agent.socket();
    let (null, fetch) = runtime.block_on(latencies(&socket))?;
    for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
        rows.push(Row {
            what: format!("FetchX509SVID first message, on a connection that is open, {name}"),
            measured: quantile(&mut fetch.clone(), q),
            limit: quantile(&mut null.clone(), q),
            limit_is: "health check on the same socket".into(),
            unit: "ms",
        });
    }
    let streams = runtime.block_on(open_streams(&socket))?;
    rows.push(Row {
        what: format!("agent resident memory, {STREAMS} open streams"),
        measured: resident(&mut agent)?,
        limit: 25.0,
        limit_is: "DESIGN.md".into(),
        unit: "MiB",
    });
    drop(streams);
    rows.extend(runtime.block_on(tokens(&socket, null))?);
    Ok(rows)
}

async fn channel(socket: &Path) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect().await?)
}

fn with_header<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

fn request() -> tonic::Request<X509svidRequest> {
    with_header(X509svidRequest {})
}

async fn latencies(socket: &Path) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut null, mut fetch) = (Vec::new(), Vec::new());
    let first = channel(socket).await?;
    let mut held = (HealthClient::new(first.clone()), SpiffeWorkloadApiClient::new(first));
    let mut pace = tokio::time::interval(PACE);
    for call in 0..CALLS {
        pace.tick().await;
        // A stream that is left ends with a reset, and a connection may make so many of them a second and no more.
        if call % CALLS_OF_A_CONNECTION == CALLS_OF_A_CONNECTION - 1 {
            let channel = channel(socket).await?;
            held = (HealthClient::new(channel.clone()), SpiffeWorkloadApiClient::new(channel));
        }
        let (health, api) = &mut held;
        let begun = Instant::now();
        health.check(HealthCheckRequest { service: String::new() }).await?;
        null.push(begun.elapsed());
        let begun = Instant::now();
        let mut stream = api.fetch_x509svid(request()).await?.into_inner();
        stream.message().await?.context("no message")?;
        fetch.push(begun.elapsed());
    }
    Ok((null, fetch))
}

/// A JWT-SVID that is kept against 1 ms, and one that the server has to sign (row P10).
async fn tokens(socket: &Path, mut null: Vec<Duration>) -> Result<Vec<Row>> {
    let mut api = SpiffeWorkloadApiClient::new(channel(socket).await?);
    let (mut hits, mut misses) = (Vec::new(), Vec::new());
    let mut pace = tokio::time::interval(PACE);
    for n in 0..TOKENS {
        pace.tick().await;
        for (audience, times) in [("kept".to_owned(), &mut hits), (n.to_string(), &mut misses)] {
            let asked = JwtsvidRequest { audience: vec![audience], spiffe_id: String::new() };
            let begun = Instant::now();
            api.fetch_jwtsvid(with_header(asked)).await?;
            times.push(begun.elapsed());
        }
    }
    let row = |what: &str, measured, limit, limit_is: &str| Row {
        what: format!("FetchJWTSVID, {what}, p99"),
        measured,
        limit,
        limit_is: limit_is.into(),
        unit: "ms",
    };
    Ok(vec![
        row("the token is kept", quantile(&mut hits, 0.99), 1.0, "row P10"),
        row(
            "the server signs",
            quantile(&mut misses, 0.99),
            quantile(&mut null, 0.99),
            "health check on the same socket",
        ),
    ])
}

type Stream = tonic::Streaming<hardroot_api::workload::X509svidResponse>;

async fn open_streams(socket: &Path) -> Result<Vec<(Channel, Stream)>> {
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let channel = channel(socket).await?;
        let mut stream =
            SpiffeWorkloadApiClient::new(channel.clone()).fetch_x509svid(request()).await?.into_inner();
        stream.message().await?.context("no message")?;
        streams.push((channel, stream));
    }
    Ok(streams)
}

/// Resident set in MiB, from smaps_rollup.
fn resident(agent: &mut Agent) -> Result<f64> {
    let path = format!("/proc/{}/smaps_rollup", agent.running()?.pid());
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find(|line| line.starts_with("Rss:")).context("no Rss line")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}
