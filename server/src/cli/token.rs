//! `token generate`.

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
use hardroot_runtime::cli::Output;

use super::connection::Connection;
use super::flags::id_message;
use super::{CliError, Screen};

/// `token ...`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a join token, with which one agent may attest
    Generate(Generate),
}

/// `token generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// How long the token may be used, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, allow_negative_numbers = true)]
    ttl: i64,
    /// A second SPIFFE ID for the agent that uses the token, as parent of entries
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl TokenCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let Self::Generate(command) = self;
        let id = command.spiffe_id.filter(|id| !id.is_empty());
        let agent_id = id.as_deref().map(id_message).transpose()?;
        let ttl = i32::try_from(command.ttl)
            .ok()
            .ok_or_else(|| CliError::usage(format!("invalid value for TTL: {}", command.ttl)))?;
        let request = CreateJoinTokenRequest { ttl, token: String::new(), agent_id };
        let channel = command.connection.open().await?;
        let token = AgentClient::new(channel).create_join_token(request).await?.into_inner();
        match command.output {
            Output::Json => screen.message("spire.api.types.JoinToken", &token),
            Output::Pretty => {
                screen.line(format!("Token: {}", token.value));
                if id.is_none() {
                    screen.line("Warning: Missing SPIFFE ID.");
                }
                Ok(())
            }
        }
    }
}
