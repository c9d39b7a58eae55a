//! `jwt mint`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::svid::v1::MintJwtsvidRequest;
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_runtime::cli::Output;

use super::connection::Connection;
use super::{CliError, Screen, mint};

/// `jwt ...`.
#[derive(Debug, Subcommand)]
pub enum JwtCommand {
    /// Mints a JWT-SVID
    Mint(Mint),
}

/// `jwt mint`.
#[derive(Debug, Args)]
pub struct Mint {
    /// SPIFFE ID of the JWT-SVID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// TTL of the JWT-SVID
    #[arg(long, value_name = "DURATION", default_value = "0s",
        value_parser = hardroot_config::duration::parse)]
    ttl: Duration,
    /// Audience claim that will be included in the SVID. Can be used more than once
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// File to write token to instead of stdout (mode 0600)
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl JwtCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let Self::Mint(command) = self;
        command.execute(screen).await
    }
}

impl Mint {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        if self.spiffe_id.as_deref().is_none_or(str::is_empty) {
            return Err(CliError::usage("spiffeID must be specified"));
        }
        if self.audience.is_empty() {
            return Err(CliError::usage("at least one audience must be specified"));
        }
        let id = mint::spiffe_id(self.spiffe_id.as_deref())?;
        let request = MintJwtsvidRequest {
            id: Some(crate::api::spiffe_id(&id)),
            ttl: mint::seconds(self.ttl)?,
            audience: self.audience,
        };
        let response = SvidClient::new(self.connection.open().await?)
            .mint_jwtsvid(request)
            .await
            .map_err(CliError::rpc("unable to mint SVID: "))?
            .into_inner();
        let svid = response.svid.clone().unwrap_or_default();
        if svid.token.is_empty() {
            return Err(CliError::Outcome("server response missing token".to_owned()));
        }
        mint::tell_if_token_capped(screen, "JWT-SVID", &svid.token, self.ttl, SystemTime::now());
        if let Some(path) = self.write.filter(|path| !path.as_os_str().is_empty()) {
            return mint::write(screen, &path, svid.token.as_bytes(), 0o600, ("token", "JWT-SVID"));
        }
        match self.output {
            Output::Pretty => {
                screen.line(svid.token);
                Ok(())
            }
            Output::Json => screen.message("spire.api.server.svid.v1.MintJWTSVIDResponse", &response),
        }
    }
}
