use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwapOption;
use nix::errno::Errno;

use super::*;
use crate::bundles::BundleSet;
use crate::config::server_config;

/// Fails with each of these, then accepts like the listener it wraps.
struct Failing(VecDeque<Errno>, TcpListener);

impl Accept for Failing {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match self.0.pop_front() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno as i32)),
            None => self.1.accept().await,
        }
    }
}

#[tokio::test]
async fn accept_errors_never_end_the_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let errors =
        [Errno::EMFILE, Errno::ECONNABORTED, Errno::ENFILE, Errno::ENOBUFS, Errno::EPERM, Errno::EINVAL];
    let config = server_config(std::sync::Arc::new(ArcSwapOption::empty()), Arc::new(BundleSet::default()));
    let incoming =
        incoming(Failing(errors.into(), listener), config, Limits::default(), Arc::new(FirstCome::default()));
    let stats = incoming.stats();
    // No identity: the handshake fails, which shows that the connection was accepted after all the errors.
    drop(TcpStream::connect(addr).await.unwrap());
    tokio::time::timeout(Duration::from_secs(30), async {
        while stats.failed_handshakes.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(stats.accept_errors.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn dropping_the_stream_closes_the_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let config = server_config(std::sync::Arc::new(ArcSwapOption::empty()), Arc::new(BundleSet::default()));
    drop(tls_incoming(listener, config, Limits::default()));
    tokio::time::timeout(Duration::from_secs(30), async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}
