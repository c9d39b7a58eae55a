//! A Workload API over a source and an attestor that the test controls, and callers of every manner.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use hardroot_agent::attestors::{WorkloadAttestError, WorkloadAttestor};
use hardroot_agent::peer::Peer;
use hardroot_agent::source::{
    Availability, Identity, IdentitySource, JwtSubject, WorkloadSvid, WorkloadUpdate,
};
use hardroot_agent::workload_api::{
    Encoded, JwtSource, JwtUnavailable, Limits, WorkloadApi, WorkloadApiError,
};
use hardroot_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hardroot_identity::{Bundle, JwtAuthority, Selector, TrustDomain, X509Authority};
use hardroot_runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

pub(crate) struct Source {
    pub(crate) sender: watch::Sender<Availability>,
    pub(crate) own: watch::Sender<Option<Arc<Bundle>>>,
    pub(crate) trust_domain: TrustDomain,
}

impl IdentitySource for Source {
    fn subscribe(&self, _selectors: Vec<Selector>) -> watch::Receiver<Availability> {
        self.sender.subscribe()
    }
    fn jwt_subjects(&self, _selectors: &[Selector]) -> Option<Vec<JwtSubject>> {
        let subject = |identity: &Identity| JwtSubject {
            entry_id: identity.entry_id.clone(),
            spiffe_id: identity.spiffe_id.clone(),
            hint: identity.hint.clone(),
            include_jti: false,
        };
        match &*self.sender.borrow() {
            Availability::Starting => None,
            Availability::None | Availability::Pending => Some(Vec::new()),
            Availability::Ready(update) => Some(update.identities.iter().map(subject).collect()),
        }
    }
    fn own_bundle(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.own.subscribe()
    }
    fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

/// Tokens that say what was asked for, or why there is none.
pub(crate) struct Tokens(pub(crate) Result<(), JwtUnavailable>);

#[async_trait]
impl JwtSource for Tokens {
    async fn fetch(&self, subject: &JwtSubject, audience: &[String]) -> Result<String, JwtUnavailable> {
        self.0.clone().map(|()| format!("{}|{}", subject.spiffe_id, audience.join(",")))
    }
}

#[derive(Default)]
pub(crate) struct Attestor {
    pub(crate) selectors: Mutex<Vec<Selector>>,
    pub(crate) asked: Mutex<usize>,
}

#[async_trait]
impl WorkloadAttestor for Attestor {
    fn name(&self) -> &str {
        "test"
    }
    async fn attest(&self, _peer: &Peer) -> Result<Vec<Selector>, WorkloadAttestError> {
        *self.asked.lock().unwrap() += 1;
        Ok(self.selectors.lock().unwrap().clone())
    }
}

pub(crate) struct Api {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) source: Arc<Source>,
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: JoinHandle<Result<(), WorkloadApiError>>,
}

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) type Client =
    SpiffeWorkloadApiClient<InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>>;

fn with_header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    Ok(request)
}

impl Api {
    pub(crate) async fn start(limits: Limits) -> Self {
        Self::start_with(limits, Tokens(Ok(())), |api| api).await
    }

    pub(crate) async fn start_with(
        limits: Limits,
        tokens: Tokens,
        change: impl FnOnce(WorkloadApi) -> WorkloadApi,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Arc::new(Source {
            sender: watch::Sender::new(Availability::Starting),
            own: watch::Sender::new(None),
            trust_domain: td("example.org"),
        });
        let attestor = Arc::new(Attestor::default());
        let shutdown = Shutdown::new();
        let api = WorkloadApi::new(source.clone(), Arc::new(tokens), vec![attestor.clone()]);
        let api = api.with_limits(limits);
        let (api, path, token) = (change(api), dir.path().join("public/api.sock"), shutdown.clone());
        let served = tokio::spawn(async move { api.serve(&path, token).await });
        let this = Self { dir, source, attestor, shutdown, served };
        until("the socket is there", || this.path().exists()).await;
        this
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("public/api.sock")
    }

    pub(crate) async fn channel(&self) -> Channel {
        hardroot_transport::uds_channel(&self.path()).await.unwrap()
    }

    /// A client, unless the connection is refused.
    pub(crate) async fn try_client(&self) -> Result<Client, hardroot_transport::ConnectError> {
        let channel = hardroot_transport::uds_channel(&self.path()).await?;
        Ok(SpiffeWorkloadApiClient::with_interceptor(channel, with_header))
    }

    pub(crate) async fn client(&self) -> Client {
        SpiffeWorkloadApiClient::with_interceptor(self.channel().await, with_header)
    }

    pub(crate) fn ready(&self, update: WorkloadUpdate) {
        self.source.sender.send_replace(Availability::Ready(Arc::new(update)));
    }

    /// Streams that are open: the health service holds one subscription itself.
    pub(crate) fn streams(&self) -> usize {
        self.source.sender.receiver_count().saturating_sub(1)
    }

    pub(crate) fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

/// Looks again each time the others have had their turn, until it is so or the time is up.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(tokio::time::Instant::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

pub(crate) fn bundle(name: &str, content: &[u8]) -> Bundle {
    let mut bundle = Bundle::new(td(name));
    bundle.x509_authorities.push(X509Authority { der: content.to_vec(), tainted: false });
    bundle
}

pub(crate) fn identity(path: &str, hint: &str) -> Identity {
    Identity {
        entry_id: path.to_owned(),
        spiffe_id: format!("spiffe://example.org{path}").parse().unwrap(),
        hint: hint.to_owned(),
        created_at: 1,
        svid: Arc::new(WorkloadSvid::new(
            vec![b"leaf".to_vec(), b"intermediate".to_vec()],
            b"key".to_vec().into(),
            SystemTime::now() + Duration::from_secs(3600),
        )),
        federates_with: Vec::new(),
    }
}

pub(crate) fn update(identities: Vec<Identity>, bundles: Vec<Bundle>) -> WorkloadUpdate {
    let bundles: BTreeMap<_, _> =
        bundles.into_iter().map(|b| (b.trust_domain.clone(), Arc::new(b))).collect();
    let encoded = Encoded::default();
    WorkloadUpdate { identities, bundles: Arc::new(bundles), trust_domain: td("example.org"), encoded }
}

/// A key that signs tokens, and its authority.
pub(crate) fn jwt_key() -> (EcdsaKeyPair, JwtAuthority) {
    let rng = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &rng).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref()).unwrap();
    let spki_der =
        aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(key.public_key())
            .unwrap()
            .as_ref()
            .to_vec();
    (key, JwtAuthority { key_id: "k1".into(), spki_der, expires_at: 0, tainted: false })
}

/// One HTTP/2 frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The start of a connection and of one call on stream 1, as bytes; the request message follows or (half-open) does not.
pub(crate) fn call_bytes(method: &str, complete: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(4, 0, 0, &[]));
    out.extend(frame(1, 4, 1, &block));
    if complete {
        out.extend(frame(0, 1, 1, &[0; 5]));
    }
    out
}

/// Reads frames until one of a kind on stream 1 comes.
pub(crate) fn wait_frame(stream: &mut UnixStream, kind: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload =
            vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        if head[3] == kind && head[8] == 1 {
            return payload;
        }
    }
}

pub(crate) fn send(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}
