//! What both daemons' `doctor` commands have in common: findings and how they are printed, and the checks of what
//! every daemon stands on. Each subject gathers facts, changing nothing, and judges them in a pure function.

pub mod clock;
pub mod disk;
pub mod files;
pub mod limits;

use serde_json::{Value, json};

use crate::cli::printable;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    Fine,
    /// Somebody should look.
    Warning,
    /// Something does not work, or will not for long.
    Fault,
}

impl Level {
    /// As JSON says it: `fine`, `warning`, `fault`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }

    /// As a terminal shows it: green, yellow, red.
    fn coloured(self) -> &'static str {
        match self {
            Self::Fine => "\u{1b}[32mfine   \u{1b}[0m",
            Self::Warning => "\u{1b}[33mwarning\u{1b}[0m",
            Self::Fault => "\u{1b}[31mfault  \u{1b}[0m",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The subject, one word.
    pub check: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do, when it is not fine.
    pub advice: Option<String>,
}

/// Nothing to do.
#[must_use]
pub fn fine(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { check, level: Level::Fine, text: text.into(), advice: None }
}

/// Somebody should look, and do as `advice` says.
#[must_use]
pub fn warning(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check, level: Level::Warning, text: text.into(), advice: Some(advice.into()) }
}

/// Something does not work until somebody does as `advice` says.
#[must_use]
pub fn fault(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check, level: Level::Fault, text: text.into(), advice: Some(advice.into()) }
}

/// The worst level; fine when nothing was found.
#[must_use]
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine)
}

/// What the command ends with: `None` when all is well. With `strict` a warning counts as well as a fault.
#[must_use]
pub fn verdict(findings: &[Finding], strict: bool) -> Option<String> {
    let least = if strict { Level::Warning } else { Level::Fault };
    match findings.iter().filter(|finding| finding.level >= least).count() {
        0 => None,
        1 => Some("1 thing needs attention".to_owned()),
        bad => Some(format!("{bad} things need attention")),
    }
}

/// The report for programs.
#[must_use]
pub fn report(findings: &[Finding]) -> Value {
    let list: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.check,
                "level": finding.level.as_str(),
                "text": finding.text,
                "advice": finding.advice,
            })
        })
        .collect();
    json!({ "result": worst(findings).as_str(), "findings": list })
}

/// The report for people: aligned lines, advice below what it is for.
#[must_use]
pub fn table(findings: &[Finding], colours: bool) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let level = if colours {
            finding.level.coloured().to_owned()
        } else {
            format!("{:<7}", finding.level.as_str())
        };
        out.push_str(&format!("{level}  {:<width$}  {}\n", finding.check, printable(&finding.text)));
        if let Some(advice) = &finding.advice {
            out.push_str(&format!("{:9}{:width$}  -> {}\n", "", "", printable(advice)));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    out.push_str(&format!(
        "\n{} fine, {} to look at, {} at fault\n",
        count(Level::Fine),
        count(Level::Warning),
        count(Level::Fault)
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is not fine says what to do.
    pub(super) fn judged(findings: &[Finding], expected: Level) {
        assert_eq!(worst(findings), expected, "{findings:#?}");
        assert!(findings.iter().all(|f| (f.level == Level::Fine) == f.advice.is_none()), "{findings:#?}");
    }

    #[test]
    fn the_table_is_aligned_and_coloured_only_when_asked() {
        let findings = [
            fine("clock", "right"),
            warning("disk", "100 MiB", "make room"),
            fault("certificates", "expired\u{1b}[2J", "look"),
        ];
        assert_eq!(
            table(&findings, false),
            "fine     clock         right\nwarning  disk          100 MiB\n                       -> make room\n\
             fault    certificates  expired\\u{1b}[2J\n                       -> look\n\n1 fine, 1 to look at, 1 at fault\n"
        );
        let coloured = table(&findings, true);
        assert!(coloured.contains("\u{1b}[31mfault") && !coloured.contains("\u{1b}[2J"));
        let json = report(&findings);
        assert_eq!(
            (json["result"].as_str(), json["findings"][1]["advice"].as_str()),
            (Some("fault"), Some("make room"))
        );
    }

    #[test]
    fn warnings_count_when_one_is_strict() {
        let findings = [fine("a", "b"), warning("c", "d", "e")];
        assert_eq!(verdict(&findings, false), None);
        assert_eq!(verdict(&findings, true).as_deref(), Some("1 thing needs attention"));
    }
}
