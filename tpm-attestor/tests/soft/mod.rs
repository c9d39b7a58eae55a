//! A TPM that lies: it signs whatever it is told, with a key that looks as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a helper of tests; each file uses its part"
)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use hardroot_tpm_attestor::verify::PublicArea;
use hardroot_tpm_attestor::wire::put_sized;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
pub const AK: u32 = 0x0005_0472;
/// As [`AK`], but not restricted.
pub const KEY: u32 = 0x0004_0472;
/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
pub const EK: u32 = 0x0003_00b2;
pub const SHA256: u16 = 0x000b;

/// `TPMT_PUBLIC` of a P-256 key: an ECDSA signing key, or a storage key if the decrypt bit is set.
pub fn ecc_public(name_alg: u16, attributes: u32, scheme: &[u16], point: &[u8]) -> Vec<u8> {
    let mut out = vec![0x00, 0x23];
    out.extend(name_alg.to_be_bytes());
    out.extend(attributes.to_be_bytes());
    put_sized(&mut out, &[]);
    let symmetric: &[u16] = if attributes & 0x20000 == 0 { &[0x10] } else { &[6, 128, 0x43] };
    for number in symmetric.iter().chain(scheme).chain(&[3, 0x10]) {
        out.extend(number.to_be_bytes());
    }
    put_sized(&mut out, &point[1..33]);
    put_sized(&mut out, &point[33..65]);
    out
}

pub struct SoftTpm {
    sha256: EcdsaKeyPair,
}

impl SoftTpm {
    pub fn new() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self { sha256: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap() }
    }

    pub fn point(&self) -> Vec<u8> {
        self.sha256.public_key().as_ref().to_vec()
    }

    pub fn public(&self, attributes: u32) -> PublicArea {
        PublicArea::parse(&ecc_public(SHA256, attributes, &[0x18, SHA256], &self.point())).unwrap()
    }

    /// `TPMT_SIGNATURE`, ECDSA with SHA-256.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        Self::encode(SHA256, self.sha256.sign(&SystemRandom::new(), message).unwrap().as_ref())
    }

    fn encode(hash: u16, fixed: &[u8]) -> Vec<u8> {
        let mut out = vec![0x00, 0x18];
        out.extend(hash.to_be_bytes());
        put_sized(&mut out, &fixed[..32]);
        put_sized(&mut out, &fixed[32..]);
        out
    }
}

/// The fields of a `TPMS_ATTEST`.
#[derive(Clone)]
pub struct Attested {
    pub magic: u32,
    pub kind: u16,
    pub extra: Vec<u8>,
    pub safe: u8,
    pub body: Vec<u8>,
}

impl Attested {
    pub fn quote(extra: &[u8], selections: &[(u16, &[u8])], digest: &[u8]) -> Self {
        let mut body = u32::try_from(selections.len()).unwrap().to_be_bytes().to_vec();
        for (bank, bitmap) in selections {
            body.extend(bank.to_be_bytes());
            body.push(u8::try_from(bitmap.len()).unwrap());
            body.extend_from_slice(bitmap);
        }
        put_sized(&mut body, digest);
        Self { magic: 0xff54_4347, kind: 0x8018, extra: extra.to_vec(), safe: 1, body }
    }

    pub fn certify(extra: &[u8], name: &[u8]) -> Self {
        let mut body = Vec::new();
        put_sized(&mut body, name);
        put_sized(&mut body, &[0; 34]);
        Self { magic: 0xff54_4347, kind: 0x8017, extra: extra.to_vec(), safe: 1, body }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.magic.to_be_bytes().to_vec();
        out.extend(self.kind.to_be_bytes());
        put_sized(&mut out, &[0; 34]);
        put_sized(&mut out, &self.extra);
        out.extend(1000_u64.to_be_bytes());
        out.extend([0, 0, 0, 5, 0, 0, 0, 1, self.safe]);
        out.extend(7_u64.to_be_bytes());
        out.extend_from_slice(&self.body);
        out
    }
}
