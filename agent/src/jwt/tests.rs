//! Tokens on paused time, from a server that follows a script.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use hardroot_identity::{
    Bundle, JwtAlgorithm, JwtAuthority, JwtClaims, SpiffeId, TrustDomain, X509Authority, jwt_assemble,
    jwt_signing_input,
};
use hardroot_runtime::clock::Sleep;
use hardroot_transport::ConnectError;
use tokio::sync::Notify;
use tonic::Status;
use zeroize::Zeroizing;

use super::*;
use crate::cache::{AuthorizedEntry, EntryChanges};
use crate::source::IdentitySource;

const TTL: Duration = Duration::from_secs(300);
const HIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Wall time that follows tokio's paused clock.
#[derive(Debug, Clone, Copy)]
struct TestClock {
    origin: Instant,
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_225_600) + self.origin.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(duration))
    }
}

#[derive(Default)]
struct Script {
    calls: usize,
    errors: Vec<ServerError>,
    away: bool,
    hangs: bool,
    sub: Option<SpiffeId>,
    audience: Option<Vec<String>>,
    key_id: &'static str,
    age: Duration,
}

struct FakeServer {
    key: EcdsaKeyPair,
    spki: Vec<u8>,
    clock: TestClock,
    script: Mutex<Script>,
    /// Each call waits for a permit while it is there.
    gate: Option<Notify>,
}

impl FakeServer {
    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().unwrap())
    }

    fn calls(&self) -> usize {
        self.with(|script| script.calls)
    }
}

fn away() -> ServerError {
    let cause = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    ServerError::Connect(ConnectError::Unreachable { address: "server:1".into(), cause })
}

#[async_trait]
impl JwtIssuer for FakeServer {
    async fn new_jwt_svid(
        &self,
        entry_id: &str,
        audience: &[String],
        limit: Duration,
    ) -> Result<IssuedJwt, ServerError> {
        let hangs = self.with(|script| {
            script.calls += 1;
            script.hangs
        });
        if hangs {
            sleep(limit).await;
            return Err(ServerError::TimedOut { rpc: "NewJWTSVID", seconds: limit.as_secs() });
        }
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        self.with(|script| {
            if script.away {
                return Err(away());
            }
            if !script.errors.is_empty() {
                return Err(script.errors.remove(0));
            }
            let id = format!("spiffe://example.org/{entry_id}").parse().unwrap();
            let id = script.sub.clone().unwrap_or(id);
            let audience = script.audience.clone().unwrap_or_else(|| audience.to_vec());
            let made = self.clock.now() - script.age;
            let claims = JwtClaims::new(&id, &audience, made, TTL, None).unwrap();
            let input = jwt_signing_input(&claims, script.key_id, JwtAlgorithm::Es256);
            let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
            let token = jwt_assemble(&input, JwtAlgorithm::Es256, signature.as_ref(), &self.spki).unwrap();
            Ok(IssuedJwt { token: Zeroizing::new(token), expires_at: made + TTL, issued_at: made })
        })
    }
}

struct Rig {
    cache: Arc<Cache>,
    server: Arc<FakeServer>,
    tokens: Arc<JwtSvids>,
}

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

fn entry(id: &str) -> AuthorizedEntry {
    AuthorizedEntry {
        id: id.into(),
        spiffe_id: format!("spiffe://example.org/{id}").parse().unwrap(),
        selectors: vec!["unix:uid:1".parse().unwrap()],
        federates_with: vec![],
        hint: String::new(),
        revision: 0,
        created_at: 0,
        prefetch: true,
        jwt_include_jti: false,
        store_svid: false,
    }
}

fn rig_with(gate: Option<Notify>) -> Rig {
    let clock = TestClock { origin: Instant::now() };
    let (spki, key) = crate::testing::jwt_key();
    let script = Mutex::new(Script { key_id: "k1", ..Script::default() });
    let server = Arc::new(FakeServer { key, spki, clock, script, gate });
    let cache = Arc::new(Cache::new(td(), 10, 10, Arc::new(move || clock.now())));
    let tokens = JwtSvids::new(Arc::clone(&cache), Arc::clone(&server) as _, Arc::new(clock), HIT_TIMEOUT);
    let rig = Rig { cache, server, tokens: Arc::new(tokens) };
    rig.knows(vec![entry("a"), entry("b")]);
    rig.trusts(&[("k1", false)]);
    rig
}

