//! Join tokens. Only a hash of the token is stored, so that a copy of the database redeems nothing.

use std::time::SystemTime;

use async_trait::async_trait;

use super::access::{Session, is_unique_violation, retrying, sql};
use super::entries::insert_unless_similar;
use super::{SqlStore, StoreError, broken, unix};
use crate::datastore::{Entry, JoinToken, JoinTokens, Redeemed, rules};

/// SHA-256 of a token, lower-case hex.
pub(super) fn token_hash(token: &str) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()))
}

async fn insert(session: &mut Session, token: &JoinToken) -> Result<(), StoreError> {
    let insert = sql("INSERT INTO join_tokens (token_hash, expires_at) VALUES ($1, $2)")
        .bind(token_hash(&token.value))
        .bind(unix(token.expires_at));
    match session.execute("create join token", insert).await {
        Ok(_) => Ok(()),
        // The token is a secret: the error does not repeat it.
        Err(error) if is_unique_violation(&error) => {
            Err(StoreError::Exists { what: "join token", key: "(as given)".to_owned() })
        }
        Err(other) => Err(other),
    }
}

#[async_trait]
impl JoinTokens for SqlStore {
    async fn create_join_token(&self, token: &JoinToken) -> Result<(), StoreError> {
        insert(&mut self.pools.writer("create join token").await?, token).await
    }

    async fn create_join_token_with_entry(&self, token: &JoinToken, entry: Entry) -> Result<(), StoreError> {
        rules::check_new(&entry)?;
        retrying!(self.create_token(token, entry.clone()))
    }

    async fn redeem_join_token(
        &self,
        token: &str,
        key: &str,
        now: SystemTime,
    ) -> Result<Redeemed, StoreError> {
        let hash = token_hash(token);
        retrying!(self.redeem(&hash, key, now))
    }

    async fn prune_join_tokens(&self, now: SystemTime) -> Result<u64, StoreError> {
        let delete = || sql("DELETE FROM join_tokens WHERE expires_at < $1").bind(unix(now));
        retrying!(self.writing("prune join tokens", delete()))
    }
}

impl SqlStore {
    async fn create_token(&self, token: &JoinToken, entry: Entry) -> Result<(), StoreError> {
        let op = "create join token";
        let mut tx = self.begin_changes(op).await?;
        insert(&mut tx.session, token).await?;
        insert_unless_similar(&mut tx, entry).await?;
        self.commit_changes(tx, op).await
    }

    async fn redeem(&self, hash: &str, key: &str, now: SystemTime) -> Result<Redeemed, StoreError> {
        let op = "redeem join token";
        let fault = |cause| broken(op, cause);
        let mut session = self.pools.begin(op).await?;
        let query = sql("SELECT expires_at, bound_key FROM join_tokens WHERE token_hash = $1").bind(hash);
        let Some(row) = session.fetch_optional(op, query.for_update()).await? else {
            return Ok(Redeemed::Unknown);
        };
        if row.int("expires_at").map_err(fault)? < unix(now) {
            return Ok(Redeemed::Expired);
        }
        match row.optional_text("bound_key").map_err(fault)? {
            Some(bound) if bound == key => return Ok(Redeemed::Again),
            Some(_) => return Ok(Redeemed::ByAnother),
            None => {}
        }
        let bind = sql("UPDATE join_tokens SET bound_key = $2 WHERE token_hash = $1 AND bound_key IS NULL");
        if session.execute(op, bind.bind(hash).bind(key)).await? != 1 {
            return Ok(Redeemed::ByAnother);
        }
        session.commit(op).await?;
        Ok(Redeemed::First)
    }
}
