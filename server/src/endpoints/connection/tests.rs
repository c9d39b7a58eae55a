use super::*;

fn life(anonymous: bool, now: Instant) -> Life {
    Life::new(&EndpointLimits::default(), anonymous, now)
}

/// Looks whenever it wants to be looked at, until something happens; says when that was.
fn until(life: &mut Life, calls: &Calls, start: Instant) -> (u64, Verdict) {
    for _ in 0..100_000 {
        let now = life.next;
        match life.look(calls, now) {
            Verdict::Stays => assert!(life.next > now),
            verdict => return (now.duration_since(start).as_secs(), verdict),
        }
    }
    (0, Verdict::Stays)
}

#[tokio::test(start_paused = true)]
async fn without_a_call_a_connection_is_cut() {
    let (calls, now) = (Arc::new(Calls::default()), Instant::now());
    for anonymous in [true, false] {
        assert_eq!(until(&mut life(anonymous, now), &calls, now), (30, Verdict::Cut("no call came")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_goes_and_is_cut_if_it_does_not() {
    let (calls, now) = (Arc::new(Calls::default()), Instant::now());
    drop(calls.begin());
    let mut known = life(false, now);
    assert_eq!(until(&mut known, &calls, now), (600, Verdict::Goes));
    assert_eq!(until(&mut known, &calls, now), (610, Verdict::Cut("it was told to go")));
    assert_eq!(until(&mut life(true, now), &calls, now), (60, Verdict::Goes));
}

#[tokio::test(start_paused = true)]
async fn calls_between_two_looks_keep_a_connection() {
    let (calls, start) = (Arc::new(Calls::default()), Instant::now());
    let mut life = life(false, start);
    for _ in 0..100 {
        drop(calls.begin());
        tokio::time::advance(life.next - Instant::now()).await;
        assert_eq!(life.look(&calls, Instant::now()), Verdict::Stays);
    }
    let (busy, last) = (start.elapsed().as_secs(), life.next);
    assert!(busy > 2_000, "{busy} s with a call each time");
    let (goes, verdict) = until(&mut life, &calls, last);
    assert!(verdict == Verdict::Goes && goes <= 600, "{goes} s, {verdict:?}");
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_keeps_a_known_connection_and_an_anonymous_one_only_for_minutes() {
    let (calls, now) = (Arc::new(Calls::default()), Instant::now());
    let _open = calls.begin();
    assert_eq!(until(&mut life(false, now), &calls, now).1, Verdict::Stays, "looked at for a month");
    let mut anonymous = life(true, now);
    assert_eq!(until(&mut anonymous, &calls, now), (180, Verdict::Goes));
    assert_eq!(until(&mut anonymous, &calls, now).1, Verdict::Stays, "its call may end");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_answer_is_cut() {
    let (calls, now) = (Arc::new(Calls::default()), Instant::now());
    let _answer = Watched::new(Body::empty(), calls.begin());
    let stalled = Verdict::Cut("the peer does not take the answer of its call");
    for going in [false, true] {
        let mut life = life(false, now);
        if going {
            life.told_to_go(now);
        }
        assert_eq!(until(&mut life, &calls, now), (30, stalled));
    }
}

#[test]
fn header_lists_are_counted_as_http_2_does() {
    let mut headers = http::HeaderMap::new();
    headers.insert("abc", "defgh".parse().unwrap());
    headers.append("abc", "".parse().unwrap());
    assert_eq!(header_bytes(&headers), 3 + 5 + 32 + 3 + 32);
}
