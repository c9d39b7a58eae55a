//! `hardroot-server doctor`: looks at everything a server needs, with the server running or stopped, changes nothing,
//! and says of each thing whether it is fine, and what to do when it is not.
//!
//! Each subject has a file: it gathers facts, and a pure function says what they mean. What every daemon stands on
//! (clock, disk, files, limits) is in [`hardroot_runtime::doctor`].

mod authorities;
mod database;
mod lease;
mod places;
mod server;
#[cfg(test)]
mod testing;
mod token;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;
use hardroot_runtime::cli::Output;
use hardroot_runtime::doctor::{
    Finding, clock, disk, fault, files, fine, limits, report, table, verdict, warning,
};

use super::{CliError, Screen};
use crate::attest::chain;
use crate::config::{DEFAULT_PATH, KeyManagerConfig, ServerConfig};

/// Ten thousand connections, the database and the log.
const OPEN_FILES: (u64, &str) = (10_200, "10,000 connections");

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Path of the configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Replace $VAR and ${VAR} in the configuration file by environment variables
    #[arg(long = "expandEnv", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    expand_env: Option<bool>,
    /// Make a key on the token, sign with it and destroy it; else nothing is signed
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    sign: Option<bool>,
    /// Warnings, too, make the exit code 1
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    strict: Option<bool>,
    /// Output format: pretty or json
    #[arg(long, default_value_t = Output::Pretty)]
    output: Output,
}

impl Doctor {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let (expand, sign) = (self.expand_env.unwrap_or(false), self.sign.unwrap_or(false));
        let findings = Box::pin(examine(&self.config, expand, sign)).await;
        match self.output {
            Output::Pretty => screen.text(&table(&findings, std::io::stdout().is_terminal())),
            Output::Json => screen.json(report(&findings)),
        }
        match verdict(&findings, self.strict.unwrap_or(false)) {
            None => Ok(()),
            Some(bad) => Err(CliError::Outcome(bad)),
        }
    }
}

/// Looks at everything. Without a valid configuration there is nothing to look at but itself and the clock.
async fn examine(path: &Path, expand: bool, sign: bool) -> Vec<Finding> {
    let begun = clock::Moment::now();
    let config = match ServerConfig::load(path, expand) {
        Ok(config) => config,
        Err(faults) => {
            let mut found = unusable(&chain(&faults));
            found.extend(clock::judge(&clock::gather(begun, &[]).await));
            found.push(files::judge(&files::gather(path, files::Role::Trusted)));
            found.extend(limits::gather(None).map(|facts| limits::judge(facts, OPEN_FILES)));
            return found;
        }
    };
    let token = token::gather(&config, sign).await;
    let database = database::gather(&config).await;
    let running = Box::pin(server::gather(&config)).await;
    let lease = lease::gather(&config, database.lease.as_ref());
    let clock = clock::gather(begun, &places::written(&config)).await;
    let now = clock.now;

    let mut found = configuration(path, &config);
    found.extend(token::judge(&token));
    found.extend(database::judge(&database));
    found.extend(lease::judge(&lease, running.answers(), now));
    found.extend(clock::judge(&clock));
    found.extend(database.clock.map(|peer| clock::judge_peer("the database server's", peer)));
    found.extend(server::judge(&running, config.default_x509_svid_ttl, now));
    let bundle = authorities::gather(&config, &token, &database, &running);
    found.extend(authorities::judge(&bundle, now));
    found.extend(places::disks(&config).iter().flat_map(disk::judge));
    let wanted = places::files(path, &config);
    found.extend(wanted.iter().map(|(path, role)| files::judge(&files::gather(path, *role))));
    let open = limits::gather(limits::listener(&config.socket_path));
    found.extend(open.map(|facts| limits::judge(facts, OPEN_FILES)));
    found
}

fn unusable(faults: &str) -> Vec<Finding> {
    let advice = "correct this line; nothing else can be looked at before";
    faults.lines().map(|text| fault("configuration", text, advice)).collect()
}

fn configuration(path: &Path, config: &ServerConfig) -> Vec<Finding> {
    let mut found = vec![fine("configuration", format!("{} is valid", path.display()))];
    let manager = &config.key_manager;
    if !matches!(manager, KeyManagerConfig::Pkcs11 { .. } | KeyManagerConfig::Tpm { .. }) {
        found.push(warning(
            "configuration",
            format!("keys are in software (KeyManager \"{}\") and can be copied", manager.name()),
            "use pkcs11 or tpm for anything but an evaluation",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::testing::judged;
    use hardroot_runtime::doctor::Level;

    #[tokio::test]
    async fn a_configuration_with_faults_is_all_that_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.conf");
        std::fs::write(&path, "server {\n  bind_prot = 1\n}\nplugins {}\n").unwrap();
        let findings = super::examine(&path, false, false).await;
        judged(&findings, Level::Fault);
        assert!(findings.iter().any(|f| f.level == Level::Fault && f.text.contains("server.conf:2")));
        assert!(findings.iter().all(|f| f.check != "token" && f.check != "database"), "{findings:#?}");
    }
}
