//! Endorsement keys as makers leave them in NV, and hierarchies whose owners have set auth values.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use hardroot_emulators::{Hierarchy, Swtpm};
use hardroot_tpm_attestor::device::{Config, EkKind, EndorsementKey, ProofRequest, Tpm, TpmError};
use hardroot_tpm_attestor::verify::{HashAlg, PublicArea, make_credential};
use hardroot_tpm_attestor::wire::put_sized;

/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt (EK Credential Profile B.3).
const LOW: u32 = 0x0003_00b2;
/// The same and userWithAuth (B.4).
const HIGH: u32 = 0x0003_00f2;
/// TPM2_PolicySecret(TPM_RH_ENDORSEMENT).
const POLICY_A: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
const POLICY_B: &str = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0";
const POLICY_B_384: &str =
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12";

/// `TPMT_PUBLIC` of an endorsement key template, with what goes into its unique field.
fn template(kind: EkKind, attributes: u32, unique: &[&[u8]]) -> Vec<u8> {
    let (policy, hash) = match (kind, attributes) {
        (EkKind::EcP384, _) => (POLICY_B_384, 0x0c_u16),
        (_, LOW) => (POLICY_A, 0x0b),
        _ => (POLICY_B, 0x0b),
    };
    let (algorithm, rest): (u16, &[u16]) = match kind {
        EkKind::Rsa2048 => (1, &[6, 128, 0x43, 0x10, 2048, 0, 0]),
        EkKind::EcP256 => (0x23, &[6, 128, 0x43, 0x10, 3, 0x10]),
        EkKind::EcP384 => (0x23, &[6, 256, 0x43, 0x10, 4, 0x10]),
    };
    let mut out = [algorithm.to_be_bytes(), hash.to_be_bytes()].concat();
    out.extend(attributes.to_be_bytes());
    put_sized(&mut out, &hex::decode(policy).unwrap());
    out.extend(rest.iter().flat_map(|number| number.to_be_bytes()));
    for part in unique {
        put_sized(&mut out, part);
    }
    out
}

/// A maker's certificate for the key that a template makes, padded as some are in NV.
fn certificate(chip: &Swtpm, template: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let public = chip.endorsement_public(template).unwrap();
    let spki = PublicArea::parse(&public).unwrap().key().spki_der();
    let key = rcgen::SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let ca = rcgen::Issuer::new(rcgen::CertificateParams::default(), rcgen::KeyPair::generate().unwrap());
    let der = rcgen::CertificateParams::default().signed_by(&key, &ca).unwrap().der().to_vec();
    (public, der)
}

async fn open(chip: &Swtpm) -> Result<Arc<Tpm>, TpmError> {
    Tpm::open(Config::new(chip.tcti().parse().unwrap())).await
}

/// Makes an AK under the key and has it activate a credential and quote.
async fn proves(tpm: &Tpm, ek: &EndorsementKey) -> Result<(), TpmError> {
    let ak = tpm.create_attestation_key(ek).await?;
    let key = tpm.create_signing_key().await?;
    let name = PublicArea::parse(&ak.public).unwrap().name();
    let credential = make_credential(&PublicArea::parse(&ek.public).unwrap(), &name, &[7; 32]).unwrap();
    let request = ProofRequest {
        ek: ek.clone(),
        ak,
        key,
        credential: credential.id_object,
        encrypted_seed: credential.encrypted_seed,
        qualifying_data: [1; 32],
        bank: HashAlg::Sha256,
        pcrs: vec![0, 7],
    };
    assert_eq!(tpm.prove(request).await?.activation.as_slice(), [7; 32]);
    Ok(())
}

#[tokio::test]
async fn certificates_are_found_in_the_low_and_the_high_range() {
    let zero32: &[&[u8]] = &[&[0; 32], &[0; 32]];
    let cases: [(EkKind, u32, u32, &[&[u8]]); 5] = [
        (EkKind::Rsa2048, 0x01c0_0002, LOW, &[&[0; 256]]),
        (EkKind::Rsa2048, 0x01c0_0012, HIGH, &[&[]]),
        (EkKind::EcP256, 0x01c0_000a, LOW, zero32),
        (EkKind::EcP256, 0x01c0_0014, HIGH, &[&[], &[]]),
        (EkKind::EcP384, 0x01c0_0016, HIGH, &[&[], &[]]),
    ];
    for (kind, index, attributes, unique) in cases {
        let chip = Swtpm::start_blank().unwrap();
        let (public, der) = certificate(&chip, &template(kind, attributes, unique));
        chip.provision_nv(index, &[&der[..], &[0xff; 20]].concat()).unwrap();
        let tpm = open(&chip).await.unwrap();
        let ek = tpm.endorsement_key(None).await.unwrap();
        assert_eq!((ek.kind, &ek.public), (kind, &public), "index {index:#x}");
        assert_eq!(ek.certificate, Some(der), "index {index:#x}");
        proves(&tpm, &ek).await.unwrap();
    }
}

#[tokio::test]
async fn the_low_range_comes_before_the_high_one() {
    let chip = Swtpm::start_blank().unwrap();
    let (_, high) = certificate(&chip, &template(EkKind::EcP256, HIGH, &[&[], &[]]));
    let (public, low) = certificate(&chip, &template(EkKind::EcP256, LOW, &[&[0; 32], &[0; 32]]));
    chip.provision_nv(0x01c0_0014, &high).unwrap();
    chip.provision_nv(0x01c0_000a, &low).unwrap();
    let ek = open(&chip).await.unwrap().endorsement_key(None).await.unwrap();
    assert_eq!((ek.public, ek.certificate), (public, Some(low)));
}

