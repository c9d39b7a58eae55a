//! `make bench`: measured, limit, ratio. Names of groups as arguments select some; `--json FILE` also writes
//! the rows for scripts.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hardroot_swtpm_tests::measure::report::{Row, table};
use hardroot_swtpm_tests::measure::{agent, issuance, raw_token, tpm_commands};

type Group<'a> = &'a dyn Fn() -> Result<Vec<Row>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "raw-sign"
    {
        let [module, pin, threads] = rest else { bail!("raw-sign MODULE PIN-FILE THREADS") };
        println!("{}", raw_token::child(&PathBuf::from(module), &PathBuf::from(pin), threads.parse()?)?);
        return Ok(());
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
    let groups: [(&str, Group<'_>); 3] = [
        ("issuance", &|| issuance::measure(&runtime)),
        ("agent", &|| agent::measure(&runtime)),
        ("tpm", &tpm_commands::measure),
    ];
    for name in &names {
        anyhow::ensure!(
            groups.iter().any(|(group, _)| group == name),
            "no group \"{name}\": issuance, agent, tpm"
        );
    }
    let mut rows = Vec::new();
    for (name, measure) in groups {
        if names.is_empty() || names.contains(&name) {
            eprintln!("measuring {name} …");
            rows.extend(measure().with_context(|| format!("measuring {name}"))?);
        }
    }
    println!("{}", table(&rows));
    if let Some(path) = json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        std::fs::write(&path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}
