//! A TCP proxy between a program and a server, whose line can be slow, silent or cut, and lead to another server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::{EmulatorError, io};

/// What the line does with what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It passes on.
    Up,
    /// What the client sends arrives this much later.
    Slow(Duration),
    /// Connections stay open and nothing passes, in either direction.
    Silent,
    /// Connections are cut, new ones too.
    Cut,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    line: Mutex<Line>,
    open: Mutex<Vec<TcpStream>>,
    accepted: AtomicU64,
    passed: AtomicU64,
    ended: AtomicBool,
}

impl Shared {
    fn line(&self) -> Line {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// The proxy; its address is free for the life of the test.
pub struct TcpProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl TcpProxy {
    /// Starts a proxy before `target`, with its line up.
    ///
    /// # Errors
    /// No address can be listened on.
    pub fn start(target: SocketAddr) -> Result<Self, EmulatorError> {
        let ip = crate::address::unused_for(&[target.port()]).unwrap_or(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((ip, 0)).map_err(io("listen for a proxy"))?;
        let address = listener.local_addr().map_err(io("listen for a proxy"))?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            line: Mutex::new(Line::Up),
            open: Mutex::default(),
            accepted: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { shared, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the line, for open connections too.
    pub fn set(&self, line: Line) {
        *self.shared.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
        if line == Line::Cut {
            self.shared.cut();
        }
    }

    /// New connections go to this server from now on; open ones stay where they are.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Bytes that passed so far, in both directions.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// How many connections were asked for.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.cut();
        // Wakes the thread that accepts.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        if shared.line() == Line::Cut {
            continue;
        }
        let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { continue };
        // Nothing waits here for more to come.
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        for (from, to, slows) in [(&client, &server, true), (&server, &client, false)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let shared = Arc::clone(shared);
            thread::spawn(move || pump(from, to, &shared, slows));
        }
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend([client, server]);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, slows: bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        while shared.line() == Line::Silent && !shared.ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
        if let (true, Line::Slow(delay)) = (slows, shared.line()) {
            thread::sleep(delay);
        }
        let whole = buffer.get(..count).unwrap_or_default();
        shared.passed.fetch_add(u64::try_from(count).unwrap_or_default(), Ordering::SeqCst);
        if shared.line() == Line::Cut || to.write_all(whole).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
