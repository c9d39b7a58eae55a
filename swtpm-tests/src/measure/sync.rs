//! What it takes to tell one agent all its entries, and one change (row P5): pushed, and polled for comparison.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use hardroot_api::hardroot::server::sync::v1::follow_request::Step as Asked;
use hardroot_api::hardroot::server::sync::v1::follow_response::Step as Answer;
use hardroot_api::hardroot::server::sync::v1::sync_client::SyncClient;
use hardroot_api::hardroot::server::sync::v1::{Ack, FollowRequest, FollowResponse, Open};
use hardroot_api::spire::api::types::{Entry, Spiffeid};
use hardroot_bench::operator::{Operator, PREFIX};
use hardroot_bench::sync::{Connection, Known, Protocol};
use hardroot_bench::target::{Attestor, Target};
use hardroot_emulators::TcpProxy;
use hardroot_identity::TrustDomain;
use hardroot_transport::{ConnectOptions, connect};
use prost::Message as _;
use prost::bytes::{Buf as _, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint, message};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::raw_tls::RawTls;
use super::report::{Row, quantile};
use super::{number, wire};
use crate::site::{PORT, Site, TRUST_DOMAIN};

/// Entries of the agent, unless `HARDROOT_SYNC_ENTRIES` says otherwise; a tenth and a hundredth of them are measured, too.
const ENTRIES: usize = 100_000;
/// Single changes that are timed, unless `HARDROOT_SYNC_CHANGES` says otherwise.
const CHANGES: usize = 50;
/// Times that everything is sent, unless `HARDROOT_SYNC_TIMES` says otherwise.
const TIMES: usize = 21;
/// Times that everything is polled.
const POLLS: usize = 7;
/// Changes whose bytes are counted.
const WEIGHED: usize = 5;
/// Entries created in one call.
const PAGE: usize = 500;
/// Everything may take this many times what a raw copy takes.
const MOST_OF_RAW: f64 = 1.5;
/// Bytes of one change on the wire, at most.
const MOST_BYTES: f64 = 2048.0;
/// Time from the answer of the call that changes an entry until the agent has it, at most, in milliseconds.
const MOST_MS: f64 = 50.0;
const MAX_MESSAGE: usize = 64 << 20;

/// Three sizes.
///
/// # Errors
/// The server failed.
pub fn measure(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let most = number("HARDROOT_SYNC_ENTRIES", ENTRIES)?;
    let changes = number("HARDROOT_SYNC_CHANGES", CHANGES)?;
    let raw = RawTls::start()?;
    let mut rows = Vec::new();
    for part in [100, 10, 1] {
        let mut site = Site::new()?;
        site.start_server()?;
        site.write_bundle()?;
        let token = site.join_token()?;
        let entries = (most / part).max(1);
        let done = runtime.block_on(async {
            let agent = Measured::new(&site, &token).await?;
            let whole = agent.fill(entries).await?;
            agent.measure(&site, &raw, (entries, whole), changes).await
        });
        rows.extend(done.with_context(|| format!("with {entries} entries"))?);
    }
    Ok(rows)
}

/// One agent and its operator.
struct Measured {
    tls: Arc<ClientConfig>,
    server: std::net::SocketAddr,
    operator: Operator,
    parent: Spiffeid,
    target: Target,
}

impl Measured {
    async fn new(site: &Site, token: &str) -> Result<Self> {
        let tls = wire::joined(site, token).await?;
        let operator = Operator::connect(&site.server_socket(), TrustDomain::new(TRUST_DOMAIN)?).await?;
        let parent = Spiffeid {
            trust_domain: TRUST_DOMAIN.to_owned(),
            path: format!("/spire/agent/join_token/{token}"),
        };
        let server = (site.address, PORT).into();
        let bundle = operator.bundle().await?;
        let target = Target::new(format!("{server}"), bundle, Duration::from_secs(120))?;
        Ok(Self { tls, server, operator, parent, target })
    }

    fn entry(&self, path: &str, number: usize) -> Entry {
        let entry = self.operator.entry(Attestor::JoinToken, 0, path, number);
        Entry { parent_id: Some(self.parent.clone()), ..entry }
    }

    /// Makes the entries; how many bytes their messages have, with every field, in a list.
    async fn fill(&self, entries: usize) -> Result<u64> {
        let numbers: Vec<usize> = (0..entries).collect();
        let created_at = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let mut bytes = 0;
        for page in numbers.chunks(PAGE) {
            let page: Vec<_> = page.iter().map(|n| self.entry(&format!("{PREFIX}sync/{n}"), *n)).collect();
            let made = self.operator.create(page.clone()).await?;
            for (entry, id) in page.into_iter().zip(made) {
                bytes += message::encoded_len(1, &Entry { id: id?, created_at, ..entry });
            }
        }
        Ok(u64::try_from(bytes)?)
    }

