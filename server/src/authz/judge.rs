//! Judging one call: who makes it, and whether the table lets them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::permission_denied;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_runtime::clock::Clock;
use hardroot_transport::{BundleSource, LocalPeer, PeerInfo, TrustError, recheck};
use tonic::Status;
use tracing::{debug, error, warn};

use super::caller::Caller;
use super::rules::{Rule, rule};
use crate::datastore::{Node, Nodes, StoreError};
use crate::entries::{AuthorizedEntries, EntriesError, POLL};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A process on the admin socket.
    Local(Arc<LocalPeer>),
    /// A client on the TLS port.
    Remote(Arc<PeerInfo>),
}

/// Decides about every call, anew each time: a certificate that was good when the connection opened may have
/// expired, its agent may have been banned, its authority may have left the bundle.
pub struct Authorizer {
    trust_domain: TrustDomain,
    admin_ids: BTreeSet<SpiffeId>,
    store: Arc<dyn Nodes>,
    entries: Arc<AuthorizedEntries>,
    bundles: Arc<dyn BundleSource>,
    clock: Arc<dyn Clock>,
    node_staleness: Duration,
}

impl Authorizer {
    /// An authoriser for the server of `trust_domain`. An agent whose row `entries` knows is judged from memory; whom
    /// memory does not let in, the datastore decides about.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        admin_ids: BTreeSet<SpiffeId>,
        store: Arc<dyn Nodes>,
        entries: Arc<AuthorizedEntries>,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { trust_domain, admin_ids, store, entries, bundles, clock, node_staleness: Duration::ZERO }
    }

    /// What memory says of an agent lets its current SVID in while it is not older than this
    /// (SPIRE's `max_attested_node_info_staleness`), or than memory always may be. What it does not let in is looked up.
    #[must_use]
    pub fn with_node_staleness(mut self, bound: Duration) -> Self {
        self.node_staleness = bound;
        self
    }

    /// Whether `admin_ids` names this ID.
    #[must_use]
    pub fn lists(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id)
    }

    /// Who the caller of `path` is, if they may call it.
    ///
    /// # Errors
    /// `Unimplemented` for a method that is not in the table, `PermissionDenied` (for agents with a reason
    /// they act on), `Unauthenticated` for a certificate that is trusted no more, `Unavailable` when the
    /// datastore is away and memory does not tell, `Internal` when it fails otherwise.
    pub async fn authorize(&self, path: &str, peer: &Peer) -> Result<(Caller, Rule), Status> {
        let Some(rule) = rule(path) else {
            return Err(Status::unimplemented(format!(
                "this server has no method {}",
                path.escape_default()
            )));
        };
        let caller = match peer {
            Peer::Local(local) => Self::local(path, rule, local)?,
            Peer::Remote(remote) => self.remote(path, rule, remote).await?,
        };
        Ok((caller, rule))
    }

    fn local(path: &str, rule: Rule, peer: &LocalPeer) -> Result<Caller, Status> {
        let caller = Caller::Local { uid: peer.uid, gid: peer.gid, pid: peer.pid };
        if rule.any || rule.local { Ok(caller) } else { Err(denied(path)) }
    }

    async fn remote(&self, path: &str, rule: Rule, peer: &PeerInfo) -> Result<Caller, Status> {
        let addr = peer.addr;
        let Some(id) = peer.id.clone() else {
            return if rule.any { Ok(Caller::Anonymous { addr }) } else { Err(denied(path)) };
        };
        let listed = self.admin_ids.contains(&id);
        if !listed && !id.is_member_of(&self.trust_domain) {
            // A federated workload has no business here unless the operator named it.
            return Err(denied(path));
        }
        if rule.any {
            return Ok(Caller::Anonymous { addr });
        }
        let trust = recheck(peer, &*self.bundles, self.clock.now());
        if rule.admin || rule.downstream {
            // Only a trusted certificate can make somebody an admin.
            let trusted = trust.is_ok();
            if trusted && rule.admin && listed {
                return Ok(Caller::Admin { id, addr });
            }
            if trusted && id.is_member_of(&self.trust_domain) {
                let (admin, downstream) = self.entry_flags(&id).await?;
                if rule.admin && admin {
                    return Ok(Caller::Admin { id, addr });
                }
                if rule.downstream && downstream {
                    return Ok(Caller::Downstream { id, addr });
                }
            }
        }
        if rule.agent {
            self.agent(&id, peer, trust).await?;
            return Ok(Caller::Agent { id, addr });
        }
        match trust {
            Err(error) => Err(distrusted(&id, &error)),
            Ok(()) => Err(denied(path)),
        }
    }

    /// Whether any entry gives this ID the admin or downstream flag; parents and selectors do not matter.
    async fn entry_flags(&self, id: &SpiffeId) -> Result<(bool, bool), Status> {
        self.entries.current().await.map_err(|error| {
            let EntriesError::Stale { cause, .. } = &error;
            store_failed("the caller's entries could not be read", cause)
        })?;
        Ok(self.entries.rights(id, super::unix_seconds(self.clock.now())))
    }

    /// An agent's certificate must be trusted and unexpired, its node attested and not banned, and its serial
    /// the current one or the one that was issued last; using that one makes it the current one.
    async fn agent(
        &self,
        id: &SpiffeId,
        peer: &PeerInfo,
        trust: Result<(), TrustError>,
    ) -> Result<(), Status> {
        let now = self.clock.now();
        if peer.leaf_not_after.is_none_or(|end| end <= now) {
            return Err(permission_denied(Reason::AgentExpired, format!("agent {id} SVID is expired")));
        }
        trust.map_err(|error| distrusted(id, &error))?;
        self.standing(id, peer.leaf_serial.as_deref()).await
    }

    /// Whether the node may go on with this serial.
    async fn standing(&self, id: &SpiffeId, shown: Option<&str>) -> Result<(), Status> {
        let usable = self.entries.current().await.is_ok();
        let known = self.entries.serials(id).filter(|_| usable);
        let known = known.map(|(current, pending)| standing(&current, &pending, shown));
        let is_fresh = self.entries.age() <= self.node_staleness.max(POLL * 4);
        if is_fresh && matches!(known, Some(Standing::Current)) {
            return Ok(());
        }
        let node = match self.store.node(id).await {
            Ok(node) => node,
            // A pending SVID becomes the current one when the datastore is back.
            Err(StoreError::Away { .. }) if matches!(known, Some(Standing::Current | Standing::Pending)) => {
                debug!(spiffe_id = %id, "the datastore is away; the agent is judged from memory");
                return Ok(());
            }
            Err(error) => return Err(store_failed("the agent could not be looked up", &error)),
        };
        let Some(node) = node else {
            return Err(permission_denied(Reason::AgentNotAttested, format!("agent {id} is not attested")));
        };
        if node.is_banned() {
            return Err(permission_denied(Reason::AgentBanned, format!("agent {id} is banned")));
        }
        match standing_of(&node, shown) {
            Standing::Current => Ok(()),
            Standing::Pending => self
                .store
                .promote_serial(id, &node.new_serial_number)
                .await
                .map_err(|error| store_failed("the agent's new SVID could not be made current", &error)),
            Standing::Other => {
                warn!(
                    spiffe_id = %id, svid_serial_number = shown.unwrap_or("none"),
                    serial_number = %node.serial_number, "agent SVID is not active"
                );
                Err(permission_denied(
                    Reason::AgentNotActive,
                    format!("agent {id} has been given a newer SVID than the one it shows"),
                ))
            }
        }
    }
}

