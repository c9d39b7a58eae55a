//! Streams, with the index beneath and a judge that can change its mind.

use std::sync::Mutex;

use hardroot_api::hardroot::server::sync::v1::follow_request::Step as Asked;
use hardroot_api::hardroot::server::sync::v1::follow_response::Step as Answer;
use hardroot_api::spire::api::types;
use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::{permission_denied, reason_of};
use prost::Message as _;
use tonic::Code;

use super::*;
use crate::api::testing::{Site, id, own, wire_entry};
use crate::datastore::{Bundles, Entries, EntryMask};

const A: &str = "/spire/agent/a";
const B: &str = "/spire/agent/b";

struct Rig {
    site: Site,
    service: SyncService,
    verdict: Arc<Mutex<Option<Reason>>>,
}

/// An agent's end of a stream.
struct Agent {
    requests: mpsc::Sender<Result<wire::FollowRequest, Status>>,
    answers: Answers,
    token: Vec<u8>,
}

impl Rig {
    async fn new() -> Self {
        let site = Site::new().await;
        let data = hardroot_api::spire::common::Bundle {
            trust_domain_id: "spiffe://example.org".into(),
            ..Default::default()
        };
        site.store.put_bundle(&own(), &data.encode_to_vec(), None).await.unwrap();
        site.bundles.refresh().await.unwrap();
        let mut service = SyncService::new(
            own(),
            Arc::clone(&site.entries),
            Arc::clone(&site.bundles),
            CancellationToken::new(),
        );
        service.page = 2;
        Self { site, service, verdict: Arc::default() }
    }

    async fn entry(&self, id: &str, parent: &str) {
        let message =
            types::Entry { id: id.into(), ..wire_entry(&format!("/w{id}"), parent, &["unix:uid:1"]) };
        let entry = crate::api::convert::entry(&own(), &message, &EntryMask::ALL, 7).unwrap();
        self.site.store.create_entry(entry).await.unwrap();
        self.site.entries.refresh().await.unwrap();
    }

    async fn open(&self, path: &str, token: &[u8]) -> Agent {
        let verdict = Arc::clone(&self.verdict);
        let recheck = Recheck::new(move || {
            let verdict = *verdict.lock().unwrap();
            Box::pin(async move { verdict.map_or(Ok(()), |reason| Err(permission_denied(reason, "no"))) })
        });
        let (requests, receiver) = mpsc::channel(4);
        let answers = self.service.converse(id(path), recheck, ReceiverStream::new(receiver));
        let agent = Agent { requests, answers, token: Vec::new() };
        agent.ask(Asked::Open(wire::Open { token: token.to_vec(), bundles: vec![] })).await;
        agent
    }
}

impl Agent {
    async fn ask(&self, step: Asked) {
        self.requests.send(Ok(wire::FollowRequest { step: Some(step) })).await.unwrap();
    }

    async fn answer(&mut self) -> Result<Answer, Status> {
        let next = tokio::time::timeout(Duration::from_secs(120), self.answers.next()).await;
        next.expect("an answer in time").expect("an open stream").map(|answer| answer.step.unwrap())
    }

    /// A whole update, acknowledged: the ids of its entries, and those removed.
    async fn update(&mut self) -> (Vec<String>, Vec<String>, bool) {
        let (mut entries, mut removed, mut everything) = (vec![], vec![], false);
        loop {
            let page = match self.answer().await.unwrap() {
                Answer::Update(page) => page,
                Answer::Heartbeat(_) => continue,
            };
            let some = wire::Entries::decode(page.entries).unwrap().entries;
            assert!(some.len() <= 2, "a page");
            entries.extend(some.into_iter().map(|entry| entry.id));
            removed.extend(page.removed);
            everything |= page.everything;
            if !page.token.is_empty() {
                self.token = page.token;
                self.ask(Asked::Ack(wire::Ack { number: page.number })).await;
                return (entries, removed, everything);
            }
        }
    }
}

#[tokio::test]
async fn everything_first_in_pages_then_each_change_and_nothing_after_a_reconnect() {
    let rig = Rig::new().await;
    for n in 0..5 {
        rig.entry(&n.to_string(), A).await;
    }
    let mut agent = rig.open(A, &[]).await;
    let (entries, removed, everything) = agent.update().await;
    assert_eq!((entries.len(), removed.len(), everything), (5, 0, true));
    rig.entry("x", B).await;
    rig.entry("5", A).await;
    assert_eq!(agent.update().await, (vec!["5".to_owned()], vec![], false));
    rig.site.store.delete_entry("1").await.unwrap();
    rig.site.entries.refresh().await.unwrap();
    assert_eq!(agent.update().await, (vec![], vec!["1".to_owned()], false));
    let token = agent.token.clone();
    drop(agent);
    let mut agent = rig.open(A, &token).await;
    // Its bundles are unknown here, and so they are sent; entries are not.
    assert_eq!(agent.update().await, (vec![], vec![], false));
    rig.entry("6", A).await;
    assert_eq!(agent.update().await.0, ["6"]);
    let mut agent = rig.open(A, b"nonsense").await;
    assert!(agent.update().await.2, "a token that tells nothing");
}

