//! `tpm show`: what an operator needs to enrol this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hardroot_runtime::cli::{LABEL_WIDTH, Output, fields, print, print_json};
use hardroot_tpm_attestor::device::EkKind;
use hardroot_tpm_attestor::evidence::{TpmReport, report};

use super::complain;
use crate::config::{self, Overrides, TpmConfig};
use crate::lifecycle::chain_of;
use crate::run::open_tpm;

const DEFAULT_DEVICE: &str = "/dev/tpmrm0";

#[derive(Debug, Subcommand)]
pub(super) enum TpmCommand {
    /// Shows this machine's TPM: the EK hash to enrol, the EK's certificate, vendor, firmware, PCRs
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Take the TPM of this configuration file's block agent.tpm
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "tcti"])]
    config: Option<PathBuf>,
    /// The TPM's device; /dev/tpmrm0 unless another is given
    #[arg(long, value_name = "PATH", conflicts_with = "tcti")]
    device: Option<PathBuf>,
    /// How to reach the TPM, as tpm2-tss writes it: swtpm:host=127.0.0.1,port=2321
    #[arg(long, value_name = "TCTI")]
    tcti: Option<String>,
    /// File with the endorsement hierarchy's authorisation value
    #[arg(long = "endorsementAuthFile", value_name = "FILE")]
    endorsement_auth_file: Option<PathBuf>,
    /// File with the owner hierarchy's authorisation value
    #[arg(long = "ownerAuthFile", value_name = "FILE")]
    owner_auth_file: Option<PathBuf>,
    /// Which endorsement key: rsa-2048, ec-p256 or ec-p384; the one the agent would use unless one is named
    #[arg(long, value_name = "KIND", value_parser = ek_kind)]
    ek: Option<EkKind>,
    /// Which PCRs of the SHA-256 bank to show
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0,1,2,3,4,5,6,7", value_parser = clap::value_parser!(u8).range(0..24))]
    pcrs: Vec<u8>,
    /// pretty or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    output: Output,
}

fn ek_kind(text: &str) -> Result<EkKind, String> {
    [EkKind::Rsa2048, EkKind::EcP256, EkKind::EcP384]
        .into_iter()
        .find(|kind| kind.to_string() == text)
        .ok_or_else(|| "the endorsement key is `rsa-2048`, `ec-p256` or `ec-p384`".to_owned())
}

pub(super) async fn run(command: TpmCommand) -> ExitCode {
    let TpmCommand::Show(args) = command;
    match show(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => complain(why),
    }
}

fn place(args: &ShowArgs) -> Result<TpmConfig, String> {
    let mut place = match &args.config {
        Some(path) => config::load(path, None, &Overrides::default())
            .map_err(|error| told(&error))?
            .tpm
            .ok_or_else(|| format!("{}: there is no block agent.tpm", path.display()))?,
        None => {
            let device = args.device.clone().unwrap_or_else(|| DEFAULT_DEVICE.into());
            TpmConfig {
                tcti: args.tcti.clone().unwrap_or_else(|| format!("device:{}", device.display())),
                owner_auth_file: None,
                endorsement_auth_file: None,
                key_auth_file: None,
            }
        }
    };
    place.owner_auth_file = args.owner_auth_file.clone().or(place.owner_auth_file);
    place.endorsement_auth_file = args.endorsement_auth_file.clone().or(place.endorsement_auth_file);
    Ok(place)
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = chain_of(error);
    if causes.is_empty() { error.to_string() } else { format!("{error}: {causes}") }
}

async fn show(args: &ShowArgs) -> Result<(), String> {
    let place = place(args)?;
    let tpm = open_tpm(&place).await.map_err(|error| told(&error))?;
    let report = report(&tpm, args.ek, &args.pcrs).await.map_err(|error| told(&error))?;
    let printed = match args.output {
        Output::Json => print_json(&serde_json::to_value(&report).map_err(|error| error.to_string())?),
        Output::Pretty => print(&pretty(&report)),
    };
    printed.map_err(|error| format!("cannot print: {error}"))
}

fn pretty(report: &TpmReport) -> String {
    let certificate = match (&report.ek_certificate, report.ek_intermediates.len()) {
        (None, _) => "none in the TPM".to_owned(),
        (Some(_), 0) => "in the TPM".to_owned(),
        (Some(_), more) => format!("in the TPM, with {more} more of its chain"),
    };
    let [failed, limit] = report.lockout;
    let mut out = fields(
        LABEL_WIDTH,
        [
            ("TPM", report.tcti.clone()),
            ("EK hash", report.ek_hash.clone()),
            ("EK type", report.ek_type.clone()),
            ("EK certificate", certificate),
            ("Vendor", report.vendor.clone()),
            ("Model", report.model.clone()),
            ("Firmware", report.firmware.clone()),
            ("Failed auths", format!("{failed} of {limit} before lockout")),
        ],
    );
    for pcr in &report.pcrs {
        out.push_str(&fields(
            LABEL_WIDTH,
            [(format!("PCR {} {}", pcr.bank, pcr.index).as_str(), pcr.value.clone())],
        ));
    }
    out.push('\n');
    out.push_str(&report.ek_public_key);
    for certificate in report.ek_certificate.iter().chain(&report.ek_intermediates) {
        out.push_str(certificate);
    }
    out
}

#[cfg(test)]
mod tests {
    use hardroot_tpm_attestor::evidence::PcrValue;

    use super::*;

    fn sample() -> TpmReport {
        TpmReport {
            tcti: "device:/dev/tpmrm0".into(),
            ek_hash: "ab".repeat(32),
            ek_type: "ec-p384".into(),
            ek_public_key: "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n".into(),
            ek_certificate: Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".into()),
            ek_intermediates: vec![],
            vendor: "IBM".into(),
            model: "SW   TPM".into(),
            firmware: "8217.4131.18.13878".into(),
            pcrs: vec![PcrValue { bank: "sha256", index: 0, value: "00".repeat(32) }],
            lockout: [0, 3],
        }
    }

    #[test]
    fn people_see_what_to_enrol() {
        let expected = format!(
            "TPM              : device:/dev/tpmrm0\n\
             EK hash          : {}\n\
             EK type          : ec-p384\n\
             EK certificate   : in the TPM\n\
             Vendor           : IBM\n\
             Model            : SW   TPM\n\
             Firmware         : 8217.4131.18.13878\n\
             Failed auths     : 0 of 3 before lockout\n\
             PCR sha256 0     : {}\n\
             \n\
             -----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n\
             -----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
            "ab".repeat(32),
            "00".repeat(32),
        );
        assert_eq!(pretty(&sample()), expected);
    }

    #[test]
    fn programs_find_the_hash_under_its_name() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["ek_hash"], "ab".repeat(32));
        assert_eq!(json["pcrs"][0]["index"], 0);
    }
}
