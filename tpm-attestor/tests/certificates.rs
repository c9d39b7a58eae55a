//! EK certificates, good and bad, of a manufacturer made for the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod soft;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_tpm_attestor::verify::{
    EkAnchors, EkCertificate, EvidenceError, PublicArea, certificate_key, spki_key, verify_ek_certificate,
};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use soft::{EK, SHA256, ecc_public};

const EKU_EK: [u64; 5] = [2, 23, 133, 8, 1];

fn now() -> SystemTime {
    // 2026-06-01
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2035, 1, 1);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    } else {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EKU_EK.to_vec())];
    }
    params
}

/// A root, an issuing CA below it, and an endorsement key.
struct Maker {
    root_pem: String,
    issuing: Issuer<'static, KeyPair>,
    issuing_der: Vec<u8>,
    issuing_pem: String,
    key: KeyPair,
    ek: PublicArea,
}

impl Maker {
    fn new() -> Self {
        let root_key = KeyPair::generate().unwrap();
        let root_params = params("Test Root", true);
        let root = root_params.self_signed(&root_key).unwrap();
        let root = (root.pem(), Issuer::new(root_params, root_key));
        let issuing_key = KeyPair::generate().unwrap();
        let issuing_params = params("Test Issuing", true);
        let issuing = issuing_params.signed_by(&issuing_key, &root.1).unwrap();
        let key = KeyPair::generate().unwrap();
        let ek = PublicArea::parse(&ecc_public(SHA256, EK, &[0x10], key.public_key_raw())).unwrap();
        Self {
            root_pem: root.0,
            issuing_der: issuing.der().to_vec(),
            issuing_pem: issuing.pem(),
            issuing: Issuer::new(issuing_params, issuing_key),
            key,
            ek,
        }
    }

    fn certificate(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = params("unknown", false);
        change(&mut params);
        params.signed_by(&self.key, &self.issuing).unwrap().der().to_vec()
    }

    fn anchors(&self) -> EkAnchors {
        EkAnchors::from_pem([self.root_pem.as_bytes(), self.issuing_pem.as_bytes()]).unwrap()
    }

    fn judge(
        &self,
        certificate: &[u8],
        presented: &[&[u8]],
        anchors: &EkAnchors,
    ) -> Result<EkCertificate, EvidenceError> {
        verify_ek_certificate(certificate, presented, anchors, &self.ek, now())
    }

    fn slug(&self, certificate: &[u8]) -> &'static str {
        self.judge(certificate, &[], &self.anchors()).unwrap_err().slug()
    }
}

#[test]
fn a_good_certificate_needs_a_path_to_a_pinned_root() {
    let maker = Maker::new();
    let good = maker.certificate(|_| {});
    let verified = maker.judge(&good, &[], &maker.anchors()).unwrap();
    assert_eq!(verified.issuer_cn.as_deref(), Some("Test Issuing"));
    assert_eq!(verified.vendor, None);
    assert_eq!(verified.not_after, 2_051_222_400);
    // The issuing CA may come from the node (an on-die CA), but then only as a link to the root.
    let root_only = EkAnchors::from_pem([maker.root_pem.as_bytes()]).unwrap();
    assert_eq!(maker.judge(&good, &[], &root_only).unwrap_err().slug(), "ek_certificate_untrusted");
    assert!(maker.judge(&good, &[&maker.issuing_der], &root_only).is_ok());
    let other = Maker::new();
    for presented in [vec![], vec![maker.issuing_der.as_slice()]] {
        let slug = maker.judge(&good, &presented, &other.anchors()).unwrap_err().slug();
        assert_eq!(slug, "ek_certificate_untrusted", "another manufacturer");
    }
    assert!(maker.judge(&good, &[], &EkAnchors::default()).is_err(), "nothing pinned, nothing trusted");
}

#[test]
fn a_node_cannot_bring_its_own_root() {
    let maker = Maker::new();
    let pinned = Maker::new().anchors();
    let own_root = pem_der(&maker.root_pem);
    let good = maker.certificate(|_| {});
    let judged = maker.judge(&good, &[&maker.issuing_der, &own_root], &pinned);
    assert_eq!(judged.unwrap_err().slug(), "ek_certificate_untrusted");
}

