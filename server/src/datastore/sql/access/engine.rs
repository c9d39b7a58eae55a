//! What the engines do not share.

/// A database engine. MariaDB is MySQL here: the SQL is what both understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// One file.
    Sqlite,
    /// PostgreSQL 13 or later.
    Postgres,
    /// MySQL 8 or later, MariaDB 10.6 or later.
    MySql,
}

impl Engine {
    /// SPIRE's name of it, as `database_type` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite3",
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    /// A column with a set table's rows of one owner, in no order, as of the statement's moment. [`super::Row::set`]
    /// reads it. On MySQL the texts are in hexadecimal: it has no JSON of binary strings, and so nothing in a
    /// text can be mistaken for what parts the texts.
    pub(crate) fn set(self, table: &str, owner: &str, of: &str, columns: &[&str]) -> String {
        let each =
            |one: &dyn Fn(&str) -> String| columns.iter().map(|c| one(c)).collect::<Vec<_>>().join(", ");
        match self {
            Self::Sqlite => {
                let columns = each(&|c| format!("cast(s.{c} AS TEXT)"));
                format!(
                    "(SELECT json_group_array(json_array({columns})) FROM {table} s WHERE s.{owner} = {of})"
                )
            }
            Self::Postgres => {
                let columns = each(&|c| format!("s.{c}::text"));
                format!(
                    "(SELECT coalesce(json_agg(json_build_array({columns})), '[]')::text FROM {table} s
                      WHERE s.{owner} = {of})"
                )
            }
            Self::MySql => {
                let columns = each(&|c| format!("hex(cast(s.{c} AS binary))"));
                format!(
                    "(SELECT coalesce(cast(json_arrayagg(concat_ws(' ', {columns})) AS char), '[]') FROM {table} s
                      WHERE s.{owner} = {of})"
                )
            }
        }
    }

    /// What ends an `INSERT` that shall replace: `column = the new value` for each of `replaced`, then `more`.
    pub(crate) fn upsert(self, key: &str, replaced: &[&str], more: &str) -> String {
        let list =
            |of: &dyn Fn(&str) -> String| replaced.iter().map(|c| of(c)).collect::<Vec<_>>().join(", ");
        match self {
            Self::Sqlite | Self::Postgres => {
                let set = list(&|c| format!("{c} = excluded.{c}"));
                format!(" ON CONFLICT ({key}) DO UPDATE SET {set}{more}")
            }
            Self::MySql => {
                let set = list(&|c| format!("{c} = VALUES({c})"));
                format!(" ON DUPLICATE KEY UPDATE {set}{more}")
            }
        }
    }
}
