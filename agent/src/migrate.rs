//! A SPIRE agent's configuration, turned into ours.

use hardroot_config::{Body, Document, Kind};
use hardroot_migration::{Draft, Report, Step};

use crate::config::{Overrides, judge_text};

const AGENT: Step<'_> = Step::Key("agent");
const PLUGINS: Step<'_> = Step::Key("plugins");
const DATA: Step<'_> = Step::Key("plugin_data");

/// Turns a SPIRE agent's configuration into ours: the new text, and what changed and why.
#[must_use]
pub fn convert(old: &Document, name: &str) -> (String, Report) {
    let mut draft = Draft::new(old);
    let data_dir = [AGENT, Step::Key("data_dir")];
    if draft.get(&data_dir).is_none() {
        draft.propose(
            &data_dir,
            Kind::Text("/var/lib/hardroot/agent".to_owned()),
            "SPIRE's default is the working directory; this agent wants to be told where its state is",
        );
    }
    key_manager(&mut draft);
    node_attestors(&mut draft);
    workload_attestors(&mut draft);
    draft.settle(&format!("Made by `hardroot-agent migrate-from-spire` from {name}."), &|text| {
        judge_text(text, "new", &Overrides::default())
    })
}

fn key_manager(draft: &mut Draft) {
    for name in draft.labels(&[PLUGINS], "KeyManager") {
        if matches!(name.as_str(), "disk" | "memory") {
            draft.set(
                &[AGENT, Step::Key("allow_software_keys")],
                Kind::Bool(true),
                format!(
                    "KeyManager \"{name}\" keeps the agent's key in software, as before; move to \"tpm\" (docs/guide/tpm.md) \
                     and take this away"
                ),
            );
        }
    }
}

fn node_attestors(draft: &mut Draft) {
    for name in draft.labels(&[PLUGINS], "NodeAttestor") {
        if matches!(name.as_str(), "join_token" | "x509pop" | "tpm_quote") {
            continue;
        }
        let instead = match name.as_str() {
            "tpm_devid" => "tpm_quote proves this node by its TPM, without a certificate of the TPM's",
            _ => "a node proves itself by tpm_quote, x509pop or join_token here",
        };
        draft.remove(
            &[PLUGINS, Step::Labelled("NodeAttestor", &name)],
            format!("this agent has no such attestor: {instead}"),
        );
    }
}

fn workload_attestors(draft: &mut Draft) {
    let names = draft.labels(&[PLUGINS], "WorkloadAttestor");
    for name in names.iter().filter(|name| *name != "unix") {
        draft.remove(
            &[PLUGINS, Step::Labelled("WorkloadAttestor", name)],
            format!("this agent has no such attestor: entries with selectors {name}:… match nothing here"),
        );
    }
    if !names.iter().any(|name| name == "unix") {
        draft.set(
            &[PLUGINS, Step::Labelled("WorkloadAttestor", "unix"), DATA],
            Kind::Object(Body::default()),
            "programs are recognised by user, group, path and digest here",
        );
    }
}

#[cfg(test)]
mod tests {
    use hardroot_config::Fault;
    use hardroot_migration::Action;

    use super::*;

    fn converted(text: &str) -> (String, Report) {
        convert(&Document::parse(text).unwrap(), "agent.conf")
    }

    fn faults(text: &str) -> Vec<Fault> {
        judge_text(text, "new", &Overrides::default())
    }

    #[test]
    fn a_usual_agent_keeps_its_settings() {
        let (text, report) = converted(
            "agent {\n  data_dir = \"/opt/spire/data\"\n  log_level = \"DEBUG\"\n  server_address = \"spire.test\"\n  \
             server_port = \"8081\"\n  socket_path = \"/run/spire.sock\"\n  trust_bundle_path = \"/etc/bundle.pem\"\n  \
             trust_domain = \"example.org\"\n}\nplugins {\n  NodeAttestor \"join_token\" {\n    plugin_data {}\n  }\n  \
             KeyManager \"disk\" {\n    plugin_data {\n      directory = \"/opt/spire/data\"\n    }\n  }\n  \
             WorkloadAttestor \"unix\" {\n    plugin_data {}\n  }\n  WorkloadAttestor \"docker\" { plugin_data {} }\n}\n",
        );
        assert_eq!(faults(&text), Vec::new(), "{text}");
        assert!(!report.is_undecided(), "{report:?}");
        let said: Vec<(Action, &str)> =
            report.changes.iter().map(|change| (change.action, change.setting.as_str())).collect();
        assert_eq!(
            said,
            [
                (Action::Changed, "agent.allow_software_keys"),
                (Action::Removed, "plugins.WorkloadAttestor \"docker\""),
            ]
        );
        assert!(text.contains("log_level = \"DEBUG\"") && !text.contains("docker\" {"), "{text}");
    }

    #[test]
    fn what_has_no_counterpart_has_to_be_decided() {
        let (text, report) = converted(
            "agent {\n  server_address = \"s\"\n  server_port = 8081\n  trust_domain = \"example.org\"\n  \
             insecure_bootstrap = true\n}\nplugins {\n  NodeAttestor \"k8s_psat\" { plugin_data { cluster = \"c\" } }\n  \
             KeyManager \"memory\" { plugin_data {} }\n}\n",
        );
        assert!(report.is_undecided());
        let of = |action| {
            let found = report.changes.iter().filter(move |change| change.action == action);
            found.map(|change| change.why.as_str()).collect::<Vec<_>>().join("; ")
        };
        assert!(of(Action::Decide).contains("one NodeAttestor is required"), "{report:?}");
        assert!(of(Action::Removed).contains("has no such attestor"), "{report:?}");
        assert!(!faults(&text).is_empty());
    }
}