enum Standing {
    Current,
    Pending,
    Other,
}

fn standing_of(node: &Node, shown: Option<&str>) -> Standing {
    standing(&node.serial_number, &node.new_serial_number, shown)
}

fn standing(current: &str, pending: &str, shown: Option<&str>) -> Standing {
    match shown.filter(|serial| !serial.is_empty()) {
        Some(serial) if serial == current => Standing::Current,
        Some(serial) if serial == pending => Standing::Pending,
        _ => Standing::Other,
    }
}

fn denied(path: &str) -> Status {
    Status::permission_denied(format!("authorization denied for method {path}"))
}

fn distrusted(id: &SpiffeId, error: &TrustError) -> Status {
    warn!(spiffe_id = %id, %error, "the caller's certificate is not trusted any more");
    Status::unauthenticated("the certificate of this connection is not trusted any more; connect again")
}

fn store_failed(what: &'static str, cause: &StoreError) -> Status {
    if let StoreError::Away { .. } = cause {
        // The datastore's own log line tells since when; one line a call would tell no more.
        debug!(error = cause as &dyn std::error::Error, "{what}");
        return Status::unavailable(format!("{what}: the datastore is away; try again"));
    }
    error!(error = cause as &dyn std::error::Error, "{what}");
    Status::internal(what)
}
