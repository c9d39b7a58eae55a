use tonic::Code;
use wire::trust_domain_server::TrustDomain as _;

use super::*;
use crate::api::testing::{Site, authority_der, own, public_key_der};
use crate::datastore::Bundles;

fn web(name: &str) -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: name.into(),
        bundle_endpoint_url: format!("https://{name}/bundle"),
        trust_domain_bundle: None,
        bundle_endpoint_profile: Some(WireProfile::HttpsWeb(types::HttpsWebProfile {})),
    }
}

fn spiffe(name: &str, id: &str) -> types::FederationRelationship {
    let profile = types::HttpsspiffeProfile { endpoint_spiffe_id: id.into() };
    types::FederationRelationship {
        bundle_endpoint_profile: Some(WireProfile::HttpsSpiffe(profile)),
        ..web(name)
    }
}

fn bundle(name: &str) -> types::Bundle {
    types::Bundle {
        trust_domain: name.into(),
        x509_authorities: vec![types::X509Certificate { asn1: authority_der(), tainted: false }],
        jwt_authorities: vec![types::JwtKey {
            public_key: public_key_der(),
            key_id: "k".into(),
            expires_at: 7,
            tainted: false,
        }],
        refresh_hint: 60,
        sequence_number: 9,
        wit_authorities: vec![],
    }
}

fn with(relationship: types::FederationRelationship, bundle: types::Bundle) -> types::FederationRelationship {
    types::FederationRelationship { trust_domain_bundle: Some(bundle), ..relationship }
}

const NOTHING: types::FederationRelationshipMask = types::FederationRelationshipMask {
    bundle_endpoint_url: false,
    bundle_endpoint_profile: false,
    trust_domain_bundle: false,
};

/// The service and a call's record.
struct Calls {
    site: Site,
    service: TrustDomainService,
}

impl Calls {
    async fn new() -> Self {
        let site = Site::new().await;
        let service = site.trust_domain_service();
        Self { site, service }
    }

    fn request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Record::new("/spire.api.server.trustdomain.v1.TrustDomain/X"));
        request
    }

    async fn create(
        &self,
        all: Vec<types::FederationRelationship>,
        output_mask: Option<types::FederationRelationshipMask>,
    ) -> Vec<(i32, String, Option<types::FederationRelationship>)> {
        let request =
            wire::BatchCreateFederationRelationshipRequest { federation_relationships: all, output_mask };
        let answer = self.service.batch_create_federation_relationship(Self::request(request)).await.unwrap();
        let results = answer.into_inner().results.into_iter();
        results
            .map(|r| {
                let status = r.status.unwrap();
                (status.code, status.message, r.federation_relationship)
            })
            .collect()
    }

    async fn update(
        &self,
        all: Vec<types::FederationRelationship>,
        input_mask: Option<types::FederationRelationshipMask>,
    ) -> Vec<(i32, String, Option<types::FederationRelationship>)> {
        let request = wire::BatchUpdateFederationRelationshipRequest {
            federation_relationships: all,
            input_mask,
            output_mask: None,
        };
        let answer = self.service.batch_update_federation_relationship(Self::request(request)).await.unwrap();
        let results = answer.into_inner().results.into_iter();
        results
            .map(|r| {
                let status = r.status.unwrap();
                (status.code, status.message, r.federation_relationship)
            })
            .collect()
    }

    async fn get(
        &self,
        name: &str,
        output_mask: Option<types::FederationRelationshipMask>,
    ) -> Result<types::FederationRelationship, Status> {
        let request = wire::GetFederationRelationshipRequest { trust_domain: name.into(), output_mask };
        self.service.get_federation_relationship(Self::request(request)).await.map(Response::into_inner)
    }
}

