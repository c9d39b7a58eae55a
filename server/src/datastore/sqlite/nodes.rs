//! Attested nodes.

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_identity::SpiffeId;
use hardroot_node_attestors::NodeRecord;
use sqlx::sqlite::Sqlite;
use sqlx::{QueryBuilder, Row};

use super::entries::{count, decode_page};
use super::tokens::token_hash;
use super::{SqliteStore, StoreError, Tx, changes, database, execute, filters, from_unix, rows, unix};
use crate::datastore::{Node, NodeFilter, Nodes, Page};

const JOIN_TOKEN: &str = "join_token";
const JOIN_TOKEN_PATH: &str = "/spire/agent/join_token/";

#[async_trait]
impl Nodes for SqliteStore {
    async fn attested(&self, node: Node, record: Option<NodeRecord>) -> Result<(), StoreError> {
        let mut tx = self.begin("store attested agent").await?;
        let row = upsert(&mut tx, &node).await?;
        let query = sqlx::query("DELETE FROM node_selectors WHERE node = $1").bind(row);
        execute(&mut *tx, "store attested agent", query).await?;
        let mut selectors = node.selectors.clone();
        selectors.sort();
        selectors.dedup();
        for selector in selectors {
            let query = sqlx::query("INSERT INTO node_selectors (node, kind, value) VALUES ($1, $2, $3)")
                .bind(row)
                .bind(selector.kind().to_owned())
                .bind(selector.value().to_owned());
            execute(&mut *tx, "store attested agent", query).await?;
        }
        if let Some(record) = record {
            // A node has one record of an attestor: what it showed last.
            let query =
                sqlx::query("DELETE FROM node_records WHERE attestor = $1 AND node = $2 AND key <> $3")
                    .bind(&node.attestation_type)
                    .bind(row)
                    .bind(&record.key);
            execute(&mut *tx, "store attested agent", query).await?;
            let query = sqlx::query(
                "INSERT INTO node_records (attestor, key, node, data) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (attestor, key) DO UPDATE SET node = excluded.node, data = excluded.data",
            )
            .bind(&node.attestation_type)
            .bind(&record.key)
            .bind(row)
            .bind(&record.data);
            execute(&mut *tx, "store attested agent", query).await?;
        }
        changes::node_changed(&mut tx, node.id.as_str()).await?;
        self.commit_changes(tx, "store attested agent").await
    }

    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(rows::SELECT_NODE);
        query.push(" WHERE n.spiffe_id = ").push_bind(id.to_string());
        let row = query
            .build()
            .fetch_optional(&self.readers)
            .await
            .map_err(|cause| database("read agent", cause))?;
        row.map(|row| rows::node(&row)).transpose()
    }

    async fn list_nodes(&self, filter: &NodeFilter, page: &Page) -> Result<(Vec<Node>, String), StoreError> {
        let mut query = QueryBuilder::new(rows::SELECT_NODE);
        filters::push_node_filter(&mut query, filter)?;
        filters::push_page(&mut query, "n", page)?;
        let found =
            query.build().fetch_all(&self.readers).await.map_err(|cause| database("list agents", cause))?;
        decode_page(found, page, rows::node)
    }

    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("SELECT count(*) FROM nodes n");
        filters::push_node_filter(&mut query, filter)?;
        count(query, &self.readers, "count agents").await
    }

    async fn node_renewed(&self, id: &SpiffeId, serial: &str, expires: SystemTime) -> Result<(), StoreError> {
        let mut tx = self.begin("store renewed serial").await?;
        let query = sqlx::query(
            "UPDATE nodes SET new_serial_number = $2, new_expires_at = $3
             WHERE spiffe_id = $1 AND serial_number <> ''",
        )
        .bind(id.to_string())
        .bind(serial.to_owned())
        .bind(unix(expires));
        if execute(&mut *tx, "store renewed serial", query).await? == 0 {
            return Err(if exists(&mut tx, id).await? { banned(id) } else { missing(id) });
        }
        self.commit(tx, "store renewed serial").await
    }

    async fn promote_serial(&self, id: &SpiffeId, serial: &str) -> Result<(), StoreError> {
        if serial.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(
            "UPDATE nodes SET serial_number = new_serial_number, expires_at = coalesce(new_expires_at, expires_at),
                new_serial_number = '', new_expires_at = NULL
             WHERE spiffe_id = $1 AND new_serial_number = $2 AND serial_number <> ''",
        )
        .bind(id.to_string())
        .bind(serial.to_owned());
        execute(&self.writer, "promote serial", query).await?;
        Ok(())
    }

    async fn ban_node(&self, id: &SpiffeId) -> Result<(), StoreError> {
        let mut tx = self.begin("ban agent").await?;
        let query = sqlx::query(
            "UPDATE nodes SET serial_number = '', new_serial_number = '', new_expires_at = NULL
             WHERE spiffe_id = $1",
        )
        .bind(id.to_string());
        if execute(&mut *tx, "ban agent", query).await? == 0 {
            return Err(missing(id));
        }
        changes::node_changed(&mut tx, id.as_str()).await?;
        self.commit_changes(tx, "ban agent").await
    }

    async fn delete_node(&self, id: &SpiffeId) -> Result<(), StoreError> {
        let fault = |cause| database("delete agent", cause);
        let mut tx = self.begin("delete agent").await?;
        let row = sqlx::query("DELETE FROM nodes WHERE spiffe_id = $1 RETURNING attestation_type")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(fault)?
            .ok_or_else(|| missing(id))?;
        if row.try_get::<String, _>(0).map_err(fault)? == JOIN_TOKEN {
            forget_join_token(&mut tx, id).await?;
        }
        changes::node_changed(&mut tx, id.as_str()).await?;
        self.commit_changes(tx, "delete agent").await
    }

    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        let mut tx = self.begin("store agent version").await?;
        let query =
            sqlx::query("UPDATE nodes SET agent_version = $2 WHERE spiffe_id = $1 AND agent_version <> $2")
                .bind(id.to_string())
                .bind(version.to_owned());
        if execute(&mut *tx, "store agent version", query).await? == 0 && !exists(&mut tx, id).await? {
            return Err(missing(id));
        }
        self.commit(tx, "store agent version").await
    }

    async fn node_record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, StoreError> {
        let fault = |cause| database("read attestation record", cause);
        let row = sqlx::query("SELECT data FROM node_records WHERE attestor = $1 AND key = $2")
            .bind(attestor.to_owned())
            .bind(key.to_owned())
            .fetch_optional(&self.readers)
            .await
            .map_err(fault)?;
        row.map(|row| Ok(NodeRecord { key: key.to_owned(), data: row.try_get(0).map_err(fault)? }))
            .transpose()
    }
}

