//! `make demo`: the main job on emulated hardware, in steps that say what each one proves.
//!
//! Ends by itself, cleans up after itself, and exits non-zero if any step did not hold.
#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use hardroot_emulators::{Manufacturer, Swtpm};
use hardroot_swtpm_tests::daemon::{Ran, binary};
use hardroot_swtpm_tests::site::{Agent, AgentSetup, Site, TRUST_DOMAIN, uid, unused_address};
use hardroot_swtpm_tests::wait;
use serde_json::Value;

fn main() -> ExitCode {
    let keep = std::env::args().any(|argument| argument == "--keep");
    match demo(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\n  FAILED  {error:#}\n");
            ExitCode::FAILURE
        }
    }
}

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn fact(name: &str, value: &str) {
    println!("     {name:<22} {value}");
}

fn holds(what: &str) {
    println!("   ✓ {what}");
}

/// Users for the workloads: real ones apart when we are root, else ourselves.
struct Users {
    workload: u32,
    other: Option<u32>,
}

impl Users {
    fn pick() -> Self {
        // Any ids do: they need no names.
        if uid() == 0 {
            Self { workload: 61_001, other: Some(61_002) }
        } else {
            Self { workload: uid(), other: None }
        }
    }

    fn run_as(&self) -> Option<u32> {
        (uid() == 0).then_some(self.workload)
    }
}

fn demo(keep: bool) -> Result<()> {
    println!("Hardroot demo: a node proven by its TPM, a CA held in an HSM, a workload with its SVID.");
    println!("swtpm and SoftHSM stand in for the chips; everything else is the real thing.");
    let users = Users::pick();

    step(1, "Hardware: a TPM from a manufacturer, a PKCS#11 token");
    let manufacturer = Manufacturer::new()?;
    let tpm = manufacturer.make_tpm()?;
    let mut site = Site::new()?;
    let endorsement = site.folder().join("endorsement-ca.pem");
    fs::write(&endorsement, tpm.ca_pem()?)?;
    fact("TPM", &tpm.tcti());
    fact("token", &site.hsm().directory().display().to_string());
    holds("the TPM carries an endorsement key and a certificate of its manufacturer for it");

    step(2, "The server starts: its CA key is made in the token and cannot leave it");
    site.attestors = format!(
        "    NodeAttestor \"tpm_quote\" {{\n        plugin_data {{\n            endorsement_ca_path = \"{}\"\n            \
         enrolment = \"required\"\n        }}\n    }}\n",
        endorsement.display()
    );
    site.start_server()?;
    show_ca_key(&site)?;

    step(3, "The operator enrols the box by its TPM");
    let mut agent = enrolled_agent(&site, &tpm)?;

    step(4, "The agent proves itself: fresh quote, AK bound to the EK, agent key certified by the AK");
    let agent_id = attest(&site, &mut agent)?;

    step(5, "Two programs get identities, by user and path");
    let programs = Programs::install(&site)?;
    let user = format!("unix:uid:{}", users.workload);
    for (name, path) in [("payments", &programs.payments), ("orders", &programs.orders)] {
        let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
        site.create_entry(&agent_id, &id, &[&user, &format!("unix:path:{}", path.display())], &[])?;
        fact(&id, &format!("{user} unix:path:{}", path.display()));
    }
    fetch_and_verify(&agent, &programs, &users)?;

    step(6, "The two programs talk mTLS with their SVIDs");
    mutual_tls(&agent, &programs, &users)?;

    step(7, "Who else asks is refused");
    refusals(&agent, &programs, &users)?;

    step(8, "A box with another TPM is refused");
    let stranger = manufacturer.make_tpm()?;
    refuse_stranger(&site, &stranger)?;

    step(9, "The state directory, copied to another TPM, is worthless");
    refuse_copy(&site, &agent, &stranger)?;

    println!("\nEvery step held.");
    if keep { leave_running(&site, &agent, &programs) } else { finish(site, agent) }
}

/// Reads the CA key's attributes back from the token.
fn show_ca_key(site: &Site) -> Result<()> {
    let config = site.server_config().display().to_string();
    let ran =
        run("hardroot-server", &["hsm", "check", "-config", &config, "-output", "json"], site)?.success()?;
    let json = ran.json()?;
    let keys = json.pointer("/keys").and_then(Value::as_array).context("no keys in `hsm check`")?;
    let key = keys
        .iter()
        .find(|key| key.to_string().contains("x509-CA-A"))
        .with_context(|| format!("no CA key in {json}"))?;
    for name in ["sensitive", "extractable", "always_sensitive", "never_extractable", "local"] {
        let value = find(key, name).with_context(|| format!("{name} is not shown in {key}"))?;
        let wanted = name != "extractable";
        fact(&format!("CKA_{}", name.to_uppercase()), &value.to_string());
        ensure!(value == &Value::Bool(wanted), "the CA key has {name} = {value}");
    }
    holds("the CA's private key was made in the token, is sensitive and was never extractable");
    Ok(())
}

