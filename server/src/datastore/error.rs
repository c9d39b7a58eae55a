//! Why the datastore refused or failed.

use hardroot_identity::{SpiffeId, TrustDomain};

/// Why the datastore refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing under that key.
    #[error("{what} {key} not found")]
    NotFound {
        /// The noun: `entry`, `agent`, `bundle`, `federation relationship`, `join token`, `TPM enrolment`.
        what: &'static str,
        /// The key asked for.
        key: String,
    },
    /// Something is there already.
    #[error("{what} {key} already exists")]
    Exists {
        /// The noun.
        what: &'static str,
        /// The key.
        key: String,
    },
    /// Another writer was faster; read again and retry.
    #[error("{what} {key} was changed by somebody else meanwhile")]
    Conflict {
        /// The noun.
        what: &'static str,
        /// The key.
        key: String,
    },
    /// The agent is banned, and stays so.
    #[error("agent {id} is banned")]
    Banned {
        /// Its SPIFFE ID.
        id: SpiffeId,
    },
    /// The request breaks a rule of the store (for example a federated bundle that does not exist).
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// A page begins where no page ended.
    #[error("could not parse token '{token}'")]
    PageToken {
        /// What was asked for.
        token: String,
    },
    /// A row that cannot be read: refused, never guessed.
    #[error("{what} {key} is damaged in the database: {reason}; restore it from a backup or delete it")]
    Damaged {
        /// The noun.
        what: &'static str,
        /// The key.
        key: String,
        /// What does not parse.
        reason: String,
    },
    /// An entry names a foreign trust domain whose bundle is not stored.
    #[error("unable to find federated bundle \"{}\"", .trust_domain.id())]
    NoFederatedBundle {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// The bundle is named by entries.
    #[error("cannot delete bundle; federated with {entries} registration entries")]
    InUse {
        /// How many entries.
        entries: u64,
    },
    /// It is a database, but not one of ours.
    #[error("the database was not made by Hardroot; name another one in connection_string")]
    Foreign,
    /// The database was made by a newer Hardroot.
    #[error("the database has schema {found}, this server knows {known}; run the newer hardroot-server")]
    NewerSchema {
        /// Schema version found.
        found: i64,
        /// Highest version known here.
        known: i64,
    },
    /// The database was made by an older Hardroot, and the configuration says to leave it so.
    #[error(
        "the database has schema {found}, this server needs {known}, and disable_migration is set; run \
         `hardroot-server datastore migrate`"
    )]
    OlderSchema {
        /// Schema version found.
        found: i64,
        /// The version needed.
        known: i64,
    },
    /// The database was made by an older Hardroot, and is only looked at.
    #[error(
        "the database has schema {found}, this command reads {known}; run `hardroot-server datastore migrate` first"
    )]
    NeedsMigration {
        /// Schema version found.
        found: i64,
        /// The version needed.
        known: i64,
    },
    /// The database cannot be reached or cannot work now; the same may succeed later.
    #[error("database: {op} failed, the database is away or overloaded")]
    Away {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database can be read and not written; the same may succeed when there is room.
    #[error("database: {op} failed, nothing can be written; is the disk full?")]
    NoRoom {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database failed.
    #[error("database: {op} failed")]
    Database {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}
