//! MakeCredential: a secret that only the TPM with this EK gives out, and only to the AK with this name
//! (TPM 2.0 part 1, 24 and annexes B.10 and C.6).

use aws_lc_rs::agreement::{self, EphemeralPrivateKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepPublicEncryptingKey,
    PublicEncryptingKey,
};
use zeroize::Zeroizing;

use crate::verify::{Curve, EvidenceError, HashAlg, PublicArea, PublicKey, Reason};
use crate::wire::put_sized;

/// The label of identity seeds, with its zero byte (part 1, 24.2).
const IDENTITY: &[u8] = b"IDENTITY\0";

/// A credential for TPM2_ActivateCredential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `TPMS_ID_OBJECT`: integrity value and encrypted secret.
    pub id_object: Vec<u8>,
    /// The seed, encrypted to the EK.
    pub encrypted_seed: Vec<u8>,
}

/// Seals `secret` (at most 32 bytes) to an endorsement key and an object's name.
///
/// # Errors
/// The EK is no storage key, its point is not on the curve, or the cryptographic library fails.
pub fn make_credential(ek: &PublicArea, name: &[u8], secret: &[u8]) -> Result<Credential, EvidenceError> {
    let unsupported = |detail: &str| EvidenceError::from(Reason::EkUnsupported.because(detail));
    let bits = ek.symmetric_bits().ok_or_else(|| unsupported("it has no symmetric cipher"))?;
    let hash = ek.name_alg();
    let (seed, encrypted_seed) =
        seed(ek).map_err(|_unspecified| unsupported("nothing can be encrypted to it: its key is invalid"))?;
    let key = kdf_a(hash, &seed, b"STORAGE\0", name, usize::from(bits) / 8);
    let mut encrypted = Vec::with_capacity(secret.len() + 2);
    put_sized(&mut encrypted, secret);
    cfb_encrypt(&key, &mut encrypted).map_err(|_unspecified| unsupported("its cipher is not available"))?;
    let mac_key = kdf_a(hash, &seed, b"INTEGRITY\0", &[], hash.size());
    let mut id_object = Vec::with_capacity(encrypted.len() + hash.size() + 2);
    put_sized(&mut id_object, &hash.hmac(&mac_key, &[&encrypted, name]));
    id_object.extend_from_slice(&encrypted);
    Ok(Credential { id_object, encrypted_seed })
}

/// A seed as long as the name algorithm's digest, and the same encrypted to the EK.
fn seed(ek: &PublicArea) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), Unspecified> {
    let hash = ek.name_alg();
    match ek.key() {
        PublicKey::Rsa { .. } => {
            let mut seed = Zeroizing::new(vec![0; hash.size()]);
            rand::fill(&mut seed)?;
            let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&ek.key().spki_der())?)?;
            let algorithm = match hash {
                HashAlg::Sha256 => &OAEP_SHA256_MGF1SHA256,
                HashAlg::Sha384 => &OAEP_SHA384_MGF1SHA384,
                HashAlg::Sha512 => &OAEP_SHA512_MGF1SHA512,
            };
            let mut encrypted = vec![0; key.ciphertext_size()];
            let length = key.encrypt(algorithm, &seed, &mut encrypted, Some(IDENTITY))?.len();
            encrypted.truncate(length);
            Ok((seed, encrypted))
        }
        PublicKey::Ecc { curve, x, .. } => {
            let algorithm = match curve {
                Curve::P256 => &agreement::ECDH_P256,
                Curve::P384 => &agreement::ECDH_P384,
            };
            let ours = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())?;
            let point = ours.compute_public_key()?;
            let (our_x, our_y) = point
                .as_ref()
                .get(1..)
                .and_then(|xy| xy.split_at_checked(curve.size()))
                .ok_or(Unspecified)?;
            let mut encrypted = Vec::with_capacity(2 * curve.size() + 4);
            put_sized(&mut encrypted, our_x);
            put_sized(&mut encrypted, our_y);
            let theirs = agreement::UnparsedPublicKey::new(algorithm, ek.key().point());
            let seed = agreement::agree_ephemeral(ours, theirs, Unspecified, |z| {
                Ok(Zeroizing::new(kdf_e(hash, z, our_x, x)))
            })?;
            Ok((seed, encrypted))
        }
    }
}

/// KDFa in counter mode (part 1, 11.4.10.2), for keys that one block or two give. `label` ends with its zero byte.
fn kdf_a(hash: HashAlg, key: &[u8], label: &[u8], context: &[u8], bytes: usize) -> Zeroizing<Vec<u8>> {
    let bits = u32::try_from(bytes * 8).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(bytes + hash.size()));
    let mut counter = 0_u32;
    while out.len() < bytes {
        counter += 1;
        out.extend(hash.hmac(key, &[&counter.to_be_bytes(), label, context, &bits]));
    }
    out.truncate(bytes);
    out
}

/// KDFe (part 1, 11.4.10.3) for a seed of one digest.
fn kdf_e(hash: HashAlg, z: &[u8], party_u: &[u8], party_v: &[u8]) -> Vec<u8> {
    hash.digest(&[&1_u32.to_be_bytes(), z, IDENTITY, party_u, party_v])
}

fn cfb_encrypt(key: &[u8], data: &mut [u8]) -> Result<(), Unspecified> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = EncryptingKey::cfb128(UnboundCipherKey::new(algorithm, key)?)?;
    // The key is fresh for each credential, so that the fixed IV of the specification is used once.
    key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from([0; 16])))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kdf_a_gives_as_many_bytes_as_asked() {
        for bytes in [16, 32, 48, 64] {
            assert_eq!(kdf_a(HashAlg::Sha256, b"key", b"STORAGE\0", b"name", bytes).len(), bytes);
        }
    }
}
