//! The report as text.

use hardroot_runtime::cli::{printable, table as columns};

use super::{Operation, Report, Usage};

/// A table of operations, then failures, figures and what the processes used.
#[must_use]
pub fn table(report: &Report) -> String {
    let parameters: Vec<String> =
        report.parameters.iter().map(|(name, value)| format!("-{name} {}", printable(value))).collect();
    let mut out = format!("{} {}\n", report.scenario, parameters.join(" "));
    out.push_str(&format!("measured for {:.1} s", report.seconds));
    out.push_str(if report.interrupted { ", then interrupted\n\n" } else { "\n\n" });
    if report.operations.is_empty() {
        out.push_str("Nothing was measured.\n");
    } else {
        let headings = [
            "operation",
            "done",
            "failed",
            "per s",
            "items/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
        ];
        let rows: Vec<Vec<String>> = report.operations.iter().map(row).collect();
        out.push_str(&columns(&headings, &rows));
    }
    for operation in &report.operations {
        for failure in &operation.failures {
            out.push_str(&format!(
                "\n{} failed {}x: {}",
                operation.name,
                failure.count,
                printable(&failure.reason)
            ));
        }
    }
    if report.operations.iter().any(|operation| !operation.failures.is_empty()) {
        out.push('\n');
    }
    out.push('\n');
    for figure in &report.figures {
        out.push_str(&format!("{}: {} {}\n", figure.name, number(figure.value), figure.unit));
    }
    if let Some(usage) = &report.server {
        out.push_str(&used("server", usage, report.seconds));
    }
    if let Some(usage) = &report.generator {
        out.push_str(&used("load generator", usage, report.seconds));
    }
    out
}

fn row(operation: &Operation) -> Vec<String> {
    let latency = operation.latency_ms;
    let items = if operation.items > operation.done { number(operation.item_rate) } else { "-".to_owned() };
    let times = [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max];
    let mut row = vec![
        operation.name.to_owned(),
        operation.done.to_string(),
        operation.failed.to_string(),
        number(operation.rate),
        items,
    ];
    let none = operation.done == 0;
    row.extend(times.map(|time| if none { "-".to_owned() } else { number(time) }));
    row
}

fn used(who: &str, usage: &Usage, seconds: f64) -> String {
    let share = if seconds > 0.0 { 100.0 * usage.cpu_seconds / seconds } else { 0.0 };
    format!(
        "{who}: {:.2} CPU seconds ({share:.0} % of one core), resident {:.0} MiB, then {:.0} MiB, at most {:.0} MiB\n",
        usage.cpu_seconds, usage.resident_first_mib, usage.resident_last_mib, usage.resident_most_mib
    )
}

/// Three digits that count.
fn number(value: f64) -> String {
    if value >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
