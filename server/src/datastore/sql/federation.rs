//! Federation relationships.

use async_trait::async_trait;
use hardroot_identity::{SpiffeId, TrustDomain};

use super::access::{Row, Statement, is_unique_violation, retrying, sql};
use super::bundles::first_revision;
use super::changes::Changing;
use super::entries::decode_page;
use super::rows::Reader;
use super::{SqlStore, StoreError, filters};
use crate::datastore::{
    BundleEndpointProfile, FederationRelationship, FederationRelationships, Page, RelationshipMask,
};

const WHAT: &str = "federation relationship";

/// A relationship with the bundle of its trust domain, as of one moment.
const SELECT: &str = "SELECT r.id, r.trust_domain, r.bundle_endpoint_url, r.profile, r.endpoint_spiffe_id,
    (SELECT b.data FROM bundles b WHERE b.trust_domain = r.trust_domain) AS bundle
    FROM federation_relationships r";

const WEB: &str = "https_web";
const SPIFFE: &str = "https_spiffe";

type Stored = (FederationRelationship, Option<Vec<u8>>);

#[async_trait]
impl FederationRelationships for SqlStore {
    async fn create_relationship(
        &self,
        relationship: &FederationRelationship,
        bundle: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        retrying!(self.add_relationship(relationship, bundle))
    }

    async fn relationship(&self, trust_domain: &TrustDomain) -> Result<Option<Stored>, StoreError> {
        let op = "read federation relationship";
        self.reading(op, false, select(trust_domain)).await?.first().map(decode).transpose()
    }

    async fn list_relationships(&self, page: &Page) -> Result<(Vec<Stored>, String), StoreError> {
        let mut query = sql(SELECT);
        query.push(" WHERE 1 = 1");
        filters::push_page(&mut query, "r", page)?;
        let found = self.reading("list federation relationships", false, query).await?;
        decode_page(found, page, decode)
    }

    async fn update_relationship(
        &self,
        relationship: &FederationRelationship,
        mask: RelationshipMask,
        bundle: Option<&[u8]>,
    ) -> Result<Stored, StoreError> {
        retrying!(self.change_relationship(relationship, mask, bundle))
    }

    async fn delete_relationship(&self, trust_domain: &TrustDomain) -> Result<(), StoreError> {
        let delete = || {
            sql("DELETE FROM federation_relationships WHERE trust_domain = $1").bind(trust_domain.as_str())
        };
        if retrying!(self.writing("delete federation relationship", delete()))? == 0 {
            return Err(missing(trust_domain));
        }
        Ok(())
    }
}

impl SqlStore {
    async fn add_relationship(
        &self,
        relationship: &FederationRelationship,
        bundle: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let op = "create federation relationship";
        let mut tx = self.begin_changes(op).await?;
        set_bundle(&mut tx, op, &relationship.trust_domain, bundle).await?;
        let (profile, endpoint) = columns(&relationship.profile);
        let insert = sql("INSERT INTO federation_relationships
                (trust_domain, bundle_endpoint_url, profile, endpoint_spiffe_id) VALUES ($1, $2, $3, $4)")
        .bind(relationship.trust_domain.as_str())
        .bind(&relationship.bundle_endpoint_url)
        .bind(profile)
        .bind(endpoint);
        match tx.session.execute(op, insert).await {
            Ok(_) => self.commit_changes(tx, op).await,
            Err(error) if is_unique_violation(&error) => {
                Err(StoreError::Exists { what: WHAT, key: relationship.trust_domain.to_string() })
            }
            Err(other) => Err(other),
        }
    }

    async fn change_relationship(
        &self,
        relationship: &FederationRelationship,
        mask: RelationshipMask,
        bundle: Option<&[u8]>,
    ) -> Result<Stored, StoreError> {
        let op = "update federation relationship";
        let missing = || missing(&relationship.trust_domain);
        let mut tx = self.begin_changes(op).await?;
        let row = tx.session.fetch_optional(op, select(&relationship.trust_domain).for_update()).await?;
        let (mut now, _) = row.as_ref().map(decode).transpose()?.ok_or_else(missing)?;
        if mask.bundle_endpoint_url {
            now.bundle_endpoint_url.clone_from(&relationship.bundle_endpoint_url);
        }
        if mask.bundle_endpoint_profile {
            now.profile = relationship.profile.clone();
        }
        set_bundle(&mut tx, op, &now.trust_domain, bundle).await?;
        let (profile, endpoint) = columns(&now.profile);
        let update = sql(
            "UPDATE federation_relationships SET bundle_endpoint_url = $2, profile = $3, endpoint_spiffe_id = $4
             WHERE trust_domain = $1",
        )
        .bind(now.trust_domain.as_str())
        .bind(&now.bundle_endpoint_url)
        .bind(profile)
        .bind(endpoint);
        tx.session.execute(op, update).await?;
        let row = tx.session.fetch_optional(op, select(&relationship.trust_domain)).await?;
        let stored = row.as_ref().map(decode).transpose()?.ok_or_else(missing)?;
        self.commit_changes(tx, op).await?;
        Ok(stored)
    }
}

fn select(trust_domain: &TrustDomain) -> Statement {
    let mut query = sql(SELECT);
    query.push(" WHERE r.trust_domain = ").push_bind(trust_domain.as_str());
    query
}

fn missing(trust_domain: &TrustDomain) -> StoreError {
    StoreError::NotFound { what: WHAT, key: trust_domain.to_string() }
}

fn columns(profile: &BundleEndpointProfile) -> (&'static str, Option<&str>) {
    match profile {
        BundleEndpointProfile::HttpsWeb => (WEB, None),
        BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
            (SPIFFE, Some(endpoint_spiffe_id.as_str()))
        }
    }
}

/// Writes a bundle over what is there; its row's revision grows, so that other writers notice.
async fn set_bundle(
    tx: &mut Changing,
    op: &'static str,
    trust_domain: &TrustDomain,
    bundle: Option<&[u8]>,
) -> Result<(), StoreError> {
    let Some(bundle) = bundle else { return Ok(()) };
    let first = first_revision(&mut tx.session, op).await?;
    let mut write = sql("INSERT INTO bundles (trust_domain, data, revision) VALUES ($1, $2, $3)")
        .bind(trust_domain.as_str())
        .bind(bundle)
        .bind(first);
    let engine = tx.session.engine();
    write.push(&engine.upsert("trust_domain", &["data"], ", revision = bundles.revision + 1"));
    tx.session.execute(op, write).await?;
    tx.bundle(trust_domain).await
}

fn decode(row: &Row) -> Result<Stored, StoreError> {
    let r = Reader::new(row, WHAT, "trust_domain")?;
    let trust_domain = TrustDomain::new(&r.text("trust_domain")?).map_err(|cause| r.damaged(cause))?;
    let endpoint = r.optional_text("endpoint_spiffe_id")?;
    let profile = match (r.text("profile")?.as_str(), endpoint) {
        (WEB, None) => BundleEndpointProfile::HttpsWeb,
        (SPIFFE, Some(id)) => BundleEndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: id
                .parse::<SpiffeId>()
                .map_err(|cause| r.damaged(format!("endpoint_spiffe_id: {cause}")))?,
        },
        (other, _) => return Err(r.damaged(format!("profile {other:?} does not fit its endpoint"))),
    };
    let relationship =
        FederationRelationship { trust_domain, bundle_endpoint_url: r.text("bundle_endpoint_url")?, profile };
    Ok((relationship, r.optional_blob("bundle")?))
}