#[tokio::test]
async fn templates_and_nonces_in_nv_make_the_key() {
    let nonce = [0x5a; 20];
    let padded = |size: usize| [&nonce[..], &vec![0; size - nonce.len()]].concat();
    let (x, modulus) = (padded(32), padded(256));
    let zero = [0_u8; 32];
    // A maker's own template: it differs from the standard one in the unique field.
    let own_p256 = template(EkKind::EcP256, LOW, &[&[9; 32], &[9; 32]]);
    let own_p384 = template(EkKind::EcP384, HIGH, &[&[9; 48], &[9; 48]]);
    type Index<'a> = (u32, &'a [u8]);
    let cases: [(EkKind, &[Index<'_>], Vec<u8>); 5] = [
        (EkKind::EcP256, &[(0x01c0_000c, &own_p256)], own_p256.clone()),
        (EkKind::EcP256, &[(0x01c0_000b, &nonce)], template(EkKind::EcP256, LOW, &[&x, &zero])),
        (
            EkKind::EcP256,
            &[(0x01c0_000b, &nonce), (0x01c0_000c, &own_p256)],
            template(EkKind::EcP256, LOW, &[&x, &zero]),
        ),
        (EkKind::Rsa2048, &[(0x01c0_0003, &nonce)], template(EkKind::Rsa2048, LOW, &[&modulus])),
        (EkKind::EcP384, &[(0x01c0_0017, &own_p384)], own_p384.clone()),
    ];
    for (number, (kind, indices, wanted)) in cases.into_iter().enumerate() {
        let chip = Swtpm::start_blank().unwrap();
        let tpm = open(&chip).await.unwrap();
        for (index, content) in indices {
            chip.provision_nv(*index, content).unwrap();
        }
        // Without the owner's authority the key cannot be stored: it is made again for each use, by the same template.
        chip.set_auth(Hierarchy::Owner, b"somebody else's").unwrap();
        let ek = tpm.endorsement_key(Some(kind)).await.unwrap();
        assert_eq!(ek.public, chip.endorsement_public(&wanted).unwrap(), "case {number}");
        proves(&tpm, &ek).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_template_is_left_alone() {
    let standard = template(EkKind::EcP256, LOW, &[&[0; 32], &[0; 32]]);
    let mut signing = standard.clone();
    // sign instead of decrypt
    signing[5] ^= 0x06;
    for bad in [&signing[..], &standard[..40], &[0xff; 900]] {
        let chip = Swtpm::start_blank().unwrap();
        chip.provision_nv(0x01c0_000c, bad).unwrap();
        let ek = open(&chip).await.unwrap().endorsement_key(Some(EkKind::EcP256)).await.unwrap();
        assert_eq!(ek.public, chip.endorsement_public(&standard).unwrap());
    }
}

/// A file with an auth value, readable by its owner alone.
fn auth_file(folder: &tempfile::TempDir, value: &str) -> Option<PathBuf> {
    let path = folder.path().join(value.replace(' ', "-"));
    std::fs::write(&path, value).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Some(path)
}

#[tokio::test]
async fn the_owners_auth_value_opens_what_needs_it_and_a_wrong_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let chip = Swtpm::start_blank().unwrap();
    chip.set_auth(Hierarchy::Owner, b"owner secret").unwrap();
    let with = |value: Option<&str>| {
        let mut config = Config::new(chip.tcti().parse().unwrap());
        config.owner_auth_file = value.and_then(|value| auth_file(&folder, value));
        Tpm::open(config)
    };
    for wrong in [None, Some("another secret")] {
        let error = with(wrong).await.unwrap_err();
        assert!(matches!(error, TpmError::AuthRefused { .. }), "{wrong:?}: {error:?}");
    }
    let tpm = with(Some("owner secret")).await.unwrap();
    let ek = tpm.endorsement_key(Some(EkKind::EcP256)).await.unwrap();
    proves(&tpm, &ek).await.unwrap();
    drop(tpm);
    // Both keys are stored now; using them is not the owner's business.
    let tpm = with(None).await.unwrap();
    assert_eq!(tpm.endorsement_key(Some(EkKind::EcP256)).await.unwrap(), ek);
    proves(&tpm, &ek).await.unwrap();
}

#[tokio::test]
async fn the_endorsement_hierarchys_auth_value_opens_its_keys_and_a_wrong_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let chip = Swtpm::start_blank().unwrap();
    chip.set_auth(Hierarchy::Endorsement, b"endorsement secret").unwrap();
    let with = |value: Option<&str>| {
        let mut config = Config::new(chip.tcti().parse().unwrap());
        config.endorsement_auth_file = value.and_then(|value| auth_file(&folder, value));
        Tpm::open(config)
    };
    for wrong in [None, Some("another secret")] {
        let error = with(wrong).await.unwrap().endorsement_key(Some(EkKind::EcP256)).await.unwrap_err();
        assert!(matches!(error, TpmError::AuthRefused { .. }), "{wrong:?}: {error:?}");
    }
    let tpm = with(Some("endorsement secret")).await.unwrap();
    let mut keys = Vec::new();
    for kind in [EkKind::Rsa2048, EkKind::EcP256, EkKind::EcP384] {
        let ek = tpm.endorsement_key(Some(kind)).await.unwrap();
        proves(&tpm, &ek).await.unwrap();
        keys.push(ek);
    }
    drop(tpm);
    // The stored keys of the low range are still used by the hierarchy's authority alone.
    let tpm = with(None).await.unwrap();
    for ek in keys.iter().filter(|ek| ek.kind != EkKind::EcP384) {
        assert!(matches!(proves(&tpm, ek).await.unwrap_err(), TpmError::AuthRefused { .. }), "{}", ek.kind);
    }
}
