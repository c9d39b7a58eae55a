//! Names of users and groups. They may come from far away (LDAP, SSSD), so looking is bounded, off the asynchronous threads, and
//! remembered for a minute; a name that cannot be had in time is left out, as one that does not exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};
use tokio::sync::Semaphore;
use tokio::time::Instant;

const REMEMBERED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(2);
const MOST: usize = 4096;
const AT_ONCE: usize = 4;

/// A user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Id {
    User(u32),
    Group(u32),
}

impl Id {
    fn look_up(self) -> Option<String> {
        match self {
            Self::User(id) => User::from_uid(Uid::from_raw(id)).ok().flatten().map(|user| user.name),
            Self::Group(id) => Group::from_gid(Gid::from_raw(id)).ok().flatten().map(|group| group.name),
        }
    }
}

#[derive(Debug)]
pub(super) struct Names {
    known: Mutex<HashMap<Id, (Instant, Option<String>)>>,
    at_once: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: Mutex::default(), at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Names {
    /// The name, if there is one and it comes in time.
    pub(super) async fn of(&self, id: Id) -> Option<String> {
        let now = Instant::now();
        if let Some((at, name)) = self.known().get(&id)
            && now.duration_since(*at) < REMEMBERED
        {
            return name.clone();
        }
        let at_once = Arc::clone(&self.at_once);
        let looked = async move {
            // The permit goes with the thread: a name service that hangs keeps it, not the caller.
            let permit = at_once.acquire_owned().await.ok()?;
            let found = tokio::task::spawn_blocking(move || (id.look_up(), permit)).await.ok()?;
            Some(found.0)
        };
        let Ok(Some(name)) = tokio::time::timeout(PATIENCE, looked).await else {
            tracing::warn!(
                subsystem_name = "workload_attestor",
                ?id,
                "the name service does not answer in time"
            );
            return None;
        };
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(id, (now, name.clone()));
        name
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Id, (Instant, Option<String>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
