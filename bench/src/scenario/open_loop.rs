//! Sending what is due, whatever has been answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::until;

/// Calls under way at most: beyond, this machine would measure its own memory. What waits here is late, and its latency
/// says so.
const MOST_UNDER_WAY: usize = 20_000;

/// Starts `call(number, intended time)` at each time of the plan, counted from `began`, and waits for the last one.
pub(super) async fn run<C>(
    plan: impl Iterator<Item = Duration>,
    began: Instant,
    mut call: impl FnMut(usize, Instant) -> C,
) where
    C: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MOST_UNDER_WAY));
    let mut calls = JoinSet::new();
    for (number, at) in plan.enumerate() {
        let intended = began + at;
        until(intended).await;
        // Never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        let this = call(number, intended);
        calls.spawn(async move {
            this.await;
            drop(place);
        });
        // Those that are done are forgotten on the way.
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::meter::{Meter, Op};

    /// A server that stalls for 300 ms: what was meant to be sent meanwhile was sent, and counts its wait.
    #[tokio::test]
    async fn a_stall_is_seen_by_every_call_that_was_due() {
        let meter = Arc::new(Meter::default());
        let began = meter.begin("run");
        let stall = Arc::new(tokio::sync::Mutex::new(()));
        let held = Arc::clone(&stall).lock_owned().await;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(held);
        });
        let sent = Arc::new(Mutex::new(Vec::new()));
        let plan = (0..40).map(|step| Duration::from_millis(10 * step));
        let log = Arc::clone(&sent);
        let shared = Arc::clone(&meter);
        run(plan, began, move |number, intended| {
            log.lock().unwrap().push(number);
            let (meter, stall) = (Arc::clone(&shared), Arc::clone(&stall));
            async move {
                let call = async {
                    drop(stall.lock().await);
                    Ok(())
                };
                meter.time(Op::Sync, intended, |()| 0, call).await.unwrap();
            }
        })
        .await;
        assert_eq!(*sent.lock().unwrap(), (0..40).collect::<Vec<_>>());
        let latency = &meter.measured().series[&Op::Sync].latency;
        assert_eq!(latency.len(), 40);
        // Of 40 calls 30 were due during the stall: the median waited for about 100 ms. A closed loop would see one slow call.
        assert!(latency.quantile(0.5) >= Duration::from_millis(80), "{:?}", latency.quantile(0.5));
        assert!(latency.max() >= Duration::from_millis(295));
    }
}
