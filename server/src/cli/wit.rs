//! `wit mint`: there only with `SPIRE_SERVER_FFLAGS=wit-svid`. This server issues no WIT-SVIDs and says so; a
//! server of SPIRE with the flag can be asked.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use hardroot_api::json::to_json;
use hardroot_api::spire::api::server::svid::v1::MintWitsvidRequest;
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_hsm_keymanager::KeyType;
use hardroot_runtime::cli::Output;
use serde::Serialize;

use super::connection::Connection;
use super::software_key::SoftwareKey;
use super::{CliError, Screen, mint};

/// The environment variable with SPIRE's feature flags, separated by spaces.
const FLAGS: &str = "SPIRE_SERVER_FFLAGS";

/// Whether the command is there.
pub(super) fn is_enabled(environment: impl Fn(&str) -> Option<String>) -> bool {
    environment(FLAGS).is_some_and(|flags| flags.split(' ').any(|flag| flag == "wit-svid"))
}

/// `wit ...`.
#[derive(Debug, Subcommand)]
pub enum WitCommand {
    /// Mints a WIT-SVID
    Mint(Mint),
}

/// `wit mint`.
#[derive(Debug, Args)]
pub struct Mint {
    /// SPIFFE ID of the WIT-SVID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Key type of the WIT-SVID
    #[arg(long = "keyType", value_name = "TYPE", default_value = "ec-p256")]
    key_type: String,
    /// Signing algorithm for the workload signing key
    #[arg(long = "signingAlgorithm", value_name = "ALGORITHM", default_value = "ES256")]
    signing_algorithm: String,
    /// TTL of the WIT-SVID
    #[arg(long, value_name = "DURATION", default_value = "0s",
        value_parser = hardroot_config::duration::parse)]
    ttl: Duration,
    /// Directory to write output to instead of stdout: token and key, mode 0600
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
    private_key: &'a str,
    svid: serde_json::Value,
}

impl WitCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let Self::Mint(command) = self;
        command.execute(screen).await
    }
}

impl Mint {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let id = mint::spiffe_id(self.spiffe_id.as_deref())?;
        let ttl = mint::seconds(self.ttl)?;
        let key = SoftwareKey::generate(key_type(&self.key_type, &self.signing_algorithm)?)?;
        let request = MintWitsvidRequest {
            id: Some(crate::api::spiffe_id(&id)),
            public_key: key.spki_der().to_vec(),
            ttl,
            signing_algorithm: self.signing_algorithm,
        };
        let svid = SvidClient::new(self.connection.open().await?)
            .mint_witsvid(request)
            .await
            .map_err(CliError::rpc("unable to mint SVID: "))?
            .into_inner()
            .svid
            .filter(|svid| !svid.token.is_empty())
            .ok_or_else(|| CliError::Outcome("server response missing token".to_owned()))?;
        mint::tell_if_token_capped(screen, "WIT-SVID", &svid.token, self.ttl, SystemTime::now());
        let jwk = key.jwk()?;
        if let Some(directory) = self.write.filter(|path| !path.as_os_str().is_empty()) {
            let (token, private) = (directory.join("token"), directory.join("key"));
            mint::write(screen, &token, svid.token.as_bytes(), 0o600, ("token", "WIT-SVID"))?;
            return mint::write(screen, &private, jwk.as_bytes(), 0o600, ("key", "Private key"));
        }
        match self.output {
            Output::Pretty => {
                screen.line(&svid.token);
                screen.line(&*jwk);
                Ok(())
            }
            Output::Json => {
                let svid = to_json("spire.api.types.WITSVID", &svid)
                    .map_err(|fault| CliError::Outcome(fault.to_string()))?;
                screen.struct_json(&Minted { private_key: &jwk, svid })
            }
        }
    }
}

fn key_type(name: &str, algorithm: &str) -> Result<KeyType, CliError> {
    let kind = KeyType::from_name(name);
    match (algorithm, kind) {
        ("RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512", Some(kind)) if !kind.is_ec() => Ok(kind),
        ("ES256", Some(KeyType::EcP256)) => Ok(KeyType::EcP256),
        ("ES384", Some(KeyType::EcP384)) => Ok(KeyType::EcP384),
        ("RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512", _) => {
            Err(CliError::usage(format!("unsupported key type '{name}' for signing algorithm '{algorithm}'")))
        }
        ("ES256" | "ES384", _) => {
            Err(CliError::usage(format!("unsupported key type '{name}' for '{algorithm}' signing algorithm")))
        }
        _ => Err(CliError::usage(format!("unsupported signing algorithm: {algorithm}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_one_of_several() {
        let enabled = |flags: Option<&str>| is_enabled(|_| flags.map(str::to_owned));
        assert!(enabled(Some("wit-svid")) && enabled(Some("a wit-svid b")));
        assert!(
            !enabled(None)
                && !enabled(Some(""))
                && !enabled(Some("wit-svids"))
                && !enabled(Some("a,wit-svid"))
        );
    }

    #[test]
    fn algorithm_and_key_type_must_fit() {
        let said = |name, algorithm| key_type(name, algorithm).map_err(|error| error.to_string());
        assert_eq!(said("ec-p256", "ES256"), Ok(KeyType::EcP256));
        assert_eq!(said("ec-p384", "ES384"), Ok(KeyType::EcP384));
        assert_eq!(said("rsa-2048", "PS512"), Ok(KeyType::Rsa2048));
        assert_eq!(said("rsa-4096", "RS256"), Ok(KeyType::Rsa4096));
        assert_eq!(
            said("ec-p384", "ES256").unwrap_err(),
            "unsupported key type 'ec-p384' for 'ES256' signing algorithm"
        );
        assert_eq!(
            said("ec-p256", "RS256").unwrap_err(),
            "unsupported key type 'ec-p256' for signing algorithm 'RS256'"
        );
        assert_eq!(said("ec-p256", "EdDSA").unwrap_err(), "unsupported signing algorithm: EdDSA");
    }
}
