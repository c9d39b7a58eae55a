//! What was measured, for people (a table), programs (JSON) and eyes (SVG).

mod svg;
mod table;

use serde::Serialize;

use crate::histogram::Histogram;
use crate::meter::{Measured, Series};
use crate::process::Span;

pub use svg::svg;
pub use table::table;

/// Everything a run reports; its JSON form is for scripts and only ever gets new members.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this tool.
    pub version: &'static str,
    /// Which scenario.
    pub scenario: &'static str,
    /// The flags that shaped it.
    pub parameters: Vec<(String, String)>,
    /// Length of the measurement.
    pub seconds: f64,
    /// Whether it was broken off.
    pub interrupted: bool,
    /// What was done.
    pub operations: Vec<Operation>,
    /// The scenario's own results.
    pub figures: Vec<Number>,
    /// The server's process, when it was watched.
    pub server: Option<Usage>,
    /// This process.
    pub generator: Option<Usage>,
}

/// A number with a name.
#[derive(Debug, Clone, Serialize)]
pub struct Number {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// What a process used.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Processor time, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, MiB: at the beginning, at the end, and at most.
    pub resident_first_mib: f64,
    /// See above.
    pub resident_last_mib: f64,
    /// See above.
    pub resident_most_mib: f64,
}

/// One kind of operation.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// How many succeeded.
    pub done: u64,
    /// How many failed.
    pub failed: u64,
    /// What they brought (SVIDs, where one call brings several).
    pub items: u64,
    /// Successes a second.
    pub rate: f64,
    /// Items a second.
    pub item_rate: f64,
    /// Of successes, from the intended time.
    pub latency_ms: Latency,
    /// Why some failed.
    pub failures: Vec<Failure>,
    /// Second by second.
    pub timeline: Vec<Point>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Half are at most this.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// A reason and how often.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The reason; runs of digits are shown as `#`.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// One second (or several: see [`svg`]) of one operation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    /// Since measuring began.
    pub second: usize,
    /// How many that were meant to begin in it succeeded.
    pub done: u64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Milliseconds.
    pub max: f64,
}

impl Report {
    /// Puts it together.
    #[must_use]
    pub fn new(
        scenario: &'static str,
        parameters: Vec<(String, String)>,
        interrupted: bool,
        measured: &Measured,
        server: Option<Span>,
        generator: Option<Span>,
    ) -> Self {
        let length = measured.ended.map_or_else(|| measured.began.elapsed(), |end| end - measured.began);
        let seconds = length.as_secs_f64();
        let operations =
            measured.series.iter().map(|(op, series)| operation(op.name(), series, seconds)).collect();
        let number = |figure: &crate::meter::Figure| Number {
            name: figure.name.clone(),
            value: figure.value,
            unit: figure.unit,
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            scenario,
            parameters,
            seconds,
            interrupted,
            operations,
            figures: measured.figures.iter().map(number).collect(),
            server: server.map(Usage::from),
            generator: generator.map(Usage::from),
        }
    }
}

impl From<Span> for Usage {
    fn from(span: Span) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "memory of a process is far below 2^53 bytes")]
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Self {
            cpu_seconds: span.cpu.as_secs_f64(),
            resident_first_mib: mib(span.resident_first),
            resident_last_mib: mib(span.resident_last),
            resident_most_mib: mib(span.resident_most),
        }
    }
}

fn operation(name: &'static str, series: &Series, seconds: f64) -> Operation {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let at = |q| ms(&series.latency, q);
    let mut failures: Vec<Failure> = series
        .failures
        .iter()
        .map(|(reason, count)| Failure { reason: reason.clone(), count: *count })
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    let timeline = series.timeline.iter().enumerate().filter(|(_, histogram)| !histogram.is_empty());
    Operation {
        name,
        done: series.latency.len(),
        failed: series.failed(),
        items: series.items,
        rate: rate(series.latency.len()),
        item_rate: rate(series.items),
        latency_ms: Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: series.latency.max().as_secs_f64() * 1000.0,
            mean: series.latency.mean().as_secs_f64() * 1000.0,
        },
        failures,
        timeline: timeline.map(|(second, histogram)| point(second, histogram)).collect(),
    }
}

fn point(second: usize, histogram: &Histogram) -> Point {
    Point {
        second,
        done: histogram.len(),
        p50: ms(histogram, 0.5),
        p99: ms(histogram, 0.99),
        max: histogram.max().as_secs_f64() * 1000.0,
    }
}

fn ms(histogram: &Histogram, q: f64) -> f64 {
    histogram.quantile(q).as_secs_f64() * 1000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::CallError;
    use crate::meter::{Meter, Op};

    /// A small run with known numbers: a sync each second of 10 ms, one of 3 s in second 20.
    pub(crate) fn example() -> Report {
        let mut measured = Meter::default().measured();
        measured.ended = Some(measured.began + Duration::from_secs(40));
        let mut series = Series::default();
        for second in 0..40 {
            let latency = Duration::from_millis(if second == 20 { 3000 } else { 10 });
            series.latency.record(latency);
            let mut point = Histogram::new(4);
            point.record(latency);
            series.timeline.push(point);
        }
        let error = CallError::protocol("Sync", "the server <fell> & rose");
        series.failures.insert(error.class(), 2);
        measured.series.insert(Op::Sync, series);
        let mut issued = Series { items: 500, ..Series::default() };
        issued.latency.record(Duration::from_micros(1500));
        measured.series.insert(Op::X509, issued);
        measured.figures.push(crate::meter::Figure { name: "healed".into(), value: 40.0, unit: "agents" });
        let span = Span {
            cpu: Duration::from_millis(2500),
            resident_first: 64 << 20,
            resident_last: 70 << 20,
            resident_most: 96 << 20,
        };
        let parameters =
            vec![("agents".to_owned(), "40".to_owned()), ("syncInterval".to_owned(), "5s".to_owned())];
        Report::new("steady", parameters, false, &measured, Some(span), None)
    }

    #[test]
    fn rates_percentiles_and_json() {
        let report = example();
        let json = serde_json::to_value(&report).unwrap();
        let text = |path: &str| json.pointer(path).cloned().unwrap_or_default();
        assert_eq!(text("/operations/0/name"), "sync");
        assert_eq!((text("/operations/0/done"), text("/operations/0/failed")), (40.into(), 2.into()));
        assert_eq!(text("/operations/0/latency_ms/max"), 3000.0);
        assert!(report.operations[0].latency_ms.p50 < 10.1 && report.operations[0].latency_ms.p99 > 2900.0);
        assert!((report.operations[1].item_rate - 12.5).abs() < 1e-9);
        assert_eq!(text("/server/resident_most_mib"), 96.0);
        assert_eq!(text("/generator"), serde_json::Value::Null);
    }

    #[test]
    fn the_table_is_what_it_was() {
        golden("report.txt", &table(&example()));
    }

    #[test]
    fn the_picture_is_what_it_was() {
        golden("report.svg", &svg(&example()));
    }

    /// `HARDROOT_WRITE_GOLDEN=1` writes it anew.
    fn golden(name: &str, got: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("HARDROOT_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, got).unwrap();
        }
        assert_eq!(got, std::fs::read_to_string(&path).unwrap(), "{name} differs");
    }
}
