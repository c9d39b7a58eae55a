//! `make bench`: measured, limit, ratio. Names of groups as arguments select some; `--json FILE` also writes
//! the rows for scripts.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hardroot_swtpm_tests::measure::report::{Row, table};
use hardroot_swtpm_tests::measure::{
    agent, changes, cold, headline, idle, issuance, load, malformed, raw_tls, raw_token, sync, tpm_commands,
};

/// Takes most of an hour: only by its name.
const FLEET: &str = "fleet";

type Group<'a> = &'a dyn Fn() -> Result<Vec<Row>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first() {
        match (first.as_str(), rest) {
            ("raw-sign", [module, pin, threads, verifying]) => {
                let (module, pin) = (PathBuf::from(module), PathBuf::from(pin));
                let raw = raw_token::child(&module, &pin, threads.parse()?, verifying == "1")?;
                println!("{} {}", raw.rate, raw.cpu);
                return Ok(());
            }
            ("raw-latency", [module, pin, threads, rate]) => {
                let (module, pin) = (PathBuf::from(module), PathBuf::from(pin));
                let latency = raw_token::latency_child(&module, &pin, threads.parse()?, rate.parse()?)?;
                println!("{} {}", latency.p50, latency.p99);
                return Ok(());
            }
            ("raw-tls", [address]) => {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                return runtime.block_on(raw_tls::child(address));
            }
            ("raw-sign" | "raw-latency", _) => bail!("{first} MODULE PIN-FILE THREADS AND-ONE-MORE"),
            _ => {}
        }
    }
    let mut names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let json = match names.iter().position(|name| *name == "--json") {
        Some(at) => {
            names.remove(at);
            anyhow::ensure!(at < names.len(), "--json needs a file");
            Some(PathBuf::from(names.remove(at)))
        }
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let pictures = std::env::current_exe()?.parent().context("this program is nowhere")?.to_owned();
    let groups: [(&str, Group<'_>); 11] = [
        ("issuance", &|| issuance::measure(&runtime)),
        ("latency", &|| load::latency(&runtime)),
        ("storm", &|| load::storm(&runtime)),
        ("changes", &|| changes::measure(&runtime)),
        ("cold", &|| cold::measure(&runtime, &|what| eprintln!("{what}"))),
        ("idle", &|| idle::measure(&runtime)),
        ("sync", &|| sync::measure(&runtime)),
        ("agent", &|| agent::measure(&runtime)),
        ("tpm", &tpm_commands::measure),
        ("malformed", &malformed::measure),
        (FLEET, &|| {
            headline::measure(headline::Size::from_environment()?, &pictures, &|what| eprintln!("{what}"))
        }),
    ];
    for name in &names {
        anyhow::ensure!(
            groups.iter().any(|(group, _)| group == name),
            "no group \"{name}\": {}",
            groups.map(|(group, _)| group).join(", ")
        );
    }
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (name, measure) in groups {
        if names.contains(&name) || (names.is_empty() && name != FLEET) {
            eprintln!("measuring {name} …");
            // What took an hour to measure is not lost because the next group cannot be measured.
            match measure() {
                Ok(measured) => {
                    println!("{}", table(&measured));
                    rows.extend(measured);
                }
                Err(error) => {
                    eprintln!("{name} was not measured: {error:#}");
                    failed.push(name);
                }
            }
        }
    }
    if let Some(path) = json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        std::fs::write(&path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| path.display().to_string())?;
    }
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
