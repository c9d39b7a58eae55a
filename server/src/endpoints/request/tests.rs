use std::collections::VecDeque;
use std::future::poll_fn;

use proptest::prelude::*;
use tonic::Code;

use super::*;

/// Yields these pieces, then waits for ever (or ends).
struct Pieces(VecDeque<Vec<u8>>, bool);

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.0.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
            None if self.1 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

fn all() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(10_000))
}

async fn next(body: &mut Bounded<Pieces>) -> Option<Result<usize, Status>> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(
        frame
            .map(|frame| frame.data_ref().map_or(0, Bytes::len))
            .map_err(|e| *e.downcast::<Status>().unwrap()),
    )
}

fn body(pieces: Vec<Vec<u8>>, ends: bool, held: &Arc<Held>) -> Bounded<Pieces> {
    Bounded::new(Pieces(pieces.into(), ends), 1_000, Duration::from_secs(60), Arc::clone(held))
}

#[tokio::test(start_paused = true)]
async fn a_message_that_drips_is_given_up_and_a_quiet_stream_is_not() {
    let held = Held::new(all(), 1_000);
    for (pieces, gets) in [(vec![], 0), (vec![vec![0, 0]], 1), (vec![framed(&[8, 1]), vec![0, 0, 0]], 2)] {
        let mut drips = body(pieces, false, &held);
        for _ in 0..gets {
            next(&mut drips).await.unwrap().unwrap();
        }
        assert_eq!(next(&mut drips).await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    }
    let mut quiet = body(vec![framed(&[8, 1])], false, &held);
    next(&mut quiet).await.unwrap().unwrap();
    let hours = tokio::time::timeout(Duration::from_secs(36_000), next(&mut quiet)).await;
    assert!(hours.is_err(), "between two messages there is no hurry");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_at_its_first_bytes() {
    let held = Held::new(all(), 1_000);
    let mut fits = body(vec![framed(&[0x0a, 0].repeat(500))], true, &held);
    assert_eq!(next(&mut fits).await.unwrap().unwrap(), 1_005);
    assert!(next(&mut fits).await.is_none());
    let mut large = body(vec![vec![0, 0, 0], vec![3, 0xe9]], true, &held);
    next(&mut large).await.unwrap().unwrap();
    assert_eq!(next(&mut large).await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn what_all_calls_hold_is_bounded_and_comes_back() {
    let all = Arc::new(Semaphore::new(250));
    let message = || framed(&[0x0a, 93].iter().copied().chain([7; 93]).collect::<Vec<_>>());
    let first = Held::new(Arc::clone(&all), 1_000);
    let mut unary = body(vec![message(), message()], true, &first);
    next(&mut unary).await.unwrap().unwrap();
    next(&mut unary).await.unwrap().unwrap();
    assert_eq!(all.available_permits(), 50, "an unanswered call keeps what it sent");
    let second = Held::new(Arc::clone(&all), 1_000);
    let mut other = body(vec![message()], true, &second);
    assert_eq!(next(&mut other).await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
    drop(unary);
    assert_eq!(all.available_permits(), 50, "a handler works with what its body brought");
    first.answered();
    drop(first);
    assert_eq!(all.available_permits(), 250);
    let stream = Held::new(Arc::clone(&all), 1_000);
    stream.answered();
    let mut long = body((0..100).map(|_| message()).collect(), true, &stream);
    while let Some(frame) = next(&mut long).await {
        frame.unwrap();
    }
    drop((long, stream));
    assert_eq!(all.available_permits(), 250);
}

proptest! {
    #[test]
    fn any_bytes_can_come(bytes: Vec<u8>, size in 1..20_usize) {
        let mut messages = Messages::new(1 << 30);
        for piece in bytes.chunks(size) {
            drop(messages.pass(piece));
        }
    }
}
