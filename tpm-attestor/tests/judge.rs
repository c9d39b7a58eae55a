//! Each rule of attestation, broken once, by a TPM that lies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod soft;

use std::time::{Duration, Instant};

use hardroot_tpm_attestor::verify::{
    Attest, ClockInfo, EvidenceError, HashAlg, PcrPolicy, PublicArea, Purpose, Reason, Signature, Uptime,
    check_activation, check_attestation_key, check_certification, check_certified_key, check_clock,
    check_endorsement_key, check_quote, make_credential, qualifying_data, signed_attestation,
};
use proptest::prelude::*;
use soft::{AK, Attested, EK, KEY, SHA256, SoftTpm, ecc_public};

const NONCE: [u8; 32] = [5; 32];

fn policy() -> PcrPolicy {
    PcrPolicy::new(HashAlg::Sha256, &[0, 7, 9]).unwrap()
}

fn digest() -> Vec<u8> {
    HashAlg::Sha256.digest(&[&[1; 32], &[2; 32], &[3; 32]])
}

fn good_quote() -> Attested {
    Attested::quote(&NONCE, &[(SHA256, &[0x81, 0x02, 0])], &digest())
}

/// The slug with which a quote is refused, or nothing.
fn judge(tpm: &SoftTpm, attested: &Attested) -> String {
    let bytes = attested.encode();
    let ak = tpm.public(AK);
    let judged = signed_attestation(&ak, &bytes, &tpm.sign(&bytes)).and_then(|attest| {
        Ok(check_quote(&attest, &NONCE, &ak, &policy(), &[&[1; 32], &[2; 32], &[3; 32]])?)
    });
    judged.err().map_or_else(String::new, |error| error.slug().to_owned())
}

#[test]
fn quotes_are_judged_field_by_field() {
    let tpm = SoftTpm::new();
    assert_eq!(judge(&tpm, &good_quote()), "");
    // A selection of four bytes says the same as one of three.
    assert_eq!(judge(&tpm, &Attested::quote(&NONCE, &[(SHA256, &[0x81, 2, 0, 0])], &digest())), "");
    let selections: [&[(u16, &[u8])]; 8] = [
        &[],
        &[(SHA256, &[])],
        &[(SHA256, &[0, 0, 0])],
        &[(SHA256, &[0x80, 2, 0])],
        &[(SHA256, &[0x83, 2, 0])],
        &[(4, &[0x81, 2, 0])],
        &[(SHA256, &[0x81, 2, 0]), (4, &[0x81, 2, 0])],
        &[(SHA256, &[0x81, 2, 0]), (SHA256, &[0, 0, 0])],
    ];
    for selection in selections {
        assert_eq!(
            judge(&tpm, &Attested::quote(&NONCE, selection, &digest())),
            "pcr_selection_mismatch",
            "{selection:?}"
        );
    }
    for nonce in [&[6; 32][..], &[], &[5; 31], &[5; 33]] {
        let quote = Attested { extra: nonce.to_vec(), ..good_quote() };
        assert_eq!(judge(&tpm, &quote), "qualifying_data_mismatch");
    }
    let others = Attested::quote(&NONCE, &[(SHA256, &[0x81, 2, 0])], &[0; 32]);
    assert_eq!(judge(&tpm, &others), "pcr_digest_mismatch");
    let short = Attested::quote(&NONCE, &[(SHA256, &[0x81, 2, 0])], &digest()[..31]);
    assert_eq!(judge(&tpm, &short), "pcr_digest_mismatch");
    assert_eq!(judge(&tpm, &Attested { magic: 0xff54_4348, ..good_quote() }), "attest_magic");
    for kind in [0x8014, 0x8015, 0x8016, 0x8019, 0x801a, 0x801c, 0, 0xffff] {
        assert_eq!(judge(&tpm, &Attested { kind, ..good_quote() }), "attest_type", "{kind:#x}");
    }
    // A certification whose bytes say that it is a quote, and the other way round.
    assert_eq!(judge(&tpm, &Attested { kind: 0x8018, ..Attested::certify(&NONCE, &[0; 34]) }), "malformed");
    assert_eq!(judge(&tpm, &Attested::certify(&NONCE, &[0; 34])), "attest_type");
    assert_eq!(judge(&tpm, &Attested { safe: 2, ..good_quote() }), "malformed");
    let many: Vec<(u16, &[u8])> = (0..17).map(|_| (SHA256, &[0x81, 2, 0][..])).collect();
    assert_eq!(judge(&tpm, &Attested::quote(&NONCE, &many, &digest())), "malformed");
    assert_eq!(
        judge(&tpm, &Attested::quote(&NONCE, &[(SHA256, &[0x81, 2, 0, 0, 0])], &digest())),
        "malformed"
    );
}

