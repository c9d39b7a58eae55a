//! JWT-SVIDs for workloads: from the cache, else from the server.
//!
//! Callers who want the same token wait for one call. A token is renewed once half of its life is over; while that
//! fails, the one that is still valid is handed out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hardroot_identity::{BadJwtSvid, verify_jwt_svid};
use hardroot_runtime::clock::Clock;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::cache::{Cache, Token, TokenKey};
use crate::lifecycle::{chain_of, jitter, refresh_at};
use crate::source::JwtSubject;
use crate::sync::{IssuedJwt, JwtIssuer, ServerError};
use crate::workload_api::{JwtSource, JwtUnavailable, LEEWAY};

/// How long a server that is away is asked again when there is nothing to fall back on. Shorter than the time in
/// which every call of the Workload API is answered.
const PATIENCE: Duration = Duration::from_secs(20);
/// First pause between attempts; doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Calls to the server at once: in all, and for one entry, so that one workload cannot keep the others waiting.
const CALLS: usize = 64;
const CALLS_PER_ENTRY: usize = 16;

type Outcome = Result<Arc<Token>, JwtUnavailable>;

/// See the module.
pub struct JwtSvids {
    inner: Arc<Inner>,
}

struct Inner {
    cache: Arc<Cache>,
    server: Arc<dyn JwtIssuer>,
    clock: Arc<dyn Clock>,
    /// How long is waited for a new token when the old one is still valid.
    hit_timeout: Duration,
    calls: Semaphore,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// What is being asked for now.
    flights: HashMap<TokenKey, watch::Receiver<Option<Outcome>>>,
    /// By entry id.
    entries: HashMap<String, Arc<Semaphore>>,
}

impl JwtSvids {
    /// Tokens that `server` signs, kept in `cache`. `hit_timeout` bounds how long a workload waits for a new token
    /// while it could be given one that is still valid.
    #[must_use]
    pub fn new(
        cache: Arc<Cache>,
        server: Arc<dyn JwtIssuer>,
        clock: Arc<dyn Clock>,
        hit_timeout: Duration,
    ) -> Self {
        let calls = Semaphore::new(CALLS);
        Self { inner: Arc::new(Inner { cache, server, clock, hit_timeout, calls, open: Mutex::default() }) }
    }
}

