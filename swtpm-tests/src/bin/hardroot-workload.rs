//! A program that uses its SPIFFE identity, for the demo and the whole-system tests.
//!
//! It knows nothing of Hardroot: it speaks to the Workload API with the published `spiffe` crate and makes
//! mTLS with `spiffe-rustls`. Its output is one JSON object a line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use spiffe::{JwtSvid, WorkloadApiClient, X509Context, X509Source};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt as _;

const USAGE: &str = "usage: hardroot-workload fetch|jwt|watch|serve|call --socket PATH [--write DIR] [--count N] \
                     [--audience NAME] [--listen ADDR] [--connect ADDR] [--expect SPIFFE-ID] [--timeout SECONDS]";

#[derive(Default)]
struct Options {
    socket: String,
    write: Option<PathBuf>,
    count: usize,
    audience: String,
    address: String,
    expect: String,
    timeout: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let result = match options(arguments) {
        Ok(options) => run(&command, &options).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&json!({ "error": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}

/// One line of output. Whoever starts this may have read enough and gone: it goes on all the same.
fn say(line: &Value) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { count: 1, timeout: 20, ..Options::default() };
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value\n{USAGE}"))?;
        match name.as_str() {
            "--socket" => options.socket = format!("unix://{value}"),
            "--write" => options.write = Some(PathBuf::from(value)),
            "--count" => options.count = value.parse().context("--count")?,
            "--audience" => options.audience = value,
            "--listen" | "--connect" => options.address = value,
            "--expect" => options.expect = value,
            "--timeout" => options.timeout = value.parse().context("--timeout")?,
            _ => bail!("{name} is no option\n{USAGE}"),
        }
    }
    Ok(options)
}

async fn run(command: &str, options: &Options) -> Result<()> {
    let deadline = Duration::from_secs(options.timeout);
    match command {
        "fetch" => tokio::time::timeout(deadline, fetch(options)).await.context("no answer in time")?,
        "jwt" => tokio::time::timeout(deadline, jwt(options)).await.context("no answer in time")?,
        "watch" => tokio::time::timeout(deadline, watch(options)).await.context("too few updates in time")?,
        "serve" => serve(options).await,
        "call" => tokio::time::timeout(deadline, call(options)).await.context("no answer in time")?,
        _ => bail!("{USAGE}"),
    }
}

async fn fetch(options: &Options) -> Result<()> {
    let client = WorkloadApiClient::connect_to(&options.socket).await?;
    let context = client.fetch_x509_context().await?;
    say(&describe(&context));
    if let Some(folder) = &options.write {
        write_pem(folder, &context)?;
    }
    Ok(())
}

/// Fetches a token and has it validated twice: here with the bundle that the Workload API gives, and by the
/// Workload API.
async fn jwt(options: &Options) -> Result<()> {
    let client = WorkloadApiClient::connect_to(&options.socket).await?;
    let audience = options.audience.as_str();
    let svid = client.fetch_jwt_svid([audience], None).await.context("fetching")?;
    let bundles = client.fetch_jwt_bundles().await.context("fetching the bundles")?;
    JwtSvid::parse_and_validate(svid.token(), &bundles, &[audience]).context("validating")?;
    anyhow::ensure!(
        JwtSvid::parse_and_validate(svid.token(), &bundles, &["another"]).is_err(),
        "it is for everybody"
    );
    client.validate_jwt_token(audience, svid.token()).await.context("having it validated")?;
    anyhow::ensure!(
        client.validate_jwt_token("another", svid.token()).await.is_err(),
        "the Workload API says it is for everybody"
    );
    say(
        &json!({ "spiffe_id": svid.spiffe_id().to_string(), "audience": svid.audience(), "key_id": svid.key_id() }),
    );
    Ok(())
}

async fn watch(options: &Options) -> Result<()> {
    let client = WorkloadApiClient::connect_to(&options.socket).await?;
    let mut updates = std::pin::pin!(client.stream_x509_contexts().await?);
    for _ in 0..options.count {
        let context = updates.next().await.context("the stream ended")??;
        say(&describe(&context));
    }
    Ok(())
}

/// Answers each caller with the caller's SPIFFE ID, until it is stopped.
async fn serve(options: &Options) -> Result<()> {
    let source = X509Source::builder().endpoint(&options.socket).build().await?;
    let config = mtls_server(source).authorize(authorizer::exact([options.expect.as_str()])?).build()?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(&options.address).await.with_context(|| options.address.clone())?;
    say(&json!({ "listening": listener.local_addr()?.to_string() }));
    loop {
        let (connection, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let outcome = answer(acceptor, connection).await;
            say(&outcome.unwrap_or_else(|error| json!({ "refused": format!("{error:#}") })));
        });
    }
}

