//! A running server, as operators and agents see it; a stopped one by its port.

use std::net::{TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_api::spire::api::server::bundle::v1::GetBundleRequest;
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::server::debug::v1::GetInfoRequest;
use hardroot_api::spire::api::server::debug::v1::debug_client::DebugClient;
use hardroot_identity::{Bundle, SpiffeId};
use hardroot_runtime::doctor::{Finding, fault, fine, warning};
use hardroot_transport::{BundleSet, ConnectOptions, ServerTrust, client_config, connect, uds_channel};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::attest::chain;
use crate::authority::slots::from_unix_seconds;
use crate::config::ServerConfig;

const CHECK: &str = "server";

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug, Clone)]
pub(super) struct RunningFacts {
    /// Whether the admin socket answered, and whether the server says that it is ready.
    pub(super) admin: Result<bool, String>,
    /// Whether the port could be had, when no server runs.
    pub(super) port: Result<(), String>,
    /// The bundle that it answers with.
    pub(super) bundle: Option<Bundle>,
    /// When its own SVID ends, or why it cannot tell.
    pub(super) svid: Option<Result<SystemTime, String>>,
    /// Whether the port was reached by TLS and showed the server's ID under its own bundle.
    pub(super) tls: Option<Result<(), String>>,
}

impl RunningFacts {
    /// Whether a server answers.
    pub(super) fn answers(&self) -> bool {
        self.admin.is_ok()
    }
}

pub(super) async fn gather(config: &ServerConfig) -> RunningFacts {
    let mut facts = RunningFacts {
        admin: Err("nobody listens".to_owned()),
        port: Ok(()),
        bundle: None,
        svid: None,
        tls: None,
    };
    match tokio::time::timeout(PATIENCE, uds_channel(&config.socket_path)).await {
        Ok(Ok(channel)) => match tokio::time::timeout(PATIENCE, ask(config, channel, &mut facts)).await {
            Ok(()) => {}
            Err(_elapsed) => facts.admin = Err("no answer in time".to_owned()),
        },
        Ok(Err(error)) => facts.admin = Err(chain(&error)),
        Err(_elapsed) => facts.admin = Err("no answer in time".to_owned()),
    }
    if let Some(bundle) = facts.bundle.clone() {
        facts.tls = Some(Box::pin(tls(config, bundle)).await);
    }
    if !facts.answers() {
        facts.port = free(&config.bind_address, config.bind_port);
    }
    facts
}

async fn ask(config: &ServerConfig, channel: Channel, facts: &mut RunningFacts) {
    let asked = HealthClient::new(channel.clone()).check(HealthCheckRequest { service: String::new() }).await;
    facts.admin = asked
        .map(|answer| answer.get_ref().status() == ServingStatus::Serving)
        .map_err(|status| status.message().to_owned());
    if let Ok(message) = BundleClient::new(channel.clone()).get_bundle(GetBundleRequest::default()).await {
        let all = message.into_inner().x509_authorities;
        let der: Vec<u8> = all.into_iter().flat_map(|authority| authority.asn1).collect();
        facts.bundle = Bundle::from_der_concat(config.trust_domain.clone(), &der).ok();
    }
    if facts.answers() {
        let told = DebugClient::new(channel).get_info(GetInfoRequest {}).await;
        facts.svid = Some(match told {
            Ok(info) => match info.get_ref().svid_chain.first() {
                Some(leaf) => Ok(from_unix_seconds(leaf.expires_at)),
                None => Err("it shows none".to_owned()),
            },
            Err(status) => Err(status.message().to_owned()),
        });
    }
}

/// Reaches the TLS port as an agent does.
async fn tls(config: &ServerConfig, bundle: Bundle) -> Result<(), String> {
    let host = match config.bind_address.as_str() {
        "0.0.0.0" | "" => "127.0.0.1",
        "::" | "[::]" => "::1",
        other => other,
    };
    let address = if host.contains(':') {
        format!("[{host}]:{}", config.bind_port)
    } else {
        format!("{host}:{}", config.bind_port)
    };
    let id =
        SpiffeId::new(&config.trust_domain, crate::run::SERVER_ID_PATH).map_err(|error| error.to_string())?;
    let trust = ServerTrust::Bundle(Arc::new(BundleSet::new([bundle])));
    let reached = connect(&address, client_config(id, trust, None), ConnectOptions::default());
    match tokio::time::timeout(PATIENCE, reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_elapsed) => Err(format!("{address} did not answer in time")),
    }
}

