//! What a scraper sees: the listener with and without TLS, and an exposition that a parser of the format takes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hardroot_config::{Decoder, Document};
use hardroot_identity::TrustDomain;
use hardroot_telemetry::http::{Answer, Question, listen};
use hardroot_telemetry::{Call, Identity, TelemetryConfig, begin, count, gauge};
use hardroot_transport::{BundleSet, IdentitySlot};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One series of an exposition.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A family: its type, its help and its samples by name.
#[derive(Debug, Default)]
struct Parsed {
    kind: String,
    help: Option<String>,
    samples: Vec<(String, Sample)>,
}

/// Parses the text format of Prometheus, version 0.0.4, strictly: a family's lines stand together, TYPE comes before
/// its samples and once, names and labels are well-formed, no series comes twice.
fn parse(text: &str) -> BTreeMap<String, Parsed> {
    let mut families: BTreeMap<String, Parsed> = BTreeMap::new();
    let (mut current, mut seen) = (String::new(), Vec::new());
    assert!(text.ends_with('\n'), "the last line must end with a line feed");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!families.contains_key(name), "{name} is split up");
            families.entry(name.to_owned()).or_default().help = Some(help.to_owned());
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "summary"].contains(&kind), "{kind}");
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.kind.is_empty() && family.samples.is_empty(), "a second TYPE of {name}");
            family.kind = kind.to_owned();
            current = name.to_owned();
            continue;
        }
        assert!(!line.starts_with('#') && !line.is_empty(), "{line}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            None => (series, BTreeMap::new()),
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap())),
        };
        assert!(well_formed(name), "{name}");
        let family = families.get_mut(&current).unwrap_or_else(|| panic!("{name} has no TYPE"));
        let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{name} under {current}"));
        let fits = match family.kind.as_str() {
            "summary" => {
                ["_sum", "_count"].contains(&suffix) || (suffix.is_empty() && labels.contains_key("quantile"))
            }
            _ => suffix.is_empty(),
        };
        assert!(fits, "{line} in a {}", family.kind);
        let key = (name.to_owned(), labels.clone());
        assert!(!seen.contains(&key), "{line} comes twice");
        seen.push(key);
        let value = match value {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            number => number.parse().unwrap(),
        };
        family.samples.push((name.to_owned(), Sample { labels, value }));
    }
    families
}

