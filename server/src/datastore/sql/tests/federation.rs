use super::*;
use crate::datastore::{
    BundleEndpointProfile, Bundles, FederationRelationship, FederationRelationships, Page, RelationshipMask,
};

fn web(name: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: td(name),
        bundle_endpoint_url: format!("https://{name}/bundle"),
        profile: BundleEndpointProfile::HttpsWeb,
    }
}

fn spiffe(name: &str) -> FederationRelationship {
    let endpoint_spiffe_id = format!("spiffe://{name}/endpoint").parse().unwrap();
    FederationRelationship { profile: BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id }, ..web(name) }
}

async fn relationships_are_stored_with_their_bundle_or_without(on: On) {
    let mut f = Fixture::new(on).await;
    assert_eq!(f.store.relationship(&td("a.test")).await.unwrap(), None);
    f.store.create_relationship(&web("a.test"), None).await.unwrap();
    f.store.create_relationship(&spiffe("b.test"), Some(b"one")).await.unwrap();
    f.restart().await;
    assert_eq!(f.store.relationship(&td("a.test")).await.unwrap(), Some((web("a.test"), None)));
    assert_eq!(
        f.store.relationship(&td("b.test")).await.unwrap(),
        Some((spiffe("b.test"), Some(b"one".to_vec())))
    );
    assert_eq!(f.store.bundle(&td("b.test")).await.unwrap(), Some((b"one".to_vec(), 1)));
    f.store.delete_relationship(&td("b.test")).await.unwrap();
    let again = f.store.delete_relationship(&td("b.test")).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })), "{again:?}");
    assert_eq!(f.store.bundle(&td("b.test")).await.unwrap(), Some((b"one".to_vec(), 1)), "the bundle stays");
}

async fn what_fails_leaves_the_bundle_alone(on: On) {
    let f = Fixture::new(on).await;
    f.store.create_relationship(&web("a.test"), Some(b"one")).await.unwrap();
    let twice = f.store.create_relationship(&spiffe("a.test"), Some(b"two")).await;
    assert!(matches!(twice, Err(StoreError::Exists { .. })), "{twice:?}");
    let absent = f.store.update_relationship(&web("b.test"), RelationshipMask::ALL, Some(b"two")).await;
    assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
    assert_eq!(f.store.bundle(&td("a.test")).await.unwrap(), Some((b"one".to_vec(), 1)));
    assert_eq!(f.store.bundle(&td("b.test")).await.unwrap(), None);
    assert_eq!(f.store.relationship(&td("a.test")).await.unwrap().unwrap().0, web("a.test"));
}

async fn an_update_replaces_what_the_mask_names(on: On) {
    let f = Fixture::new(on).await;
    f.store.create_relationship(&web("a.test"), None).await.unwrap();
    let new = FederationRelationship { bundle_endpoint_url: "https://other".into(), ..spiffe("a.test") };
    let none = RelationshipMask { bundle_endpoint_url: false, bundle_endpoint_profile: false };
    let url = RelationshipMask { bundle_endpoint_url: true, ..none };
    let profile = RelationshipMask { bundle_endpoint_profile: true, ..none };
    assert_eq!(f.store.update_relationship(&new, none, None).await.unwrap(), (web("a.test"), None));
    let (stored, _) = f.store.update_relationship(&new, url, None).await.unwrap();
    assert_eq!(
        stored,
        FederationRelationship { bundle_endpoint_url: "https://other".into(), ..web("a.test") }
    );
    let stored = f.store.update_relationship(&new, profile, Some(b"one")).await.unwrap();
    assert_eq!(stored, (new.clone(), Some(b"one".to_vec())));
    let stored =
        f.store.update_relationship(&web("a.test"), RelationshipMask::ALL, Some(b"two")).await.unwrap();
    assert_eq!(stored, (web("a.test"), Some(b"two".to_vec())));
    assert_eq!(f.store.bundle(&td("a.test")).await.unwrap(), Some((b"two".to_vec(), 2)), "writers notice");
}

async fn pages_of_relationships(on: On) {
    let f = Fixture::new(on).await;
    for name in ["c.test", "a.test", "b.test"] {
        f.store.create_relationship(&web(name), None).await.unwrap();
    }
    let mut page = Page { size: 2, token: String::new() };
    let mut names = Vec::new();
    loop {
        let (rows, next) = f.store.list_relationships(&page).await.unwrap();
        assert!(rows.len() <= 2);
        names.extend(rows.iter().map(|row| row.0.trust_domain.to_string()));
        if next.is_empty() {
            break;
        }
        page.token = next;
    }
    assert_eq!(names, ["c.test", "a.test", "b.test"], "in order of creation");
    assert_eq!(f.store.list_relationships(&Page::default()).await.unwrap().0.len(), 3);
    let bad = f.store.list_relationships(&Page { size: 1, token: "x".into() }).await;
    assert!(matches!(bad, Err(StoreError::PageToken { .. })), "{bad:?}");
}

async fn a_damaged_relationship_is_refused(on: On) {
    for damage in [
        "UPDATE federation_relationships SET endpoint_spiffe_id = 'no id'",
        "UPDATE federation_relationships SET trust_domain = 'NO NAME'",
    ] {
        let f = Fixture::new(on).await;
        f.store.create_relationship(&spiffe("a.test"), None).await.unwrap();
        f.sql(damage).await;
        let found = f.store.list_relationships(&Page::default()).await;
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{found:?}");
    }
}

on_every_engine! {
    relationships_are_stored_with_their_bundle_or_without,
    what_fails_leaves_the_bundle_alone,
    an_update_replaces_what_the_mask_names,
    pages_of_relationships,
    a_damaged_relationship_is_refused,
}
