//! `TPMT_PUBLIC`: a key's public area, from which its name follows (TPM 2.0 part 2, 12.2.4).

use crate::der;
use crate::verify::{BadStructure, HashAlg};
use crate::wire::Reader;

/// Largest public area that is looked at: an RSA-4096 key has less than 600 bytes.
pub const MAX_PUBLIC_BYTES: usize = 1024;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAES: u16 = 0x0015;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_OAEP: u16 = 0x0017;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const WHAT: &str = "TPMT_PUBLIC";

/// Object attributes (TPMA_OBJECT, part 2, 8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(u32);

impl Attributes {
    /// The hierarchy and the parent cannot change; the key cannot be duplicated.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// The parent cannot change.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM made the private part itself.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// The auth value authorises use.
    pub const USER_WITH_AUTH: Self = Self(1 << 6);
    /// Administration needs the policy.
    pub const ADMIN_WITH_POLICY: Self = Self(1 << 7);
    /// Failed tries do not count towards the dictionary attack lockout.
    pub const NO_DA: Self = Self(1 << 10);
    /// Signs only what the TPM made itself, decrypts only what it formatted itself.
    pub const RESTRICTED: Self = Self(1 << 16);
    /// May decrypt.
    pub const DECRYPT: Self = Self(1 << 17);
    /// May sign.
    pub const SIGN: Self = Self(1 << 18);
    /// May sign certificates only in the TPM's own form.
    const X509_SIGN: Self = Self(1 << 19);
    const ST_CLEAR: Self = Self(1 << 2);
    const FIRMWARE_LIMITED: Self = Self(1 << 8);
    const SVN_LIMITED: Self = Self(1 << 9);
    const ENCRYPTED_DUPLICATION: Self = Self(1 << 11);

    const KNOWN: u32 = Self::FIXED_TPM.0
        | Self::ST_CLEAR.0
        | Self::FIXED_PARENT.0
        | Self::SENSITIVE_DATA_ORIGIN.0
        | Self::USER_WITH_AUTH.0
        | Self::ADMIN_WITH_POLICY.0
        | Self::FIRMWARE_LIMITED.0
        | Self::SVN_LIMITED.0
        | Self::NO_DA.0
        | Self::ENCRYPTED_DUPLICATION.0
        | Self::RESTRICTED.0
        | Self::DECRYPT.0
        | Self::SIGN.0
        | Self::X509_SIGN.0;

    /// Whether all of `wanted` are set.
    #[must_use]
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The union.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Attributes with these bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// As stored in the public area.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// Elliptic curves that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0003 => Some(Self::P256),
            0x0004 => Some(Self::P384),
            _ => None,
        }
    }

    /// Bytes of a coordinate.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// A signing scheme with its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// ECDSA.
    Ecdsa(HashAlg),
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(HashAlg),
    /// RSASSA-PSS.
    RsaPss(HashAlg),
}

/// The key in a public area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA with exponent 65537.
    Rsa {
        /// Big-endian, exactly as long as the key size.
        modulus: Vec<u8>,
    },
    /// A point on a curve.
    Ecc {
        /// The curve.
        curve: Curve,
        /// Big-endian, padded to the curve's size.
        x: Vec<u8>,
        /// Big-endian, padded to the curve's size.
        y: Vec<u8>,
    },
}

impl PublicKey {
    /// The key's `SubjectPublicKeyInfo`, DER, with the algorithm identifiers of RFC 3279 and RFC 5480.
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        match self {
            Self::Rsa { modulus } => der::rsa_spki(modulus),
            Self::Ecc { curve, .. } => der::ec_spki(*curve, &self.point()),
        }
    }

    /// SHA-256 of the `SubjectPublicKeyInfo`, lower-case hex: the EK hash that operators enrol.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        hex::encode(HashAlg::Sha256.digest(&[&self.spki_der()]))
    }

    /// The uncompressed point (`04 x y`); empty for RSA.
    #[must_use]
    pub fn point(&self) -> Vec<u8> {
        match self {
            Self::Rsa { .. } => Vec::new(),
            Self::Ecc { x, y, .. } => [&[4][..], x, y].concat(),
        }
    }
}

/// A decoded public area together with the bytes it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicArea {
    bytes: Vec<u8>,
    name_alg: HashAlg,
    attributes: Attributes,
    symmetric_bits: Option<u16>,
    scheme: Option<Scheme>,
    key: PublicKey,
}

