//! Everything that caches hold, in lots of rows that follow each other by their ids.
//!
//! Several connections may read, each as of a moment of its own. The version is read first, and by the first of them, in
//! the transaction in which it reads rows; so every row is read as it was at that version or later, and whoever applies
//! what changed after the version has what the database has, whatever was read twice or half a moment apart. A row that
//! goes, comes or moves to another id meanwhile is such a change. With one connection all is of one moment.
//!
//! Sets are read by the range of their owners' ids and put to their rows here: a subquery for each set of each row, as
//! lists have them, takes a server three times as long.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::access::{Columns, Row, Session, sql};
use super::changes::version;
use super::{SqlStore, StoreError, broken, rows};
use crate::datastore::{Entry, Node, SnapshotReader};

const OP: &str = "read all entries";
/// Rows of entries or nodes that are read at once.
pub(super) const LOT: usize = 2048;
/// Lots that wait for whoever takes them.
const WAITING: usize = 2;

/// A table, and those with its rows' sets, which name their owner in the first column.
struct Kind {
    table: &'static str,
    columns: &'static [&'static str],
    sets: &'static [Set],
}

/// A column that [`Engine::set`](super::access::Engine::set) would make.
struct Set {
    name: &'static str,
    table: &'static str,
    columns: &'static [&'static str],
}

const ENTRIES: Kind = Kind {
    table: "entries",
    columns: &[
        "id",
        "entry_id",
        "spiffe_id",
        "parent_id",
        "x509_svid_ttl",
        "jwt_svid_ttl",
        "admin",
        "downstream",
        "expires_at",
        "revision_number",
        "store_svid",
        "hint",
        "created_at",
        "disable_prefetch",
        "include_jti",
    ],
    sets: &[
        Set { name: "selectors", table: "entry_selectors", columns: &["entry", "kind", "value"] },
        Set { name: "dns_names", table: "entry_dns_names", columns: &["entry", "position", "name"] },
        Set { name: "federates_with", table: "entry_federates", columns: &["entry", "trust_domain"] },
    ],
};

const NODES: Kind = Kind {
    table: "nodes",
    columns: &[
        "id",
        "spiffe_id",
        "attestation_type",
        "serial_number",
        "expires_at",
        "new_serial_number",
        "new_expires_at",
        "can_reattest",
        "agent_version",
    ],
    sets: &[Set { name: "selectors", table: "node_selectors", columns: &["node", "kind", "value"] }],
};

/// What is to be read next.
enum Place {
    Entries(i64),
    Nodes(i64),
    End,
}

/// Where those who read are.
struct Places {
    lot: usize,
    next: Mutex<Place>,
}

/// What was read.
enum Lot {
    Entries(Vec<Result<Entry, StoreError>>),
    Nodes(Vec<Result<Node, StoreError>>),
}

impl SqlStore {
    /// See [`snapshot`](crate::datastore::Entries::snapshot); `lot` rows of a table at once.
    pub(crate) async fn read_in_lots(
        &self,
        reader: &mut dyn SnapshotReader,
        connections: usize,
        lot: usize,
    ) -> Result<(), StoreError> {
        let mut first = self.pools.snapshot(OP).await?;
        reader.version(version(&mut first).await?);
        let places = Arc::new(Places { lot, next: Mutex::new(Place::Entries(i64::MIN)) });
        let (lots, mut read) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(read_lots(first, Arc::clone(&places), lots.clone()));
        for _ in 1..connections.min(self.pools.at_once()) {
            let (pools, places, lots) = (self.pools.clone(), Arc::clone(&places), lots.clone());
            tasks.spawn(async move {
                match pools.snapshot(OP).await {
                    Ok(session) => read_lots(session, places, lots).await,
                    // It would have helped; the first one reads all without it.
                    Err(_) => Ok(()),
                }
            });
        }
        drop(lots);
        while let Some(lot) = read.recv().await {
            match lot {
                Lot::Entries(lot) => lot.into_iter().for_each(|entry| match entry {
                    Ok(entry) => reader.entry(entry),
                    Err(damage) => reader.damaged(damage),
                }),
                Lot::Nodes(lot) => lot.into_iter().for_each(|node| match node {
                    Ok(node) => reader.node(node),
                    Err(damage) => reader.damaged(damage),
                }),
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|cause| StoreError::Database { op: OP, cause: Box::new(cause) })??;
        }
        Ok(())
    }
}

/// Reads lots until there are none left or another one failed.
async fn read_lots(
    mut session: Session,
    places: Arc<Places>,
    lots: mpsc::Sender<Lot>,
) -> Result<(), StoreError> {
    loop {
        match next_lot(&mut session, &places).await {
            Ok(Some(lot)) => {
                if lots.send(lot).await.is_err() {
                    // Nobody wants them any more.
                    return Ok(());
                }
            }
            Ok(None) => return session.commit(OP).await,
            Err(fault) => {
                *places.next.lock().await = Place::End;
                return Err(fault);
            }
        }
    }
}

