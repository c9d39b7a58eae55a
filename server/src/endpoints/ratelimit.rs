//! Limits per client address: a call waits for its turn, and is refused when the wait would be too long.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hardroot_transport::client_of;
use tokio::time::Instant;
use tonic::Status;

use crate::authz::Limit;

/// A call whose turn is later than this is refused at once.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Addresses remembered at most; beyond it, those that are not being limited are forgotten.
const MOST_ADDRESSES: usize = 65_536;

/// Calls per second and address, and burst, for each kind of limit.
#[must_use]
fn rate_of(limit: Limit) -> Option<u32> {
    match limit {
        Limit::None => None,
        Limit::Attestation => Some(1),
        Limit::PostStatus => Some(10),
        Limit::Signing | Limit::PushKey => Some(500),
    }
}

/// One limit, for all addresses (generic cell rate algorithm: one time per address).
struct Bucket {
    rate: u32,
    /// When the address would be back to its full burst.
    full_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl Bucket {
    fn new(rate: u32) -> Self {
        Self { rate: rate.max(1), full_at: Mutex::new(HashMap::new()) }
    }

    /// Reserves `count` turns; says how long to wait for them.
    fn reserve(&self, address: IpAddr, count: u32, now: Instant) -> Result<Duration, Status> {
        if count > self.rate {
            return Err(Status::resource_exhausted(format!(
                "{count} at once are more than the limit of {} per second; send smaller batches",
                self.rate
            )));
        }
        // A poisoned lock only means that another call panicked between two map operations.
        let mut all = self.full_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if all.len() >= MOST_ADDRESSES {
            all.retain(|_, full_at| *full_at > now);
        }
        let begin = all.get(&address).copied().unwrap_or(now).max(now);
        let full_at = begin + Duration::from_secs(1) * count / self.rate;
        // The burst is one second's worth.
        let wait = full_at.saturating_duration_since(now).saturating_sub(Duration::from_secs(1));
        if wait > LONGEST_WAIT || (all.len() >= MOST_ADDRESSES && !all.contains_key(&address)) {
            return Err(Status::resource_exhausted("too many calls from this address; try again later"));
        }
        all.insert(address, full_at);
        Ok(wait)
    }
}

/// A limit that can be switched off and on.
struct Switched {
    bucket: Bucket,
    on: AtomicBool,
}

impl Switched {
    fn new(bucket: Bucket, on: bool) -> Self {
        Self { bucket, on: AtomicBool::new(on) }
    }

    fn in_force(&self) -> Option<&Bucket> {
        self.on.load(Ordering::Relaxed).then_some(&self.bucket)
    }
}

/// All limits of the TCP endpoint.
pub struct RateLimits {
    attestation: Switched,
    signing: Switched,
    push_key: Bucket,
    post_status: Bucket,
}

impl RateLimits {
    /// Limits as the `ratelimit` block says: `attestation` and `signing` can be switched off.
    #[must_use]
    pub fn new(attestation: bool, signing: bool) -> Self {
        let bucket = |limit| Bucket::new(rate_of(limit).unwrap_or(u32::MAX));
        Self {
            attestation: Switched::new(bucket(Limit::Attestation), attestation),
            signing: Switched::new(bucket(Limit::Signing), signing),
            push_key: bucket(Limit::PushKey),
            post_status: bucket(Limit::PostStatus),
        }
    }

    /// Switches the limits of the `ratelimit` block, from the next call on.
    pub fn set(&self, attestation: bool, signing: bool) {
        self.attestation.on.store(attestation, Ordering::Relaxed);
        self.signing.on.store(signing, Ordering::Relaxed);
    }

    /// Waits for `count` turns of `address`.
    ///
    /// # Errors
    /// `ResourceExhausted` when `count` can never be had at once or the wait would be over 30 s.
    pub async fn take(&self, limit: Limit, address: IpAddr, count: u32) -> Result<(), Status> {
        let bucket = match limit {
            Limit::None => None,
            Limit::Attestation => self.attestation.in_force(),
            Limit::Signing => self.signing.in_force(),
            Limit::PushKey => Some(&self.push_key),
            Limit::PostStatus => Some(&self.post_status),
        };
        if let Some(bucket) = bucket {
            let wait = bucket.reserve(client_of(address), count, Instant::now())?;
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn attestation_is_one_a_second_for_each_address() {
        let limits = RateLimits::new(true, true);
        let start = Instant::now();
        for _ in 0..3 {
            limits.take(Limit::Attestation, address(1), 1).await.unwrap();
        }
        assert_eq!(start.elapsed().as_secs(), 2, "the first at once, two more a second apart");
        let start = Instant::now();
        limits.take(Limit::Attestation, address(2), 1).await.unwrap();
        assert!(start.elapsed().is_zero(), "another address has its own limit");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_queue_is_refused_instead_of_growing() {
        let bucket = Bucket::new(1);
        let now = Instant::now();
        let granted = (0..100).filter(|_| bucket.reserve(address(1), 1, now).is_ok()).count();
        assert_eq!(granted, 31);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_count_by_item_and_cannot_exceed_the_burst() {
        let limits = RateLimits::new(true, true);
        let start = Instant::now();
        limits.take(Limit::Signing, address(1), 500).await.unwrap();
        assert!(start.elapsed().is_zero());
        limits.take(Limit::Signing, address(1), 250).await.unwrap();
        assert_eq!(start.elapsed().as_millis(), 500);
        let refused = limits.take(Limit::Signing, address(1), 501).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test(start_paused = true)]
    async fn switched_off_limits_do_not_wait() {
        let limits = RateLimits::new(false, false);
        let start = Instant::now();
        for _ in 0..10_000 {
            limits.take(Limit::Attestation, address(1), 1).await.unwrap();
            limits.take(Limit::Signing, address(1), 5_000).await.unwrap();
        }
        assert!(start.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_are_switched_while_serving() {
        let limits = RateLimits::new(true, true);
        let start = Instant::now();
        limits.set(false, false);
        for _ in 0..100 {
            limits.take(Limit::Attestation, address(1), 1).await.unwrap();
            limits.take(Limit::Signing, address(1), 500).await.unwrap();
        }
        assert!(start.elapsed().is_zero());
        limits.set(true, true);
        limits.take(Limit::Attestation, address(1), 1).await.unwrap();
        limits.take(Limit::Attestation, address(1), 1).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 1);
        assert!(limits.take(Limit::Signing, address(1), 501).await.is_err());
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let one: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let two: IpAddr = "2001:db8:1:2:ffff::9".parse().unwrap();
        assert_eq!(client_of(one), client_of(two));
        assert_eq!(client_of("::ffff:192.0.2.1".parse().unwrap()), address(1));
    }
}
