//! JWT-SVIDs that may be handed out again.
//!
//! Bounded by count and by bytes, the least recently used make room. A token goes with its entry and with the
//! authority that signed it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use hardroot_identity::{Bundle, SpiffeId};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{Cache, Inner};

/// Bytes of tokens that are kept for each token of the limit: an ordinary one has some 600.
const BYTES_PER_TOKEN: usize = 4 << 10;
/// First and longest pause after a token could not be renewed while it is still valid.
const RENEWAL_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A JWT-SVID, checked. Wiped on drop, never shown.
pub struct Token {
    text: Zeroizing<String>,
    entry_id: String,
    spiffe_id: SpiffeId,
    key_id: String,
    expires_at: SystemTime,
}

impl Token {
    /// A token in compact serialisation, issued for an entry's identity and signed by the key `key_id`.
    #[must_use]
    pub fn new(
        text: Zeroizing<String>,
        entry_id: String,
        spiffe_id: SpiffeId,
        key_id: String,
        expires_at: SystemTime,
    ) -> Self {
        Self { text, entry_id, spiffe_id, key_id, expires_at }
    }

    /// The compact serialisation: whoever has it is believed to be the workload.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    pub(super) fn entry_id(&self) -> &str {
        &self.entry_id
    }

    /// Whether the bundle still vouches for it: a tainted key signs nothing that is handed out any more.
    fn is_trusted(&self, bundle: Option<&Bundle>) -> bool {
        bundle.is_some_and(|bundle| {
            let mut keys = bundle.jwt_authorities.iter().filter(|key| key.key_id == self.key_id).peekable();
            // A bundle may hold a key twice, tainted and not; the mark counts.
            keys.peek().is_some() && keys.all(|key| !key.tainted)
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("entry_id", &self.entry_id)
            .field("spiffe_id", &self.spiffe_id)
            .field("bytes", &self.text.len())
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What a token is found by: the SPIFFE ID and the audiences, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// The key of tokens for `id` and these audiences.
    #[must_use]
    pub fn of(id: &SpiffeId, audience: &[String]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts(id.as_str(), audience) {
            context.update(&part);
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self(key)
    }
}

/// Each text behind its length: no list of texts reads like another, whatever bytes are in them.
fn parts<'a>(id: &'a str, audience: &'a [String]) -> impl Iterator<Item = Vec<u8>> + 'a {
    let mut sorted: Vec<&str> = audience.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    std::iter::once(id).chain(sorted).map(|text| {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes();
        [&length[..], text.as_bytes()].concat()
    })
}

/// A token that was found.
#[derive(Debug, Clone)]
pub struct CachedToken {
    /// Still valid.
    pub token: Arc<Token>,
    /// Whether it is time to ask for a new one.
    pub renew: bool,
}

#[derive(Debug)]
struct Kept {
    token: Arc<Token>,
    renew_at: SystemTime,
    failures: u32,
    retry_at: Option<Instant>,
    used: u64,
}

/// The tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    limit: usize,
    kept: HashMap<TokenKey, Kept>,
    /// By last use; higher is more recent.
    order: BTreeMap<u64, TokenKey>,
    uses: u64,
    bytes: usize,
}

impl Tokens {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, kept: HashMap::new(), order: BTreeMap::new(), uses: 0, bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    fn find(&mut self, key: &TokenKey, now: SystemTime) -> Option<CachedToken> {
        let kept = self.kept.get_mut(key)?;
        if kept.token.expires_at <= now {
            self.remove(key);
            return None;
        }
        self.uses += 1;
        self.order.remove(&kept.used);
        kept.used = self.uses;
        self.order.insert(kept.used, *key);
        let rested = kept.retry_at.is_none_or(|at| at <= Instant::now());
        Some(CachedToken { token: Arc::clone(&kept.token), renew: kept.renew_at <= now && rested })
    }

    fn insert(&mut self, key: TokenKey, token: Arc<Token>, renew_at: SystemTime) {
        self.remove(&key);
        self.uses += 1;
        self.bytes += token.text.len();
        self.order.insert(self.uses, key);
        self.kept.insert(key, Kept { token, renew_at, failures: 0, retry_at: None, used: self.uses });
        let room = self.limit.saturating_mul(BYTES_PER_TOKEN);
        while self.kept.len() > self.limit || self.bytes > room {
            let Some(oldest) = self.order.first_key_value().map(|(_, key)| *key) else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &TokenKey) {
        if let Some(gone) = self.kept.remove(key) {
            self.order.remove(&gone.used);
            self.bytes -= gone.token.text.len();
        }
    }

    /// Drops every token that `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&Token) -> bool) {
        let gone: Vec<TokenKey> =
            self.kept.iter().filter(|(_, kept)| !keep(&kept.token)).map(|(key, _)| *key).collect();
        for key in gone {
            self.remove(&key);
        }
    }
}

impl Inner {
    /// After a change of the own bundle: what a tainted or vanished key signed is dropped.
    pub(super) fn drop_untrusted_tokens(&mut self, own: Option<&Bundle>) {
        let before = self.tokens.len();
        self.tokens.retain(|token| token.is_trusted(own));
        let dropped = before - self.tokens.len();
        if dropped > 0 {
            tracing::info!(
                dropped,
                "JWT-SVIDs were dropped: their authority is tainted or no longer in the bundle"
            );
        }
    }
}

impl Cache {
    /// A token that may still be handed out.
    #[must_use]
    pub fn token(&self, key: &TokenKey) -> Option<CachedToken> {
        let now = self.now();
        self.lock().tokens.find(key, now)
    }

    /// Keeps a token, to be replaced from `renew_at` on. Not kept is one whose entry has changed or gone, or whose
    /// key is tainted or not in the bundle.
    pub fn store_token(&self, key: TokenKey, token: Arc<Token>, renew_at: SystemTime) {
        let mut inner = self.lock();
        let same =
            inner.table.get(&token.entry_id).is_some_and(|record| record.entry.spiffe_id == token.spiffe_id);
        if same && token.is_trusted(inner.bundles.get(&self.trust_domain).map(|bundle| &**bundle)) {
            inner.tokens.insert(key, token, renew_at);
        }
    }

    /// Notes that a token could not be renewed, so that it is handed out for a while without asking again.
    pub fn token_renewal_failed(&self, key: &TokenKey) {
        let mut inner = self.lock();
        let Some(kept) = inner.tokens.kept.get_mut(key) else { return };
        let pause = RENEWAL_PAUSE.0.saturating_mul(1 << kept.failures.min(16)).min(RENEWAL_PAUSE.1);
        kept.failures = kept.failures.saturating_add(1);
        kept.retry_at = Some(Instant::now() + pause);
    }

    /// The own trust domain's bundle, to judge tokens by.
    #[must_use]
    pub fn judge(&self) -> Option<Arc<Bundle>> {
        self.lock().bundles.get(&self.trust_domain).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn id(path: &str) -> SpiffeId {
        format!("spiffe://example.org{path}").parse().unwrap()
    }

    fn audience(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn token(bytes: usize, expires: u64) -> Arc<Token> {
        let text = Zeroizing::new("t".repeat(bytes));
        let expires_at = UNIX_EPOCH + Duration::from_secs(expires);
        Arc::new(Token::new(text, "e".into(), id("/a"), "k".into(), expires_at))
    }

    fn key(name: &str) -> TokenKey {
        TokenKey::of(&id("/a"), &audience(&[name]))
    }

    #[test]
    fn order_of_audiences_does_not_matter_and_everything_else_does() {
        let same = TokenKey::of(&id("/a"), &audience(&["x", "y"]));
        assert_eq!(same, TokenKey::of(&id("/a"), &audience(&["y", "x"])));
        for (path, other) in [
            ("/b", &["x", "y"][..]),
            ("/a", &["xy"]),
            ("/a", &["x", "y", ""]),
            ("/a", &["x", "y", "y"]),
            ("/a", &["x\0y"]),
            ("/a", &["x"]),
            ("/a", &[]),
        ] {
            assert_ne!(same, TokenKey::of(&id(path), &audience(other)), "{path} {other:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_two_lists_have_one_encoding(a in proptest::collection::vec("[a-c\0\u{1}]{0,4}", 0..5), b in proptest::collection::vec("[a-c\0\u{1}]{0,4}", 0..5)) {
            let encoded = |list: &[String]| parts("id", list).collect::<Vec<_>>().concat();
            let sorted = |list: &[String]| { let mut list = list.to_vec(); list.sort(); list };
            proptest::prop_assert_eq!(encoded(&a) == encoded(&b), sorted(&a) == sorted(&b));
        }
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut tokens = Tokens::new(2);
        let now = UNIX_EPOCH;
        for name in ["a", "b"] {
            tokens.insert(key(name), token(10, 100), now);
        }
        assert!(tokens.find(&key("a"), now).is_some());
        tokens.insert(key("c"), token(10, 100), now);
        let there = |tokens: &mut Tokens| ["a", "b", "c"].map(|name| tokens.find(&key(name), now).is_some());
        assert_eq!(there(&mut tokens), [true, false, true]);
        // Replacing one does not cost another its place.
        tokens.insert(key("a"), token(20, 100), now);
        assert_eq!((there(&mut tokens), tokens.bytes), ([true, false, true], 30));
        // Bytes are bounded too.
        tokens.insert(key("d"), token(2 * BYTES_PER_TOKEN - 20, 100), now);
        assert_eq!((tokens.len(), tokens.order.len()), (2, 2));
        tokens.insert(key("e"), token(2 * BYTES_PER_TOKEN + 1, 100), now);
        assert_eq!((tokens.len(), tokens.order.len(), tokens.bytes), (0, 0, 0), "larger than all room");
    }

    #[test]
    fn what_has_expired_is_not_found_and_goes() {
        let mut tokens = Tokens::new(2);
        tokens.insert(key("a"), token(10, 100), UNIX_EPOCH + Duration::from_secs(50));
        let at = |tokens: &mut Tokens, seconds| {
            tokens.find(&key("a"), UNIX_EPOCH + Duration::from_secs(seconds)).map(|found| found.renew)
        };
        assert_eq!(
            (at(&mut tokens, 49), at(&mut tokens, 50), at(&mut tokens, 99)),
            (Some(false), Some(true), Some(true))
        );
        assert_eq!((at(&mut tokens, 100), tokens.len(), tokens.bytes), (None, 0, 0));
    }

    #[test]
    fn a_token_is_never_shown() {
        let shown = format!(
            "{:?}",
            Token::new("secret".to_owned().into(), "e".into(), id("/a"), "k".into(), UNIX_EPOCH)
        );
        assert!(!shown.contains("secret") && shown.contains("bytes: 6"), "{shown}");
    }
}
