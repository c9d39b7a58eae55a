//! Bringing bundles, and the journals that say which of our keys signs.

use hardroot_api::expansion::decode_stored;
use hardroot_api::spire::common;
use hardroot_api::spire::server::journal;
use hardroot_identity::TrustDomain;

use super::import::{Import, Outcome};
use super::rows::JournalRow;
use crate::authority::published;
use crate::datastore::StoreError;

impl Import<'_> {
    /// A bundle. Our own gets SPIRE's authorities beside those that are here, so that what SPIRE signed stays
    /// valid; a foreign one is stored when there is none.
    pub(super) async fn bundle(&self, name: &str, data: &[u8]) -> Result<Outcome, StoreError> {
        let trust_domain = TrustDomain::from_name_or_id(name)
            .map_err(|cause| StoreError::Invalid { reason: format!("its trust domain is none: {cause}") })?;
        let theirs: common::Bundle = decode_stored(data)
            .map_err(|cause| StoreError::Invalid { reason: format!("it does not parse: {cause}") })?;
        let here = self.store.bundle(&trust_domain).await?;
        let Some((ours, revision)) = here else {
            self.write(self.store.put_bundle(&trust_domain, data, None)).await?;
            return Ok(Outcome::Created);
        };
        if trust_domain == self.trust_domain {
            let mut merged: common::Bundle = decode_stored(&ours).unwrap_or_default();
            if !published::add_all(&mut merged, &theirs) {
                return Ok(Outcome::Unchanged);
            }
            if !self.dry_run {
                published::update(self.store, &trust_domain, |bundle| published::add_all(bundle, &theirs))
                    .await
                    .map_err(|cause| StoreError::Invalid { reason: cause.to_string() })?;
            }
            return Ok(Outcome::Updated);
        }
        if ours == data {
            return Ok(Outcome::Unchanged);
        }
        if !self.overwrite {
            return Ok(Outcome::Differs);
        }
        self.write(self.store.put_bundle(&trust_domain, data, Some(revision))).await?;
        Ok(Outcome::Updated)
    }

    /// A journal: with the same key file (`disk`), this server goes on with the authority that SPIRE had.
    pub(super) async fn journal(&self, row: &JournalRow) -> Result<Outcome, StoreError> {
        if row.active_x509_authority_id.is_empty() {
            return Ok(Outcome::Skipped);
        }
        decode_stored::<journal::Entries>(&row.data)
            .map_err(|cause| StoreError::Invalid { reason: format!("it does not parse: {cause}") })?;
        let ids = [row.active_x509_authority_id.clone()];
        if self.store.find_journal(&ids).await?.is_some() {
            return Ok(Outcome::Unchanged);
        }
        self.write(self.store.put_journal(None, &row.data, &row.active_x509_authority_id)).await?;
        Ok(Outcome::Created)
    }
}
