//! Logs: one line per event, as text or JSON, with the field names SPIRE's operators know (`time`, `level`, `msg`,
//! `subsystem_name`, `error`, …) and a level that can be changed while running.

mod format;

use std::borrow::Cow;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, reload};

use format::Lines;

/// `log_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `time=… level=info msg="…" key=value`.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("the log format is `text` or `json`".to_owned()),
        }
    }
}

/// `log_level`, by SPIRE's names without regard to letter case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// SPIRE's most severe level. Failures are logged nevertheless: nothing hides them here.
    Panic,
    /// SPIRE's second most severe level; as [`LogLevel::Panic`].
    Fatal,
    /// Failures.
    Error,
    /// What an operator should look at.
    Warn,
    /// What happened.
    #[default]
    Info,
    /// How it happened.
    Debug,
    /// Everything, libraries included.
    Trace,
}

impl LogLevel {
    fn filter(self) -> Targets {
        let own = match self {
            Self::Panic | Self::Fatal | Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        };
        // Libraries below us may log what peers sent; they speak up only with `trace`.
        let others = if self == Self::Trace { LevelFilter::DEBUG } else { own.min(LevelFilter::WARN) };
        Targets::new().with_target("hardroot", own).with_default(others)
    }
}

impl FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "panic" => Ok(Self::Panic),
            "fatal" => Ok(Self::Fatal),
            "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err("the log level is one of `error`, `warn`, `info`, `debug`, `trace`".to_owned()),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

/// Where lines go.
#[derive(Debug, Clone, Default)]
pub enum LogOutput {
    /// Standard output, as SPIRE does.
    #[default]
    Stdout,
    /// Standard error: for commands whose output is a result.
    Stderr,
    /// A file, appended to, mode 0640 when new. [`LogHandle::reopen`] follows a rotation.
    File(PathBuf),
    /// A buffer, for tests.
    Buffer(Arc<Mutex<Vec<u8>>>),
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file cannot be opened.
    #[error("cannot open the log file {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A subscriber is already installed in this process.
    #[error("logging is already set up in this process")]
    Twice,
    /// The subscriber is gone.
    #[error("the log level can no longer be changed")]
    Gone,
}

/// A field of a line: its name, and a text, number or truth value.
pub type LogField = (Cow<'static, str>, serde_json::Value);

/// What can be changed while running, and the way to write lines that must not get lost.
#[derive(Clone)]
pub struct LogHandle {
    format: LogFormat,
    filter: reload::Handle<Targets, Registry>,
    level: Arc<Mutex<LogLevel>>,
    start: LogLevel,
    sink: Arc<Sink>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("level", &self.level()).finish_non_exhaustive()
    }
}

impl LogHandle {
    /// The level in force.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The level that was configured.
    #[must_use]
    pub fn start_level(&self) -> LogLevel {
        self.start
    }

    /// Changes the level.
    ///
    /// # Errors
    /// The subscriber is gone.
    pub fn set_level(&self, level: LogLevel) -> Result<(), LogError> {
        let mut held = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.reload(level.filter()).map_err(|_gone| LogError::Gone)?;
        *held = level;
        Ok(())
    }

    /// How lines are written.
    #[must_use]
    pub fn format(&self) -> LogFormat {
        self.format
    }

    /// Writes a line of level `info` whatever the level in force, with fields of any name, and says whether it
    /// was written.
    ///
    /// # Errors
    /// The output did not take the line.
    pub fn write(&self, message: &str, fields: &[LogField]) -> io::Result<()> {
        self.sink.line(format::line(self.format, "info", message, fields).as_bytes())
    }

    /// Opens the log file anew (after SIGUSR2); nothing to do for other outputs.
    ///
    /// # Errors
    /// The file cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.sink.reopen()
    }
}

enum Target {
    Stdout,
    Stderr,
    File(PathBuf, Mutex<File>),
    Buffer(Arc<Mutex<Vec<u8>>>),
}

/// Writes whole lines.
struct Sink {
    target: Target,
}

