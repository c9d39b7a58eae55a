//! The Entry service: codes, texts, masks, synchronisation.

use futures_util::{StreamExt, stream};
use tonic::Code;
use wire::entry_server::Entry as _;

use super::*;
use crate::api::testing::{NOW, Site, from_agent, wire_entry, wire_id, wire_selectors};
use crate::entries::{Held, Sorted};

const A: &str = "/spire/agent/tpm_quote/a";

async fn create(service: &EntryService, entry: types::Entry) -> wire::batch_create_entry_response::Result {
    let request = wire::BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let mut results = service.batch_create_entry(Request::new(request)).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

fn code_of(status: &Option<types::Status>) -> (Code, String) {
    let status = status.clone().unwrap();
    (Code::from(status.code), status.message)
}

#[tokio::test]
async fn what_is_created_can_be_read_listed_counted_and_deleted() {
    let site = Site::new().await;
    let service = site.entry_service();
    let made = create(&service, wire_entry("/db", A, &["unix:uid:1"])).await;
    assert_eq!(code_of(&made.status), (Code::Ok, "OK".into()));
    let entry = made.entry.unwrap();
    assert_eq!(entry.created_at, i64::try_from(NOW).unwrap());
    assert_eq!(entry.revision_number, 0);
    let got = service
        .get_entry(Request::new(wire::GetEntryRequest { id: entry.id.clone(), output_mask: None }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got, entry);
    let count =
        service.count_entries(Request::new(wire::CountEntriesRequest { filter: None })).await.unwrap();
    assert_eq!(count.into_inner().count, 1);
    let delete = |id: &str| wire::BatchDeleteEntryRequest { ids: vec![id.to_owned()] };
    let gone = service.batch_delete_entry(Request::new(delete(&entry.id))).await.unwrap().into_inner();
    assert_eq!(code_of(&gone.results[0].status), (Code::Ok, "OK".into()));
    let gone = service.batch_delete_entry(Request::new(delete(&entry.id))).await.unwrap().into_inner();
    assert_eq!(code_of(&gone.results[0].status), (Code::NotFound, "entry not found".into()));
    assert_eq!(gone.results[0].id, entry.id);
    let gone = service.batch_delete_entry(Request::new(delete(""))).await.unwrap().into_inner();
    assert_eq!(code_of(&gone.results[0].status), (Code::InvalidArgument, "missing entry ID".into()));
    let missing = service
        .get_entry(Request::new(wire::GetEntryRequest { id: entry.id, output_mask: None }))
        .await
        .unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "entry not found"));
}

#[tokio::test]
async fn a_similar_entry_is_told_and_given() {
    let site = Site::new().await;
    let service = site.entry_service();
    let first = create(&service, wire_entry("/db", A, &["unix:uid:1", "unix:gid:1"])).await.entry.unwrap();
    let again = create(&service, wire_entry("/db", A, &["unix:gid:1", "unix:uid:1"])).await;
    assert_eq!(code_of(&again.status), (Code::AlreadyExists, "similar entry already exists".into()));
    assert_eq!(again.entry, Some(first));
}

