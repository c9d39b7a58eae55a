//! The WHERE clauses of lists and counts. A set is one bound JSON array, so that its size never changes the
//! text of a statement.

use hardroot_identity::{Selector, TrustDomain};
use serde_json::json;
use sqlx::QueryBuilder;
use sqlx::sqlite::Sqlite;

use super::{StoreError, unix};
use crate::datastore::{EntryFilter, Match, NodeFilter, Page};

type Query = QueryBuilder<Sqlite>;

/// The set tables: which one, the column that names the owner, and how its members compare with an element
/// of the JSON array.
struct SetTable {
    name: &'static str,
    owner: &'static str,
    same: &'static str,
}

const ENTRY_SELECTORS: SetTable = SetTable {
    name: "entry_selectors",
    owner: "entry",
    same: "s.kind = j.value ->> 0 AND s.value = j.value ->> 1",
};
const ENTRY_FEDERATES: SetTable =
    SetTable { name: "entry_federates", owner: "entry", same: "s.trust_domain = j.value" };
const NODE_SELECTORS: SetTable = SetTable {
    name: "node_selectors",
    owner: "node",
    same: "s.kind = j.value ->> 0 AND s.value = j.value ->> 1",
};

/// Adds `AND <column> IN (owners whose set matches)`.
fn push_set(query: &mut Query, column: &str, table: &SetTable, wanted: Vec<serde_json::Value>, how: Match) {
    let wanted_len = i64::try_from(wanted.len()).unwrap_or(i64::MAX);
    let SetTable { name, owner, same } = table;
    query.push(format!(" AND {column} IN (SELECT s.{owner} FROM json_each("));
    query.push_bind(serde_json::Value::from(wanted).to_string());
    query.push(format!(") j CROSS JOIN {name} s ON {same} GROUP BY s.{owner}"));
    let whole = format!("(SELECT count(*) FROM {name} t WHERE t.{owner} = s.{owner})");
    match how {
        Match::Any => {}
        Match::Superset => {
            query.push(" HAVING count(*) = ").push_bind(wanted_len);
        }
        Match::Subset => {
            query.push(format!(" HAVING count(*) = {whole}"));
        }
        Match::Exact => {
            query.push(" HAVING count(*) = ").push_bind(wanted_len);
            query.push(format!(" AND {whole} = ")).push_bind(wanted_len);
        }
    }
    query.push(")");
}

fn selector_values(selectors: &[Selector]) -> Result<Vec<serde_json::Value>, StoreError> {
    if selectors.is_empty() {
        return Err(StoreError::Invalid { reason: "cannot list by empty selector set".to_owned() });
    }
    let mut selectors: Vec<_> = selectors.iter().collect();
    selectors.sort();
    selectors.dedup();
    Ok(selectors.into_iter().map(|s| json!([s.kind(), s.value()])).collect())
}

fn trust_domain_values(domains: &[TrustDomain]) -> Result<Vec<serde_json::Value>, StoreError> {
    if domains.is_empty() {
        return Err(StoreError::Invalid { reason: "cannot list by empty trust domain set".to_owned() });
    }
    let mut domains: Vec<_> = domains.iter().collect();
    domains.sort();
    domains.dedup();
    Ok(domains.into_iter().map(|domain| json!(domain.as_str())).collect())
}

/// Adds `WHERE ...` for entries, whose table is called `e`.
pub(super) fn push_entry_filter(query: &mut Query, filter: &EntryFilter) -> Result<(), StoreError> {
    query.push(" WHERE 1");
    if let Some(id) = &filter.spiffe_id {
        query.push(" AND e.spiffe_id = ").push_bind(id.to_string());
    }
    if let Some(id) = &filter.parent_id {
        query.push(" AND e.parent_id = ").push_bind(id.to_string());
    }
    if let Some(hint) = &filter.hint {
        query.push(" AND e.hint = ").push_bind(hint.clone());
    }
    if let Some(downstream) = filter.downstream {
        query.push(" AND e.downstream = ").push_bind(i64::from(downstream));
    }
    if let Some((selectors, how)) = &filter.selectors {
        push_set(query, "e.id", &ENTRY_SELECTORS, selector_values(selectors)?, *how);
    }
    if let Some((domains, how)) = &filter.federates_with {
        push_set(query, "e.id", &ENTRY_FEDERATES, trust_domain_values(domains)?, *how);
    }
    Ok(())
}

/// Adds `WHERE ...` for nodes, whose table is called `n`.
pub(super) fn push_node_filter(query: &mut Query, filter: &NodeFilter) -> Result<(), StoreError> {
    query.push(" WHERE 1");
    if let Some(attestor) = &filter.attestation_type {
        query.push(" AND n.attestation_type = ").push_bind(attestor.clone());
    }
    if let Some(banned) = filter.banned {
        query.push(if banned { " AND n.serial_number = ''" } else { " AND n.serial_number <> ''" });
    }
    if let Some(can_reattest) = filter.can_reattest {
        query.push(" AND n.can_reattest = ").push_bind(i64::from(can_reattest));
    }
    if let Some(before) = filter.expires_before {
        query.push(" AND n.expires_at < ").push_bind(unix(before));
    }
    if let Some((selectors, how)) = &filter.selectors {
        push_set(query, "n.id", &NODE_SELECTORS, selector_values(selectors)?, *how);
    }
    Ok(())
}

/// Adds the page: order, start and limit. One row more than asked for is read, which tells whether there is
/// a next page.
pub(super) fn push_page(query: &mut Query, table: &str, page: &Page) -> Result<(), StoreError> {
    if !page.token.is_empty() {
        let after: i64 = page.token.parse().ok().ok_or_else(|| StoreError::Invalid {
            reason: format!("could not parse token '{}'", page.token),
        })?;
        query.push(format!(" AND {table}.id > ")).push_bind(after);
    }
    query.push(format!(" ORDER BY {table}.id"));
    if page.size > 0 {
        query.push(" LIMIT ").push_bind(i64::from(page.size) + 1);
    }
    Ok(())
}
