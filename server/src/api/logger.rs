//! `spire.api.server.logger.v1.Logger`: the log level, changed while the server runs. On the admin socket alone.

use hardroot_api::spire::api::server::logger::v1 as wire;
use hardroot_api::spire::api::types;
use hardroot_runtime::logs::{LogHandle, LogLevel};
use tonic::{Request, Response, Status};

use super::note;

/// The Logger service.
pub struct LoggerService {
    log: LogHandle,
}

impl LoggerService {
    /// The service for the log behind `log`.
    #[must_use]
    pub fn new(log: LogHandle) -> Self {
        Self { log }
    }

    fn change(&self, level: LogLevel) -> Result<(), Status> {
        self.log
            .set_level(level)
            .map_err(|error| Status::internal(format!("failed to set log level: {error}")))
    }

    fn answer(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: message(self.log.level()).into(),
            launch_level: message(self.log.start_level()).into(),
        })
    }
}

/// A level as messages number it.
fn message(level: LogLevel) -> types::LogLevel {
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

fn level(message: types::LogLevel) -> Option<LogLevel> {
    Some(match message {
        types::LogLevel::Unspecified => return None,
        types::LogLevel::Panic => LogLevel::Panic,
        types::LogLevel::Fatal => LogLevel::Fatal,
        types::LogLevel::Error => LogLevel::Error,
        types::LogLevel::Warn => LogLevel::Warn,
        types::LogLevel::Info => LogLevel::Info,
        types::LogLevel::Debug => LogLevel::Debug,
        types::LogLevel::Trace => LogLevel::Trace,
    })
}

#[tonic::async_trait]
impl wire::logger_server::Logger for LoggerService {
    async fn get_logger(
        &self,
        _request: Request<wire::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(self.answer())
    }

    async fn set_log_level(
        &self,
        request: Request<wire::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let number = request.get_ref().new_level;
        let Ok(wanted) = types::LogLevel::try_from(number) else {
            note(&request, "new_log_level", &number.to_string());
            return Err(Status::invalid_argument("unsupported log level"));
        };
        note(&request, "new_log_level", wanted.as_str_name());
        let level = level(wanted)
            .ok_or_else(|| Status::invalid_argument("newLevel value cannot be LogLevel_UNSPECIFIED"))?;
        self.change(level)?;
        tracing::info!(new_log_level = %level, "log level set");
        Ok(self.answer())
    }

    async fn reset_log_level(
        &self,
        _request: Request<wire::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let launch = self.log.start_level();
        self.change(launch)?;
        tracing::info!(launch_log_level = %launch, "log level reset");
        Ok(self.answer())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use hardroot_runtime::logs::{LogFormat, LogOutput, subscriber};
    use tonic::Code;
    use wire::logger_server::Logger;

    use super::*;

    #[tokio::test]
    async fn a_change_takes_effect_at_once_and_a_reset_takes_it_back() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = LogOutput::Buffer(Arc::clone(&lines));
        let (subscriber, log) = subscriber(LogFormat::Text, LogLevel::Warn, output).unwrap();
        let _guard = tracing::subscriber::set_default(subscriber);
        let service = LoggerService::new(log);
        let levels = |answer: Response<types::Logger>| {
            let answer = answer.into_inner();
            (answer.current_level().as_str_name(), answer.launch_level().as_str_name())
        };
        let set = async |level: i32| {
            service.set_log_level(Request::new(wire::SetLogLevelRequest { new_level: level })).await
        };
        tracing::debug!("one");
        let got = service.get_logger(Request::new(wire::GetLoggerRequest {})).await.unwrap();
        assert_eq!(levels(got), ("WARN", "WARN"));
        for number in 1..=7 {
            let name = types::LogLevel::try_from(number).unwrap().as_str_name();
            assert_eq!(levels(set(number).await.unwrap()), (name, "WARN"));
        }
        assert_eq!(levels(set(6).await.unwrap()), ("DEBUG", "WARN"));
        tracing::debug!("two");
        for (number, text) in
            [(0, "newLevel value cannot be LogLevel_UNSPECIFIED"), (8, "unsupported log level")]
        {
            let refused = set(number).await.unwrap_err();
            assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text));
        }
        let reset = service.reset_log_level(Request::new(wire::ResetLogLevelRequest {})).await.unwrap();
        assert_eq!(levels(reset), ("WARN", "WARN"));
        tracing::debug!("three");
        let lines = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert!(
            lines.contains("msg=two") && !lines.contains("msg=one") && !lines.contains("msg=three"),
            "{lines}"
        );
    }
}
