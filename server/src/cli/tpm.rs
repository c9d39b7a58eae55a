//! `tpm enroll|list|show|remove`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hardroot_api::hardroot::server::tpm::v1 as wire;
use hardroot_api::hardroot::server::tpm::v1::tpm_client::TpmClient;
use hardroot_runtime::cli::Output;
use serde_json::json;
use tonic::transport::Channel;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::connection::{Connection, MAX_ANSWER};
use super::flags::{plural, read_data, time_text};
use super::{CliError, Screen};
use crate::audit::sha256_hex;

/// `tpm ...`.
#[derive(Debug, Subcommand)]
pub enum TpmCommand {
    /// Lets a TPM join, by its endorsement key (EK)
    Enroll(Enroll),
    /// Lists enrolled TPMs, oldest first
    List(List),
    /// Shows one enrolment
    Show(Named),
    /// Forgets an enrolment: the TPM cannot attest any more. To cut off a running agent, ban it too
    Remove(Named),
}

/// Which endorsement key: one of the three.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Key {
    /// SHA-256 of the EK's SubjectPublicKeyInfo in hex, as `hardroot-agent tpm show` prints it
    #[arg(long = "ekHash", value_name = "HEX")]
    ek_hash: Option<String>,
    /// A file with the EK certificate (PEM or DER); - reads standard input
    #[arg(long = "ekCert", value_name = "FILE")]
    ek_cert: Option<PathBuf>,
    /// A file with the EK's public key (SubjectPublicKeyInfo, PEM or DER); - reads standard input
    #[arg(long = "ekPub", value_name = "FILE")]
    ek_pub: Option<PathBuf>,
}

/// `tpm enroll`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hardroot-agent tpm show -config agent.conf     (on the box: prints its EK hash)\n  \
    hardroot-server tpm enroll -ekHash HEX -note \"rack 4, gateway 2\""
)]
pub struct Enroll {
    #[command(flatten)]
    key: Key,
    /// What the box is, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// A fixed agent path instead of /spire/agent/tpm_quote/HASH; begins with a slash, is below /spire/agent
    #[arg(long = "agentPath", value_name = "PATH", default_value = "")]
    agent_path: String,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `tpm list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// A command about one enrolment.
#[derive(Debug, Args)]
pub struct Named {
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl TpmCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Enroll(command) => command.execute(screen).await,
            Self::List(command) => command.execute(screen).await,
            Self::Show(command) => command.show(screen).await,
            Self::Remove(command) => command.remove(screen).await,
        }
    }
}

async fn client(connection: &Connection) -> Result<TpmClient<Channel>, CliError> {
    Ok(TpmClient::new(connection.open().await?).max_decoding_message_size(MAX_ANSWER))
}

fn lines(screen: &mut Screen, enrolment: &wire::Enrolment) {
    let path = match enrolment.agent_path.as_str() {
        "" => format!("/spire/agent/tpm_quote/{}", enrolment.ek_hash),
        path => format!("/spire/agent{path}"),
    };
    let mut field = |label: &str, value: &str| screen.line(format!("{label:<18}: {value}"));
    field("EK hash", &enrolment.ek_hash);
    field("Agent path", &path);
    if !enrolment.note.is_empty() {
        field("Note", &enrolment.note);
    }
    field("Enrolled at", &time_text(enrolment.created_at));
    screen.line("");
}

/// The bytes of a PEM block with this label, or the data itself.
fn der(data: Vec<u8>, label: &str, path: &Path) -> Result<Vec<u8>, CliError> {
    let fault = |reason: String| CliError::File { op: "parsing", path: path.display().to_string(), reason };
    if !data.starts_with(b"-----") {
        return Ok(data);
    }
    let (_, block) =
        x509_parser::pem::parse_x509_pem(&data).map_err(|cause| fault(format!("no PEM: {cause}")))?;
    if block.label == label {
        Ok(block.contents)
    } else {
        Err(fault(format!("it holds a {}, not a {label}", block.label)))
    }
}

impl Key {
    /// The hash of the key that was named.
    fn hash(&self) -> Result<String, CliError> {
        if let Some(hash) = &self.ek_hash {
            return Ok(hash.clone());
        }
        if let Some(path) = &self.ek_cert {
            let der = der(read_data(path)?, "CERTIFICATE", path)?;
            let fault = |reason: String| CliError::File {
                op: "parsing",
                path: path.display().to_string(),
                reason: format!("no certificate: {reason}"),
            };
            // Certificates in NV memory may be padded; what follows the certificate is not looked at.
            let (_, certificate) =
                X509Certificate::from_der(&der).map_err(|cause| fault(cause.to_string()))?;
            return Ok(sha256_hex(certificate.tbs_certificate.subject_pki.raw));
        }
        let path = self
            .ek_pub
            .as_deref()
            .ok_or_else(|| CliError::usage("-ekHash, -ekCert or -ekPub is required"))?;
        let der = der(read_data(path)?, "PUBLIC KEY", path)?;
        let fault = |reason: String| CliError::File {
            op: "parsing",
            path: path.display().to_string(),
            reason: format!("no SubjectPublicKeyInfo: {reason}"),
        };
        let (rest, _) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&der)
            .map_err(|cause| fault(cause.to_string()))?;
        if !rest.is_empty() {
            return Err(fault(format!("{} bytes follow it", rest.len())));
        }
        Ok(sha256_hex(&der))
    }
}

impl Enroll {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let request =
            wire::EnrolRequest { ek_hash: self.key.hash()?, note: self.note, agent_path: self.agent_path };
        let enrolment = client(&self.connection).await?.enrol(request).await?.into_inner();
        match self.output {
            Output::Json => screen.message("hardroot.server.tpm.v1.Enrolment", &enrolment),
            Output::Pretty => {
                screen.line("TPM enrolled");
                screen.line("");
                lines(screen, &enrolment);
                Ok(())
            }
        }
    }
}

impl List {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::ListEnrolmentsRequest {};
        let all = client(&self.connection).await?.list_enrolments(request).await?.into_inner();
        if self.output == Output::Json {
            return screen.message("hardroot.server.tpm.v1.ListEnrolmentsResponse", &all);
        }
        if all.enrolments.is_empty() {
            screen.line("No enrolled TPMs found");
            return Ok(());
        }
        screen.line(format!("Found {}:", plural(all.enrolments.len(), "enrolled TPM", "enrolled TPMs")));
        screen.line("");
        for enrolment in &all.enrolments {
            lines(screen, enrolment);
        }
        Ok(())
    }
}

impl Named {
    async fn show(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::GetEnrolmentRequest { ek_hash: self.key.hash()? };
        let enrolment = client(&self.connection).await?.get_enrolment(request).await?.into_inner();
        match self.output {
            Output::Json => screen.message("hardroot.server.tpm.v1.Enrolment", &enrolment),
            Output::Pretty => {
                lines(screen, &enrolment);
                Ok(())
            }
        }
    }

    async fn remove(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::RemoveEnrolmentRequest { ek_hash: self.key.hash()? };
        client(&self.connection).await?.remove_enrolment(request).await?;
        match self.output {
            Output::Json => screen.json(json!({})),
            Output::Pretty => screen.line("TPM enrolment removed"),
        }
        Ok(())
    }
}