#[tokio::test]
async fn each_fault_of_a_relationship_has_spires_text() {
    let calls = Calls::new().await;
    let url = |url: &str| types::FederationRelationship { bundle_endpoint_url: url.into(), ..web("a.test") };
    let nobody = types::FederationRelationship { bundle_endpoint_profile: None, ..web("a.test") };
    let mut bad_root = bundle("a.test");
    bad_root.x509_authorities[0].asn1 = b"x".to_vec();
    let mut bad_key = bundle("a.test");
    bad_key.jwt_authorities[0].key_id.clear();
    let prefix = "failed to convert federation relationship: ";
    for (relationship, text) in [
        (web(""), "failed to parse trust domain: trust domain is missing"),
        (
            web("A.TEST"),
            "failed to parse trust domain: trust domain characters are limited to lowercase letters, numbers, \
             dots, dashes, and underscores",
        ),
        (url(""), "bundle endpoint URL must use the https scheme"),
        (url("a.test/bundle"), "bundle endpoint URL must use the https scheme"),
        (url("http://a.test"), "bundle endpoint URL must use the https scheme"),
        (url("https:a.test"), "bundle endpoint URL must specify the host"),
        (url("https:///bundle"), "bundle endpoint URL must specify the host"),
        (url("https://?x=a.test"), "bundle endpoint URL must specify the host"),
        (url("https://:443/bundle"), "bundle endpoint URL must specify the host"),
        (url("https://me@a.test/bundle"), "bundle endpoint URL must not contain user info"),
        (url("https://me:secret@a.test"), "bundle endpoint URL must not contain user info"),
        (url("https://a b/"), "failed to parse bundle endpoint URL: "),
        (nobody, "unsupported bundle endpoint profile type: <nil>"),
        (spiffe("a.test", ""), "failed to parse endpoint SPIFFE ID: cannot be empty"),
        (spiffe("a.test", "a.test/x"), "failed to parse endpoint SPIFFE ID: scheme is missing or invalid"),
        (
            with(web("a.test"), bundle("")),
            "failed to parse bundle: invalid trust domain: trust domain is missing",
        ),
        (with(web("a.test"), bad_root), "failed to parse bundle: unable to parse X.509 authority: "),
        (
            with(web("a.test"), bad_key),
            "failed to parse bundle: unable to parse JWT authority: missing key ID",
        ),
        (
            with(web("a.test"), bundle("spiffe://b.test")),
            "trust domain bundle (\"spiffe://b.test\") must match the trust domain of the federation \
             relationship (\"a.test\")",
        ),
    ] {
        let got = calls.create(vec![relationship.clone()], None).await.remove(0);
        let wanted = format!("{prefix}{text}");
        assert_eq!(got.0, i32::from(Code::InvalidArgument), "{relationship:?}");
        assert!(got.1 == wanted || (text.ends_with(": ") && got.1.starts_with(&wanted)), "{}", got.1);
        assert_eq!(got.2, None);
        // An update looks at the same fields.
        assert_eq!(calls.update(vec![relationship], None).await.remove(0).1, got.1);
    }
    let own = calls.create(vec![web(own().as_str())], None).await.remove(0);
    assert_eq!(own.0, i32::from(Code::InvalidArgument));
    assert_eq!(own.1, "unable to create federation relationship for server trust domain");
    for fine in ["https://a", "HTTPS://a:8443", "https://[::1]:1/x?y#z", "https://1.2.3.4"] {
        let td = format!("t{}.test", fine.len());
        let fine = types::FederationRelationship { bundle_endpoint_url: fine.into(), ..web(&td) };
        assert_eq!(calls.create(vec![fine], None).await[0].0, 0);
    }
}

