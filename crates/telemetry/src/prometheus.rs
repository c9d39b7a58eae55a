//! The text format of Prometheus, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use crate::families;
use crate::series::{Kind, Series};

/// What the text is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric's name, of its parts joined by dots.
pub(crate) fn metric_name(name: &str) -> String {
    let fits = |(at, c): (usize, char)| {
        let good = c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit());
        if good { c } else { '_' }
    };
    name.chars().enumerate().map(fits).collect()
}

/// Writes every series, sorted by name and labels.
pub(crate) fn render(all: &[Arc<Series>], now: Instant) -> String {
    let mut by_name: BTreeMap<(&str, Kind), Vec<&Series>> = BTreeMap::new();
    for series in all {
        by_name.entry((&series.name, series.kind)).or_default().push(series);
    }
    let mut out = String::new();
    for ((name, kind), mut of_name) in by_name {
        of_name.sort_by(|a, b| a.labels.cmp(&b.labels));
        // Writing into a String cannot fail, here and below.
        if let Some(help) = of_name.first().and_then(|series| families::help(&series.key)) {
            let _ok = writeln!(out, "# HELP {name} {help}");
        }
        let _ok = writeln!(out, "# TYPE {name} {}", kind.as_str());
        for series in of_name {
            one(&mut out, series, now);
        }
    }
    out
}

fn one(out: &mut String, series: &Series, now: Instant) {
    let name = &series.name;
    let Some(summary) = series.summary(now) else {
        let _ok = writeln!(out, "{name}{} {}", labels(&series.labels, None), number(series.number()));
        return;
    };
    for (quantile, value) in summary.quantiles {
        let _ok = writeln!(out, "{name}{} {}", labels(&series.labels, Some(quantile)), number(value));
    }
    let labels = labels(&series.labels, None);
    let _ok =
        writeln!(out, "{name}_sum{labels} {}\n{name}_count{labels} {}", number(summary.sum), summary.count);
}

fn labels(labels: &[(String, String)], quantile: Option<&str>) -> String {
    let mut pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    pairs.extend(quantile.map(|quantile| format!("quantile=\"{quantile}\"")));
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_formats() {
        assert_eq!(metric_name("spire_server.rpc.agent.v1"), "spire_server_rpc_agent_v1");
        assert_eq!(metric_name("9-a b/c=d"), "__a_b_c_d");
        assert_eq!([number(f64::NAN), number(f64::NEG_INFINITY), number(0.5)], ["NaN", "-Inf", "0.5"]);
        let list = [("a".to_owned(), "x\"\\\n".to_owned())];
        assert_eq!(labels(&list, Some("0.5")), "{a=\"x\\\"\\\\\\n\",quantile=\"0.5\"}");
    }
}
