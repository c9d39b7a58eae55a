//! The raw limit of issuance: `C_Sign` in a loop, straight on the module, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use crate::site::Site;

/// DER of the object identifier of P-256 (RFC 5480 2.1.1.1).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Signatures a second on the site's token with this many threads, measured by a child process.
///
/// # Errors
/// The child failed.
pub fn rate(site: &Site, threads: u32) -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .arg("raw-sign")
        .arg(site.hsm().module())
        .arg(site.hsm().pin_file())
        .arg(threads.to_string())
        .envs(site.environment())
        .output()
        .context("starting the raw loop")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .with_context(|| format!("the raw loop said {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The child: signs for two seconds and returns signatures a second.
///
/// # Errors
/// The token failed.
pub fn child(module: &Path, pin_file: &PathBuf, threads: u32) -> Result<f64> {
    let pkcs11 = Pkcs11::new(module)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slot =
        pkcs11.get_slots_with_initialized_token()?.into_iter().next().context("no initialised token")?;
    let pin = std::fs::read_to_string(pin_file)?;
    let anchor = pkcs11.open_rw_session(slot)?;
    anchor.login(UserType::User, Some(&AuthPin::new(pin.trim().to_owned().into())))?;
    let (_, key) = anchor.generate_key_pair(
        &Mechanism::EccKeyPairGen,
        &[Attribute::Token(false), Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)],
        &[
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Sign(true),
        ],
    )?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(2);
    let signed: u32 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let pkcs11 = pkcs11.clone();
                scope.spawn(move || -> Result<u32> {
                    let session = pkcs11.open_rw_session(slot)?;
                    let mut count = 0;
                    while Instant::now() < end {
                        session.sign(&Mechanism::Ecdsa, key, &[7; 32])?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_panic| anyhow::anyhow!("a signing thread died"))?)
            .sum::<Result<u32>>()
    })?;
    Ok(f64::from(signed) / begun.elapsed().as_secs_f64())
}
