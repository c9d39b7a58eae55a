//! Rows: the same columns read the same way on every engine.

use serde::de::{Deserialize, Deserializer, Visitor};
use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

type Read<T> = Result<T, sqlx::Error>;

/// A row that was read.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
    MySql(MySqlRow),
    /// One of a block of SQLite's: see [`block`].
    Block(&'static [&'static str], Vec<Cell>),
}

/// A value of a block.
#[derive(Debug)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
}

struct AnyCell;

impl Visitor<'_> for AnyCell {
    type Value = Cell;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("null, a whole number or a text")
    }

    fn visit_unit<E>(self) -> Result<Cell, E> {
        Ok(Cell::Null)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Cell, E> {
        Ok(Cell::Int(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Cell, E> {
        i64::try_from(number).map(Cell::Int).map_err(E::custom)
    }

    fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
        Ok(Cell::Text(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyCell)
    }
}

/// Many rows of these columns out of one value, a JSON array of arrays. Each value of a row costs sqlx a copy and some
/// allocations on SQLite, which all together cost more than finding the rows.
pub(super) fn block(columns: &'static [&'static str], json: &[u8]) -> Result<Vec<Row>, serde_json::Error> {
    let rows: Vec<Vec<Cell>> = serde_json::from_slice(json)?;
    Ok(rows.into_iter().map(|cells| Row::Block(columns, cells)).collect())
}

/// What columns hold, in a row as it was read or put together from several.
pub(crate) trait Columns {
    /// A text.
    fn optional_str(&self, column: &str) -> Read<Option<&str>>;
    /// A number.
    fn optional_int(&self, column: &str) -> Read<Option<i64>>;
    /// Bytes.
    fn optional_blob(&self, column: &str) -> Read<Option<Vec<u8>>>;
    /// The members of a set, each some texts.
    fn set(&self, column: &str) -> Read<Vec<Vec<String>>>;
}

fn required<T>(column: &str, value: Option<T>) -> Read<T> {
    value.ok_or_else(|| sqlx::Error::ColumnDecode { index: column.to_owned(), source: "it is NULL".into() })
}

fn malformed(column: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: why.into() }
}

fn other(column: &str, cell: &Cell) -> sqlx::Error {
    malformed(column, format!("it is {cell:?}"))
}

impl Row {
    fn cell(&self, column: &str) -> Option<&Cell> {
        let Self::Block(columns, cells) = self else { return None };
        cells.get(columns.iter().position(|name| *name == column)?)
    }

    pub(crate) fn optional_text(&self, column: &str) -> Read<Option<String>> {
        Ok(self.optional_str(column)?.map(str::to_owned))
    }

    pub(crate) fn text(&self, column: &str) -> Read<String> {
        required(column, self.optional_text(column)?)
    }

    pub(crate) fn int(&self, column: &str) -> Read<i64> {
        required(column, self.optional_int(column)?)
    }

    pub(crate) fn optional_int(&self, column: &str) -> Read<Option<i64>> {
        Columns::optional_int(self, column)
    }

    pub(crate) fn optional_blob(&self, column: &str) -> Read<Option<Vec<u8>>> {
        Columns::optional_blob(self, column)
    }

    pub(crate) fn blob(&self, column: &str) -> Read<Vec<u8>> {
        required(column, self.optional_blob(column)?)
    }
}

impl Columns for Row {
    fn optional_str(&self, column: &str) -> Read<Option<&str>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
            // Texts are VARBINARY there, which sqlx takes for bytes.
            Self::MySql(row) => row
                .try_get_unchecked::<Option<&[u8]>, _>(column)?
                .map(|bytes| std::str::from_utf8(bytes).map_err(|cause| malformed(column, cause)))
                .transpose(),
            Self::Block(..) => match self.cell(column) {
                Some(Cell::Text(text)) => Ok(Some(text)),
                Some(Cell::Null) => Ok(None),
                Some(cell) => Err(other(column, cell)),
                None => Err(sqlx::Error::ColumnNotFound(column.to_owned())),
            },
        }
    }

    fn optional_int(&self, column: &str) -> Read<Option<i64>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
            Self::MySql(row) => row.try_get(column),
            Self::Block(..) => match self.cell(column) {
                Some(Cell::Int(number)) => Ok(Some(*number)),
                Some(Cell::Null) => Ok(None),
                Some(cell) => Err(other(column, cell)),
                None => Err(sqlx::Error::ColumnNotFound(column.to_owned())),
            },
        }
    }

    fn optional_blob(&self, column: &str) -> Read<Option<Vec<u8>>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
            Self::MySql(row) => row.try_get_unchecked(column),
            Self::Block(..) => Err(malformed(column, "a block has no bytes")),
        }
    }

    /// A column made by [`super::Engine::set`].
    fn set(&self, column: &str) -> Read<Vec<Vec<String>>> {
        let text = required(column, self.optional_str(column)?)?;
        if !matches!(self, Self::MySql(_)) {
            return serde_json::from_str(text).map_err(|cause| malformed(column, cause));
        }
        let members: Vec<String> = serde_json::from_str(text).map_err(|cause| malformed(column, cause))?;
        let part = |part: &str| {
            let bytes = hex::decode(part).map_err(|cause| malformed(column, cause))?;
            String::from_utf8(bytes).map_err(|cause| malformed(column, cause))
        };
        members.iter().map(|member| member.split(' ').map(part).collect()).collect()
    }
}
