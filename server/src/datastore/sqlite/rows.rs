//! From rows to nouns. A row that does not parse is [`StoreError::Damaged`]: it is refused, never guessed.

use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{StoreError, database, from_unix};
use crate::datastore::{Entry, Node};

/// An entry with its sets as JSON arrays, read by one statement and so as of one moment.
pub(super) const SELECT_ENTRY: &str = "SELECT e.id, e.entry_id, e.spiffe_id, e.parent_id, e.x509_svid_ttl,
    e.jwt_svid_ttl, e.admin, e.downstream, e.expires_at, e.revision_number, e.store_svid, e.hint, e.created_at,
    e.disable_prefetch, e.include_jti,
    (SELECT json_group_array(json_array(s.kind, s.value)) FROM
        (SELECT kind, value FROM entry_selectors WHERE entry = e.id ORDER BY kind, value) s) AS selectors,
    (SELECT json_group_array(d.name) FROM
        (SELECT name FROM entry_dns_names WHERE entry = e.id ORDER BY position) d) AS dns_names,
    (SELECT json_group_array(f.trust_domain) FROM
        (SELECT trust_domain FROM entry_federates WHERE entry = e.id ORDER BY trust_domain) f) AS federates_with
    FROM entries e";

/// A node with its selectors as a JSON array.
pub(super) const SELECT_NODE: &str =
    "SELECT n.id, n.spiffe_id, n.attestation_type, n.serial_number, n.expires_at,
    n.new_serial_number, n.new_expires_at, n.can_reattest, n.agent_version,
    (SELECT json_group_array(json_array(s.kind, s.value)) FROM
        (SELECT kind, value FROM node_selectors WHERE node = n.id ORDER BY kind, value) s) AS selectors
    FROM nodes n";

/// One row and what to call it in an error.
pub(super) struct Reader<'a> {
    row: &'a SqliteRow,
    what: &'static str,
    key: String,
}

impl<'a> Reader<'a> {
    pub(super) fn new(row: &'a SqliteRow, what: &'static str, key: &str) -> Result<Self, StoreError> {
        let key = row.try_get(key).map_err(|cause| database("read row", cause))?;
        Ok(Self { row, what, key })
    }

    pub(super) fn damaged(&self, reason: impl ToString) -> StoreError {
        StoreError::Damaged { what: self.what, key: self.key.clone(), reason: reason.to_string() }
    }

    pub(super) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.row.try_get(column).map_err(|cause| self.damaged(cause))
    }

    pub(super) fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.row.try_get(column).map_err(|cause| self.damaged(cause))
    }

    pub(super) fn optional_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.row.try_get(column).map_err(|cause| self.damaged(cause))
    }

    fn flag(&self, column: &str) -> Result<bool, StoreError> {
        match self.int(column)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.damaged(format!("{column} is {other}, not 0 or 1"))),
        }
    }

    fn seconds(&self, column: &str) -> Result<i32, StoreError> {
        let value = self.int(column)?;
        match i32::try_from(value) {
            Ok(seconds) if seconds >= 0 => Ok(seconds),
            _ => Err(self.damaged(format!("{column} is {value} seconds"))),
        }
    }

    fn count(&self, column: &str) -> Result<i64, StoreError> {
        let value = self.int(column)?;
        if value < 0 { Err(self.damaged(format!("{column} is {value}"))) } else { Ok(value) }
    }

    fn id(&self, column: &str) -> Result<SpiffeId, StoreError> {
        self.text(column)?.parse().map_err(|cause| self.damaged(format!("{column}: {cause}")))
    }

    pub(super) fn time(&self, column: &str) -> Result<std::time::SystemTime, StoreError> {
        let seconds = self.int(column)?;
        from_unix(seconds).ok_or_else(|| self.damaged(format!("{column} is {seconds}")))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|cause| self.damaged(format!("{column}: {cause}")))
    }

    fn selectors(&self) -> Result<Vec<Selector>, StoreError> {
        let mut selectors = self
            .json::<Vec<(String, String)>>("selectors")?
            .into_iter()
            .map(|(kind, value)| Selector::new(kind, value).map_err(|cause| self.damaged(cause)))
            .collect::<Result<Vec<_>, _>>()?;
        selectors.sort();
        Ok(selectors)
    }
}

pub(super) fn entry(row: &SqliteRow) -> Result<Entry, StoreError> {
    let r = Reader::new(row, "entry", "entry_id")?;
    let selectors = r.selectors()?;
    if selectors.is_empty() {
        // An entry without selectors would match every workload.
        return Err(r.damaged("it has no selectors"));
    }
    let federates_with = r
        .json::<Vec<String>>("federates_with")?
        .iter()
        .map(|name| TrustDomain::new(name).map_err(|cause| r.damaged(format!("federates_with: {cause}"))))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Entry {
        id: r.key.clone(),
        spiffe_id: r.id("spiffe_id")?,
        parent_id: r.id("parent_id")?,
        selectors,
        x509_svid_ttl: r.seconds("x509_svid_ttl")?,
        jwt_svid_ttl: r.seconds("jwt_svid_ttl")?,
        federates_with,
        admin: r.flag("admin")?,
        downstream: r.flag("downstream")?,
        expires_at: r.int("expires_at")?,
        dns_names: r.json("dns_names")?,
        revision_number: r.count("revision_number")?,
        store_svid: r.flag("store_svid")?,
        hint: r.text("hint")?,
        created_at: r.int("created_at")?,
        disable_x509_svid_prefetch: r.flag("disable_prefetch")?,
        jwt_svid_include_jti: r.flag("include_jti")?,
    })
}

pub(super) fn node(row: &SqliteRow) -> Result<Node, StoreError> {
    let r = Reader::new(row, "agent", "spiffe_id")?;
    let serial = |column| {
        let serial = r.text(column)?;
        if serial.bytes().all(|b| b.is_ascii_digit()) {
            Ok(serial)
        } else {
            Err(r.damaged(format!("{column} is not a decimal number")))
        }
    };
    let new_expires_at = match r.optional_int("new_expires_at")? {
        None => None,
        Some(_) => Some(r.time("new_expires_at")?),
    };
    let (serial_number, new_serial_number) = (serial("serial_number")?, serial("new_serial_number")?);
    if serial_number.is_empty() && !new_serial_number.is_empty() {
        return Err(r.damaged("it is banned and has a serial that waits to be used"));
    }
    Ok(Node {
        id: r.id("spiffe_id")?,
        attestation_type: r.text("attestation_type")?,
        serial_number,
        expires_at: r.time("expires_at")?,
        new_serial_number,
        new_expires_at,
        can_reattest: r.flag("can_reattest")?,
        agent_version: r.text("agent_version")?,
        selectors: r.selectors()?,
    })
}
