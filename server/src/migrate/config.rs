//! A SPIRE server's configuration, turned into ours.

use std::path::{Path, PathBuf};

use hardroot_config::{Document, Fault, Kind};
use hardroot_migration::{Draft, Report, Step};

use crate::config::{ConfigError, ServerConfig};

const SERVER: Step<'_> = Step::Key("server");
const PLUGINS: Step<'_> = Step::Key("plugins");
const DATA: Step<'_> = Step::Key("plugin_data");
const DATASTORE: [Step<'_>; 3] = [PLUGINS, Step::Labelled("DataStore", "sql"), DATA];

/// Key managers of SPIRE whose keys are somewhere this server cannot reach.
const CLOUD_KEYS: [&str; 4] = ["aws_kms", "gcp_kms", "azure_key_vault", "hashicorp_vault"];

/// Node attestors that this server has too.
const ATTESTORS: [&str; 3] = ["join_token", "x509pop", "tpm_quote"];

/// Turns a SPIRE server's configuration into ours. `database` is where the new data shall be, as a connection
/// string of the same kind of database.
pub(super) fn convert(old: &Document, name: &str, database: Option<&str>) -> (String, Report) {
    let mut draft = Draft::new(old);
    key_manager(&mut draft);
    datastore(&mut draft, database);
    node_attestors(&mut draft);
    defaults(&mut draft);
    draft.settle(&format!("Made by `hardroot-server migrate-from-spire` from {name}."), &judge)
}

/// What the server would say of a text.
fn judge(text: &str) -> Vec<Fault> {
    match ServerConfig::parse(text, "new") {
        Ok(_) => Vec::new(),
        Err(ConfigError::Faults(faults)) => faults.iter().map(|(_, fault)| fault.clone()).collect(),
        Err(ConfigError::Load(error)) => vec![Fault::at(1, error.to_string())],
    }
}

fn text(value: &str) -> Kind {
    Kind::Text(value.to_owned())
}

fn key_manager(draft: &mut Draft) {
    for name in draft.labels(&[PLUGINS], "KeyManager") {
        let block = [PLUGINS, Step::Labelled("KeyManager", &name)];
        if matches!(name.as_str(), "disk" | "memory") {
            draft.set(
                &[SERVER, Step::Key("allow_software_keys")],
                Kind::Bool(true),
                format!(
                    "KeyManager \"{name}\" keeps keys in software, as before; move to \"pkcs11\" or \"tpm\" (docs/guide/hsm.md) \
                     and take this away"
                ),
            );
        } else if CLOUD_KEYS.contains(&name.as_str()) {
            draft
                .remove(&block, "keys in a cloud are not supported by this server; they stay where they are");
            let new = [PLUGINS, Step::Labelled("KeyManager", "pkcs11"), DATA];
            let fill =
                "fill in the token that holds this server's keys from now on; a new authority is made in it";
            for (key, value) in [
                ("module_path", "/path/to/pkcs11/module.so"),
                ("token_label", "hardroot"),
                ("pin_file", "/path/to/pin"),
            ] {
                let path = [new.as_slice(), &[Step::Key(key)]].concat();
                draft.propose(&path, text(value), fill);
            }
        }
    }
}

fn datastore(draft: &mut Draft, database: Option<&str>) {
    let connection = [DATASTORE.as_slice(), &[Step::Key("connection_string")]].concat();
    let kind = draft.text(&[DATASTORE.as_slice(), &[Step::Key("database_type")]].concat()).map(str::to_owned);
    let file = kind.as_deref() == Some("sqlite3");
    let new = match (database, file) {
        (Some(database), _) => database.to_owned(),
        (None, true) => new_file(draft).display().to_string(),
        (None, false) => {
            draft.propose(
                &connection,
                draft.get(&connection).cloned().unwrap_or_else(|| text("")),
                "SPIRE's database and this server's cannot be one: make an empty database and name it here, or run this \
                 command again with -database",
            );
            return;
        }
    };
    draft.set(&connection, text(&new), "this server has a database of its own; SPIRE's is only read");
}

/// A file beside the data directory's others.
fn new_file(draft: &Draft) -> PathBuf {
    let data_dir = draft.text(&[SERVER, Step::Key("data_dir")]).unwrap_or(".");
    Path::new(data_dir).join("hardroot.sqlite3")
}

fn node_attestors(draft: &mut Draft) {
    let names = draft.labels(&[PLUGINS], "NodeAttestor");
    for name in names.iter().filter(|name| !ATTESTORS.contains(&name.as_str())) {
        let instead = match name.as_str() {
            "tpm_devid" => "use tpm_quote for these nodes: it needs no certificate of the TPM's",
            "sshpop" | "http_challenge" => "use x509pop or join_token for these nodes",
            _ => "no cloud or cluster vouches for nodes here: use tpm_quote, x509pop or join_token",
        };
        let why = format!(
            "this server has no such attestor; {instead}. Agents that it let in stay known until their SVIDs end"
        );
        draft.remove(&[PLUGINS, Step::Labelled("NodeAttestor", name)], why);
    }
    if !names.iter().any(|name| name == "join_token") {
        draft.set(
            &[PLUGINS, Step::Labelled("NodeAttestor", "join_token"), DATA],
            Kind::Object(hardroot_config::Body::default()),
            "SPIRE takes join tokens without being told to, this server does not; remove it if you use none",
        );
    }
}

/// Defaults that are not SPIRE's.
fn defaults(draft: &mut Draft) {
    let audit = [SERVER, Step::Key("audit_log_enabled")];
    if draft.get(&audit).is_none() {
        draft.remark(&audit, "is true here unless you say false");
    }
    for name in draft.labels(&[PLUGINS], "UpstreamAuthority") {
        draft.remark(
            &[PLUGINS, Step::Labelled("UpstreamAuthority", &name)],
            "the authority of this server is its own root: publish its bundle to whoever trusts only the upstream one \
             before you switch",
        );
    }
}
