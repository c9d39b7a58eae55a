//! `healthcheck`.

use clap::Args;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connection::Connection;
use super::error::code_name;
use super::{CliError, Screen};

/// `healthcheck`.
#[derive(Debug, Args)]
pub struct Healthcheck {
    /// Taken for compatibility; the check is the same
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    shallow: Option<bool>,
    /// Tell what is being done
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    verbose: Option<bool>,
    #[command(flatten)]
    connection: Connection,
}

impl Healthcheck {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let verbose = self.verbose.unwrap_or(false);
        if verbose {
            screen.line("Checking server health...");
        }
        let unhealthy = |reason: String| CliError::Outcome(format!("server is unhealthy: {reason}"));
        let answer = match self.connection.open().await {
            Err(fault @ CliError::Usage(_)) => return Err(fault),
            Err(fault) => Err(fault.to_string()),
            Ok(channel) => HealthClient::new(channel)
                .check(HealthCheckRequest { service: String::new() })
                .await
                .map_err(|status| format!("{}: {}", code_name(status.code()), status.message())),
        };
        match answer {
            Err(reason) => {
                if verbose {
                    format!("Failed to check health: {reason}")
                        .lines()
                        .for_each(|line| screen.err_line(line));
                }
                Err(unhealthy("unable to determine health".to_owned()))
            }
            Ok(answer) if answer.get_ref().status() != ServingStatus::Serving => Err(unhealthy(format!(
                "server returned status \"{}\"",
                answer.get_ref().status().as_str_name()
            ))),
            Ok(_) => {
                screen.line("Server is healthy.");
                Ok(())
            }
        }
    }
}
