//! The database.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use hardroot_api::spire::common;
use hardroot_runtime::doctor::clock::PeerClock;
use hardroot_runtime::doctor::{Finding, fault, fine, warning};

use crate::attest::chain;
use crate::authority::published;
use crate::config::ServerConfig;
use crate::datastore::{
    APPLICATION_ID, Administration, Bundles as _, KeyRecord, KeyRecords as _, KeyState, Lease, Place,
    SCHEMA_VERSION, StoreError,
};
use crate::instance::known_instance_id;

const CHECK: &str = "database";

/// The database, and what it says of this server.
#[derive(Debug, Clone)]
pub(super) struct DatabaseFacts {
    pub(super) place: String,
    pub(super) opened: Result<Opened, String>,
    /// The clock of a database server.
    pub(super) clock: Option<PeerClock>,
    /// What is stored of this server; `None` when that could not be read.
    pub(super) stored: Option<Stored>,
    pub(super) lease: Option<LeaseSeen>,
}

/// What an open database says.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) schema: i64,
    pub(super) known_schema: i64,
    pub(super) bytes: i64,
    pub(super) writable: bool,
}

/// What is stored of this server.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The trust domain's bundle, if there is one that can be read.
    pub(super) bundle: Result<Option<common::Bundle>, String>,
    /// Keys that this instance made and has.
    pub(super) keys: Vec<KeyRecord>,
}

/// The lease of this data directory's instance, as the database has it.
#[derive(Debug, Clone)]
pub(super) struct LeaseSeen {
    pub(super) instance: String,
    pub(super) held: Option<Lease>,
}

pub(super) async fn gather(config: &ServerConfig) -> DatabaseFacts {
    let place = config.database.place.to_string();
    let mut facts =
        DatabaseFacts { place, opened: Err(String::new()), clock: None, stored: None, lease: None };
    if let Place::File(path) = &config.database.place {
        facts.opened = header(path).map_err(|error| error.to_string());
        let readable = facts.opened.as_ref().is_ok_and(|opened| opened.schema == opened.known_schema);
        // Opening it makes files beside it, which would belong to whoever runs the doctor.
        if readable
            && is_ours(path)
            && let Err(error) = ask(config, &mut facts).await
        {
            facts.opened = Err(chain(&error));
        }
    } else if let Err(error) = ask(config, &mut facts).await {
        facts.opened = Err(chain(&error));
    }
    facts
}

/// Whether files that SQLite makes beside this one belong to its owner: it gives them to him when root makes them.
fn is_ours(path: &Path) -> bool {
    let us = nix::unistd::geteuid();
    us.is_root() || std::fs::metadata(path).is_ok_and(|data| data.uid() == us.as_raw())
}

/// Asks the database.
async fn ask(config: &ServerConfig, facts: &mut DatabaseFacts) -> Result<(), StoreError> {
    let database = Administration::open(&config.database, false).await?;
    let asked = ask_open(&database, config, facts).await;
    database.close().await;
    asked
}

async fn ask_open(
    database: &Administration,
    config: &ServerConfig,
    facts: &mut DatabaseFacts,
) -> Result<(), StoreError> {
    let status = database.status().await?;
    // A database server says so when it does not let us write.
    let writable = facts.opened.as_ref().map_or(true, |opened| opened.writable);
    let asked = SystemTime::now();
    if let Some(showed) = database.clock().await? {
        facts.clock = Some(PeerClock { asked, showed, answered: SystemTime::now() });
    }
    facts.opened = Ok(Opened {
        schema: status.schema,
        known_schema: status.known_schema,
        bytes: status.bytes,
        writable,
    });
    if status.schema != status.known_schema {
        return Ok(());
    }
    let store = database.store();
    let bundle = match store.bundle(&config.trust_domain).await? {
        None => Ok(None),
        Some((data, _)) => {
            published::decode(&config.trust_domain, &data).map(Some).map_err(|error| chain(&error))
        }
    };
    let instance = known_instance_id(&config.data_dir).ok().flatten();
    let mut keys = Vec::new();
    if let Some(instance) = instance {
        keys = store.key_records(&instance).await?;
        keys.retain(|key| key.state == KeyState::Present);
        facts.lease = Some(LeaseSeen { held: store.lease(&instance).await?, instance });
    }
    facts.stored = Some(Stored { bundle, keys });
    Ok(())
}

