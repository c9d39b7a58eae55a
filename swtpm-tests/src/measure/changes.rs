//! How soon a changed entry is at the agents, and at a workload (row P7).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hardroot_api::workload::X509svidRequest;
use hardroot_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hardroot_bench::meter::Op;
use hardroot_bench::scenario::Churn;
use hardroot_bench::sync::Protocol;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

use super::fleet::{self, Fleet};
use super::report::{Row, quantile};
use crate::site::{AgentSetup, Site, uid};
use crate::wait;

const AGENTS: usize = 1000;
const SECONDS: u64 = 60;
/// Entries that are made for the workload.
const CREATED: usize = 20;
/// What row P7 asks for, in milliseconds.
const LIMITS: [(&str, f64, f64); 2] = [("p50", 0.5, 200.0), ("p99", 0.99, 1000.0)];

/// A change a second among 1,000 agents that are pushed to, and entries for a workload of one of our agents beside them.
///
/// # Errors
/// The daemons failed, or an agent never heard of a change.
pub fn measure(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let _files = hardroot_bench::process::raise_open_files();
    let mut site = Site::new()?;
    fleet::start(&mut site)?;
    site.write_bundle()?;
    let token = site.join_token()?;
    let mut agent = site.agent("agent", AgentSetup::join_token(&token))?;
    agent.start()?;
    let parent = site.agent_ids()?.into_iter().next().context("no agent")?;
    let selector = format!("unix:uid:{}", uid());
    site.create_entry(&parent, "spiffe://example.org/first", &[&selector], &[])?;
    wait::until("the workload's SVID", wait::DEADLINE, || Ok(agent.fetch().is_ok().then_some(())))?;

    let fleet = Fleet::new(runtime, &site, AGENTS, 1)?.speaking(Protocol::Push);
    let churn = Churn { rate: 1.0, sync_interval: Duration::ZERO, duration: Duration::from_secs(SECONDS) };
    let (measured, (mut workload, mut commands)) = thread::scope(|scope| -> Result<_> {
        let (site, socket) = (&site, agent.socket());
        let workload = scope.spawn(move || to_workload(site, &socket, &parent, &selector));
        let measured = fleet.run(async |setup| churn.run(setup).await)?;
        let times = workload.join().map_err(|_panic| anyhow::anyhow!("the workload died"))??;
        Ok((measured, times))
    })?;
    let heard = measured.series.get(&Op::Heard).context("nobody heard of anything")?;
    ensure!(heard.failed() == 0, "changes that nobody heard of: {:?}", heard.failures);
    let row = |what: String, measured: f64, limit: f64| Row {
        what,
        measured,
        limit,
        limit_is: "row P7".to_owned(),
        unit: "ms",
    };
    let mut rows = Vec::new();
    for (name, q, limit) in LIMITS {
        let ms = heard.latency.quantile(q).as_secs_f64() * 1000.0;
        rows.push(row(format!("a change is at its agent, {AGENTS} agents, {name}"), ms, limit));
    }
    for (name, q, limit) in LIMITS {
        let ms = quantile(&mut workload, q);
        rows.push(row(format!("  a new entry's SVID is at a workload, {name}"), ms, limit));
    }
    rows.push(Row {
        what: "  of that, until the command that makes the entry has ended, p50".to_owned(),
        measured: quantile(&mut commands, 0.5),
        limit: 0.0,
        limit_is: String::new(),
        unit: "ms",
    });
    Ok(rows)
}

/// From the command's start to the message with the new identity on the workload's stream, and to the command's end.
fn to_workload(
    site: &Site,
    socket: &std::path::Path,
    parent: &str,
    selector: &str,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let uri = format!("unix:{}", socket.display());
    let mut stream = runtime.block_on(async {
        let channel = Endpoint::from_shared(uri)?.connect().await?;
        let mut request = tonic::Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let mut stream = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner();
        stream.message().await?.context("the stream ended")?;
        anyhow::Ok(stream)
    })?;
    let (mut times, mut commands) = (Vec::with_capacity(CREATED), Vec::with_capacity(CREATED));
    for n in 0..CREATED {
        let id = format!("spiffe://example.org/new/{n}");
        let begun = Instant::now();
        site.create_entry(parent, &id, &[selector], &[])?;
        commands.push(begun.elapsed());
        runtime.block_on(async {
            loop {
                let message = stream.message().await?.context("the stream ended")?;
                if message.svids.iter().any(|svid| svid.spiffe_id == id) {
                    return anyhow::Ok(());
                }
            }
        })?;
        times.push(begun.elapsed());
    }
    Ok((times, commands))
}