async fn next_lot(session: &mut Session, places: &Places) -> Result<Option<Lot>, StoreError> {
    let mut place = places.next.lock().await;
    // The place moves before others may look at it; sets and texts are read beside theirs.
    match *place {
        Place::Entries(after) => {
            let (owners, last) = owners(session, &ENTRIES, after, places.lot).await?;
            *place = last.map_or(Place::Nodes(i64::MIN), Place::Entries);
            drop(place);
            let members = members(session, &ENTRIES, &owners).await?;
            Ok(Some(Lot::Entries(gathered(&owners, &members, rows::entry)?)))
        }
        Place::Nodes(after) => {
            let (owners, last) = owners(session, &NODES, after, places.lot).await?;
            *place = last.map_or(Place::End, Place::Nodes);
            drop(place);
            let members = members(session, &NODES, &owners).await?;
            Ok(Some(Lot::Nodes(gathered(&owners, &members, rows::node)?)))
        }
        Place::End => Ok(None),
    }
}

/// Rows by their ids.
type ById = Vec<(i64, Row)>;

/// The next rows of a table, and the last one's id if there may be more.
async fn owners(
    session: &mut Session,
    kind: &Kind,
    after: i64,
    lot: usize,
) -> Result<(ById, Option<i64>), StoreError> {
    let rest = sql(format!("FROM {} WHERE id > $1 ORDER BY id LIMIT {lot}", kind.table)).bind(after);
    let rows = by_id(session.fetch_block(OP, kind.columns, rest).await?, "id")?;
    let last = rows.last().filter(|_| rows.len() == lot).map(|(id, _)| *id);
    Ok((rows, last))
}

fn by_id(rows: Vec<Row>, column: &str) -> Result<ById, StoreError> {
    let with_id = |row: Row| Ok((row.int(column).map_err(|cause| broken(OP, cause))?, row));
    let mut rows = rows.into_iter().map(with_id).collect::<Result<ById, StoreError>>()?;
    rows.sort_by_key(|(id, _)| *id);
    Ok(rows)
}

/// The sets of these rows.
async fn members(
    session: &mut Session,
    kind: &Kind,
    owners: &ById,
) -> Result<Vec<(&'static Set, ById)>, StoreError> {
    let (Some((first, _)), Some((last, _))) = (owners.first(), owners.last()) else { return Ok(Vec::new()) };
    let mut members = Vec::with_capacity(kind.sets.len());
    for set in kind.sets {
        let Some(owner) = set.columns.first() else { continue };
        let rest = sql(format!("FROM {} WHERE {owner} >= $1 AND {owner} <= $2", set.table));
        let rows = session.fetch_block(OP, set.columns, rest.bind(*first).bind(*last)).await?;
        members.push((set, by_id(rows, owner)?));
    }
    Ok(members)
}

/// What these rows and their sets say; those of them that are damaged say so.
fn gathered<'a, T>(
    owners: &'a ById,
    members: &'a [(&'static Set, ById)],
    read: impl Fn(&Gathered<'a>) -> Result<T, StoreError>,
) -> Result<Vec<Result<T, StoreError>>, StoreError> {
    let mut rest: Vec<_> = members.iter().map(|(set, rows)| Members { set, rows: rows.as_slice() }).collect();
    let mut lot = Vec::with_capacity(owners.len());
    for (id, row) in owners {
        let sets = rest.iter_mut().map(|members| members.take(*id)).collect();
        match read(&Gathered { row, sets }) {
            read @ (Ok(_) | Err(StoreError::Damaged { .. })) => lot.push(read),
            Err(other) => return Err(other),
        }
    }
    Ok(lot)
}

/// Rows of a set's table, in order of their owners.
struct Members<'a> {
    set: &'a Set,
    rows: &'a [(i64, Row)],
}

impl<'a> Members<'a> {
    /// Takes those of the next owner. What has no owner is nobody's.
    fn take(&mut self, owner: i64) -> Members<'a> {
        let begin = self.rows.iter().take_while(|(id, _)| *id < owner).count();
        let length = self.rows.iter().skip(begin).take_while(|(id, _)| *id == owner).count();
        let (rows, rest) = self.rows.get(begin..).unwrap_or_default().split_at(length);
        self.rows = rest;
        Self { set: self.set, rows }
    }
}

/// A row and the members of its sets.
struct Gathered<'a> {
    row: &'a Row,
    sets: Vec<Members<'a>>,
}

impl Columns for Gathered<'_> {
    fn optional_str(&self, column: &str) -> Result<Option<&str>, sqlx::Error> {
        self.row.optional_str(column)
    }

    fn optional_int(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.row.optional_int(column)
    }

    fn optional_blob(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.row.optional_blob(column)
    }

    fn set(&self, column: &str) -> Result<Vec<Vec<String>>, sqlx::Error> {
        let Some(found) = self.sets.iter().find(|members| members.set.name == column) else {
            return self.row.set(column);
        };
        let texts = |(_, row): &(i64, Row)| {
            let text = |column: &&str| match *column {
                "position" => row.int(column).map(|number| number.to_string()),
                _ => row.text(column),
            };
            found.set.columns.iter().skip(1).map(text).collect()
        };
        found.rows.iter().map(texts).collect()
    }
}
