//! `agent list|count|show|evict|ban|purge`.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::agent::v1 as wire;
use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
use hardroot_api::spire::api::types;
use hardroot_runtime::cli::Output;
use hardroot_runtime::clock::{Clock, SystemClock};
use serde_json::json;
use tonic::transport::Channel;

use super::connection::{Connection, MAX_ANSWER};
use super::flags::{id_text, match_number, plural, required_id, selectors, time_text, tri_state};
use super::{CliError, Screen};
use crate::api::agent::parse_expires_before;

/// Agents read in one call.
const PAGE: i32 = 1000;

/// `agent ...`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Lists attested agents
    List(List),
    /// Counts attested agents
    Count(Count),
    /// Shows an agent with its selectors
    Show(Named),
    /// Removes an agent: it loses its SVID at once, and may attest again
    Evict(Named),
    /// Bans an agent: it loses its SVID at once and may not attest again until it is evicted
    Ban(Named),
    /// Removes agents that can attest again and whose SVID ended long ago
    Purge(Purge),
}

/// Which agents.
#[derive(Debug, Args)]
struct Filter {
    /// Agents with this selector (type:value); may be repeated
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// How -selector compares: exact, any, superset or subset
    #[arg(long = "matchSelectorsOn", value_name = "HOW", default_value = "superset")]
    match_selectors_on: String,
    /// Agents that attested this way: tpm_quote, x509pop, join_token
    #[arg(long = "attestationType", value_name = "TYPE", default_value = "")]
    attestation_type: String,
    /// true: those that can attest again; false: those that cannot; anything else: all
    #[arg(long = "canReattest", value_name = "BOOL")]
    can_reattest: Option<String>,
    /// true: banned agents; false: those that are not; anything else: all
    #[arg(long, value_name = "BOOL")]
    banned: Option<String>,
    /// Agents whose SVID ends before this time ("2006-01-02 15:04:05 -0700 -07")
    #[arg(long = "expiresBefore", value_name = "TIME", default_value = "")]
    expires_before: String,
}

/// `agent list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `agent count`.
#[derive(Debug, Args)]
pub struct Count {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// A command about one agent.
#[derive(Debug, Args)]
pub struct Named {
    /// The agent's SPIFFE ID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `agent purge`.
#[derive(Debug, Args)]
pub struct Purge {
    /// How long ago the SVID must have ended (such as 720h or 90m)
    #[arg(long = "expiredFor", value_name = "DURATION", default_value = "720h",
        value_parser = hardroot_config::duration::parse)]
    expired_for: Duration,
    /// Only tell what would be removed
    #[arg(long = "dryRun", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    dry_run: Option<bool>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl AgentCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::List(command) => command.execute(screen).await,
            Self::Count(command) => command.execute(screen).await,
            Self::Show(command) => command.show(screen).await,
            Self::Evict(command) => command.evict(screen).await,
            Self::Ban(command) => command.ban(screen).await,
            Self::Purge(command) => command.execute(screen, &SystemClock).await,
        }
    }
}

async fn client(connection: &Connection) -> Result<AgentClient<Channel>, CliError> {
    Ok(AgentClient::new(connection.open().await?).max_decoding_message_size(MAX_ANSWER))
}

fn agent_lines(screen: &mut Screen, agent: &types::Agent) {
    let mut field = |label: &str, value: &dyn std::fmt::Display| screen.line(format!("{label:<18}: {value}"));
    field("SPIFFE ID", &id_text(agent.id.as_ref()));
    field("Attestation type", &agent.attestation_type);
    field("Expiration time", &time_text(agent.x509svid_expires_at));
    if agent.banned {
        field("Banned", &true);
    } else {
        field("Serial number", &agent.x509svid_serial_number);
    }
    field("Can re-attest", &agent.can_reattest);
    if !agent.agent_version.is_empty() {
        field("Agent version", &agent.agent_version);
    }
    screen.line("");
}

impl Filter {
    fn for_list(&self) -> Result<wire::list_agents_request::Filter, CliError> {
        if !self.expires_before.is_empty() {
            parse_expires_before(&self.expires_before)
                .map_err(|fault| CliError::usage(format!("date is not valid: {fault}")))?;
        }
        let by_selector_match = if self.selectors.is_empty() {
            None
        } else {
            Some(types::SelectorMatch {
                selectors: selectors(&self.selectors)?,
                r#match: match_number(&self.match_selectors_on)?,
            })
        };
        Ok(wire::list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone(),
            by_selector_match,
            by_banned: tri_state(self.banned.as_deref()),
            by_can_reattest: tri_state(self.can_reattest.as_deref()),
            by_expires_before: self.expires_before.clone(),
        })
    }

    fn for_count(&self) -> Result<wire::count_agents_request::Filter, CliError> {
        let filter = self.for_list()?;
        Ok(wire::count_agents_request::Filter {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        })
    }
}

