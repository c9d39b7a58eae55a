//! Loopback addresses that no other test uses: each emulator gets its own `127.x.y.z`, so that ports need no choosing.

use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The port on which an emulated TPM takes commands; its control port is the next one.
pub(crate) const DATA_PORT: u16 = 2321;
/// The control port that belongs to [`DATA_PORT`].
pub(crate) const CONTROL_PORT: u16 = DATA_PORT + 1;

/// An address on which both ports are free right now. Never `127.0.0.1`, where a mistyped TCTI would end up.
pub(crate) fn unused() -> Option<Ipv4Addr> {
    unused_for(&[DATA_PORT, CONTROL_PORT])
}

/// An address on which these ports are free right now.
pub(crate) fn unused_for(ports: &[u16]) -> Option<Ipv4Addr> {
    // The process id spreads processes, the counter spreads emulators within one; a clash is seen and passed by.
    (0..1024)
        .map(|_| candidate(process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
        .find(|ip| ports.iter().all(|port| TcpListener::bind((*ip, *port)).is_ok()))
}

/// Third and second byte from the process id, last byte 2 to 253 from the counter.
fn candidate(pid: u32, n: u32) -> Ipv4Addr {
    let spread = pid.wrapping_add((n / 252).wrapping_mul(7919)) & 0xffff;
    Ipv4Addr::from(0x7f00_0000 | (spread << 8) | (2 + n % 252))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_and_are_never_localhost() {
        let mut seen: Vec<_> = (0..600).map(|n| candidate(77, n)).collect();
        assert!(seen.iter().all(|ip| ip.is_loopback() && *ip != Ipv4Addr::LOCALHOST));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 600);
    }
}
