//! Attested nodes.

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_identity::SpiffeId;
use hardroot_node_attestors::NodeRecord;

use super::access::{Session, Statement, retrying, sql};
use super::changes::Changing;
use super::entries::{count, decode_page, insert_rows};
use super::tokens::token_hash;
use super::{SqlStore, StoreError, broken, filters, from_unix, rows, unix};
use crate::datastore::{Node, NodeFilter, Nodes, Page};

const JOIN_TOKEN: &str = "join_token";
const JOIN_TOKEN_PATH: &str = "/spire/agent/join_token/";

#[async_trait]
impl Nodes for SqlStore {
    async fn attested(&self, node: Node, record: Option<NodeRecord>) -> Result<(), StoreError> {
        if node.serial_number.is_empty() {
            return Err(StoreError::Invalid { reason: "an attested agent has a serial number".to_owned() });
        }
        if from_unix(unix(node.expires_at)).is_none() {
            return Err(StoreError::Invalid { reason: "the agent's SVID has no valid expiry".to_owned() });
        }
        retrying!(self.store_attested(&node, record.as_ref()))
    }

    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError> {
        let mut query = rows::select_node(self.engine());
        query.push(" WHERE n.spiffe_id = ").push_bind(id.as_str());
        self.reading("read agent", false, query).await?.first().map(rows::node).transpose()
    }

