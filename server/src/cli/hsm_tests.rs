use std::fs;

use clap::Parser;
use hardroot_emulators::softhsm::{self, SoftHsm};
use hardroot_hsm_keymanager::pkcs11::{Namespace, Pkcs11KeyManager};
use hardroot_hsm_keymanager::{KeyId, KeyManager, KeyType};

use super::*;

#[derive(Parser)]
struct Commands {
    #[command(subcommand)]
    command: HsmCommand,
}

fn hsm(arguments: &[&str]) -> Result<(bool, String), String> {
    let arguments = ["hsm"].iter().chain(arguments).map(Into::into);
    let parsed = hardroot_runtime::cli::parse::<Commands>(arguments);
    let mut out = Vec::new();
    run(parsed.map_err(|error| error.to_string())?.command, &mut out)
        .map(|good| (good, String::from_utf8(out).unwrap()))
        .map_err(|error| error.to_string())
}

fn server_conf(hsm: &SoftHsm) -> PathBuf {
    let path = hsm.directory().join("server.conf");
    let text = format!(
        "server {{ trust_domain = \"example.org\" }}\nplugins {{\n  KeyManager \"pkcs11\" {{\n    plugin_data {{\n      module_path = \"{}\"\n      token_label = \"hardroot\"\n      pin_file = \"$PIN_DIR/pin\"\n    }}\n  }}\n}}\n",
        hsm.module().display(),
    );
    fs::write(&path, text.replace("$PIN_DIR", &hsm.directory().display().to_string())).unwrap();
    path
}

fn make_key(hsm: &SoftHsm) {
    let mut config = Config::new(hsm.module(), hsm.pin_file());
    config.token_label = Some(SoftHsm::TOKEN.to_owned());
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let namespace = Namespace { trust_domain: "example.org", instance: "server" };
        let keys = Pkcs11KeyManager::open(config, namespace).await.unwrap();
        keys.generate(&KeyId::new("x509-CA-A").unwrap(), KeyType::EcP256).await.unwrap();
    });
}

#[test]
fn check_reads_the_attributes_back_for_people_and_programs() {
    softhsm::isolated(|token| {
        let conf = server_conf(token).display().to_string();
        let (good, text) = hsm(&["check", "-config", &conf]).unwrap();
        assert!(good && text.contains("No keys of Hardroot"), "{text}");

        make_key(token);
        let (good, text) = hsm(&["check", "-config", &conf]).unwrap();
        assert!(good && text.contains("x509-CA-A  server in example.org  ec-p256  good"), "{text}");
        let (good, text) = hsm(&["check", "-config", &conf, "-output", "json"]).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert!(good && json["ok"] == true, "{json}");
        let attributes = &json["keys"][0]["attributes"];
        for (name, value) in [
            ("token", true),
            ("private", true),
            ("sensitive", true),
            ("extractable", false),
            ("always_sensitive", true),
            ("never_extractable", true),
            ("local", true),
            ("sign", true),
            ("decrypt", false),
        ] {
            assert_eq!(attributes[name], value, "{name} in {attributes}");
        }
        assert_eq!(json["keys"][0]["key"], "x509-CA-A");
        assert_eq!(json["token"]["label"], "hardroot");
        assert!(!text.contains(SoftHsm::PIN));
    });
}

#[test]
fn an_exportable_key_makes_check_say_no() {
    softhsm::isolated(|token| {
        // pkcs11-tool makes what an operator might: a key of our name that the token would export.
        let status = std::process::Command::new("pkcs11-tool")
            .arg("--module")
            .arg(token.module())
            .args(["--token-label", "hardroot", "--login", "--pin", SoftHsm::PIN, "--keypairgen"])
            .args(["--key-type", "EC:prime256v1", "--extractable", "--id", "01"])
            .args(["--label", "hardroot/example.org/server/x509-CA-A"])
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        let conf = server_conf(token).display().to_string();
        let (good, text) = hsm(&["check", "-config", &conf]).unwrap();
        assert!(!good, "{text}");
        assert!(
            text.contains("refused: hardroot/example.org/server/x509-CA-A: CKA_EXTRACTABLE is true"),
            "{text}"
        );
        let (good, text) = hsm(&["check", "-config", &conf, "-output", "json"]).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert!(
            !good && json["ok"] == false && json["keys"][0]["attributes"]["extractable"] == true,
            "{json}"
        );
    });
}

#[test]
fn a_token_is_made_and_listed_by_flags_alone() {
    softhsm::isolated(|token| {
        let module = token.module().display().to_string();
        let (pin, so_pin) =
            (token.pin_file().display().to_string(), token.so_pin_file().display().to_string());
        let make = [
            "init-token",
            "-modulePath",
            &module,
            "-tokenLabel",
            "fresh",
            "-soPinFile",
            &so_pin,
            "-pinFile",
            &pin,
        ];
        let (_, text) = hsm(&make).unwrap();
        assert!(text.starts_with("Initialised the token.") && text.contains("fresh"), "{text}");
        let error = hsm(&make).unwrap_err();
        assert!(error.contains("already"), "{error}");

        let (_, text) = hsm(&["list", "-modulePath", &module]).unwrap();
        assert!(
            text.contains("fresh") && text.contains("hardroot") && text.contains("(not initialised)"),
            "{text}"
        );
        let (_, text) =
            hsm(&["list", "-modulePath", &module, "-tokenLabel", "fresh", "-pinFile", &pin]).unwrap();
        assert!(text.contains("Keys             : 0"), "{text}");
        make_key(token);
        let list = ["list", "-modulePath", &module, "-tokenLabel", "hardroot", "-pinFile", &pin];
        let (_, text) = hsm(&list).unwrap();
        assert!(
            text.contains("CKA_NEVER_EXTRACTABLE  true") && text.contains("1 private, 1 public"),
            "{text}"
        );
    });
}

#[test]
fn what_is_missing_is_named_with_its_flag() {
    assert!(hsm(&["list"]).unwrap_err().contains("-modulePath"));
    assert!(hsm(&["check", "-modulePath", "/x"]).unwrap_err().contains("-tokenLabel"));
    assert!(hsm(&["check", "-modulePath", "/x", "-tokenLabel", "y"]).unwrap_err().contains("-pinFile"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.conf");
    fs::write(&path, "plugins { KeyManager \"memory\" { plugin_data {} } }").unwrap();
    let error = hsm(&["check", "-config", &path.display().to_string()]).unwrap_err();
    assert!(error.contains("no KeyManager \"pkcs11\""), "{error}");
}
