//! The fields of an entry as flags of `create` and `update`.

use std::path::{Path, PathBuf};

use clap::Args;
use hardroot_api::spire::api::server::entry::v1::GetEntryRequest;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::types;
use tonic::transport::Channel;

use crate::cli::CliError;
use crate::cli::flags::{id_message, selectors};

/// The fields of one entry, or a file with many.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// The entry's id; `create` makes one up without it
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// Who may hold the identity: an agent's ID, or the identity that a -node entry gives
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// The identity that the entry gives
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// What the program must match (type:value, such as unix:uid:1000); repeat it, all must match
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// Lifetime of X509-SVIDs in seconds; 0 takes the server's default
    #[arg(long = "x509SVIDTTL", value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    x509_svid_ttl: i64,
    /// Lifetime of JWT-SVIDs in seconds; 0 takes the server's default
    #[arg(long = "jwtSVIDTTL", value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    jwt_svid_ttl: i64,
    /// A trust domain whose bundle the program gets too; may be repeated
    #[arg(long = "federatesWith", value_name = "TRUST_DOMAIN")]
    federates_with: Vec<String>,
    /// Whoever holds the identity may use the server's admin API
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    admin: Option<bool>,
    /// The entry is for a downstream server, which may ask for an intermediate CA
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    downstream: Option<bool>,
    /// SVIDs are put into a store by a plugin of the agent
    #[arg(long = "storeSVID", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    store_svid: Option<bool>,
    /// Seconds since 1970 after which the entry is removed; 0 means never
    #[arg(long = "entryExpiry", value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    entry_expiry: i64,
    /// A DNS name to put into X509-SVIDs; may be repeated, the first becomes the common name
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// A word for the program, to tell several identities apart
    #[arg(long, value_name = "HINT", default_value = "")]
    hint: String,
    /// Agents fetch the X509-SVID when it is first asked for, not before
    #[arg(
        long = "disableX509SVIDPrefetch",
        num_args(0..=1),
        require_equals(true),
        default_missing_value("true")
    )]
    disable_prefetch: Option<bool>,
    /// JWT-SVIDs get a `jti` claim and are not cached by agents
    #[arg(long = "jwtSVIDIncludeJTI", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    include_jti: Option<bool>,
    /// A JSON file with {"entries": [...]} instead of the flags above; - reads standard input
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

impl Fields {
    /// The file with entries, which goes before all other flags.
    pub(super) fn data(&self) -> Option<&Path> {
        self.data.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// The entry to create.
    pub(super) fn for_create(&self, node: bool) -> Result<types::Entry, CliError> {
        self.check_selectors()?;
        if node && !self.federates_with.is_empty() {
            return Err(CliError::usage("node entries can not federate"));
        }
        if self.parent_id.as_deref().unwrap_or_default().is_empty() && !node {
            return Err(CliError::usage("a parent ID is required if the node flag is not set"));
        }
        let spiffe_id = self.checked_id()?;
        let parent_id = if node {
            let trust_domain = spiffe_id.trust_domain.clone();
            types::Spiffeid { trust_domain, path: "/spire/server".to_owned() }
        } else {
            id_message(self.parent_id.as_deref().unwrap_or_default())?
        };
        self.entry(spiffe_id, parent_id)
    }

    /// The entry to update.
    pub(super) fn for_update(&self) -> Result<types::Entry, CliError> {
        if self.entry_id.as_deref().unwrap_or_default().is_empty() {
            return Err(CliError::usage("entry ID is required"));
        }
        self.check_selectors()?;
        let parent = self.parent_id.as_deref().unwrap_or_default();
        if parent.is_empty() {
            return Err(CliError::usage("a parent ID is required"));
        }
        let spiffe_id = self.checked_id()?;
        self.entry(spiffe_id, id_message(parent)?)
    }

    /// The two attributes travel as one field. When one of them is given, the other one is read from the
    /// server, so that it stays as it is.
    pub(super) async fn keep_other_attributes(
        &self,
        client: &mut EntryClient<Channel>,
        entry: &mut types::Entry,
    ) -> Result<(), CliError> {
        if self.disable_prefetch.is_none() && self.include_jti.is_none() {
            return Ok(());
        }
        let request = GetEntryRequest { id: entry.id.clone(), output_mask: None };
        let known = client
            .get_entry(request)
            .await
            .map_err(CliError::rpc("failed to fetch existing entry to merge additional attributes: "))?;
        let mut attributes = known.into_inner().additional_attributes.unwrap_or_default();
        if let Some(given) = self.disable_prefetch {
            attributes.disable_x509_svid_prefetch = given;
        }
        if let Some(given) = self.include_jti {
            attributes.jwt_svid_include_jti = given;
        }
        entry.additional_attributes = Some(attributes);
        Ok(())
    }

    fn check_selectors(&self) -> Result<(), CliError> {
        if self.selectors.is_empty() {
            return Err(CliError::usage("at least one selector is required"));
        }
        Ok(())
    }

    fn checked_id(&self) -> Result<types::Spiffeid, CliError> {
        match self.spiffe_id.as_deref() {
            None | Some("") => Err(CliError::usage("a SPIFFE ID is required")),
            Some(text) => id_message(text),
        }
    }

    fn entry(
        &self,
        spiffe_id: types::Spiffeid,
        parent_id: types::Spiffeid,
    ) -> Result<types::Entry, CliError> {
        let ttl = |seconds: i64, what: &str| match i32::try_from(seconds) {
            _ if seconds < 0 => Err(CliError::usage(format!("a positive {what} TTL is required"))),
            Ok(seconds) => Ok(seconds),
            Err(_) => Err(CliError::usage(format!(
                "invalid value for {what} TTL: {seconds} is more than {}",
                i32::MAX
            ))),
        };
        let attributes = types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: self.disable_prefetch.unwrap_or(false),
            jwt_svid_include_jti: self.include_jti.unwrap_or(false),
        };
        let has_attributes = attributes.disable_x509_svid_prefetch || attributes.jwt_svid_include_jti;
        Ok(types::Entry {
            id: self.entry_id.clone().unwrap_or_default(),
            spiffe_id: Some(spiffe_id),
            parent_id: Some(parent_id),
            selectors: selectors(&self.selectors)?,
            x509_svid_ttl: ttl(self.x509_svid_ttl, "x509-SVID")?,
            jwt_svid_ttl: ttl(self.jwt_svid_ttl, "JWT-SVID")?,
            federates_with: self.federates_with.clone(),
            admin: self.admin.unwrap_or(false),
            downstream: self.downstream.unwrap_or(false),
            expires_at: self.entry_expiry,
            dns_names: self.dns_names.clone(),
            store_svid: self.store_svid.unwrap_or(false),
            hint: self.hint.clone(),
            additional_attributes: has_attributes.then_some(attributes),
            ..types::Entry::default()
        })
    }
}