    /// Makes one entry more; when the answer was there.
    async fn change(&self, path: &str) -> Result<Instant> {
        let made = self.operator.create(vec![self.entry(path, 0)]).await?;
        let answered = Instant::now();
        made.into_iter().next().context("no result")??;
        Ok(answered)
    }

    async fn channel(&self, address: std::net::SocketAddr) -> Result<Channel> {
        let options = ConnectOptions { timeout: Duration::from_secs(20), ..ConnectOptions::default() };
        Ok(connect(&address.to_string(), Arc::clone(&self.tls), options).await?)
    }

    /// `whole`: how many bytes the entries' messages have.
    async fn measure(
        &self,
        site: &Site,
        raw: &RawTls,
        (entries, whole): (usize, u64),
        changes: usize,
    ) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let channel = self.channel(self.server).await?;
        let (first, bytes) = self.everything(&channel, entries).await?;
        let times = number("HARDROOT_SYNC_TIMES", TIMES)?;
        let before = (raw.copy(whole, times).await?, raw.copy(bytes, times).await?);
        let busy_before = site.server_time()?;
        let mut took = Vec::new();
        for _ in 0..times {
            took.push(self.everything(&channel, entries).await?.0);
        }
        let busy = site.server_time()?.saturating_sub(busy_before) / u32::try_from(times)?;
        let after = (raw.copy(whole, times).await?, raw.copy(bytes, times).await?);
        let raw = ms(before.0).midpoint(ms(after.0));
        let sent = ms(before.1).midpoint(ms(after.1));
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let took = quantile(&mut took, 0.5);
        rows.push(row(
            format!("{entries} entries to one agent, pushed"),
            took,
            raw * MOST_OF_RAW,
            &format!("raw copy of these entries, {:.1} MB, TLS, x {MOST_OF_RAW}", megabytes(whole)),
            "ms",
        ));
        rows.push(row(
            "  the same, against what is sent of them".to_owned(),
            took,
            sent * MOST_OF_RAW,
            &format!("raw copy of the {:.1} MB sent, TLS, x {MOST_OF_RAW}", megabytes(bytes)),
            "ms",
        ));
        rows.push(row("  the server's processor time for it".to_owned(), ms(busy), 0.0, "", "ms"));
        rows.push(row("  the first time, when they are found".to_owned(), ms(first), 0.0, "", "ms"));
        self.one_change(&channel, changes, &mut rows).await?;
        self.polled(&channel, raw, &mut rows).await?;
        Ok(rows)
    }

    /// Everything is pushed to an agent that has nothing: how long it took, and how many bytes of messages it was.
    async fn everything(&self, channel: &Channel, entries: usize) -> Result<(Duration, u64)> {
        let begun = Instant::now();
        let mut stream = Stream::open(channel.clone(), Vec::new()).await?;
        let update = stream.update().await?;
        let took = begun.elapsed();
        ensure!(
            update.everything && update.entries == entries,
            "{} of {entries} entries came",
            update.entries
        );
        Ok((took, update.bytes))
    }

    async fn one_change(&self, channel: &Channel, changes: usize, rows: &mut Vec<Row>) -> Result<()> {
        let mut heard = Heard::begin(channel.clone()).await?;
        let mut took = Vec::new();
        for n in 0..changes {
            let answered = self.change(&format!("{PREFIX}change/{n}")).await?;
            took.push(heard.next().await?.saturating_duration_since(answered));
        }
        drop(heard);
        let line = TcpProxy::start(self.server)?;
        let through = self.channel(line.address()).await?;
        let mut heard = Heard::begin(through).await?;
        let mut bytes: u64 = 0;
        for n in 0..WEIGHED {
            let before = quiet(&line).await;
            self.change(&format!("{PREFIX}weighed/{n}")).await?;
            heard.next().await?;
            bytes = bytes.max(quiet(&line).await - before);
        }
        #[expect(clippy::cast_precision_loss, reason = "kilobytes")]
        let bytes = bytes as f64;
        rows.push(row(
            "  one change: on the wire, both ways".to_owned(),
            bytes,
            MOST_BYTES,
            "wanted at most",
            "B",
        ));
        for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
            let what = format!("  one change: from the answer until the agent has it, {name}");
            rows.push(row(what, quantile(&mut took, q), MOST_MS, "wanted at most", "ms"));
        }
        Ok(())
    }

    /// The same with `SyncAuthorizedEntries`.
    async fn polled(&self, channel: &Channel, raw: f64, rows: &mut Vec<Row>) -> Result<()> {
        let mut took = Vec::new();
        for _ in 0..POLLS {
            let mut known = Known::default();
            took.push(self.round(channel, &mut known).await?);
        }
        rows.push(row(
            "  the same, polled: all of them".to_owned(),
            quantile(&mut took, 0.5),
            raw * MOST_OF_RAW,
            "as above",
            "ms",
        ));
        let line = TcpProxy::start(self.server)?;
        let through = self.channel(line.address()).await?;
        let mut known = Known::default();
        self.round(&through, &mut known).await?;
        let (mut bytes, mut took) = (0, Vec::new());
        for n in 0..WEIGHED {
            let before = quiet(&line).await;
            self.change(&format!("{PREFIX}polled/{n}")).await?;
            took.push(self.round(&through, &mut known).await?);
            bytes = bytes.max(quiet(&line).await - before);
        }
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let bytes = bytes as f64;
        rows.push(row(
            "  polled: a round with one change, on the wire".to_owned(),
            bytes,
            MOST_BYTES,
            "as above",
            "B",
        ));
        let what = "  polled: a round with one change, after the wait for it".to_owned();
        rows.push(row(what, quantile(&mut took, 0.5), MOST_MS, "as above", "ms"));
        Ok(())
    }

    async fn round(&self, channel: &Channel, known: &mut Known) -> Result<Duration> {
        let begun = Instant::now();
        let connection = Connection { number: 1, channel: channel.clone() };
        Protocol::Sync.start().round(&self.target, connection, known).await?;
        Ok(begun.elapsed())
    }
}