impl Sink {
    fn open(output: LogOutput) -> Result<Self, LogError> {
        let target = match output {
            LogOutput::Stdout => Target::Stdout,
            LogOutput::Stderr => Target::Stderr,
            LogOutput::Buffer(buffer) => Target::Buffer(buffer),
            LogOutput::File(path) => {
                let file = open(&path)?;
                Target::File(path, Mutex::new(file))
            }
        };
        Ok(Self { target })
    }

    fn reopen(&self) -> Result<(), LogError> {
        if let Target::File(path, file) = &self.target {
            let new = open(path)?;
            *file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }

    fn line(&self, line: &[u8]) -> io::Result<()> {
        match &self.target {
            Target::Stdout => io::stdout().lock().write_all(line),
            Target::Stderr => io::stderr().lock().write_all(line),
            Target::File(_, file) => file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line),
            Target::Buffer(buffer) => {
                buffer.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
                Ok(())
            }
        }
    }
}

fn open(path: &std::path::Path) -> Result<File, LogError> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o640);
    options.open(path).map_err(|cause| LogError::Open { path: path.to_owned(), cause })
}

/// Makes a subscriber and its handle, for tests and for [`init`].
///
/// # Errors
/// The log file cannot be opened.
pub fn subscriber(
    format: LogFormat,
    level: LogLevel,
    output: LogOutput,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogHandle), LogError> {
    located(format, level, output, false)
}

fn located(
    format: LogFormat,
    level: LogLevel,
    output: LogOutput,
    source_location: bool,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogHandle), LogError> {
    let sink = Arc::new(Sink::open(output)?);
    let (filter, handle) = reload::Layer::new(level.filter());
    let lines = Lines::new(format, Arc::clone(&sink), source_location);
    let subscriber = Registry::default().with(lines.with_filter(filter));
    let level_now = Arc::new(Mutex::new(level));
    Ok((subscriber, LogHandle { format, filter: handle, level: level_now, start: level, sink }))
}