/// The header in the newest copy of the first page that the write-ahead log holds (fileformat2.html 4.1, 4.2).
fn first_page_in_log(path: &Path) -> Option<[u8; 100]> {
    const MOST: u64 = 64 << 20;
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let mut log = Vec::new();
    let mut file = std::io::Read::take(std::fs::File::open(name).ok()?, MOST);
    std::io::Read::read_to_end(&mut file, &mut log).ok()?;
    let number = |bytes: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    let page = usize::try_from(number(&log, 8)?).ok().filter(|page| (512..=65_536).contains(page))?;
    let salts = log.get(16..24)?;
    // Frames of an earlier use of the log have other salts and end it.
    let frames = log.get(32..)?.chunks_exact(24 + page).take_while(|frame| frame.get(8..16) == Some(salts));
    let first = frames.filter(|frame| number(frame, 0) == Some(1)).last()?;
    first.get(24..124)?.try_into().ok()
}

/// Reads the header of a SQLite file (sqlite.org/fileformat2.html 1.3), not the database: opening that would make files
/// beside it that belong to whoever runs the doctor.
fn header(path: &Path) -> std::io::Result<Opened> {
    use nix::unistd::{AccessFlags, access};
    let bad = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
    let mut bytes = [0; 100];
    let mut file = std::fs::File::open(path)?;
    std::io::Read::read_exact(&mut file, &mut bytes)?;
    // What a running server committed last may be in the log beside the file, the first page too.
    if let Some(newer) = first_page_in_log(path) {
        bytes = newer;
    }
    if !bytes.starts_with(b"SQLite format 3\0") {
        return Err(bad("this is no SQLite database"));
    }
    let number = |at: usize| {
        let four: Option<[u8; 4]> = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        i64::from(four.map_or(0, u32::from_be_bytes))
    };
    if number(68) != APPLICATION_ID {
        return Err(bad("this is another program's database"));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let may = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    Ok(Opened {
        schema: number(60),
        known_schema: SCHEMA_VERSION,
        bytes: i64::try_from(file.metadata()?.len()).unwrap_or(i64::MAX),
        writable: may(path) && may(directory),
    })
}

pub(super) fn judge(facts: &DatabaseFacts) -> Vec<Finding> {
    let place = &facts.place;
    let opened = match &facts.opened {
        Err(why) => {
            let text = format!("{place}: {why}");
            return vec![fault(CHECK, text, "the server cannot start without its database")];
        }
        Ok(opened) => opened,
    };
    let (schema, known) = (opened.schema, opened.known_schema);
    let mut found = vec![if schema > known {
        fault(
            CHECK,
            format!("{place} has schema {schema}, this program knows {known}"),
            "run the newer hardroot-server, or restore the backup from before the update",
        )
    } else if !opened.writable {
        fault(
            CHECK,
            format!("{place} cannot be written"),
            "give the server's user the right to write it and its directory",
        )
    } else if schema < known {
        warning(
            CHECK,
            format!("{place} has schema {schema}, the server will bring it to {known}"),
            "make a backup before the next start",
        )
    } else {
        fine(CHECK, format!("{place}: schema {schema}, {} KiB", opened.bytes / 1024))
    }];
    if facts.stored.is_none() && schema == known {
        found.push(warning(
            CHECK,
            "what it holds was not looked at: the file belongs to another user",
            "run doctor as the server's user, or as root",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::judged;
    use super::*;
    use hardroot_runtime::doctor::Level;

    #[test]
    fn each_thing_can_be_wrong() {
        let opened = Opened { schema: 2, known_schema: 2, bytes: 4096, writable: true };
        let stored = Some(Stored { bundle: Ok(None), keys: Vec::new() });
        let of = |opened: Result<Opened, String>, stored| {
            let place = "/d/x".to_owned();
            judge(&DatabaseFacts { place, opened, clock: None, stored, lease: None })
        };
        judged(&of(Ok(opened.clone()), stored.clone()), Level::Fine);
        judged(&of(Ok(Opened { schema: 1, ..opened.clone() }), None), Level::Warning);
        judged(&of(Ok(opened.clone()), None), Level::Warning);
        judged(&of(Ok(Opened { schema: 3, ..opened.clone() }), None), Level::Fault);
        judged(&of(Ok(Opened { writable: false, ..opened }), stored), Level::Fault);
        judged(&of(Err("away".to_owned()), None), Level::Fault);
    }
}