fn well_formed(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let (mut found, mut rest) = (BTreeMap::new(), text);
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(well_formed(name) && !name.contains(':'), "{name}");
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (at, c) in after.char_indices() {
            match (escaped, c) {
                (true, 'n') => value.push('\n'),
                (true, c) => value.push(c),
                (false, '\\') => {}
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, c) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        assert!(found.insert(name.to_owned(), value).is_none(), "{name} twice in {text}");
        rest = &after[end.expect("a closing quote") + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    found
}

async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A TLS peer may end without a close_notify; what came before counts.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    split(&exchange(TcpStream::connect(address).await.unwrap(), &get(path)).await)
}

fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

fn config(text: &str) -> TelemetryConfig {
    let document = Document::parse(text).unwrap();
    let decoder = Decoder::new(&document, "x.conf");
    let config = TelemetryConfig::decode(decoder.root());
    decoder.into_result().unwrap();
    config
}

/// The recorder is the process's, so everything that needs `begin` is in one test.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_over_tls_is_what_a_parser_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap();
    fs::write(path("ca.pem"), ca_pem.pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert =
            rcgen::CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (cert, key)
    };
    let (cert, key) = issue("localhost");
    fs::write(path("cert.pem"), cert.pem()).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let text = format!(
        "telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = 0 tls {{ cert_file = \"{0}/cert.pem\" key_file = \"{0}/key.pem\" \
         client_ca_file = \"{0}/ca.pem\" }} }} EnableTrustDomainLabel = true }}",
        folder.path().display()
    );
    let identity = Identity { svid: IdentitySlot::default(), bundles: Arc::new(BundleSet::default()) };
    let reads = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&reads);
    let reader = Arc::new(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        gauge("started", 1.0, &[("version", "0.1.0"), ("trust_domain_id", "spiffe://example.org")]);
    });
    let td = TrustDomain::new("example.org").unwrap();
    let begun = begin(&config(&text), "spire_server", td.as_str()).unwrap();
    // What happens before anybody can read it counts, too.
    Call::start("datastore.node.fetch").done("NotFound");
    let telemetry = begun.serve(&identity, reader).await.unwrap();
    let address = telemetry.listener().unwrap().address();
    count("server_ca.sign.x509_svid", &[]);
    count("server_ca.sign.x509_svid", &[]);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_pem.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = |shown: Option<(rcgen::Certificate, rcgen::KeyPair)>| {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone());
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
                builder.with_client_auth_cert(vec![cert.der().clone()], key.into()).unwrap()
            }
        };
        tokio_rustls::TlsConnector::from(Arc::new(config))
    };
    let name = || ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = client(Some(issue("scraper"))).connect(name(), stream).await.unwrap();
    let (status, body) = split(&exchange(stream, &get("/metrics")).await);
    assert_eq!(status, 200);
    assert_eq!(reads.load(std::sync::atomic::Ordering::Relaxed), 1, "gauges are read once for a scrape");

    let families = parse(&body);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let family = |name: &str| families.get(name).unwrap_or_else(|| panic!("{name} is missing in\n{body}"));
    let with = |labels: &[(&str, &str)]| {
        let mut all: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.insert("host".to_owned(), host.clone());
        all.insert("trust_domain".to_owned(), "example_org".to_owned());
        all
    };
    let signed = family("spire_server_server_ca_sign_x509_svid");
    assert_eq!(signed.kind, "counter");
    assert!(signed.help.as_ref().unwrap().contains("signed"));
    assert_eq!(signed.samples[0].1, Sample { labels: with(&[]), value: 2.0 });
    let fetched = family("spire_server_datastore_node_fetch");
    assert_eq!(fetched.samples[0].1, Sample { labels: with(&[("status", "NotFound")]), value: 1.0 });
    let time = family("spire_server_datastore_node_fetch_elapsed_time");
    assert_eq!(time.kind, "summary");
    let quantiles: Vec<&str> = time
        .samples
        .iter()
        .filter_map(|(_, sample)| sample.labels.get("quantile"))
        .map(String::as_str)
        .collect();
    assert_eq!(quantiles, ["0.5", "0.9", "0.99"]);
    let started = family("spire_server_started");
    let labels = with(&[("version", "0_1_0"), ("trust_domain_id", "spiffe_example_org")]);
    assert_eq!(started.samples[0].1, Sample { labels, value: 1.0 });
    assert_eq!(family("process_cpu_seconds_total").kind, "counter");
    assert_eq!(family("hardroot_telemetry_dropped").samples[0].1.value, 0.0);

    // Nobody without a certificate of that CA reads anything.
    let stream = TcpStream::connect(address).await.unwrap();
    let refused = match client(None).connect(name(), stream).await {
        Err(_) => String::new(),
        Ok(stream) => exchange(stream, &get("/metrics")).await,
    };
    assert!(!refused.contains("spire_server"), "{refused}");
    let plain = exchange(TcpStream::connect(address).await.unwrap(), &get("/metrics")).await;
    assert!(!plain.contains("spire_server"), "{plain}");

    // A second recorder in one process would split the counts.
    let again = begin(&config("telemetry { InMem {} }"), "x", "x");
    assert!(again.unwrap_err().to_string().contains("already"));
}

#[tokio::test]
async fn the_listener_answers_get_alone_and_survives_nonsense() {
    let handler = Arc::new(|question: Question| -> hardroot_telemetry::http::Answering {
        Box::pin(async move { Answer::text(200, format!("{} {}\n", question.path, question.query)) })
    });
    let listener = listen("127.0.0.1", 0, handler).await.unwrap();
    let address = listener.address();
    assert_eq!(fetch(address, "/a?b=c").await, (200, "/a b=c\n".to_owned()));
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(), 405),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(40_000)), 431),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let (told, _) = split(&exchange(stream, &request).await);
        assert!(told == status || told == 0, "{told} for {}", &request[..20.min(request.len())]);
    }
    // Silent connections take every place but one's; they are outlived by the next caller once they go.
    let silent: Vec<TcpStream> = {
        let mut all = Vec::new();
        for _ in 0..63 {
            all.push(TcpStream::connect(address).await.unwrap());
        }
        all
    };
    assert_eq!(fetch(address, "/x").await.0, 200);
    drop(silent);
    drop(listener);
    let gone = tokio::time::timeout(Duration::from_secs(30), async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    gone.await.expect("a dropped listener is closed");
}
