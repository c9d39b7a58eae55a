//! `bundle show|list|set|delete|count`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use hardroot_api::spire::api::server::bundle::v1 as wire;
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::types;
use hardroot_identity::{BadBundle, Bundle, JwtAuthority, TrustDomain, X509Authority, pem_encode};
use hardroot_runtime::cli::Output;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use super::connection::{Connection, MAX_ANSWER};
use super::error::item_failure;
use super::flags::{plural, read_data};
use super::{CliError, Screen};

/// `bundle ...`.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Prints the server's own bundle
    Show(Show),
    /// Prints the bundles of federated trust domains
    List(List),
    /// Creates or replaces the bundle of a federated trust domain
    Set(Set),
    /// Deletes the bundle of a federated trust domain
    Delete(Delete),
    /// Counts bundles, our own included
    Count(Count),
}

/// How a bundle is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// X.509 authorities, one after the other
    Pem,
    /// The SPIFFE bundle document (JWKS)
    Spiffe,
}

/// `bundle show`.
#[derive(Debug, Args)]
pub struct Show {
    /// How to print it (without -output json)
    #[arg(long, value_enum, ignore_case = true, default_value = "pem")]
    format: Format,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `bundle list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only this trust domain
    #[arg(long, value_name = "TRUST_DOMAIN")]
    id: Option<String>,
    /// How to print them (without -output json)
    #[arg(long, value_enum, ignore_case = true, default_value = "pem")]
    format: Format,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `bundle set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The trust domain
    #[arg(long, value_name = "TRUST_DOMAIN")]
    id: Option<String>,
    /// The file with the bundle; standard input without it
    #[arg(long, value_name = "FILE")]
    path: Option<PathBuf>,
    /// How the file is written
    #[arg(long, value_enum, ignore_case = true, default_value = "pem")]
    format: Format,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// What becomes of entries that federate with a deleted bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Nothing: the bundle is kept while there are any
    Restrict,
    /// They are deleted
    Delete,
    /// They stay, and federate with it no more
    Dissociate,
}

/// `bundle delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The trust domain
    #[arg(long, value_name = "TRUST_DOMAIN")]
    id: Option<String>,
    /// What becomes of entries that federate with it
    #[arg(long, value_enum, default_value = "restrict")]
    mode: Mode,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `bundle count`.
#[derive(Debug, Args)]
pub struct Count {
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl BundleCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Show(command) => command.execute(screen).await,
            Self::List(command) => command.execute(screen).await,
            Self::Set(command) => command.execute(screen).await,
            Self::Delete(command) => command.execute(screen).await,
            Self::Count(command) => command.execute(screen).await,
        }
    }
}

async fn client(connection: &Connection) -> Result<BundleClient<Channel>, CliError> {
    Ok(BundleClient::new(connection.open().await?).max_decoding_message_size(MAX_ANSWER))
}

fn print(screen: &mut Screen, bundle: &types::Bundle, format: Format) -> Result<(), CliError> {
    match format {
        Format::Pem => {
            screen.text(&pem_encode(bundle.x509_authorities.iter().map(|authority| &authority.asn1)));
            Ok(())
        }
        Format::Spiffe => {
            let fault = |reason: String| CliError::Outcome(format!("the bundle cannot be shown: {reason}"));
            let document = document(bundle).map_err(|cause| fault(cause.to_string()))?;
            let value: Document =
                serde_json::from_slice(&document).map_err(|cause| fault(cause.to_string()))?;
            let mut text = Vec::new();
            let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut text, indent))
                .map_err(|cause| fault(cause.to_string()))?;
            screen.text(&String::from_utf8_lossy(&text));
            screen.line("");
            Ok(())
        }
    }
}

/// The document for people, its names in the order in which SPIRE prints them.
#[derive(Serialize, Deserialize)]
struct Document {
    keys: Vec<Key>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<i64>,
}

/// A key of the document.
#[derive(Serialize, Deserialize)]
struct Key {
    r#use: String,
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
}

/// The SPIFFE bundle document of a message.
fn document(message: &types::Bundle) -> Result<Vec<u8>, hardroot_identity::BadSpiffeId> {
    let mut bundle = Bundle::new(TrustDomain::new(&message.trust_domain)?);
    bundle.x509_authorities = message
        .x509_authorities
        .iter()
        .map(|authority| X509Authority { der: authority.asn1.clone(), tainted: authority.tainted })
        .collect();
    bundle.jwt_authorities = message
        .jwt_authorities
        .iter()
        .map(|key| JwtAuthority {
            key_id: key.key_id.clone(),
            spki_der: key.public_key.clone(),
            expires_at: key.expires_at,
            tainted: key.tainted,
        })
        .collect();
    bundle.refresh_hint = message.refresh_hint;
    bundle.sequence_number = message.sequence_number;
    Ok(bundle.to_jwks())
}

impl Show {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::GetBundleRequest { output_mask: None };
        let bundle = client(&self.connection).await?.get_bundle(request).await?.into_inner();
        match self.output {
            Output::Json => screen.message("spire.api.types.Bundle", &bundle),
            Output::Pretty => print(screen, &bundle, self.format),
        }
    }
}