async fn answer(acceptor: tokio_rustls::TlsAcceptor, connection: TcpStream) -> Result<Value> {
    let tls = acceptor.accept(connection).await?;
    let peer = peer_id(tls.get_ref().1.peer_certificates())?;
    let mut tls = BufReader::new(tls);
    let mut line = String::new();
    tls.read_line(&mut line).await?;
    tls.get_mut().write_all(format!("{peer} said: {line}").as_bytes()).await?;
    tls.get_mut().shutdown().await?;
    Ok(json!({ "served": peer }))
}

async fn call(options: &Options) -> Result<()> {
    let source = X509Source::builder().endpoint(&options.socket).build().await?;
    let config = mtls_client(source).authorize(authorizer::exact([options.expect.as_str()])?).build()?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connection = TcpStream::connect(&options.address).await.with_context(|| options.address.clone())?;
    let name = rustls::pki_types::ServerName::IpAddress(connection.peer_addr()?.ip().into());
    let tls = connector.connect(name, connection).await?;
    let peer = peer_id(tls.get_ref().1.peer_certificates())?;
    let mut tls = BufReader::new(tls);
    tls.get_mut().write_all(b"hello\n").await?;
    let mut line = String::new();
    tls.read_line(&mut line).await?;
    say(&json!({ "peer": peer, "answer": line.trim_end() }));
    Ok(())
}

fn peer_id(chain: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Result<String> {
    let leaf = chain.and_then(<[_]>::first).context("the peer showed no certificate")?;
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).context("the peer's certificate")?;
    let names = certificate.subject_alternative_name()?.context("no SAN")?;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .context("no URI SAN")
}

fn describe(context: &X509Context) -> Value {
    let svids: Vec<Value> = context
        .svids()
        .iter()
        .map(|svid| {
            let leaf = svid.cert_chain().first().map(AsRef::as_ref).unwrap_or_default();
            let (serial, expires) = match x509_parser::parse_x509_certificate(leaf) {
                Ok((_, certificate)) => (
                    certificate.tbs_certificate.raw_serial_as_string(),
                    certificate.validity().not_after.timestamp(),
                ),
                Err(_) => (String::new(), 0),
            };
            json!({
                "spiffe_id": svid.spiffe_id().to_string(),
                "hint": svid.hint(),
                "serial": serial,
                "expires_at": expires,
            })
        })
        .collect();
    json!({ "svids": svids, "bundles": context.bundle_set().len() })
}

fn write_pem(folder: &Path, context: &X509Context) -> Result<()> {
    let svid = context.default_svid().context("no SVID")?;
    let chain: Vec<Vec<u8>> = svid.cert_chain().iter().map(|c| c.as_ref().to_vec()).collect();
    std::fs::write(folder.join("svid.pem"), hardroot_identity::pem_encode(&chain))?;
    let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain()).context("no bundle")?;
    let roots: Vec<Vec<u8>> = bundle.authorities().iter().map(|c| c.as_ref().to_vec()).collect();
    std::fs::write(folder.join("bundle.pem"), hardroot_identity::pem_encode(&roots))?;
    Ok(())
}
