//! Backups that any engine can be restored from: a line of JSON with what it is, a line for each row, and a
//! line with the number of rows and the SHA-256 of everything before it.

mod file;
mod tables;

use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::access::{Engine, Session, Value, sql};
use super::admin::Progress;
use super::{StoreError, changes, migrations};
pub(super) use file::new_file;
use file::{Lines, Sink, damaged, file_fault};
pub(super) use tables::TABLES;
use tables::{Kind, Line, Table};

pub(super) const BACKUP: &str = "back up";
pub(super) const RESTORE: &str = "restore";

/// The format's number.
const FORMAT: u32 = 1;
/// How many rows one `INSERT` writes.
const LUMP: usize = 200;

/// The first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    hardroot_backup: u32,
    schema: i64,
    engine: String,
    made_at: i64,
    changes: i64,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    rows: u64,
    sha256: String,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The engine it was made from.
    pub engine: String,
    /// When it was made, in seconds since 1970.
    pub made_at: i64,
    /// Its schema.
    pub schema: i64,
    /// How many changes of entries and agents there had been.
    pub changes: i64,
    /// How many rows it has.
    pub rows: u64,
}

pub(super) async fn write(
    session: &mut Session,
    file: &Path,
    made_at: i64,
    progress: &mut Progress<'_>,
) -> Result<Archived, StoreError> {
    let fault = file_fault(BACKUP, file);
    let partial = new_file(file)?;
    let mut sink = Sink::open(partial.path()).map_err(&fault)?;
    let header = Header {
        hardroot_backup: FORMAT,
        schema: migrations::SCHEMA_VERSION,
        engine: session.engine().name().to_owned(),
        made_at,
        changes: changes::version(session).await?,
    };
    sink.line(&header).map_err(&fault)?;
    let mut rows = 0;
    for table in TABLES {
        let mut last = table.before_all();
        let mut done = 0;
        loop {
            let (window, next) = table.window(session, &last).await?;
            for row in &window {
                sink.line(&table.encode(row)?).map_err(&fault)?;
                done += 1;
            }
            progress(table.name, done);
            match next {
                Some(next) => last = next,
                None => break,
            }
        }
        rows += done;
    }
    let sha256 = sink.sha256();
    sink.line(&Footer { rows, sha256 }).map_err(&fault)?;
    sink.flush().map_err(&fault)?;
    partial.keep(file)?;
    Ok(archived(&header, rows))
}

fn archived(header: &Header, rows: u64) -> Archived {
    Archived {
        engine: header.engine.clone(),
        made_at: header.made_at,
        schema: header.schema,
        changes: header.changes,
        rows,
    }
}

/// Reads the whole file and proves that it is what once was written.
pub(super) fn check(file: &Path) -> Result<Archived, StoreError> {
    let mut header: Option<Header> = None;
    let mut footer: Option<Footer> = None;
    let mut hash = Context::new(&SHA256);
    let mut rows = 0;
    let mut lines = Lines::open(file)?;
    while let Some((number, line)) = lines.next()? {
        if footer.is_some() {
            return Err(damaged(file, number, "comes after the end"));
        }
        if header.is_none() {
            let found: Header = serde_json::from_slice(line).map_err(|_error| {
                damaged(file, number, "does not say that this is a backup made by `datastore backup`")
            })?;
            if found.hardroot_backup != FORMAT || found.schema != migrations::SCHEMA_VERSION {
                return Err(StoreError::Invalid {
                    reason: format!(
                        "{} has schema {} and this program {}: restore it with the hardroot-server that made it, \
                         then run the other one's `datastore migrate`",
                        file.display(),
                        found.schema,
                        migrations::SCHEMA_VERSION
                    ),
                });
            }
            header = Some(found);
        } else if let Ok(row) = serde_json::from_slice::<Line>(line) {
            let table =
                Table::named(&row.t).ok_or_else(|| damaged(file, number, "is of an unknown table"))?;
            table.decode(row.r).ok_or_else(|| damaged(file, number, "is not a row of its table"))?;
            rows += 1;
        } else {
            let found: Footer =
                serde_json::from_slice(line).map_err(|_error| damaged(file, number, "is no row"))?;
            if found.rows != rows || found.sha256 != hex::encode(hash.clone().finish()) {
                return Err(damaged(
                    file,
                    number,
                    "does not fit what comes before: something was changed or lost",
                ));
            }
            footer = Some(found);
        }
        hash.update(line);
        hash.update(b"\n");
    }
    match (header, footer) {
        (Some(header), Some(footer)) => Ok(archived(&header, footer.rows)),
        _ => Err(damaged(
            file,
            usize::try_from(rows).unwrap_or(usize::MAX),
            "is the last, and the end is missing",
        )),
    }
}

/// Replaces every row by those of a file that was checked.
pub(super) async fn replace(
    session: &mut Session,
    file: &Path,
    expected: &Archived,
    progress: &mut Progress<'_>,
) -> Result<(), StoreError> {
    for table in TABLES.iter().rev() {
        session.execute(RESTORE, sql(format!("DELETE FROM {}", table.name))).await?;
    }
    session.execute(RESTORE, sql("DELETE FROM changes")).await?;
    let mut lines = Lines::open(file)?;
    let (mut lump, mut of, mut done) = (Vec::new(), None::<&Table>, 0);
    loop {
        let row = match lines.next()? {
            // The first and the last line are no rows.
            Some((_, line)) => match serde_json::from_slice::<Line>(line) {
                Ok(row) => Some(row),
                Err(_) => continue,
            },
            None => None,
        };
        let table = row.as_ref().and_then(|row| Table::named(&row.t));
        let same = table.map(|table| table.name) == of.map(|table| table.name);
        if let Some(of) = of
            && (!same || lump.len() == LUMP)
        {
            done += insert(session, of, &mut lump).await?;
            progress(of.name, done);
            if !same {
                done = 0;
            }
        }
        let Some(table) = table else { break };
        of = Some(table);
        lump.extend(row.and_then(|row| table.decode(row.r)));
    }
    if session.engine() == Engine::Postgres {
        // Rows that are made from now on get ids after those that came along.
        for table in TABLES.iter().filter(|table| table.columns.first() == Some(&("id", Kind::Int))) {
            let name = table.name;
            let next = format!(
                "SELECT setval(pg_get_serial_sequence('{name}', 'id'), coalesce((SELECT max(id) FROM {name}), 0) + 1, false)"
            );
            session.execute(RESTORE, sql(next)).await?;
        }
    }
    let mut rows = 0;
    for table in TABLES {
        rows += u64::try_from(table.count(session).await?).unwrap_or_default();
    }
    if rows == expected.rows {
        return Ok(());
    }
    Err(StoreError::Database {
        op: RESTORE,
        cause: format!("{rows} rows arrived of {}; was the file changed meanwhile?", expected.rows).into(),
    })
}

async fn insert(session: &mut Session, table: &Table, lump: &mut Vec<Vec<Value>>) -> Result<u64, StoreError> {
    let mut insert = sql(format!("INSERT INTO {} ({})", table.name, table.column_list()));
    insert.push_rows(lump.drain(..));
    session.execute(RESTORE, insert).await
}