#[test]
fn values_must_be_as_many_and_as_long_as_selected() {
    let tpm = SoftTpm::new();
    let (bytes, ak) = (good_quote().encode(), tpm.public(AK));
    let attest = Attest::parse(&bytes).unwrap();
    let slug = |values: &[&[u8]]| check_quote(&attest, &NONCE, &ak, &policy(), values).unwrap_err().reason;
    let whole = [[1; 32], [2; 32], [3; 32]].concat();
    assert_eq!(slug(&[&whole]), Reason::PcrDigest, "the same bytes, otherwise divided");
    assert_eq!(slug(&[&whole[..32], &whole[32..96], &[]]), Reason::PcrDigest);
    assert_eq!(slug(&[&[1; 32], &[2; 32]]), Reason::PcrDigest);
    assert_eq!(slug(&[&[2; 32], &[1; 32], &[3; 32]]), Reason::PcrDigest);
}

#[test]
fn certifications_name_exactly_the_key_of_the_request() {
    let (tpm, agent) = (SoftTpm::new(), SoftTpm::new());
    let (ak, key) = (tpm.public(AK), agent.public(KEY));
    let judge = |attested: &Attested, key: &PublicArea, csr: &[u8]| {
        let bytes = attested.encode();
        let attest = signed_attestation(&ak, &bytes, &tpm.sign(&bytes)).unwrap();
        check_certification(&attest, &NONCE, key, csr).err().map(|refusal| refusal.reason)
    };
    let csr = key.key().spki_der();
    let good = Attested::certify(&NONCE, &key.name());
    assert_eq!(judge(&good, &key, &csr), None);
    assert_eq!(
        judge(&good, &key, &SoftTpm::new().public(KEY).key().spki_der()),
        Some(Reason::CsrKeyMismatch)
    );
    assert_eq!(judge(&Attested::certify(&NONCE, &ak.name()), &key, &csr), Some(Reason::CertifiedName));
    assert_eq!(judge(&Attested::certify(&NONCE, &key.name()[2..]), &key, &csr), Some(Reason::CertifiedName));
    assert_eq!(judge(&Attested::certify(&[0; 32], &key.name()), &key, &csr), Some(Reason::QualifyingData));
    assert_eq!(judge(&good_quote(), &key, &csr), Some(Reason::AttestType));
    // The same point with other attributes has another name; with its own name it is refused for the attributes.
    for bit in [0x2, 0x10, 0x20, 0x0001_0000, 0x0002_0000, 0x0004_0000] {
        let weak =
            PublicArea::parse(&ecc_public(SHA256, KEY ^ bit, &[0x18, SHA256], &agent.point())).unwrap();
        assert_eq!(judge(&good, &weak, &csr), Some(Reason::CertifiedName));
        let named = Attested::certify(&NONCE, &weak.name());
        assert_eq!(judge(&named, &weak, &csr), Some(Reason::CertifiedAttributes), "{bit:#x}");
        assert!(check_certified_key(&weak).is_err());
    }
}

