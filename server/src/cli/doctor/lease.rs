//! Which process is this server instance.

use std::time::{Duration, SystemTime};

use hardroot_runtime::doctor::{Finding, fault, fine, warning};
use hardroot_runtime::state::StateError;

use super::database::LeaseSeen;
use crate::attest::chain;
use crate::config::ServerConfig;
use crate::datastore::Lease;
use crate::instance::{Holder, InstanceError, LEASE, holder, known_instance_id};

const CHECK: &str = "lease";
const COPY: &str = "stop the other one, or make this one an instance of its own: delete the file server-id from its data \
                    directory and give it a token, or an `instance` on the token, of its own";

/// The lease of this data directory's instance.
#[derive(Debug, Clone)]
pub(super) enum LeaseFacts {
    /// The data directory has no instance id: no server ever ran here.
    NoInstance,
    /// The id is there and cannot be read.
    Damaged(String),
    /// The database could not be asked.
    Unknown,
    /// Nobody holds it.
    Free(String),
    /// Somebody holds it, or held it last.
    Held(Lease, Holder),
}

pub(super) fn gather(config: &ServerConfig, seen: Option<&LeaseSeen>) -> LeaseFacts {
    match known_instance_id(&config.data_dir) {
        Ok(None) => return LeaseFacts::NoInstance,
        // Told with the modes and owners of files.
        Err(InstanceError::State(StateError::Insecure { .. })) => return LeaseFacts::Unknown,
        Err(error) => return LeaseFacts::Damaged(chain(&error)),
        Ok(Some(_)) => {}
    }
    match seen {
        None => LeaseFacts::Unknown,
        Some(LeaseSeen { instance, held: None }) => LeaseFacts::Free(instance.clone()),
        Some(LeaseSeen { held: Some(lease), .. }) => LeaseFacts::Held(lease.clone(), holder(lease)),
    }
}

/// `runs`: whether a server answers on this configuration's socket.
pub(super) fn judge(facts: &LeaseFacts, runs: bool, now: SystemTime) -> Vec<Finding> {
    let (lease, holder) = match facts {
        LeaseFacts::NoInstance => {
            return vec![fine(
                CHECK,
                "this data directory is no server instance yet; the first start makes one",
            )];
        }
        LeaseFacts::Damaged(why) => {
            return vec![fault(
                CHECK,
                why.clone(),
                "restore the file server-id from a backup, or delete it to be another instance",
            )];
        }
        LeaseFacts::Unknown => return Vec::new(),
        LeaseFacts::Free(instance) if runs => {
            let text = format!("a server runs here, but nobody holds the lease of instance {instance}");
            return vec![fault(
                CHECK,
                text,
                "it works on another database, or another data directory: compare",
            )];
        }
        LeaseFacts::Free(instance) => {
            return vec![fine(CHECK, format!("nobody holds instance {instance}"))];
        }
        LeaseFacts::Held(lease, holder) => (lease, *holder),
    };
    let instance = &lease.instance;
    let held = lease.expires_at > now;
    let renewed = lease.expires_at.checked_sub(LEASE).and_then(|at| now.duration_since(at).ok());
    let ago = text(renewed.unwrap_or_default());
    let process = format!("process {}", lease.pid);
    vec![match (holder, held) {
        (Holder::Here { running_for }, true) => fine(
            CHECK,
            format!(
                "{process} of this machine is instance {instance}, for {} now, and renewed that {ago} ago",
                text(running_for)
            ),
        ),
        (Holder::Here { .. }, false) => fault(
            CHECK,
            format!("{process} of this machine is instance {instance}, but renewed that {ago} ago"),
            "it does not reach the database, or hangs: look at its log",
        ),
        (Holder::Gone, _) => fine(
            CHECK,
            format!(
                "{process} of this machine was instance {instance} and is gone; the next start takes over at once"
            ),
        ),
        (Holder::Elsewhere, true) => fault(
            CHECK,
            format!(
                "{process} of another machine ({}) is instance {instance}, renewed {ago} ago",
                lease.machine
            ),
            COPY,
        ),
        (Holder::Elsewhere, false) if runs => warning(
            CHECK,
            format!(
                "a server runs here, but {process} of another machine was instance {instance} until {ago} ago"
            ),
            "it works on another database, or another data directory: compare",
        ),
        (Holder::Elsewhere, false) => fine(
            CHECK,
            format!(
                "{process} before the last start of this machine, or on another, was instance {instance}, {ago} ago"
            ),
        ),
    }]
}

fn text(duration: Duration) -> String {
    hardroot_runtime::duration::format(Duration::from_secs(duration.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, at, judged, says};
    use super::*;
    use hardroot_runtime::doctor::Level;

    fn lease(expires: u64) -> Lease {
        Lease {
            instance: "i1".to_owned(),
            nonce: "n".to_owned(),
            machine: "boot pid:[1]".to_owned(),
            pid: 7,
            started: 1,
            token: "t".to_owned(),
            authority_id: "a".to_owned(),
            expires_at: at(expires),
        }
    }

    #[test]
    fn each_holder_means_something() {
        let here = Holder::Here { running_for: Duration::from_secs(3600) };
        let held = |until, holder| LeaseFacts::Held(lease(until), holder);
        for (facts, runs, expected, text) in [
            (LeaseFacts::NoInstance, false, Level::Fine, "no server instance yet"),
            (LeaseFacts::Damaged("bad".to_owned()), false, Level::Fault, "bad"),
            (LeaseFacts::Free("i1".to_owned()), false, Level::Fine, "nobody holds"),
            (LeaseFacts::Free("i1".to_owned()), true, Level::Fault, "nobody holds"),
            (held(NOW + 20, here), true, Level::Fine, "for 1h0m0s now, and renewed that 10s ago"),
            (held(NOW - 60, here), true, Level::Fault, "renewed that 1m30s ago"),
            (held(NOW + 20, Holder::Gone), false, Level::Fine, "is gone"),
            (held(NOW + 20, Holder::Elsewhere), false, Level::Fault, "of another machine"),
            (held(NOW - 60, Holder::Elsewhere), true, Level::Warning, "another database"),
            (held(NOW - 60, Holder::Elsewhere), false, Level::Fine, "1m30s ago"),
        ] {
            let found = judge(&facts, runs, at(NOW));
            judged(&found, expected);
            let all: Vec<_> =
                found.iter().flat_map(|f| [Some(f.text.clone()), f.advice.clone()]).flatten().collect();
            assert!(all.iter().any(|line| line.contains(text)), "{text}: {all:?}");
        }
        assert!(judge(&LeaseFacts::Unknown, true, at(NOW)).is_empty());
        says(&judge(&held(NOW + 20, here), true, at(NOW)), "process 7");
    }
}