/// Finds a field by name at any depth.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            fields.get(name).or_else(|| fields.values().find_map(|field| find(field, name)))
        }
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

fn run(program: &str, arguments: &[&str], site: &Site) -> Result<Ran> {
    let output = Command::new(binary(program)?).args(arguments).envs(site.environment()).output()?;
    Ok(Ran::of(&output))
}

fn enrolled_agent(site: &Site, tpm: &Swtpm) -> Result<Agent> {
    site.write_bundle()?;
    let agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti()))?;
    let config = agent.config().display().to_string();
    let shown = agent.command(&["tpm", "show", "-config", &config, "-output", "json"])?.success()?.json()?;
    let ek_hash = shown.get("ek_hash").and_then(Value::as_str).context("no ek_hash in `tpm show`")?;
    fact("EK hash", ek_hash);
    for name in ["vendor", "model", "firmware"] {
        if let Some(value) = find(&shown, name).and_then(Value::as_str) {
            fact(name, value);
        }
    }
    site.server_command(&["tpm", "enroll", "-ekHash", ek_hash, "-note", "demo box"])?.success()?;
    holds("hardroot-agent tpm show → hardroot-server tpm enroll: only this chip may join");
    Ok(agent)
}

fn attest(site: &Site, agent: &mut Agent) -> Result<String> {
    agent.start()?;
    let ids = site.agent_ids()?;
    let [id] = ids.as_slice() else { bail!("one agent was expected, the server knows {ids:?}") };
    fact("agent ID", id);
    let shown =
        site.server_command(&["agent", "show", "-spiffeID", id, "-output", "json"])?.success()?.json()?;
    let selectors = find(&shown, "selectors").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut pcrs = 0;
    for selector in &selectors {
        let value = selector.get("value").and_then(Value::as_str).unwrap_or_default();
        if value.starts_with("pcr:") {
            pcrs += 1;
        }
        fact("accepted", &format!("tpm_quote:{value}"));
    }
    ensure!(pcrs > 0, "the server accepted no PCR values: {shown}");
    let log = fs::read_to_string(site.folder().join("server.log")).unwrap_or_default();
    let audit =
        log.lines().find(|line| line.contains("evidence_digest")).context("no audit record of the quote")?;
    fact("audit record", audit.trim());
    holds("quote, PCRs and key certification were judged by the server; the agent's key is in the TPM");
    Ok(id.clone())
}

struct Programs {
    payments: PathBuf,
    orders: PathBuf,
    copy: PathBuf,
}