#[tokio::test]
async fn a_batch_answers_for_each_item_in_order_and_records_it() {
    let calls = Calls::new().await;
    let b = with(spiffe("b.test", "spiffe://b.test/e"), bundle("b.test"));
    let all = vec![web("a.test"), web("a.test"), web(""), b.clone()];
    let results = calls.create(all, None).await;
    let codes: Vec<i32> = results.iter().map(|r| r.0).collect();
    assert_eq!(codes, [0, Code::Internal.into(), Code::InvalidArgument.into(), 0]);
    assert_eq!(
        results[1].1,
        "failed to create federation relationship: federation relationship a.test already exists"
    );
    assert_eq!((&results[0].2, &results[3].2), (&Some(web("a.test")), &Some(b.clone())));
    let lines = calls.site.audit_lines();
    let of = |name: &str| {
        lines.iter().map(|line| line[name].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("status"), ["success", "error", "error", "success"]);
    assert_eq!((&lines[1]["status_code"], &lines[2]["status_code"]), (&13.into(), &3.into()));
    assert_eq!(of("trust_domain_id"), ["a.test", "a.test", "", "b.test"]);
    assert_eq!(of("bundle_endpoint_url")[0], "https://a.test/bundle");
    assert_eq!(of("bundle_endpoint_profile"), ["https_web", "https_web", "https_web", "https_spiffe"]);
    assert_eq!(of("endpoint_spiffe_id")[3], "spiffe://b.test/e");
    assert_eq!(of("bundle_trust_domain_id")[3], "b.test");
    assert_eq!(of("bundle_jwt_authority_key_id.0")[3], "k");
    assert_eq!(of("bundle_x509_authorities_asn1_sha256.0")[3].len(), 64);
    assert!(of("request_id").iter().all(|id| *id == lines[0]["request_id"] && id.len() == 36));
    assert_eq!(lines[0]["service"], "trustdomain.v1.TrustDomain");

    assert!(calls.create(vec![], None).await.is_empty());
    assert!(calls.update(vec![], None).await.is_empty());
    assert!(calls.site.audit_lines().is_empty());
}

#[tokio::test]
async fn output_masks_show_what_they_name() {
    let calls = Calls::new().await;
    let full = with(spiffe("a.test", "spiffe://a.test/e"), bundle("a.test"));
    let bare = types::FederationRelationship { trust_domain: "a.test".into(), ..Default::default() };
    let shown = calls.create(vec![full.clone()], Some(NOTHING)).await.remove(0).2.unwrap();
    assert_eq!(shown, bare);
    let url = types::FederationRelationshipMask { bundle_endpoint_url: true, ..NOTHING };
    let profile = types::FederationRelationshipMask { bundle_endpoint_profile: true, ..NOTHING };
    let only = types::FederationRelationshipMask { trust_domain_bundle: true, ..NOTHING };
    for (mask, wanted) in [
        (None, full.clone()),
        (Some(NOTHING), bare.clone()),
        (
            Some(url),
            types::FederationRelationship {
                bundle_endpoint_url: full.bundle_endpoint_url.clone(),
                ..bare.clone()
            },
        ),
        (
            Some(profile),
            types::FederationRelationship {
                bundle_endpoint_profile: full.bundle_endpoint_profile.clone(),
                ..bare.clone()
            },
        ),
        (Some(only), with(bare.clone(), bundle_of(&full))),
    ] {
        assert_eq!(calls.get("a.test", mask).await.unwrap(), wanted);
        let request = wire::ListFederationRelationshipsRequest { output_mask: mask, ..Default::default() };
        let listed = calls.service.list_federation_relationships(Request::new(request)).await.unwrap();
        assert_eq!(listed.into_inner().federation_relationships, [wanted]);
    }
    let bad = calls.get("", None).await.unwrap_err();
    assert_eq!(
        (bad.code(), bad.message()),
        (Code::InvalidArgument, "failed to parse trust domain: trust domain is missing")
    );
    let gone = calls.get("b.test", None).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "federation relationship does not exist"));
}

fn bundle_of(relationship: &types::FederationRelationship) -> types::Bundle {
    relationship.trust_domain_bundle.clone().unwrap()
}