#[async_trait]
impl JwtSource for JwtSvids {
    async fn fetch(&self, subject: &JwtSubject, audience: &[String]) -> Result<String, JwtUnavailable> {
        let inner = &self.inner;
        if subject.include_jti {
            // Each of these is used once: nothing to share, nothing to keep.
            return inner.ask(subject, audience, PATIENCE).await.map(|(token, _)| token.text().to_owned());
        }
        let key = TokenKey::of(&subject.spiffe_id, audience);
        let Some(cached) = inner.cache.token(&key) else {
            return inner.shared(key, subject, audience, PATIENCE).await.map(|token| token.text().to_owned());
        };
        if !cached.renew {
            return Ok(cached.token.text().to_owned());
        }
        let renewal = inner.shared(key, subject, audience, Duration::ZERO);
        let outcome = timeout(inner.hit_timeout, renewal).await;
        let why = match outcome {
            Ok(Ok(token)) => return Ok(token.text().to_owned()),
            Ok(Err(why)) => why,
            Err(_elapsed) => JwtUnavailable("the server does not answer".to_owned()),
        };
        // Asked for anew: meanwhile it may have expired, or its authority may have been tainted.
        match inner.cache.token(&key) {
            Some(still) => {
                tracing::warn!(spiffe_id = %subject.spiffe_id, entry_id = %subject.entry_id, error = %why,
                    "a JWT-SVID cannot be renewed; the one that is still valid is handed out");
                Ok(still.token.text().to_owned())
            }
            None => Err(why),
        }
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Open> {
        // What a panic leaves behind are maps that are still whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of the one call for this key that is under way, or of a new one. It goes on when its callers
    /// have gone: whoever comes next finds the token.
    async fn shared(
        self: &Arc<Self>,
        key: TokenKey,
        subject: &JwtSubject,
        audience: &[String],
        patience: Duration,
    ) -> Outcome {
        let mut flight = {
            let mut open = self.open();
            match open.flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (sender, flight) = watch::channel(None);
                    open.flights.insert(key, flight.clone());
                    let (this, subject, audience) = (Arc::clone(self), subject.clone(), audience.to_vec());
                    tokio::spawn(async move {
                        let ended = Ended { inner: &this, key };
                        let outcome = this.ask(&subject, &audience, patience).await;
                        match &outcome {
                            Ok((token, Some(renew_at))) => {
                                this.cache.store_token(key, Arc::clone(token), *renew_at);
                            }
                            Ok((_, None)) => {}
                            Err(_) => this.cache.token_renewal_failed(&key),
                        }
                        drop(ended);
                        sender.send_replace(Some(outcome.map(|(token, _)| token)));
                    });
                    flight
                }
            }
        };
        let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(JwtUnavailable("the agent is shutting down".to_owned())))
    }

    /// A new token, and from when on it is to be renewed if it may be kept. A server that is away is asked again
    /// for as long as `patience` lasts.
    async fn ask(
        &self,
        subject: &JwtSubject,
        audience: &[String],
        patience: Duration,
    ) -> Result<(Arc<Token>, Option<std::time::SystemTime>), JwtUnavailable> {
        let limit = if patience.is_zero() { self.hit_timeout } else { patience };
        let end = Instant::now() + limit;
        let busy = |_elapsed| JwtUnavailable("too many tokens are asked for at once".to_owned());
        let of_entry = self.of_entry(&subject.entry_id);
        let _places = timeout(limit, async { (of_entry.acquire().await, self.calls.acquire().await) })
            .await
            .map_err(busy)?;
        let mut pause = PAUSE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let error = match self.server.new_jwt_svid(&subject.entry_id, audience, left).await {
                Ok(issued) => return self.judge(subject, audience, issued),
                Err(error) => error,
            };
            let again = error.is_passing() && !patience.is_zero() && Instant::now() + pause < end;
            if !again {
                return Err(told(subject, &error));
            }
            tracing::debug!(spiffe_id = %subject.spiffe_id, error = %error, "no JWT-SVID yet; trying again");
            sleep(pause).await;
            pause *= 2;
        }
    }

    fn of_entry(&self, id: &str) -> Arc<Semaphore> {
        let mut open = self.open();
        // Those nobody holds are forgotten, so that entries that come and go leave nothing behind.
        open.entries.retain(|_, places| Arc::strong_count(places) > 1);
        let places = open.entries.entry(id.to_owned());
        Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(CALLS_PER_ENTRY))))
    }

    /// Whether the token is the one that was asked for.
    fn judge(
        &self,
        subject: &JwtSubject,
        audience: &[String],
        issued: IssuedJwt,
    ) -> Result<(Arc<Token>, Option<std::time::SystemTime>), JwtUnavailable> {
        let IssuedJwt { token, expires_at, issued_at } = issued;
        let made = |key_id| {
            let (entry_id, id) = (subject.entry_id.clone(), subject.spiffe_id.clone());
            Arc::new(Token::new(token.clone(), entry_id, id, key_id, expires_at))
        };
        let now = self.clock.now();
        let bundle = self.cache.judge();
        let wrong = match verify_jwt_svid(&token, audience, |_| bundle.clone(), now, LEEWAY) {
            Ok(svid) if svid.id != subject.spiffe_id => {
                format!("it is for {}, the entry is for {}", svid.id, subject.spiffe_id)
            }
            Ok(svid) if !audience.iter().all(|value| svid.audience.contains(value)) => {
                "it is not for all audiences that were asked for".to_owned()
            }
            Ok(svid) => return Ok((made(svid.key_id), Some(refresh_at(issued_at, expires_at, jitter())))),
            // A key that was made a moment ago: the next synchronisation brings it. Until then nothing is kept.
            Err(BadJwtSvid::UnknownKey { id, key_id, .. }) if id == subject.spiffe_id && expires_at > now => {
                tracing::debug!(spiffe_id = %id, key_id, "a JWT-SVID is signed by a key that is not in the bundle yet");
                return Ok((made(key_id.unwrap_or_default()), None));
            }
            Err(bad) => bad.to_string(),
        };
        tracing::error!(spiffe_id = %subject.spiffe_id, entry_id = %subject.entry_id, error = %wrong,
            "an issued JWT-SVID is not used; is this machine's clock right?");
        Err(JwtUnavailable("the server's token is not usable; see the agent's log".to_owned()))
    }
}

/// Takes a call off the list, also when it panics.
struct Ended<'a> {
    inner: &'a Inner,
    key: TokenKey,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.inner.open().flights.remove(&self.key);
    }
}

fn told(subject: &JwtSubject, error: &ServerError) -> JwtUnavailable {
    tracing::warn!(spiffe_id = %subject.spiffe_id, entry_id = %subject.entry_id, error = %error,
        cause = %chain_of(error), "no JWT-SVID can be had");
    JwtUnavailable(error.to_string())
}

#[cfg(test)]
mod tests;
