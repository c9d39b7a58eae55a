//! The table of every RPC and who may call it.

/// Which kinds of caller a method is open to. Order of evaluation: anybody, admin socket, admin, downstream,
/// agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one flag per kind of caller is what the table is")]
pub struct Rule {
    /// Open to everybody, even without a client certificate.
    pub any: bool,
    /// Open to the admin socket.
    pub local: bool,
    /// Open to admins: listed in `admin_ids`, or with an entry that has `admin` set.
    pub admin: bool,
    /// Open to holders of an entry that has `downstream` set.
    pub downstream: bool,
    /// Open to attested agents.
    pub agent: bool,
    /// Its limit per client address.
    pub limit: Limit,
    /// Whether a success may change what peers' certificates are verified with.
    pub changes_bundles: bool,
    /// Whether a success hands out a certificate or a token: not without its audit line.
    pub issues: bool,
    /// Whether a success is no audit line: programs ask it again and again.
    pub polled: bool,
}

/// A limit per client address. The admin socket is never limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Limit {
    /// None.
    #[default]
    None,
    /// 1 per second: proofs of a node are costly to judge.
    Attestation,
    /// 500 per second, counted per certificate for batches.
    Signing,
    /// 500 per second.
    PushKey,
    /// 10 per second.
    PostStatus,
}

const NOBODY: Rule = Rule {
    any: false,
    local: false,
    admin: false,
    downstream: false,
    agent: false,
    limit: Limit::None,
    changes_bundles: false,
    issues: false,
    polled: false,
};
const ANY: Rule = Rule { any: true, ..NOBODY };
const LOCAL: Rule = Rule { local: true, ..NOBODY };
const ADMIN: Rule = Rule { local: true, admin: true, ..NOBODY };
const ADMIN_CHANGES_BUNDLES: Rule = Rule { changes_bundles: true, ..ADMIN };
const ADMIN_ISSUES: Rule = Rule { issues: true, ..ADMIN };
const AGENT: Rule = Rule { agent: true, ..NOBODY };
const AGENT_POLLS: Rule = Rule { polled: true, ..AGENT };
const SIGN_FOR_AGENT: Rule = Rule { limit: Limit::Signing, issues: true, ..AGENT };
const HEALTH: Rule = Rule { polled: true, ..LOCAL };

/// Every method this server knows, sorted by path, with its rule. What is not here does not exist.
pub const RULES: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", HEALTH),
    ("/grpc.health.v1.Health/List", HEALTH),
    ("/grpc.health.v1.Health/Watch", HEALTH),
    ("/hardroot.server.sync.v1.Sync/Follow", AGENT_POLLS),
    ("/hardroot.server.tpm.v1.Tpm/Enrol", ADMIN),
    ("/hardroot.server.tpm.v1.Tpm/GetEnrolment", ADMIN),
    ("/hardroot.server.tpm.v1.Tpm/ListEnrolments", ADMIN),
    ("/hardroot.server.tpm.v1.Tpm/RemoveEnrolment", ADMIN),
    ("/spire.api.server.agent.v1.Agent/AttestAgent", Rule { limit: Limit::Attestation, issues: true, ..ANY }),
    ("/spire.api.server.agent.v1.Agent/BanAgent", ADMIN),
    ("/spire.api.server.agent.v1.Agent/CountAgents", ADMIN),
    ("/spire.api.server.agent.v1.Agent/CreateJoinToken", ADMIN_ISSUES),
    ("/spire.api.server.agent.v1.Agent/DeleteAgent", ADMIN),
    ("/spire.api.server.agent.v1.Agent/GetAgent", ADMIN),
    ("/spire.api.server.agent.v1.Agent/ListAgents", ADMIN),
    ("/spire.api.server.agent.v1.Agent/PostStatus", Rule { limit: Limit::PostStatus, ..AGENT_POLLS }),
    ("/spire.api.server.agent.v1.Agent/RenewAgent", SIGN_FOR_AGENT),
    ("/spire.api.server.bundle.v1.Bundle/AppendBundle", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.bundle.v1.Bundle/CountBundles", ADMIN),
    ("/spire.api.server.bundle.v1.Bundle/GetBundle", Rule { polled: true, ..ANY }),
    ("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle", Rule { agent: true, polled: true, ..ADMIN }),
    ("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles", ADMIN),
    (
        "/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",
        Rule { downstream: true, limit: Limit::PushKey, changes_bundles: true, ..NOBODY },
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/PublishWITAuthority",
        Rule { downstream: true, limit: Limit::PushKey, changes_bundles: true, ..NOBODY },
    ),
    ("/spire.api.server.debug.v1.Debug/GetInfo", LOCAL),
    ("/spire.api.server.entry.v1.Entry/BatchCreateEntry", ADMIN),
    ("/spire.api.server.entry.v1.Entry/BatchDeleteEntry", ADMIN),
    ("/spire.api.server.entry.v1.Entry/BatchUpdateEntry", ADMIN),
    ("/spire.api.server.entry.v1.Entry/CountEntries", ADMIN),
    ("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", AGENT_POLLS),
    ("/spire.api.server.entry.v1.Entry/GetEntry", ADMIN),
    ("/spire.api.server.entry.v1.Entry/ListEntries", ADMIN),
    ("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", AGENT_POLLS),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority", ADMIN),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.logger.v1.Logger/GetLogger", LOCAL),
    ("/spire.api.server.logger.v1.Logger/ResetLogLevel", LOCAL),
    ("/spire.api.server.logger.v1.Logger/SetLogLevel", LOCAL),
    ("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", SIGN_FOR_AGENT),
    ("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", SIGN_FOR_AGENT),
    ("/spire.api.server.svid.v1.SVID/MintJWTSVID", ADMIN_ISSUES),
    ("/spire.api.server.svid.v1.SVID/MintWITSVID", ADMIN_ISSUES),
    ("/spire.api.server.svid.v1.SVID/MintX509SVID", ADMIN_ISSUES),
    (
        "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
        Rule { downstream: true, limit: Limit::Signing, issues: true, ..NOBODY },
    ),
    ("/spire.api.server.svid.v1.SVID/NewJWTSVID", SIGN_FOR_AGENT),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship", ADMIN_CHANGES_BUNDLES),
    ("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship", ADMIN),
    ("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships", ADMIN),
    ("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle", ADMIN_CHANGES_BUNDLES),
];

/// The rule of a method path, such as `/spire.api.server.bundle.v1.Bundle/GetBundle`.
#[must_use]
pub fn rule(path: &str) -> Option<Rule> {
    let at = RULES.binary_search_by(|(known, _)| (*known).cmp(path)).ok()?;
    RULES.get(at).map(|(_, rule)| *rule)
}

/// Whether this is a method of the table.
#[must_use]
pub fn is_known(path: &str) -> bool {
    rule(path).is_some()
}