#[tokio::test]
async fn an_update_replaces_what_the_input_mask_names_and_shows_what_is_stored() {
    let calls = Calls::new().await;
    let missing = calls.update(vec![web("a.test")], None).await.remove(0);
    assert_eq!(missing.0, i32::from(Code::Internal));
    assert_eq!(
        missing.1,
        "failed to update federation relationship: unable to fetch federation relationship: record not found"
    );
    let first = with(web("a.test"), bundle("a.test"));
    calls.create(vec![first.clone()], None).await;
    let mut new = with(spiffe("a.test", "spiffe://a.test/e"), bundle("a.test"));
    new.bundle_endpoint_url = "https://new.test".into();
    let mut expected = first;
    assert_eq!(calls.update(vec![new.clone()], Some(NOTHING)).await[0].2, Some(expected.clone()));
    let mask = types::FederationRelationshipMask { bundle_endpoint_url: true, ..NOTHING };
    // Fields outside the mask need not be there.
    let partial = types::FederationRelationship { bundle_endpoint_profile: None, ..new.clone() };
    expected.bundle_endpoint_url.clone_from(&new.bundle_endpoint_url);
    assert_eq!(calls.update(vec![partial], Some(mask)).await[0].2, Some(expected.clone()));
    let mask = types::FederationRelationshipMask { bundle_endpoint_profile: true, ..NOTHING };
    expected.bundle_endpoint_profile.clone_from(&new.bundle_endpoint_profile);
    assert_eq!(calls.update(vec![new.clone()], Some(mask)).await[0].2, Some(expected.clone()));
    let mask = types::FederationRelationshipMask { trust_domain_bundle: true, ..NOTHING };
    calls.site.audit_lines();
    assert_eq!(calls.update(vec![new.clone()], Some(mask)).await[0].2, Some(new.clone()));
    let line = calls.site.audit_lines().remove(0);
    assert!(
        line.get("bundle_endpoint_url").is_none() && line.get("bundle_sequence_number").is_some(),
        "{line}"
    );
    // Without a bundle the stored one stays, whatever the mask.
    let without = types::FederationRelationship { trust_domain_bundle: None, ..new.clone() };
    assert_eq!(calls.update(vec![without], None).await[0].2, Some(new));
}

#[tokio::test]
async fn deletion_and_refresh() {
    let calls = Calls::new().await;
    calls.create(vec![with(web("a.test"), bundle("a.test"))], None).await;
    let refresh = async |name: &str| {
        let request = wire::RefreshBundleRequest { trust_domain: name.into() };
        calls.service.refresh_bundle(Request::new(request)).await.unwrap_err()
    };
    let answer = refresh("a.test").await;
    assert_eq!(answer.code(), Code::FailedPrecondition);
    assert!(answer.message().contains("`bundle set -id a.test`"), "{answer}");
    let answer = refresh("b.test").await;
    assert_eq!(
        (answer.code(), answer.message()),
        (Code::NotFound, "no relationship with trust domain \"b.test\"")
    );
    let answer = refresh("").await;
    assert_eq!(
        (answer.code(), answer.message()),
        (Code::InvalidArgument, "failed to parse trust domain: trust domain is missing")
    );

    let trust_domains = ["", "B", "spiffe://a.test", "a.test"].map(str::to_owned).to_vec();
    let request = wire::BatchDeleteFederationRelationshipRequest { trust_domains };
    let answer = calls.service.batch_delete_federation_relationship(Calls::request(request)).await.unwrap();
    let results: Vec<_> = answer
        .into_inner()
        .results
        .into_iter()
        .map(|r| (r.trust_domain, r.status.as_ref().unwrap().code, r.status.unwrap().message))
        .collect();
    let invalid = i32::from(Code::InvalidArgument);
    assert_eq!(results[0], (String::new(), invalid, "missing trust domain".to_owned()));
    assert_eq!((results[1].0.as_str(), results[1].1), ("B", invalid));
    assert!(results[1].2.starts_with("failed to parse trust domain: "), "{}", results[1].2);
    assert_eq!(results[2], ("a.test".to_owned(), 0, "OK".to_owned()));
    let gone = "federation relationship not found".to_owned();
    assert_eq!(results[3], ("a.test".to_owned(), Code::NotFound.into(), gone));
    let bundle = calls.site.store.bundle(&"a.test".parse().unwrap()).await.unwrap();
    assert!(bundle.is_some(), "the bundle stays");
}

#[tokio::test]
async fn pages() {
    let calls = Calls::new().await;
    calls.create(["a.test", "b.test", "c.test"].map(web).to_vec(), None).await;
    let mut request = wire::ListFederationRelationshipsRequest { page_size: 2, ..Default::default() };
    let mut sizes = Vec::new();
    loop {
        let answer = calls.service.list_federation_relationships(Request::new(request.clone())).await;
        let answer = answer.unwrap().into_inner();
        sizes.push(answer.federation_relationships.len());
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [2, 1]);
    request.page_token = "x".into();
    let bad = calls.service.list_federation_relationships(Request::new(request)).await.unwrap_err();
    let told = "failed to list federation relationships: could not parse token 'x'";
    assert_eq!((bad.code(), bad.message()), (Code::Internal, told));
}