fn pem_der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn usage_validity_and_key_are_checked() {
    let maker = Maker::new();
    let key_usage = |usages: Vec<KeyUsagePurpose>| maker.certificate(|params| params.key_usages = usages);
    assert_eq!(maker.slug(&key_usage(vec![KeyUsagePurpose::DigitalSignature])), "ek_certificate_usage");
    assert_eq!(maker.slug(&key_usage(vec![KeyUsagePurpose::KeyEncipherment])), "ek_certificate_usage");
    assert!(maker.judge(&key_usage(vec![]), &[], &maker.anchors()).is_ok(), "no key usage allows all");
    let purpose = |purposes: Vec<ExtendedKeyUsagePurpose>| {
        maker.certificate(|params| params.extended_key_usages = purposes)
    };
    assert_eq!(maker.slug(&purpose(vec![ExtendedKeyUsagePurpose::ServerAuth])), "ek_certificate_untrusted");
    assert!(maker.judge(&purpose(vec![]), &[], &maker.anchors()).is_ok());
    let ca = maker.certificate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(maker.slug(&ca), "ek_certificate_usage");
    let late = maker.certificate(|params| params.not_after = date_time_ymd(2026, 1, 1));
    assert_eq!(maker.slug(&late), "ek_certificate_untrusted");
    let early = maker.certificate(|params| params.not_before = date_time_ymd(2027, 1, 1));
    assert_eq!(maker.slug(&early), "ek_certificate_untrusted");
    let other = Maker::new();
    assert_eq!(other.slug(&maker.certificate(|_| {})), "ek_certificate_key_mismatch");
    let mut critical = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    critical.set_criticality(true);
    let unknown = maker.certificate(|params| params.custom_extensions = vec![critical]);
    assert!(["ek_certificate_untrusted", "ek_certificate_invalid"].contains(&maker.slug(&unknown)));
}

/// A directory name with the attributes 2.23.133.2.1 to 2.23.133.2.3, as manufacturers write it.
fn tpm_names() -> CustomExtension {
    let element =
        |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()][..], content].concat();
    let attribute = |last: u8, text: &str| {
        let oid = element(0x06, &[0x67, 0x81, 0x05, 0x02, last]);
        element(0x31, &element(0x30, &[oid, element(0x0c, text.as_bytes())].concat()))
    };
    let names = [attribute(1, "id:49465800"), attribute(2, "SLB 9672"), attribute(3, "id:0D10")].concat();
    let directory = element(0xa4, &element(0x30, &names));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], element(0x30, &directory));
    extension.set_criticality(true);
    extension
}

#[test]
fn the_critical_directory_name_is_read_not_ignored() {
    let maker = Maker::new();
    let named = maker.certificate(|params| params.custom_extensions = vec![tpm_names()]);
    let verified = maker.judge(&named, &[], &maker.anchors()).unwrap();
    assert_eq!(verified.vendor.as_deref(), Some("IFX"));
    assert_eq!(verified.model.as_deref(), Some("SLB 9672"));
    assert_eq!(verified.version.as_deref(), Some("id:0D10"));
}

#[test]
fn limits_come_before_cryptography() {
    let maker = Maker::new();
    let good = maker.certificate(|_| {});
    let five = [maker.issuing_der.as_slice(); 5];
    assert_eq!(maker.judge(&good, &five, &maker.anchors()).unwrap_err().slug(), "ek_certificate_limits");
    assert_eq!(maker.slug(&vec![0x30; 9000]), "ek_certificate_limits");
    // An intermediate with an RSA key of 8192 bits.
    let element = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, content].concat()
    };
    let modulus = [vec![0], vec![0xff; 1024]].concat();
    let key = element(0x30, &[element(0x02, &modulus), vec![2, 3, 1, 0, 1]].concat());
    let algorithm =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let spki = element(0x30, &[&algorithm[..], &element(0x03, &[vec![0], key].concat())].concat());
    let huge = rcgen::SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let huge = params("Huge", true).signed_by(&huge, &maker.issuing).unwrap();
    assert_eq!(
        maker.judge(&good, &[huge.der()], &maker.anchors()).unwrap_err().slug(),
        "ek_certificate_limits"
    );
}

#[test]
fn damaged_certificates_are_refused() {
    let maker = Maker::new();
    let good = maker.certificate(|_| {});
    for length in 0..good.len() {
        assert!(maker.judge(&good[..length], &[], &maker.anchors()).is_err());
    }
    assert_eq!(maker.slug(&[&good[..], &[0]].concat()), "ek_certificate_invalid", "trailing bytes");
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        assert!(maker.judge(&flipped, &[], &maker.anchors()).is_err(), "a flipped bit at {at}");
    }
}

#[test]
fn anchors_must_contain_a_root() {
    let maker = Maker::new();
    assert!(EkAnchors::from_pem([maker.issuing_pem.as_bytes()]).is_err());
    assert!(EkAnchors::from_pem([&b""[..]]).is_err());
    assert!(
        EkAnchors::from_pem([&b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"[..]])
            .is_err()
    );
    let (one, other) = (maker.anchors(), Maker::new().anchors());
    assert!(!one.is_empty() && one.fingerprint() != other.fingerprint());
}

#[test]
fn keys_of_certificates_and_key_infos_agree() {
    let maker = Maker::new();
    let key = certificate_key(&maker.certificate(|_| {})).unwrap();
    assert_eq!(&key, maker.ek.key());
    assert_eq!(&spki_key(&maker.ek.key().spki_der()).unwrap(), maker.ek.key());
    assert!(spki_key(&[&maker.ek.key().spki_der()[..], &[0]].concat()).is_err());
    assert_eq!(key.hash_hex().len(), 64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(certificate_key(&bytes).is_err());
        prop_assert!(spki_key(&bytes).is_err());
    }
}
