//! `spire.api.agent.logger.v1.Logger`: the log level, changed until the next start.

use hardroot_api::spire::api::agent::logger::v1::logger_server::Logger as Service;
use hardroot_api::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use hardroot_api::spire::api::types;
use hardroot_runtime::logs::{LogHandle, LogLevel};
use tonic::{Request, Response, Status};

pub(super) struct Logger {
    pub(super) log: LogHandle,
}

impl Logger {
    fn change(&self, level: LogLevel) -> Result<Response<types::Logger>, Status> {
        let before = self.log.level();
        self.log.set_level(level).map_err(|gone| Status::internal(gone.to_string()))?;
        tracing::info!(subsystem_name = "endpoints", new_level = %level, old_level = %before, "log level changed");
        Ok(self.shown())
    }

    fn shown(&self) -> Response<types::Logger> {
        let (current, launch) = (to_wire(self.log.level()), to_wire(self.log.start_level()));
        Response::new(types::Logger { current_level: current.into(), launch_level: launch.into() })
    }
}

fn to_wire(level: LogLevel) -> types::LogLevel {
    match level {
        LogLevel::Panic => types::LogLevel::Panic,
        LogLevel::Fatal => types::LogLevel::Fatal,
        LogLevel::Error => types::LogLevel::Error,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Trace => types::LogLevel::Trace,
    }
}

fn from_wire(level: i32) -> Result<LogLevel, Status> {
    match types::LogLevel::try_from(level) {
        Ok(types::LogLevel::Panic) => Ok(LogLevel::Panic),
        Ok(types::LogLevel::Fatal) => Ok(LogLevel::Fatal),
        Ok(types::LogLevel::Error) => Ok(LogLevel::Error),
        Ok(types::LogLevel::Warn) => Ok(LogLevel::Warn),
        Ok(types::LogLevel::Info) => Ok(LogLevel::Info),
        Ok(types::LogLevel::Debug) => Ok(LogLevel::Debug),
        Ok(types::LogLevel::Trace) => Ok(LogLevel::Trace),
        Ok(types::LogLevel::Unspecified) => {
            Err(Status::invalid_argument("newLevel value cannot be LogLevel_UNSPECIFIED"))
        }
        Err(_unknown) => Err(Status::invalid_argument("unsupported log level")),
    }
}

#[tonic::async_trait]
impl Service for Logger {
    async fn get_logger(
        &self,
        _request: Request<GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(self.shown())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.change(from_wire(request.get_ref().new_level)?)
    }

    async fn reset_log_level(
        &self,
        _request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.change(self.log.start_level())
    }
}