#[test]
fn the_aks_own_scheme_decides_how_a_signature_is_verified() {
    let (tpm, other) = (SoftTpm::new(), SoftTpm::new());
    let bytes = good_quote().encode();
    let ak = tpm.public(AK);
    let slug = |signature: &[u8]| signed_attestation(&ak, &bytes, signature).unwrap_err().slug();
    assert!(signed_attestation(&ak, &bytes, &tpm.sign(&bytes)).is_ok());
    assert_eq!(slug(&other.sign(&bytes)), "attest_signature", "the AK of another TPM");
    let mut header = tpm.sign(&bytes);
    header[3] = 0x0c;
    assert_eq!(slug(&header), "signature_scheme_mismatch", "another hash than the scheme's");
    let rsa = [&[0, 0x14, 0, 0x0b, 1, 0][..], &[1; 256]].concat();
    assert_eq!(slug(&rsa), "signature_scheme_mismatch");
    for hash in [[0, 4], [0, 0x10], [0xff, 0xff]] {
        let mut weak = tpm.sign(&bytes);
        weak[2..4].copy_from_slice(&hash);
        assert_eq!(slug(&weak), "malformed", "SHA-1, none and unknown");
    }
    let mut zero = vec![0, 0x18, 0, 0x0b, 0, 32];
    zero.extend([0; 32]);
    zero.extend([0, 32]);
    zero.extend([0; 32]);
    assert_eq!(slug(&zero), "attest_signature");
    for algorithm in [0x05_u8, 0x10, 0x1a, 0x1b, 0x1c] {
        let mut foreign = tpm.sign(&bytes);
        foreign[1] = algorithm;
        assert_eq!(slug(&foreign), "malformed", "HMAC, none, ECDAA, SM2, Schnorr");
    }
    // An AK that is fixed to no scheme would take any.
    let free = PublicArea::parse(&ecc_public(SHA256, AK, &[0x10], &tpm.point())).unwrap();
    let refusal = signed_attestation(&free, &bytes, &tpm.sign(&bytes)).unwrap_err();
    assert_eq!(refusal.slug(), "signature_scheme_mismatch");
    assert_eq!(check_attestation_key(&free).unwrap_err().reason, Reason::AkUnsupported);
}

#[test]
fn each_attribute_of_an_ak_matters() {
    let tpm = SoftTpm::new();
    check_attestation_key(&tpm.public(AK)).unwrap();
    let reason = |attributes| check_attestation_key(&tpm.public(attributes)).unwrap_err().reason;
    assert_eq!(reason(KEY), Reason::AkNotRestricted);
    for bit in [0x2, 0x10, 0x20, 0x0004_0000] {
        assert_eq!(reason(AK ^ bit), Reason::AkAttributes, "{bit:#x} missing");
    }
    let decrypts = ecc_public(SHA256, AK | 0x0002_0000, &[0x18, SHA256], &tpm.point());
    let decrypts = PublicArea::parse(&decrypts).unwrap();
    assert_eq!(check_attestation_key(&decrypts).unwrap_err().reason, Reason::AkAttributes);
    assert!(PublicArea::parse(&ecc_public(4, AK, &[0x18, SHA256], &tpm.point())).is_err(), "named by SHA-1");
    assert!(PublicArea::parse(&ecc_public(SHA256, AK, &[0x18, 4], &tpm.point())).is_err(), "signs SHA-1");
    assert!(
        PublicArea::parse(&ecc_public(SHA256, AK | 1, &[0x18, SHA256], &tpm.point())).is_err(),
        "reserved bit"
    );
    assert!(PublicArea::parse(&ecc_public(SHA256, AK, &[0x1a, SHA256, 0], &tpm.point())).is_err(), "ECDAA");
}

#[test]
fn each_attribute_of_an_ek_matters() {
    let tpm = SoftTpm::new();
    let ek = |attributes| PublicArea::parse(&ecc_public(SHA256, attributes, &[0x10], &tpm.point())).unwrap();
    check_endorsement_key(&ek(EK)).unwrap();
    for attributes in [EK ^ 0x2, EK ^ 0x10, EK ^ 0x20, EK ^ 0x0001_0000, EK ^ 0x0002_0000, EK | 0x0004_0000] {
        assert_eq!(check_endorsement_key(&ek(attributes)).unwrap_err().reason, Reason::EkAttributes);
    }
    assert!(make_credential(&ek(EK), &[0; 34], &[0; 32]).is_ok());
    // A point that is on no curve gets no credential.
    let mut point = tpm.point();
    point[40] ^= 1;
    let nowhere = PublicArea::parse(&ecc_public(SHA256, EK, &[0x10], &point)).unwrap();
    assert_eq!(make_credential(&nowhere, &[0; 34], &[0; 32]).unwrap_err().slug(), "ek_unsupported");
    assert_eq!(make_credential(&tpm.public(AK), &[0; 34], &[0; 32]).unwrap_err().slug(), "ek_unsupported");
}

