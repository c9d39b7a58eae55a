//! Join tokens. Only a hash of the token is stored, so that a copy of the database redeems nothing.

use std::time::SystemTime;

use async_trait::async_trait;
use sqlx::Row;

use super::entries::insert_unless_similar;
use super::{SqliteStore, StoreError, Tx, database, execute, is_unique_violation, unix};
use crate::datastore::{Entry, JoinToken, JoinTokens, Redeemed, rules};

/// SHA-256 of a token, lower-case hex.
pub(super) fn token_hash(token: &str) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()))
}

async fn insert(tx: &mut Tx, token: &JoinToken) -> Result<(), StoreError> {
    let done = sqlx::query("INSERT INTO join_tokens (token_hash, expires_at) VALUES ($1, $2)")
        .bind(token_hash(&token.value))
        .bind(unix(token.expires_at))
        .execute(&mut **tx)
        .await;
    match done {
        Ok(_) => Ok(()),
        // The token is a secret: the error does not repeat it.
        Err(cause) if is_unique_violation(&cause) => {
            Err(StoreError::Exists { what: "join token", key: "(as given)".to_owned() })
        }
        Err(cause) => Err(database("create join token", cause)),
    }
}

#[async_trait]
impl JoinTokens for SqliteStore {
    async fn create_join_token(&self, token: &JoinToken) -> Result<(), StoreError> {
        let mut tx = self.begin("create join token").await?;
        insert(&mut tx, token).await?;
        self.commit(tx, "create join token").await
    }

    async fn create_join_token_with_entry(&self, token: &JoinToken, entry: Entry) -> Result<(), StoreError> {
        rules::check_new(&entry)?;
        let mut tx = self.begin("create join token").await?;
        insert(&mut tx, token).await?;
        insert_unless_similar(&mut tx, entry).await?;
        self.commit_changes(tx, "create join token").await
    }

    async fn redeem_join_token(
        &self,
        token: &str,
        key: &str,
        now: SystemTime,
    ) -> Result<Redeemed, StoreError> {
        let fault = |cause| database("redeem join token", cause);
        let hash = token_hash(token);
        let mut tx = self.begin("redeem join token").await?;
        let row = sqlx::query("SELECT expires_at, bound_key FROM join_tokens WHERE token_hash = $1")
            .bind(&hash)
            .fetch_optional(&mut *tx)
            .await
            .map_err(fault)?;
        let Some(row) = row else { return Ok(Redeemed::Unknown) };
        if row.try_get::<i64, _>(0).map_err(fault)? < unix(now) {
            return Ok(Redeemed::Expired);
        }
        match row.try_get::<Option<String>, _>(1).map_err(fault)? {
            Some(bound) if bound == key => return Ok(Redeemed::Again),
            Some(_) => return Ok(Redeemed::ByAnother),
            None => {}
        }
        let query =
            sqlx::query("UPDATE join_tokens SET bound_key = $2 WHERE token_hash = $1 AND bound_key IS NULL")
                .bind(hash)
                .bind(key.to_owned());
        if execute(&mut *tx, "redeem join token", query).await? != 1 {
            return Ok(Redeemed::ByAnother);
        }
        self.commit(tx, "redeem join token").await?;
        Ok(Redeemed::First)
    }

    async fn prune_join_tokens(&self, now: SystemTime) -> Result<u64, StoreError> {
        let query = sqlx::query("DELETE FROM join_tokens WHERE expires_at < $1").bind(unix(now));
        execute(&self.writer, "prune join tokens", query).await
    }
}
