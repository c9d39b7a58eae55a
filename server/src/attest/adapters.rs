//! What attestors read of the datastore, through the narrow traits they know.

use std::sync::Arc;
use std::time::SystemTime;

use hardroot_node_attestors::join_token::{RedeemTokens, Redeemed};
use hardroot_node_attestors::{AttestError, Enrolment, Enrolments, NodeRecord, NodeRecords};

use crate::datastore::{self, JoinTokens, Nodes, StoreError, TpmEnrolments};

fn unavailable(op: &'static str) -> impl FnOnce(StoreError) -> AttestError {
    move |cause| AttestError::Unavailable { op, cause: Box::new(cause) }
}

/// Records of former attestations.
pub struct StoredRecords(pub Arc<dyn Nodes>);

#[async_trait::async_trait]
impl NodeRecords for StoredRecords {
    async fn record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, AttestError> {
        self.0.node_record(attestor, key).await.map_err(unavailable("reading the record of the node"))
    }
}

/// TPM enrolments.
pub struct StoredEnrolments(pub Arc<dyn TpmEnrolments>);

#[async_trait::async_trait]
impl Enrolments for StoredEnrolments {
    async fn enrolment(&self, ek_hash: &str) -> Result<Option<Enrolment>, AttestError> {
        let stored = self.0.enrolment(ek_hash).await.map_err(unavailable("reading the enrolment"))?;
        Ok(stored.map(|stored| stored.enrolment))
    }
}

/// Join tokens.
pub struct StoredTokens(pub Arc<dyn JoinTokens>);

#[async_trait::async_trait]
impl RedeemTokens for StoredTokens {
    async fn redeem(&self, token: &str, key: &str, now: SystemTime) -> Result<Redeemed, AttestError> {
        let how = self
            .0
            .redeem_join_token(token, key, now)
            .await
            .map_err(unavailable("redeeming the join token"))?;
        Ok(match how {
            datastore::Redeemed::First => Redeemed::First,
            datastore::Redeemed::Again => Redeemed::Again,
            datastore::Redeemed::ByAnother => Redeemed::ByAnother,
            datastore::Redeemed::Expired => Redeemed::Expired,
            datastore::Redeemed::Unknown => Redeemed::Unknown,
        })
    }
}
