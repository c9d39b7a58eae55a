//! Where a TPM keeps what its maker left of its endorsement keys: certificates, and the templates and nonces that make
//! the keys again (TCG EK Credential Profile 2.5: 2.2.1.4 for the low range of NV indices, 2.2.1.5 for the high one).

use super::EkKind;
use crate::templates;
use crate::verify::{Attributes, BadStructure, MAX_PUBLIC_BYTES};
use crate::wire::{Reader, put_sized};

const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const NULL: u16 = 0x0010;

/// One endorsement key's indices and handle.
#[derive(Debug)]
pub(super) struct Place {
    /// NV index of the certificate.
    pub(super) certificate: u32,
    /// NV index of the template, for keys that are not made from the standard one.
    pub(super) template: u32,
    /// NV index of the nonce; the high range has none.
    pub(super) nonce: Option<u32>,
    /// Where to store a key made from the template.
    pub(super) persistent_handle: u32,
    standard: fn() -> Vec<u8>,
}

const RSA_2048: [Place; 2] = [
    Place {
        certificate: 0x01c0_0002,
        template: 0x01c0_0004,
        nonce: Some(0x01c0_0003),
        persistent_handle: 0x8101_0001,
        standard: templates::ek_rsa_2048,
    },
    Place {
        certificate: 0x01c0_0012,
        template: 0x01c0_0013,
        nonce: None,
        persistent_handle: 0x8101_0012,
        standard: templates::ek_rsa_2048_high,
    },
];
const P256: [Place; 2] = [
    Place {
        certificate: 0x01c0_000a,
        template: 0x01c0_000c,
        nonce: Some(0x01c0_000b),
        persistent_handle: 0x8101_0002,
        standard: templates::ek_p256,
    },
    Place {
        certificate: 0x01c0_0014,
        template: 0x01c0_0015,
        nonce: None,
        persistent_handle: 0x8101_0014,
        standard: templates::ek_p256_high,
    },
];
const P384: [Place; 1] = [Place {
    certificate: 0x01c0_0016,
    template: 0x01c0_0017,
    nonce: None,
    persistent_handle: 0x8101_0016,
    standard: templates::ek_p384,
}];

impl Place {
    /// The places of a kind of key, the low range first.
    pub(super) fn of(kind: EkKind) -> &'static [Self] {
        match kind {
            EkKind::Rsa2048 => &RSA_2048,
            EkKind::EcP256 => &P256,
            EkKind::EcP384 => &P384,
        }
    }

    /// The template of keys for which NV holds none.
    pub(super) fn standard_template(&self, kind: EkKind) -> Result<Template, BadStructure> {
        Template::parse(kind, &(self.standard)())
    }
}

/// What an endorsement key is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    kind: EkKind,
    bytes: Vec<u8>,
    unique_at: usize,
}

impl Template {
    /// Reads a `TPMT_PUBLIC` that makes a storage key of this kind which never leaves its TPM.
    pub(super) fn parse(kind: EkKind, bytes: &[u8]) -> Result<Self, BadStructure> {
        let mut r = Reader::new("endorsement key template", bytes, MAX_PUBLIC_BYTES)?;
        let (wanted, unique_parts) = match kind {
            EkKind::Rsa2048 => (RSA, 1),
            EkKind::EcP256 | EkKind::EcP384 => (ECC, 2),
        };
        if r.u16()? != wanted {
            return Err(r.fault("it is for another type of key"));
        }
        let _name_algorithm = r.u16()?;
        let attributes = Attributes::from_bits(r.u32()?);
        let needed = Attributes::FIXED_TPM.with(Attributes::FIXED_PARENT).with(Attributes::RESTRICTED);
        if !attributes.has(needed.with(Attributes::DECRYPT)) || attributes.has(Attributes::SIGN) {
            return Err(r.fault("it makes no endorsement key"));
        }
        let _policy = r.sized(64)?;
        if r.u16()? != AES || !matches!(r.u16()?, 128 | 256) || r.u16()? != CFB || r.u16()? != NULL {
            return Err(r.fault("it makes no storage key with AES in CFB mode"));
        }
        let fits = match kind {
            EkKind::Rsa2048 => r.u16()? == 2048 && matches!(r.u32()?, 0 | 65537),
            EkKind::EcP256 => r.u16()? == 3 && r.u16()? == NULL,
            EkKind::EcP384 => r.u16()? == 4 && r.u16()? == NULL,
        };
        if !fits {
            return Err(r.fault("it is for another size of key"));
        }
        let unique_at = bytes.len() - r.left();
        for _ in 0..unique_parts {
            let _part = r.sized(256)?;
        }
        r.end()?;
        Ok(Self { kind, bytes: bytes.to_vec(), unique_at })
    }

