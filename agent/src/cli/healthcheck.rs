//! `healthcheck`: gRPC health on the Workload API's socket.

use std::process::ExitCode;

use clap::Args;
use hardroot_runtime::cli::print;
use hardroot_transport::uds_channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::socket::SocketArgs;
use super::{complain, tell};

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Perform a less stringent health check
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"), default_value_t = false)]
    shallow: bool,
    /// Print what is done and what failed
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"), default_value_t = false)]
    verbose: bool,
}

pub(super) async fn healthcheck(args: HealthcheckArgs) -> ExitCode {
    match check(&args).await {
        Ok(()) => {
            drop(print("Agent is healthy.\n"));
            ExitCode::SUCCESS
        }
        Err(why) => complain(format_args!("Agent is unhealthy: {why}")),
    }
}

async fn check(args: &HealthcheckArgs) -> Result<(), String> {
    if args.verbose {
        drop(print("Checking agent health...\n"));
    }
    let unable = |cause: &dyn std::fmt::Display| {
        if args.verbose {
            tell(format_args!("Failed to check health: {cause}"));
        }
        "unable to determine health".to_owned()
    };
    let socket = args.socket.path().map_err(|e| e.to_string())?;
    let channel = uds_channel(&socket).await.map_err(|e| unable(&e))?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service: String::new() })
        .await
        .map_err(|status| unable(&status))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("agent returned status \"{}\"", other.as_str_name())),
    }
}
