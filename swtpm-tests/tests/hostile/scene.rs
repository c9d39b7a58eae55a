//! A server, somebody who works with it all the while, and what the server costs.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hardroot_api::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_swtpm_tests::measure::wire;
use hardroot_swtpm_tests::site::{PORT, Site};
use hardroot_swtpm_tests::wait;
use hardroot_transport::{ConnectOptions, connect};
use rustls::ClientConfig;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// No call of somebody who works may take longer while others attack: generous, for everything here shares two
/// cores with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an attack may cost at its worst, beyond what the server had.
pub const MOST_MIB: u64 = 300;
/// What may be left of it: allocators keep some.
const LEFT_MIB: u64 = 100;

/// Short deadlines, so that tests see them; not for handshakes, of which hundreds share two cores with other tests.
pub const LIMITS: &str = "    limits {\n        handshake_timeout = \"60s\"\n        first_call_timeout = \"3s\"\n        \
     message_timeout = \"3s\"\n        send_timeout = \"3s\"\n    }\n";

pub struct Scene {
    pub site: Site,
    pub runtime: Runtime,
    /// How an agent connects, and the attacker if it has an identity.
    pub agent: Arc<ClientConfig>,
    pub nobody: Arc<ClientConfig>,
    channel: Channel,
    /// Calls of the one who works that were answered during the last attack.
    pub answered: Cell<usize>,
}

/// Where attacks come from.
pub const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 66, 6, 6));

impl Scene {
    pub fn new(lines: &str) -> Self {
        let mut site = Site::new().unwrap();
        site.server_lines = lines.to_owned();
        Self::of(site)
    }

    /// A site that is not started yet.
    pub fn of(mut site: Site) -> Self {
        site.start_server().unwrap();
        site.write_bundle().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let token = site.join_token().unwrap();
        let (agent, nobody, channel) = runtime.block_on(async {
            let agent = wire::joined(&site, &token).await.unwrap();
            let nobody = wire::nobody(&site).unwrap();
            let address = format!("{}:{PORT}", site.address);
            let channel = connect(&address, Arc::clone(&agent), ConnectOptions::default()).await.unwrap();
            (agent, nobody, channel)
        });
        Self { site, runtime, agent, nobody, channel, answered: Cell::new(0) }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.site.address, PORT))
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn status(&self, field: &str) -> u64 {
        let pid = self.site.server.as_ref().unwrap().pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The server's open sockets, or where others may not look at them, its connections. Its database opens files as
    /// it needs them and keeps them.
    fn files(&self) -> usize {
        let pid = self.site.server.as_ref().unwrap().pid();
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return self.connections() };
        let socket = |path: std::path::PathBuf| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        };
        open.flatten().filter(|entry| socket(entry.path())).count()
    }

    /// The server's connections that it has not closed.
    pub fn connections(&self) -> usize {
        let octets = self.site.address.octets();
        let local = format!("{:08X}:{PORT:04X}", u32::from_le_bytes(octets));
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.get(1) == Some(&local.as_str()))
            // ESTABLISHED and CLOSE_WAIT; others wait in the kernel and belong to no process any more.
            .filter(|words| ["01", "08"].contains(&words[3]))
            .count()
    }

    /// Runs an attack while somebody works. Each of their calls is answered, the server's memory stays bounded,
    /// and afterwards memory and open files are what they were.
    pub fn survives<T>(&self, name: &str, attack: impl AsyncFnOnce(&Self) -> T) -> T {
        let (before, files) = (self.status("VmRSS"), self.files());
        let stop = Arc::new(AtomicBool::new(false));
        let times = Arc::new(Mutex::new(Vec::new()));
        let calm = self.runtime.block_on(async { work(self.channel(), 50).await });
        let worker = {
            let (channel, stop, times) = (self.channel(), Arc::clone(&stop), Arc::clone(&times));
            self.runtime.spawn(async move {
                let mut every = tokio::time::interval(Duration::from_millis(20));
                while !stop.load(Ordering::Relaxed) {
                    every.tick().await;
                    let mut took = work(channel.clone(), 1).await;
                    times.lock().unwrap().append(&mut took);
                }
            })
        };
        let begun = Instant::now();
        let outcome = self.runtime.block_on(attack(self));
        let lasted = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        self.runtime.block_on(worker).expect("every call is answered");
        let peak = self.status("VmHWM");
        wait::until("files are given back", wait::DEADLINE, || Ok((self.files() <= files + 4).then_some(())))
            .unwrap_or_else(|error| panic!("{name}: {error}: {} of {files}", self.files()));
        let after = self.status("VmRSS");
        let times = times.lock().unwrap().clone();
        let text = format!(
            "{name}: {:.1} s; memory before {} MiB, peak {} MiB, after {} MiB; others' calls: p99 {:.1} ms in calm, \
             {:.1} ms of {} during\n",
            lasted.as_secs_f64(),
            before / 1024,
            peak / 1024,
            after / 1024,
            p99(&calm),
            p99(&times),
            times.len()
        );
        use std::io::Write as _;
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        assert!(peak < before + MOST_MIB * 1024, "{text}");
        assert!(after < before + LEFT_MIB * 1024, "{text}");
        assert!(!times.is_empty());
        self.answered.set(times.len());
        outcome
    }
}

/// Calls as an agent's, one after the other; how long each took.
async fn work(channel: Channel, calls: usize) -> Vec<Duration> {
    let mut client = EntryClient::new(channel);
    let mut times = Vec::new();
    for _ in 0..calls {
        let begun = Instant::now();
        let call = client.get_authorized_entries(GetAuthorizedEntriesRequest::default());
        tokio::time::timeout(PATIENCE, call).await.expect("answered in time").expect("answered well");
        times.push(begun.elapsed());
    }
    times
}

fn p99(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * 99 / 100).min(times.len().saturating_sub(1));
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
