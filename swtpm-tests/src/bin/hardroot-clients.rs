//! `make test-clients`: SPIFFE clients in other languages against a real agent: each fetches, watches an
//! update, and makes mTLS as server and as client with every other.
//!
//! Arguments: NAME=COMMAND, one for each client; COMMAND is split at blanks.
#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use hardroot_swtpm_tests::daemon::{Ran, binary};
use hardroot_swtpm_tests::site::{Agent, AgentSetup, Site, uid, unused_address};
use hardroot_swtpm_tests::wait;
use serde_json::Value;

const ID: &str = "spiffe://example.org/client";

struct Client {
    name: String,
    words: Vec<String>,
}

impl Client {
    fn command(&self, agent: &Agent, arguments: &[&str]) -> Command {
        let mut words = self.words.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        command.args(words);
        let (first, rest) = arguments.split_first().unwrap_or((&"", &[]));
        command.arg(first).arg("--socket").arg(agent.socket()).args(rest);
        command
    }

    fn run(&self, agent: &Agent, arguments: &[&str]) -> Result<Ran> {
        let output =
            self.command(agent, arguments).output().with_context(|| format!("running {}", self.name))?;
        Ok(Ran::of(&output))
    }
}

fn main() -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    let mut check = |name: &str, outcome: Result<()>| match outcome {
        Ok(()) => {
            passed += 1;
            println!("ok      {name}");
        }
        Err(error) => {
            failed += 1;
            println!("FAILED  {name}: {error:#}");
        }
    };
    if let Err(error) = all(&mut check) {
        check("setting up", Err(error));
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all(check: &mut impl FnMut(&str, Result<()>)) -> Result<()> {
    let mut clients =
        vec![Client { name: "rust".into(), words: vec![binary("hardroot-workload")?.display().to_string()] }];
    for argument in std::env::args().skip(1) {
        let (name, command) = argument.split_once('=').context("arguments are NAME=COMMAND")?;
        clients.push(Client {
            name: name.into(),
            words: command.split_whitespace().map(str::to_owned).collect(),
        });
    }
    let mut site = Site::new()?;
    site.start_server()?;
    site.write_bundle()?;
    let token = site.join_token()?;
    let mut agent = site.agent("agent", AgentSetup::join_token(&token))?;
    agent.start()?;
    let parent = site.agent_ids()?.into_iter().next().context("no agent")?;

    for client in &clients {
        check(&format!("{} is refused without an entry", client.name), refused(client, &agent));
    }
    let entry = site.create_entry(&parent, ID, &[&format!("unix:uid:{}", uid())], &[])?;
    for client in &clients {
        check(&format!("{} fetches", client.name), fetches(client, &agent));
        check(&format!("{} fetches and validates a JWT-SVID", client.name), tokens(client, &agent));
        check(&format!("{} watches", client.name), watches(client, &agent, &site, &parent, &entry));
    }
    for server in &clients {
        for caller in &clients {
            let name = format!("{} serves {} over mTLS", server.name, caller.name);
            check(&name, mutual_tls(server, caller, &agent));
        }
    }
    agent.stop()?;
    site.stop_server()
}

fn refused(client: &Client, agent: &Agent) -> Result<()> {
    let ran = client.run(agent, &["fetch", "--timeout", "3"])?;
    ensure!(!ran.ok(), "it was answered: {}", ran.stdout);
    Ok(())
}

fn fetches(client: &Client, agent: &Agent) -> Result<()> {
    let seen = wait::until("an identity", wait::DEADLINE, || {
        let ran = client.run(agent, &["fetch"])?;
        ran.ok().then(|| ran.json()).transpose()
    })?;
    let id = seen.pointer("/svids/0/spiffe_id").and_then(Value::as_str);
    ensure!(id == Some(ID), "{seen}");
    ensure!(seen.get("bundles").and_then(Value::as_u64) == Some(1), "{seen}");
    Ok(())
}

/// Each client checks that the token is valid for its audience and for no other, by itself and by the agent.
fn tokens(client: &Client, agent: &Agent) -> Result<()> {
    let seen = client.run(agent, &["jwt", "--audience", "mine"])?.success()?.json()?;
    ensure!(seen.get("spiffe_id").and_then(Value::as_str) == Some(ID), "{seen}");
    ensure!(seen.pointer("/audience/0").and_then(Value::as_str) == Some("mine"), "{seen}");
    Ok(())
}

/// A change of the entry must reach a client whose stream is open.
fn watches(client: &Client, agent: &Agent, site: &Site, parent: &str, entry: &str) -> Result<()> {
    let mut child = client
        .command(agent, &["watch", "--count", "2", "--timeout", "60"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let first: Value = serde_json::from_str(&lines.next().context("no first update")??)?;
    // A new DNS name means a new SVID.
    let dns = format!("{}.example.org", client.name);
    let selector = format!("unix:uid:{}", uid());
    site.server_command(&[
        "entry",
        "update",
        "-entryID",
        entry,
        "-parentID",
        parent,
        "-spiffeID",
        ID,
        "-selector",
        &selector,
        "-dns",
        &dns,
    ])?
    .success()?;
    let second: Value = serde_json::from_str(&lines.next().context("no second update")??)?;
    let serial = |update: &Value| update.pointer("/svids/0/serial").cloned();
    ensure!(serial(&first) != serial(&second), "the same SVID came twice: {first} {second}");
    ensure!(child.wait()?.success(), "it ended with an error");
    Ok(())
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn mutual_tls(server: &Client, caller: &Client, agent: &Agent) -> Result<()> {
    let listen = format!("{}:4433", unused_address(4433)?);
    let mut child = server
        .command(agent, &["serve", "--listen", &listen, "--expect", ID])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("no output")?;
    let _served = Served(child);
    let line = BufReader::new(output).lines().next().context("the server ended")??;
    ensure!(line.contains("listening"), "{line}");
    let said = caller.run(agent, &["call", "--connect", &listen, "--expect", ID])?.success()?.json()?;
    ensure!(said.get("peer").and_then(Value::as_str) == Some(ID), "{said}");
    ensure!(said.to_string().contains("said: hello"), "{said}");
    let other =
        caller.run(agent, &["call", "--connect", &listen, "--expect", "spiffe://example.org/other"])?;
    ensure!(!other.ok(), "a caller that expects another identity was connected");
    Ok(())
}
