//! The API code, from the .proto files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;

use crate::shapes;

const PROTO_FILES: &[&str] = &[
    "spire/api/types/types.proto",
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/svid/v1/svid.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/trustdomain/v1/trustdomain.proto",
    "spire/api/server/localauthority/v1/localauthority.proto",
    "spire/api/server/logger/v1/logger.proto",
    "spire/api/server/debug/v1/debug.proto",
    "spire/api/agent/delegatedidentity/v1/delegatedidentity.proto",
    "spire/api/agent/logger/v1/logger.proto",
    "spire/api/agent/debug/v1/debug.proto",
    "spire/common/common.proto",
    "spire/server/journal.proto",
    "hardroot/server/sync/v1/sync.proto",
    "hardroot/server/tpm/v1/tpm.proto",
    "workload/workload.proto",
];

/// What the Workload API's descriptors consist of.
const WORKLOAD_FILES: &[&str] = &["google/protobuf/struct.proto", "workload/workload.proto"];

/// Messages that carry private keys, tokens or payloads that may be tokens.
const SECRET_MESSAGES: &[&str] = &[
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.types.AttestationData",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
];

fn api() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/api")
}

/// File name to content.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn generate() -> Result<Files> {
    let protos = api().join("proto");
    let set = protox::compile(PROTO_FILES, [&protos]).context("compiling the .proto files")?;
    let out = std::env::temp_dir().join(format!("hardroot-proto-{}", std::process::id()));
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let code = || {
        tonic_prost_build::configure()
            .emit_rerun_if_changed(false)
            // Same message, same bytes: bundles are compared and hashed.
            .btree_map(".")
            // An entry is encoded once for all agents that get it.
            .bytes(".hardroot.server.sync.v1.Update.entries")
            // Messages with secrets have a Debug of our own (crates/api/src/redacted.rs).
            .skip_debug(SECRET_MESSAGES)
            .out_dir(&out)
    };
    // Requests are looked at before they are decoded (crates/api/src/expansion.rs).
    code().codec_path("crate::codec::Bounded").compile_fds(set.clone()).context("generating code")?;
    // The Workload API once more, with buffers for many callers (crates/api/src/codec.rs).
    let mut workload = set.clone();
    workload.file.retain(|file| WORKLOAD_FILES.contains(&file.name()));
    code()
        .codec_path("crate::codec::SmallBuffers")
        .compile_fds(workload.clone())
        .context("generating the Workload API's code")?;
    let mut files = Files::new();
    for entry in fs::read_dir(&out).with_context(|| format!("reading {}", out.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).context("a generated file without a name")?;
        if name.starts_with("google") {
            continue;
        }
        let name = if name == "_.rs" { "workload.rs" } else { name };
        files.insert(name.to_owned(), fs::read(&path)?);
    }
    fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
    files.insert("shapes.rs".to_owned(), shapes::render(&set)?.into_bytes());
    // Reflection and JSON need names and numbers, not comments.
    for (name, mut set) in [("descriptors.bin", set), ("workload_descriptors.bin", workload)] {
        for file in &mut set.file {
            file.source_code_info = None;
        }
        files.insert(name.to_owned(), set.encode_to_vec());
    }
    Ok(files)
}

pub(crate) fn write(files: &Files) -> Result<()> {
    let folder = api().join("src/generated");
    fs::create_dir_all(&folder)?;
    for (name, content) in files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

pub(crate) fn check(files: &Files) -> Result<()> {
    let folder = api().join("src/generated");
    for (name, content) in files {
        let path = folder.join(name);
        let committed = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if committed != *content {
            bail!(
                "{} is not what the .proto files make: run `make proto` and commit the result",
                path.display()
            );
        }
    }
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !files.contains_key(name) {
            bail!("{} is not made from any .proto file: remove it", path.display());
        }
    }
    Ok(())
}
