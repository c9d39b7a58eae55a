//! The certificate authority that vouches for the simulated nodes (`hardroot-bench prepare`).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hardroot_identity::{
    DistinguishedName, Issuer, SignatureAlgorithm, SpiffeId, Template, TrustDomain, certificate, pem_decode,
    pem_encode,
};

use crate::error::BenchError;
use crate::target::agent_name;

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
const SNIPPET: &str = "server.conf";
/// How long authority and leaves are good: a year.
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
const LABEL: &str = "PRIVATE KEY";

/// The authority, in memory.
pub struct Authority {
    key: EcdsaKeyPair,
    issuer: Issuer,
    trust_domain: TrustDomain,
}

/// What `prepare` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The authority's certificate, PEM.
    pub certificate: PathBuf,
    /// Lines for the server's configuration.
    pub snippet: PathBuf,
    /// Whether the authority was there already.
    pub existed: bool,
}

/// Makes the authority in `folder` unless one is there, and writes what the server's configuration needs.
///
/// # Errors
/// Files cannot be written, or what is there is no authority.
pub fn prepare(folder: &Path) -> Result<Prepared, BenchError> {
    let (certificate_path, snippet) = (folder.join(CERTIFICATE), folder.join(SNIPPET));
    let existed = certificate_path.exists();
    if existed {
        Authority::read(folder)?;
    } else {
        fs::create_dir_all(folder).map_err(file("making", folder))?;
        let (key, certificate) = Authority::make()?;
        // The key first: an authority without its key would be taken for whole.
        write(&folder.join(KEY), 0o600, &key)?;
        write(&certificate_path, 0o644, &certificate)?;
    }
    let absolute = fs::canonicalize(&certificate_path).map_err(file("finding", &certificate_path))?;
    write(&snippet, 0o644, &lines(&absolute))?;
    Ok(Prepared { certificate: absolute, snippet, existed })
}

/// What a server needs to let simulated agents in and to let all of them come from one address.
fn lines(ca: &Path) -> String {
    format!(
        "# For a test server only: whoever has {KEY} beside this file can join it as any simulated node.\n\
         # Put ratelimit {{}} and, for a Hardroot server, limits {{}} into server {{}}, the NodeAttestor into plugins {{}}.\n\
         server {{\n    \
             # All simulated agents have one address: rates that count by address would measure themselves.\n    \
             ratelimit {{\n        attestation = false\n        signing = false\n    }}\n    \
             # Hardroot only; a genuine spire-server knows no such block.\n    \
             limits {{\n        max_connections = 100000\n        max_connections_per_address = 100000\n        \
             max_anonymous_connections = 40000\n        max_handshakes = 20000\n        \
             max_handshakes_per_address = 20000\n    }}\n\
         }}\n\
         plugins {{\n    \
             NodeAttestor \"x509pop\" {{\n        plugin_data {{\n            \
             ca_bundle_path = \"{}\"\n            \
             agent_path_template = \"/{{{{ .PluginName }}}}/{{{{ .Subject.CommonName }}}}\"\n        }}\n    }}\n\
         }}\n",
        ca.display()
    )
}

impl Authority {
    /// A new one: key and certificate, PEM.
    fn make() -> Result<(String, String), BenchError> {
        let failed = |reason: String| BenchError::Crypto { op: "making the authority", reason };
        let library = |_unspecified| failed("the cryptographic library refused".to_owned());
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(library)?;
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(library)?;
        let subject = DistinguishedName {
            organization: vec!["hardroot-bench".to_owned()],
            common_name: "hardroot-bench".to_owned(),
            ..DistinguishedName::default()
        };
        let trust_domain = own_trust_domain()?;
        let tbs = certificate(
            Template::SelfSignedCa { subject: &subject },
            &trust_domain.id(),
            public.as_ref(),
            serial()?,
            SystemTime::now(),
            LIFETIME,
            None,
            SignatureAlgorithm::EcdsaSha256,
        )
        .map_err(|error| failed(error.to_string()))?;
        let signature = key.sign(&SystemRandom::new(), tbs.to_be_signed()).map_err(library)?;
        let der = tbs.assemble(signature.as_ref()).map_err(|error| failed(error.to_string()))?;
        let pkcs8 = key.to_pkcs8v1().map_err(library)?;
        let mut pem = format!("-----BEGIN {LABEL}-----\n");
        pem.push_str(&STANDARD.encode(pkcs8.as_ref()));
        pem.push_str(&format!("\n-----END {LABEL}-----\n"));
        Ok((pem, pem_encode([der])))
    }

