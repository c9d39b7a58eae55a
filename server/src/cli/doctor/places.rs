//! Where a server's files are, and what each is to it.

use std::path::{Path, PathBuf};

use hardroot_runtime::doctor::disk::{self, DiskFacts};
use hardroot_runtime::doctor::files::Role;

use crate::config::{KeyManagerConfig, ServerConfig, X509PopMode};
use crate::datastore::Place;
use crate::instance::FILE as INSTANCE;

/// Every file that is looked at, the configuration first.
pub(super) fn files(path: &Path, config: &ServerConfig) -> Vec<(PathBuf, Role)> {
    let mut all = vec![(path.to_owned(), Role::Trusted), (config.data_dir.clone(), Role::State)];
    // Made at the first start.
    let instance = config.data_dir.join(INSTANCE);
    all.extend(instance.exists().then_some((instance, Role::Trusted)));
    all.extend(config.socket_path.parent().map(|folder| (folder.to_owned(), Role::Socket)));
    all.extend(secrets(config).into_iter().map(|path| (path, Role::Secret)));
    all.extend(anchors(config).into_iter().map(|path| (path, Role::Trusted)));
    all
}

/// Files that hold secrets.
fn secrets(config: &ServerConfig) -> Vec<PathBuf> {
    let mut all = Vec::new();
    match &config.key_manager {
        KeyManagerConfig::Pkcs11 { token, .. } => all.push(token.pin_file.clone()),
        KeyManagerConfig::Tpm { device, .. } => {
            all.extend(device.owner_auth_file.clone());
            all.extend(device.key_auth_file.clone());
        }
        KeyManagerConfig::Disk { keys_path } => all.push(keys_path.clone()),
        KeyManagerConfig::Memory => {}
    }
    let tls = config.telemetry.prometheus.as_ref().and_then(|prometheus| prometheus.tls.as_ref());
    all.extend(tls.and_then(|tls| tls.files.as_ref()).map(|(_, key)| key.clone()));
    all.retain(|path| !path.to_string_lossy().starts_with("credential:"));
    all
}

/// Files that decide who is trusted.
fn anchors(config: &ServerConfig) -> Vec<PathBuf> {
    match config.attestors.x509pop.as_ref().map(|x509pop| &x509pop.mode) {
        Some(X509PopMode::ExternalPki { ca_bundle_paths }) => ca_bundle_paths.clone(),
        _ => Vec::new(),
    }
}

/// Files that a server writes while it runs, or wrote last.
pub(super) fn written(config: &ServerConfig) -> Vec<PathBuf> {
    let mut all = vec![config.data_dir.join(INSTANCE)];
    if let Place::File(path) = &config.database.place {
        all.push(path.clone());
        all.push(PathBuf::from(format!("{}-wal", path.display())));
    }
    all
}

/// The file systems that a server writes to.
pub(super) fn disks(config: &ServerConfig) -> Vec<DiskFacts> {
    let log = config.log_file.as_deref().and_then(Path::parent);
    let mut places: Vec<&Path> = [Some(config.data_dir.as_path()), log].into_iter().flatten().collect();
    places.dedup();
    places.into_iter().filter_map(disk::gather).collect()
}
