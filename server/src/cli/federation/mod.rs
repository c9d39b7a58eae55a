//! `federation create|update|show|list|delete|refresh`.

mod fields;
#[cfg(test)]
mod tests;

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::trustdomain::v1 as wire;
use hardroot_api::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use hardroot_api::spire::api::types;
use hardroot_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use hardroot_runtime::cli::Output;
use tonic::Code;
use tonic::transport::Channel;

use super::connection::{Connection, MAX_ANSWER};
use super::error::item_failure;
use super::flags::plural;
use super::{CliError, Screen};
use fields::Fields;

/// `federation ...`.
#[derive(Debug, Subcommand)]
pub enum FederationCommand {
    /// Stores where the bundle of a foreign trust domain comes from
    Create(Write),
    /// Replaces what is stored
    Update(Write),
    /// Shows one federation relationship
    Show(Show),
    /// Shows all federation relationships
    List(List),
    /// Deletes a federation relationship; the bundle stays
    Delete(OfId),
    /// Fetches a bundle now; this version fetches none and says so
    Refresh(OfId),
}

/// `federation create` and `federation update`.
#[derive(Debug, Args)]
pub struct Write {
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `federation show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The trust domain
    #[arg(long = "trustDomain", value_name = "NAME", default_value = "")]
    trust_domain: String,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `federation list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `federation delete` and `federation refresh`.
#[derive(Debug, Args)]
pub struct OfId {
    /// The trust domain
    #[arg(long, value_name = "TRUST_DOMAIN", default_value = "")]
    id: String,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl FederationCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Create(command) => command.create(screen).await,
            Self::Update(command) => command.update(screen).await,
            Self::Show(command) => command.execute(screen).await,
            Self::List(command) => command.execute(screen).await,
            Self::Delete(command) => command.delete(screen).await,
            Self::Refresh(command) => command.refresh(screen).await,
        }
    }
}

async fn client(connection: &Connection) -> Result<TrustDomainClient<Channel>, CliError> {
    Ok(TrustDomainClient::new(connection.open().await?).max_decoding_message_size(MAX_ANSWER))
}

/// The block that describes one relationship.
fn lines(relationship: &types::FederationRelationship) -> Vec<String> {
    let mut lines = vec![
        format!("Trust domain              : {}", relationship.trust_domain),
        format!("Bundle endpoint URL       : {}", relationship.bundle_endpoint_url),
    ];
    match &relationship.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => {
            lines.push("Bundle endpoint profile   : https_web".to_owned());
        }
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            lines.push("Bundle endpoint profile   : https_spiffe".to_owned());
            lines.push(format!("Endpoint SPIFFE ID        : {}", profile.endpoint_spiffe_id));
        }
        None => {}
    }
    lines
}

/// The results of a batch beside what was asked for: first what succeeded, then what did not.
fn print_results<'a>(
    screen: &mut Screen,
    verb: &str,
    asked: &[types::FederationRelationship],
    results: impl Iterator<Item = (Option<&'a types::Status>, Option<&'a types::FederationRelationship>)>,
) -> bool {
    let mut failed = Vec::new();
    for ((status, relationship), asked) in results.zip(asked) {
        match item_failure(status) {
            None => {
                screen.line("");
                lines(relationship.unwrap_or(asked)).iter().for_each(|line| screen.line(line));
            }
            Some((code, message)) => failed.push((code, message, asked)),
        }
    }
    for (code, message, asked) in &failed {
        screen.line("");
        screen.err_line(format!(
            "Failed to {verb} the following federation relationship (code: {code}, msg: {message:?}):"
        ));
        lines(asked).iter().for_each(|line| screen.err_line(line));
    }
    failed.is_empty()
}

