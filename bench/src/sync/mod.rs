//! How agents hear of their entries. Each protocol is one implementation of [`EntrySync`].

mod follow;
mod get;
mod poll;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use hardroot_api::spire::api::types::EntryMask;
use tonic::transport::Channel;

use crate::error::CallError;
use crate::target::Target;

/// What agents ask for of each entry: what SPIRE's agents do.
const MASK: EntryMask = EntryMask {
    spiffe_id: true,
    parent_id: false,
    selectors: true,
    x509_svid_ttl: false,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: false,
    dns_names: false,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: false,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// The entries an agent has heard of: of each only what tells whether it is current.
#[derive(Debug, Default)]
pub struct Known {
    /// Revision and time of creation, by entry ID.
    pub entries: HashMap<String, (i64, i64)>,
    /// What a server that pushes goes on from; empty if nothing was pushed.
    pub token: Vec<u8>,
    /// Versions of the bundles that were pushed, by trust domain.
    pub bundles: HashMap<String, Vec<u8>>,
}

/// An agent's connection to its server.
#[derive(Debug, Clone)]
pub struct Connection {
    /// For calls.
    pub channel: Channel,
    /// Another one for every connection of an agent: streams end with theirs.
    pub number: u64,
}

impl Known {
    /// The IDs, sorted.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.entries.keys().cloned().collect();
        ids.sort();
        ids
    }
}

/// When a protocol wants its next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The agent asks at its interval.
    Polled,
    /// The server speaks when there is news: a round waits for it, as long as it takes.
    Pushed,
}

/// One agent's side of a protocol.
#[async_trait::async_trait]
pub trait EntrySync: Send + Sync {
    /// When it wants its next round.
    fn pace(&self) -> Pace;

    /// Brings `known` up to date over `connection`; a pushed protocol returns at the next news, its call may be dropped while
    /// it waits, and the next one goes on where it was.
    ///
    /// # Errors
    /// The server refuses, is away, or breaks the protocol.
    async fn round(
        &mut self,
        target: &Target,
        connection: Connection,
        known: &mut Known,
    ) -> Result<(), CallError>;
}

/// The protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// `SyncAuthorizedEntries`: revisions first, then what differs. SPIRE's agents since 1.11.
    #[default]
    Sync,
    /// `GetAuthorizedEntries`: everything each time. SPIRE's agents before.
    Get,
    /// `hardroot.server.sync.v1`: the server pushes what changes. Hardroot's agents with Hardroot's servers.
    Push,
}

impl Protocol {
    /// A new agent's side of it.
    #[must_use]
    pub fn start(self) -> Box<dyn EntrySync> {
        match self {
            Self::Sync => Box::new(poll::SyncAuthorizedEntries),
            Self::Get => Box::new(get::GetAuthorizedEntries),
            Self::Push => Box::new(follow::Follow::default()),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sync" => Ok(Self::Sync),
            "get" => Ok(Self::Get),
            "push" => Ok(Self::Push),
            _ => {
                Err("the protocol is `sync` (SyncAuthorizedEntries), `get` (GetAuthorizedEntries) or `push` \
                      (hardroot.server.sync.v1)"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "sync",
            Self::Get => "get",
            Self::Push => "push",
        })
    }
}