fn rig() -> Rig {
    rig_with(None)
}

impl Rig {
    fn knows(&self, entries: Vec<AuthorizedEntry>) {
        self.cache.apply(EntryChanges { upserts: entries, unchanged: Default::default() });
    }

    /// The own bundle holds the server's key under these ids.
    fn trusts(&self, keys: &[(&str, bool)]) {
        let mut bundle = Bundle::new(td());
        bundle.x509_authorities.push(X509Authority { der: vec![1], tainted: false });
        bundle.jwt_authorities = keys
            .iter()
            .map(|(id, tainted)| JwtAuthority {
                key_id: (*id).to_owned(),
                spki_der: self.server.spki.clone(),
                expires_at: 0,
                tainted: *tainted,
            })
            .collect();
        self.cache.set_bundles(BTreeMap::from([(td(), Arc::new(bundle))]));
    }

    fn subject(&self, id: &str) -> JwtSubject {
        let subjects = self.cache.jwt_subjects(&["unix:uid:1".parse().unwrap()]).unwrap();
        subjects.into_iter().find(|subject| subject.entry_id == id).unwrap()
    }

    async fn fetch(&self, id: &str, audience: &[&str]) -> Result<String, JwtUnavailable> {
        let audience: Vec<String> = audience.iter().map(|value| (*value).to_owned()).collect();
        self.tokens.fetch(&self.subject(id), &audience).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_signed_once_and_handed_out_until_half_of_its_life_is_over() {
    let rig = rig();
    let first = rig.fetch("a", &["x", "y"]).await.unwrap();
    assert_eq!(rig.fetch("a", &["y", "x"]).await.unwrap(), first, "the order does not matter");
    assert_eq!((rig.server.calls(), rig.cache.counts().tokens), (1, 1));
    rig.fetch("a", &["x"]).await.unwrap();
    rig.fetch("b", &["x", "y"]).await.unwrap();
    assert_eq!((rig.server.calls(), rig.cache.counts().tokens), (3, 3), "others are others");
    tokio::time::advance(TTL / 2 - TTL / 20 - Duration::from_secs(1)).await;
    assert_eq!(rig.fetch("a", &["x", "y"]).await.unwrap(), first);
    tokio::time::advance(TTL / 10 + Duration::from_secs(2)).await;
    assert_ne!(rig.fetch("a", &["x", "y"]).await.unwrap(), first, "renewed after half of its life");
    assert_eq!((rig.server.calls(), rig.cache.counts().tokens), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_outlives_its_server_and_an_expired_one_does_not() {
    let rig = rig();
    let first = rig.fetch("a", &["x"]).await.unwrap();
    tokio::time::advance(TTL * 6 / 10).await;
    rig.server.with(|script| script.away = true);
    let begun = Instant::now();
    assert_eq!(rig.fetch("a", &["x"]).await.unwrap(), first);
    assert_eq!(
        (begun.elapsed(), rig.server.calls()),
        (Duration::ZERO, 2),
        "nobody waits for a server that is away"
    );
    assert_eq!(rig.fetch("a", &["x"]).await.unwrap(), first);
    assert_eq!(rig.server.calls(), 2, "it is not asked for each workload");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(rig.fetch("a", &["x"]).await.unwrap(), first);
    assert_eq!(rig.server.calls(), 3, "and asked again later");
    // A server that hangs costs a workload no more than what is configured.
    rig.server.with(|script| script.hangs = true);
    tokio::time::advance(Duration::from_secs(10)).await;
    let begun = Instant::now();
    assert_eq!(rig.fetch("a", &["x"]).await.unwrap(), first);
    assert!(begun.elapsed() >= HIT_TIMEOUT && begun.elapsed() < HIT_TIMEOUT * 2, "{:?}", begun.elapsed());
    rig.server.with(|script| script.hangs = false);
    tokio::time::advance(TTL / 2).await;
    let refused = rig.fetch("a", &["x"]).await.unwrap_err();
    assert!(refused.to_string().contains("server:1"), "{refused}");
    rig.server.with(|script| script.away = false);
    assert_ne!(rig.fetch("a", &["x"]).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn with_nothing_to_fall_back_on_a_server_that_is_away_is_asked_again_for_a_while() {
    let rig = rig();
    rig.server.with(|script| script.errors = vec![away(), away()]);
    rig.fetch("a", &["x"]).await.unwrap();
    assert_eq!(rig.server.calls(), 3);
    rig.server.with(|script| script.away = true);
    let begun = Instant::now();
    rig.fetch("a", &["y"]).await.unwrap_err();
    assert!(begun.elapsed() > PATIENCE / 2 && begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
    // What cannot pass is not tried again.
    let refused = |status| ServerError::Call { rpc: "NewJWTSVID", status: Box::new(status) };
    for status in [Status::not_found("no entry"), Status::unimplemented("no JWT-SVIDs")] {
        rig.server.with(|script| (script.away, script.errors) = (false, vec![refused(status)]));
        let before = rig.server.calls();
        rig.fetch("a", &["z"]).await.unwrap_err();
        assert_eq!(rig.server.calls(), before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_want_the_same_share_one_call() {
    let rig = rig_with(Some(Notify::new()));
    let gate = rig.server.gate.as_ref().unwrap();
    let subject = rig.subject("a");
    let ask = || {
        let (tokens, subject) = (Arc::clone(&rig.tokens), subject.clone());
        tokio::spawn(async move { tokens.fetch(&subject, &["x".to_owned()]).await })
    };
    let (gone, others) = (ask(), [ask(), ask(), ask()]);
    while rig.server.calls() == 0 {
        tokio::task::yield_now().await;
    }
    // Whoever asked first may leave; the call goes on for the others.
    gone.abort();
    assert!(gone.await.is_err());
    gate.notify_one();
    let mut seen = Vec::new();
    for other in others {
        seen.push(other.await.unwrap().unwrap());
    }
    assert!(seen.iter().all(|token| *token == seen[0]));
    assert_eq!((rig.server.calls(), rig.cache.counts().tokens), (1, 1));
    assert!(rig.tokens.inner.open().flights.is_empty(), "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn one_entry_cannot_take_all_the_calls() {
    let rig = rig_with(Some(Notify::new()));
    let gate = rig.server.gate.as_ref().unwrap();
    let ask = |id: &str, audience: String| {
        let (tokens, subject) = (Arc::clone(&rig.tokens), rig.subject(id));
        tokio::spawn(async move { tokens.fetch(&subject, &[audience]).await })
    };
    let greedy: Vec<_> = (0..CALLS * 2).map(|n| ask("a", n.to_string())).collect();
    while rig.server.calls() < CALLS_PER_ENTRY {
        tokio::task::yield_now().await;
    }
    let modest = ask("b", "x".to_owned());
    while rig.server.calls() == CALLS_PER_ENTRY {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.server.calls(), CALLS_PER_ENTRY + 1);
    // The permit goes to whoever waits longest: all of the greedy ones' open calls, then the modest one's.
    for _ in 0..=CALLS_PER_ENTRY {
        gate.notify_one();
        tokio::task::yield_now().await;
    }
    modest.await.unwrap().unwrap();
    drop(greedy);
}

#[tokio::test(start_paused = true)]
async fn tokens_go_with_their_authority() {
    let rig = rig();
    let first = rig.fetch("a", &["x"]).await.unwrap();
    rig.trusts(&[("k1", false), ("k2", false)]);
    assert_eq!(rig.fetch("a", &["x"]).await.unwrap(), first, "a new authority changes nothing");
    for bundle in [&[("k1", true), ("k2", false)][..], &[("k1", false), ("k1", true)], &[("k2", false)], &[]]
    {
        rig.trusts(&[("k1", false)]);
        rig.fetch("a", &["x"]).await.unwrap();
        assert_eq!(rig.cache.counts().tokens, 1);
        rig.trusts(bundle);
        assert_eq!(rig.cache.counts().tokens, 0, "{bundle:?}");
    }
    // A server that still signs with a tainted key, or with one that is not here yet: handed out, never kept.
    for bundle in [&[("k1", true)][..], &[("k2", false)]] {
        rig.trusts(bundle);
        rig.fetch("a", &["x"]).await.unwrap();
        assert_eq!(rig.cache.counts().tokens, 0, "{bundle:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_go_with_their_entry() {
    let rig = rig();
    for id in ["a", "b"] {
        rig.fetch(id, &["x"]).await.unwrap();
    }
    rig.knows(vec![entry("a"), entry("b")]);
    assert_eq!(rig.cache.counts().tokens, 2, "nothing changed");
    rig.knows(vec![AuthorizedEntry { revision: 1, ..entry("a") }, entry("b")]);
    assert_eq!(rig.cache.counts().tokens, 1, "another lifetime, perhaps");
    rig.knows(vec![entry("a")]);
    assert_eq!(rig.cache.counts().tokens, 0);
    rig.fetch("a", &["x"]).await.unwrap();
    rig.cache.patch(vec![entry("b")], &[]);
    assert_eq!(rig.cache.counts().tokens, 1, "a change of another entry");
    rig.cache.patch(vec![AuthorizedEntry { revision: 2, ..entry("a") }], &[]);
    assert_eq!(rig.cache.counts().tokens, 0, "a change that was pushed");
    rig.fetch("a", &["x"]).await.unwrap();
    rig.cache.patch(vec![], &["a".into()]);
    assert_eq!(rig.cache.counts().tokens, 0, "an end that was pushed");
    rig.knows(vec![entry("a")]);
    rig.fetch("a", &["x"]).await.unwrap();
    rig.cache.clear();
    assert_eq!(rig.cache.counts().tokens, 0, "a banned agent keeps nothing");
}

#[tokio::test(start_paused = true)]
async fn tokens_with_an_id_of_their_own_are_never_handed_out_twice() {
    let rig = rig();
    rig.knows(vec![AuthorizedEntry { jwt_include_jti: true, ..entry("a") }]);
    for calls in 1..=3 {
        rig.fetch("a", &["x"]).await.unwrap();
        assert_eq!((rig.server.calls(), rig.cache.counts().tokens), (calls, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_token_that_was_asked_for_is_used() {
    let rig = rig();
    let other: SpiffeId = "spiffe://example.org/other".parse().unwrap();
    let changes: [fn(&mut Script, &SpiffeId); 4] = [
        |script, other| script.sub = Some(other.clone()),
        |script, _| script.audience = Some(vec!["x".into()]),
        |script, _| script.age = TTL * 2,
        // The name of a key that is here, and the signature of another.
        |script, _| script.key_id = "foreign",
    ];
    let (foreign, _) = crate::testing::jwt_key();
    let mut bundle = (*rig.cache.judge().unwrap()).clone();
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "foreign".into(),
        spki_der: foreign,
        expires_at: 0,
        tainted: false,
    });
    rig.cache.set_bundles(BTreeMap::from([(td(), Arc::new(bundle))]));
    for (n, change) in changes.into_iter().enumerate() {
        rig.server.with(|script| {
            *script = Script { key_id: "k1", ..Script::default() };
            change(script, &other);
        });
        let refused = rig.fetch("a", &["x", "y"]).await.unwrap_err();
        assert!(refused.to_string().contains("not usable"), "{n}: {refused}");
        assert_eq!(rig.cache.counts().tokens, 0);
    }
}

#[test]
fn nothing_of_a_token_is_in_the_log() {
    use hardroot_runtime::logs::{LogFormat, LogLevel, LogOutput, subscriber};

    let lines: Arc<Mutex<Vec<u8>>> = Arc::default();
    let output = LogOutput::Buffer(Arc::clone(&lines));
    let (subscriber, _handle) = subscriber(LogFormat::Text, LogLevel::Trace, output).unwrap();
    // While there is one subscriber alone, tracing asks the thread that meets a place in the code first, which may be
    // another test's; with two it asks both.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let tokens = tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let rig = rig();
            let first = rig.fetch("a", &["x"]).await.unwrap();
            rig.server.with(|script| script.key_id = "new");
            let second = rig.fetch("a", &["y"]).await.unwrap();
            tokio::time::advance(TTL * 6 / 10).await;
            rig.server.with(|script| script.away = true);
            rig.fetch("a", &["x"]).await.unwrap();
            rig.server.with(|script| (script.away, script.age) = (false, TTL * 2));
            rig.fetch("a", &["z"]).await.unwrap_err();
            rig.trusts(&[("k1", true)]);
            [first, second]
        })
    });
    let log = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert!(log.contains("handed out") && log.contains("is not used") && log.contains("dropped"), "{log}");
    for token in tokens {
        for part in token.split('.') {
            assert!(!log.contains(part), "{log}");
        }
    }
}
