//! The Bundle service.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

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
