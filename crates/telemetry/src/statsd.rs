//! StatsD and DogStatsD over UDP: lines are queued, gathered for a tenth of a second, and sent in datagrams that fit
//! an Ethernet frame. Nothing runs while there is nothing to send, and a collector that is away costs nobody time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::Address;
use crate::recorder::flat;
use crate::series::Head;

/// Lines that may wait; more are dropped and counted.
const QUEUE: usize = 8192;
/// Bytes of one datagram: what fits into an Ethernet frame, with room for headers.
const DATAGRAM: usize = 1400;
/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// A collector's name that cannot be resolved is looked up again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Label values are parts of the name.
    Plain,
    /// Labels are tags.
    Dog,
}

/// The queue to one collector.
#[derive(Debug)]
pub(crate) struct Outlet {
    flavour: Flavour,
    queue: mpsc::Sender<String>,
    dropped: AtomicU64,
}

impl Outlet {
    /// An outlet, and what [`deliver`] takes from it.
    pub(crate) fn new(flavour: Flavour) -> (Self, mpsc::Receiver<String>) {
        let (queue, lines) = mpsc::channel(QUEUE);
        (Self { flavour, queue, dropped: AtomicU64::new(0) }, lines)
    }

    pub(crate) fn send(&self, line: String) {
        if self.queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn head(&self, name: &str, labels: &[(String, String)]) -> Head {
        match self.flavour {
            Flavour::Plain => flat(name, labels),
            Flavour::Dog => {
                let tags: Vec<String> = labels
                    .iter()
                    .map(|(name, value)| format!("{name}:{}", value.replace(['|', ',', '\n'], "_")))
                    .collect();
                let tags = if tags.is_empty() { String::new() } else { format!("|#{}", tags.join(",")) };
                Head { name: flat(name, &[]).name, tags }
            }
        }
    }
}

/// Sends what comes out of the queue to `address`, until the outlet is gone.
pub(crate) async fn deliver(address: Address, mut lines: mpsc::Receiver<String>) {
    let mut socket = Target { address, open: None, looked: None };
    while let Some(first) = lines.recv().await {
        let mut datagram = String::new();
        let end = Instant::now() + GATHER;
        socket.add(&mut datagram, &first).await;
        while let Ok(Some(line)) = tokio::time::timeout_at(end, lines.recv()).await {
            socket.add(&mut datagram, &line).await;
        }
        socket.send(&datagram).await;
    }
}

struct Target {
    address: Address,
    open: Option<UdpSocket>,
    looked: Option<Instant>,
}

impl Target {
    async fn add(&mut self, datagram: &mut String, line: &str) {
        if !datagram.is_empty() && datagram.len() + line.len() + 1 > DATAGRAM {
            self.send(datagram).await;
            datagram.clear();
        }
        datagram.push_str(line);
        datagram.push('\n');
    }

    /// Whether it arrives nobody knows; UDP is for what may be lost.
    async fn send(&mut self, datagram: &str) {
        if datagram.is_empty() {
            return;
        }
        if self.open.is_none() && self.looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            self.looked = Some(Instant::now());
            match self.connect().await {
                Ok(socket) => self.open = Some(socket),
                Err(error) => tracing::warn!(
                    collector = %self.address, %error,
                    "the StatsD collector cannot be found; its metrics are dropped and it is looked up again"
                ),
            }
        }
        if let Some(socket) = &self.open
            && let Err(error) = socket.send(datagram.as_bytes()).await
        {
            // "Connection refused" only says that nobody listens at the moment.
            tracing::debug!(collector = %self.address, %error, "metrics were lost");
            if error.kind() != std::io::ErrorKind::ConnectionRefused {
                self.open = None;
            }
        }
    }

    async fn connect(&self) -> std::io::Result<UdpSocket> {
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        let address = lookup_host((self.address.host.as_str(), self.address.port)).await?.next();
        let address: SocketAddr = address.ok_or_else(missing)?;
        let any: SocketAddr =
            if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::filter::Filter;
    use crate::testing::Local;
    use crate::{Call, Naming, Recorder, count, gauge};

    /// A collector, and a recorder that sends to it.
    async fn collector(flavour: Flavour) -> (UdpSocket, Local) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = Address { host: "localhost".into(), port: socket.local_addr().unwrap().port() };
        let (outlet, lines) = Outlet::new(flavour);
        tokio::spawn(deliver(address, lines));
        let naming =
            Naming { prefix: "spire_server".to_owned(), host: Some("node 1".to_owned()), trust_domain: None };
        let recorder = Recorder::with(naming, Filter::default(), vec![Arc::new(outlet)]);
        (socket, Local::with(recorder))
    }

    async fn datagram(socket: &UdpSocket) -> String {
        let mut bytes = vec![0; 65_536];
        let received = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut bytes));
        let length = received.await.unwrap().unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn plain_lines_have_their_labels_in_the_name() {
        let (socket, _local) = collector(Flavour::Plain).await;
        count("rpc.agent.v1.agent.attest_agent", &[("status", "OK")]);
        gauge("uptime_in_ms", 1500.5, &[]);
        let lines = datagram(&socket).await;
        assert_eq!(
            lines,
            "spire_server.rpc.agent.v1.agent.attest_agent.OK.node_1:1|c\nspire_server.uptime_in_ms.node_1:1500.5|g\n"
        );
    }

    #[tokio::test]
    async fn dog_lines_have_their_labels_as_tags() {
        let (socket, _local) = collector(Flavour::Dog).await;
        Call::start("svid.rotate").done("OK");
        let lines = datagram(&socket).await;
        let (first, second) = lines.split_once('\n').unwrap();
        assert_eq!(first, "spire_server.svid.rotate:1|c|#status:OK,host:node 1");
        let (name, rest) = second.trim_end().split_once(':').unwrap();
        assert_eq!(name, "spire_server.svid.rotate.elapsed_time");
        let (value, tags) = rest.split_once("|ms|#").unwrap();
        assert!(value.parse::<f64>().unwrap() >= 0.0);
        assert_eq!(tags, "status:OK,host:node 1");
    }

    #[tokio::test]
    async fn many_lines_share_datagrams_that_fit_a_frame() {
        let (socket, _local) = collector(Flavour::Plain).await;
        for _ in 0..200 {
            count("a.counter.with.some.length.to.it", &[]);
        }
        let (mut seen, mut datagrams) = (0, 0);
        while seen < 200 {
            let lines = datagram(&socket).await;
            assert!(lines.len() <= DATAGRAM, "{}", lines.len());
            seen += lines.lines().count();
            datagrams += 1;
        }
        assert!((7..30).contains(&datagrams), "{datagrams} datagrams");
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let (outlet, lines) = Outlet::new(Flavour::Plain);
        for number in 0..QUEUE + 10 {
            outlet.send(number.to_string());
        }
        assert_eq!(outlet.dropped(), 10);
        drop(lines);
        outlet.send("nobody".to_owned());
        assert_eq!(outlet.dropped(), 11);
    }
}