/// Every agent that matches, in pages.
async fn all_agents(
    client: &mut AgentClient<Channel>,
    filter: wire::list_agents_request::Filter,
) -> Result<wire::ListAgentsResponse, CliError> {
    let mut all = wire::ListAgentsResponse::default();
    loop {
        let request = wire::ListAgentsRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: PAGE,
            page_token: std::mem::take(&mut all.next_page_token),
        };
        let page = client.list_agents(request).await?.into_inner();
        all.agents.extend(page.agents);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

impl List {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let filter = self.filter.for_list()?;
        let all = all_agents(&mut client(&self.connection).await?, filter).await?;
        if self.output == Output::Json {
            return screen.message("spire.api.server.agent.v1.ListAgentsResponse", &all);
        }
        if all.agents.is_empty() {
            screen.line("No attested agents found");
            return Ok(());
        }
        screen.line(format!("Found {}:", plural(all.agents.len(), "attested agent", "attested agents")));
        screen.line("");
        for agent in &all.agents {
            agent_lines(screen, agent);
        }
        Ok(())
    }
}

impl Count {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::CountAgentsRequest { filter: Some(self.filter.for_count()?) };
        let answer = client(&self.connection).await?.count_agents(request).await?.into_inner();
        match self.output {
            Output::Json => screen.message("spire.api.server.agent.v1.CountAgentsResponse", &answer),
            Output::Pretty => {
                let count = usize::try_from(answer.count).unwrap_or_default();
                screen.line(plural(count, "attested agent", "attested agents"));
                Ok(())
            }
        }
    }
}

impl Named {
    async fn show(self, screen: &mut Screen) -> Result<(), CliError> {
        let id = required_id(self.spiffe_id.as_deref())?;
        let request = wire::GetAgentRequest { id: Some(id), output_mask: None };
        let agent = client(&self.connection).await?.get_agent(request).await?.into_inner();
        if self.output == Output::Json {
            return screen.message("spire.api.types.Agent", &agent);
        }
        screen.line("Found an attested agent given its SPIFFE ID");
        screen.line("");
        agent_lines(screen, &agent);
        for selector in &agent.selectors {
            screen.line(format!("{:<18}: {}:{}", "Selectors", selector.r#type, selector.value));
        }
        Ok(())
    }

    async fn evict(self, screen: &mut Screen) -> Result<(), CliError> {
        let id = required_id(self.spiffe_id.as_deref())?;
        client(&self.connection).await?.delete_agent(wire::DeleteAgentRequest { id: Some(id) }).await?;
        self.done(screen, "Agent evicted successfully");
        Ok(())
    }

    async fn ban(self, screen: &mut Screen) -> Result<(), CliError> {
        let id = required_id(self.spiffe_id.as_deref())?;
        client(&self.connection).await?.ban_agent(wire::BanAgentRequest { id: Some(id) }).await?;
        self.done(screen, "Agent banned successfully");
        Ok(())
    }

    fn done(&self, screen: &mut Screen, text: &str) {
        match self.output {
            Output::Pretty => screen.line(text),
            Output::Json => screen.json(json!({})),
        }
    }
}

/// What became of one agent of `purge`.
struct Purged {
    id: String,
    deleted: bool,
    error: Option<String>,
}

impl Purge {
    async fn execute(self, screen: &mut Screen, clock: &dyn Clock) -> Result<(), CliError> {
        let dry_run = self.dry_run.unwrap_or(false);
        let mut client = client(&self.connection).await?;
        let filter = wire::list_agents_request::Filter { by_can_reattest: Some(true), ..Default::default() };
        let all = all_agents(&mut client, filter).await?;
        let now = clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut expired = Vec::new();
        for agent in all.agents {
            let ended = u64::try_from(agent.x509svid_expires_at).unwrap_or_default();
            if now.saturating_sub(ended) <= self.expired_for.as_secs() {
                continue;
            }
            let id = id_text(agent.id.as_ref());
            let mut purged = Purged { id, deleted: false, error: None };
            if !dry_run {
                match client.delete_agent(wire::DeleteAgentRequest { id: agent.id }).await {
                    Ok(_) => purged.deleted = true,
                    Err(status) => purged.error = Some(CliError::from(status).to_string()),
                }
            }
            expired.push(purged);
        }
        match self.output {
            Output::Json => {
                let list: Vec<_> = expired
                    .iter()
                    .map(|agent| json!({ "agent_id": agent.id, "deleted": agent.deleted, "error": agent.error }))
                    .collect();
                screen.json(json!({ "expired_agents": list }));
            }
            Output::Pretty => report(screen, &expired, dry_run),
        }
        if expired.iter().any(|agent| agent.error.is_some()) {
            return Err(CliError::Outcome("failed to purge one or more agents".to_owned()));
        }
        Ok(())
    }
}

fn report(screen: &mut Screen, expired: &[Purged], dry_run: bool) {
    let name = |screen: &mut Screen, id: &str| screen.line(format!("{:<18}: {id}", "SPIFFE ID"));
    if expired.is_empty() {
        screen.line("No agents to purge.");
        return;
    }
    screen.line(format!("Found {}", plural(expired.len(), "expired agent", "expired agents")));
    screen.line("");
    if dry_run {
        screen.line("");
        screen.line("Agents that can be purged:");
        expired.iter().for_each(|agent| name(screen, &agent.id));
        return;
    }
    if expired.iter().any(|agent| agent.deleted) {
        screen.line("Agents purged:");
        expired.iter().filter(|agent| agent.deleted).for_each(|agent| name(screen, &agent.id));
    }
    if expired.iter().any(|agent| !agent.deleted) {
        screen.line("Agents not purged:");
        for agent in expired.iter().filter(|agent| !agent.deleted) {
            name(screen, &agent.id);
            screen.line(format!("{:<18}: {}", "Error", agent.error.as_deref().unwrap_or_default()));
        }
    }
}