#[tokio::test]
async fn one_update_at_a_time_and_what_changes_often_is_sent_once() {
    let rig = Rig::new().await;
    rig.entry("0", A).await;
    let mut slow = rig.open(A, &[]).await;
    let Answer::Update(first) = slow.answer().await.unwrap() else { panic!() };
    let mut quick = rig.open(B, &[]).await;
    quick.update().await;
    for n in 0..50 {
        rig.entry(&format!("a{n}"), A).await;
        if n > 0 {
            rig.site.store.delete_entry(&format!("a{n}")).await.unwrap();
        }
        rig.entry(&format!("b{n}"), B).await;
        assert_eq!(quick.update().await.0, [format!("b{n}")], "a slow agent holds up nobody");
    }
    slow.ask(Asked::Ack(wire::Ack { number: first.number })).await;
    assert_eq!(slow.update().await, (vec!["a0".to_owned()], vec![], false), "what came and went is not told");
}

#[tokio::test]
async fn a_stream_lives_as_long_as_its_agent_may_go_on() {
    let mut rig = Rig::new().await;
    rig.service.heartbeat = Duration::from_millis(200);
    let mut agent = rig.open(A, &[]).await;
    agent.update().await;
    let Answer::Heartbeat(beat) = agent.answer().await.unwrap() else { panic!() };
    assert!(!beat.token.is_empty());
    *rig.verdict.lock().unwrap() = Some(Reason::AgentBanned);
    rig.site.entries.recheck_all();
    let refused = loop {
        if let Err(refused) = agent.answer().await {
            break refused;
        }
    };
    assert_eq!(reason_of(&refused), Some(Reason::AgentBanned));
    *rig.verdict.lock().unwrap() = None;
    let mut agent = rig.open(A, &[]).await;
    agent.update().await;
    // Nothing tells of an SVID that expires: it is looked at now and then.
    *rig.verdict.lock().unwrap() = Some(Reason::AgentExpired);
    let refused = loop {
        if let Err(refused) = agent.answer().await {
            break refused;
        }
    };
    assert_eq!(reason_of(&refused), Some(Reason::AgentExpired));
    assert!(agent.answers.next().await.is_none());
}

#[tokio::test]
async fn an_agent_that_does_not_answer_or_breaks_the_rules_is_cut() {
    let mut rig = Rig::new().await;
    rig.service.patience = Duration::from_millis(300);
    let mut silent = rig.open(A, &[]).await;
    silent.answer().await.unwrap();
    assert_eq!(silent.answer().await.unwrap_err().code(), Code::DeadlineExceeded);
    rig.service.patience = PATIENCE;
    let mut wrong = rig.open(A, &[]).await;
    wrong.answer().await.unwrap();
    wrong.ask(Asked::Ack(wire::Ack { number: 77 })).await;
    assert_eq!(wrong.answer().await.unwrap_err().code(), Code::InvalidArgument);
    let mut twice = rig.open(A, &[]).await;
    twice.update().await;
    twice.ask(Asked::Open(wire::Open::default())).await;
    assert_eq!(twice.answer().await.unwrap_err().code(), Code::InvalidArgument);
    let mut older = rig.open(A, &[]).await;
    older.update().await;
    let mut newer = rig.open(A, &[]).await;
    newer.update().await;
    assert_eq!(older.answer().await.unwrap_err().code(), Code::Aborted, "one stream for each agent");
    rig.service.stop.cancel();
    assert_eq!(newer.answer().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn one_change_of_an_agent_with_many_entries_is_small() {
    let rig = Rig::new().await;
    for n in 0..300 {
        rig.entry(&format!("{n}"), A).await;
    }
    let mut agent = rig.open(A, &[]).await;
    agent.update().await;
    rig.entry("new", A).await;
    let Answer::Update(update) = agent.answer().await.unwrap() else { panic!() };
    assert!(update.encoded_len() < 2048 && !update.token.is_empty(), "{} bytes", update.encoded_len());
}
