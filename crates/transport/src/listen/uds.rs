//! The local listener: plaintext over a UNIX socket; the kernel says who is there.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::accept::{Backoff, ListenStats, Place, Places, Throttle};
use super::authority::MendedAuthority;
use crate::through::writes_through;

/// Directories that are missing above a socket are made with this mode: anybody may pass, only we may write.
const DIRECTORY_MODE: u32 = 0o755;

/// Why a local socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UdsError {
    /// Something that is no socket has that name.
    #[error("{} is there and is no socket; remove it or choose another socket path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("another process serves {} already; stop it first", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{op} for the socket {} failed: {cause}", path.display())]
    Io {
        /// The operation.
        op: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// Bounds of a local listener.
#[derive(Debug, Clone)]
pub struct UdsLimits {
    /// Open connections in all.
    pub max_connections: usize,
    /// Open connections per user id.
    pub max_per_uid: usize,
}

impl Default for UdsLimits {
    fn default() -> Self {
        Self { max_connections: 4_096, max_per_uid: 2_048 }
    }
}

/// Who connected to a local socket (`SO_PEERCRED`: as of connect(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPeer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id in our PID namespace, if it has one there.
    pub pid: Option<i32>,
}

/// A listening local socket; dropping it removes the file, if it is still ours.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl BoundSocket {
    /// The listener, to accept from.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket could not be removed");
        }
    }
}

/// Makes what is missing of `directory`, open for others to pass whatever the umask says; what is there keeps
/// its mode.
fn make_directories(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        directory.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    for part in missing.into_iter().rev() {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(part) {
            Ok(()) => fs::set_permissions(part, Permissions::from_mode(DIRECTORY_MODE))?,
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens a local socket at `path` with `mode` (such as 0o777 for workloads, 0o770 for administrators).
/// Missing directories are made with mode 0755. A socket that nobody answers is replaced; anything else that
/// has the name is left alone and is an error. The socket appears under its name with its final mode, and
/// ready to be connected to.
///
/// # Errors
/// See [`UdsError`].
pub fn bind_uds(path: &Path, mode: u32) -> Result<BoundSocket, UdsError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let failed = |op| move |cause| UdsError::Io { op, path: path.to_owned(), cause };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directories(directory).map_err(failed("making the directory"))?;
    refuse_if_taken(path)?;
    // Bound under a name nobody knows, so that nobody connects before the mode is right.
    let hidden =
        directory.join(format!(".{:x}{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    if let Err(error) = fs::remove_file(&hidden)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed("removing what a former process left")(error));
    }
    let listener = UnixListener::bind(&hidden).map_err(failed("bind"))?;
    let named = fs::set_permissions(&hidden, Permissions::from_mode(mode))
        .and_then(|()| fs::symlink_metadata(&hidden))
        .and_then(|meta| fs::rename(&hidden, path).map(|()| meta));
    match named {
        Ok(meta) => {
            let file = SocketFile { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
            Ok(BoundSocket { listener, file })
        }
        Err(cause) => {
            drop(fs::remove_file(&hidden));
            Err(failed("naming it")(cause))
        }
    }
}

fn refuse_if_taken(path: &Path) -> Result<(), UdsError> {
    let failed = |op| move |cause| UdsError::Io { op, path: path.to_owned(), cause };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at what is there")(error)),
    };
    if !found.file_type().is_socket() {
        return Err(UdsError::NotASocket { path: path.to_owned() });
    }
    match StdUnixStream::connect(path) {
        Ok(_answered) => Err(UdsError::InUse { path: path.to_owned() }),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(failed("asking whether somebody answers")(error)),
    }
}

/// A local connection.
#[derive(Debug)]
pub struct UdsConn {
    stream: MendedAuthority<UnixStream>,
    peer: Arc<LocalPeer>,
    _place: Place<u32>,
}

impl Connected for UdsConn {
    type ConnectInfo = Arc<LocalPeer>;

    fn connect_info(&self) -> Arc<LocalPeer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for UdsConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

writes_through!(UdsConn);

/// A stream of local connections, for `serve_with_incoming`. It never yields an error and ends only with its
/// runtime; dropping it closes the socket and removes its file.
#[derive(Debug)]
pub struct UdsIncoming {
    ready: mpsc::Receiver<UdsConn>,
    stats: Arc<ListenStats>,
}

impl UdsIncoming {
    /// The listener's counters.
    #[must_use]
    pub fn stats(&self) -> Arc<ListenStats> {
        Arc::clone(&self.stats)
    }
}

impl Stream for UdsIncoming {
    type Item = io::Result<UdsConn>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|conn| conn.map(Ok))
    }
}

/// Accepts from a socket made by [`bind_uds`].
#[must_use]
pub fn uds_incoming(socket: BoundSocket, limits: UdsLimits) -> UdsIncoming {
    let (sender, ready) = mpsc::channel(64);
    let stats = Arc::new(ListenStats::default());
    tokio::spawn(accept_loop(socket, limits, Arc::clone(&stats), sender));
    UdsIncoming { ready, stats }
}

async fn accept_loop(
    socket: BoundSocket,
    limits: UdsLimits,
    stats: Arc<ListenStats>,
    sender: mpsc::Sender<UdsConn>,
) {
    let places = Places::new(limits.max_connections, limits.max_per_uid);
    let (mut backoff, full, failing) = (Backoff::default(), Throttle::default(), Throttle::default());
    loop {
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = socket.listener.accept() => accepted,
        };
        let (stream, peer) = match accepted.and_then(|(stream, _)| Ok((peer_of(&stream)?, stream))) {
            Ok((peer, stream)) => (stream, peer),
            Err(error) => {
                ListenStats::count(&stats.accept_errors);
                if let Some(held_back) = failing.speak() {
                    let path = socket.path().display();
                    tracing::warn!(socket = %path, %error, held_back, "a connection could not be accepted; the listener goes on");
                }
                if let Some(wait) = backoff.after(&error) {
                    tokio::time::sleep(wait).await;
                }
                continue;
            }
        };
        backoff.reset();
        let Some(place) = places.take(peer.uid) else {
            ListenStats::count(&stats.refused);
            if let Some(held_back) = full.speak() {
                tracing::warn!(
                    uid = peer.uid,
                    pid = peer.pid,
                    held_back,
                    max_connections = limits.max_connections,
                    max_per_uid = limits.max_per_uid,
                    "local connection closed: too many are open"
                );
            }
            continue;
        };
        ListenStats::count(&stats.accepted);
        let conn = UdsConn { stream: MendedAuthority::new(stream), peer: Arc::new(peer), _place: place };
        if sender.send(conn).await.is_err() {
            return;
        }
    }
}

fn peer_of(stream: &UnixStream) -> io::Result<LocalPeer> {
    let credentials = stream.peer_cred()?;
    Ok(LocalPeer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
}

#[cfg(test)]
mod tests;
