//! What the whole-system tests share.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail loudly; each uses a part"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use hardroot_emulators::Swtpm;
use hardroot_swtpm_tests::daemon::binary;
use hardroot_swtpm_tests::site::{Agent, AgentSetup, Site, uid};
use hardroot_swtpm_tests::wait;
use serde_json::Value;

/// A selector that every process of this test has.
pub fn me() -> String {
    format!("unix:uid:{}", uid())
}

/// A started site that judges quotes of `tpm`'s manufacturer.
pub fn quote_site(tpm: &Swtpm, enrolment: &str) -> Site {
    let mut site = Site::new().unwrap();
    let roots = site.folder().join("endorsement-ca.pem");
    fs::write(&roots, tpm.ca_pem().unwrap()).unwrap();
    site.attestors = format!(
        "    NodeAttestor \"tpm_quote\" {{\n        plugin_data {{\n            endorsement_ca_path = \"{}\"\n            \
         enrolment = \"{enrolment}\"\n        }}\n    }}\n",
        roots.display()
    );
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    site
}

/// The EK hash as the operator sees it.
pub fn ek_hash(agent: &Agent) -> String {
    let config = agent.config().display().to_string();
    let shown = agent.command(&["tpm", "show", "-config", &config, "-output", "json"]).unwrap();
    let json = shown.success().unwrap().json().unwrap();
    json["ek_hash"].as_str().expect("ek_hash").to_owned()
}

/// Enrols the agent's TPM.
pub fn enrol(site: &Site, agent: &Agent) -> String {
    let hash = ek_hash(agent);
    site.server_command(&["tpm", "enroll", "-ekHash", &hash, "-note", "test"]).unwrap().success().unwrap();
    hash
}

/// The only agent's ID.
pub fn only_agent(site: &Site) -> String {
    let ids = site.agent_ids().unwrap();
    assert_eq!(ids.len(), 1, "{ids:?}");
    ids.into_iter().next().unwrap()
}

/// A running site with one agent that joined by token and keeps its key on disk.
pub fn token_site() -> (Site, Agent) {
    let mut site = Site::new().unwrap();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let token = site.join_token().unwrap();
    let mut setup = AgentSetup::join_token(&token);
    setup.keys = hardroot_swtpm_tests::site::Keys::Disk;
    let mut agent = site.agent("agent", setup).unwrap();
    agent.start().unwrap();
    (site, agent)
}

/// Fetches until `wanted` holds of what the workload sees.
pub fn fetch_until(agent: &Agent, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, wait::DEADLINE, || {
        let ran = agent.workload(&binary("hardroot-workload")?, None, &["fetch", "--timeout", "10"])?;
        let json = ran.json()?;
        Ok(wanted(&json).then_some(json))
    })
    .unwrap()
}

/// Fetches until this identity is there.
pub fn fetch_id(agent: &Agent, id: &str) -> Value {
    fetch_until(agent, id, |seen| ids(seen).iter().any(|one| one == id))
}

/// The identities in an update.
pub fn ids(update: &Value) -> Vec<String> {
    let svids = update["svids"].as_array().cloned().unwrap_or_default();
    svids.iter().filter_map(|svid| svid["spiffe_id"].as_str().map(str::to_owned)).collect()
}

/// The serial of the first SVID.
pub fn serial(update: &Value) -> String {
    update["svids"][0]["serial"].as_str().unwrap_or_default().to_owned()
}

/// A workload with an open stream.
pub struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    pub fn open(agent: &Agent) -> Self {
        let mut child = Command::new(binary("hardroot-workload").unwrap())
            .args(["watch", "--count", "1000", "--timeout", "600", "--socket"])
            .arg(agent.socket())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next update, or the error that ended the stream.
    pub fn next(&mut self) -> Value {
        let line = self.lines.next().expect("the stream ended").unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A certificate authority for x509pop, and a node's certificate from it.
pub struct NodeCertificates {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl NodeCertificates {
    pub fn make(site: &Site, name: &str) -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, format!("{name} fleet CA"));
        ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = Self::node(name).signed_by(&key, &issuer).unwrap().pem();
        let write = |suffix: &str, text: String| {
            let path = site.folder().join(format!("{name}-{suffix}.pem"));
            fs::write(&path, text).unwrap();
            path
        };
        let key_path = write("key", key.serialize_pem());
        fs::set_permissions(&key_path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Self {
            issuer,
            ca: write("ca", ca_certificate.pem()),
            certificate: write("cert", certificate),
            key: key_path,
        }
    }

    fn node(name: &str) -> rcgen::CertificateParams {
        let mut node = rcgen::CertificateParams::default();
        node.distinguished_name.push(rcgen::DnType::CommonName, name);
        node.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        node.serial_number = Some(rcgen::SerialNumber::from(vec![0x0a, 0xbc]));
        node
    }

    /// A certificate (PEM) for a key whose private half is elsewhere.
    pub fn certify(&self, name: &str, spki_der: &[u8]) -> String {
        let key = rcgen::SubjectPublicKeyInfo::from_der(spki_der).unwrap();
        Self::node(name).signed_by(&key, &self.issuer).unwrap().pem()
    }

    /// The agent's attestor block.
    pub fn agent_block(&self) -> String {
        format!(
            "    NodeAttestor \"x509pop\" {{\n        plugin_data {{\n            private_key_path = \"{}\"\n            \
             certificate_path = \"{}\"\n        }}\n    }}\n",
            self.key.display(),
            self.certificate.display()
        )
    }

    /// The server's attestor block.
    pub fn server_block(&self) -> String {
        format!(
            "    NodeAttestor \"x509pop\" {{\n        plugin_data {{\n            ca_bundle_path = \"{}\"\n        }}\n    }}\n",
            self.ca.display()
        )
    }
}
