//! `hardroot-server hsm`: making a token ready, looking at its keys, and what would be refused.
//!
//! These commands speak to the token themselves and need no running server. PINs come from files only.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hardroot_config::{Decoder, LoadError};
use hardroot_hsm_keymanager::pkcs11::inspect::{self, NewToken, ObjectReport, TokenReport, TokenSummary};
use hardroot_hsm_keymanager::pkcs11::{Config, Pkcs11Error};
use hardroot_runtime::cli::{Output, fields, table};
use serde_json::{Map, Value, json};

use super::{CliError, Screen};

/// The `hsm` commands.
#[derive(Debug, Subcommand)]
pub enum HsmCommand {
    /// Initialise a fresh token: label, security officer's PIN and user PIN
    ///
    /// For SoftHSM and tokens like it. A token that is initialised already is never touched. Production HSMs
    /// are initialised with their vendor's tools.
    InitToken(InitToken),
    /// List the tokens of a module, or every key on one token with its attributes
    List(Target),
    /// Check the token and the keys of Hardroot on it: what would be refused, and why
    ///
    /// Reads the attributes back and signs a test digest with each key. Exits with 1 when anything would be
    /// refused.
    Check(Target),
}

/// Which token.
#[derive(Debug, Args)]
pub struct Target {
    /// Server configuration file to take the KeyManager "pkcs11" settings from
    #[arg(long)]
    config: Option<PathBuf>,
    /// Replace $VAR and ${VAR} in the configuration file by the environment's values
    #[arg(long = "expandEnv")]
    expand_env: bool,
    /// PKCS#11 module (a shared library)
    #[arg(long = "modulePath")]
    module_path: Option<PathBuf>,
    /// Label of the token
    #[arg(long = "tokenLabel")]
    token_label: Option<String>,
    /// Serial number of the token
    #[arg(long = "tokenSerial")]
    token_serial: Option<String>,
    /// File with the user PIN, mode 0600
    #[arg(long = "pinFile")]
    pin_file: Option<PathBuf>,
    /// Output format: pretty or json
    #[arg(long, default_value_t = Output::Pretty)]
    output: Output,
}

/// What `init-token` needs.
#[derive(Debug, Args)]
pub struct InitToken {
    /// Server configuration file to take module, label and PIN file from
    #[arg(long)]
    config: Option<PathBuf>,
    /// Replace $VAR and ${VAR} in the configuration file by the environment's values
    #[arg(long = "expandEnv")]
    expand_env: bool,
    /// PKCS#11 module (a shared library)
    #[arg(long = "modulePath")]
    module_path: Option<PathBuf>,
    /// Label for the new token, 1 to 32 bytes
    #[arg(long = "tokenLabel")]
    token_label: Option<String>,
    /// File with the security officer's PIN to set, mode 0600
    #[arg(long = "soPinFile")]
    so_pin_file: PathBuf,
    /// File with the user PIN to set, mode 0600
    #[arg(long = "pinFile")]
    pin_file: Option<PathBuf>,
    /// Output format: pretty or json
    #[arg(long, default_value_t = Output::Pretty)]
    output: Output,
}

/// Why an `hsm` command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HsmError {
    /// The configuration file cannot be read.
    #[error("the configuration cannot be used")]
    Load(#[source] LoadError),
    /// It configures another key manager.
    #[error("{} configures no KeyManager \"pkcs11\"", path.display())]
    NoPkcs11 {
        /// The configuration file.
        path: PathBuf,
    },
    /// A setting is missing.
    #[error("{what} is needed: give {flag}, or a -config that has it")]
    Missing {
        /// What.
        what: &'static str,
        /// The flag.
        flag: &'static str,
    },
    /// The token.
    #[error(transparent)]
    Token(#[from] Pkcs11Error),
    /// Standard output.
    #[error("cannot write the answer")]
    Write(#[from] io::Error),
}

/// Runs a command; blocks for as long as the token takes. `false` says that something would be refused: the
/// program then exits with 1.
///
/// # Errors
/// The token cannot be looked at, or the answer not be written.
pub fn run(command: HsmCommand, out: &mut dyn Write) -> Result<bool, HsmError> {
    match command {
        HsmCommand::InitToken(command) => init_token(&command, out).map(|()| true),
        HsmCommand::List(target) => list(&target, out).map(|()| true),
        HsmCommand::Check(target) => check(&target, out),
    }
}

/// Runs a command and puts what it prints on `screen`.
pub(super) async fn execute(command: HsmCommand, screen: &mut Screen) -> Result<(), CliError> {
    let ran = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        (run(command, &mut out), out)
    });
    let (result, out) = ran.await.map_err(|ended| CliError::Outcome(ended.to_string()))?;
    screen.text(&String::from_utf8_lossy(&out));
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::Outcome("the server would refuse keys on this token".to_owned())),
        Err(error) => Err(CliError::Outcome(chain(&error))),
    }
}

