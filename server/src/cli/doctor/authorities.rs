//! The bundle's authorities: whether they are valid, and whether they are those of this server's keys.

use std::time::{Duration, SystemTime};

use hardroot_api::spire::common;
use hardroot_runtime::doctor::{Finding, fault, fine, warning};

use super::database::DatabaseFacts;
use super::server::RunningFacts;
use super::token::{TokenFacts, sha256};
use crate::authority::slots::{CaFacts, authority_id};
use crate::authority::{JWT_KEYS, X509_CA_KEYS};
use crate::config::{KeyManagerConfig, ServerConfig};

const CHECK: &str = "certificates";

/// An X.509 authority of the bundle.
#[derive(Debug, Clone)]
pub(super) struct AuthorityFacts {
    pub(super) id: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// A key that should be an authority.
#[derive(Debug, Clone)]
pub(super) struct SigningKey {
    pub(super) id: String,
    /// Whether the bundle holds it.
    pub(super) published: bool,
}

/// The bundle, beside the keys.
#[derive(Debug, Clone)]
pub(super) struct BundleFacts {
    /// Its X.509 authorities; `None` when neither a server nor the database shows a bundle.
    pub(super) authorities: Option<Vec<AuthorityFacts>>,
    /// Why the stored bundle cannot be read.
    pub(super) damaged: Option<String>,
    /// The keys of this server that sign SVIDs; `None` when they or the bundle are not known.
    pub(super) keys: Option<Vec<SigningKey>>,
    /// Whether a server ran here before, so that there should be something.
    pub(super) began: bool,
}

pub(super) fn gather(
    config: &ServerConfig,
    token: &TokenFacts,
    database: &DatabaseFacts,
    running: &RunningFacts,
) -> BundleFacts {
    let stored = database.stored.as_ref();
    let bundle = stored.and_then(|stored| stored.bundle.as_ref().ok()?.as_ref());
    let authorities = match (bundle, &running.bundle) {
        (Some(bundle), _) => Some(authorities(bundle.root_cas.iter().map(|root| root.der_bytes.as_slice()))),
        (None, Some(bundle)) => {
            Some(authorities(bundle.x509_authorities.iter().map(|one| one.der.as_slice())))
        }
        (None, None) => None,
    };
    // Keys in memory come and go with the process.
    let keys = match config.key_manager {
        KeyManagerConfig::Memory => None,
        _ => stored.filter(|stored| stored.bundle.is_ok()).and_then(|_| signing_keys(token, database)),
    };
    let published = bundle.map(published).unwrap_or_default();
    let keys = keys.map(|keys| {
        let judge = |(id, spki): (String, [u8; 32])| SigningKey { id, published: published.contains(&spki) };
        keys.into_iter().map(judge).collect()
    });
    BundleFacts {
        authorities,
        damaged: stored.and_then(|stored| stored.bundle.as_ref().err().cloned()),
        keys,
        began: running.answers() || stored.is_some_and(|stored| !stored.keys.is_empty()),
    }
}

fn authorities<'a>(all: impl Iterator<Item = &'a [u8]>) -> Vec<AuthorityFacts> {
    let of = |der: &[u8]| {
        let facts = CaFacts::of(der)?;
        Some(AuthorityFacts {
            id: authority_id(&facts.spki_der),
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    };
    all.filter_map(of).collect()
}

/// SHA-256 of every key that the bundle vouches for.
fn published(bundle: &common::Bundle) -> Vec<[u8; 32]> {
    let roots =
        bundle.root_cas.iter().filter_map(|root| Some(sha256(&CaFacts::of(&root.der_bytes)?.spki_der)));
    roots.chain(bundle.jwt_signing_keys.iter().map(|key| sha256(&key.pkix_bytes))).collect()
}

/// The keys on the token that sign SVIDs or, where it cannot be asked, those that were written down when they were made.
fn signing_keys(token: &TokenFacts, database: &DatabaseFacts) -> Option<Vec<(String, [u8; 32])>> {
    let signs = |id: &str| id.starts_with(X509_CA_KEYS) || id.starts_with(JWT_KEYS);
    if let Some(keys) = &token.keys {
        let all = keys.iter().filter(|key| signs(&key.id));
        return Some(all.filter_map(|key| Some((key.id.clone(), key.spki_sha256?))).collect());
    }
    token.opened.as_ref().ok()?;
    let records = database.stored.as_ref()?.keys.iter().filter(|record| signs(&record.key_id));
    let read = |hex: &str| <[u8; 32]>::try_from(hex::decode(hex).ok()?).ok();
    Some(records.filter_map(|record| Some((record.key_id.clone(), read(&record.spki_sha256)?))).collect())
}

pub(super) fn judge(facts: &BundleFacts, now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(why) = &facts.damaged {
        found.push(fault(CHECK, why.clone(), "hardroot-server datastore restore, from a backup"));
    }
    match &facts.authorities {
        Some(authorities) => found.extend(judge_validity(authorities, now)),
        None if facts.began && facts.damaged.is_none() => found.push(fault(
            CHECK,
            "the trust domain has no bundle, though this server has made keys",
            "the database is another one, or older than the keys: compare with the configuration, or restore it",
        )),
        None => {}
    }
    if facts.authorities.is_some() {
        found.extend(facts.keys.iter().flat_map(|keys| judge_keys(keys)));
    }
    found
}

fn judge_validity(authorities: &[AuthorityFacts], now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    let future = authorities.iter().filter(|authority| authority.not_before > now).count();
    let valid = authorities.iter().filter(|a| a.not_before <= now && a.not_after > now).count();
    if future > 0 {
        found.push(fault(
            CHECK,
            format!("{future} of the bundle's authorities are not valid yet"),
            "the clock of this machine, or of the one that made them, is wrong",
        ));
    }
    let newest = authorities.iter().filter(|a| a.not_before <= now).max_by_key(|a| a.not_after);
    let Some(newest) = newest else {
        let advice = "the server signs nothing then; its log says why";
        found.push(fault(CHECK, "the bundle holds no authority that has begun", advice));
        return found;
    };
    let Ok(left) = newest.not_after.duration_since(now) else {
        found.push(fault(
            CHECK,
            format!("the newest authority, {}, has expired", newest.id),
            "its successor could not be made: look at the token and at the log, or start the server",
        ));
        return found;
    };
    let life = newest.not_after.duration_since(newest.not_before).unwrap_or_default();
    let text = format!(
        "{valid} valid X.509 {}; the newest, {}, for {} more",
        if valid == 1 { "authority" } else { "authorities" },
        newest.id,
        hardroot_runtime::duration::format(Duration::from_secs(left.as_secs()))
    );
    // A successor is published at half of the life, or thirty days before its end.
    found.push(if left < life / 6 {
        warning(CHECK, text, "a successor should be there by now: look at the log, or start the server")
    } else {
        fine(CHECK, text)
    });
    found
}

fn judge_keys(keys: &[SigningKey]) -> Vec<Finding> {
    let of = |kind: &'static str| keys.iter().filter(move |key| key.id.starts_with(kind));
    let mut found = Vec::new();
    for (kind, name) in [(X509_CA_KEYS, "X.509"), (JWT_KEYS, "JWT")] {
        if of(kind).next().is_some() && !of(kind).any(|key| key.published) {
            found.push(fault(
                CHECK,
                format!("none of this server's {name} keys is an authority of the stored bundle"),
                "token and database do not belong together: compare both with the configuration, or restore the database; \
                 started so, the server publishes and uses new authorities",
            ));
            continue;
        }
        for key in of(kind) {
            found.push(if key.published {
                fine(CHECK, format!("the stored bundle holds the authority of key {}", key.id))
            } else {
                // Prepared keys are published when they are made, so this one is old.
                fine(CHECK, format!("key {} is no authority any more; the next rotation replaces it", key.id))
            });
        }
    }
    if keys.is_empty() {
        found.push(warning(
            CHECK,
            "this server has no key that signs, though the trust domain has a bundle",
            "right for a new server beside others; else it is the wrong token, or the wrong `instance` on it",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, at, judged, says};
    use super::*;
    use hardroot_runtime::doctor::Level;

    fn authority(from: u64, to: u64) -> AuthorityFacts {
        AuthorityFacts { id: "a1".to_owned(), not_before: at(from), not_after: at(to) }
    }

    fn key(id: &str, published: bool) -> SigningKey {
        SigningKey { id: id.to_owned(), published }
    }

    fn good() -> BundleFacts {
        BundleFacts {
            authorities: Some(vec![authority(NOW - 100, NOW + 900)]),
            damaged: None,
            keys: Some(vec![key("x509-CA-A", true), key("JWT-Signer-A", true)]),
            began: true,
        }
    }

    #[test]
    fn validity() {
        let of = |authorities| judge(&BundleFacts { authorities: Some(authorities), ..good() }, at(NOW));
        judged(&of(vec![authority(NOW - 100, NOW + 900)]), Level::Fine);
        judged(&of(vec![authority(NOW - 900, NOW + 100)]), Level::Warning);
        judged(&of(vec![authority(NOW - 900, NOW - 100)]), Level::Fault);
        judged(&of(vec![authority(NOW + 600, NOW + 900), authority(NOW - 100, NOW + 900)]), Level::Fault);
        judged(&of(Vec::new()), Level::Fault);
    }

    #[test]
    fn keys_and_bundle_belong_together() {
        let of = |keys| judge(&BundleFacts { keys: Some(keys), ..good() }, at(NOW));
        let rotated = of(vec![key("x509-CA-A", false), key("x509-CA-B", true)]);
        judged(&rotated, Level::Fine);
        says(&rotated, "x509-CA-A is no authority any more");
        for keys in [
            vec![key("x509-CA-A", false), key("x509-CA-B", false)],
            vec![key("x509-CA-A", true), key("JWT-Signer-A", false)],
        ] {
            judged(&of(keys), Level::Fault);
        }
        judged(&of(Vec::new()), Level::Warning);
        judged(&judge(&BundleFacts { authorities: None, ..good() }, at(NOW)), Level::Fault);
        judged(&judge(&BundleFacts { damaged: Some("damaged".to_owned()), ..good() }, at(NOW)), Level::Fault);
        assert!(judge(&BundleFacts { authorities: None, began: false, ..good() }, at(NOW)).is_empty());
    }
}
