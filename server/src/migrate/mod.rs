//! `migrate-from-spire`: a SPIRE server's configuration and data, brought here.
//!
//! SPIRE's database is only read, and as of one moment. What is brought is compared with what is here, so the
//! command can be run again, also while SPIRE goes on; what changed here meanwhile is never undone.

mod bundles;
mod config;
mod entries;
mod import;
mod rows;
mod source;
#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;
use std::time::SystemTime;

use hardroot_config::{Document, Faults};
use hardroot_identity::TrustDomain;
use hardroot_migration::Report;

use crate::datastore::{DatabaseConfig, Datastore, Place, StoreError};

pub use import::{Count, Fault, Imported};
pub use source::{Source, SourceError};

/// A configuration that was turned into ours.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The new file.
    pub text: String,
    /// What changed.
    pub report: Report,
}

/// Turns a SPIRE server's configuration into ours; `name` is the old file's, `database` the connection string
/// of the new database.
#[must_use]
pub fn convert(old: &Document, name: &str, database: Option<&str>) -> Converted {
    let (text, report) = config::convert(old, name, database);
    Converted { text, report }
}

/// Where a SPIRE server's configuration says that its data is.
///
/// # Errors
/// There is no `DataStore "sql"`, or it is not right.
pub fn database(old: &Document, file: &Path) -> Result<DatabaseConfig, Faults> {
    crate::config::spire_database(old, &file.display().to_string())
}

/// How to bring data.
#[derive(Debug, Clone)]
pub struct Options {
    /// The trust domain of this server.
    pub trust_domain: TrustDomain,
    /// Now: what ended before is left behind.
    pub now: SystemTime,
    /// Whether SPIRE's version counts where ours differs.
    pub overwrite: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// Brings what `source` holds. `progress` is told what is being brought, how many are done, how many there are.
///
/// # Errors
/// The datastore failed. What was brought until then is there; running it again goes on.
pub async fn import(
    source: &Source,
    store: &dyn Datastore,
    options: Options,
    progress: &mut (dyn FnMut(&'static str, usize, usize) + Send),
) -> Result<Imported, StoreError> {
    let Options { trust_domain, now, overwrite, dry_run } = options;
    let import = import::Import { store, trust_domain, now, overwrite, dry_run };
    import.everything(source, progress).await
}

/// The directory of a database that is a file.
#[must_use]
pub fn directory(database: &DatabaseConfig) -> Option<&Path> {
    match &database.place {
        Place::File(path) => path.parent().filter(|parent| !parent.as_os_str().is_empty()),
        Place::Server(_) => None,
    }
}