#[test]
fn names_follow_from_the_bytes_and_encodings_are_canonical() {
    let tpm = SoftTpm::new();
    let bytes = ecc_public(SHA256, AK, &[0x18, SHA256], &tpm.point());
    let name = PublicArea::parse(&bytes).unwrap().name();
    assert_eq!(name, [&[0, 0x0b][..], &HashAlg::Sha256.digest(&[&bytes])].concat());
    for length in 0..bytes.len() {
        assert!(PublicArea::parse(&bytes[..length]).is_err(), "cut at {length}");
    }
    assert_eq!(PublicArea::parse(&[&bytes[..], &[0]].concat()).unwrap_err().reason, "trailing bytes");
    let policy = [&bytes[..8], &[0, 31], &[0; 31], &bytes[10..]].concat();
    assert!(PublicArea::parse(&policy).is_err(), "a policy of another size");
    // RSA: size, exponent and modulus.
    let rsa = |bits: u16, exponent: u32, modulus: &[u8]| {
        let mut out = vec![0, 1, 0, 0x0b, 0, 5, 4, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b];
        out.extend(bits.to_be_bytes());
        out.extend(exponent.to_be_bytes());
        out.extend(u16::try_from(modulus.len()).unwrap().to_be_bytes());
        out.extend_from_slice(modulus);
        PublicArea::parse(&out).is_ok()
    };
    assert!(rsa(2048, 0, &[0xff; 256]) && rsa(4096, 65537, &[0xff; 512]));
    assert!(!rsa(1024, 0, &[0xff; 128]) && !rsa(8192, 0, &[0xff; 1024]) && !rsa(2048, 3, &[0xff; 256]));
    assert!(!rsa(2048, 0, &[0x7f; 256]) && !rsa(2048, 0, &[0xff; 255]) && !rsa(2048, 0, &[0xfe; 256]));
}

#[test]
fn cut_and_padded_structures_are_refused_quickly() {
    let tpm = SoftTpm::new();
    let bytes = good_quote().encode();
    let signature = tpm.sign(&bytes);
    let started = Instant::now();
    for length in 0..bytes.len() {
        assert!(Attest::parse(&bytes[..length]).is_err());
    }
    for length in 0..signature.len() {
        assert!(Signature::parse(&signature[..length]).is_err());
    }
    assert!(Attest::parse(&[&bytes[..], &[0]].concat()).is_err());
    assert!(Signature::parse(&[&signature[..], &[0]].concat()).is_err());
    assert!(Attest::parse(&[0xff; 2000]).is_err() && Signature::parse(&[0; 2000]).is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "hundreds of refusals");
}

#[test]
fn the_qualifying_data_binds_everything() {
    let make = |purpose, nonce: &[u8; 32], domain: &str, key: &[u8], policy: &[u8]| {
        qualifying_data(purpose, nonce, domain, key, policy)
    };
    let base = make(Purpose::Attest, &NONCE, "example.org", b"key", b"policy");
    for other in [
        make(Purpose::Renew, &NONCE, "example.org", b"key", b"policy"),
        make(Purpose::Attest, &[6; 32], "example.org", b"key", b"policy"),
        make(Purpose::Attest, &NONCE, "example.com", b"key", b"policy"),
        make(Purpose::Attest, &NONCE, "example.org", b"kez", b"policy"),
        make(Purpose::Attest, &NONCE, "example.org", b"key", b"policz"),
        make(Purpose::Attest, &NONCE, "example.orgk", b"ey", b"policy"),
    ] {
        assert_ne!(base, other);
    }
    assert_eq!(base, make(Purpose::Attest, &NONCE, "example.org", b"key", b"policy"));
}

