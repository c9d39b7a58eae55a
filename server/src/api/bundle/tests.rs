//! The Bundle service.

use tonic::Code;
use wire::bundle_server::Bundle as _;

use super::*;
use crate::api::testing::{Site, own, wire_entry};
use crate::datastore::{Bundles, Entries};

fn authority() -> types::X509Certificate {
    types::X509Certificate { asn1: crate::api::testing::authority_der(), tainted: false }
}

fn key(id: &str) -> types::JwtKey {
    types::JwtKey {
        public_key: crate::api::testing::public_key_der(),
        key_id: id.into(),
        expires_at: 9_000_000_000,
        tainted: false,
    }
}

fn foreign(name: &str) -> types::Bundle {
    types::Bundle {
        trust_domain: name.into(),
        x509_authorities: vec![authority()],
        refresh_hint: 60,
        sequence_number: 7,
        ..types::Bundle::default()
    }
}

fn code_of(status: &Option<types::Status>) -> (Code, String) {
    let status = status.clone().unwrap();
    (Code::from(status.code), status.message)
}

async fn get(service: &BundleService) -> Result<types::Bundle, Status> {
    let request = wire::GetBundleRequest { output_mask: None };
    service.get_bundle(Request::new(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn appending_grows_the_sequence_and_repeats_nothing() {
    let site = Site::new().await;
    let service = site.bundle_service();
    assert_eq!(get(&service).await.unwrap_err().code(), Code::NotFound);
    let root = authority();
    let append = |roots: Vec<types::X509Certificate>, keys| {
        Request::new(wire::AppendBundleRequest {
            x509_authorities: roots,
            jwt_authorities: keys,
            ..wire::AppendBundleRequest::default()
        })
    };
    let first = service.append_bundle(append(vec![root.clone()], vec![])).await.unwrap().into_inner();
    assert_eq!((first.sequence_number, first.x509_authorities.len()), (1, 1));
    let same = service.append_bundle(append(vec![root.clone()], vec![])).await.unwrap().into_inner();
    assert_eq!(same, first, "the same again changes nothing");
    let signing = key("k1");
    let more = service.append_bundle(append(vec![], vec![signing.clone()])).await.unwrap().into_inner();
    assert_eq!((more.sequence_number, more.jwt_authorities), (2, vec![signing]));
    assert_eq!(get(&service).await.unwrap().sequence_number, 2, "visible at once");
    for (roots, keys, text) in [
        (vec![], vec![], "no authorities to append"),
        (
            vec![],
            vec![types::JwtKey { key_id: String::new(), ..key("") }],
            "failed to convert JWT authority: missing key ID",
        ),
    ] {
        let error = service.append_bundle(append(roots, keys)).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::InvalidArgument, text));
    }
    let garbage = types::X509Certificate { asn1: vec![1, 2, 3], tainted: false };
    let error = service.append_bundle(append(vec![garbage], vec![])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("failed to convert X.509 authority: "), "{}", error.message());
}

#[tokio::test]
async fn get_bundle_shows_taint_and_follows_its_mask() {
    let site = Site::new().await;
    let service = site.bundle_service();
    let stored = common::Bundle {
        trust_domain_id: "spiffe://example.org".into(),
        root_cas: vec![common::Certificate { der_bytes: vec![1], tainted_key: true }],
        sequence_number: 3,
        ..common::Bundle::default()
    };
    site.store.put_bundle(&own(), &stored.encode_to_vec(), None).await.unwrap();
    let bundle = get(&service).await.unwrap();
    assert_eq!(bundle.trust_domain, "example.org");
    assert!(bundle.x509_authorities[0].tainted);
    let mask = types::BundleMask { sequence_number: true, ..types::BundleMask::default() };
    let request = wire::GetBundleRequest { output_mask: Some(mask) };
    let masked = service.get_bundle(Request::new(request)).await.unwrap().into_inner();
    assert_eq!((masked.sequence_number, masked.x509_authorities.len()), (3, 0));
}

#[tokio::test]
async fn a_downstream_server_publishes_its_key_and_gets_them_all() {
    let site = Site::new().await;
    let service = site.bundle_service();
    let publish = async |key| {
        let request = wire::PublishJwtAuthorityRequest { jwt_authority: key };
        service.publish_jwt_authority(Request::new(request)).await.map(Response::into_inner)
    };
    let (one, two) = (key("one"), key("two"));
    publish(Some(one.clone())).await.unwrap();
    assert_eq!(publish(Some(two.clone())).await.unwrap().jwt_authorities, [one, two]);
    assert_eq!(publish(None).await.unwrap_err().message(), "missing JWT authority");
    let bad = types::JwtKey { public_key: vec![9], ..key("x") };
    assert!(publish(Some(bad)).await.unwrap_err().message().starts_with("invalid JWT authority: "));
    let wit = wire::PublishWitAuthorityRequest::default();
    assert_eq!(
        service.publish_wit_authority(Request::new(wit)).await.unwrap_err().code(),
        Code::Unimplemented
    );
}

#[tokio::test]
async fn a_key_id_belongs_to_one_key() {
    let site = Site::new().await;
    let service = site.bundle_service();
    let publish = async |key| {
        let request = wire::PublishJwtAuthorityRequest { jwt_authority: Some(key) };
        service.publish_jwt_authority(Request::new(request)).await.map(Response::into_inner)
    };
    let one = key("one");
    publish(one.clone()).await.unwrap();
    let refused = publish(key("one")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::AlreadyExists,
            "failed to publish JWT key: the bundle has another JWT authority with the key ID \"one\""
        )
    );
    // Of a list with a key that is refused nothing is kept.
    let append = wire::AppendBundleRequest {
        jwt_authorities: vec![key("two"), key("one")],
        x509_authorities: vec![authority()],
        ..wire::AppendBundleRequest::default()
    };
    assert_eq!(service.append_bundle(Request::new(append)).await.unwrap_err().code(), Code::AlreadyExists);
    let now = get(&service).await.unwrap();
    assert_eq!(
        (now.jwt_authorities, now.x509_authorities.len(), now.sequence_number),
        (vec![one.clone()], 0, 1)
    );
    // The same key with another end lives until the later one.
    let sooner = types::JwtKey { expires_at: 8_000_000_000, ..one.clone() };
    assert_eq!(publish(sooner).await.unwrap().jwt_authorities, std::slice::from_ref(&one));
    let later = types::JwtKey { expires_at: 9_500_000_000, ..one };
    assert_eq!(publish(later.clone()).await.unwrap().jwt_authorities, std::slice::from_ref(&later));
    // What is tainted stays so.
    published::update(&*site.store, &own(), |bundle| {
        bundle.jwt_signing_keys[0].tainted_key = true;
        true
    })
    .await
    .unwrap();
    let answer = publish(later.clone()).await.unwrap();
    assert_eq!(answer.jwt_authorities, [types::JwtKey { tainted: true, ..later }]);
}

