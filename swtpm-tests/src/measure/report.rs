//! Rows of measured, limit and ratio, and percentiles.

use std::time::Duration;

use serde_json::{Value, json};

/// One measured number beside its limit.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The measured value.
    pub measured: f64,
    /// What it is compared with.
    pub limit: f64,
    /// What the limit is: a raw measurement of the same run, or a design figure.
    pub limit_is: String,
    /// Unit of both.
    pub unit: &'static str,
}

impl Row {
    /// Measured by limit.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.limit == 0.0 { f64::NAN } else { self.measured / self.limit }
    }

    /// For scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "what": self.what, "measured": self.measured, "limit": self.limit, "limit_is": self.limit_is,
            "unit": self.unit, "ratio": if self.limit == 0.0 { Value::Null } else { json!(self.ratio()) },
        })
    }
}

/// A table for people.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out =
        format!("{:<58} {:>12} {:>12} {:>7}  {}\n", "what", "measured", "limit", "ratio", "limit is");
    for row in rows {
        let ratio = if row.limit == 0.0 { "-".to_owned() } else { format!("{:.2}", row.ratio()) };
        out.push_str(&format!(
            "{:<58} {:>12} {:>12} {ratio:>7}  {}\n",
            row.what,
            number(row.measured, row.unit),
            number(row.limit, row.unit),
            row.limit_is
        ));
    }
    out
}

fn number(value: f64, unit: &str) -> String {
    if value >= 1000.0 || value.fract() == 0.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.2} {unit}")
    }
}

/// The `q`th quantile (0 to 1) in milliseconds; 0 without samples.
#[must_use]
pub fn quantile(samples: &mut [Duration], q: f64) -> f64 {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the number of samples"
    )]
    let index = (last as f64 * q).round() as usize;
    samples.get(index).map_or(0.0, |sample| sample.as_secs_f64() * 1000.0)
}
