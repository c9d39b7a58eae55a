//! Against a server on a socket.

use crate::cli::tests::Shell;

const WEB: [&str; 8] = [
    "federation",
    "create",
    "-trustDomain",
    "a.test",
    "-bundleEndpointURL",
    "https://a.test/bundle",
    "-bundleEndpointProfile",
    "https_web",
];
const A: &str = "Trust domain              : a.test\n\
    Bundle endpoint URL       : https://a.test/bundle\n\
    Bundle endpoint profile   : https_web\n";
const B: &str = "Trust domain              : b.test\n\
    Bundle endpoint URL       : https://b.test/bundle\n\
    Bundle endpoint profile   : https_spiffe\n\
    Endpoint SPIFFE ID        : spiffe://b.test/endpoint\n";

fn file(shell: &Shell, name: &str, text: &str) -> String {
    let path = shell.socket.with_file_name(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_relationship_from_creation_to_deletion() {
    let shell = Shell::new().await;
    let none = shell.run(&["federation", "list"]).await.ok();
    assert_eq!(none, "Found 0 federation relationships\n");
    assert_eq!(shell.run(&WEB).await.ok(), format!("\n{A}"));
    let out = shell.run(&["federation", "show", "-trustDomain", "a.test"]).await.ok();
    assert_eq!(out, format!("Found a federation relationship with trust domain a.test:\n\n{A}"));
    let mut update = WEB;
    (update[1], update[5]) = ("update", "https://new.test/bundle");
    let new = A.replace("https://a.test", "https://new.test");
    assert_eq!(shell.run(&update).await.ok(), format!("\n{new}"));
    let out = shell.run(&["federation", "list"]).await.ok();
    assert_eq!(out, format!("Found 1 federation relationship\n\n{new}"));
    let refused = shell.run(&["federation", "refresh", "-id", "a.test"]).await.failed();
    assert!(
        refused.starts_with("failed to refresh bundle: rpc error: code = FailedPrecondition desc = ")
            && refused.contains("bundle set -id a.test"),
        "{refused}"
    );
    let out = shell.run(&["federation", "delete", "-id", "a.test"]).await.ok();
    assert_eq!(out, "federation relationship deleted.\n");
    let gone = shell.run(&["federation", "delete", "-id", "spiffe://a.test"]).await.failed();
    assert_eq!(
        gone,
        "failed to delete federation relationship \"a.test\": federation relationship not found"
    );
    let gone = shell.run(&["federation", "show", "-trustDomain", "a.test"]).await.failed();
    assert_eq!(
        gone,
        "error showing federation relationship: rpc error: code = NotFound desc = federation relationship does not exist"
    );
    let gone = shell.run(&["federation", "refresh", "-id", "a.test"]).await.failed();
    assert_eq!(gone, "there is no federation relationship with trust domain \"a.test\"");
}

#[tokio::test]
async fn of_many_each_is_answered_for() {
    let shell = Shell::new().await;
    shell.run(&WEB).await.ok();
    let pem = hardroot_identity::pem_encode([&crate::api::testing::authority_der()]);
    let item = |name: &str, url: &str, more: serde_json::Value| {
        let mut item = serde_json::json!({
            "trustDomain": name, "bundleEndpointURL": url, "bundleEndpointProfile": "https_web",
        });
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    let spiffe = serde_json::json!({
        "bundleEndpointProfile": "https_spiffe", "endpointSPIFFEID": "spiffe://b.test/endpoint",
        "trustDomainBundle": pem, "trustDomainBundleFormat": "pem",
    });
    let list = serde_json::json!({ "federationRelationships": [
        item("a.test", "https://a.test/bundle", serde_json::json!({})),
        item("b.test", "https://b.test/bundle", spiffe),
        item("c.test", "http://c.test", serde_json::json!({})),
    ]});
    let path = file(&shell, "relationships.json", &list.to_string());
    let ran = shell.run(&["federation", "create", "-data", &path]).await;
    assert_eq!(ran.out, format!("\n{B}\n\n"));
    assert_eq!(
        ran.err,
        format!(
            "Failed to create the following federation relationship (code: Internal, msg: \"failed to create \
             federation relationship: federation relationship a.test already exists\"):\n{A}\
             Failed to create the following federation relationship (code: InvalidArgument, msg: \"failed to \
             convert federation relationship: bundle endpoint URL must use the https scheme\"):\n\
             Trust domain              : c.test\n\
             Bundle endpoint URL       : http://c.test\n\
             Bundle endpoint profile   : https_web\n"
        )
    );
    assert_eq!(ran.outcome, Err("failed to create one or more federation relationships".to_owned()));
    let bundles = shell.run(&["bundle", "list", "-id", "b.test"]).await.ok();
    assert_eq!(bundles, pem, "the bundle was stored too");
}

#[tokio::test]
async fn json_has_spires_names() {
    let shell = Shell::new().await;
    let ran = shell.run(&[WEB.as_slice(), &["-output", "json"]].concat()).await.ok();
    let relationship =
        r#"{"bundle_endpoint_url":"https://a.test/bundle","https_web":{},"trust_domain":"a.test"}"#;
    assert_eq!(
        ran,
        format!(
            "{{\"results\":[{{\"federation_relationship\":{relationship},\"status\":{{\"code\":0,\"message\":\"OK\"}}}}]}}\n"
        )
    );
    let ran = shell.run(&["federation", "show", "-trustDomain", "a.test", "-output", "json"]).await.ok();
    assert_eq!(ran, format!("{relationship}\n"));
    let ran = shell.run(&["federation", "list", "-output", "json"]).await.ok();
    assert_eq!(ran, format!("{{\"federation_relationships\":[{relationship}],\"next_page_token\":\"\"}}\n"));
    let ran = shell.run(&["federation", "delete", "-id", "a.test", "-output", "json"]).await.ok();
    assert_eq!(
        ran,
        "{\"results\":[{\"status\":{\"code\":0,\"message\":\"OK\"},\"trust_domain\":\"a.test\"}]}\n"
    );
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let shell = Shell::new().await;
    for (arguments, fault) in [
        (&["federation", "create"] as &[&str], "trust domain is required"),
        (&["federation", "update", "-trustDomain", "a.test"], "bundle endpoint URL is required"),
        (&WEB[..6], "unknown bundle endpoint profile type: \"\""),
        (
            &["federation", "create", "-data", "x.json", "-trustDomain", "a.test"],
            "cannot use other flags to specify relationship fields when 'data' flag is set",
        ),
        (&["federation", "show"], "a trust domain name is required"),
        (&["federation", "delete"], "id is required"),
        (&["federation", "refresh"], "id is required"),
    ] {
        assert_eq!(shell.run(arguments).await.failed(), fault);
    }
}

#[tokio::test]
async fn the_log_level_by_command() {
    let shell = Shell::new().await;
    let levels = |now: &str| format!("Logger Level : {now}\nLaunch Level : info\n\n");
    assert_eq!(shell.run(&["logger", "get"]).await.ok(), levels("info"));
    assert_eq!(shell.run(&["logger", "set", "-level", "WARN"]).await.ok(), levels("warning"));
    let json = shell.run(&["logger", "get", "-output", "json"]).await.ok();
    assert_eq!(json, "{\"current_level\":\"WARN\",\"launch_level\":\"INFO\"}\n");
    assert_eq!(shell.run(&["logger", "reset"]).await.ok(), levels("info"));
    assert_eq!(shell.run(&["logger", "set"]).await.failed(), "a value (-level) must be set");
    let bad = shell.run(&["logger", "set", "-level", "loud"]).await.failed();
    assert_eq!(bad, "the value \"loud\" is not a valid setting");
}
