//! `x509 mint`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::bundle::v1::GetBundleRequest;
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::server::svid::v1::MintX509svidRequest;
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::pem_encode;
use hardroot_runtime::cli::Output;
use serde::Serialize;

use super::connection::{Connection, MAX_ANSWER};
use super::software_key::SoftwareKey;
use super::{CliError, Screen, mint};

/// `x509 ...`.
#[derive(Debug, Subcommand)]
pub enum X509Command {
    /// Mints an X509-SVID
    Mint(Mint),
}

/// `x509 mint`.
#[derive(Debug, Args)]
pub struct Mint {
    /// SPIFFE ID of the X509-SVID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// TTL of the X509-SVID
    #[arg(long, value_name = "DURATION", default_value = "0s",
        value_parser = hardroot_config::duration::parse)]
    ttl: Duration,
    /// DNS name that will be included in SVID. Can be used more than once
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// Directory to write output to instead of stdout: svid.pem, key.pem (mode 0600), bundle.pem
    #[arg(long, value_name = "DIRECTORY")]
    write: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Minted<'a> {
    x509_svid: Vec<String>,
    private_key: &'a str,
    root_cas: Vec<String>,
}

impl X509Command {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let Self::Mint(command) = self;
        command.execute(screen).await
    }
}

impl Mint {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let id = mint::spiffe_id(self.spiffe_id.as_deref())?;
        let ttl = mint::seconds(self.ttl)?;
        let key = SoftwareKey::generate(KeyType::EcP256)?;
        let request = MintX509svidRequest { csr: key.csr(&id, &self.dns_names)?, ttl };
        let channel = self.connection.open().await?;
        let svid = SvidClient::new(channel.clone())
            .mint_x509svid(request)
            .await
            .map_err(CliError::rpc("unable to mint SVID: "))?
            .into_inner()
            .svid
            .filter(|svid| !svid.cert_chain.is_empty())
            .ok_or_else(|| CliError::Outcome("server response missing SVID chain".to_owned()))?;
        let roots: Vec<Vec<u8>> = BundleClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER)
            .get_bundle(GetBundleRequest { output_mask: None })
            .await
            .map_err(CliError::rpc("unable to get bundle: "))?
            .into_inner()
            .x509_authorities
            .into_iter()
            .map(|root| root.asn1)
            .collect();
        if roots.is_empty() {
            return Err(CliError::Outcome("server response missing X509 Authorities".to_owned()));
        }
        mint::tell_if_capped(screen, "X509-SVID", svid.expires_at, self.ttl, SystemTime::now());
        let (chain, bundle) = (pem_encode(&svid.cert_chain), pem_encode(&roots));
        if let Some(directory) = self.write.filter(|path| !path.as_os_str().is_empty()) {
            let at = |name: &str| directory.join(name);
            mint::write(screen, &at("svid.pem"), chain.as_bytes(), 0o644, ("SVID", "X509-SVID"))?;
            mint::write(screen, &at("key.pem"), key.pem().as_bytes(), 0o600, ("key", "Private key"))?;
            return mint::write(screen, &at("bundle.pem"), bundle.as_bytes(), 0o644, ("bundle", "Root CAs"));
        }
        match self.output {
            Output::Pretty => {
                screen.text(&format!("X509-SVID:\n{chain}\nPrivate key:\n"));
                screen.text(&key.pem());
                screen.text(&format!("\nRoot CAs:\n{bundle}\n"));
                Ok(())
            }
            Output::Json => {
                let base64 = |ders: &[Vec<u8>]| ders.iter().map(|der| STANDARD.encode(der)).collect();
                let private_key = zeroize::Zeroizing::new(STANDARD.encode(key.pkcs8()));
                screen.struct_json(&Minted {
                    x509_svid: base64(&svid.cert_chain),
                    private_key: &private_key,
                    root_cas: base64(&roots),
                })
            }
        }
    }
}