/// An error and its causes, for the one line that is printed.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Settings from flags, and for those not given from the configuration.
#[derive(Debug, Default)]
struct Settings {
    module_path: Option<PathBuf>,
    token_label: Option<String>,
    token_serial: Option<String>,
    pin_file: Option<PathBuf>,
    tolerate_missing: Vec<String>,
}

impl Settings {
    fn read(config: Option<&Path>, expand_env: bool) -> Result<Self, HsmError> {
        let Some(path) = config else { return Ok(Self::default()) };
        let lookup = |name: &str| std::env::var(name).ok();
        let environment: Option<&hardroot_config::Lookup<'_>> = if expand_env { Some(&lookup) } else { None };
        let document = hardroot_config::load(path, environment).map_err(HsmError::Load)?;
        let decoder = Decoder::new(&document, &path.display().to_string());
        let data = decoder
            .block("plugins")
            .labelled_blocks("KeyManager")
            .into_iter()
            .find(|(name, _)| *name == "pkcs11")
            .map(|(_, plugin)| plugin.block("plugin_data"))
            .ok_or_else(|| HsmError::NoPkcs11 { path: path.to_owned() })?;
        // Other keys are the server's business; `hardroot-server validate` judges the whole file.
        Ok(Self {
            module_path: data.path("module_path"),
            token_label: data.string("token_label"),
            token_serial: data.string("token_serial"),
            pin_file: data.path("pin_file"),
            tolerate_missing: data.string_list("tolerate_missing_attributes").unwrap_or_default(),
        })
    }

    fn of(target: &Target) -> Result<Self, HsmError> {
        let read = Self::read(target.config.as_deref(), target.expand_env)?;
        // A token named by flags is another one than the file's: the two must not be mixed.
        let named = target.token_label.is_some() || target.token_serial.is_some();
        let (label, serial) = if named { (None, None) } else { (read.token_label, read.token_serial) };
        Ok(Self {
            module_path: target.module_path.clone().or(read.module_path),
            token_label: target.token_label.clone().or(label),
            token_serial: target.token_serial.clone().or(serial),
            pin_file: target.pin_file.clone().or(read.pin_file),
            tolerate_missing: read.tolerate_missing,
        })
    }

    fn module(&self) -> Result<&Path, HsmError> {
        self.module_path
            .as_deref()
            .ok_or(HsmError::Missing { what: "the PKCS#11 module", flag: "-modulePath" })
    }

    fn names_token(&self) -> bool {
        self.token_label.is_some() || self.token_serial.is_some()
    }

    fn token(&self) -> Result<Config, HsmError> {
        if !self.names_token() {
            return Err(HsmError::Missing { what: "the token", flag: "-tokenLabel or -tokenSerial" });
        }
        let pin_file =
            self.pin_file.clone().ok_or(HsmError::Missing { what: "the PIN file", flag: "-pinFile" })?;
        let mut config = Config::new(self.module()?, pin_file);
        config.token_label.clone_from(&self.token_label);
        config.token_serial.clone_from(&self.token_serial);
        config.tolerate_missing_attributes.clone_from(&self.tolerate_missing);
        Ok(config)
    }
}

