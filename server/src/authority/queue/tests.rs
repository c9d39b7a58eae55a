//! The queue with a key manager that takes its time.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use tokio::task::{JoinSet, yield_now};
use tokio::time::{advance, sleep};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Signs `count` times with all lanes, each `each` long, so that the queue knows the key manager's pace.
async fn learnt(lanes: usize, each: Duration) -> Arc<Queue> {
    let queue = Queue::new(lanes);
    let mut jobs = JoinSet::new();
    for _ in 0..lanes * 64 {
        let places = queue.admit(Class::Workload, 1, None).unwrap();
        jobs.spawn(async move {
            let turn = places.turn().await.unwrap();
            sleep(each).await;
            turn.done();
        });
    }
    jobs.join_all().await;
    let lanes = u32::try_from(lanes).unwrap();
    let (seen, true_one) = (queue.lock().interval, (each / lanes).as_secs_f64());
    // These lanes are not limited, so a quick one, which is given more, seems to be as much quicker.
    let right = each < QUICK || (seen / true_one - 1.0).abs() < 0.05;
    assert!(right, "{seen} s was learnt where it is {true_one} s");
    // To the last digit, for those who count.
    queue.believe(each / lanes);
    queue
}

/// A signature of a class that says when it was made.
fn sign(
    jobs: &mut JoinSet<()>,
    queue: &Arc<Queue>,
    class: Class,
    each: Duration,
    log: &Arc<Mutex<Vec<Class>>>,
) {
    let places = queue.admit(class, 1, None).unwrap();
    let log = Arc::clone(log);
    jobs.spawn(async move {
        let turn = places.turn().await.unwrap();
        log.lock().unwrap().push(class);
        sleep(each).await;
        turn.done();
    });
}

