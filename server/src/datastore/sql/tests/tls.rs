//! TLS with a root CA and a client certificate, wrong ones refused; passwords in files.

use hardroot_emulators::{ServerTls, TcpProxy};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn server(&self, address: std::net::IpAddr) -> ServerTls {
        let (certificate, key) = self.issue(Some(address));
        ServerTls { client_ca: self.pem.clone(), certificate, key }
    }

    fn issue(&self, address: Option<std::net::IpAddr>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, Postgres::USER);
        params.subject_alt_names = address.into_iter().map(SanType::IpAddress).collect();
        params.extended_key_usages = vec![if address.is_some() {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        }];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct Files(tempfile::TempDir);

impl Files {
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        hardroot_emulators::softhsm::private_file(&path, content).unwrap();
        path
    }
}

async fn tries(
    engine: Engine,
    address: std::net::SocketAddr,
    database: String,
    ca: &Authority,
    other: &Authority,
) {
    let files = Files(tempfile::tempdir().unwrap());
    let (certificate, key) = ca.issue(None);
    let client = Some((files.file("client.pem", &certificate), files.file("client.key", &key)));
    let (foreign, foreign_key) = other.issue(None);
    let stranger = Some((files.file("foreign.pem", &foreign), files.file("foreign.key", &foreign_key)));
    let password = files.file("password", &format!("{}\n", Postgres::PASSWORD));
    let good = Endpoint {
        tls: Tls::Verify,
        root_ca: Some(files.file("ca.pem", &ca.pem)),
        client: client.clone(),
        password: None,
        password_file: Some(password.clone()),
        ..endpoint(address, Postgres::USER, "", database)
    };
    let open = async |endpoint: Endpoint| SqlStore::open(&server(engine, endpoint)).await;
    let store = open(good.clone()).await.unwrap();
    store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let proxy = TcpProxy::start(address).unwrap();
    let wrong_ca = files.file("other.pem", &other.pem);
    let bad_password = files.file("bad", "wrong");
    for (what, bad) in [
        ("another CA", Endpoint { root_ca: Some(wrong_ca), ..good.clone() }),
        ("public CAs alone", Endpoint { root_ca: None, ..good.clone() }),
        ("a name the certificate is not for", {
            let host = Host::Tcp { name: proxy.address().ip().to_string(), port: proxy.address().port() };
            Endpoint { host, ..good.clone() }
        }),
        ("no client certificate", Endpoint { client: None, ..good.clone() }),
        ("a stranger's certificate", Endpoint { client: stranger, ..good.clone() }),
        ("no TLS", Endpoint { tls: Tls::Disable, ..good.clone() }),
        ("a wrong password", Endpoint { password_file: Some(bad_password), ..good.clone() }),
    ] {
        let error = open(bad).await.expect_err(what);
        let chain = format!("{error}: {:?}", std::error::Error::source(&error));
        assert!(!chain.contains(Postgres::PASSWORD) && !chain.contains("wrong\""), "{what}: {chain}");
    }
    // The way through the proxy itself is open, and without proof of who answers it is taken.
    let host = Host::Tcp { name: proxy.address().ip().to_string(), port: proxy.address().port() };
    open(Endpoint { tls: Tls::Require, root_ca: None, host, ..good.clone() }).await.unwrap();
    // Without proof of who answers, as `sslmode=require` has it.
    open(Endpoint { tls: Tls::Require, root_ca: None, ..good }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_client_certificates() {
    let (ca, other) = (Authority::new("database CA"), Authority::new("another CA"));
    let server = Postgres::start_with_tls(|ip| ca.server(ip.into())).unwrap();
    let database = server.create_database().unwrap();
    tries(Engine::Postgres, server.address(), database, &ca, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_with_client_certificates() {
    let (ca, other) = (Authority::new("database CA"), Authority::new("another CA"));
    let server = MySql::start_with_tls(|ip| ca.server(ip.into())).unwrap();
    let database = server.create_database().unwrap();
    tries(Engine::MySql, server.address(), database, &ca, &other).await;
}