fn init_token(command: &InitToken, out: &mut dyn Write) -> Result<(), HsmError> {
    let read = Settings::read(command.config.as_deref(), command.expand_env)?;
    let module = command.module_path.clone().or(read.module_path);
    let label = command.token_label.clone().or(read.token_label);
    let pin_file = command.pin_file.clone().or(read.pin_file);
    let made = inspect::init_token(NewToken {
        module_path: &module.ok_or(HsmError::Missing { what: "the PKCS#11 module", flag: "-modulePath" })?,
        label: &label.ok_or(HsmError::Missing { what: "a label", flag: "-tokenLabel" })?,
        so_pin_file: &command.so_pin_file,
        pin_file: &pin_file.ok_or(HsmError::Missing { what: "the PIN file", flag: "-pinFile" })?,
    })?;
    match command.output {
        Output::Json => writeln!(out, "{}", json!({ "token": token_json(&made) }))?,
        Output::Pretty => {
            writeln!(out, "Initialised the token.")?;
            write!(out, "{}", token_text(&made))?;
        }
    }
    Ok(())
}

fn list(target: &Target, out: &mut dyn Write) -> Result<(), HsmError> {
    let settings = Settings::of(target)?;
    if !settings.names_token() {
        let tokens = inspect::tokens(settings.module()?)?;
        return tokens_out(&tokens, target.output, out);
    }
    let report = inspect::inspect(&settings.token()?)?;
    match target.output {
        Output::Json => writeln!(out, "{}", report_json(&report, false))?,
        Output::Pretty => {
            write!(out, "{}", token_text(&report.token))?;
            writeln!(out, "Keys             : {}", report.objects.len())?;
            for object in &report.objects {
                writeln!(out)?;
                write!(out, "{}", object_text(object))?;
                for (name, value) in &object.findings.values {
                    writeln!(out, "  {name:<23}{value}")?;
                }
            }
        }
    }
    Ok(())
}

fn check(target: &Target, out: &mut dyn Write) -> Result<bool, HsmError> {
    let report = inspect::inspect(&Settings::of(target)?.token()?)?;
    let ours: Vec<&ObjectReport> = report.objects.iter().filter(|object| object.is_ours()).collect();
    let good = ours.iter().all(|object| object.findings.faults.is_empty());
    match target.output {
        Output::Json => writeln!(out, "{}", report_json(&report, true))?,
        Output::Pretty => {
            write!(out, "{}", token_text(&report.token))?;
            writeln!(out)?;
            let rows: Vec<Vec<String>> = ours.iter().map(|object| row(object)).collect();
            if rows.is_empty() {
                writeln!(
                    out,
                    "No keys of Hardroot are on this token yet; the server makes them when it starts."
                )?;
            } else {
                write!(out, "{}", table(&["KEY", "OF", "TYPE", "STATE"], &rows))?;
            }
            for object in &ours {
                for fault in &object.findings.faults {
                    writeln!(out, "\nrefused: {}: {fault}", object.label)?;
                }
                for note in &object.findings.notes {
                    writeln!(out, "\nnote: {}: {note}", object.label)?;
                }
            }
            writeln!(out, "\n{}", if good { "Nothing would be refused." } else { "Keys would be refused." })?;
        }
    }
    Ok(good)
}

fn row(object: &ObjectReport) -> Vec<String> {
    let (key, of) = match &object.owner {
        Some(owner) => (owner.key.clone(), format!("{} in {}", owner.instance, owner.trust_domain)),
        None => (object.label.clone(), "-".to_owned()),
    };
    vec![key, of, kind(object).to_owned(), state(object).to_owned()]
}

fn kind(object: &ObjectReport) -> &'static str {
    object.kind.map_or("unknown", hardroot_hsm_keymanager::KeyType::as_str)
}

fn state(object: &ObjectReport) -> &'static str {
    if !object.findings.faults.is_empty() {
        "refused"
    } else if object.private_objects == 0 {
        "left over"
    } else {
        "good"
    }
}