#[tokio::test(start_paused = true)]
async fn agents_go_first_and_nobody_starves() {
    let queue = learnt(1, 50 * MS).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut jobs = JoinSet::new();
    // In the reverse order of their rank, all of them waiting before the second signature.
    for class in [Class::Token, Class::Connection, Class::Workload, Class::Agent] {
        for _ in 0..40 {
            sign(&mut jobs, &queue, class, 50 * MS, &log);
            yield_now().await;
        }
    }
    jobs.join_all().await;
    let log = log.lock().unwrap();
    let before_last_agent = log.iter().rposition(|class| *class == Class::Agent).unwrap();
    let count = |class| log[..before_last_agent].iter().filter(|c| **c == class).count();
    // While agents wait, the others get no more than their eighth, and no less.
    for class in [Class::Workload, Class::Connection, Class::Token] {
        let share = count(class) as f64 / before_last_agent as f64;
        assert!((0.09..=0.15).contains(&share), "{class:?} got {share}");
        let places: Vec<_> = (0..before_last_agent).filter(|at| log[*at] == class).collect();
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] <= SHARE as usize + 1), "{places:?}");
    }
    for (class, next) in [(Class::Workload, Class::Connection), (Class::Connection, Class::Token)] {
        let end = log.iter().rposition(|one| *one == class).unwrap();
        let after = log[end..].iter().filter(|one| **one == next).count();
        assert!(after > 10, "{after} of {next:?} after the last of {class:?}");
    }
    assert_eq!(queue.admitted(), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn within_a_class_the_first_is_served_first_and_batches_do_not_overtake() {
    let queue = learnt(2, 50 * MS).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut jobs = JoinSet::new();
    for batch in 0..4 {
        let places = Arc::new(queue.admit(Class::Workload, 5, None).unwrap());
        for _ in 0..5 {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            jobs.spawn(async move {
                let turn = places.turn().await.unwrap();
                order.lock().unwrap().push(batch);
                sleep(50 * MS).await;
                turn.done();
            });
        }
    }
    jobs.join_all().await;
    let order = order.lock().unwrap();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn all_lanes_work_and_no_more_is_given_to_a_slow_token() {
    let queue = learnt(4, 14 * MS).await;
    let (busy, most) = (Arc::new(Mutex::new(0_usize)), Arc::new(Mutex::new(0_usize)));
    let began = Instant::now();
    let mut jobs = JoinSet::new();
    for _ in 0..100 {
        let places = queue.admit(Class::Workload, 1, None).unwrap();
        let (busy, most) = (Arc::clone(&busy), Arc::clone(&most));
        jobs.spawn(async move {
            let turn = places.turn().await.unwrap();
            {
                let mut busy = busy.lock().unwrap();
                *busy += 1;
                let mut most = most.lock().unwrap();
                *most = most.max(*busy);
            }
            sleep(14 * MS).await;
            *busy.lock().unwrap() -= 1;
            turn.done();
        });
    }
    jobs.join_all().await;
    assert_eq!(*most.lock().unwrap(), 4, "as many as there are lanes");
    assert_eq!(began.elapsed(), 25 * 14 * MS, "and never fewer while somebody waits");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_hang_leave_one_place_for_a_certificate() {
    let queue = learnt(2, 100 * MS).await;
    let hanging = queue.admit(Class::Token, 5, None).unwrap();
    let held = [hanging.turn().await.unwrap(), hanging.turn().await.unwrap()];
    let certificates = queue.admit(Class::Workload, 2, None).unwrap();
    let one = certificates.turn().await.unwrap();
    assert!(tokio::time::timeout(MS, certificates.turn()).await.is_err(), "one, not more");
    assert!(tokio::time::timeout(MS, hanging.turn()).await.is_err());
    drop((one, held));
}

#[tokio::test(start_paused = true)]
async fn a_quick_token_always_has_the_next_ones_at_hand() {
    // Each lane's own one, and as many behind it as it makes in a millisecond, from one to sixteen.
    let us = Duration::from_micros;
    for (each, at_a_time) in
        [(us(5000), 2), (us(4900), 4), (us(1000), 4), (us(500), 6), (us(100), 22), (us(40), 34), (us(1), 34)]
    {
        let queue = learnt(2, MS).await;
        queue.believe(each / 2);
        let all = queue.admit(Class::Workload, at_a_time + 1, None).unwrap();
        let mut turns = Vec::new();
        for _ in 0..at_a_time {
            turns.push(all.turn().await.unwrap());
        }
        assert!(tokio::time::timeout(MS, all.turn()).await.is_err(), "{each:?}");
        drop((turns, all));
        assert_eq!(queue.admitted(), [0, 0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_too_long_is_told_at_once_when_to_come_back() {
    // Ten a second: 200 fill the 20 s of a class.
    let queue = learnt(1, 100 * MS).await;
    let places = queue.admit(Class::Workload, 1000, None).unwrap();
    assert_eq!(places.left(), 200, "a batch gets what can be done");
    let before = Instant::now();
    let first = queue.admit(Class::Workload, 50, None).unwrap_err();
    let second = queue.admit(Class::Workload, 50, None).unwrap_err();
    assert_eq!(before.elapsed(), Duration::ZERO);
    // When half of the queue is over; the next one when the first one's 50 are done as well.
    assert_eq!(first.retry_after, Duration::from_secs(10));
    assert_eq!(second.retry_after, Duration::from_secs(15));
    assert!(queue.admit(Class::Agent, 1, None).is_ok(), "workloads are not ahead of agents");
    // Ten seconds of every eighth signature, whatever is ahead.
    let tokens = queue.admit(Class::Token, 100, None).unwrap();
    assert_eq!(tokens.left(), 12);
    assert!(queue.admit(Class::Token, 1, None).is_err());
    drop(tokens);
    for _ in 0..100 {
        assert!(queue.room(Class::Workload, None).unwrap_err().retry_after <= RETURN.1);
    }
    drop(places);
    assert!(queue.admit(Class::Workload, 50, None).is_ok(), "unused places are given back");
}

/// What a class has for sure is enough to admit somebody: more demand of those before it than the token makes must not
/// shut the others out.
#[tokio::test(start_paused = true)]
async fn new_connections_are_made_however_much_there_is_to_sign() {
    let queue = learnt(1, 10 * MS).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut jobs = JoinSet::new();
    let ahead = queue.admit(Class::Workload, 10_000, None).unwrap();
    assert_eq!(ahead.left(), 2_000);
    jobs.spawn(async move {
        while let Ok(turn) = ahead.turn().await {
            sleep(10 * MS).await;
            turn.done();
        }
    });
    yield_now().await;
    let began = Instant::now();
    for _ in 0..100 {
        sign(&mut jobs, &queue, Class::Connection, 10 * MS, &log);
    }
    assert!(queue.admit(Class::Connection, 1, None).is_err(), "8 s of every eighth signature");
    while log.lock().unwrap().len() < 100 {
        sleep(10 * MS).await;
    }
    assert!(began.elapsed() <= Class::Connection.longest_wait() + 100 * MS, "{:?}", began.elapsed());
    jobs.shutdown().await;
}

/// A stranger's handshakes neither teach the queue nor hold anything once they are gone.
#[tokio::test(start_paused = true)]
async fn handshakes_wait_their_turn_and_are_not_learnt_from() {
    use hardroot_transport::SigningOrder as _;
    let queue = learnt(1, 100 * MS).await;
    let order = Handshakes(Arc::clone(&queue));
    for _ in 0..100 {
        drop(order.turn().await.unwrap());
    }
    let held = queue.admit(Class::Agent, 1, None).unwrap().turn().await.unwrap();
    let late = tokio::time::timeout(MS, order.turn()).await;
    assert!(late.is_err(), "the lane is another's");
    assert_eq!(queue.admitted(), [1, 0, 0, 0]);
    let before = Instant::now();
    let Err(refused) = order.turn().await else { panic!("the lane is another's") };
    assert!(refused.to_string().contains("more to sign"), "{refused}");
    assert_eq!(before.elapsed(), Class::Connection.longest_wait());
    drop(held);
    assert_eq!(queue.admit(Class::Workload, 1000, None).unwrap().left(), 200, "still 100 ms each");
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_deadline_counts() {
    let queue = learnt(1, 100 * MS).await;
    let ahead = queue.admit(Class::Workload, 20, None).unwrap();
    assert!(queue.admit(Class::Workload, 1, Some(Duration::from_secs(1))).is_err());
    assert_eq!(queue.admit(Class::Workload, 9, Some(Duration::from_millis(2550))).unwrap().left(), 5);
    drop(ahead);
    // With nobody ahead there is no better time than now, however slow the token is.
    assert_eq!(queue.admit(Class::Workload, 9, Some(MS)).unwrap().left(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_turns_out_longer_ends_with_a_time_to_come_back() {
    let queue = learnt(1, 100 * MS).await;
    let held = queue.admit(Class::Agent, 1, None).unwrap().turn().await.unwrap();
    let late = queue.admit(Class::Workload, 1, Some(Duration::from_secs(2))).unwrap();
    let before = Instant::now();
    let busy = late.turn().await.unwrap_err();
    assert!((Duration::from_millis(1900)..=Duration::from_secs(2)).contains(&before.elapsed()));
    assert!(busy.retry_after >= RETURN.0);
    drop((held, late));
    assert_eq!(queue.admitted(), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_gone_is_no_more_in_the_queue() {
    let queue = learnt(1, 100 * MS).await;
    let held = queue.admit(Class::Agent, 1, None).unwrap().turn().await.unwrap();
    let mut jobs = JoinSet::new();
    for _ in 0..50 {
        let places = queue.admit(Class::Workload, 2, None).unwrap();
        jobs.spawn(async move { drop(places.turn().await) });
    }
    yield_now().await;
    advance(MS).await;
    assert_eq!(queue.admitted(), [1, 100, 0, 0]);
    jobs.shutdown().await;
    assert_eq!(queue.admitted(), [1, 0, 0, 0]);
    drop(held);
    let began = Instant::now();
    drop(queue.admit(Class::Token, 1, None).unwrap().turn().await.unwrap());
    assert_eq!(began.elapsed(), Duration::ZERO, "no lane was lost with them");
}

#[tokio::test(start_paused = true)]
async fn a_failed_signature_teaches_nothing() {
    let queue = learnt(1, 100 * MS).await;
    for _ in 0..50 {
        let turn = queue.admit(Class::Workload, 1, None).unwrap().turn().await.unwrap();
        advance(Duration::from_secs(30)).await;
        drop(turn);
    }
    assert_eq!(queue.admit(Class::Workload, 1000, None).unwrap().left(), 200);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Whatever comes, waits, goes away or fails, in any order: no lane and no place is lost.
    #[test]
    fn nothing_is_lost(lanes in 1usize..5, steps in proptest::collection::vec((0u8..4, 1usize..4, 0u64..60), 1..60)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let queue = Queue::new(lanes);
            let mut jobs = JoinSet::new();
            for (class, count, patience) in steps {
                let class = Class::ALL[usize::from(class)];
                if let Ok(places) = queue.admit(class, count, None) {
                    jobs.spawn(async move {
                        let work = async {
                            while let Ok(turn) = places.turn().await {
                                sleep(20 * MS).await;
                                if patience % 3 != 0 {
                                    turn.done();
                                }
                            }
                        };
                        drop(tokio::time::timeout(Duration::from_millis(patience), work).await);
                    });
                }
                sleep(Duration::from_millis(patience % 7)).await;
            }
            jobs.join_all().await;
            assert_eq!(queue.admitted(), [0, 0, 0, 0]);
            let state = queue.lock();
            assert_eq!((state.busy, state.busy_tokens), (0, 0));
            drop(state);
            assert!(Class::ALL.iter().all(|class| queue.lock().waiting.get(*class).is_empty()));
        });
    }
}
