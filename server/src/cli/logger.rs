//! `logger get|set|reset`.

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::logger::v1 as wire;
use hardroot_api::spire::api::server::logger::v1::logger_client::LoggerClient;
use hardroot_api::spire::api::types;
use hardroot_runtime::cli::Output;
use tonic::transport::Channel;

use super::connection::Connection;
use super::{CliError, Screen};

/// `logger ...`.
#[derive(Debug, Subcommand)]
pub enum LoggerCommand {
    /// Tells the log level
    Get(Plain),
    /// Changes the log level until the server restarts
    Set(Set),
    /// Goes back to the log level of the configuration
    Reset(Plain),
}

/// `logger get` and `logger reset`.
#[derive(Debug, Args)]
pub struct Plain {
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `logger set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The new log level: panic, fatal, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "")]
    level: String,
    #[command(flatten)]
    plain: Plain,
}

impl LoggerCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Get(command) => {
                let request = wire::GetLoggerRequest {};
                let answer = command.client().await?.get_logger(request).await;
                let answer = answer.map_err(CliError::rpc("error fetching logger: "))?;
                command.print(screen, answer.get_ref())
            }
            Self::Set(command) => {
                let new_level = command.number()?.into();
                let request = wire::SetLogLevelRequest { new_level };
                let answer = command.plain.client().await?.set_log_level(request).await;
                let answer = answer.map_err(CliError::rpc("failed to set log level: "))?;
                command.plain.print(screen, answer.get_ref())
            }
            Self::Reset(command) => {
                let request = wire::ResetLogLevelRequest {};
                let answer = command.client().await?.reset_log_level(request).await;
                let answer = answer.map_err(CliError::rpc("failed to reset logger: "))?;
                command.print(screen, answer.get_ref())
            }
        }
    }
}

impl Plain {
    async fn client(&self) -> Result<LoggerClient<Channel>, CliError> {
        Ok(LoggerClient::new(self.connection.open().await?))
    }

    fn print(&self, screen: &mut Screen, logger: &types::Logger) -> Result<(), CliError> {
        match self.output {
            Output::Json => screen.message("spire.api.types.Logger", logger),
            Output::Pretty => {
                screen.line(format!("Logger Level : {}", name(logger.current_level())));
                screen.line(format!("Launch Level : {}", name(logger.launch_level())));
                screen.line("");
                Ok(())
            }
        }
    }
}

impl Set {
    fn number(&self) -> Result<types::LogLevel, CliError> {
        Ok(match self.level.to_lowercase().as_str() {
            "" => return Err(CliError::usage("a value (-level) must be set")),
            "panic" => types::LogLevel::Panic,
            "fatal" => types::LogLevel::Fatal,
            "error" => types::LogLevel::Error,
            "warn" | "warning" => types::LogLevel::Warn,
            "info" => types::LogLevel::Info,
            "debug" => types::LogLevel::Debug,
            "trace" => types::LogLevel::Trace,
            _ => {
                return Err(CliError::usage(format!("the value {:?} is not a valid setting", self.level)));
            }
        })
    }
}

fn name(level: types::LogLevel) -> &'static str {
    match level {
        types::LogLevel::Unspecified => "unspecified",
        types::LogLevel::Panic => "panic",
        types::LogLevel::Fatal => "fatal",
        types::LogLevel::Error => "error",
        types::LogLevel::Warn => "warning",
        types::LogLevel::Info => "info",
        types::LogLevel::Debug => "debug",
        types::LogLevel::Trace => "trace",
    }
}