    /// Reads the authority that [`prepare`] made.
    ///
    /// # Errors
    /// It is not there or damaged.
    pub fn read(folder: &Path) -> Result<Self, BenchError> {
        let (key_path, certificate_path) = (folder.join(KEY), folder.join(CERTIFICATE));
        let hint = "; run: hardroot-bench prepare -dir DIR, and give its server.conf to the server";
        let read = |path: &Path| {
            fs::read(path).map_err(|cause| BenchError::File {
                op: "reading",
                path: path.to_owned(),
                cause,
                hint,
            })
        };
        let (certificate, key) = (read(&certificate_path)?, read(&key_path)?);
        let content = |path: &Path, reason: String| BenchError::Content {
            path: path.to_owned(),
            reason: format!("{reason}; remove the folder and run hardroot-bench prepare again"),
        };
        let key = private_key(&key)
            .ok_or_else(|| content(&key_path, "this is no P-256 key in PKCS#8".to_owned()))?;
        let der = pem_decode(&certificate).map_err(|error| content(&certificate_path, error.to_string()))?;
        let der = der.first().ok_or_else(|| content(&certificate_path, "no certificate".to_owned()))?;
        let issuer =
            Issuer::from_certificate(der).map_err(|error| content(&certificate_path, error.to_string()))?;
        if issuer.not_after() <= SystemTime::now() {
            return Err(content(&certificate_path, "the authority has expired".to_owned()));
        }
        Ok(Self { key, issuer, trust_domain: own_trust_domain()? })
    }

    /// A certificate (DER) for simulated node `index` and the key `spki_der`; its CN is the node's name, which the server's
    /// `agent_path_template` makes the agent's ID of.
    ///
    /// # Errors
    /// The authority's key is another than its certificate's.
    pub fn node(&self, index: usize, spki_der: &[u8]) -> Result<Vec<u8>, BenchError> {
        let failed = |reason: String| BenchError::Crypto { op: "certifying a simulated node", reason };
        let name = agent_name(index);
        let id = SpiffeId::new(&self.trust_domain, &format!("/{name}"))
            .map_err(|error| failed(error.to_string()))?;
        let tbs = certificate(
            Template::Workload { dns_names: &[name] },
            &id,
            spki_der,
            serial()?,
            SystemTime::now(),
            LIFETIME,
            &self.issuer,
            SignatureAlgorithm::EcdsaSha256,
        )
        .map_err(|error| failed(error.to_string()))?;
        let signature = self
            .key
            .sign(&SystemRandom::new(), tbs.to_be_signed())
            .map_err(|_unspecified| failed("the cryptographic library refused".to_owned()))?;
        // Verified for one node, so that a mixed-up folder is noticed, and not for thousands.
        if index == 0 && !tbs.is_signed_by_issuer(signature.as_ref()) {
            return Err(failed(format!("{KEY} does not belong to {CERTIFICATE}")));
        }
        Ok(tbs.assemble_unverified(signature.as_ref()))
    }
}

fn own_trust_domain() -> Result<TrustDomain, BenchError> {
    TrustDomain::new("hardroot-bench")
        .map_err(|error| BenchError::Crypto { op: "naming the authority", reason: error.to_string() })
}

fn private_key(pem: &[u8]) -> Option<EcdsaKeyPair> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once(&format!("-----BEGIN {LABEL}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {LABEL}-----"))?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(body).ok()?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).ok()
}

fn serial() -> Result<[u8; 16], BenchError> {
    let mut serial = [0; 16];
    fill(&mut serial).map_err(|_unspecified| BenchError::Crypto {
        op: "making a serial number",
        reason: "the operating system gave no random bytes".to_owned(),
    })?;
    // Zero is no serial number.
    if let Some(last) = serial.last_mut() {
        *last |= 1;
    }
    Ok(serial)
}

fn file(op: &'static str, path: &Path) -> impl Fn(std::io::Error) -> BenchError {
    let path = path.to_owned();
    move |cause| BenchError::File { op, path: path.clone(), cause, hint: "" }
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), BenchError> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes())).map_err(file("writing", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use hardroot_identity::Certificate;

    use super::*;
    use crate::key::SharedKey;

    #[test]
    fn an_authority_is_made_once_and_certifies_nodes_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bench");
        let first = prepare(&dir).unwrap();
        let pem = fs::read(&first.certificate).unwrap();
        let again = prepare(&dir).unwrap();
        assert!(!first.existed && again.existed);
        assert_eq!(fs::read(&again.certificate).unwrap(), pem, "the server knows the first one");
        assert_eq!(fs::metadata(dir.join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        let snippet = fs::read_to_string(&first.snippet).unwrap();
        assert!(
            snippet.contains("agent_path_template = \"/{{ .PluginName }}/{{ .Subject.CommonName }}\""),
            "{snippet}"
        );

        let authority = Authority::read(&dir).unwrap();
        let key = SharedKey::make().unwrap();
        let leaf = authority.node(7, key.spki_der()).unwrap();
        let leaf = Certificate::parse(&leaf).unwrap();
        assert!(hardroot_identity::name_text(&leaf.subject_der).unwrap().contains("CN=hardroot-bench-7"));
    }

    #[test]
    fn what_is_missing_or_mixed_up_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Authority::read(folder.path()).err().unwrap().to_string();
        assert!(missing.contains("ca.pem") && missing.contains("hardroot-bench prepare"), "{missing}");
        let (one, other) = (folder.path().join("1"), folder.path().join("2"));
        prepare(&one).unwrap();
        prepare(&other).unwrap();
        fs::copy(other.join(KEY), one.join(KEY)).unwrap();
        let key = SharedKey::make().unwrap();
        let mixed = Authority::read(&one).unwrap().node(0, key.spki_der()).unwrap_err().to_string();
        assert!(mixed.contains("does not belong"), "{mixed}");
        fs::write(one.join(KEY), "nonsense").unwrap();
        assert!(Authority::read(&one).err().unwrap().to_string().contains("no P-256 key"));
    }
}
