//! A certificate authority for tests, and a press for certificates that no honest authority makes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, KeyPair as _, RsaKeyPair,
};

use crate::asn1::{self, element};
use crate::{
    Bundle, DistinguishedName, Issuer, SignatureAlgorithm, SpiffeId, Template, TrustDomain, X509Authority,
    certificate, oid, subject_key_id,
};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// 2030-01-01T00:00:00Z: the tests' present.
pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

pub(super) fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(super) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(super) enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

pub(super) struct Key {
    pub(super) pair: Pair,
    pub(super) spki: Vec<u8>,
    pub(super) alg: SignatureAlgorithm,
}

impl Key {
    fn ec(alg: &'static signature::EcdsaSigningAlgorithm, with: SignatureAlgorithm) -> Self {
        let pair = EcdsaKeyPair::generate(alg).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let spki = spki.as_ref().to_vec();
        Self { pair: Pair::Ec(pair), spki, alg: with }
    }

    pub(super) fn p256() -> Self {
        Self::ec(&ECDSA_P256_SHA256_ASN1_SIGNING, SignatureAlgorithm::EcdsaSha256)
    }

    pub(super) fn p384() -> Self {
        Self::ec(&ECDSA_P384_SHA384_ASN1_SIGNING, SignatureAlgorithm::EcdsaSha384)
    }

    /// Certificates are not signed with P-521 here, tokens may be.
    pub(super) fn p521() -> Self {
        Self::ec(&ECDSA_P521_SHA512_ASN1_SIGNING, SignatureAlgorithm::EcdsaSha384)
    }

    pub(super) fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let spki = spki.as_ref().to_vec();
        Self { pair: Pair::Rsa(pair), spki, alg: SignatureAlgorithm::RsaSha256 }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.sign_rsa_with(&signature::RSA_PKCS1_SHA256, message)
    }

    /// EC keys ignore `encoding`.
    pub(super) fn sign_rsa_with(
        &self,
        encoding: &'static dyn signature::RsaEncoding,
        message: &[u8],
    ) -> Vec<u8> {
        match &self.pair {
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut out).unwrap();
                out
            }
        }
    }
}

/// A CA with its key, its certificate, and what it would put behind a leaf.
pub(super) struct Ca {
    pub(super) key: Key,
    pub(super) der: Vec<u8>,
    pub(super) issuer: Issuer,
    pub(super) td: TrustDomain,
    pub(super) upstream: Vec<Vec<u8>>,
}

pub(super) fn serial(n: u8) -> [u8; 16] {
    let mut serial = [0x5a; 16];
    serial[15] = n;
    serial
}

impl Ca {
    pub(super) fn root(name: &str) -> Self {
        Self::root_with(name, Key::p256(), &DistinguishedName::default_ca())
    }

    pub(super) fn root_with(name: &str, key: Key, subject: &DistinguishedName) -> Self {
        let template = Template::SelfSignedCa { subject };
        let td = td(name);
        let tbs =
            certificate(template, &td.id(), &key.spki, serial(1), now(), 24 * HOUR, None, key.alg).unwrap();
        let signature = key.sign(tbs.to_be_signed());
        Self::of(td, tbs.assemble(&signature).unwrap(), key, Vec::new())
    }

    /// A CA from a certificate made otherwise.
    pub(super) fn of(td: TrustDomain, der: Vec<u8>, key: Key, upstream: Vec<Vec<u8>>) -> Self {
        Self { issuer: Issuer::from_certificate(&der).unwrap(), key, der, td, upstream }
    }

    pub(super) fn downstream(&self, key: Key) -> Self {
        let template = Template::IntermediateCa { parent_chain_len: self.upstream.len() + 1 };
        let der = self.issue(template, &self.td.id(), &key.spki, 2);
        let mut upstream = vec![der.clone()];
        upstream.extend(self.upstream.iter().cloned());
        Self::of(self.td.clone(), der, key, upstream)
    }

    pub(super) fn issue(&self, template: Template<'_>, id: &SpiffeId, spki: &[u8], n: u8) -> Vec<u8> {
        let tbs =
            certificate(template, id, spki, serial(n), now(), HOUR, &self.issuer, self.key.alg).unwrap();
        let signature = self.key.sign(tbs.to_be_signed());
        tbs.assemble(&signature).unwrap()
    }

    /// A leaf with the chain that goes with it.
    pub(super) fn workload(&self, spiffe_id: &str) -> Vec<Vec<u8>> {
        let leaf = self.issue(Template::Workload { dns_names: &[] }, &id(spiffe_id), &Key::p256().spki, 9);
        let mut chain = vec![leaf];
        chain.extend(self.upstream.iter().cloned());
        chain
    }

    pub(super) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new(self.td.clone());
        bundle.x509_authorities.push(X509Authority { der: self.der.clone(), tainted: false });
        bundle
    }
}

