//! `logger` and `debug`: what asks the admin API.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hardroot_api::json::{JsonError, to_json};
use hardroot_api::spire::agent::debug::v1::debug_client::DebugClient;
use hardroot_api::spire::agent::debug::v1::{GetInfoRequest, GetInfoResponse};
use hardroot_api::spire::api::agent::logger::v1::logger_client::LoggerClient;
use hardroot_api::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use hardroot_api::spire::api::types;
use hardroot_config::duration;
use hardroot_runtime::cli::{Output, print, print_json, printable};
use hardroot_transport::{ConnectError, uds_channel};
use tonic::Status;
use tonic::transport::Channel;

use super::complain;
use super::socket::{AdminSocketArgs, BadInstance};
use crate::lifecycle::show_time;

#[derive(Debug, Subcommand)]
pub(super) enum LoggerCommand {
    /// Shows the log level
    Get(AskArgs),
    /// Changes the log level until the agent's next start
    Set(SetArgs),
    /// Puts the log level back to what it was at the start
    Reset(AskArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand {
    /// Prints debug information about the agent
    Getinfo(AskArgs),
}

#[derive(Debug, Args)]
pub(super) struct AskArgs {
    #[command(flatten)]
    socket: AdminSocketArgs,
    /// pretty or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// The new log level: panic, fatal, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "")]
    level: String,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Socket(#[from] BadInstance),
    #[error("{0}; is admin_socket_path set in the agent's configuration?")]
    Connect(#[from] ConnectError),
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Call(Box<Status>),
    #[error("a value (-level) must be set")]
    NoLevel,
    #[error("the value {0:?} is not a valid setting")]
    BadLevel(String),
    #[error("{0}")]
    Json(#[from] JsonError),
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

fn outcome(result: Result<(), Failed>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(format_args!("Error: {error}")),
    }
}

async fn channel(args: &AskArgs) -> Result<Channel, Failed> {
    let path = args.socket.path()?;
    Ok(uds_channel(Path::new(&path)).await?)
}

pub(super) async fn logger(command: LoggerCommand) -> ExitCode {
    outcome(try_logger(command).await)
}

async fn try_logger(command: LoggerCommand) -> Result<(), Failed> {
    let (output, logger) = match command {
        LoggerCommand::Get(args) => {
            (args.output, LoggerClient::new(channel(&args).await?).get_logger(GetLoggerRequest {}).await?)
        }
        LoggerCommand::Set(SetArgs { ask, level }) => {
            let request = SetLogLevelRequest { new_level: level_named(&level)?.into() };
            (ask.output, LoggerClient::new(channel(&ask).await?).set_log_level(request).await?)
        }
        LoggerCommand::Reset(args) => {
            let mut client = LoggerClient::new(channel(&args).await?);
            (args.output, client.reset_log_level(ResetLogLevelRequest {}).await?)
        }
    };
    let logger = logger.into_inner();
    match output {
        Output::Json => print_json(&to_json("spire.api.types.Logger", &logger)?)?,
        Output::Pretty => print(&shown_logger(&logger))?,
    }
    Ok(())
}

/// By the names that SPIRE's command takes.
fn level_named(name: &str) -> Result<types::LogLevel, Failed> {
    match name.to_ascii_lowercase().as_str() {
        "" => Err(Failed::NoLevel),
        "panic" => Ok(types::LogLevel::Panic),
        "fatal" => Ok(types::LogLevel::Fatal),
        "error" => Ok(types::LogLevel::Error),
        "warn" | "warning" => Ok(types::LogLevel::Warn),
        "info" => Ok(types::LogLevel::Info),
        "debug" => Ok(types::LogLevel::Debug),
        "trace" => Ok(types::LogLevel::Trace),
        _ => Err(Failed::BadLevel(name.to_owned())),
    }
}

fn shown_logger(logger: &types::Logger) -> String {
    let name = |level: types::LogLevel| match level {
        types::LogLevel::Warn => "warning".to_owned(),
        level => level.as_str_name().to_ascii_lowercase(),
    };
    let (current, launch) = (name(logger.current_level()), name(logger.launch_level()));
    format!("Logger Level : {current}\nLaunch Level : {launch}\n\n")
}

pub(super) async fn debug(command: DebugCommand) -> ExitCode {
    let DebugCommand::Getinfo(args) = command;
    outcome(getinfo(&args).await)
}

async fn getinfo(args: &AskArgs) -> Result<(), Failed> {
    let info = DebugClient::new(channel(args).await?).get_info(GetInfoRequest {}).await?.into_inner();
    match args.output {
        Output::Json => print_json(&to_json("spire.agent.debug.v1.GetInfoResponse", &info)?)?,
        Output::Pretty => print(&shown_info(&info))?,
    }
    Ok(())
}

fn time(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    UNIX_EPOCH.checked_add(since).map(show_time).unwrap_or_default()
}

/// SPIRE's output for people, line for line.
fn shown_info(info: &GetInfoResponse) -> String {
    let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or_default());
    let sync = if info.last_sync_success == 0 { "(never)".to_owned() } else { time(info.last_sync_success) };
    let mut out = format!(
        "Agent Debug Info:\n  Uptime:                          {}\n  Last Sync Success:               {sync}\n  \
         Cached X.509 SVIDs:              {}\n  Cached JWT SVIDs:                {}\n  \
         Cached SVID Store X.509 SVIDs:   {}\n",
        duration::format(uptime),
        info.cached_x509_svids_count,
        info.cached_jwt_svids_count,
        info.cached_svidstore_x509_svids_count,
    );
    if !info.svid_chain.is_empty() {
        out.push_str("  SVID Chain:\n");
    }
    for (n, certificate) in info.svid_chain.iter().enumerate() {
        let id = certificate
            .id
            .as_ref()
            .map_or_else(|| "(none)".to_owned(), |id| format!("spiffe://{}{}", id.trust_domain, id.path));
        out.push_str(&format!(
            "    [{n}] SPIFFE ID:  {}\n        Subject:    {}\n        Expires At: {}\n",
            printable(&id),
            printable(&certificate.subject),
            time(certificate.expires_at)
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use hardroot_api::spire::agent::debug::v1::get_info_response::Cert;

    use super::*;

    #[test]
    fn the_logger_is_shown_as_spire_shows_it() {
        let logger = types::Logger {
            current_level: types::LogLevel::Warn.into(),
            launch_level: types::LogLevel::Info.into(),
        };
        assert_eq!(shown_logger(&logger), "Logger Level : warning\nLaunch Level : info\n\n");
        assert!(matches!(level_named(""), Err(Failed::NoLevel)));
        assert_eq!(level_named("WARNING").unwrap(), types::LogLevel::Warn);
        assert_eq!(level_named("loud").unwrap_err().to_string(), "the value \"loud\" is not a valid setting");
    }

    #[test]
    fn the_info_is_shown_as_spire_shows_it() {
        let id = types::Spiffeid { trust_domain: "example.org".into(), path: "/spire/agent/x".into() };
        let info = GetInfoResponse {
            uptime: 3723,
            cached_x509_svids_count: 2,
            cached_jwt_svids_count: 1,
            svid_chain: vec![
                Cert { id: Some(id), expires_at: 1_767_225_600, subject: "O=SPIRE,C=US".into() },
                Cert::default(),
            ],
            ..GetInfoResponse::default()
        };
        assert_eq!(
            shown_info(&info),
            "Agent Debug Info:\n  Uptime:                          1h2m3s\n  Last Sync Success:               (never)\n  \
             Cached X.509 SVIDs:              2\n  Cached JWT SVIDs:                1\n  \
             Cached SVID Store X.509 SVIDs:   0\n  SVID Chain:\n    \
             [0] SPIFFE ID:  spiffe://example.org/spire/agent/x\n        Subject:    O=SPIRE,C=US\n        \
             Expires At: 2026-01-01T00:00:00Z\n    \
             [1] SPIFFE ID:  (none)\n        Subject:    \n        Expires At: 1970-01-01T00:00:00Z\n"
        );
    }
}
