//! Which server this is, whether it is the only one of its name, and which keys it made.
//!
//! A server's data directory holds its instance id. A lease in the database says which process is that
//! instance now, so that a cloned machine signs nothing ([`Tenancy`]); and every key is written down before it is
//! made ([`RecordedKeys`]). See docs/decisions/0013-instance-lease-and-key-records.md.

mod keys;
mod lease;
#[cfg(test)]
mod tests;

use std::path::Path;

use hardroot_runtime::state::{StateError, read_checked, write_checked};

pub use keys::{RecordedKeys, keys_per_hour};
pub use lease::{Holder, LEASE, LeaseError, RENEW_LEASE, Tenancy, holder};

/// The file in the data directory.
pub(crate) const FILE: &str = "server-id";

/// Why a server has no instance id.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// The file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file is whole, but not a UUID.
    #[error("{path} holds no server instance id; restore it, or delete it to be another instance")]
    NoId {
        /// The file.
        path: String,
    },
}

/// The instance id of this data directory: a UUID, made at the first start and kept in `server-id`, mode 0600.
///
/// # Errors
/// [`InstanceError`].
pub fn instance_id(data_dir: &Path) -> Result<String, InstanceError> {
    if let Some(known) = known_instance_id(data_dir)? {
        return Ok(known);
    }
    let id = uuid::Uuid::new_v4().to_string();
    write_checked(&data_dir.join(FILE), id.as_bytes(), 0o600)?;
    Ok(id)
}

/// The instance id of this data directory, if a server ever started in it.
///
/// # Errors
/// [`InstanceError`].
pub fn known_instance_id(data_dir: &Path) -> Result<Option<String>, InstanceError> {
    let path = data_dir.join(FILE);
    let Some(found) = read_checked(&path)? else { return Ok(None) };
    let id = std::str::from_utf8(&found).ok().and_then(|text| uuid::Uuid::parse_str(text).ok());
    let id = id.ok_or_else(|| InstanceError::NoId { path: path.display().to_string() })?;
    Ok(Some(id.to_string()))
}
