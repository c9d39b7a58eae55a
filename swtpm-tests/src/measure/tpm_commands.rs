//! TPM commands for attestation, renewal and an idle minute, counted by a proxy before swtpm (row P12).

use std::time::Duration;

use anyhow::Result;
use hardroot_emulators::{Swtpm, TpmProxy};

use super::report::Row;
use crate::site::{AgentSetup, Site};
use crate::wait;

/// Private-key operations and all commands.
///
/// # Errors
/// The daemons or the emulator failed.
pub fn measure() -> Result<Vec<Row>> {
    let tpm = Swtpm::start()?;
    let proxy = TpmProxy::before(&tpm)?;
    let mut site = Site::new()?;
    let roots = site.folder().join("endorsement-ca.pem");
    std::fs::write(&roots, tpm.ca_pem()?)?;
    site.attestors = format!(
        "    NodeAttestor \"tpm_quote\" {{\n        plugin_data {{\n            endorsement_ca_path = \"{}\"\n            \
         enrolment = \"endorsement\"\n        }}\n    }}\n",
        roots.display()
    );
    // Half of 80 s: the renewal comes after an idle stretch that can be told apart.
    site.server_lines = "    agent_ttl = \"80s\"\n".to_owned();
    site.start_server()?;
    site.write_bundle()?;
    let mut agent = site.agent("agent", AgentSetup::tpm(&proxy.tcti()))?;
    agent.start()?;
    let mut rows = Vec::new();
    let mut row = |what: &str, measured: u64, limit: f64, limit_is: &str| {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
        let measured = measured as f64;
        rows.push(Row { what: what.into(), measured, limit, limit_is: limit_is.into(), unit: "" });
    };
    row(
        "TPM private-key operations to attest (TLS included)",
        proxy.private_key_operations(),
        5.0,
        "DESIGN.md",
    );
    row(
        "salted sessions to attest (once each time the TPM is opened)",
        proxy.salted_sessions(),
        1.0,
        "decision 6",
    );
    row("TPM commands to attest, a new box", proxy.total(), 0.0, "none set");

    proxy.reset_counts();
    let quiet = std::time::Instant::now();
    wait::until("twenty idle seconds", Duration::from_secs(60), || {
        Ok((quiet.elapsed() > Duration::from_secs(20)).then_some(()))
    })?;
    row("TPM commands in 20 idle seconds", proxy.total(), 0.0, "0 by design");

    proxy.reset_counts();
    let log = site.folder().join("server.log");
    let count = || -> Result<usize> { Ok(std::fs::read_to_string(&log)?.matches("evidence_digest").count()) };
    let before = count()?;
    wait::until("a renewal", Duration::from_secs(90), || Ok((count()? > before).then_some(())))?;
    // The new certificate is used on a new connection.
    wait::until("the new connection", Duration::from_secs(20), || {
        Ok((proxy.private_key_operations() >= 2).then_some(()))
    })?;
    row(
        "TPM private-key operations to renew (quote, and TLS for the new certificate)",
        proxy.private_key_operations(),
        2.0,
        "1 + 1 per new TLS connection",
    );
    row("TPM commands to renew", proxy.total(), 0.0, "none set");
    Ok(rows)
}