    /// The template with a nonce in its unique field: at the front of the modulus or of the point's x, zeros behind it.
    pub(super) fn with_nonce(&self, nonce: &[u8]) -> Option<Self> {
        let (size, parts) = match self.kind {
            EkKind::Rsa2048 => (256, 1),
            EkKind::EcP256 => (32, 2),
            EkKind::EcP384 => (48, 2),
        };
        if nonce.is_empty() || nonce.len() > size {
            return None;
        }
        let mut first = nonce.to_vec();
        first.resize(size, 0);
        let mut bytes = self.fixed().to_vec();
        put_sized(&mut bytes, &first);
        for _ in 1..parts {
            put_sized(&mut bytes, &vec![0; size]);
        }
        Some(Self { bytes, ..self.clone() })
    }

    /// What goes to TPM2_CreatePrimary.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn fixed(&self) -> &[u8] {
        self.bytes.get(..self.unique_at).unwrap_or_default()
    }

    /// Whether a key's public area differs from the template in nothing but the unique field.
    pub(super) fn fits(&self, public: &[u8]) -> bool {
        public.starts_with(self.fixed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_templates_are_read_and_a_nonce_goes_into_the_unique_field() {
        for kind in [EkKind::Rsa2048, EkKind::EcP256, EkKind::EcP384] {
            for place in Place::of(kind) {
                let template = place.standard_template(kind).unwrap();
                assert!(template.fits(template.as_bytes()));
                let with = template.with_nonce(&[7; 20]).unwrap();
                assert!(template.fits(with.as_bytes()) && with != template);
                assert_eq!(Template::parse(kind, with.as_bytes()).unwrap(), with);
                let unique = &with.as_bytes()[with.unique_at..];
                assert!(unique[2..22] == [7; 20] && unique[22..].iter().filter(|b| **b != 0).count() <= 1);
                assert_eq!(template.with_nonce(&[]), None);
                assert_eq!(template.with_nonce(&[7; 257]), None);
                // Cut, lengthened, or of another kind.
                let bytes = template.as_bytes();
                for end in 0..bytes.len() {
                    assert!(Template::parse(kind, &bytes[..end]).is_err());
                }
                assert!(Template::parse(kind, &[bytes, &[0]].concat()).is_err());
                let other = if kind == EkKind::EcP256 { EkKind::EcP384 } else { EkKind::EcP256 };
                assert!(Template::parse(other, bytes).is_err());
            }
        }
    }

    #[test]
    fn a_template_of_a_key_that_can_leave_or_sign_is_refused() {
        let good = Place::of(EkKind::EcP256)[0].standard_template(EkKind::EcP256).unwrap();
        // fixedTPM (bit 1) and sign (bit 18) are in the attributes' last and second byte (part 2, 8.3.2).
        for (at, bit) in [(7, 0x02), (5, 0x04), (5, 0x01), (5, 0x02)] {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] ^= bit;
            assert!(Template::parse(EkKind::EcP256, &bytes).is_err(), "byte {at} bit {bit:#x}");
        }
    }
}
