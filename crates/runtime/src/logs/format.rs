//! Events and spans to lines.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::{LogFormat, Sink};

/// Fields in the order they were given.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Sets a field; a later value of the same name replaces the earlier one.
    fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // The whole chain: our log gets the causes, the peer only the class.
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.set(field.name(), text.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), format!("{value:?}").into());
    }
}

/// The layer that writes lines.
pub(super) struct Lines {
    format: LogFormat,
    sink: Arc<Sink>,
    /// Whether each line says where in the source it comes from.
    source_location: bool,
}

impl Lines {
    pub(super) fn new(format: LogFormat, sink: Arc<Sink>, source_location: bool) -> Self {
        Self { format, sink, source_location }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut message = String::new();
        own.0.retain(|(name, value)| {
            if *name == "message" {
                message = value.as_str().unwrap_or_default().to_owned();
            }
            *name != "message"
        });
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                for (name, value) in &fields.0 {
                    if !own.0.iter().any(|(known, _)| known == name) {
                        own.0.push((name, value.clone()));
                    }
                }
            }
        }
        if self.source_location
            && let (Some(file), Some(line)) = (event.metadata().file(), event.metadata().line())
        {
            own.set("file", format!("{file}:{line}").into());
        }
        let line = line(self.format, level(*event.metadata().level()), &message, &own.0);
        // A line that cannot be written is lost: a daemon does not end because its log is full.
        drop(self.sink.line(line.as_bytes()));
    }
}

/// One line, with the time of now and its line feed.
pub(super) fn line<N: AsRef<str>>(
    format: LogFormat,
    level: &str,
    message: &str,
    fields: &[(N, Value)],
) -> String {
    let time = OffsetDateTime::from(SystemTime::now());
    // Milliseconds are enough to order the lines of one process.
    let time = time.replace_nanosecond(u32::from(time.millisecond()) * 1_000_000).unwrap_or(time);
    let time = time.format(&Rfc3339).unwrap_or_default();
    match format {
        LogFormat::Json => json(&time, level, message, fields),
        LogFormat::Text => text(&time, level, message, fields),
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn json<N: AsRef<str>>(time: &str, level: &str, message: &str, fields: &[(N, Value)]) -> String {
    let mut map = Map::new();
    for (name, value) in fields {
        map.insert(name.as_ref().to_owned(), value.clone());
    }
    map.insert("level".to_owned(), level.into());
    map.insert("msg".to_owned(), message.into());
    map.insert("time".to_owned(), time.into());
    let mut line = String::new();
    for c in Value::Object(map).to_string().chars() {
        // JSON allows it, but what turns a terminal's text around is better seen than done. Only strings can
        // hold such characters, so that the value stays what it was.
        if c.is_ascii() && c != '\u{7f}' || c.escape_debug().len() == 1 {
            line.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    line.push('\n');
    line
}

fn text<N: AsRef<str>>(time: &str, level: &str, message: &str, fields: &[(N, Value)]) -> String {
    let mut line = format!("time={time} level={level} msg={}", quoted(message));
    for (name, value) in fields {
        line.push(' ');
        line.push_str(name.as_ref());
        line.push('=');
        match value {
            Value::String(text) => line.push_str(&quoted(text)),
            other => line.push_str(&other.to_string()),
        }
    }
    line.push('\n');
    line
}

/// The text as it is when it is one plain word, else in quotes with everything odd escaped.
fn quoted(text: &str) -> String {
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | '@' | '^' | '+' | ':' | ',')
    };
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}
