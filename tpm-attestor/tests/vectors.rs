//! Evidence recorded from real exchanges, judged without a TPM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_tpm_attestor::verify::{
    AttestKind, BankSelection, EkAnchors, HashAlg, PcrPolicy, PublicArea, check_attestation_key,
    check_certification, check_endorsement_key, check_quote, firmware_text, make_credential,
    signed_attestation, verify_ek_certificate,
};

fn read(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}

fn recorded_at() -> SystemTime {
    let seconds = String::from_utf8(read("swtpm/recorded-at")).unwrap().trim().parse().unwrap();
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn recorded_exchanges_hold() {
    let data: [u8; 32] = HashAlg::Sha256.digest(&[b"hardroot test vector"]).try_into().unwrap();
    let key = PublicArea::parse(&read("swtpm/key.pub")).unwrap();
    let anchors = EkAnchors::from_pem([read("swtpm/manufacturer.pem").as_slice()]).unwrap();
    for kind in ["rsa-2048", "ec-p256", "ec-p384"] {
        let file = |name: &str, end: &str| read(&format!("swtpm/{name}-{kind}.{end}"));
        let ek = PublicArea::parse(&file("ek", "pub")).unwrap();
        check_endorsement_key(&ek).unwrap();
        let ak = PublicArea::parse(&file("ak", "pub")).unwrap();
        check_attestation_key(&ak).unwrap();
        assert!(make_credential(&ek, &ak.name(), &[1; 32]).is_ok());
        let certify = file("certify", "attest");
        let attest = signed_attestation(&ak, &certify, &file("certify", "sig")).unwrap();
        check_certification(&attest, &data, &key, &key.key().spki_der()).unwrap();
        let quote = file("quote", "attest");
        let attest = signed_attestation(&ak, &quote, &file("quote", "sig")).unwrap();
        let values = file("quote", "values");
        let values: Vec<&[u8]> = values.chunks(32).collect();
        let policy = PcrPolicy::new(HashAlg::Sha256, &(0..8).collect::<Vec<u8>>()).unwrap();
        check_quote(&attest, &data, &ak, &policy, &values).unwrap();
        if kind != "ec-p256" {
            let certificate =
                verify_ek_certificate(&file("ek", "der"), &[], &anchors, &ek, recorded_at()).unwrap();
            assert_eq!(certificate.issuer_cn.as_deref(), Some("swtpm-localca"));
            assert_eq!(certificate.vendor.as_deref(), Some("id:00001014"));
            assert_eq!(certificate.model.as_deref(), Some("swtpm"));
        }
    }
}

/// `TPM2B_PUBLIC` as tpm2-tools writes it.
fn public(name: &str) -> PublicArea {
    let bytes = read(name);
    assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
    PublicArea::parse(&bytes[2..]).unwrap()
}

#[test]
fn quotes_of_a_booted_machine_hold() {
    let nonce: [u8; 32] = hex::decode(read("ovmf/nonce.hex").trim_ascii()).unwrap().try_into().unwrap();
    let text = String::from_utf8(read("ovmf/pcrs-sha256.txt")).unwrap();
    let pcr = |n: usize| {
        let line = text.lines().find(|line| line.split(':').next() == Some(&n.to_string())).unwrap();
        hex::decode(line.split(':').nth(1).unwrap()).unwrap()
    };
    let pcrs: Vec<u8> = (0..13).chain([14]).collect();
    let policy = PcrPolicy::new(HashAlg::Sha256, &pcrs).unwrap();
    let values: Vec<Vec<u8>> = pcrs.iter().map(|n| pcr(usize::from(*n))).collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    for kind in ["ecc", "rsa"] {
        let ak = public(&format!("ovmf/ak-{kind}.pub"));
        assert_eq!(ak.name(), read(&format!("ovmf/ak-{kind}.name")));
        let bytes = read(&format!("ovmf/quote-{kind}.msg"));
        let attest = signed_attestation(&ak, &bytes, &read(&format!("ovmf/quote-{kind}.sig"))).unwrap();
        check_attestation_key(&ak).unwrap();
        check_quote(&attest, &nonce, &ak, &policy, &values).unwrap();
        assert_eq!(attest.clock().reset_count, 2);
        assert_eq!(firmware_text(attest.firmware()).split('.').count(), 4);
    }
    // Two banks where one was asked for.
    let ak = public("ovmf/ak-ecc.pub");
    let bytes = read("ovmf/quote-multibank.msg");
    let attest = signed_attestation(&ak, &bytes, &read("ovmf/quote-multibank.sig")).unwrap();
    let AttestKind::Quote { selection, .. } = attest.kind() else { panic!() };
    assert_eq!(
        selection[..],
        [BankSelection { bank: 4, pcrs: 0x91 }, BankSelection { bank: 12, pcrs: 0x91 }]
    );
    let policy = PcrPolicy::new(HashAlg::Sha384, &[0, 4, 7]).unwrap();
    let refusal = check_quote(&attest, &nonce, &ak, &policy, &[&[0; 48][..]; 3]).unwrap_err();
    assert_eq!(refusal.reason.slug(), "pcr_selection_mismatch");
}

#[test]
fn certificates_of_a_booted_machine_hold() {
    let pem = [read("ovmf/ekca-root.pem"), read("ovmf/ekca-issuer.pem")];
    let anchors = EkAnchors::from_pem(pem.iter().map(Vec::as_slice)).unwrap();
    for kind in ["ecc", "rsa"] {
        let ek = public(&format!("ovmf/ek-{kind}.pub"));
        let certificate = read(&format!("ovmf/ekcert-{kind}.der"));
        let judged = verify_ek_certificate(&certificate, &[], &anchors, &ek, recorded_at());
        // The machine's ECC EK is P-256, its certificate is for the P-384 one.
        match (kind, judged) {
            ("rsa", Ok(verified)) => assert_eq!(verified.model.as_deref(), Some("swtpm")),
            ("ecc", Err(refusal)) => assert_eq!(refusal.slug(), "ek_certificate_key_mismatch"),
            other => panic!("{other:?}"),
        }
    }
}
