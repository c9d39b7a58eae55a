//! Checklist A6 and A7: codes, messages, streams.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_agent::source::Availability;
use hardroot_agent::workload_api::{JwtUnavailable, Limits, WorkloadApi, WorkloadApiError};
use hardroot_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hardroot_api::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest,
    X509BundlesRequest, X509svidRequest,
};
use hardroot_identity::{JwtAlgorithm, JwtClaims, Selector, SpiffeId, jwt_assemble, jwt_signing_input};
use hardroot_runtime::shutdown::Shutdown;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::common::{Api, Tokens, bundle, identity, jwt_key, td, until, update};

#[tokio::test(flavor = "multi_thread")]
async fn the_security_header_is_demanded_exactly_once() {
    let api = Api::start(Limits::default()).await;
    api.ready(update(vec![identity("/a", "")], vec![bundle("example.org", b"root")]));
    let mut bare = SpiffeWorkloadApiClient::new(api.channel().await);
    for values in [&[][..], &["True"], &["false"], &["true", "true"], &["true,true"], &[""]] {
        let mut request = Request::new(X509svidRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
        }
        let status = bare.fetch_x509svid(request).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "security header missing from request")
        );
        let mut request = Request::new(WitBundlesRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
        }
        assert_eq!(bare.fetch_wit_bundles(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(*api.attestor.asked.lock().unwrap(), 0, "nothing is spent on such a call");
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    assert!(bare.fetch_x509svid(request).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_need_no_header() {
    let api = Api::start(Limits::default()).await;
    let mut health = HealthClient::new(api.channel().await);
    for service in ["", "SpiffeWorkloadAPI"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 2, "starting is not serving");
    }
    api.source.sender.send_replace(Availability::None);
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status != 1 {
        assert!(tokio::time::Instant::now() < end);
    }
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let stream = tokio_stream::iter([ask]);
    let mut reflection = ServerReflectionClient::new(api.channel().await);
    let answer = reflection
        .server_reflection_info(stream)
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("a list") };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"SpiffeWorkloadAPI") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_of_what_is_not_there() {
    let api = Api::start(Limits::default()).await;
    let mut client = api.client().await;
    let status = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "not synchronised yet");
    api.source.sender.send_replace(Availability::None);
    let status = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    assert_eq!(
        client.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        client.fetch_jwt_bundles(JwtBundlesRequest {}).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        client.fetch_witsvid(WitsvidRequest::default()).await.unwrap_err().code(),
        Code::Unimplemented
    );
    assert_eq!(client.fetch_wit_bundles(WitBundlesRequest {}).await.unwrap_err().code(), Code::Unimplemented);
    // An update that lacks a mandatory field is not sent in part.
    api.ready(update(vec![identity("/a", "")], vec![]));
    let mut stream = client.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn x509_svids_come_complete_and_at_once_and_then_on_change() {
    let api = Api::start(Limits::default()).await;
    api.source.sender.send_replace(Availability::Pending);
    let mut client = api.client().await;
    let mut stream = client.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    let both = || vec![bundle("example.org", b"root"), bundle("other.org", b"foreign")];
    api.ready(update(vec![identity("/a", "internal"), identity("/b", "")], both()));
    let first = stream.message().await.unwrap().unwrap();
    let svid = &first.svids[0];
    assert_eq!((svid.spiffe_id.as_str(), svid.hint.as_str()), ("spiffe://example.org/a", "internal"));
    assert_eq!(
        (&svid.x509_svid[..], &svid.x509_svid_key[..], &svid.bundle[..]),
        (&b"leafintermediate"[..], &b"key"[..], &b"root"[..])
    );
    assert_eq!(first.svids[1].spiffe_id, "spiffe://example.org/b");
    assert_eq!(
        first.federated_bundles.iter().collect::<Vec<_>>(),
        [(&"spiffe://other.org".to_owned(), &b"foreign".to_vec())]
    );
    // The same again is no message; a bundle that went vanishes.
    let asked = || *api.attestor.asked.lock().unwrap();
    let before = asked();
    api.ready(update(vec![identity("/a", "internal"), identity("/b", "")], both()));
    until("the caller is attested for the update", || asked() > before).await;
    api.ready(update(vec![identity("/b", "")], vec![bundle("example.org", b"root2")]));
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!((second.svids.len(), &second.svids[0].bundle[..]), (1, &b"root2"[..]));
    assert!(second.federated_bundles.is_empty());
    // The last identity is withdrawn in mid-stream.
    api.source.sender.send_replace(Availability::None);
    assert_eq!(stream.message().await.unwrap_err().code(), Code::PermissionDenied);
    until("the subscription ends", || api.streams() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_of_both_kinds() {
    let api = Api::start(Limits::default()).await;
    let mut own = bundle("example.org", b"root");
    own.jwt_authorities.push(jwt_key().1);
    api.ready(update(vec![identity("/a", "")], vec![own.clone(), bundle("other.org", b"foreign")]));
    let mut client = api.client().await;
    let mut stream = client.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(
        (&message.bundles["spiffe://example.org"][..], &message.bundles["spiffe://other.org"][..]),
        (&b"root"[..], &b"foreign"[..])
    );
    let mut jwt = client.fetch_jwt_bundles(JwtBundlesRequest {}).await.unwrap().into_inner();
    let message = jwt.message().await.unwrap().unwrap();
    let keys: serde_json::Value = serde_json::from_slice(&message.bundles["spiffe://example.org"]).unwrap();
    assert_eq!(keys["keys"][0]["kid"], "k1");
    assert!(keys["keys"][0].get("use").is_none());
    // Identities that change do not touch bundle streams; a bundle does.
    api.ready(update(vec![identity("/b", "")], vec![own, bundle("other.org", b"foreign")]));
    api.ready(update(vec![identity("/b", "")], vec![bundle("example.org", b"new")]));
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.bundles.len(), 1);
    assert_eq!(&message.bundles["spiffe://example.org"][..], b"new");
}

fn ask(audience: &[&str], id: &str) -> JwtsvidRequest {
    JwtsvidRequest { audience: audience.iter().map(|a| (*a).to_owned()).collect(), spiffe_id: id.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn jwt_svids() {
    let api = Api::start(Limits::default()).await;
    api.ready(update(vec![identity("/a", "h"), identity("/b", "")], vec![bundle("example.org", b"root")]));
    let mut client = api.client().await;
    let all = client.fetch_jwtsvid(ask(&["x", "y"], "")).await.unwrap().into_inner();
    assert_eq!(
        (all.svids.len(), all.svids[0].svid.as_str(), all.svids[0].hint.as_str()),
        (2, "spiffe://example.org/a|x,y", "h")
    );
    let one = client.fetch_jwtsvid(ask(&["x"], "spiffe://example.org/b")).await.unwrap().into_inner();
    assert_eq!((one.svids.len(), one.svids[0].spiffe_id.as_str()), (1, "spiffe://example.org/b"));
    for (request, code) in [
        (ask(&[], ""), Code::InvalidArgument),
        (ask(&[""], ""), Code::InvalidArgument),
        (ask(&["x"], "not an id"), Code::InvalidArgument),
        (ask(&["x"], "spiffe://other.org/a"), Code::InvalidArgument),
        (ask(&["x"], "spiffe://example.org/c"), Code::PermissionDenied),
        (ask(&["x"; 65], ""), Code::InvalidArgument),
    ] {
        assert_eq!(client.fetch_jwtsvid(request.clone()).await.unwrap_err().code(), code, "{request:?}");
    }
    // Without an identity, and when the server cannot sign.
    api.source.sender.send_replace(Availability::None);
    let status = client.fetch_jwtsvid(ask(&["x"], "")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    api.source.sender.send_replace(Availability::Starting);
    assert_eq!(client.fetch_jwtsvid(ask(&["x"], "")).await.unwrap_err().code(), Code::Unavailable);
    let away = Tokens(Err(JwtUnavailable("the server is away".into())));
    let api = Api::start_with(Limits::default(), away, |api| api).await;
    api.ready(update(vec![identity("/a", "")], vec![bundle("example.org", b"root")]));
    let status = api.client().await.fetch_jwtsvid(ask(&["x"], "")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "could not fetch JWT-SVID: the server is away")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_without_an_identity_get_the_own_bundle_only_where_that_is_allowed() {
    let allowed = Api::start_with(Limits::default(), Tokens(Ok(())), |api| api.with_verifiers(true)).await;
    let refusing = Api::start(Limits::default()).await;
    let (key, authority) = jwt_key();
    let mut own = bundle("example.org", b"root");
    own.jwt_authorities.push(authority.clone());
    let good = token(&key, &authority.spki_der, "spiffe://example.org/x", 0);
    let check = ValidateJwtsvidRequest { audience: "me".into(), svid: good };
    for api in [&allowed, &refusing] {
        api.source.own.send_replace(Some(Arc::new(own.clone())));
        api.source.sender.send_replace(Availability::None);
    }
    let mut refused = refusing.client().await;
    let codes = [
        refused.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap_err().code(),
        refused.fetch_jwt_bundles(JwtBundlesRequest {}).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::PermissionDenied; 2]);
    // As with SPIRE, whose programs have their tokens judged whatever this says.
    let judged = refused.validate_jwtsvid(check.clone()).await.unwrap().into_inner();
    assert_eq!(judged.spiffe_id, "spiffe://example.org/x");

    let mut client = allowed.client().await;
    let denied = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "an identity is still needed to get one");
    assert_eq!(client.fetch_jwtsvid(ask(&["x"], "")).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(
        client.validate_jwtsvid(check).await.unwrap().into_inner().spiffe_id,
        "spiffe://example.org/x"
    );
    let mut stream = client.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap().into_inner();
    let names =
        |bundles: std::collections::BTreeMap<String, Vec<u8>>| bundles.into_values().collect::<Vec<_>>();
    assert_eq!(names(stream.message().await.unwrap().unwrap().bundles), [b"root"]);
    // It follows the bundle, gets the federated ones with an identity, and loses them with it.
    allowed.source.own.send_replace(Some(Arc::new(bundle("example.org", b"new"))));
    assert_eq!(names(stream.message().await.unwrap().unwrap().bundles), [b"new"]);
    let both = vec![bundle("example.org", b"new"), bundle("other.org", b"foreign")];
    allowed.ready(update(vec![identity("/a", "")], both));
    assert_eq!(stream.message().await.unwrap().unwrap().bundles.len(), 2);
    allowed.source.sender.send_replace(Availability::None);
    assert_eq!(names(stream.message().await.unwrap().unwrap().bundles), [b"new"]);
}

fn token(key: &aws_lc_rs::signature::EcdsaKeyPair, spki: &[u8], id: &str, age: u64) -> String {
    let id: SpiffeId = id.parse().unwrap();
    let made = SystemTime::now() - Duration::from_secs(age);
    let claims = JwtClaims::new(&id, &["me".to_owned()], made, Duration::from_secs(60), None)
        .unwrap()
        .with_issuer("iss");
    let input = jwt_signing_input(&claims, "k1", JwtAlgorithm::Es256);
    let signature = key.sign(&aws_lc_rs::rand::SystemRandom::new(), input.as_bytes()).unwrap();
    jwt_assemble(&input, JwtAlgorithm::Es256, signature.as_ref(), spki).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_validated_for_workloads() {
    let api =
        Api::start_with(Limits::default(), Tokens(Ok(())), |api| api.with_foreign_claims(["iat".to_owned()]))
            .await;
    let (key, authority) = jwt_key();
    let (mut own, mut foreign) = (bundle("example.org", b"root"), bundle("other.org", b"foreign"));
    own.jwt_authorities.push(authority.clone());
    foreign.jwt_authorities.push(authority.clone());
    api.ready(update(vec![identity("/a", "")], vec![own, foreign]));
    let mut client = api.client().await;
    let request =
        |audience: &str, svid: &str| ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
    let spki = &authority.spki_der;
    let good = token(&key, spki, "spiffe://example.org/x", 0);
    let answer = client.validate_jwtsvid(request("me", &good)).await.unwrap().into_inner();
    assert_eq!(answer.spiffe_id, "spiffe://example.org/x");
    let names = |claims: Option<prost_types::Struct>| {
        claims.unwrap().fields.into_keys().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(answer.claims), "aud exp iat iss sub");
    let foreign =
        client.validate_jwtsvid(request("me", &token(&key, spki, "spiffe://other.org/x", 0))).await.unwrap();
    assert_eq!(names(foreign.into_inner().claims), "aud exp iat sub", "only what is allowed by name");
    let unknown = token(&key, spki, "spiffe://unknown.org/x", 0);
    let old = token(&key, spki, "spiffe://example.org/x", 120);
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    for (audience, svid) in
        [("you", &good), ("me", &old), ("me", &forged), ("me", &unknown), ("", &good), ("me", &String::new())]
    {
        let status = client.validate_jwtsvid(request(audience, svid)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_whose_selectors_change_must_ask_again() {
    let api = Api::start(Limits::default()).await;
    api.ready(update(vec![identity("/a", "")], vec![bundle("example.org", b"root")]));
    let mut client = api.client().await;
    let mut stream = client.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    *api.attestor.selectors.lock().unwrap() = vec![Selector::new("test", "changed").unwrap()];
    api.ready(update(vec![identity("/b", "")], vec![bundle("example.org", b"root")]));
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let mut again = client.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    assert_eq!(again.message().await.unwrap().unwrap().svids[0].spiffe_id, "spiffe://example.org/b");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_and_its_end() {
    let api = Api::start(Limits::default()).await;
    assert_eq!(td("example.org").as_str(), "example.org");
    api.ready(update(vec![identity("/a", "")], vec![bundle("example.org", b"root")]));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&api.path()), mode(api.path().parent().unwrap())), (0o777, 0o755));
    let another = || WorkloadApi::new(api.source.clone(), Arc::new(Tokens(Ok(()))), vec![]);
    let taken = another().serve(&api.path(), Shutdown::new()).await;
    assert!(matches!(taken, Err(WorkloadApiError::Socket(_))), "a live socket is left alone");
    let mut client = api.client().await;
    let mut stream = client.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let asked = tokio::time::Instant::now();
    api.shutdown.request();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
    let path = api.path();
    let third = another();
    api.served.await.unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(!path.exists());
    // What a process that was killed leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (again, token) = (path.clone(), Shutdown::new());
    let ends = token.clone();
    let served = tokio::spawn(async move { third.serve(&again, ends).await });
    until("the stale socket is replaced", || std::os::unix::net::UnixStream::connect(&path).is_ok()).await;
    token.request();
    served.await.unwrap().unwrap();
}
