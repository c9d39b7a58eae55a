//! The `unix` workload attestor: user, groups, and with `discover_workload_path` the program's path and SHA-256.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hardroot_config::Block;
use hardroot_identity::Selector;
use hardroot_runtime::clock::Clock;

use super::digest::Digests;
use super::names::{Id, Names};
use super::{WorkloadAttestError, WorkloadAttestor, blocking};
use crate::peer::{FileId, FileState, Peer, Sample, all_ids_are_mapped, host_mount_namespaces, path_state};

/// The kernel shows ids that have no number in our user namespace as this one.
const OVERFLOW_ID: u32 = 65_534;

/// The options of `WorkloadAttestor "unix" { plugin_data { … } }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnixConfig {
    /// Whether to give `path` and `sha256`.
    pub discover_workload_path: bool,
    /// Bytes; 0 is no limit, a negative number means no `sha256`.
    pub workload_size_limit: i64,
}

impl UnixConfig {
    /// Reads the options; faults are noted in the block's decoder.
    #[must_use]
    pub fn decode(plugin_data: &Block<'_>) -> Self {
        let config = Self {
            discover_workload_path: plugin_data.bool_or("discover_workload_path", false),
            workload_size_limit: plugin_data.int("workload_size_limit").unwrap_or(0),
        };
        plugin_data.finish();
        config
    }
}

/// The attestor.
#[derive(Debug)]
pub struct UnixAttestor {
    config: UnixConfig,
    names: Names,
    digests: Digests,
    host: Vec<FileId>,
    ids_mapped: bool,
}

/// A program and what may be said of it.
struct Program {
    path: Option<PathBuf>,
    handle: OwnedFd,
    state: FileState,
}

impl UnixAttestor {
    /// An attestor that looks from this process' namespaces.
    #[must_use]
    pub fn new(config: UnixConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            names: Names::default(),
            digests: Digests::new(clock),
            host: host_mount_namespaces(),
            ids_mapped: all_ids_are_mapped(),
        }
    }

    async fn named(&self, found: &mut Found, kinds: [&str; 2], id: Id, number: u32) {
        let [by_number, by_name] = kinds;
        found.add(by_number, &number.to_string());
        if let Some(name) = self.names.of(id).await {
            found.add(by_name, &name);
        }
    }
}

/// Selectors as they are found.
struct Found(Vec<Selector>);

impl Found {
    fn add(&mut self, kind: &str, value: &str) {
        // An empty value (a user without a name) is no fact.
        if !value.is_empty()
            && let Ok(selector) = Selector::new("unix", format!("{kind}:{value}"))
        {
            self.0.push(selector);
        }
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &str {
        "unix"
    }

    async fn attest(&self, peer: &Peer) -> Result<Vec<Selector>, WorkloadAttestError> {
        let (pid, uid) = (peer.pid(), peer.uid());
        let discover = self.config.discover_workload_path;
        let (looked, host) = (peer.clone(), self.host.clone());
        let (sample, program) = blocking(move || -> Result<_, WorkloadAttestError> {
            let sample = looked.sample()?;
            let program = if discover { Some(program(&looked, &sample, &host)?) } else { None };
            Ok((sample, program))
        })
        .await??;
        if !self.ids_mapped && (sample.uid == OVERFLOW_ID || sample.gid == OVERFLOW_ID) {
            let why = "its user or group has no number in the agent's user namespace".to_owned();
            return Err(WorkloadAttestError::Program { pid, why });
        }
        let mut found = Found(Vec::new());
        self.named(&mut found, ["uid", "user"], Id::User(sample.uid), sample.uid).await;
        self.named(&mut found, ["gid", "group"], Id::Group(sample.gid), sample.gid).await;
        for gid in sample.groups {
            if self.ids_mapped || gid != OVERFLOW_ID {
                self.named(&mut found, ["supplementary_gid", "supplementary_group"], Id::Group(gid), gid)
                    .await;
            }
        }
        if let Some(Program { path, handle, state }) = program {
            match path.as_deref().map(Path::to_str) {
                Some(Some(path)) => found.add("path", path),
                _ => tracing::debug!(
                    subsystem_name = "workload_attestor",
                    pid,
                    "no path selector: the program's name does not lead to it from here (another mount namespace, or replaced)"
                ),
            }
            if let Ok(limit) = u64::try_from(self.config.workload_size_limit) {
                let digest = self.digests.of(handle, state, uid, limit).await;
                let digest = digest.map_err(|why| WorkloadAttestError::Program { pid, why })?;
                found.add("sha256", &hex::encode(digest));
            }
        }
        Ok(found.0)
    }
}

/// The program, and its path if that is true for the agent as well.
///
/// Anybody may make a mount namespace in which `/usr/bin/x` is a file of their own, so the kernel's name for a program is believed
/// only when the same name leads the agent to the same file. A program that was deleted or replaced has no name any more; its last
/// name is believed if it lies where the agent looks and the process lives in the host's mount namespace, which only root arranges.
fn program(peer: &Peer, sample: &Sample, host: &[FileId]) -> Result<Program, WorkloadAttestError> {
    let (name, handle, state) = peer.program()?;
    if sample.exe.is_some_and(|id| id != state.id) {
        return Err(WorkloadAttestError::Moved { pid: peer.pid() });
    }
    let path = if path_state(&name).is_ok_and(|found| found.id == state.id) {
        Some(name)
    } else if state.links == 0 && sample.mount_namespace.is_some_and(|id| host.contains(&id)) {
        deleted_name(&name, &state)
    } else {
        None
    };
    Ok(Program { path, handle, state })
}

/// The name a deleted file had: without the kernel's ` (deleted)`, if its directory is there, on the file's device.
fn deleted_name(name: &Path, state: &FileState) -> Option<PathBuf> {
    let bytes = name.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let directory = path_state(path.parent()?).ok()?;
    (directory.id.device == state.id.device).then_some(path)
}

#[cfg(test)]
mod tests;
