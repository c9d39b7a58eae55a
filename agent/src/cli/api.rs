//! `api fetch` and `api watch`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use clap::{Args, Subcommand};
use hardroot_api::json::to_json;
use hardroot_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hardroot_api::workload::{X509svidRequest, X509svidResponse};
use hardroot_config::duration;
use hardroot_identity::pem_encode;
use hardroot_runtime::cli::{Output, print, print_json};
use hardroot_runtime::state::{StateError, write_atomic};
use hardroot_transport::{ConnectError, uds_channel};
use tonic::Status;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::jwt::{self, FetchJwtArgs};
use super::socket::{BadInstance, SocketArgs};
use super::svids::{BadAnswer, Fetched, parse, pretty};
use super::{complain, tell};

/// How long a command waits for an answer.
pub(super) const DEFAULT_TIMEOUT: &str = "5s";

/// Pauses of `watch` after the stream ended.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Fetch {
    #[command(subcommand)]
    what: Option<FetchWhat>,
    #[command(flatten)]
    args: FetchArgs,
}

#[derive(Debug, Subcommand)]
enum FetchWhat {
    /// Fetches X509-SVIDs from the Workload API
    X509(FetchArgs),
    /// Fetches JWT-SVIDs, and the JWT bundles, from the Workload API
    Jwt(FetchJwtArgs),
}

