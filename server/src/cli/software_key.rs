//! The one place where the server's program makes keys outside of a key manager: for whoever mints an SVID and
//! carries it away. Such a key is the caller's, never the server's.

use std::fmt::Write as _;

use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::{
    DistinguishedName, SignatureAlgorithm, SpiffeId, assemble_csr, csr_to_be_signed_with_names,
};
use x509_parser::asn1_rs::{Any, FromDer as _, Integer, Sequence};
use zeroize::Zeroizing;

use super::CliError;

enum Pair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A private key in memory. Wiped when dropped.
pub(super) struct SoftwareKey {
    pair: Pair,
    pkcs8: Zeroizing<Vec<u8>>,
    spki_der: Vec<u8>,
}

fn no_key(_: Unspecified) -> CliError {
    CliError::Outcome("unable to generate key: the system gives no randomness".to_owned())
}

impl SoftwareKey {
    /// Makes one.
    pub(super) fn generate(kind: KeyType) -> Result<Self, CliError> {
        Self::try_generate(kind).map_err(no_key)
    }

    fn try_generate(kind: KeyType) -> Result<Self, Unspecified> {
        let (pair, pkcs8) = match kind {
            KeyType::EcP256 => {
                let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
                let pkcs8 = Zeroizing::new(key.to_pkcs8v1()?.as_ref().to_vec());
                (Pair::P256(key), pkcs8)
            }
            KeyType::EcP384 => {
                let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?;
                let pkcs8 = Zeroizing::new(key.to_pkcs8v1()?.as_ref().to_vec());
                (Pair::P384(key), pkcs8)
            }
            KeyType::Rsa2048 | KeyType::Rsa4096 => {
                let size = if kind == KeyType::Rsa2048 { KeySize::Rsa2048 } else { KeySize::Rsa4096 };
                let key = RsaKeyPair::generate(size)?;
                let der: Pkcs8V1Der<'_> = key.as_der()?;
                let pkcs8 = Zeroizing::new(der.as_ref().to_vec());
                (Pair::Rsa(key), pkcs8)
            }
        };
        let public: PublicKeyX509Der<'_> = match &pair {
            Pair::P256(key) | Pair::P384(key) => key.public_key().as_der()?,
            Pair::Rsa(key) => key.public_key().as_der()?,
        };
        let spki_der = public.as_ref().to_vec();
        Ok(Self { pair, pkcs8, spki_der })
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub(super) fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// PKCS#8, DER.
    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// A CSR for this identity, without a subject, signed with this key. For EC keys.
    pub(super) fn csr(&self, id: &SpiffeId, dns_names: &[String]) -> Result<Vec<u8>, CliError> {
        let subject = DistinguishedName::default().to_der();
        let message = csr_to_be_signed_with_names(&subject, &self.spki_der, dns_names, Some(id.as_str()));
        let (key, algorithm) = match &self.pair {
            Pair::P256(key) => (key, SignatureAlgorithm::EcdsaSha256),
            Pair::P384(key) => (key, SignatureAlgorithm::EcdsaSha384),
            Pair::Rsa(_) => return Err(no_key(Unspecified)),
        };
        let signature = key.sign(&SystemRandom::new(), &message).map_err(no_key)?;
        Ok(assemble_csr(&message, algorithm, signature.as_ref()))
    }

    /// PKCS#8, PEM.
    pub(super) fn pem(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(STANDARD.encode(&*self.pkcs8));
        // Room for all of it: a text that grows leaves copies of itself behind.
        let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    /// The private key as JWK (RFC 7518 6.2.2, 6.3.2), members in the order of SPIRE's command.
    pub(super) fn jwk(&self) -> Result<Zeroizing<String>, CliError> {
        let fault = || CliError::Outcome("could not marshal private key".to_owned());
        match &self.pair {
            Pair::P256(key) => ec_jwk("P-256", key).ok_or_else(fault),
            Pair::P384(key) => ec_jwk("P-384", key).ok_or_else(fault),
            Pair::Rsa(_) => rsa_jwk(&self.pkcs8).ok_or_else(fault),
        }
    }
}

fn members(kty: &str, members: &[(&str, &[u8])], curve: Option<&str>) -> Zeroizing<String> {
    let room: usize = members.iter().map(|(_, value)| value.len() * 2 + 16).sum();
    let mut text = Zeroizing::new(String::with_capacity(room + 64));
    // Writing into a String cannot fail.
    let _written = write!(text, "{{\"kty\":\"{kty}\"");
    if let Some(curve) = curve {
        let _written = write!(text, ",\"crv\":\"{curve}\"");
    }
    for (name, value) in members {
        let value = Zeroizing::new(URL_SAFE_NO_PAD.encode(value));
        let _written = write!(text, ",\"{name}\":\"{}\"", *value);
    }
    text.push('}');
    text
}

fn ec_jwk(curve: &str, key: &EcdsaKeyPair) -> Option<Zeroizing<String>> {
    // An uncompressed point: a marker, then both coordinates at full length.
    let coordinates = key.public_key().as_ref().get(1..)?;
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    let d: EcPrivateKeyBin<'_> = key.private_key().as_be_bytes().ok()?;
    Some(members("EC", &[("x", x), ("y", y), ("d", d.as_ref())], Some(curve)))
}

/// PKCS#8 wraps the PKCS#1 key: version, n, e, d, p, q, dp, dq, qi (RFC 8017 A.1.2).
fn rsa_jwk(pkcs8: &[u8]) -> Option<Zeroizing<String>> {
    let (_, outer) = Sequence::from_der(pkcs8).ok()?;
    let (rest, _version) = Any::from_der(outer.content.as_ref()).ok()?;
    let (rest, _algorithm) = Any::from_der(rest).ok()?;
    let (_, wrapped) = Any::from_der(rest).ok()?;
    let (_, key) = Sequence::from_der(wrapped.data).ok()?;
    let (mut rest, _version) = Integer::from_der(key.content.as_ref()).ok()?;
    let mut values = Vec::with_capacity(8);
    for name in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
        let (tail, value) = Any::from_der(rest).ok()?;
        // A leading zero only says that the number is positive.
        values.push((name, value.data.strip_prefix(&[0]).unwrap_or(value.data)));
        rest = tail;
    }
    Some(members("RSA", &values, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_each_kind_have_their_forms() {
        for (kind, marks) in [
            (KeyType::EcP256, "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":"),
            (KeyType::EcP384, "\"kty\":\"EC\",\"crv\":\"P-384\",\"x\":"),
            (KeyType::Rsa2048, "\"kty\":\"RSA\",\"n\":"),
        ] {
            let key = SoftwareKey::generate(kind).unwrap();
            let jwk = key.jwk().unwrap();
            assert!(jwk.contains(marks), "{kind}");
            let value: serde_json::Value = serde_json::from_str(&jwk).unwrap();
            let length = |name: &str| URL_SAFE_NO_PAD.decode(value[name].as_str().unwrap()).unwrap().len();
            match kind {
                KeyType::EcP256 => assert_eq!([length("x"), length("y"), length("d")], [32; 3]),
                KeyType::EcP384 => assert_eq!([length("x"), length("y"), length("d")], [48; 3]),
                _ => assert_eq!([length("n"), length("p"), length("q")], [256, 128, 128]),
            }
            let der =
                STANDARD.decode(key.pem().lines().filter(|line| !line.starts_with('-')).collect::<String>());
            assert_eq!(der.unwrap(), key.pkcs8());
            assert!(key.pem().lines().all(|line| line.len() <= 64));
        }
    }
}
