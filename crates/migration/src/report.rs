//! What a migration did, for people and for scripts.

use serde::Serialize;

/// What became of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Only a person can decide: the new file is not right before.
    Decide,
    /// It is not in the new file.
    Removed,
    /// It has another value, or is new.
    Changed,
    /// It stands as it was and means something else.
    Noted,
}

impl Action {
    /// A word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Noted => "note",
        }
    }
}

/// One line of the report. It never holds a value of the configuration, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What became of it.
    pub action: Action,
    /// The setting: `server.log_level`, `plugins.KeyManager "disk"`.
    pub setting: String,
    /// Its line in the old file; 0 when it was not there.
    pub line: u32,
    /// Why, and what to do.
    pub why: String,
}

/// What a migration did to a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What changed, what is to be decided first.
    pub changes: Vec<Change>,
    /// Settings that were taken over as they are.
    pub kept: usize,
}

impl Report {
    /// Whether somebody has to decide something before the new file is right.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.changes.iter().any(|change| change.action == Action::Decide)
    }

    /// A table: action, line of the old file, setting, reason.
    #[must_use]
    pub fn table(&self) -> String {
        let mut changes: Vec<&Change> = self.changes.iter().collect();
        changes.sort_by_key(|change| (change.action, change.line));
        let width = changes.iter().map(|change| change.setting.chars().count()).max().unwrap_or(0).min(48);
        let mut text = String::new();
        for change in changes {
            let line = if change.line == 0 { "-".to_owned() } else { change.line.to_string() };
            text.push_str(&format!(
                "{:<8} {line:>5}  {:<width$}  {}\n",
                change.action.as_str(),
                change.setting,
                change.why
            ));
        }
        let plural = if self.kept == 1 { "" } else { "s" };
        text.push_str(&format!("{} setting{plural} taken over as they are.\n", self.kept));
        text
    }
}
