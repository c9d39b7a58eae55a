//! The tables of a backup, and their rows as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::super::access::{Row, Session, Value, sql};
use super::super::{StoreError, broken};

/// How many numbers, or rows of a table without numbers, are read at once.
const WINDOW: i64 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Text,
    Blob,
}
use Kind::{Blob, Int, Text};

/// A table, its columns, and the one that it is read in order of.
pub(in super::super) struct Table {
    pub(in super::super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Kind)],
    order: (&'static str, Kind),
}

/// Every table but the log of changes, which ends with the servers that follow it, and the leases, which say
/// which processes run now: one brought back would make a server wait for a process that is long gone, and would
/// take the lease from one that runs. Each after those it refers to.
pub(in super::super) const TABLES: &[Table] = &[
    Table {
        name: "bundles",
        columns: &[("trust_domain", Text), ("data", Blob), ("revision", Int)],
        order: ("trust_domain", Text),
    },
    Table {
        name: "entries",
        columns: &[
            ("id", Int),
            ("entry_id", Text),
            ("spiffe_id", Text),
            ("parent_id", Text),
            ("x509_svid_ttl", Int),
            ("jwt_svid_ttl", Int),
            ("admin", Int),
            ("downstream", Int),
            ("expires_at", Int),
            ("revision_number", Int),
            ("store_svid", Int),
            ("hint", Text),
            ("created_at", Int),
            ("disable_prefetch", Int),
            ("include_jti", Int),
        ],
        order: ("id", Int),
    },
    Table {
        name: "entry_selectors",
        columns: &[("entry", Int), ("kind", Text), ("value", Text)],
        order: ("entry", Int),
    },
    Table {
        name: "entry_dns_names",
        columns: &[("entry", Int), ("position", Int), ("name", Text)],
        order: ("entry", Int),
    },
    Table {
        name: "entry_federates",
        columns: &[("entry", Int), ("trust_domain", Text)],
        order: ("entry", Int),
    },
    Table {
        name: "nodes",
        columns: &[
            ("id", Int),
            ("spiffe_id", Text),
            ("attestation_type", Text),
            ("serial_number", Text),
            ("expires_at", Int),
            ("new_serial_number", Text),
            ("new_expires_at", Int),
            ("can_reattest", Int),
            ("agent_version", Text),
        ],
        order: ("id", Int),
    },
    Table {
        name: "node_selectors",
        columns: &[("node", Int), ("kind", Text), ("value", Text)],
        order: ("node", Int),
    },
    Table {
        name: "node_records",
        columns: &[("attestor", Text), ("record_key", Text), ("node", Int), ("data", Blob)],
        order: ("node", Int),
    },
    Table {
        name: "join_tokens",
        columns: &[("token_hash", Text), ("expires_at", Int), ("bound_key", Text)],
        order: ("token_hash", Text),
    },
    Table {
        name: "journals",
        columns: &[("id", Int), ("data", Blob), ("active_x509_authority_id", Text)],
        order: ("id", Int),
    },
    Table {
        name: "tpm_enrolments",
        columns: &[("id", Int), ("ek_hash", Text), ("agent_path", Text), ("note", Text), ("created_at", Int)],
        order: ("id", Int),
    },
    Table {
        name: "federation_relationships",
        columns: &[
            ("id", Int),
            ("trust_domain", Text),
            ("bundle_endpoint_url", Text),
            ("profile", Text),
            ("endpoint_spiffe_id", Text),
        ],
        order: ("id", Int),
    },
    Table {
        name: "key_records",
        columns: &[
            ("id", Int),
            ("instance", Text),
            ("key_id", Text),
            ("kind", Text),
            ("spki_sha256", Text),
            ("custody", Text),
            ("created_at", Int),
            ("state", Text),
        ],
        order: ("id", Int),
    },
];

/// One row: the table and its columns in the order above.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) t: String,
    pub(super) r: Vec<Json>,
}

impl Table {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    pub(super) fn column_list(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    pub(in super::super) async fn count(&self, session: &mut Session) -> Result<i64, StoreError> {
        session.number("count rows", sql(format!("SELECT count(*) AS n FROM {}", self.name))).await
    }

    pub(super) fn encode(&self, row: &Row) -> Result<Line, StoreError> {
        let column = |(name, kind): &(&str, Kind)| {
            let read = match kind {
                Int => row.optional_int(name).map(Json::from),
                Text => row.optional_text(name).map(Json::from),
                Blob => row.optional_blob(name).map(|bytes| bytes.map(|bytes| BASE64.encode(bytes)).into()),
            };
            read.map_err(|cause| broken(super::BACKUP, cause))
        };
        let r = self.columns.iter().map(column).collect::<Result<_, _>>()?;
        Ok(Line { t: self.name.to_owned(), r })
    }

    pub(super) fn decode(&self, row: Vec<Json>) -> Option<Vec<Value>> {
        if row.len() != self.columns.len() {
            return None;
        }
        let value = |((_, kind), json): (&(&str, Kind), Json)| {
            Some(match (kind, json) {
                (Int, Json::Null) => Value::Int(None),
                (Int, json) => Value::Int(Some(json.as_i64()?)),
                (Text, Json::Null) => Value::Text(None),
                (Text, Json::String(text)) => Value::Text(Some(text)),
                (Blob, Json::Null) => Value::Blob(None),
                (Blob, Json::String(text)) => Value::Blob(Some(BASE64.decode(text).ok()?)),
                _ => return None,
            })
        };
        self.columns.iter().zip(row).map(value).collect()
    }

    /// What is before every row.
    pub(super) fn before_all(&self) -> Value {
        if self.order.1 == Int { Value::Int(Some(i64::MIN)) } else { Value::Text(Some(String::new())) }
    }

    /// Rows in order, from those after `last`; what comes after them begins after the value returned.
    pub(super) async fn window(
        &self,
        session: &mut Session,
        last: &Value,
    ) -> Result<(Vec<Row>, Option<Value>), StoreError> {
        let (order, kind) = self.order;
        let (list, name) = (self.column_list(), self.name);
        let text = format!("SELECT {list} FROM {name} WHERE {order} > $1");
        if kind == Text {
            let query = sql(format!("{text} ORDER BY {order} LIMIT {WINDOW}")).bind(last.clone());
            let rows = session.fetch_all(super::BACKUP, query).await?;
            let next = rows
                .last()
                .map(|row| row.text(order))
                .transpose()
                .map_err(|cause| broken(super::BACKUP, cause))?;
            return Ok((rows, next.map(|text| Value::Text(Some(text)))));
        }
        let first = sql(format!("SELECT min({order}) AS n FROM {name} WHERE {order} > $1"));
        let row = session.fetch_optional(super::BACKUP, first.bind(last.clone())).await?;
        let first =
            row.map(|row| row.optional_int("n")).transpose().map_err(|cause| broken(super::BACKUP, cause))?;
        let Some(first) = first.flatten() else { return Ok((Vec::new(), None)) };
        let end = first.saturating_add(WINDOW);
        let query = sql(format!("{text} AND {order} <= $2 ORDER BY {order}"));
        let rows = session.fetch_all(super::BACKUP, query.bind(last.clone()).bind(end)).await?;
        Ok((rows, Some(Value::Int(Some(end)))))
    }
}