fn tokens_out(tokens: &[TokenSummary], output: Output, out: &mut dyn Write) -> Result<(), HsmError> {
    match output {
        Output::Json => {
            let tokens: Vec<Value> = tokens.iter().map(token_json).collect();
            writeln!(out, "{}", json!({ "tokens": tokens }))?;
        }
        Output::Pretty => {
            let rows: Vec<Vec<String>> = tokens
                .iter()
                .map(|token| {
                    let label =
                        if token.initialised { token.label.clone() } else { "(not initialised)".to_owned() };
                    vec![label, token.serial.clone(), token.model.clone(), pin_state(token).to_owned()]
                })
                .collect();
            write!(out, "{}", table(&["TOKEN", "SERIAL", "MODEL", "USER PIN"], &rows))?;
        }
    }
    Ok(())
}

fn pin_state(token: &TokenSummary) -> &'static str {
    if token.user_pin_locked {
        "locked"
    } else if token.user_pin_last_try {
        "one try left"
    } else if token.user_pin_set {
        "set"
    } else {
        "not set"
    }
}

fn token_text(token: &TokenSummary) -> String {
    fields(
        17,
        [
            ("Token", token.label.clone()),
            ("Serial", token.serial.clone()),
            ("Model", format!("{} {}", token.manufacturer, token.model)),
            ("User PIN", pin_state(token).to_owned()),
            ("Write protected", token.write_protected.to_string()),
        ],
    )
}

fn object_text(object: &ObjectReport) -> String {
    let mut lines = vec![
        ("Label", object.label.clone()),
        ("ID", hex::encode(&object.id)),
        ("Type", kind(object).to_owned()),
        ("Public key hash", object.spki_sha256.map_or_else(|| "-".to_owned(), hex::encode)),
        ("Objects", format!("{} private, {} public", object.private_objects, object.public_objects)),
        ("State", if object.is_ours() { state(object).to_owned() } else { "not Hardroot's".to_owned() }),
    ];
    lines.extend(object.findings.faults.iter().map(|fault| ("Fault", fault.clone())));
    lines.extend(object.findings.notes.iter().map(|note| ("Note", note.clone())));
    fields(17, lines)
}

fn token_json(token: &TokenSummary) -> Value {
    json!({
        "label": token.label,
        "serial": token.serial,
        "manufacturer": token.manufacturer,
        "model": token.model,
        "slot": token.slot,
        "initialised": token.initialised,
        "user_pin_set": token.user_pin_set,
        "user_pin_locked": token.user_pin_locked,
        "user_pin_last_try": token.user_pin_last_try,
        "write_protected": token.write_protected,
    })
}

/// Attribute names as JSON has them: `CKA_NEVER_EXTRACTABLE` is `never_extractable`.
fn attributes_json(object: &ObjectReport) -> Value {
    let values = object.findings.values.iter().map(|(name, value)| {
        let value = match value.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "absent" => Value::Null,
            text => Value::Array(text.split(',').map(Value::from).collect()),
        };
        (name.trim_start_matches("CKA_").to_ascii_lowercase(), value)
    });
    Value::Object(values.collect::<Map<_, _>>())
}

fn object_json(object: &ObjectReport) -> Value {
    let owner = object.owner.as_ref();
    json!({
        "label": object.label,
        "id": hex::encode(&object.id),
        "type": object.kind.map(hardroot_hsm_keymanager::KeyType::as_str),
        "spki_sha256": object.spki_sha256.map(hex::encode),
        "private_objects": object.private_objects,
        "public_objects": object.public_objects,
        "trust_domain": owner.map(|owner| &owner.trust_domain),
        "instance": owner.map(|owner| &owner.instance),
        "key": owner.map(|owner| &owner.key),
        "attributes": attributes_json(object),
        "faults": object.findings.faults,
        "notes": object.findings.notes,
    })
}

fn report_json(report: &TokenReport, ours_only: bool) -> Value {
    let shown = report.objects.iter().filter(|object| !ours_only || object.is_ours());
    let keys: Vec<Value> = shown.map(object_json).collect();
    let good = report
        .objects
        .iter()
        .filter(|object| object.is_ours())
        .all(|object| object.findings.faults.is_empty());
    json!({ "token": token_json(&report.token), "keys": keys, "ok": good })
}

#[cfg(test)]
#[path = "hsm_tests.rs"]
mod tests;
