//! Developer tasks. `cargo run -p hardroot-xtask -- proto` writes the API code from the .proto files without
//! protoc; `proto --check` fails when what is committed differs from that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;

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
    "hardroot/server/tpm/v1/tpm.proto",
    "workload/workload.proto",
];

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

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["proto"] => write(&generate()?),
        ["proto", "--check"] => check(&generate()?),
        _ => bail!("usage: hardroot-xtask proto [--check]"),
    }
}

fn api() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/api")
}

/// File name to content.
type Files = BTreeMap<String, Vec<u8>>;

fn generate() -> Result<Files> {
    let protos = api().join("proto");
    let mut set = protox::compile(PROTO_FILES, [&protos]).context("compiling the .proto files")?;
    let out = std::env::temp_dir().join(format!("hardroot-proto-{}", std::process::id()));
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        // Same message, same bytes: bundles are compared and hashed.
        .btree_map(".")
        // Messages with secrets have a Debug of our own (crates/api/src/redacted.rs).
        .skip_debug(SECRET_MESSAGES)
        .out_dir(&out)
        .compile_fds(set.clone())
        .context("generating code")?;
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
    // Reflection and JSON need names and numbers, not comments.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    files.insert("descriptors.bin".to_owned(), set.encode_to_vec());
    Ok(files)
}

fn write(files: &Files) -> Result<()> {
    let folder = api().join("src/generated");
    fs::create_dir_all(&folder)?;
    for (name, content) in files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn check(files: &Files) -> Result<()> {
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