    async fn list_nodes(&self, filter: &NodeFilter, page: &Page) -> Result<(Vec<Node>, String), StoreError> {
        let mut query = rows::select_node(self.engine());
        filters::push_node_filter(&mut query, filter)?;
        filters::push_page(&mut query, "n", page)?;
        decode_page(self.reading("list agents", filter.may_lag, query).await?, page, rows::node)
    }

    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        let mut query = sql("SELECT count(*) AS n FROM nodes n");
        filters::push_node_filter(&mut query, filter)?;
        count(self.reading("count agents", filter.may_lag, query).await?)
    }

    async fn node_renewed(
        &self,
        id: &SpiffeId,
        current: &str,
        serial: &str,
        expires: SystemTime,
    ) -> Result<(), StoreError> {
        retrying!(self.renew(id, current, serial, expires))
    }

    async fn promote_serial(&self, id: &SpiffeId, serial: &str) -> Result<(), StoreError> {
        if serial.is_empty() {
            return Ok(());
        }
        retrying!(self.promote(id, serial))
    }

    async fn ban_node(&self, id: &SpiffeId) -> Result<(), StoreError> {
        retrying!(self.ban(id))
    }

    async fn delete_node(&self, id: &SpiffeId) -> Result<(), StoreError> {
        retrying!(self.remove_node(id, None)).map(drop)
    }

    async fn prune_nodes(
        &self,
        ended_before: SystemTime,
        and_tofu: bool,
        batch: u32,
    ) -> Result<Vec<SpiffeId>, StoreError> {
        let op = "prune agents";
        let over = Over { ended_before: unix(ended_before), and_tofu };
        let mut query = over.narrow("SELECT spiffe_id FROM nodes WHERE serial_number <> ''");
        query.push(" ORDER BY expires_at LIMIT ").push(&batch.to_string());
        let mut gone = Vec::new();
        for row in self.reading(op, false, query).await? {
            let text = row.text("spiffe_id").map_err(|cause| broken(op, cause))?;
            // What is no ID is no agent's, and `agent evict` removes it by its text.
            let Ok(id) = text.parse::<SpiffeId>() else { continue };
            // It may have attested meanwhile: the row is looked at again under its lock.
            match retrying!(self.remove_node(&id, Some(over))) {
                Ok(true) => gone.push(id),
                Ok(false) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        retrying!(self.store_version(id, version))
    }

    async fn node_record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, StoreError> {
        let op = "read attestation record";
        let query = sql("SELECT data FROM node_records WHERE attestor = $1 AND record_key = $2");
        let found = self.reading(op, false, query.bind(attestor).bind(key)).await?;
        let data =
            found.first().map(|row| row.blob("data")).transpose().map_err(|cause| broken(op, cause))?;
        Ok(data.map(|data| NodeRecord { key: key.to_owned(), data }))
    }
}

impl SqlStore {
    async fn store_attested(&self, node: &Node, record: Option<&NodeRecord>) -> Result<(), StoreError> {
        let op = "store attested agent";
        let mut tx = self.begin_changes(op).await?;
        let session = &mut tx.session;
        let row = upsert(session, node).await?;
        session.execute(op, sql("DELETE FROM node_selectors WHERE node = $1").bind(row)).await?;
        let mut selectors = node.selectors.clone();
        selectors.sort();
        selectors.dedup();
        let members = selectors.iter().map(|s| vec![row.into(), s.kind().into(), s.value().into()]).collect();
        insert_rows(session, op, "INSERT INTO node_selectors (node, kind, value)", members).await?;
        if let Some(record) = record {
            // A node has one record of an attestor, what it showed last; and a key belongs to one node.
            let old = sql("DELETE FROM node_records WHERE attestor = $1 AND (node = $2 OR record_key = $3)");
            let old = old.bind(&node.attestation_type).bind(row).bind(&record.key);
            session.execute(op, old).await?;
            let new =
                sql("INSERT INTO node_records (attestor, record_key, node, data) VALUES ($1, $2, $3, $4)");
            let new = new.bind(&node.attestation_type).bind(&record.key).bind(row).bind(&record.data);
            session.execute(op, new).await?;
        }
        tx.node(node.id.as_str()).await?;
        self.commit_changes(tx, op).await
    }

    async fn renew(
        &self,
        id: &SpiffeId,
        current: &str,
        serial: &str,
        expires: SystemTime,
    ) -> Result<(), StoreError> {
        let op = "store renewed serial";
        let mut tx = self.begin_changes(op).await?;
        let query = sql("SELECT serial_number FROM nodes WHERE spiffe_id = $1").bind(id.as_str());
        let row = tx.session.fetch_optional(op, query.for_update()).await?.ok_or_else(|| missing(id))?;
        let now = row.text("serial_number").map_err(|cause| broken(op, cause))?;
        if now.is_empty() {
            return Err(banned(id));
        }
        if now != current {
            return Err(StoreError::Conflict { what: "agent", key: id.to_string() });
        }
        let update = sql("UPDATE nodes SET new_serial_number = $2, new_expires_at = $3 WHERE spiffe_id = $1");
        tx.session.execute(op, update.bind(id.as_str()).bind(serial).bind(unix(expires))).await?;
        tx.node(id.as_str()).await?;
        self.commit_changes(tx, op).await
    }

    async fn promote(&self, id: &SpiffeId, serial: &str) -> Result<(), StoreError> {
        let op = "promote serial";
        let mut tx = self.begin_changes(op).await?;
        // MySQL sets one column after the other: the new values are read before they go.
        let promote = sql("UPDATE nodes SET serial_number = new_serial_number,
                expires_at = coalesce(new_expires_at, expires_at), new_serial_number = '',
                new_expires_at = NULL
             WHERE spiffe_id = $1 AND new_serial_number = $2 AND serial_number <> ''");
        if tx.session.execute(op, promote.bind(id.as_str()).bind(serial)).await? == 0 {
            return Ok(());
        }
        tx.node(id.as_str()).await?;
        self.commit_changes(tx, op).await
    }

    async fn store_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        let op = "store agent version";
        let known = sql("SELECT agent_version FROM nodes WHERE spiffe_id = $1").bind(id.as_str());
        let found = self.reading(op, false, known).await?;
        let row = found.first().ok_or_else(|| missing(id))?;
        if row.text("agent_version").is_ok_and(|known| known == version) {
            return Ok(());
        }
        let mut tx = self.begin_changes(op).await?;
        let update = sql("UPDATE nodes SET agent_version = $2 WHERE spiffe_id = $1");
        if tx.session.execute(op, update.bind(id.as_str()).bind(version)).await? == 0 {
            return Err(missing(id));
        }
        tx.node(id.as_str()).await?;
        self.commit_changes(tx, op).await
    }

    async fn ban(&self, id: &SpiffeId) -> Result<(), StoreError> {
        let op = "ban agent";
        let mut tx = self.begin_changes(op).await?;
        let update = sql("UPDATE nodes SET serial_number = '', new_serial_number = '', new_expires_at = NULL
             WHERE spiffe_id = $1");
        if tx.session.execute(op, update.bind(id.as_str())).await? == 0 {
            return Err(missing(id));
        }
        tx.node(id.as_str()).await?;
        self.commit_changes(tx, op).await
    }

    /// Removes a node, or does nothing when it must be over and is not; whether it went.
    async fn remove_node(&self, id: &SpiffeId, over: Option<Over>) -> Result<bool, StoreError> {
        let op = "delete agent";
        let mut tx = self.begin_changes(op).await?;
        if let Some(over) = over {
            let mut query = over.narrow("SELECT spiffe_id FROM nodes WHERE serial_number <> ''");
            query.push(" AND spiffe_id = ").push_bind(id.as_str());
            if tx.session.fetch_optional(op, query.for_update()).await?.is_none() {
                return Ok(false);
            }
        }
        let query = sql("SELECT attestation_type FROM nodes WHERE spiffe_id = $1").bind(id.as_str());
        let row = tx.session.fetch_optional(op, query.for_update()).await?.ok_or_else(|| missing(id))?;
        tx.session.execute(op, sql("DELETE FROM nodes WHERE spiffe_id = $1").bind(id.as_str())).await?;
        // A type that cannot be read is not a join token's, and the node goes all the same.
        if row.text("attestation_type").is_ok_and(|attestor| attestor == JOIN_TOKEN) {
            forget_join_token(&mut tx, id).await?;
        }
        tx.node(id.as_str()).await?;
        self.commit_changes(tx, op).await?;
        Ok(true)
    }
}

/// When an agent is over.
#[derive(Debug, Clone, Copy)]
struct Over {
    ended_before: i64,
    and_tofu: bool,
}

impl Over {
    /// A query of nodes for those that are over; a renewed SVID that was not used yet counts as one.
    fn narrow(self, text: &'static str) -> Statement {
        let mut query = sql(text);
        query.push(" AND expires_at < ").push_bind(self.ended_before);
        query
            .push(" AND (new_expires_at IS NULL OR new_expires_at < ")
            .push_bind(self.ended_before)
            .push(")");
        if !self.and_tofu {
            query.push(" AND can_reattest <> 0");
        }
        query
    }
}

fn missing(id: &SpiffeId) -> StoreError {
    StoreError::NotFound { what: "agent", key: id.to_string() }
}

fn banned(id: &SpiffeId) -> StoreError {
    StoreError::Banned { id: id.clone() }
}

/// Inserts the node, or replaces everything but its reported version. A banned row is left alone. Whoever
/// attests nodes waits for the others, so a row that is not there stays so.
async fn upsert(session: &mut Session, node: &Node) -> Result<i64, StoreError> {
    let op = "store attested agent";
    let query = sql("SELECT id, serial_number FROM nodes WHERE spiffe_id = $1").bind(node.id.as_str());
    let Some(row) = session.fetch_optional(op, query.for_update()).await? else {
        let insert = sql(
            "INSERT INTO nodes (spiffe_id, attestation_type, serial_number, expires_at, new_serial_number,
                new_expires_at, can_reattest, agent_version)
             VALUES ($1, $2, $3, $4, '', NULL, $5, $6)",
        )
        .bind(node.id.as_str())
        .bind(&node.attestation_type)
        .bind(&node.serial_number)
        .bind(unix(node.expires_at))
        .bind(node.can_reattest)
        .bind(&node.agent_version);
        return session.insert(op, insert).await;
    };
    let id = row.int("id").map_err(|cause| broken(op, cause))?;
    if row.text("serial_number").map_err(|cause| broken(op, cause))?.is_empty() {
        return Err(banned(&node.id));
    }
    let update = sql(
        "UPDATE nodes SET attestation_type = $2, serial_number = $3, expires_at = $4, new_serial_number = '',
            new_expires_at = NULL, can_reattest = $5,
            agent_version = CASE WHEN $6 = '' THEN agent_version ELSE $6 END
         WHERE id = $1",
    )
    .bind(id)
    .bind(&node.attestation_type)
    .bind(&node.serial_number)
    .bind(unix(node.expires_at))
    .bind(node.can_reattest)
    .bind(&node.agent_version);
    session.execute(op, update).await?;
    Ok(id)
}

/// Removes the token of a join-token node and the entry that was made beside it, which has the shape that
/// `CreateJoinToken` gives it: the node as parent and as its only selector.
async fn forget_join_token(tx: &mut Changing, id: &SpiffeId) -> Result<(), StoreError> {
    let op = "delete agent";
    if let Some(token) = id.path().strip_prefix(JOIN_TOKEN_PATH) {
        let delete = sql("DELETE FROM join_tokens WHERE token_hash = $1").bind(token_hash(token));
        tx.session.execute(op, delete).await?;
    }
    let own = sql("SELECT e.entry_id FROM entries e WHERE e.parent_id = $1
            AND (SELECT count(*) FROM entry_selectors s WHERE s.entry = e.id) = 1
            AND EXISTS (SELECT 1 FROM entry_selectors s
                WHERE s.entry = e.id AND s.kind = 'spiffe_id' AND s.value = $1)");
    for row in tx.session.fetch_all(op, own.bind(id.as_str())).await? {
        let entry_id = row.text("entry_id").map_err(|cause| broken(op, cause))?;
        tx.session.execute(op, sql("DELETE FROM entries WHERE entry_id = $1").bind(&entry_id)).await?;
        tx.entry(&entry_id).await?;
    }
    Ok(())
}