impl PublicArea {
    /// Decodes an RSA or ECC public area. Every byte is accounted for, and encodings that a TPM does not produce are
    /// refused, so that one key has one name.
    ///
    /// # Errors
    /// The bytes are no such structure, or use algorithms that are not accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadStructure> {
        let mut r = Reader::new(WHAT, bytes, MAX_PUBLIC_BYTES)?;
        let kind = r.u16()?;
        let name_alg = HashAlg::from_id(r.u16()?)
            .ok_or_else(|| r.fault("the name algorithm is none of SHA-256, SHA-384, SHA-512"))?;
        let attributes = Attributes(r.u32()?);
        if attributes.0 & !Attributes::KNOWN != 0 {
            return Err(r.fault("reserved attribute bits are set"));
        }
        let policy = r.sized(64)?;
        if !policy.is_empty() && policy.len() != name_alg.size() {
            return Err(r.fault("the policy digest has not the size of the name algorithm"));
        }
        if !matches!(kind, ALG_RSA | ALG_ECC) {
            return Err(r.fault("the type is neither RSA nor ECC"));
        }
        let symmetric_bits = symmetric(&mut r)?;
        let scheme = scheme(&mut r, kind)?;
        let key = if kind == ALG_RSA { rsa(&mut r)? } else { ecc(&mut r)? };
        r.end()?;
        Ok(Self { bytes: bytes.to_vec(), name_alg, attributes, symmetric_bits, scheme, key })
    }

    /// The bytes this was decoded from.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key's name: the name algorithm's number, then the hash of the public area (part 1, 16).
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        let mut name = self.name_alg.id().to_be_bytes().to_vec();
        name.extend(self.name_alg.digest(&[&self.bytes]));
        name
    }

    /// The hash that makes the name.
    #[must_use]
    pub fn name_alg(&self) -> HashAlg {
        self.name_alg
    }

    /// The object attributes.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Key size of the AES-CFB cipher that protects children, or `None` when this is no storage key.
    #[must_use]
    pub fn symmetric_bits(&self) -> Option<u16> {
        self.symmetric_bits
    }

    /// The signing scheme that the key is fixed to, if any.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// The key itself.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// TPMT_SYM_DEF_OBJECT: none, or AES in CFB mode.
fn symmetric(r: &mut Reader<'_>) -> Result<Option<u16>, BadStructure> {
    match r.u16()? {
        ALG_NULL => Ok(None),
        ALG_AES => {
            let bits = r.u16()?;
            if !matches!(bits, 128 | 256) || r.u16()? != ALG_CFB {
                return Err(r.fault("the symmetric algorithm is not AES-128 or AES-256 in CFB mode"));
            }
            Ok(Some(bits))
        }
        _ => Err(r.fault("the symmetric algorithm is not AES")),
    }
}

fn scheme(r: &mut Reader<'_>, kind: u16) -> Result<Option<Scheme>, BadStructure> {
    let id = r.u16()?;
    let make: fn(HashAlg) -> Scheme = match (kind, id) {
        (_, ALG_NULL) | (ALG_RSA, ALG_RSAES) => return Ok(None),
        (ALG_RSA, ALG_RSASSA) => Scheme::RsaSsa,
        (ALG_RSA, ALG_RSAPSS) => Scheme::RsaPss,
        (ALG_ECC, ALG_ECDSA) => Scheme::Ecdsa,
        (ALG_RSA, ALG_OAEP) => {
            r.u16()?;
            return Ok(None);
        }
        _ => return Err(r.fault("the scheme is not accepted")),
    };
    HashAlg::from_id(r.u16()?)
        .map(|hash| Some(make(hash)))
        .ok_or_else(|| r.fault("the scheme's hash is none of SHA-256, SHA-384, SHA-512"))
}

fn rsa(r: &mut Reader<'_>) -> Result<PublicKey, BadStructure> {
    let bits = r.u16()?;
    if !matches!(bits, 2048 | 3072 | 4096) {
        return Err(r.fault("the RSA key has not 2048, 3072 or 4096 bits"));
    }
    // 0 stands for 65537 (part 2, 12.2.3.5).
    if !matches!(r.u32()?, 0 | 65537) {
        return Err(r.fault("the RSA exponent is not 65537"));
    }
    let modulus = r.sized(usize::from(bits) / 8)?;
    if modulus.len() != usize::from(bits) / 8 || modulus.first().is_none_or(|b| b & 0x80 == 0) {
        return Err(r.fault("the modulus has not the size of the key"));
    }
    if modulus.last().is_none_or(|b| b & 1 == 0) {
        return Err(r.fault("the modulus is even"));
    }
    Ok(PublicKey::Rsa { modulus: modulus.to_vec() })
}

fn ecc(r: &mut Reader<'_>) -> Result<PublicKey, BadStructure> {
    let curve = Curve::from_id(r.u16()?).ok_or_else(|| r.fault("the curve is neither P-256 nor P-384"))?;
    if r.u16()? != ALG_NULL {
        return Err(r.fault("the key derivation scheme is not null"));
    }
    let mut coordinate = || {
        let bytes = r.sized(curve.size())?;
        // Some chips drop leading zeros; a shorter number that still has one is nobody's encoding.
        if bytes.is_empty() || (bytes.len() < curve.size() && bytes.first() == Some(&0)) {
            return Err(r.fault("a coordinate is not canonical"));
        }
        let mut padded = vec![0; curve.size() - bytes.len()];
        padded.extend_from_slice(bytes);
        Ok(padded)
    };
    Ok(PublicKey::Ecc { curve, x: coordinate()?, y: coordinate()? })
}