#[tokio::test]
async fn federated_bundles_are_created_set_updated_listed_and_deleted() {
    let site = Site::new().await;
    let service = site.bundle_service();
    let create = |bundle: types::Bundle| {
        Request::new(wire::BatchCreateFederatedBundleRequest { bundle: vec![bundle], output_mask: None })
    };
    let a = foreign("a.test");
    let made = service.batch_create_federated_bundle(create(a.clone())).await.unwrap().into_inner();
    assert_eq!(made.results[0].bundle, Some(a.clone()));
    let again = service.batch_create_federated_bundle(create(a.clone())).await.unwrap().into_inner();
    assert_eq!(code_of(&again.results[0].status), (Code::AlreadyExists, "bundle already exists".into()));
    let ours =
        service.batch_create_federated_bundle(create(foreign("example.org"))).await.unwrap().into_inner();
    assert_eq!(
        code_of(&ours.results[0].status),
        (
            Code::InvalidArgument,
            "creating a federated bundle for the server's own trust domain is not allowed".into()
        )
    );
    let set = wire::BatchSetFederatedBundleRequest {
        bundle: vec![foreign("spiffe://b.test"), types::Bundle { refresh_hint: 5, ..a.clone() }],
        output_mask: None,
    };
    let set = service.batch_set_federated_bundle(Request::new(set)).await.unwrap().into_inner();
    assert!(set.results.iter().all(|result| code_of(&result.status).0 == Code::Ok));
    let update = |bundle: types::Bundle| {
        Request::new(wire::BatchUpdateFederatedBundleRequest {
            bundle: vec![bundle],
            input_mask: Some(types::BundleMask { sequence_number: true, ..types::BundleMask::default() }),
            output_mask: None,
        })
    };
    let new = types::Bundle { sequence_number: 8, x509_authorities: vec![], ..a.clone() };
    let updated = service.batch_update_federated_bundle(update(new)).await.unwrap().into_inner();
    let expected = types::Bundle { sequence_number: 8, refresh_hint: 5, ..a };
    assert_eq!(updated.results[0].bundle, Some(expected.clone()));
    let gone = service.batch_update_federated_bundle(update(foreign("c.test"))).await.unwrap().into_inner();
    assert_eq!(code_of(&gone.results[0].status), (Code::NotFound, "bundle not found".into()));
    let list = async |page_size, page_token: &str| {
        let request =
            wire::ListFederatedBundlesRequest { page_size, page_token: page_token.into(), output_mask: None };
        service.list_federated_bundles(Request::new(request)).await.unwrap().into_inner()
    };
    let names = |answer: &wire::ListFederatedBundlesResponse| {
        answer.bundles.iter().map(|bundle| bundle.trust_domain.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&list(0, "").await), ["a.test", "b.test"]);
    let first = list(1, "").await;
    assert_eq!((names(&first), first.next_page_token.as_str()), (vec!["a.test".into()], "a.test"));
    let second = list(1, &first.next_page_token).await;
    assert_eq!((names(&second), second.next_page_token.as_str()), (vec!["b.test".into()], ""));
    let fetch = |name: &str| {
        Request::new(wire::GetFederatedBundleRequest { trust_domain: name.into(), output_mask: None })
    };
    assert_eq!(service.get_federated_bundle(fetch("a.test")).await.unwrap().into_inner(), expected);
    assert_eq!(service.get_federated_bundle(fetch("c.test")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        service.get_federated_bundle(fetch("example.org")).await.unwrap_err().message(),
        "getting a federated bundle for the server's own trust domain is not allowed"
    );
    let count = service.count_bundles(Request::new(wire::CountBundlesRequest {})).await.unwrap();
    assert_eq!(count.into_inner().count, 2);
}

#[tokio::test]
async fn deletion_has_three_modes() {
    use wire::batch_delete_federated_bundle_request::Mode;
    let site = Site::new().await;
    let service = site.bundle_service();
    let set = wire::BatchSetFederatedBundleRequest { bundle: vec![foreign("a.test")], output_mask: None };
    service.batch_set_federated_bundle(Request::new(set)).await.unwrap();
    let entry = types::Entry {
        federates_with: vec!["a.test".into()],
        ..wire_entry("/w", "/spire/agent/x/y", &["unix:uid:1"])
    };
    let entry = convert::entry(&own(), &entry, &crate::datastore::EntryMask::ALL, 0).unwrap();
    let (entry, _) = site.store.create_entry(entry).await.unwrap();
    let delete = async |name: &str, mode: i32| {
        let request = wire::BatchDeleteFederatedBundleRequest { trust_domains: vec![name.into()], mode };
        let answer = service.batch_delete_federated_bundle(Request::new(request)).await?;
        Ok::<_, Status>(code_of(&answer.into_inner().results[0].status))
    };
    assert_eq!(
        delete("a.test", Mode::Restrict.into()).await.unwrap(),
        (
            Code::FailedPrecondition,
            "failed to delete federated bundle: datastore-sql: cannot delete bundle; federated with 1 registration entries".into()
        )
    );
    assert_eq!(delete("a.test", 9).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(delete("a.test", Mode::Dissociate.into()).await.unwrap().0, Code::Ok);
    assert!(site.store.entry(&entry.id).await.unwrap().unwrap().federates_with.is_empty());
    assert_eq!(
        delete("a.test", Mode::Delete.into()).await.unwrap(),
        (Code::NotFound, "bundle not found".into())
    );
    assert_eq!(
        delete("example.org", Mode::Delete.into()).await.unwrap(),
        (Code::InvalidArgument, "removing the bundle for the server trust domain is not allowed".into())
    );
}

#[tokio::test]
async fn bundles_are_recorded_under_spires_names() {
    let site = Site::new().await;
    let service = site.bundle_service();
    fn recorded<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Record::new("/spire.api.server.bundle.v1.Bundle/X"));
        request
    }
    let mut bundle = foreign("a.test");
    bundle.jwt_authorities = vec![key("k0"), key("k1")];
    let set = wire::BatchSetFederatedBundleRequest { bundle: vec![bundle.clone()], output_mask: None };
    service.batch_set_federated_bundle(recorded(set)).await.unwrap();
    let line = site.audit_lines().remove(0);
    let expected: [(&str, serde_json::Value); 6] = [
        ("trust_domain_id", "a.test".into()),
        ("refresh_hint", 60.into()),
        ("sequence_number", 7.into()),
        ("jwt_authority_key_id.1", "k1".into()),
        ("jwt_authority_expires_at.0", 9_000_000_000_i64.into()),
        ("x509_authorities_asn1_sha256.0", sha256_hex(&bundle.x509_authorities[0].asn1).into()),
    ];
    for (name, value) in expected {
        assert_eq!(line[name], value, "{name}");
    }
    let input_mask = Some(types::BundleMask { refresh_hint: true, ..Default::default() });
    let update =
        wire::BatchUpdateFederatedBundleRequest { bundle: vec![bundle], input_mask, output_mask: None };
    service.batch_update_federated_bundle(recorded(update)).await.unwrap();
    let line = site.audit_lines().remove(0);
    assert_eq!((&line["refresh_hint"], line.get("sequence_number")), (&60.into(), None));

    let delete =
        |mode| wire::BatchDeleteFederatedBundleRequest { trust_domains: vec!["a.test".into()], mode };
    service.batch_delete_federated_bundle(recorded(delete(2))).await.unwrap();
    let line = site.audit_lines().remove(0);
    assert_eq!((&line["mode"], &line["trust_domain_id"]), (&"DISSOCIATE".into(), &"a.test".into()));
    // A call that is refused as a whole is left to the line of the call.
    let bad = recorded(delete(9));
    let record = bad.extensions().get::<Record>().unwrap().clone();
    let refused = service.batch_delete_federated_bundle(bad).await.unwrap_err();
    assert_eq!(refused.message(), "failed to parse deletion mode: unhandled delete mode \"9\"");
    site.audit().refused(&record, &refused);
    assert_eq!(site.audit_lines()[0]["status_code"], 3);
}
