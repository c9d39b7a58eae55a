//! The emulated TPM behaves like a chip: certificates, counters, copies and faults.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use hardroot_emulators::{Fault, Manufacturer, Shutdown, Swtpm, TpmProxy, code};

/// TPM2_NV_ReadPublic(index)
fn nv_read_public(index: u32) -> Vec<u8> {
    [&[0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x69][..], &index.to_be_bytes()].concat()
}

/// TPM2_ReadClock: reset count and restart count.
fn counters(tpm: &Swtpm) -> (u32, u32) {
    let answer = tpm.command(&[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81]).unwrap();
    assert_eq!(answer[6..10], [0; 4]);
    let word = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
    (word(26), word(30))
}

fn rc(answer: &[u8]) -> u32 {
    u32::from_be_bytes(answer[6..10].try_into().unwrap())
}

fn ask(tcti: &str, command: &[u8]) -> std::io::Result<Vec<u8>> {
    let ip: Ipv4Addr = tcti.split(['=', ',']).nth(1).unwrap().parse().unwrap();
    let mut stream = TcpStream::connect((ip, 2321))?;
    stream.write_all(command)?;
    let mut answer = vec![0; 10];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_manufactured_tpm_has_ek_certificates_of_its_maker() {
    let tpm = Swtpm::start().unwrap();
    assert_eq!(rc(&tpm.command(&nv_read_public(0x01c0_0002)).unwrap()), 0, "RSA-2048 EK certificate");
    assert_eq!(rc(&tpm.command(&nv_read_public(0x01c0_0016)).unwrap()), 0, "P-384 EK certificate");
    assert!(tpm.ca_pem().unwrap().matches("BEGIN CERTIFICATE").count() == 2);
    let blank = Swtpm::start_blank().unwrap();
    assert_ne!(rc(&blank.command(&nv_read_public(0x01c0_0002)).unwrap()), 0);
    assert_ne!(blank.address(), tpm.address());
}

#[test]
fn tpms_share_their_manufacturer_unless_asked_otherwise() {
    let (one, two) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    assert_eq!(one.ca_pem().unwrap(), two.ca_pem().unwrap());
    let other = Manufacturer::new().unwrap().make_tpm().unwrap();
    assert_ne!(one.ca_pem().unwrap(), other.ca_pem().unwrap());
}

#[test]
fn a_restart_moves_the_reset_counter_and_keeps_the_state() {
    let mut tpm = Swtpm::start_blank().unwrap();
    let (before, _) = counters(&tpm);
    tpm.restart(Shutdown::Orderly).unwrap();
    let (after, _) = counters(&tpm);
    assert_eq!(after, before + 1);
    tpm.restart(Shutdown::PowerCut).unwrap();
    assert_eq!(counters(&tpm).0, before + 2);
    let copy = tpm.duplicate().unwrap();
    assert_eq!(counters(&copy).0, before + 3, "a copy starts from the copied state");
}

#[test]
fn the_proxy_counts_and_injects_faults() {
    let tpm = Swtpm::start_blank().unwrap();
    let proxy = TpmProxy::before(&tpm).unwrap();
    let read_clock = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81];
    assert_eq!(rc(&ask(&proxy.tcti(), &read_clock).unwrap()), 0);
    assert_eq!(rc(&ask(&proxy.tcti(), &read_clock).unwrap()), 0);
    assert_eq!((proxy.count(0x181), proxy.total(), proxy.private_key_operations()), (2, 2, 0));
    proxy.inject(Some(0x181), Fault::ResponseCode(0x922), 1);
    assert_eq!(rc(&ask(&proxy.tcti(), &read_clock).unwrap()), 0x922);
    assert_eq!(rc(&ask(&proxy.tcti(), &read_clock).unwrap()), 0);
    proxy.inject(None, Fault::Disconnect, 1);
    assert!(ask(&proxy.tcti(), &read_clock).is_err());
    proxy.inject(Some(0x181), Fault::Hang, 1);
    let tcti = proxy.tcti();
    let held = std::thread::spawn(move || ask(&tcti, &[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81]).unwrap());
    while proxy.count(0x181) < 6 {
        std::thread::yield_now();
    }
    assert!(!held.is_finished());
    proxy.release();
    assert_eq!(rc(&held.join().unwrap()), 0);
    assert_eq!(proxy.count(code::SIGN), 0);
}

#[test]
fn a_stopped_tpm_is_silent_until_it_starts_again() {
    let mut tpm = Swtpm::start_blank().unwrap();
    tpm.stop(Shutdown::Orderly).unwrap();
    assert!(tpm.command(&nv_read_public(1)).is_err());
    tpm.start_again().unwrap();
    assert!(tpm.command(&nv_read_public(1)).is_ok());
}
