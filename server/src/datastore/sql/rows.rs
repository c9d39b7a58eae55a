//! From rows to nouns. A row that does not parse is [`StoreError::Damaged`]: it is refused, never guessed.

use super::access::{Columns, Engine, Row, Statement, sql};
use super::{StoreError, broken, from_unix};
use crate::datastore::{Entry, Node};
use hardroot_identity::{Selector, SpiffeId, TrustDomain};

/// An entry with its sets, read by one statement and so as of one moment.
pub(super) fn select_entry(engine: Engine) -> Statement {
    sql(format!(
        "SELECT e.id, e.entry_id, e.spiffe_id, e.parent_id, e.x509_svid_ttl, e.jwt_svid_ttl, e.admin,
            e.downstream, e.expires_at, e.revision_number, e.store_svid, e.hint, e.created_at,
            e.disable_prefetch, e.include_jti, {} AS selectors, {} AS dns_names, {} AS federates_with
         FROM entries e",
        engine.set("entry_selectors", "entry", "e.id", &["kind", "value"]),
        engine.set("entry_dns_names", "entry", "e.id", &["position", "name"]),
        engine.set("entry_federates", "entry", "e.id", &["trust_domain"]),
    ))
}

/// A node with its selectors.
pub(super) fn select_node(engine: Engine) -> Statement {
    sql(format!(
        "SELECT n.id, n.spiffe_id, n.attestation_type, n.serial_number, n.expires_at, n.new_serial_number,
            n.new_expires_at, n.can_reattest, n.agent_version, {} AS selectors
         FROM nodes n",
        engine.set("node_selectors", "node", "n.id", &["kind", "value"]),
    ))
}

/// One row and what to call it in an error.
pub(super) struct Reader<'a, R = Row> {
    row: &'a R,
    what: &'static str,
    key: &'a str,
}

impl<'a, R: Columns> Reader<'a, R> {
    pub(super) fn new(row: &'a R, what: &'static str, key: &str) -> Result<Self, StoreError> {
        let missing = || sqlx::Error::ColumnDecode { index: key.to_owned(), source: "it is NULL".into() };
        let key = row.optional_str(key).and_then(|text| text.ok_or_else(missing));
        Ok(Self { row, what, key: key.map_err(|cause| broken("read row", cause))? })
    }

    pub(super) fn damaged(&self, reason: impl ToString) -> StoreError {
        StoreError::Damaged { what: self.what, key: self.key.to_owned(), reason: reason.to_string() }
    }

    fn required<T>(&self, column: &str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| self.damaged(format!("{column} is NULL")))
    }

    fn optional_str(&self, column: &str) -> Result<Option<&str>, StoreError> {
        self.row.optional_str(column).map_err(|cause| self.damaged(cause))
    }

    fn str(&self, column: &str) -> Result<&str, StoreError> {
        self.required(column, self.optional_str(column)?)
    }

    pub(super) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.str(column).map(str::to_owned)
    }

    pub(super) fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.optional_str(column)?.map(str::to_owned))
    }

    pub(super) fn optional_blob(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.row.optional_blob(column).map_err(|cause| self.damaged(cause))
    }

    pub(super) fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.required(column, self.optional_int(column)?)
    }

    pub(super) fn optional_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.row.optional_int(column).map_err(|cause| self.damaged(cause))
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
        self.str(column)?.parse().map_err(|cause| self.damaged(format!("{column}: {cause}")))
    }

    pub(super) fn time(&self, column: &str) -> Result<std::time::SystemTime, StoreError> {
        let seconds = self.int(column)?;
        from_unix(seconds).ok_or_else(|| self.damaged(format!("{column} is {seconds}")))
    }

    /// The members of a set, each of `N` texts.
    fn set<const N: usize>(&self, column: &str) -> Result<Vec<[String; N]>, StoreError> {
        let members = self.row.set(column).map_err(|cause| self.damaged(cause))?;
        let member = |member: Vec<String>| {
            member
                .try_into()
                .map_err(|_other_length| self.damaged(format!("{column} has a member of another form")))
        };
        members.into_iter().map(member).collect()
    }

    fn selectors(&self) -> Result<Vec<Selector>, StoreError> {
        let mut selectors = self
            .set::<2>("selectors")?
            .into_iter()
            .map(|[kind, value]| Selector::new(kind, value).map_err(|cause| self.damaged(cause)))
            .collect::<Result<Vec<_>, _>>()?;
        selectors.sort();
        Ok(selectors)
    }

    fn dns_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        for [position, name] in self.set::<2>("dns_names")? {
            let position: i64 = position.parse().map_err(|cause| self.damaged(cause))?;
            names.push((position, name));
        }
        names.sort();
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    fn federates_with(&self) -> Result<Vec<TrustDomain>, StoreError> {
        let mut domains = self
            .set::<1>("federates_with")?
            .into_iter()
            .map(|[name]| {
                TrustDomain::new(&name).map_err(|cause| self.damaged(format!("federates_with: {cause}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        domains.sort();
        Ok(domains)
    }
}

pub(super) fn entry<R: Columns>(row: &R) -> Result<Entry, StoreError> {
    let r = Reader::new(row, "entry", "entry_id")?;
    let selectors = r.selectors()?;
    if selectors.is_empty() {
        // An entry without selectors would match every workload.
        return Err(r.damaged("it has no selectors"));
    }
    Ok(Entry {
        id: r.key.to_owned(),
        spiffe_id: r.id("spiffe_id")?,
        parent_id: r.id("parent_id")?,
        selectors,
        x509_svid_ttl: r.seconds("x509_svid_ttl")?,
        jwt_svid_ttl: r.seconds("jwt_svid_ttl")?,
        federates_with: r.federates_with()?,
        admin: r.flag("admin")?,
        downstream: r.flag("downstream")?,
        expires_at: r.int("expires_at")?,
        dns_names: r.dns_names()?,
        revision_number: r.count("revision_number")?,
        store_svid: r.flag("store_svid")?,
        hint: r.text("hint")?,
        created_at: r.int("created_at")?,
        disable_x509_svid_prefetch: r.flag("disable_prefetch")?,
        jwt_svid_include_jti: r.flag("include_jti")?,
    })
}

pub(super) fn node<R: Columns>(row: &R) -> Result<Node, StoreError> {
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