#[tokio::test]
async fn every_rule_has_spires_code_and_text() {
    let site = Site::new().await;
    let service = site.entry_service();
    let base = || wire_entry("/db", A, &["unix:uid:1"]);
    let foreign = Some(types::Spiffeid { trust_domain: "other.test".into(), path: "/x".into() });
    let cases: Vec<(types::Entry, Code, &str)> = vec![
        (
            types::Entry { parent_id: None, ..base() },
            Code::InvalidArgument,
            "failed to convert entry: invalid parent ID: request must specify SPIFFE ID",
        ),
        (
            types::Entry { parent_id: foreign.clone(), ..base() },
            Code::InvalidArgument,
            "failed to convert entry: invalid parent ID: \"spiffe://other.test/x\" is not a member of trust domain \"example.org\"",
        ),
        (
            types::Entry { spiffe_id: foreign, ..base() },
            Code::InvalidArgument,
            "failed to convert entry: invalid spiffe ID: \"spiffe://other.test/x\" is not a member of trust domain \"example.org\"",
        ),
        (
            types::Entry { spiffe_id: wire_id("/spire/agent/x"), ..base() },
            Code::InvalidArgument,
            "failed to convert entry: invalid spiffe ID: \"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
        (
            types::Entry { spiffe_id: wire_id(""), ..base() },
            Code::InvalidArgument,
            "failed to convert entry: invalid spiffe ID: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty",
        ),
        (
            types::Entry { spiffe_id: wire_id("no-slash"), ..base() },
            Code::InvalidArgument,
            "failed to convert entry: invalid spiffe ID: path must have a leading slash",
        ),
        (
            types::Entry { selectors: vec![], ..base() },
            Code::InvalidArgument,
            "failed to convert entry: selector list is empty",
        ),
        (
            types::Entry {
                selectors: vec![types::Selector { r#type: "a:b".into(), value: "c".into() }],
                ..base()
            },
            Code::InvalidArgument,
            "failed to convert entry: selector type contains ':'",
        ),
        (
            types::Entry {
                selectors: vec![types::Selector { r#type: "a".into(), value: String::new() }],
                ..base()
            },
            Code::InvalidArgument,
            "failed to convert entry: missing selector value",
        ),
        (
            types::Entry { federates_with: vec!["Not A Domain".into()], ..base() },
            Code::InvalidArgument,
            "failed to convert entry: invalid federated trust domain: trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores",
        ),
        (
            types::Entry { federates_with: vec!["nobody.test".into()], ..base() },
            Code::Internal,
            "failed to create entry: unable to find federated bundle \"spiffe://nobody.test\"",
        ),
        (
            types::Entry { hint: "x".repeat(1025), ..base() },
            Code::InvalidArgument,
            "failed to convert entry: hint is too long, max length is 1024 characters",
        ),
        (
            types::Entry { x509_svid_ttl: -1, ..base() },
            Code::InvalidArgument,
            "failed to create entry: datastore-validation: invalid registration entry: X509SvidTtl is not set",
        ),
        (
            types::Entry { id: "no spaces".into(), ..base() },
            Code::InvalidArgument,
            "failed to create entry: datastore-validation: invalid registration entry: entry ID contains invalid characters",
        ),
    ];
    for (entry, code, message) in cases {
        let result = create(&service, entry).await;
        assert_eq!(code_of(&result.status), (code, message.to_owned()));
        assert_eq!(result.entry, None);
    }
    for bad in ["a..b", "a.b.", "*.*.a", "a.*.b", "ä.example", "-a.b", "a b", ""] {
        let result = create(&service, types::Entry { dns_names: vec![bad.into()], ..base() }).await;
        let (code, message) = code_of(&result.status);
        assert_eq!(code, Code::InvalidArgument, "{bad}");
        assert!(message.starts_with("failed to convert entry: invalid DNS name: "), "{message}");
    }
    let overlap = vec!["*.example.org".to_owned(), "a.example.org".to_owned()];
    let result = create(&service, types::Entry { dns_names: overlap, ..base() }).await;
    assert_eq!(code_of(&result.status).0, Code::InvalidArgument);
    let twice = vec!["a.example.org".to_owned(); 2];
    let result = create(&service, types::Entry { dns_names: twice, ..base() }).await;
    let message = "failed to convert entry: a DNS name is given twice";
    assert_eq!(code_of(&result.status), (Code::InvalidArgument, message.to_owned()));
}

#[tokio::test]
async fn an_update_follows_its_masks() {
    let site = Site::new().await;
    let service = site.entry_service();
    let made = create(&service, wire_entry("/db", A, &["unix:uid:1"])).await.entry.unwrap();
    let update = |entry: types::Entry, input_mask, output_mask| wire::BatchUpdateEntryRequest {
        entries: vec![entry],
        input_mask,
        output_mask,
    };
    let hint_only = types::EntryMask { hint: true, ..types::EntryMask::default() };
    // Fields outside the mask may be missing or wrong.
    let entry = types::Entry { id: made.id.clone(), hint: "new".into(), ..types::Entry::default() };
    let request = update(entry, Some(hint_only), None);
    let results = service.batch_update_entry(Request::new(request)).await.unwrap().into_inner().results;
    assert_eq!(code_of(&results[0].status), (Code::Ok, "OK".into()));
    let updated = results[0].entry.clone().unwrap();
    assert_eq!(updated, types::Entry { hint: "new".into(), revision_number: 1, ..made.clone() });
    // Without a mask everything is replaced; the output mask hides.
    let entry = types::Entry { id: made.id.clone(), ..wire_entry("/db2", A, &["unix:uid:2"]) };
    let request = update(entry, None, Some(hint_only));
    let results = service.batch_update_entry(Request::new(request)).await.unwrap().into_inner().results;
    assert_eq!(results[0].entry, Some(types::Entry { id: made.id.clone(), ..types::Entry::default() }));
    let request = update(types::Entry { id: "none".into(), ..wire_entry("/x", A, &["a:b"]) }, None, None);
    let results = service.batch_update_entry(Request::new(request)).await.unwrap().into_inner().results;
    assert_eq!(code_of(&results[0].status), (Code::NotFound, "failed to update entry".into()));
    let request = update(types::Entry { id: made.id, ..types::Entry::default() }, None, None);
    let results = service.batch_update_entry(Request::new(request)).await.unwrap().into_inner().results;
    assert_eq!(code_of(&results[0].status).0, Code::InvalidArgument);
}

#[tokio::test]
async fn filters_and_pages() {
    let site = Site::new().await;
    let service = site.entry_service();
    for n in 0..5 {
        create(&service, wire_entry(&format!("/w{n}"), A, &["unix:uid:1", &format!("unix:gid:{n}")])).await;
    }
    let list = |filter, page_size, page_token: &str| {
        let page_token = page_token.to_owned();
        Request::new(wire::ListEntriesRequest {
            filter: Some(filter),
            output_mask: None,
            page_size,
            page_token,
        })
    };
    let all = wire::list_entries_request::Filter::default();
    let first = service.list_entries(list(all.clone(), 2, "")).await.unwrap().into_inner();
    assert_eq!(first.entries.len(), 2);
    let rest =
        service.list_entries(list(all.clone(), 10, &first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((rest.entries.len(), rest.next_page_token.as_str()), (3, ""));
    let selected = wire::list_entries_request::Filter {
        by_selectors: Some(types::SelectorMatch { selectors: wire_selectors(&["unix:gid:3"]), r#match: 2 }),
        by_hint: Some(String::new()),
        ..all.clone()
    };
    let found = service.list_entries(list(selected, 0, "")).await.unwrap().into_inner().entries;
    assert_eq!(found.len(), 1);
    for (bad, text) in [
        (
            wire::list_entries_request::Filter {
                by_selectors: Some(types::SelectorMatch { selectors: vec![], r#match: 0 }),
                ..all.clone()
            },
            "malformed selectors filter: empty selector set",
        ),
        (
            wire::list_entries_request::Filter {
                by_selectors: Some(types::SelectorMatch { selectors: wire_selectors(&["a:b"]), r#match: 9 }),
                ..all.clone()
            },
            "malformed selectors filter: unknown match behavior",
        ),
        (
            wire::list_entries_request::Filter { by_spiffe_id: wire_id("/spire/x"), ..all.clone() },
            "malformed SPIFFE ID filter: \"spiffe://example.org/spire/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
        (
            wire::list_entries_request::Filter {
                by_federates_with: Some(types::FederatesWithMatch { trust_domains: vec![], r#match: 0 }),
                ..all.clone()
            },
            "malformed federates with filter: empty trust domain set",
        ),
    ] {
        let error = service.list_entries(list(bad, 0, "")).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::InvalidArgument, text));
    }
    let error = service.list_entries(list(all, 1, "zzz")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_agent_sees_its_own_entries_and_new_ones_at_once() {
    let site = Site::new().await;
    let service = site.entry_service();
    let mine = create(&service, wire_entry("/mine", A, &["unix:uid:1"])).await.entry.unwrap();
    create(&service, wire_entry("/other", "/spire/agent/tpm_quote/b", &["unix:uid:1"])).await;
    let request = || from_agent(A, wire::GetAuthorizedEntriesRequest { output_mask: None });
    let seen = service.get_authorized_entries(request()).await.unwrap().into_inner().entries;
    assert_eq!(seen, std::slice::from_ref(&mine));
    let below = create(&service, wire_entry("/below", "/mine", &["unix:uid:2"])).await.entry.unwrap();
    let seen = service.get_authorized_entries(request()).await.unwrap().into_inner().entries;
    assert!(seen.contains(&mine) && seen.contains(&below) && seen.len() == 2);
    let mask = types::EntryMask { spiffe_id: true, ..types::EntryMask::default() };
    let masked = from_agent(A, wire::GetAuthorizedEntriesRequest { output_mask: Some(mask) });
    let seen = service.get_authorized_entries(masked).await.unwrap().into_inner().entries;
    assert!(seen.iter().all(|entry| entry.selectors.is_empty() && entry.spiffe_id.is_some()));
    let nobody = Request::new(wire::GetAuthorizedEntriesRequest { output_mask: None });
    assert_eq!(service.get_authorized_entries(nobody).await.unwrap_err().code(), Code::Internal);
}

fn stored(n: usize) -> Sorted {
    let own = TrustDomain::new("example.org").unwrap();
    let held = (0..n)
        .map(|n| {
            let message =
                types::Entry { id: format!("e{n:06}"), ..wire_entry(&format!("/w{n}"), A, &["unix:uid:1"]) };
            Held::of(&convert::entry(&own, &message, &EntryMask::ALL, 77).unwrap())
        })
        .collect();
    Arc::new(held)
}

fn ask(ids: &[&str]) -> Result<wire::SyncAuthorizedEntriesRequest, Status> {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    Ok(wire::SyncAuthorizedEntriesRequest { output_mask: None, ids })
}

async fn synchronise(
    entries: usize,
    page: usize,
    requests: Vec<Result<wire::SyncAuthorizedEntriesRequest, Status>>,
) -> Vec<Result<wire::SyncAuthorizedEntriesResponse, Status>> {
    sync::answer(stored(entries), page, stream::iter(requests)).collect().await
}

#[tokio::test]
async fn up_to_a_page_is_sent_whole() {
    for n in [0, 1, 3] {
        let answers = synchronise(n, 3, vec![ask(&[])]).await;
        assert_eq!(answers.len(), 1, "{n} entries: one answer, and the stream ends");
        let answer = answers[0].as_ref().unwrap();
        assert_eq!((answer.entries.len(), answer.entry_revisions.len(), answer.more), (n, 0, false));
    }
}

#[tokio::test]
async fn more_than_a_page_goes_by_revisions_and_what_is_asked_for() {
    let wanted = ["e000006", "unknown", "e000001", "e000001", "e000002", "e000003"];
    let answers = synchronise(7, 3, vec![ask(&[]), ask(&wanted), ask(&["nothing"]), ask(&["e000000"])]).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let shape: Vec<_> = answers.iter().map(|a| (a.entry_revisions.len(), a.entries.len(), a.more)).collect();
    assert_eq!(
        shape,
        [
            (3, 0, true),
            (3, 0, true),
            (1, 0, false),
            (0, 3, true),
            (0, 1, false),
            (0, 0, false),
            (0, 1, false)
        ]
    );
    let revision = &answers[0].entry_revisions[0];
    assert_eq!((revision.id.as_str(), revision.revision_number, revision.created_at), ("e000000", 0, 77));
    let sent: Vec<_> = answers.iter().flat_map(|a| &a.entries).map(|e| e.id.as_str()).collect();
    assert_eq!(sent, ["e000001", "e000002", "e000003", "e000006", "e000000"], "each once for each request");
}

#[tokio::test]
async fn the_first_request_has_rules() {
    let answers = synchronise(1, 3, vec![ask(&["e000000"])]).await;
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.message(), "specifying IDs on initial request is not supported");
    let mask = types::EntryMask { spiffe_id: true, ..types::EntryMask::default() };
    let masked = wire::SyncAuthorizedEntriesRequest { output_mask: Some(mask), ids: vec![] };
    let answers = synchronise(1, 3, vec![Ok(masked)]).await;
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "revision number cannot be masked"));
    assert!(synchronise(9, 3, vec![]).await.is_empty(), "an agent that says nothing gets nothing");
}

#[tokio::test]
async fn a_mask_of_the_first_request_holds_for_all() {
    let mask = types::EntryMask { revision_number: true, spiffe_id: true, ..types::EntryMask::default() };
    let first = wire::SyncAuthorizedEntriesRequest { output_mask: Some(mask), ids: vec![] };
    let all = wire::SyncAuthorizedEntriesRequest {
        output_mask: Some(types::EntryMask { selectors: true, ..types::EntryMask::default() }),
        ids: vec!["e000001".into()],
    };
    let answers = synchronise(4, 3, vec![Ok(first), Ok(all)]).await;
    let entry = &answers.last().unwrap().as_ref().unwrap().entries[0];
    assert!(entry.spiffe_id.is_some() && entry.selectors.is_empty());
}

#[tokio::test]
async fn a_cancelled_stream_ends_quietly_and_a_broken_one_is_told() {
    let answers = synchronise(9, 3, vec![ask(&[]), Err(Status::cancelled("gone"))]).await;
    assert!(answers.iter().all(Result::is_ok));
    let answers = synchronise(9, 3, vec![ask(&[]), Err(Status::data_loss("broken"))]).await;
    assert_eq!(answers.last().unwrap().as_ref().unwrap_err().code(), Code::DataLoss);
}

mod properties {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("example.org".to_owned()),
            Just("/w".to_owned()),
            Just("/spire/agent/x".to_owned()),
            "[a-z/.:*]{0,12}",
            "\\PC{0,12}",
        ]
    }

    fn some_id() -> impl Strategy<Value = Option<types::Spiffeid>> {
        proptest::option::of(
            (text(), text()).prop_map(|(trust_domain, path)| types::Spiffeid { trust_domain, path }),
        )
    }

    prop_compose! {
        fn some_entry()(
            id in text(),
            spiffe_id in prop_oneof![some_id(), Just(wire_id("/w"))],
            parent_id in prop_oneof![some_id(), Just(wire_id(A))],
            selectors in proptest::collection::vec((text(), text()), 0..3),
            federates_with in proptest::collection::vec(text(), 0..2),
            dns_names in proptest::collection::vec(text(), 0..3),
            hint in text(),
            x509_svid_ttl in any::<i32>(),
            expires_at in any::<i64>(),
        ) -> types::Entry {
            types::Entry {
                id, spiffe_id, parent_id, federates_with, dns_names, hint, x509_svid_ttl, expires_at,
                selectors: selectors
                    .into_iter()
                    .map(|(r#type, value)| types::Selector { r#type, value })
                    .collect(),
                ..types::Entry::default()
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_keeps_the_rules(message in some_entry()) {
            let own = TrustDomain::new("example.org").unwrap();
            if let Ok(entry) = convert::entry(&own, &message, &EntryMask::ALL, 7) {
                prop_assert!(entry.spiffe_id.is_member_of(&own) && !entry.spiffe_id.is_reserved());
                prop_assert!(entry.parent_id.is_member_of(&own) && !entry.parent_id.path().is_empty());
                prop_assert!(!entry.selectors.is_empty());
                // What was read is what is shown again.
                let shown = convert::entry_message(&entry, None);
                prop_assert_eq!(convert::entry(&own, &shown, &EntryMask::ALL, 7).unwrap(), entry);
            }
        }

        #[test]
        fn any_bytes_are_judged_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let own = TrustDomain::new("example.org").unwrap();
            if let Ok(message) = types::Entry::decode(bytes.as_slice()) {
                let _judged = convert::entry(&own, &message, &EntryMask::ALL, 0).is_ok();
            }
        }
    }
}

fn recorded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Record::new("/spire.api.server.entry.v1.Entry/X"));
    request
}

/// A caller who goes away in the middle of a batch leaves no entry without its audit line.
#[tokio::test]
async fn what_was_made_is_recorded_though_nobody_listens() {
    let site = Site::new().await;
    let service = site.entry_service();
    let entries: Vec<_> = (0..40).map(|n| wire_entry(&format!("/e{n}"), "/p", &["unix:uid:1"])).collect();
    let request = recorded(wire::BatchCreateEntryRequest { entries, output_mask: None });
    {
        let mut call = std::pin::pin!(service.batch_create_entry(request));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::future::Future::poll(call.as_mut(), &mut context).is_pending());
    }
    let mut lines = Vec::new();
    let all = async {
        while lines.len() < 40 {
            lines.extend(site.audit_lines());
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), all).await.unwrap();
    let made: Vec<_> = lines.iter().map(|line| line["spiffe_id"].as_str().unwrap()).collect();
    let expected: Vec<_> = (0..40).map(|n| format!("spiffe://example.org/e{n}")).collect();
    assert_eq!(made, expected, "in order");
    let all = EntryFilter::default();
    let count = crate::datastore::Entries::count_entries(site.store.as_ref(), &all).await;
    assert_eq!(count.unwrap(), 40);
}

#[tokio::test]
async fn an_entry_is_recorded_under_spires_names() {
    let site = Site::new().await;
    let service = site.entry_service();
    let entry = types::Entry {
        id: "e1".into(),
        hint: "h".into(),
        ..wire_entry("/a", "/p", &["unix:uid:1", "unix:gid:2"])
    };
    let create = wire::BatchCreateEntryRequest {
        entries: vec![entry.clone(), types::Entry::default()],
        output_mask: Some(types::EntryMask::default()),
    };
    service.batch_create_entry(recorded(create)).await.unwrap();
    let lines = site.audit_lines();
    let expected = [
        ("entry_id", "e1".into()),
        ("spiffe_id", "spiffe://example.org/a".into()),
        ("parent_id", "spiffe://example.org/p".into()),
        ("selectors", "unix:uid:1,unix:gid:2".into()),
        ("x509_svid_ttl", 0.into()),
        ("jwt_svid_ttl", 0.into()),
        ("admin", false.into()),
        ("downstream", false.into()),
        ("expires_at", 0.into()),
        ("revision_number", 0.into()),
        ("store_svid", false.into()),
        ("hint", "h".into()),
        ("created_at", 0.into()),
        ("status", "success".into()),
    ];
    for (name, value) in expected {
        let value: serde_json::Value = value;
        assert_eq!(lines[0][name], value, "{name}");
    }
    assert_eq!((&lines[1]["status_code"], lines[1].get("spiffe_id")), (&3.into(), None));

    let input_mask = Some(types::EntryMask { hint: true, ..Default::default() });
    let update = wire::BatchUpdateEntryRequest { entries: vec![entry], input_mask, output_mask: None };
    service.batch_update_entry(recorded(update)).await.unwrap();
    let line = site.audit_lines().remove(0);
    assert_eq!((&line["entry_id"], &line["hint"], line.get("admin")), (&"e1".into(), &"h".into(), None));

    let ids = vec!["e1".to_owned(), "gone".to_owned()];
    service.batch_delete_entry(recorded(wire::BatchDeleteEntryRequest { ids })).await.unwrap();
    let lines = site.audit_lines();
    let codes: Vec<_> = lines
        .iter()
        .map(|line| (line["entry_id"].as_str().unwrap(), line["status"].as_str().unwrap()))
        .collect();
    assert_eq!(codes, [("e1", "success"), ("gone", "error")]);
}

#[tokio::test]
async fn of_two_bad_filters_the_parent_is_named_as_by_spire() {
    let site = Site::new().await;
    let elsewhere = Some(types::Spiffeid { trust_domain: "other.test".into(), path: "/x".into() });
    let filter = wire::list_entries_request::Filter {
        by_spiffe_id: elsewhere.clone(),
        by_parent_id: elsewhere,
        ..Default::default()
    };
    let request = wire::ListEntriesRequest { filter: Some(filter), ..Default::default() };
    let refused = site.entry_service().list_entries(Request::new(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("malformed parent ID filter: "), "{refused}");
}

#[tokio::test]
async fn a_batch_of_100_000_is_answered_in_order_and_a_larger_one_refused_whole() {
    let site = Site::new().await;
    let service = site.entry_service();
    let ids = |count: usize| wire::BatchDeleteEntryRequest { ids: vec![String::new(); count] };
    let mut request = ids(100_000);
    request.ids[99_999] = "last".into();
    let results = service.batch_delete_entry(Request::new(request)).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 100_000);
    let code = |at: usize| results[at].status.as_ref().unwrap().code;
    assert_eq!((code(0), code(99_999)), (Code::InvalidArgument.into(), Code::NotFound.into()));
    assert_eq!(results[99_999].id, "last");
    let refused = service.batch_delete_entry(Request::new(ids(100_001))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let none = service.batch_delete_entry(Request::new(ids(0))).await.unwrap().into_inner();
    assert!(none.results.is_empty());
    let none = wire::BatchCreateEntryRequest { entries: vec![], output_mask: None };
    assert!(service.batch_create_entry(Request::new(none)).await.unwrap().into_inner().results.is_empty());
    let none = wire::BatchUpdateEntryRequest { entries: vec![], ..Default::default() };
    assert!(service.batch_update_entry(Request::new(none)).await.unwrap().into_inner().results.is_empty());
}

#[tokio::test]
async fn not_asking_for_downstream_entries_leaves_none_out() {
    let site = Site::new().await;
    let service = site.entry_service();
    let downstream = types::Entry { downstream: true, ..wire_entry("/d", "/p", &["a:b"]) };
    let entries = vec![wire_entry("/w", "/p", &["a:b"]), downstream];
    let request = wire::BatchCreateEntryRequest { entries, output_mask: None };
    service.batch_create_entry(Request::new(request)).await.unwrap();
    for (by_downstream, expected) in [(None, 2), (Some(false), 2), (Some(true), 1)] {
        let filter = wire::count_entries_request::Filter { by_downstream, ..Default::default() };
        let request = Request::new(wire::CountEntriesRequest { filter: Some(filter) });
        assert_eq!(service.count_entries(request).await.unwrap().into_inner().count, expected);
    }
}
