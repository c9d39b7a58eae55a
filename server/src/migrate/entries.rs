//! Registration entries from SPIRE.

use hardroot_identity::{BadDnsName, TrustDomain, check_dns_name, check_dns_names};
use prost::Message;

use super::import::{Import, Outcome, id, seconds, selectors};
use super::rows::EntryRow;
use crate::datastore::{Entry, EntryMask, StoreError};

/// An entry of theirs, compared with what is here.
enum Judged {
    New(Box<Entry>),
    Done(Outcome),
}

impl Import<'_> {
    /// Entries: what became of each, in their order. New ones are written together.
    pub(super) async fn entries(&self, rows: &[EntryRow]) -> Vec<Result<Outcome, StoreError>> {
        let mut outcomes = Vec::with_capacity(rows.len());
        let (mut new, mut places) = (Vec::new(), Vec::new());
        for row in rows {
            outcomes.push(match self.entry(row).await {
                Ok(Judged::New(entry)) => {
                    places.push(outcomes.len());
                    new.push(*entry);
                    Ok(Outcome::Created)
                }
                Ok(Judged::Done(outcome)) => Ok(outcome),
                Err(fault) => Err(fault),
            });
        }
        if self.dry_run || new.is_empty() {
            return outcomes;
        }
        for (place, made) in places.into_iter().zip(self.store.create_entries(new).await) {
            if let Some(outcome) = outcomes.get_mut(place) {
                *outcome =
                    made.map(|(_, existed)| if existed { Outcome::Unchanged } else { Outcome::Created });
            }
        }
        outcomes
    }

    async fn entry(&self, row: &EntryRow) -> Result<Judged, StoreError> {
        let theirs = entry(row)?;
        if theirs.expires_at != 0 && theirs.expires_at < seconds(self.now) {
            return Ok(Judged::Done(Outcome::Skipped));
        }
        if !theirs.spiffe_id.is_member_of(&self.trust_domain) {
            return Err(StoreError::Invalid {
                reason: format!("its SPIFFE ID is not in the trust domain {}", self.trust_domain),
            });
        }
        let Some(ours) = self.store.entry(&theirs.id).await? else {
            return Ok(Judged::New(Box::new(theirs)));
        };
        let same =
            Entry { revision_number: ours.revision_number, created_at: ours.created_at, ..theirs.clone() }
                == ours;
        if same {
            return Ok(Judged::Done(Outcome::Unchanged));
        }
        if !self.overwrite {
            return Ok(Judged::Done(Outcome::Differs));
        }
        self.write(self.store.update_entry(theirs, &EntryMask::ALL)).await?;
        Ok(Judged::Done(Outcome::Updated))
    }
}

/// The attributes that SPIRE keeps as a message of their own (`RegistrationEntry.AdditionalAttributes`).
#[derive(Clone, PartialEq, prost::Message)]
struct AdditionalAttributes {
    #[prost(bool, tag = "1")]
    disable_x509_svid_prefetch: bool,
    #[prost(bool, tag = "2")]
    jwt_svid_include_jti: bool,
}

/// The DNS names that an SVID may have here, and why the others are left out. SPIRE takes blanks and other characters, and names
/// that a wildcard beside them covers; an entry with such a name would be given no SVID at all.
pub(super) fn dns_names(row: &EntryRow) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut left_out): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for name in &row.dns_names {
        if let Err(why) = check_dns_name(name) {
            left_out.push(format!("without its DNS name {name:?}: {why}"));
        } else if !kept.contains(name) {
            kept.push(name.clone());
        }
    }
    while let Err(BadDnsName::Overlap { name }) = check_dns_names(&kept) {
        kept.retain(|other| *other != name);
        left_out.push(format!("without its DNS name {name:?}: the wildcard beside it covers it"));
    }
    (kept, left_out)
}

fn entry(row: &EntryRow) -> Result<Entry, StoreError> {
    let ttl = |what: &str, seconds: i64| {
        i32::try_from(seconds)
            .map_err(|_out_of_range| StoreError::Invalid { reason: format!("its {what} is out of range") })
    };
    let attributes = AdditionalAttributes::decode(row.additional_attributes.as_slice()).map_err(|cause| {
        StoreError::Invalid { reason: format!("its additional attributes do not parse: {cause}") }
    })?;
    let federates_with = row.federates_with.iter().map(|name| {
        TrustDomain::from_name_or_id(name).map_err(|cause| StoreError::Invalid {
            reason: format!("it federates with what is no trust domain: {cause}"),
        })
    });
    let mut federates_with = federates_with.collect::<Result<Vec<_>, _>>()?;
    federates_with.sort();
    Ok(Entry {
        id: row.entry_id.clone(),
        spiffe_id: id("SPIFFE ID", &row.spiffe_id)?,
        parent_id: id("parent ID", &row.parent_id)?,
        selectors: selectors(&row.selectors)?,
        x509_svid_ttl: ttl("X509-SVID TTL", row.x509_svid_ttl)?,
        jwt_svid_ttl: ttl("JWT-SVID TTL", row.jwt_svid_ttl)?,
        federates_with,
        admin: row.admin,
        downstream: row.downstream,
        expires_at: row.expiry,
        dns_names: dns_names(row).0,
        revision_number: row.revision_number,
        store_svid: row.store_svid,
        hint: row.hint.clone(),
        created_at: row.created_at,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}
