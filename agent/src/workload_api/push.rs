//! The bodies of calls that stay open. A message is encoded once, and all calls that send it share its bytes: a
//! thousand streams hold one copy of a key, and that one is wiped.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use prost::Message;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::answers;
use super::session::Session;
use crate::locked::LockedPages;
use crate::source::WorkloadUpdate;

/// Which message a call sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    X509Svids,
    X509Bundles,
    JwtBundles,
}

/// What one update looks like on the wire, made when the first call needs it.
#[derive(Default)]
pub struct Encoded {
    made: Mutex<[Option<Bytes>; 3]>,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded").finish_non_exhaustive()
    }
}

/// The bytes of a message, wiped when the last call has sent them.
struct Wiped {
    bytes: Zeroizing<Vec<u8>>,
    // Dropped after the bytes, so that they are wiped before their pages may be swapped.
    _locked: LockedPages,
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message behind gRPC's prefix: not compressed, and its length.
fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let too_long = |_| Status::new(Code::Unavailable, "the answer is too long");
    let prefix = u32::try_from(length).map_err(too_long)?.to_be_bytes();
    // Exactly as long as it gets, so that it never moves and leaves a trace.
    let mut bytes = Zeroizing::new(Vec::with_capacity(5 + length));
    bytes.push(0);
    bytes.extend_from_slice(&prefix);
    message.encode(&mut *bytes).map_err(|_full| Status::new(Code::Unavailable, "the answer is too long"))?;
    let locked = LockedPages::of(&bytes);
    Ok(Bytes::from_owner(Wiped { bytes, _locked: locked }))
}

/// Makes the bytes of a message from an update.
type Make = fn(&WorkloadUpdate) -> Result<Bytes, Status>;

impl Kind {
    fn encode(self, update: &WorkloadUpdate) -> Result<Bytes, Status> {
        let mut made = update.encoded.made.lock().unwrap_or_else(PoisonError::into_inner);
        let [svids, bundles, jwt] = &mut *made;
        let (kept, make): (_, Make) = match self {
            Self::X509Svids => (svids, |update| {
                let mut message = answers::x509_svid(update)?;
                let framed = framed(&message);
                for svid in &mut message.svids {
                    drop(Zeroizing::new(std::mem::take(&mut svid.x509_svid_key)));
                }
                framed
            }),
            Self::X509Bundles => (bundles, |update| framed(&answers::x509_bundles(update)?)),
            Self::JwtBundles => (jwt, |update| framed(&answers::jwt_bundles(update)?)),
        };
        if let Some(bytes) = kept {
            return Ok(bytes.clone());
        }
        Ok(kept.insert(make(update)?).clone())
    }
}

/// A session on its way from the protocol's handler to the connection, which makes the body of it.
#[derive(Clone)]
pub(super) struct Push(Arc<Mutex<Option<Started>>>);

/// A session and what it pushes.
type Started = (Box<Session>, Kind);

impl Push {
    pub(super) fn new(session: Session, kind: Kind) -> Self {
        Self(Arc::new(Mutex::new(Some((Box::new(session), kind)))))
    }

    /// The body, which holds `guard` until it is dropped.
    pub(super) fn body<G: Send + Unpin + 'static>(&self, guard: G) -> Updates<G> {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let state = match started {
            Some((session, kind)) => State::Waiting(Box::pin(next(session, kind, Bytes::new()))),
            None => State::Ended,
        };
        Updates { state, _guard: guard }
    }
}

type Next = Result<(Box<Session>, Kind, Bytes), Status>;

/// The next message that differs from the last.
async fn next(mut session: Box<Session>, kind: Kind, last: Bytes) -> Next {
    loop {
        let update = session.next().await?;
        let bytes = kind.encode(&update)?;
        if bytes != last {
            return Ok((session, kind, bytes));
        }
    }
}

/// Messages made of a session's updates, until it ends with a status.
pub(super) struct Updates<G> {
    state: State,
    _guard: G,
}

enum State {
    Waiting(Pin<Box<dyn Future<Output = Next> + Send>>),
    Ended,
}

impl<G: Unpin> Body for Updates<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let State::Waiting(waiting) = &mut self.state else { return Poll::Ready(None) };
        match ready!(waiting.as_mut().poll(cx)) {
            Ok((session, kind, bytes)) => {
                self.state = State::Waiting(Box::pin(next(session, kind, bytes.clone())));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Err(status) => {
                self.state = State::Ended;
                let mut trailers = HeaderMap::new();
                Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hardroot_api::workload::X509BundlesResponse;

    use super::*;

    #[test]
    fn a_message_is_framed_as_grpc_wants_it() {
        let message = X509BundlesResponse { crl: vec![vec![7; 300]], bundles: Default::default() };
        let bytes = framed(&message).unwrap();
        assert_eq!(bytes[..5], [0, 0, 0, 1, 47]);
        assert_eq!(bytes.len(), 5 + 303);
        assert_eq!(X509BundlesResponse::decode(&bytes[5..]).unwrap(), message);
    }

    #[test]
    fn a_message_is_made_once_for_all() {
        let mut bundle =
            hardroot_identity::Bundle::new(hardroot_identity::TrustDomain::new("example.org").unwrap());
        bundle.x509_authorities.push(hardroot_identity::X509Authority { der: vec![1], tainted: false });
        let trust_domain = bundle.trust_domain.clone();
        let update = WorkloadUpdate {
            identities: vec![],
            bundles: Arc::new([(trust_domain.clone(), Arc::new(bundle))].into()),
            trust_domain,
            encoded: Encoded::default(),
        };
        let (one, two) =
            (Kind::X509Bundles.encode(&update).unwrap(), Kind::X509Bundles.encode(&update).unwrap());
        assert_eq!(one.as_ptr(), two.as_ptr());
        assert_ne!(one, Kind::JwtBundles.encode(&update).unwrap());
        assert_eq!(
            Kind::X509Svids.encode(&update).unwrap_err().code(),
            Code::Unavailable,
            "no identity in it"
        );
    }
}