fn missing(id: &SpiffeId) -> StoreError {
    StoreError::NotFound { what: "agent", key: id.to_string() }
}

fn banned(id: &SpiffeId) -> StoreError {
    StoreError::Conflict { what: "agent", key: id.to_string() }
}

async fn exists(tx: &mut Tx, id: &SpiffeId) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT 1 FROM nodes WHERE spiffe_id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await
        .map_err(|cause| database("read agent", cause))?;
    Ok(row.is_some())
}

/// Inserts the node, or replaces everything but its reported version. A banned row is left alone.
async fn upsert(tx: &mut Tx, node: &Node) -> Result<i64, StoreError> {
    let fault = |cause| database("store attested agent", cause);
    if node.serial_number.is_empty() {
        return Err(StoreError::Invalid { reason: "an attested agent has a serial number".to_owned() });
    }
    if from_unix(unix(node.expires_at)).is_none() {
        return Err(StoreError::Invalid { reason: "the agent's SVID has no valid expiry".to_owned() });
    }
    let row = sqlx::query(
        "INSERT INTO nodes (spiffe_id, attestation_type, serial_number, expires_at, new_serial_number,
            new_expires_at, can_reattest, agent_version)
         VALUES ($1, $2, $3, $4, '', NULL, $5, $6)
         ON CONFLICT (spiffe_id) DO UPDATE SET attestation_type = excluded.attestation_type,
            serial_number = excluded.serial_number, expires_at = excluded.expires_at, new_serial_number = '',
            new_expires_at = NULL, can_reattest = excluded.can_reattest,
            agent_version = CASE WHEN excluded.agent_version = '' THEN nodes.agent_version
                ELSE excluded.agent_version END
         WHERE nodes.serial_number <> ''
         RETURNING id",
    )
    .bind(node.id.as_str())
    .bind(&node.attestation_type)
    .bind(&node.serial_number)
    .bind(unix(node.expires_at))
    .bind(i64::from(node.can_reattest))
    .bind(&node.agent_version)
    .fetch_optional(&mut **tx)
    .await
    .map_err(fault)?
    .ok_or_else(|| banned(&node.id))?;
    row.try_get(0).map_err(fault)
}

/// Removes the token of a join-token node and the entry that was made beside it, which has the shape that
/// `CreateJoinToken` gives it: the node as parent and as its only selector.
async fn forget_join_token(tx: &mut Tx, id: &SpiffeId) -> Result<(), StoreError> {
    let fault = |cause| database("delete agent", cause);
    if let Some(token) = id.path().strip_prefix(JOIN_TOKEN_PATH) {
        let query = sqlx::query("DELETE FROM join_tokens WHERE token_hash = $1").bind(token_hash(token));
        execute(&mut **tx, "delete agent", query).await?;
    }
    let gone = sqlx::query(
        "DELETE FROM entries WHERE parent_id = $1
            AND (SELECT count(*) FROM entry_selectors s WHERE s.entry = entries.id) = 1
            AND EXISTS (SELECT 1 FROM entry_selectors s
                WHERE s.entry = entries.id AND s.kind = 'spiffe_id' AND s.value = $1)
         RETURNING entry_id",
    )
    .bind(id.to_string())
    .fetch_all(&mut **tx)
    .await
    .map_err(fault)?;
    for row in gone {
        changes::entry_changed(tx, &row.try_get::<String, _>(0).map_err(fault)?).await?;
    }
    Ok(())
}
