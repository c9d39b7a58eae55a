use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_stream::StreamExt;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_socket_has_its_mode_and_directories_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/api.sock");
    let socket = bind_uds(&path, 0o770).unwrap();
    assert_eq!(mode(&path), 0o770);
    assert_eq!(mode(&dir.path().join("a/b")), 0o755);
    assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "nothing but the socket");
    drop(socket);
    assert!(!path.exists(), "removed when dropped");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind, as a crash does");
    let socket = bind_uds(&path, 0o777).unwrap();
    assert!(matches!(bind_uds(&path, 0o777), Err(UdsError::InUse { .. })));
    assert!(StdUnixStream::connect(&path).is_ok(), "the one in use still answers");
    drop(socket);
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind_uds(&path, 0o777), Err(UdsError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    let target = dir.path().join("target");
    drop(std::os::unix::net::UnixListener::bind(&target).unwrap());
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(matches!(bind_uds(&path, 0o777), Err(UdsError::NotASocket { .. })), "a link is not followed");
}

#[tokio::test]
async fn a_socket_that_is_no_longer_ours_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let socket = bind_uds(&path, 0o777).unwrap();
    fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
    drop(other);
}

#[tokio::test]
async fn the_peer_is_known_and_users_have_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let socket = bind_uds(&path, 0o777).unwrap();
    let mut incoming = uds_incoming(socket, UdsLimits { max_connections: 10, max_per_uid: 1 });
    let stats = incoming.stats();
    let _first = UnixStream::connect(&path).await.unwrap();
    let conn = incoming.next().await.unwrap().unwrap();
    let own = nix::unistd::getpid().as_raw();
    let expected = LocalPeer {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        pid: Some(own),
    };
    assert_eq!(*conn.connect_info(), expected);
    let mut second = UnixStream::connect(&path).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), async {
        while stats.refused.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(second.write_all(&[0; 100]).await.is_err() || second.write_all(&[0; 100]).await.is_err());
    drop(conn);
    let _third = UnixStream::connect(&path).await.unwrap();
    drop(incoming.next().await.unwrap().unwrap());
    drop(incoming);
    tokio::time::timeout(Duration::from_secs(30), async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_path_that_is_too_long_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x".repeat(120)).join("api.sock");
    assert!(matches!(bind_uds(&path, 0o777), Err(UdsError::Io { op: "bind", .. })));
}
