//! A configuration on its way from SPIRE's to ours.

use std::collections::BTreeSet;

use hardroot_config::{Body, Comment, Document, Fault, FaultKind, Item, Kind, print};

use crate::edit::{Step, find, label_blocks, name_at, name_of, remove_at, set};
use crate::report::{Action, Change, Report};

/// A configuration that is being changed.
#[derive(Debug, Clone)]
pub struct Draft {
    body: Body,
    changes: Vec<Change>,
}

/// How often the new text is judged at most; each time at least one setting goes.
const MAX_ROUNDS: usize = 1000;

impl Draft {
    /// Begins with SPIRE's file.
    #[must_use]
    pub fn new(document: &Document) -> Self {
        let mut body = document.body().clone();
        for item in body.items.iter_mut().filter(|item| item.key.text.eq_ignore_ascii_case("plugins")) {
            if let Kind::Object(plugins) = &mut item.value.kind {
                label_blocks(plugins);
            }
        }
        Self { body, changes: Vec::new() }
    }

    /// What stands at a path.
    #[must_use]
    pub fn get(&self, path: &[Step<'_>]) -> Option<&Kind> {
        find(&self.body, path).map(|item| &item.value.kind)
    }

    /// A string or number at a path, as text.
    #[must_use]
    pub fn text(&self, path: &[Step<'_>]) -> Option<&str> {
        match self.get(path)? {
            Kind::Text(text) | Kind::Number(text) => Some(text),
            _ => None,
        }
    }

    /// The labels of the blocks of a kind within a block: the names of the plugins of one type.
    #[must_use]
    pub fn labels(&self, block: &[Step<'_>], key: &str) -> Vec<String> {
        let Some(Kind::Object(body)) = self.get(block) else { return Vec::new() };
        let of = body.items.iter().filter(|item| item.key.text.eq_ignore_ascii_case(key));
        of.filter_map(|item| item.labels.first().map(|label| label.text.clone())).collect()
    }

    /// Sets what stands at a path and says why.
    pub fn set(&mut self, path: &[Step<'_>], kind: Kind, why: impl Into<String>) {
        let line = self.line(path);
        set(&mut self.body, path, kind);
        self.note(Action::Changed, path, line, why);
    }

    /// Sets what somebody has to look at before it is right.
    pub fn propose(&mut self, path: &[Step<'_>], kind: Kind, why: impl Into<String>) {
        let line = self.line(path);
        set(&mut self.body, path, kind);
        self.note(Action::Decide, path, line, why);
    }

    /// Removes what stands at a path and says why; nothing happens when it is not there.
    pub fn remove(&mut self, path: &[Step<'_>], why: impl Into<String>) {
        let line = self.line(path);
        let mut indexes = Vec::new();
        if locate(&self.body, path, &mut indexes) && remove_at(&mut self.body, &indexes).is_some() {
            self.note(Action::Removed, path, line, why);
        }
    }

    /// Says something about what stays as it is.
    pub fn remark(&mut self, path: &[Step<'_>], why: impl Into<String>) {
        let line = self.line(path);
        self.note(Action::Noted, path, line, why);
    }

    fn line(&self, path: &[Step<'_>]) -> u32 {
        find(&self.body, path).map_or(0, |item| item.key.pos.line)
    }

    fn note(&mut self, action: Action, path: &[Step<'_>], line: u32, why: impl Into<String>) {
        self.changes.push(Change { action, setting: name_of(path), line, why: why.into() });
    }

    /// Lets `judge` (the daemon's own decoder) read the text until it has nothing against it that could be taken away, and
    /// returns the text and the report. What it does not support goes away with its reason; what else it finds has to be
    /// decided by somebody. `head` stands as a comment at the top.
    pub fn settle(mut self, head: &str, judge: &dyn Fn(&str) -> Vec<Fault>) -> (String, Report) {
        let mut faults = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let printed = print(&self.body, &|_, _| Vec::new());
            faults = judge(&printed.text);
            let place = |fault: &Fault| {
                printed.places.iter().find(|(line, _)| *line == fault.line).map(|(_, path)| path.clone())
            };
            // From the end, so that indexes before stay what they are.
            let doomed: BTreeSet<(Vec<usize>, String)> = faults
                .iter()
                .filter(|fault| fault.kind != FaultKind::Wrong)
                .filter_map(|fault| Some((place(fault)?, fault.message.clone())))
                .collect();
            if doomed.is_empty() {
                // What is left stands at lines of the new text: find the old ones.
                for fault in &mut faults {
                    let old = place(fault)
                        .and_then(|path| item_at(&self.body, &path).map(|item| item.key.pos.line));
                    fault.line = old.unwrap_or(0);
                }
                break;
            }
            for (path, why) in doomed.into_iter().rev() {
                let setting = name_at(&self.body, &path);
                if let Some(item) = remove_at(&mut self.body, &path) {
                    let line = item.key.pos.line;
                    self.changes.push(Change { action: Action::Removed, setting, line, why });
                }
            }
        }
        for fault in faults {
            self.changes.push(Change {
                action: Action::Decide,
                setting: "-".to_owned(),
                line: fault.line,
                why: fault.message,
            });
        }
        let comments = self.comments(head);
        let printed = print(&self.body, &|path, place| match (path, place) {
            ([], Comment::Before) => comments.clone(),
            _ => Vec::new(),
        });
        let kept = settings(&self.body);
        let changed = self.changes.iter().filter(|change| change.action == Action::Changed).count();
        let report = Report { changes: self.changes, kept: kept.saturating_sub(changed) };
        (printed.text, report)
    }

    /// The report again, at the top of the new file, for whoever opens that first.
    fn comments(&self, head: &str) -> Vec<String> {
        let mut lines = vec![head.to_owned()];
        lines.extend(
            self.changes
                .iter()
                .map(|change| format!("{}: {}: {}", change.action.as_str(), change.setting, change.why)),
        );
        lines
    }
}

fn item_at<'a>(body: &'a Body, path: &[usize]) -> Option<&'a Item> {
    let (&at, rest) = path.split_first()?;
    let item = body.items.get(at)?;
    match &item.value.kind {
        _ if rest.is_empty() => Some(item),
        Kind::Object(inner) => item_at(inner, rest),
        _ => None,
    }
}

fn locate(body: &Body, path: &[Step<'_>], indexes: &mut Vec<usize>) -> bool {
    let Some((step, rest)) = path.split_first() else { return true };
    for (index, item) in body.items.iter().enumerate().filter(|(_, item)| step.matches(item)) {
        indexes.push(index);
        let deeper = match &item.value.kind {
            _ if rest.is_empty() => true,
            Kind::Object(inner) => locate(inner, rest, indexes),
            _ => false,
        };
        if deeper {
            return true;
        }
        indexes.pop();
    }
    false
}

/// How many settings (not blocks) a tree holds.
fn settings(body: &Body) -> usize {
    let each = body.items.iter().map(|item| match &item.value.kind {
        Kind::Object(inner) => settings(inner),
        _ => 1,
    });
    each.sum()
}

#[cfg(test)]
mod tests {
    use hardroot_config::Decoder;

    use super::*;

    /// A daemon that knows two settings and one plugin.
    fn judge(text: &str) -> Vec<Fault> {
        let document = Document::parse(text).unwrap();
        let decoder = Decoder::new(&document, "new");
        let server = decoder.root().required_block("server");
        let _known = (server.string("name"), server.required_string("needed"));
        server.unsupported("old", "it is gone; remove it");
        server.finish();
        let plugins = decoder.root().block("plugins");
        for (name, block) in plugins.labelled_blocks("KeyManager") {
            let data = block.block("plugin_data");
            let _known = data.string("path");
            data.unsupported("pin", "PINs are in files");
            data.finish();
            if name != "disk" {
                block.fault_here("is no key manager");
            }
        }
        plugins.finish();
        match decoder.into_result() {
            Ok(()) => Vec::new(),
            Err(faults) => faults.iter().map(|(_, fault)| fault.clone()).collect(),
        }
    }

    #[test]
    fn what_the_daemon_refuses_goes_with_its_reason_and_its_old_line() {
        let old = "server {\n  name = \"a\"\n  needed = \"b\"\n  old = 1\n  strange = 2\n}\nplugins {\n  KeyManager \"disk\" {\n    \
                   plugin_data {\n      path = \"x\"\n      pin = \"canary\"\n    }\n  }\n}\n";
        let draft = Draft::new(&Document::parse(old).unwrap());
        let (text, report) = draft.settle("From SPIRE.", &judge);
        assert!(judge(&text).is_empty(), "{text}");
        assert!(text.starts_with("# From SPIRE.\n") && !text.contains("canary"));
        let removed: Vec<(&str, u32)> =
            report.changes.iter().map(|change| (change.setting.as_str(), change.line)).collect();
        assert_eq!(
            removed,
            [("plugins.KeyManager \"disk\".plugin_data.pin", 11), ("server.strange", 5), ("server.old", 4),]
        );
        assert!(report.changes.iter().all(|change| change.action == Action::Removed));
        assert!(!report.is_undecided());
        assert_eq!(report.kept, 3);
        assert!(report.table().contains("3 settings taken over as they are."));
    }

    #[test]
    fn what_only_a_person_can_decide_is_said() {
        let draft = Draft::new(&Document::parse("server { name = \"a\" }").unwrap());
        let (_, report) = draft.settle("head", &judge);
        assert!(report.is_undecided());
        assert!(report.changes[0].why.contains("needed"), "{report:?}");
    }

    #[test]
    fn settings_are_set_removed_and_proposed_with_a_reason() {
        let mut draft = Draft::new(&Document::parse("server {\n name = \"a\"\n}").unwrap());
        let server = Step::Key("server");
        draft.set(&[server, Step::Key("needed")], Kind::Text("x".into()), "it is needed");
        draft.remove(&[server, Step::Key("name")], "no names");
        draft.remove(&[server, Step::Key("absent")], "never said");
        draft.propose(
            &[
                Step::Key("plugins"),
                Step::Labelled("KeyManager", "disk"),
                Step::Key("plugin_data"),
                Step::Key("path"),
            ],
            Kind::Text("CHANGE".into()),
            "say where",
        );
        assert_eq!(draft.text(&[server, Step::Key("needed")]), Some("x"));
        assert_eq!(draft.labels(&[Step::Key("plugins")], "KeyManager"), ["disk"]);
        let (text, report) = draft.settle("head", &judge);
        assert!(text.contains("KeyManager \"disk\" {") && !text.contains("name ="), "{text}");
        let actions: Vec<Action> = report.changes.iter().map(|change| change.action).collect();
        assert_eq!(actions, [Action::Changed, Action::Removed, Action::Decide]);
    }

    #[test]
    fn plugins_in_json_become_labelled_blocks() {
        let old = r#"{"server": {"needed": "b"}, "plugins": {"KeyManager": [{"disk": {"plugin_data": {"path": "x"}}}]}}"#;
        let draft = Draft::new(&Document::parse(old).unwrap());
        assert_eq!(draft.labels(&[Step::Key("plugins")], "KeyManager"), ["disk"]);
        let (text, report) = draft.settle("head", &judge);
        assert!(text.contains("KeyManager \"disk\" {") && report.changes.is_empty(), "{text} {report:?}");
    }
}
