//! SPIRE's database, read as of one moment and never written.

use crate::datastore::raw::Pools;
use crate::datastore::{DatabaseConfig, StoreError};

use super::rows::{self, EntryRow, JournalRow, NodeRow, RelationshipRow, TokenRow};

/// The schema of SPIRE 1.12 to 1.15.
const SCHEMA: i64 = 25;

/// Why SPIRE's database cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be opened or read.
    #[error("SPIRE's database cannot be read")]
    Read(#[source] StoreError),
    /// It is some other program's.
    #[error(
        "the database is not SPIRE's: it has no schema version; is connection_string the one of the SPIRE server?"
    )]
    NotSpire,
    /// Its schema is another one.
    #[error(
        "SPIRE's database has schema {found}, this command reads {SCHEMA} (SPIRE 1.15): start SPIRE 1.15 on it once, which \
         brings it up to date, then run this command again"
    )]
    Schema {
        /// The version found.
        found: i64,
    },
}

/// What a SPIRE server knows.
pub struct Source {
    pub(super) bundles: Vec<(String, Vec<u8>)>,
    pub(super) relationships: Vec<RelationshipRow>,
    pub(super) entries: Vec<EntryRow>,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) tokens: Vec<TokenRow>,
    pub(super) journals: Vec<JournalRow>,
}

impl Source {
    /// Reads everything in one transaction that writes nothing.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn read(config: &DatabaseConfig) -> Result<Self, SourceError> {
        let pools = Pools::read_only(config).await.map_err(SourceError::Read)?;
        let outcome = Self::everything(&pools).await;
        pools.close().await;
        outcome
    }

    async fn everything(pools: &Pools) -> Result<Self, SourceError> {
        let mut session = pools.snapshot("read SPIRE's database").await.map_err(SourceError::Read)?;
        session.patient();
        let found = rows::schema(&mut session).await.map_err(|cause| match cause {
            StoreError::Away { .. } => SourceError::Read(cause),
            _ => SourceError::NotSpire,
        })?;
        match found {
            Some(SCHEMA) => {}
            Some(found) => return Err(SourceError::Schema { found }),
            None => return Err(SourceError::NotSpire),
        }
        let read = SourceError::Read;
        Ok(Self {
            bundles: rows::bundles(&mut session).await.map_err(read)?,
            relationships: rows::relationships(&mut session).await.map_err(read)?,
            entries: rows::entries(&mut session).await.map_err(read)?,
            nodes: rows::nodes(&mut session).await.map_err(read)?,
            tokens: rows::tokens(&mut session).await.map_err(read)?,
            journals: rows::journals(&mut session).await.map_err(read)?,
        })
    }
}