/// Sets up logging for the whole process. With `source_location` each line has a field `file` with the place in the
/// source that wrote it (`log_source_location`).
///
/// # Errors
/// The log file cannot be opened, or logging is already set up.
pub fn init(
    format: LogFormat,
    level: LogLevel,
    output: LogOutput,
    source_location: bool,
) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = located(format, level, output, source_location)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_already| LogError::Twice)?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::subscriber::with_default;

    type Buffer = Arc<Mutex<Vec<u8>>>;

    fn logged(format: LogFormat, level: LogLevel, act: impl FnOnce(&LogHandle)) -> Vec<String> {
        let buffer = Buffer::default();
        let (subscriber, handle) = subscriber(format, level, LogOutput::Buffer(Arc::clone(&buffer))).unwrap();
        with_default(subscriber, || act(&handle));
        let text = String::from_utf8(buffer.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn json_lines_have_stable_fields() {
        let lines = logged(LogFormat::Json, LogLevel::Debug, |_| {
            let span = tracing::info_span!("svid.sign", request_id = "r1", spiffe_id = tracing::field::Empty);
            span.record("spiffe_id", "spiffe://td/a");
            let _guard = span.enter();
            let error = io::Error::other("no \"disk\"\n");
            tracing::warn!(subsystem_name = "ca", error = %error, count = 3, ok = true, "something\nodd");
        });
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(lines.len(), 1);
        for (key, value) in [
            ("level", "warning"),
            ("msg", "something\nodd"),
            ("subsystem_name", "ca"),
            ("error", "no \"disk\"\n"),
            ("request_id", "r1"),
            ("spiffe_id", "spiffe://td/a"),
        ] {
            assert_eq!(line[key], value, "{key}");
        }
        assert_eq!((line["count"].as_i64(), line["ok"].as_bool()), (Some(3), Some(true)));
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn text_lines_cannot_be_forged() {
        let lines = logged(LogFormat::Text, LogLevel::Info, |_| {
            tracing::info!(path = "/a b\nlevel=error", uid = 5, empty = "", "hello \u{1b}[31m");
        });
        assert_eq!(lines.len(), 1);
        let (time, rest) = lines[0].split_once(' ').unwrap();
        assert!(time.starts_with("time="), "{time}");
        assert_eq!(rest, r#"level=info msg="hello \u{1b}[31m" path="/a b\nlevel=error" uid=5 empty="""#);
    }

    #[test]
    fn the_level_can_be_changed_and_libraries_stay_quiet() {
        let lines = logged(LogFormat::Text, LogLevel::Info, |handle| {
            tracing::debug!("one");
            tracing::info!(target: "h2::codec", "two");
            handle.set_level(LogLevel::Debug).unwrap();
            tracing::debug!("three");
            tracing::info!(target: "h2::codec", "four");
            handle.set_level(LogLevel::Error).unwrap();
            tracing::warn!("five");
            tracing::error!(target: "h2::codec", "six");
            assert_eq!((handle.level(), handle.start_level()), (LogLevel::Error, LogLevel::Info));
        });
        let words: Vec<&str> = lines.iter().map(|line| line.rsplit_once("msg=").unwrap().1).collect();
        assert_eq!(words, ["three", "six"]);
    }

    #[test]
    fn lines_that_must_not_get_lost() {
        let buffer = Buffer::default();
        let output = LogOutput::Buffer(Arc::clone(&buffer));
        let (_, handle) = subscriber(LogFormat::Json, LogLevel::Error, output).unwrap();
        let value = "a\"b\\ \u{7f}\u{202e}\n\u{1f600}";
        handle
            .write("API accessed", &[("type".into(), "audit".into()), ("key.0".into(), value.into())])
            .unwrap();
        let line = String::from_utf8(buffer.lock().unwrap().clone()).unwrap();
        assert!(line.contains(r#""key.0":"a\"b\\ \u007f\u202e\n😀""#), "{line}");
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&parsed["type"], &parsed["key.0"], &parsed["msg"]),
            (&"audit".into(), &value.into(), &"API accessed".into())
        );

        let full = LogOutput::File("/dev/full".into());
        let (_, handle) = subscriber(LogFormat::Text, LogLevel::Info, full).unwrap();
        handle.write("API accessed", &[]).unwrap_err();
    }

    #[test]
    fn lines_say_where_they_come_from_when_asked() {
        for (wanted, format) in [(true, LogFormat::Text), (true, LogFormat::Json), (false, LogFormat::Text)] {
            let buffer = Buffer::default();
            let output = LogOutput::Buffer(Arc::clone(&buffer));
            let (subscriber, _) = located(format, LogLevel::Info, output, wanted).unwrap();
            with_default(subscriber, || tracing::info!("here"));
            let text = String::from_utf8(buffer.lock().unwrap().clone()).unwrap();
            let told = text.contains("crates/runtime/src/logs.rs:");
            assert_eq!(told, wanted, "{text}");
        }
    }

    #[test]
    fn a_rotated_file_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let (subscriber, handle) =
            subscriber(LogFormat::Text, LogLevel::Info, LogOutput::File(path.clone())).unwrap();
        with_default(subscriber, || {
            tracing::info!("first");
            std::fs::rename(&path, dir.path().join("agent.log.1")).unwrap();
            handle.reopen().unwrap();
            tracing::info!("second");
        });
        assert!(std::fs::read_to_string(&path).unwrap().contains("msg=second"));
        assert!(std::fs::read_to_string(dir.path().join("agent.log.1")).unwrap().contains("msg=first"));
        let missing = LogOutput::File(dir.path().join("no/such.log"));
        assert!(init(LogFormat::Json, LogLevel::Info, missing, false).is_err());
    }

    #[test]
    fn names() {
        assert_eq!("WARN".parse(), Ok(LogLevel::Warn));
        for name in ["panic", "fatal", "error", "warning", "info", "debug", "trace"] {
            assert_eq!(name.parse::<LogLevel>().unwrap().to_string(), name);
        }
        assert!("loud".parse::<LogLevel>().is_err());
        assert_eq!("JSON".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