#[test]
fn the_activated_secret_is_the_whole_secret() {
    check_activation(&[7; 32], &[7; 32]).unwrap();
    for wrong in [&[7; 31][..], &[7; 33], &[], &[8; 32]] {
        assert_eq!(check_activation(&[7; 32], wrong).unwrap_err().reason, Reason::ActivationMismatch);
    }
}

#[test]
fn the_clock_only_moves_forward() {
    let at = |reset_count, restart_count, clock, safe| ClockInfo { clock, reset_count, restart_count, safe };
    let before = at(5, 2, 1000, true);
    assert_eq!(check_clock(before, at(5, 2, 1000, true)).unwrap(), Uptime::Continuous);
    assert_eq!(check_clock(before, at(5, 2, 2000, true)).unwrap(), Uptime::Continuous);
    for interrupted in
        [at(6, 0, 10, true), at(6, 0, 2000, false), at(5, 3, 2000, true), at(5, 2, 2000, false)]
    {
        assert_eq!(check_clock(before, interrupted).unwrap(), Uptime::Interrupted);
    }
    for back in [
        at(4, 9, 9000, true),
        at(5, 1, 9000, true),
        at(5, 2, 999, true),
        at(5, 3, 999, true),
        at(0, 0, 0, true),
    ] {
        assert_eq!(check_clock(before, back).unwrap_err().reason, Reason::ClockRollback, "{back:?}");
    }
}

#[test]
fn slugs_are_unique_and_plain() {
    let slugs: Vec<_> = Reason::ALL.iter().map(|reason| reason.slug()).collect();
    let mut unique = slugs.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), slugs.len());
    assert!(slugs.iter().all(|slug| slug.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
}

fn mutated(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    (Just(good), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<u8>())
        .prop_map(|(mut bytes, changes, cut)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cut < 40 {
                bytes.truncate(bytes.len() - usize::from(cut).min(bytes.len()));
            }
            bytes
        })
}

fn point() -> Vec<u8> {
    [&[4][..], &[9; 64]].concat()
}

proptest! {
    #[test]
    fn a_decoded_public_area_keeps_its_bytes(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            mutated(ecc_public(SHA256, AK, &[0x18, SHA256], &point())),
            mutated(ecc_public(SHA256, EK, &[0x10], &point())),
        ]
    ) {
        if let Ok(public) = PublicArea::parse(&bytes) {
            prop_assert_eq!(public.as_bytes(), &bytes[..]);
            prop_assert_eq!(public.name().len(), 2 + public.name_alg().size());
            prop_assert!(PublicArea::parse(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn any_bytes_are_an_attestation_or_an_error(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            mutated(good_quote().encode()),
            mutated(Attested::certify(&NONCE, &[3; 34]).encode()),
        ]
    ) {
        match Attest::parse(&bytes) {
            Ok(attest) => {
                prop_assert!(attest.extra_data().len() <= 64);
                prop_assert!(Attest::parse(&bytes[..bytes.len() - 1]).is_err());
            }
            Err(EvidenceError::Malformed(_) | EvidenceError::Rejected(_)) => {}
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn any_bytes_are_a_signature_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let ak = PublicArea::parse(&ecc_public(SHA256, AK, &[0x18, SHA256], &point())).unwrap();
        if let Ok(signature) = Signature::parse(&bytes) {
            prop_assert!(signature.verify(&ak, b"message").is_err());
        }
    }

    #[test]
    fn policies_are_ascending_pcrs_below_24(pcrs in proptest::collection::vec(any::<u8>(), 0..6)) {
        let fits = !pcrs.is_empty() && pcrs.iter().all(|pcr| *pcr < 24) && pcrs.windows(2).all(|w| w[0] < w[1]);
        prop_assert_eq!(PcrPolicy::new(HashAlg::Sha256, &pcrs).is_some(), fits);
    }
}
