//! Which metrics and labels are told, by `AllowedPrefixes`, `BlockedPrefixes`, `AllowedLabels` and `BlockedLabels`.
//!
//! As SPIRE's library does it: the longest prefix that fits decides, what none fits is allowed; allowed labels,
//! when there are any, are the only ones, and blocked ones never are.

/// The rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Prefix and whether it allows.
    prefixes: Vec<(String, bool)>,
    allowed_labels: Vec<String>,
    blocked_labels: Vec<String>,
}

impl Filter {
    pub(crate) fn new(
        allowed_prefixes: &[String],
        blocked_prefixes: &[String],
        allowed_labels: &[String],
        blocked_labels: &[String],
    ) -> Self {
        let mut prefixes: Vec<(String, bool)> = Vec::new();
        for (list, allows) in [(allowed_prefixes, true), (blocked_prefixes, false)] {
            prefixes.extend(list.iter().map(|prefix| (prefix.clone(), allows)));
        }
        Self { prefixes, allowed_labels: allowed_labels.to_vec(), blocked_labels: blocked_labels.to_vec() }
    }

    /// Whether the metric with this name (parts joined by dots, the prefix first) is told.
    pub(crate) fn allows(&self, name: &str) -> bool {
        let fitting = self.prefixes.iter().filter(|(prefix, _)| name.starts_with(prefix.as_str()));
        fitting.max_by_key(|(prefix, allows)| (prefix.len(), !allows)).is_none_or(|(_, allows)| *allows)
    }

    /// Whether the label is told.
    pub(crate) fn allows_label(&self, name: &str) -> bool {
        (self.allowed_labels.is_empty() || self.allowed_labels.iter().any(|known| known == name))
            && !self.blocked_labels.iter().any(|known| known == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let filter = Filter::new(
            &list(&["spire_server.rpc.agent"]),
            &list(&["spire_server.rpc", "spire_server.datastore"]),
            &[],
            &[],
        );
        for (name, told) in [
            ("spire_server.rpc.agent.v1", true),
            ("spire_server.rpc.entry.v1", false),
            ("spire_server.datastore.node.fetch", false),
            ("spire_server.started", true),
        ] {
            assert_eq!(filter.allows(name), told, "{name}");
        }
        assert!(
            !Filter::new(&list(&["a"]), &list(&["a"]), &[], &[]).allows("a"),
            "blocked wins over allowed"
        );
        assert!(Filter::default().allows("anything"));
    }

    #[test]
    fn labels_are_allowed_and_blocked_by_name() {
        let only = Filter::new(&[], &[], &list(&["status", "host"]), &list(&["host"]));
        assert!(only.allows_label("status") && !only.allows_label("host") && !only.allows_label("attestor"));
        assert!(Filter::default().allows_label("status"));
    }
}