/// Whether the port could be had.
fn free(host: &str, port: u16) -> Result<(), String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let address = addresses.next().ok_or_else(|| "the address is not known".to_owned())?;
    TcpListener::bind(address).map(drop).map_err(|error| error.to_string())
}

/// `ttl` is the configured lifetime of SVIDs: the server renews its own at half of it.
pub(super) fn judge(facts: &RunningFacts, ttl: Duration, now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    match (&facts.admin, &facts.port) {
        (Ok(true), _) => found.push(fine(CHECK, "it runs and is ready")),
        (Ok(false), _) => found.push(fault(
            CHECK,
            "it runs and is not ready",
            "the log says why; with health_checks the ready path says it too",
        )),
        (Err(_), Ok(())) => found.push(fine(CHECK, "it does not run; its port is free")),
        (Err(why), Err(port)) => found.push(fault(
            CHECK,
            format!("its admin socket does not answer ({why}), and its port cannot be had ({port})"),
            "find who has the port: ss -ltnp",
        )),
    }
    found.extend(facts.svid.as_ref().map(|svid| judge_svid(svid, ttl, now)));
    match &facts.tls {
        None => {}
        Some(Ok(())) => found.push(fine(CHECK, "its TLS port shows its SVID")),
        Some(Err(why)) => found.push(fault(
            CHECK,
            format!("its TLS port cannot be used: {why}"),
            "agents see the same; look at the token, at the clock and at firewalls",
        )),
    }
    found
}

fn judge_svid(svid: &Result<SystemTime, String>, ttl: Duration, now: SystemTime) -> Finding {
    let advice = "it is renewed at half life: look at the token, and at the log for why that fails";
    let end = match svid {
        Err(why) => return fault(CHECK, format!("its own SVID cannot be told: {why}"), advice),
        Ok(end) => *end,
    };
    let Ok(left) = end.duration_since(now) else {
        return fault(CHECK, "its own SVID has expired: no agent can connect", advice);
    };
    let left = Duration::from_secs(left.as_secs());
    let text = format!("its own SVID is valid for {} more", hardroot_runtime::duration::format(left));
    if left < ttl / 3 { warning(CHECK, text, advice) } else { fine(CHECK, text) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, at, judged, says};
    use super::*;
    use hardroot_runtime::doctor::Level;

    const TTL: Duration = Duration::from_secs(3600);

    fn ready() -> RunningFacts {
        RunningFacts {
            admin: Ok(true),
            port: Ok(()),
            bundle: None,
            svid: Some(Ok(at(NOW + 2000))),
            tls: Some(Ok(())),
        }
    }

    #[test]
    fn each_thing_can_be_wrong() {
        let good = judge(&ready(), TTL, at(NOW));
        judged(&good, Level::Fine);
        says(&good, "valid for 33m20s more");
        let stopped =
            RunningFacts { admin: Err("nobody listens".to_owned()), tls: None, svid: None, ..ready() };
        judged(&judge(&stopped, TTL, at(NOW)), Level::Fine);
        let late = RunningFacts { svid: Some(Ok(at(NOW + 1000))), ..ready() };
        judged(&judge(&late, TTL, at(NOW)), Level::Warning);
        for bad in [
            RunningFacts { admin: Ok(false), ..ready() },
            RunningFacts { tls: Some(Err("expired".to_owned())), ..ready() },
            RunningFacts { port: Err("in use".to_owned()), ..stopped },
            RunningFacts { svid: Some(Ok(at(NOW - 1))), ..ready() },
            RunningFacts { svid: Some(Err("failed verification".to_owned())), ..ready() },
        ] {
            judged(&judge(&bad, TTL, at(NOW)), Level::Fault);
        }
    }
}