pub(super) type Ext = (&'static [u8], bool, Vec<u8>);

/// A certificate with every field open to abuse.
pub(super) struct Forge {
    pub(super) version: Vec<u8>,
    pub(super) serial: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) subject: Vec<u8>,
    pub(super) spki: Vec<u8>,
    pub(super) extensions: Vec<Ext>,
    pub(super) outer_algorithm: Option<Vec<u8>>,
}

pub(super) fn seq(parts: &[&[u8]]) -> Vec<u8> {
    element(asn1::SEQUENCE, parts)
}

pub(super) fn uri_name(uri: &str) -> Vec<u8> {
    element(0x86, &[uri.as_bytes()])
}

pub(super) fn names(list: &[Vec<u8>]) -> Vec<u8> {
    let list: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
    seq(&list)
}

pub(super) fn eku(purposes: &[&[u8]]) -> Vec<u8> {
    let list: Vec<Vec<u8>> = purposes.iter().map(|purpose| element(asn1::OID, &[purpose])).collect();
    names(&list)
}

pub(super) fn key_usage(bits: u8) -> Vec<u8> {
    let unused = u8::try_from(bits.trailing_zeros()).unwrap().min(7);
    vec![asn1::BIT_STRING, 2, unused, bits]
}

pub(super) fn constraints(ca: bool) -> Vec<u8> {
    if ca { seq(&[&[asn1::BOOLEAN, 1, 0xff]]) } else { seq(&[]) }
}

pub(super) const LEAF_USAGE: u8 = 0xa8;
pub(super) const CA_USAGE: u8 = 0x06;

impl Forge {
    /// A leaf without fault.
    pub(super) fn leaf(ca: &Ca, uri: &str) -> Self {
        let key = Key::p256();
        Self {
            version: vec![0xa0, 3, asn1::INTEGER, 1, 2],
            serial: asn1::integer(&[0x11, 0x22]),
            issuer: ca.issuer.subject_der().to_vec(),
            not_before: now() - HOUR,
            not_after: now() + HOUR,
            subject: DistinguishedName::default_svid().to_der(),
            extensions: vec![
                (oid::KEY_USAGE, true, key_usage(LEAF_USAGE)),
                (oid::EXT_KEY_USAGE, false, eku(&[oid::SERVER_AUTH, oid::CLIENT_AUTH])),
                (oid::BASIC_CONSTRAINTS, true, constraints(false)),
                (oid::SUBJECT_ALT_NAME, false, names(&[uri_name(uri)])),
            ],
            spki: key.spki,
            outer_algorithm: None,
        }
    }

    /// An intermediate CA without fault.
    pub(super) fn authority(ca: &Ca, key: &Key) -> Self {
        let subject = DistinguishedName { organization: vec!["Between".to_owned()], ..Default::default() };
        let mut forge = Self::leaf(ca, ca.td.id().as_str());
        forge.subject = subject.to_der();
        forge.spki = key.spki.clone();
        forge.set(oid::KEY_USAGE, true, key_usage(CA_USAGE));
        forge.set(oid::BASIC_CONSTRAINTS, true, constraints(true));
        forge.set(oid::SUBJECT_KEY_ID, false, element(asn1::OCTET_STRING, &[&subject_key_id(&key.spki)]));
        forge.unset(oid::EXT_KEY_USAGE);
        forge
    }

    pub(super) fn unset(&mut self, id: &'static [u8]) {
        self.extensions.retain(|(found, _, _)| *found != id);
    }

    pub(super) fn set(&mut self, id: &'static [u8], critical: bool, value: Vec<u8>) {
        self.unset(id);
        self.extensions.push((id, critical, value));
    }

    pub(super) fn sign(&self, key: &Key) -> Vec<u8> {
        let list: Vec<Vec<u8>> = self
            .extensions
            .iter()
            .map(|(id, critical, value)| {
                let critical: &[u8] = if *critical { &[asn1::BOOLEAN, 1, 0xff] } else { &[] };
                seq(&[&element(asn1::OID, &[id]), critical, &element(asn1::OCTET_STRING, &[value])])
            })
            .collect();
        let extensions = if list.is_empty() { Vec::new() } else { element(0xa3, &[&names(&list)]) };
        let algorithm = key.alg.identifier();
        let validity = seq(&[&asn1::time(self.not_before).unwrap(), &asn1::time(self.not_after).unwrap()]);
        let tbs = seq(&[
            &self.version,
            &self.serial,
            &algorithm,
            &self.issuer,
            &validity,
            &self.subject,
            &self.spki,
            &extensions,
        ]);
        let signature = key.sign(&tbs);
        let outer = self.outer_algorithm.as_ref().unwrap_or(&algorithm);
        seq(&[&tbs, outer, &element(asn1::BIT_STRING, &[&[0], &signature])])
    }
}
