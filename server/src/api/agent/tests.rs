//! The administrative part of the Agent service.

use tonic::Code;
use wire::agent_server::Agent as _;

use super::*;
use crate::api::testing::{NOW, Site, at, from_agent, id, wire_id, wire_selectors};
use crate::datastore::{Entries, EntryFilter, JoinTokens, Nodes, Page, Redeemed};

const A: &str = "/spire/agent/tpm_quote/a";

async fn get(service: &AgentService, path: &str) -> Result<types::Agent, Status> {
    let request = wire::GetAgentRequest { id: wire_id(path), output_mask: None };
    service.get_agent(Request::new(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn agents_are_shown_banned_and_evicted() {
    let site = Site::new().await;
    let service = site.agent_service();
    site.node(A, "tpm_quote", "123", &["tpm_quote:vendor:x"]).await;
    let agent = get(&service, A).await.unwrap();
    assert_eq!(agent.id, wire_id(A));
    assert_eq!(agent.attestation_type, "tpm_quote");
    assert_eq!(agent.x509svid_serial_number, "123");
    assert_eq!(agent.x509svid_expires_at, i64::try_from(NOW + 3600).unwrap());
    assert_eq!(agent.selectors, wire_selectors(&["tpm_quote:vendor:x"]));
    assert!(agent.can_reattest && !agent.banned);
    let ban = || Request::new(wire::BanAgentRequest { id: wire_id(A) });
    service.ban_agent(ban()).await.unwrap();
    let agent = get(&service, A).await.unwrap();
    assert!(agent.banned && agent.x509svid_serial_number.is_empty());
    service.delete_agent(Request::new(wire::DeleteAgentRequest { id: wire_id(A) })).await.unwrap();
    for error in [
        get(&service, A).await.unwrap_err(),
        service.ban_agent(ban()).await.unwrap_err(),
        service.delete_agent(Request::new(wire::DeleteAgentRequest { id: wire_id(A) })).await.unwrap_err(),
    ] {
        assert_eq!((error.code(), error.message()), (Code::NotFound, "agent not found"));
    }
}

#[tokio::test]
async fn an_id_that_is_no_agents_is_refused() {
    let site = Site::new().await;
    let service = site.agent_service();
    let error = get(&service, "/workload").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(
        error.message(),
        "invalid agent ID: \"spiffe://example.org/workload\" is not an agent in trust domain \"example.org\"; path is not in the agent namespace"
    );
    let no_path = get(&service, "").await.unwrap_err();
    assert_eq!(
        no_path.message(),
        "invalid agent ID: \"spiffe://example.org\" is not an agent in trust domain \"example.org\"; path is empty"
    );
    let missing = service.get_agent(Request::new(wire::GetAgentRequest::default())).await.unwrap_err();
    assert_eq!(missing.message(), "invalid agent ID: request must specify SPIFFE ID");
}

#[tokio::test]
async fn lists_counts_filters_and_masks() {
    let site = Site::new().await;
    let service = site.agent_service();
    site.node(A, "tpm_quote", "1", &["tpm_quote:vendor:x"]).await;
    site.node("/spire/agent/join_token/t", "join_token", "2", &[]).await;
    site.node("/spire/agent/x509pop/c", "x509pop", "3", &["x509pop:cn:c"]).await;
    site.store.ban_node(&id("/spire/agent/x509pop/c")).await.unwrap();
    let count = async |filter: wire::count_agents_request::Filter| {
        let request = wire::CountAgentsRequest { filter: Some(filter) };
        service.count_agents(Request::new(request)).await.map(|answer| answer.into_inner().count)
    };
    let all = wire::count_agents_request::Filter::default();
    assert_eq!(count(all.clone()).await.unwrap(), 3);
    let banned = wire::count_agents_request::Filter { by_banned: Some(true), ..all.clone() };
    assert_eq!(count(banned).await.unwrap(), 1);
    let kind = wire::count_agents_request::Filter { by_attestation_type: "join_token".into(), ..all.clone() };
    assert_eq!(count(kind).await.unwrap(), 1);
    let can = wire::count_agents_request::Filter { by_can_reattest: Some(true), ..all.clone() };
    assert_eq!(count(can).await.unwrap(), 2);
    let before = |time: &str| wire::count_agents_request::Filter {
        by_expires_before: time.into(),
        ..wire::count_agents_request::Filter::default()
    };
    assert_eq!(count(before("2023-11-14 23:13:20 +0000 +00")).await.unwrap(), 0, "not before that second");
    assert_eq!(count(before("2023-11-15 00:13:21 +0100 +01")).await.unwrap(), 3);
    assert_eq!(count(before("yesterday")).await.unwrap_err().code(), Code::InvalidArgument);
    let first = wire::ListAgentsRequest { page_size: 2, ..wire::ListAgentsRequest::default() };
    let first = service.list_agents(Request::new(first)).await.unwrap().into_inner();
    let rest = wire::ListAgentsRequest {
        page_size: 2,
        page_token: first.next_page_token,
        output_mask: Some(types::AgentMask { banned: true, ..types::AgentMask::default() }),
        filter: None,
    };
    let rest = service.list_agents(Request::new(rest)).await.unwrap().into_inner();
    assert_eq!((first.agents.len(), rest.agents.len(), rest.next_page_token.as_str()), (2, 1, ""));
    assert!(rest.agents[0].banned && rest.agents[0].attestation_type.is_empty());
}

#[test]
fn times_are_read_as_spire_writes_them() {
    assert_eq!(parse_expires_before("1970-01-01 00:00:07 +0000 +00").unwrap(), at(7));
    assert_eq!(parse_expires_before("1970-01-01 02:00:00 +0200 +02").unwrap(), at(0));
    for bad in [
        "",
        "1970-01-01",
        "1970-01-01 00:00:07",
        "1970-01-01 00:00:07 +0000",
        "1970-01-01 00:00:07 +0000 +01",
        "1969-12-31 00:00:00 +0000 +00",
        "1970-13-01 00:00:07 +0000 +00",
        "1970-01-01T00:00:07 +0000 +00",
    ] {
        assert!(parse_expires_before(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_join_token_is_made_with_its_entry() {
    let site = Site::new().await;
    let service = site.agent_service();
    let make = async |ttl, token: &str, path: Option<&str>| {
        let agent_id = path.and_then(wire_id);
        let request = wire::CreateJoinTokenRequest { ttl, token: token.into(), agent_id };
        service.create_join_token(Request::new(request)).await.map(Response::into_inner)
    };
    let token = make(60, "", None).await.unwrap();
    assert_eq!(token.expires_at, i64::try_from(NOW + 60).unwrap());
    assert_eq!(token.value.len(), 36);
    assert_eq!(site.store.redeem_join_token(&token.value, "k", at(NOW)).await.unwrap(), Redeemed::First);
    let token = make(60, "mine", Some("/rack-4")).await.unwrap();
    assert_eq!(token.value, "mine");
    let (entries, _) = site.store.list_entries(&EntryFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].spiffe_id, id("/rack-4"));
    assert_eq!(entries[0].parent_id, id("/spire/agent/join_token/mine"));
    assert_eq!(
        entries[0].selectors,
        ["spiffe_id:spiffe://example.org/spire/agent/join_token/mine".parse().unwrap()]
    );
    let twice = make(60, "mine", Some("/rack-5")).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    assert!(!twice.message().contains("mine"), "the token is a secret: {}", twice.message());
    assert_eq!(
        site.store.count_entries(&EntryFilter::default()).await.unwrap(),
        1,
        "and no entry without it"
    );
    for (ttl, token, path, text) in [
        (0, "", None, "ttl is required, you must provide one"),
        (-5, "", None, "ttl is required, you must provide one"),
        (1, "a/b", None, "invalid token: letters, numbers, dots, dashes, and underscores are allowed"),
        (1, "..", None, "invalid token: letters, numbers, dots, dashes, and underscores are allowed"),
        (
            1,
            "",
            Some("/spire/agent/x"),
            "invalid agent ID: \"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
    ] {
        let error = make(ttl, token, path).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::InvalidArgument, text));
    }
}

#[tokio::test]
async fn an_agent_tells_its_version() {
    let site = Site::new().await;
    let service = site.agent_service();
    site.node(A, "tpm_quote", "1", &[]).await;
    let post = async |path: &str, version: &str| {
        let request = wire::PostStatusRequest { current_bundle_serial: 1, agent_version: version.into() };
        service.post_status(from_agent(path, request)).await
    };
    post(A, "1.2.3").await.unwrap();
    post(A, "").await.unwrap();
    assert_eq!(get(&service, A).await.unwrap().agent_version, "1.2.3");
    let long = post(A, &"x".repeat(256)).await.unwrap_err();
    assert_eq!(long.message(), "agent version is too long (max 255 characters)");
    let gone = post("/spire/agent/tpm_quote/none", "1").await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "agent not found"));
    let nobody = service.post_status(Request::new(wire::PostStatusRequest::default())).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Internal);
}

#[tokio::test]
async fn calls_are_recorded_under_spires_names() {
    let site = Site::new().await;
    let service = site.agent_service();
    site.node(A, "tpm_quote", "123", &["tpm_quote:vendor:x"]).await;
    let record = Record::new("/spire.api.server.agent.v1.Agent/X");
    fn recorded<T>(record: &Record, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(record.clone());
        request
    }
    let filter = wire::list_agents_request::Filter {
        by_attestation_type: "tpm_quote".into(),
        by_banned: Some(false),
        by_can_reattest: Some(true),
        by_selector_match: Some(types::SelectorMatch {
            selectors: wire_selectors(&["tpm_quote:vendor:x", "tpm_quote:a:b"]),
            r#match: 3,
        }),
        ..Default::default()
    };
    let list = wire::ListAgentsRequest { filter: Some(filter), ..Default::default() };
    service.list_agents(recorded(&record, list)).await.unwrap();
    let id = wire_id(A);
    service.get_agent(recorded(&record, wire::GetAgentRequest { id, output_mask: None })).await.unwrap();
    let token = wire::CreateJoinTokenRequest { ttl: 60, ..Default::default() };
    service.create_join_token(recorded(&record, token)).await.unwrap();
    site.audit().done(&record);
    let line = site.audit_lines().remove(0);
    let expected: [(&str, serde_json::Value); 7] = [
        ("node_attestor_type", "tpm_quote".into()),
        ("by_banned", false.into()),
        ("by_can_reattest", true.into()),
        ("by_selector_match", "MATCH_ANY".into()),
        ("by_selectors", "tpm_quote:vendor:x,tpm_quote:a:b".into()),
        ("spiffe_id", format!("spiffe://example.org{A}").into()),
        ("ttl", 60.into()),
    ];
    for (name, value) in expected {
        assert_eq!(line[name], value, "{name}");
    }
}