impl List {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let mut client = client(&self.connection).await?;
        if let Some(id) = self.id.filter(|id| !id.is_empty()) {
            let request = wire::GetFederatedBundleRequest { trust_domain: id, output_mask: None };
            let bundle = client.get_federated_bundle(request).await?.into_inner();
            return match self.output {
                Output::Json => screen.message("spire.api.types.Bundle", &bundle),
                Output::Pretty => print(screen, &bundle, self.format),
            };
        }
        let all =
            client.list_federated_bundles(wire::ListFederatedBundlesRequest::default()).await?.into_inner();
        if self.output == Output::Json {
            return screen.message("spire.api.server.bundle.v1.ListFederatedBundlesResponse", &all);
        }
        for (at, bundle) in all.bundles.iter().enumerate() {
            if at > 0 {
                screen.line("");
            }
            screen.line("****************************************");
            screen.line(format!("* {}", bundle.trust_domain));
            screen.line("****************************************");
            print(screen, bundle, self.format)?;
        }
        Ok(())
    }
}

/// Reads a bundle for the server.
pub(super) fn parse_bundle(
    owner: TrustDomain,
    format: Format,
    data: &[u8],
) -> Result<types::Bundle, BadBundle> {
    let bundle = match format {
        Format::Pem => Bundle::from_pem(owner, data),
        Format::Spiffe => Bundle::from_jwks(owner, data),
    }?;
    Ok(types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        x509_authorities: bundle
            .x509_authorities
            .into_iter()
            .map(|authority| types::X509Certificate { asn1: authority.der, tainted: false })
            .collect(),
        jwt_authorities: bundle
            .jwt_authorities
            .into_iter()
            .map(|key| types::JwtKey {
                public_key: key.spki_der,
                key_id: key.key_id,
                expires_at: key.expires_at,
                tainted: false,
            })
            .collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
        wit_authorities: Vec::new(),
    })
}

impl Set {
    fn read(&self, trust_domain: &str) -> Result<types::Bundle, CliError> {
        let path = self.path.as_deref().unwrap_or_else(|| Path::new("-"));
        let data = read_data(path)?;
        let owner =
            TrustDomain::from_name_or_id(trust_domain).map_err(|fault| CliError::usage(fault.to_string()))?;
        parse_bundle(owner, self.format, &data).map_err(|cause| CliError::File {
            op: "unable to parse bundle data:",
            path: path.display().to_string(),
            reason: cause.to_string(),
        })
    }

    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let id = self.id.clone().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| CliError::usage("id flag is required"))?;
        let bundle = self.read(&id)?;
        let request = wire::BatchSetFederatedBundleRequest { bundle: vec![bundle], output_mask: None };
        let answer = client(&self.connection)
            .await?
            .batch_set_federated_bundle(request)
            .await
            .map_err(CliError::rpc("failed to set federated bundle: "))?
            .into_inner();
        let failure = answer.results.first().and_then(|result| item_failure(result.status.as_ref()));
        match self.output {
            Output::Json => {
                screen.message("spire.api.server.bundle.v1.BatchSetFederatedBundleResponse", &answer)?;
            }
            Output::Pretty if failure.is_none() => screen.line("bundle set."),
            Output::Pretty => {}
        }
        match failure {
            None => Ok(()),
            Some((_, text)) => Err(CliError::Outcome(format!("failed to set federated bundle: {text}"))),
        }
    }
}

impl Delete {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        use wire::batch_delete_federated_bundle_request::Mode as Wire;
        let id = self.id.filter(|id| !id.is_empty()).ok_or_else(|| CliError::usage("id is required"))?;
        let mode = match self.mode {
            Mode::Restrict => Wire::Restrict,
            Mode::Delete => Wire::Delete,
            Mode::Dissociate => Wire::Dissociate,
        };
        let request =
            wire::BatchDeleteFederatedBundleRequest { trust_domains: vec![id.clone()], mode: mode.into() };
        let answer = client(&self.connection)
            .await?
            .batch_delete_federated_bundle(request)
            .await
            .map_err(CliError::rpc("failed to delete federated bundle: "))?
            .into_inner();
        let failure = answer.results.first().and_then(|result| item_failure(result.status.as_ref()));
        match self.output {
            Output::Json => {
                screen.message("spire.api.server.bundle.v1.BatchDeleteFederatedBundleResponse", &answer)?;
            }
            Output::Pretty if failure.is_none() => screen.line("bundle deleted."),
            Output::Pretty => {}
        }
        match failure {
            None => Ok(()),
            Some((_, text)) => {
                Err(CliError::Outcome(format!("failed to delete federated bundle \"{id}\": {text}")))
            }
        }
    }
}

impl Count {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::CountBundlesRequest {};
        let answer = client(&self.connection).await?.count_bundles(request).await?.into_inner();
        match self.output {
            Output::Json => screen.message("spire.api.server.bundle.v1.CountBundlesResponse", &answer),
            Output::Pretty => {
                screen.line(plural(usize::try_from(answer.count).unwrap_or_default(), "bundle", "bundles"));
                Ok(())
            }
        }
    }
}
