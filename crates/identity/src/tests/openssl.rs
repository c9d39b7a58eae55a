//! What we issue, judged by another implementation: `openssl verify -x509_strict`. The tool must be
//! installed; a missing one fails the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use super::support::{Ca, Forge, Key, now, td};
use crate::{DistinguishedName, Template, pem_encode};

struct Judge {
    dir: tempfile::TempDir,
}

impl Judge {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, certificates: &[Vec<u8>]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, pem_encode(certificates)).unwrap();
        path
    }

    fn verify(&self, root: &[u8], chain: &[Vec<u8>]) -> Result<(), String> {
        let (leaf, between) = chain.split_at(1);
        let (root, leaf) = (self.write("root.pem", &[root.to_vec()]), self.write("leaf.pem", leaf));
        let mut command = Command::new("openssl");
        let at = now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
        command.args(["verify", "-x509_strict", "-check_ss_sig", "-attime", &at, "-CAfile"]).arg(&root);
        if !between.is_empty() {
            command.arg("-untrusted").arg(self.write("between.pem", between));
        }
        run(command.arg(&leaf))
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().expect("openssl must be installed for this test");
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn text(path: &Path) -> String {
    let output = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn openssl_accepts_every_template_and_key() {
    let judge = Judge::new();
    let dns_names = ["a.example.org".to_owned()];
    for key in [Key::p256(), Key::p384(), Key::rsa()] {
        let root = Ca::root_with("example.org", key, &DistinguishedName::default_ca());
        judge.verify(&root.der, std::slice::from_ref(&root.der)).unwrap();
        for template in [Template::Server, Template::Agent, Template::Workload { dns_names: &dns_names }] {
            let leaf = root.issue(template, &"spiffe://example.org/w".parse().unwrap(), &Key::p256().spki, 4);
            judge.verify(&root.der, &[leaf]).unwrap();
        }
        let deeper = root.downstream(Key::p384()).downstream(Key::p256());
        judge.verify(&root.der, &deeper.workload("spiffe://example.org/w")).unwrap();
    }
}

#[test]
fn openssl_accepts_leaves_below_unusual_issuer_names() {
    use crate::asn1::{self, element};
    let judge = Judge::new();
    let pair = |kind: &[u8], tag, value: &str| {
        super::support::seq(&[&element(asn1::OID, &[kind]), &element(tag, &[value.as_bytes()])])
    };
    let component: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
    let unit = crate::oid::ORGANIZATIONAL_UNIT;
    let set = |pairs: &[&[u8]]| element(asn1::SET, pairs);
    let dc = |value| set(&[&pair(component, 0x16, value)]);
    let one = set(&[&pair(unit, 0x13, "One")]);
    let two = set(&[&pair(unit, 0x0c, "Two")]);
    let multi = set(&[&pair(crate::oid::COMMON_NAME, 0x0c, "x"), &pair(unit, 0x0c, "longer")]);
    let subject = super::support::seq(&[&dc("org"), &dc("example"), &one, &two, &multi]);
    let (root, key) = (Ca::root("example.org"), Key::p256());
    let mut forge = Forge::authority(&root, &key);
    forge.subject = subject;
    forge.set(
        crate::oid::AUTHORITY_KEY_ID,
        false,
        super::support::seq(&[&element(0x80, &[root.issuer.subject_key_id()])]),
    );
    let der = forge.sign(&root.key);
    let ca = Ca::of(td("example.org"), der.clone(), key, vec![der]);
    judge.verify(&root.der, &ca.workload("spiffe://example.org/w")).unwrap();
}

#[test]
fn openssl_refuses_what_we_refuse() {
    let judge = Judge::new();
    let root = Ca::root("example.org");
    let by_other = Ca::root("example.org").workload("spiffe://example.org/w");
    judge.verify(&root.der, &by_other).unwrap_err();
    let mut chain = root.downstream(Key::p256()).workload("spiffe://example.org/w");
    chain.remove(1);
    judge.verify(&root.der, &chain).unwrap_err();
}

#[test]
fn openssl_reads_the_fields_as_meant() {
    let judge = Judge::new();
    let root = Ca::root("example.org");
    let leaf = text(&judge.write("leaf.pem", &root.workload("spiffe://example.org/w")));
    for expected in [
        "Subject: C = US, O = SPIRE",
        "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment, Key Agreement\n",
        "X509v3 Extended Key Usage: \n                TLS Web Server Authentication, TLS Web Client Authentication\n",
        "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        "URI:spiffe://example.org/w\n",
        "Not Before: Dec 31 23:59:50 2029 GMT",
        "Not After : Jan  1 01:00:00 2030 GMT",
    ] {
        assert!(leaf.contains(expected), "{expected:?} is missing in\n{leaf}");
    }
    let ca = text(&judge.write("ca.pem", std::slice::from_ref(&root.der)));
    for expected in [
        "Subject: C = US, O = SPIFFE, serialNumber = ",
        "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign\n",
        "X509v3 Basic Constraints: critical\n                CA:TRUE\n",
        "URI:spiffe://example.org\n",
    ] {
        assert!(ca.contains(expected), "{expected:?} is missing in\n{ca}");
    }
    assert!(!ca.contains("Authority Key Identifier"));
}