/// What passed the line, once nothing passes any more.
async fn quiet(line: &TcpProxy) -> u64 {
    let mut last = line.passed();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = line.passed();
        if now == last {
            return now;
        }
        last = now;
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn row(what: String, measured: f64, limit: f64, limit_is: &str, unit: &'static str) -> Row {
    Row { what, measured, limit, limit_is: limit_is.to_owned(), unit }
}

/// An agent's stream that reads and acknowledges, and keeps of entries only how many they are: what the agent does with
/// them is not the server's.
struct Stream {
    answers: Streaming<FollowResponse>,
    requests: mpsc::Sender<FollowRequest>,
}

#[derive(Default)]
struct Came {
    everything: bool,
    entries: usize,
    bytes: u64,
    token: Vec<u8>,
}

impl Stream {
    async fn open(channel: Channel, token: Vec<u8>) -> Result<Self> {
        let (requests, outgoing) = mpsc::channel(1);
        let open = Open { token, bundles: Vec::new() };
        requests.send(FollowRequest { step: Some(Asked::Open(open)) }).await?;
        let mut client = SyncClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let answers = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { answers, requests })
    }

    async fn update(&mut self) -> Result<Came> {
        let mut came = Came::default();
        loop {
            let answer = self.answers.message().await?.context("the stream ended")?;
            came.bytes += u64::try_from(answer.encoded_len())?;
            let page = match answer.step {
                Some(Answer::Update(page)) => page,
                Some(Answer::Heartbeat(_)) => continue,
                None => bail!("an empty answer"),
            };
            came.everything |= page.everything;
            came.entries += count(page.entries)?;
            if !page.token.is_empty() {
                came.token = page.token;
                let ack = FollowRequest { step: Some(Asked::Ack(Ack { number: page.number })) };
                self.requests.send(ack).await?;
                return Ok(came);
            }
        }
    }
}

/// How many entries an encoded `Entries` has. They are not decoded: that would be measured, too.
fn count(mut entries: Bytes) -> Result<usize> {
    let mut count = 0;
    while entries.has_remaining() {
        let (_field, kind) = decode_key(&mut entries)?;
        ensure!(kind == WireType::LengthDelimited, "an entry is no message");
        let length = usize::try_from(decode_varint(&mut entries)?)?;
        ensure!(length <= entries.remaining(), "an entry is cut off");
        entries.advance(length);
        count += 1;
    }
    Ok(count)
}

/// When each further update was there.
struct Heard {
    updates: mpsc::Receiver<Result<Instant>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Heard {
    async fn begin(channel: Channel) -> Result<Self> {
        let mut stream = Stream::open(channel, Vec::new()).await?;
        stream.update().await?;
        let (sender, updates) = mpsc::channel(1);
        let reader = tokio::spawn(async move {
            loop {
                let heard = stream.update().await.map(|_came| Instant::now());
                let over = heard.is_err();
                if sender.send(heard).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Self { updates, reader })
    }

    async fn next(&mut self) -> Result<Instant> {
        let next = tokio::time::timeout(Duration::from_secs(60), self.updates.recv());
        next.await.context("no update within a minute")?.context("the stream ended")?
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