#[derive(Debug, Args)]
struct FetchArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print nothing
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"), default_value_t = false)]
    silent: bool,
    /// How long to wait for an answer, such as 5s; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_TIMEOUT, value_parser = duration::parse)]
    timeout: Duration,
    /// Directory to write SVIDs, keys and bundles to (only with -output pretty)
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// pretty or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("{0}")]
    Socket(#[from] BadInstance),
    #[error("{0}")]
    Connect(#[from] ConnectError),
    // As gRPC's own command-line tools show a status.
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Call(Box<Status>),
    #[error("no answer within {}", duration::format(*.0))]
    TimedOut(Duration),
    #[error("the agent ended the stream without an answer")]
    Closed,
    #[error("{0}")]
    Answer(Box<BadAnswer>),
    #[error("{0}")]
    Json(#[from] hardroot_api::json::JsonError),
    #[error("{}: {}", .0, crate::lifecycle::chain_of(.0))]
    Write(#[from] StateError),
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    #[error("{0} must be specified")]
    Missing(&'static str),
    #[error("SVID is not valid: {0}")]
    NotValid(String),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl From<BadAnswer> for Failed {
    fn from(bad: BadAnswer) -> Self {
        Self::Answer(Box::new(bad))
    }
}

pub(super) async fn client(socket: &Path) -> Result<SpiffeWorkloadApiClient<Channel>, Failed> {
    Ok(SpiffeWorkloadApiClient::new(uds_channel(socket).await?))
}

/// A request with the header that every Workload API call carries.
pub(super) fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

async fn stream(socket: &Path) -> Result<tonic::Streaming<X509svidResponse>, Failed> {
    Ok(client(socket).await?.fetch_x509svid(request(X509svidRequest {})).await?.into_inner())
}

pub(super) async fn next<T>(stream: &mut tonic::Streaming<T>) -> Result<T, Failed> {
    stream.message().await?.ok_or(Failed::Closed)
}

/// The answer, if it comes within `limit`; zero is no limit.
pub(super) async fn within<T>(
    limit: Duration,
    ask: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    if limit.is_zero() {
        return ask.await;
    }
    tokio::time::timeout(limit, ask).await.map_err(|_elapsed| Failed::TimedOut(limit))?
}

pub(super) async fn fetch(command: Fetch) -> ExitCode {
    outcome(match command.what {
        Some(FetchWhat::Jwt(args)) => jwt::fetch(&args).await,
        Some(FetchWhat::X509(args)) => try_fetch(&args).await,
        None => try_fetch(&command.args).await,
    })
}

pub(super) fn outcome(result: Result<(), Failed>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(error),
    }
}

async fn try_fetch(args: &FetchArgs) -> Result<(), Failed> {
    let socket = args.socket.path()?;
    let start = Instant::now();
    let ask = async {
        let mut stream = stream(&socket).await?;
        next(&mut stream).await
    };
    let response = within(args.timeout, ask).await?;
    let took = start.elapsed();
    match args.output {
        Output::Json => print_json(&to_json("X509SVIDResponse", &response)?)?,
        Output::Pretty => {
            let svids = parse(response, SystemTime::now())?;
            if !args.silent {
                print(&pretty(&svids, took))?;
            }
            if let Some(dir) = &args.write {
                write_all(dir, &svids)?;
            }
        }
    }
    Ok(())
}

/// Writes what SPIRE's command writes, under the same names, and tells each.
fn write_all(dir: &Path, svids: &[Fetched]) -> Result<(), Failed> {
    let put = |name: String, what: String, bytes: &[u8], mode: u32| -> Result<(), Failed> {
        let path = dir.join(name);
        print(&format!("Writing {what} to file {}.\n", path.display()))?;
        Ok(write_atomic(&path, bytes, mode)?)
    };
    for (n, svid) in svids.iter().enumerate() {
        put(format!("svid.{n}.pem"), format!("SVID #{n}"), pem_encode(&svid.chain_der).as_bytes(), 0o644)?;
        put(format!("svid.{n}.key"), format!("key #{n}"), &key_pem(&svid.key_pkcs8), 0o600)?;
        put(
            format!("bundle.{n}.pem"),
            format!("bundle #{n}"),
            pem_encode(&svid.bundle_der).as_bytes(),
            0o644,
        )?;
        for (m, (trust_domain, _, ders)) in svid.federated.iter().enumerate() {
            let what = format!("federated bundle #{m} for trust domain {trust_domain}");
            put(format!("federated_bundle.{n}.{m}.pem"), what, pem_encode(ders).as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

fn key_pem(pkcs8: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pkcs8));
    let mut pem = Zeroizing::new(Vec::with_capacity(text.len() + text.len() / 64 + 64));
    pem.extend_from_slice(b"-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END PRIVATE KEY-----\n");
    pem
}

pub(super) async fn watch(args: WatchArgs) -> ExitCode {
    let socket = match args.socket.path() {
        Ok(socket) => socket,
        Err(error) => return complain(error),
    };
    let interrupted = tokio::signal::ctrl_c();
    tokio::select! {
        _ = interrupted => ExitCode::SUCCESS,
        ended = follow(&socket) => ended,
    }
}

/// Prints each update; connects anew, later and later, when the stream ends.
async fn follow(socket: &Path) -> ExitCode {
    let mut since = Instant::now();
    let mut pause = RECONNECT.0;
    loop {
        let outcome: Result<(), Failed> = async {
            let mut stream = stream(socket).await?;
            loop {
                let response = next(&mut stream).await?;
                pause = RECONNECT.0;
                print(&pretty(&parse(response, SystemTime::now())?, since.elapsed()))?;
                since = Instant::now();
            }
        }
        .await;
        if let Err(error) = outcome {
            tell(&error);
            // The agent will not change its mind about a malformed call.
            if let Failed::Call(status) = &error
                && status.code() == tonic::Code::InvalidArgument
            {
                return ExitCode::FAILURE;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause + RECONNECT.0).min(RECONNECT.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_pem() {
        let pem = String::from_utf8(key_pem(&[0xab; 100]).to_vec()).unwrap();
        let lines: Vec<&str> = pem.lines().collect();
        assert_eq!(lines[0], "-----BEGIN PRIVATE KEY-----");
        assert_eq!((lines[1].len(), lines[2].len(), lines[3].len()), (64, 64, 8));
        assert_eq!(lines[4], "-----END PRIVATE KEY-----");
        let der = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
        let der: rustls_pki_types::PrivatePkcs8KeyDer<'_> = der.unwrap();
        assert_eq!(der.secret_pkcs8_der(), [0xab; 100]);
    }
}