impl Programs {
    fn install(site: &Site) -> Result<Self> {
        let folder = site.folder().join("bin");
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let programs = Self {
            payments: folder.join("payments"),
            orders: folder.join("orders"),
            copy: folder.join("payments-copy"),
        };
        let original = binary("hardroot-workload")?;
        for path in [&programs.payments, &programs.orders, &programs.copy] {
            fs::copy(&original, path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(programs)
    }
}

fn fetch_and_verify(agent: &Agent, programs: &Programs, users: &Users) -> Result<()> {
    let folder = agent.folder().join("svid");
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let out = folder.display().to_string();
    let mut last = String::new();
    let seen = wait::until("payments has its SVID", wait::DEADLINE, || {
        let ran = agent.workload(&programs.payments, users.run_as(), &["fetch", "--write", &out])?;
        last = format!("{}{}", ran.stdout, ran.stderr);
        if ran.ok() { Ok(Some(ran.json()?)) } else { Ok(None) }
    })
    .with_context(|| format!("it last said: {last}\nlog of the agent:\n{}", agent.log()))?;
    fact("payments got", &seen.to_string());
    ensure!(
        seen.pointer("/svids/0/spiffe_id").and_then(Value::as_str) == Some("spiffe://example.org/payments"),
        "payments got another identity: {seen}"
    );
    holds("fetched over the Workload API by the published `spiffe` library");
    let verified = Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(folder.join("bundle.pem"))
        .arg(folder.join("svid.pem"))
        .output()
        .context("running openssl")?;
    let verified = Ran::of(&verified).success().context("openssl verify")?;
    fact("openssl verify", verified.stdout.trim());
    holds("openssl verifies the chain to the bundle");
    Ok(())
}

/// A child that is killed on drop.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start_service(agent: &Agent, program: &Path, user: Option<u32>, listen: &str) -> Result<Served> {
    let mut command = match user {
        Some(uid) => {
            let mut command = Command::new("setpriv");
            command
                .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"])
                .arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["serve", "--socket"]).arg(agent.socket());
    command.args(["--listen", listen, "--expect", "spiffe://example.org/orders"]).stdout(Stdio::null());
    Ok(Served(command.spawn().context("starting the service")?))
}

fn mutual_tls(agent: &Agent, programs: &Programs, users: &Users) -> Result<()> {
    let listen = format!("{}:4433", unused_address(4433)?);
    let _service = start_service(agent, &programs.payments, users.run_as(), &listen)?;
    let arguments = ["call", "--connect", &listen, "--expect", "spiffe://example.org/payments"];
    let said = wait::until("orders reaches payments", wait::DEADLINE, || {
        let ran = agent.workload(&programs.orders, users.run_as(), &arguments)?;
        if ran.ok() { Ok(Some(ran.json()?)) } else { Ok(None) }
    })?;
    fact("orders called", said.get("peer").and_then(Value::as_str).unwrap_or_default());
    fact("payments answered", said.get("answer").and_then(Value::as_str).unwrap_or_default());
    ensure!(said.to_string().contains("spiffe://example.org/orders said: hello"), "unexpected: {said}");
    let wrong = agent.workload(
        &programs.orders,
        users.run_as(),
        &["call", "--connect", &listen, "--expect", "spiffe://example.org/somebody-else"],
    )?;
    ensure!(!wrong.ok(), "a caller that expects another identity was connected");
    holds("each saw the other's SPIFFE ID; who expects another peer does not connect");
    Ok(())
}

fn refusals(agent: &Agent, programs: &Programs, users: &Users) -> Result<()> {
    let refused = |ran: &Ran| !ran.ok() && ran.stdout.contains("no identity issued");
    let elsewhere = agent.workload(&programs.copy, users.run_as(), &["fetch"])?;
    ensure!(refused(&elsewhere), "the copy at another path was answered: {}", elsewhere.stdout);
    fact("payments-copy got", elsewhere.stdout.trim());
    holds("the same program at another path gets nothing");
    if let Some(other) = users.other {
        let stranger = agent.workload(&programs.payments, Some(other), &["fetch"])?;
        ensure!(refused(&stranger), "another user was answered: {}", stranger.stdout);
        fact("another user got", stranger.stdout.trim());
        holds("the same program under another user gets nothing");
    } else {
        fact("another user", "shown only when the demo runs as root, since only root can change users");
    }
    Ok(())
}

fn refuse_stranger(site: &Site, tpm: &Swtpm) -> Result<()> {
    let mut agent = site.agent("stranger", AgentSetup::tpm(&tpm.tcti()))?;
    agent.launch()?;
    let log = site.folder().join("server.log");
    let line = wait::until("the server refuses the stranger", wait::DEADLINE, || {
        let log = fs::read_to_string(&log)?;
        Ok(log.lines().find(|line| line.contains("not_enrolled")).map(str::to_owned))
    })?;
    fact("server says", line.trim());
    ensure!(site.agent_ids()?.len() == 1, "the stranger became an agent");
    holds("genuine chip, valid certificate, but not enrolled: no identity");
    Ok(())
}

fn refuse_copy(site: &Site, original: &Agent, tpm: &Swtpm) -> Result<()> {
    let mut thief = site.agent("thief", AgentSetup::tpm(&tpm.tcti()))?;
    copy_folder(&original.data(), &thief.data())?;
    // The stranger of the last step must not hold the chip.
    thief.launch()?;
    let socket = thief.socket();
    wait::until("the thief's agent gives up its copied key", wait::DEADLINE, || {
        let log = thief.log();
        let noticed = log.lines().any(|line| {
            (line.contains("level=error") || line.contains("level=warning"))
                && (line.contains("key") || line.contains("TPM"))
        });
        Ok(noticed.then_some(()))
    })?;
    let log = thief.log();
    if let Some(line) =
        log.lines().find(|line| line.contains("level=error") || line.contains("level=warning"))
    {
        fact("its agent says", line.trim());
    }
    let health =
        Command::new(binary("hardroot-agent")?).args(["healthcheck", "-socketPath"]).arg(&socket).output()?;
    ensure!(!health.status.success(), "the thief's agent serves");
    ensure!(site.agent_ids()?.len() == 1, "the thief became an agent");
    holds("the key blob does not load in another TPM, and that TPM is not enrolled: nothing is served");
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn leave_running(site: &Site, agent: &Agent, programs: &Programs) -> Result<()> {
    let bin = binary("hardroot-server")?;
    let bin = bin.parent().unwrap_or(Path::new("."));
    println!("\nStill running, until you press Enter. In another terminal, try:");
    println!("  cd {}", bin.display());
    println!("  ./hardroot-server entry show -socketPath {}", site.server_socket().display());
    println!("  ./hardroot-server agent list -socketPath {}", site.server_socket().display());
    println!("  ./hardroot-server tpm list -socketPath {}", site.server_socket().display());
    println!("  ./hardroot-agent tpm show -config {}", agent.config().display());
    println!("  ./hardroot-agent api fetch -socketPath {}", agent.socket().display());
    println!(
        "  {} watch --count 99 --timeout 600 --socket {}",
        programs.payments.display(),
        agent.socket().display()
    );
    println!("  less {}", site.folder().join("server.log").display());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

fn finish(mut site: Site, mut agent: Agent) -> Result<()> {
    agent.stop()?;
    site.stop_server()?;
    println!("Server and agent stopped; nothing is left behind.");
    Ok(())
}
