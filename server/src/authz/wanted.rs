//! For tests: who may call what, and what is served.

use std::collections::BTreeSet;

use prost::Message;

/// Who may call what: the requirement, written down a second time so that the table cannot drift.
const WANTED: &str = "
any: agent.v1.Agent/AttestAgent bundle.v1.Bundle/GetBundle
agent: agent.v1.Agent/RenewAgent agent.v1.Agent/PostStatus entry.v1.Entry/GetAuthorizedEntries
agent: entry.v1.Entry/SyncAuthorizedEntries svid.v1.SVID/BatchNewX509SVID svid.v1.SVID/NewJWTSVID
agent: svid.v1.SVID/BatchNewWITSVID
down: svid.v1.SVID/NewDownstreamX509CA bundle.v1.Bundle/PublishJWTAuthority bundle.v1.Bundle/PublishWITAuthority
local admin agent: bundle.v1.Bundle/GetFederatedBundle
local: debug.v1.Debug/GetInfo logger.v1.Logger/GetLogger logger.v1.Logger/SetLogLevel logger.v1.Logger/ResetLogLevel
local admin: agent.v1.Agent/CountAgents agent.v1.Agent/ListAgents agent.v1.Agent/GetAgent agent.v1.Agent/DeleteAgent
local admin: agent.v1.Agent/BanAgent agent.v1.Agent/CreateJoinToken
local admin: entry.v1.Entry/CountEntries entry.v1.Entry/ListEntries entry.v1.Entry/GetEntry
local admin: entry.v1.Entry/BatchCreateEntry entry.v1.Entry/BatchUpdateEntry entry.v1.Entry/BatchDeleteEntry
local admin: svid.v1.SVID/MintX509SVID svid.v1.SVID/MintJWTSVID svid.v1.SVID/MintWITSVID
local admin: bundle.v1.Bundle/CountBundles bundle.v1.Bundle/AppendBundle bundle.v1.Bundle/ListFederatedBundles
local admin: bundle.v1.Bundle/BatchCreateFederatedBundle bundle.v1.Bundle/BatchUpdateFederatedBundle
local admin: bundle.v1.Bundle/BatchSetFederatedBundle bundle.v1.Bundle/BatchDeleteFederatedBundle
local admin: trustdomain.v1.TrustDomain/ListFederationRelationships trustdomain.v1.TrustDomain/RefreshBundle
local admin: trustdomain.v1.TrustDomain/GetFederationRelationship
local admin: trustdomain.v1.TrustDomain/BatchCreateFederationRelationship
local admin: trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship
local admin: trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship
local admin: localauthority.v1.LocalAuthority/GetJWTAuthorityState localauthority.v1.LocalAuthority/PrepareJWTAuthority
local admin: localauthority.v1.LocalAuthority/ActivateJWTAuthority localauthority.v1.LocalAuthority/TaintJWTAuthority
local admin: localauthority.v1.LocalAuthority/RevokeJWTAuthority localauthority.v1.LocalAuthority/GetX509AuthorityState
local admin: localauthority.v1.LocalAuthority/PrepareX509Authority localauthority.v1.LocalAuthority/TaintX509Authority
local admin: localauthority.v1.LocalAuthority/ActivateX509Authority localauthority.v1.LocalAuthority/RevokeX509Authority
local admin: localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority
local admin: localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority
local admin: localauthority.v1.LocalAuthority/GetWITAuthorityState localauthority.v1.LocalAuthority/PrepareWITAuthority
local admin: localauthority.v1.LocalAuthority/ActivateWITAuthority localauthority.v1.LocalAuthority/TaintWITAuthority
local admin: localauthority.v1.LocalAuthority/RevokeWITAuthority
";

/// Every method and the classes of callers that may call it: `any`, `local`, `admin`, `agent`, `down`.
pub(crate) fn wanted() -> Vec<(String, BTreeSet<&'static str>)> {
    let mut all = Vec::new();
    for line in WANTED.lines().filter(|line| !line.is_empty()) {
        let (who, methods) = line.split_once(": ").unwrap();
        for method in methods.split(' ') {
            all.push((format!("/spire.api.server.{method}"), who.split(' ').collect()));
        }
    }
    for method in ["Check", "List", "Watch"] {
        all.push((format!("/grpc.health.v1.Health/{method}"), BTreeSet::from(["local"])));
    }
    for method in ["Enrol", "GetEnrolment", "ListEnrolments", "RemoveEnrolment"] {
        all.push((format!("/hardroot.server.tpm.v1.Tpm/{method}"), BTreeSet::from(["local", "admin"])));
    }
    all.push(("/hardroot.server.sync.v1.Sync/Follow".to_owned(), BTreeSet::from(["agent"])));
    all
}

/// A method as its descriptor has it.
pub(crate) struct Method {
    /// `/package.Service/Method`.
    pub(crate) path: String,
    /// Whether either side sends more than one message.
    pub(crate) streams: bool,
}

/// Every method of every service that the server's listeners may have, from the descriptors.
pub(crate) fn served() -> Vec<Method> {
    // The health library does not know this one yet; SPIRE's does.
    let list = Method { path: "/grpc.health.v1.Health/List".to_owned(), streams: false };
    let mut served = vec![list];
    for bytes in [hardroot_api::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        for file in prost_types::FileDescriptorSet::decode(bytes).unwrap().file {
            let package = file.package();
            let ours = ["spire.api.server.", "hardroot.server.", "grpc.health."];
            if !ours.iter().any(|prefix| package.starts_with(prefix)) {
                continue;
            }
            for service in &file.service {
                served.extend(service.method.iter().map(|method| Method {
                    path: format!("/{package}.{}/{}", service.name(), method.name()),
                    streams: method.client_streaming() || method.server_streaming(),
                }));
            }
        }
    }
    served
}