impl Write {
    async fn create(self, screen: &mut Screen) -> Result<(), CliError> {
        let asked = self.fields.read()?;
        let request = wire::BatchCreateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            output_mask: None,
        };
        let answer = client(&self.connection).await?.batch_create_federation_relationship(request).await;
        let answer = answer.map_err(CliError::rpc("request failed: "))?.into_inner();
        let results = answer.results.iter().map(|r| (r.status.as_ref(), r.federation_relationship.as_ref()));
        let name = "spire.api.server.trustdomain.v1.BatchCreateFederationRelationshipResponse";
        if self.output == Output::Json {
            screen.message(name, &answer)?;
        }
        self.finish(screen, "create", &asked, results)
    }

    async fn update(self, screen: &mut Screen) -> Result<(), CliError> {
        let asked = self.fields.read()?;
        let request = wire::BatchUpdateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            input_mask: None,
            output_mask: None,
        };
        let answer = client(&self.connection).await?.batch_update_federation_relationship(request).await;
        let answer = answer.map_err(CliError::rpc("request failed: "))?.into_inner();
        let results = answer.results.iter().map(|r| (r.status.as_ref(), r.federation_relationship.as_ref()));
        let name = "spire.api.server.trustdomain.v1.BatchUpdateFederationRelationshipResponse";
        if self.output == Output::Json {
            screen.message(name, &answer)?;
        }
        self.finish(screen, "update", &asked, results)
    }

    fn finish<'a>(
        &self,
        screen: &mut Screen,
        verb: &str,
        asked: &[types::FederationRelationship],
        mut results: impl Iterator<Item = (Option<&'a types::Status>, Option<&'a types::FederationRelationship>)>,
    ) -> Result<(), CliError> {
        let fine = match self.output {
            Output::Json => results.all(|(status, _)| item_failure(status).is_none()),
            Output::Pretty => print_results(screen, verb, asked, results),
        };
        if fine {
            Ok(())
        } else {
            Err(CliError::Outcome(format!("failed to {verb} one or more federation relationships")))
        }
    }
}

impl Show {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        if self.trust_domain.is_empty() {
            return Err(CliError::usage("a trust domain name is required"));
        }
        let request = wire::GetFederationRelationshipRequest {
            trust_domain: self.trust_domain.clone(),
            output_mask: None,
        };
        let answer = client(&self.connection).await?.get_federation_relationship(request).await;
        let found = answer.map_err(CliError::rpc("error showing federation relationship: "))?.into_inner();
        if self.output == Output::Json {
            return screen.message("spire.api.types.FederationRelationship", &found);
        }
        screen.line(format!("Found a federation relationship with trust domain {}:", self.trust_domain));
        screen.line("");
        lines(&found).iter().for_each(|line| screen.line(line));
        Ok(())
    }
}

impl List {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::ListFederationRelationshipsRequest::default();
        let answer = client(&self.connection).await?.list_federation_relationships(request).await;
        let all = answer.map_err(CliError::rpc("error listing federation relationship: "))?.into_inner();
        if self.output == Output::Json {
            return screen
                .message("spire.api.server.trustdomain.v1.ListFederationRelationshipsResponse", &all);
        }
        let found =
            plural(all.federation_relationships.len(), "federation relationship", "federation relationships");
        screen.line(format!("Found {found}"));
        for relationship in &all.federation_relationships {
            screen.line("");
            lines(relationship).iter().for_each(|line| screen.line(line));
        }
        Ok(())
    }
}

impl OfId {
    fn checked(&self) -> Result<String, CliError> {
        if self.id.is_empty() { Err(CliError::usage("id is required")) } else { Ok(self.id.clone()) }
    }

    async fn delete(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::BatchDeleteFederationRelationshipRequest { trust_domains: vec![self.checked()?] };
        let answer = client(&self.connection).await?.batch_delete_federation_relationship(request).await;
        let answer =
            answer.map_err(CliError::rpc("failed to delete federation relationship: "))?.into_inner();
        let failure = answer
            .results
            .first()
            .and_then(|result| Some((&result.trust_domain, item_failure(result.status.as_ref())?.1)));
        match self.output {
            Output::Json => screen.message(
                "spire.api.server.trustdomain.v1.BatchDeleteFederationRelationshipResponse",
                &answer,
            )?,
            Output::Pretty if failure.is_none() => screen.line("federation relationship deleted."),
            Output::Pretty => {}
        }
        match failure {
            None => Ok(()),
            Some((id, text)) => {
                Err(CliError::Outcome(format!("failed to delete federation relationship {id:?}: {text}")))
            }
        }
    }

    async fn refresh(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::RefreshBundleRequest { trust_domain: self.checked()? };
        match client(&self.connection).await?.refresh_bundle(request).await {
            Ok(_) if self.output == Output::Json => {
                let done = types::Status { code: 0, message: "OK".to_owned() };
                screen.message("spire.api.types.Status", &done)
            }
            Ok(_) => {
                screen.line("Bundle refreshed");
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound => Err(CliError::Outcome(format!(
                "there is no federation relationship with trust domain {:?}",
                self.id
            ))),
            Err(status) => Err(CliError::rpc("failed to refresh bundle: ")(status)),
        }
    }
}
