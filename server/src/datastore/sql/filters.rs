//! The WHERE clauses of lists and counts.

use hardroot_identity::{Selector, TrustDomain};

use super::access::Statement;
use super::{StoreError, unix};
use crate::datastore::{Entry, EntryFilter, Match, NodeFilter, Page};

/// More members than this are no filter: the engines take 32,766 values in a statement, or more.
const MAX_MEMBERS: usize = 8_000;

/// The set tables: which one, the column that names the owner, and those of a member.
struct SetTable {
    name: &'static str,
    owner: &'static str,
    columns: &'static [&'static str],
}

const ENTRY_SELECTORS: SetTable =
    SetTable { name: "entry_selectors", owner: "entry", columns: &["kind", "value"] };
const ENTRY_FEDERATES: SetTable =
    SetTable { name: "entry_federates", owner: "entry", columns: &["trust_domain"] };
const NODE_SELECTORS: SetTable =
    SetTable { name: "node_selectors", owner: "node", columns: &["kind", "value"] };

/// A member of a set, a text for each column.
type Member<'a> = Vec<&'a str>;

/// Adds `AND <column> IN (owners whose set matches)`.
fn push_set(query: &mut Statement, column: &str, table: &SetTable, wanted: &[Member<'_>], how: Match) {
    let wanted_len = i64::try_from(wanted.len()).unwrap_or(i64::MAX);
    let SetTable { name, owner, columns } = table;
    query.push(&format!(" AND {column} IN (SELECT s.{owner} FROM {name} s WHERE "));
    push_members(query, columns, wanted);
    query.push(&format!(" GROUP BY s.{owner}"));
    let whole = format!("(SELECT count(*) FROM {name} t WHERE t.{owner} = s.{owner})");
    match how {
        Match::Any => {}
        Match::Superset => {
            query.push(" HAVING count(*) = ").push_bind(wanted_len);
        }
        Match::Subset => {
            query.push(&format!(" HAVING count(*) = {whole}"));
        }
        Match::Exact => {
            query.push(" HAVING count(*) = ").push_bind(wanted_len);
            query.push(&format!(" AND {whole} = ")).push_bind(wanted_len);
        }
    }
    query.push(")");
}

/// Adds `a = .. OR b = ..`, halved again and again: SQLite lets expressions be 1,000 deep.
fn push_members(query: &mut Statement, columns: &[&str], wanted: &[Member<'_>]) {
    let (left, right) = wanted.split_at(wanted.len() / 2);
    query.push("(");
    match right {
        [one] if left.is_empty() => {
            for (n, (column, text)) in columns.iter().zip(one).enumerate() {
                query.push(if n == 0 { "s." } else { " AND s." }).push(column).push(" = ").push_bind(*text);
            }
        }
        _ => {
            push_members(query, columns, left);
            query.push(" OR ");
            push_members(query, columns, right);
        }
    }
    query.push(")");
}

fn members<'a, T: Ord>(
    set: &'a [T],
    what: &str,
    texts: impl Fn(&'a T) -> Member<'a>,
) -> Result<Vec<Member<'a>>, StoreError> {
    if set.is_empty() {
        return Err(StoreError::Invalid { reason: format!("cannot list by empty {what} set") });
    }
    if set.len() > MAX_MEMBERS {
        return Err(StoreError::Invalid {
            reason: format!("cannot list by a {what} set of {} members, {MAX_MEMBERS} at most", set.len()),
        });
    }
    let mut sorted: Vec<_> = set.iter().collect();
    sorted.sort();
    sorted.dedup();
    Ok(sorted.into_iter().map(texts).collect())
}

fn selector_members(selectors: &[Selector]) -> Result<Vec<Member<'_>>, StoreError> {
    members(selectors, "selector", |s| vec![s.kind(), s.value()])
}

fn domain_members(domains: &[TrustDomain]) -> Result<Vec<Member<'_>>, StoreError> {
    members(domains, "trust domain", |domain| vec![domain.as_str()])
}

/// Adds `WHERE ...` for entries, whose table is called `e`.
pub(super) fn push_entry_filter(query: &mut Statement, filter: &EntryFilter) -> Result<(), StoreError> {
    query.push(" WHERE 1 = 1");
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
        query.push(" AND e.downstream = ").push_bind(downstream);
    }
    if let Some((selectors, how)) = &filter.selectors {
        push_set(query, "e.id", &ENTRY_SELECTORS, &selector_members(selectors)?, *how);
    }
    if let Some((domains, how)) = &filter.federates_with {
        push_set(query, "e.id", &ENTRY_FEDERATES, &domain_members(domains)?, *how);
    }
    Ok(())
}

/// Adds `WHERE ...` for the entries with this SPIFFE ID, this parent and exactly these selectors. The selectors are
/// counted for each entry with the ID and the parent: looking for entries by them would go through all that share one.
pub(super) fn push_similar(query: &mut Statement, entry: &Entry) -> Result<(), StoreError> {
    let wanted = selector_members(&entry.selectors)?;
    let count = i64::try_from(wanted.len()).unwrap_or(i64::MAX);
    let SetTable { name, owner, columns } = ENTRY_SELECTORS;
    query.push(" WHERE e.spiffe_id = ").push_bind(entry.spiffe_id.as_str());
    query.push(" AND e.parent_id = ").push_bind(entry.parent_id.as_str());
    query.push(&format!(" AND (SELECT count(*) FROM {name} t WHERE t.{owner} = e.id) = ")).push_bind(count);
    query.push(&format!(" AND (SELECT count(*) FROM {name} s WHERE s.{owner} = e.id AND "));
    push_members(query, columns, &wanted);
    query.push(") = ").push_bind(count);
    Ok(())
}

/// Adds `WHERE ...` for nodes, whose table is called `n`.
pub(super) fn push_node_filter(query: &mut Statement, filter: &NodeFilter) -> Result<(), StoreError> {
    query.push(" WHERE 1 = 1");
    if let Some(attestor) = &filter.attestation_type {
        query.push(" AND n.attestation_type = ").push_bind(attestor.clone());
    }
    if let Some(banned) = filter.banned {
        query.push(if banned { " AND n.serial_number = ''" } else { " AND n.serial_number <> ''" });
    }
    if let Some(can_reattest) = filter.can_reattest {
        query.push(" AND n.can_reattest = ").push_bind(can_reattest);
    }
    if let Some(before) = filter.expires_before {
        query.push(" AND n.expires_at < ").push_bind(unix(before));
    }
    if let Some((selectors, how)) = &filter.selectors {
        push_set(query, "n.id", &NODE_SELECTORS, &selector_members(selectors)?, *how);
    }
    Ok(())
}

/// Adds the page: order, start and limit. One row more than asked for is read, which tells whether there is
/// a next page.
pub(super) fn push_page(query: &mut Statement, table: &str, page: &Page) -> Result<(), StoreError> {
    if !page.token.is_empty() {
        let after: i64 =
            page.token.parse().ok().ok_or_else(|| StoreError::PageToken { token: page.token.clone() })?;
        query.push(&format!(" AND {table}.id > ")).push_bind(after);
    }
    query.push(&format!(" ORDER BY {table}.id"));
    if page.size > 0 {
        query.push(" LIMIT ").push_bind(i64::from(page.size) + 1);
    }
    Ok(())
}
