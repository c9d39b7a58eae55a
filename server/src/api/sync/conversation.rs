//! One agent's stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use hardroot_api::hardroot::server::sync::v1 as wire;
use hardroot_api::hardroot::server::sync::v1::follow_request::Step as Asked;
use hardroot_api::hardroot::server::sync::v1::follow_response::Step as Answer;
use hardroot_identity::{SpiffeId, TrustDomain};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::Recheck;
use super::page::Page;
use crate::api::bundle_message;
use crate::endpoints::BundleCache;
use crate::entries::{AuthorizedEntries, Followed, Start, Taken, Token};

/// Why a stream ends: a status to be told, or nothing when the agent went away.
type End = Option<Status>;

pub(super) struct Conversation {
    pub(super) own: TrustDomain,
    pub(super) agent: SpiffeId,
    pub(super) entries: Arc<AuthorizedEntries>,
    pub(super) bundles: Arc<BundleCache>,
    pub(super) recheck: Recheck,
    pub(super) sender: mpsc::Sender<Result<wire::FollowResponse, Status>>,
    pub(super) page: usize,
    pub(super) heartbeat: Duration,
    pub(super) patience: Duration,
    pub(super) number: u64,
    /// The update that is to be acknowledged, and until when.
    pub(super) awaited: Option<(u64, Instant)>,
    /// Bundles that the agent has, by their versions.
    pub(super) told: BTreeMap<TrustDomain, Vec<u8>>,
}

impl Conversation {
    pub(super) async fn run<S>(&mut self, mut requests: S) -> Result<(), End>
    where
        S: Stream<Item = Result<wire::FollowRequest, Status>> + Unpin,
    {
        let opened = tokio::time::timeout(self.patience, requests.next()).await;
        let first =
            opened.map_err(|_late| Some(Status::deadline_exceeded("the stream was not opened in time")))?;
        let Some(first) = first else { return Ok(()) };
        let Some(Asked::Open(open)) = first.map_err(Some)?.step else {
            return Err(Some(Status::invalid_argument("the first message must open the stream")));
        };
        for bundle in open.bundles {
            let trust_domain = TrustDomain::new(&bundle.trust_domain).map_err(|fault| {
                Some(Status::invalid_argument(format!("malformed trust domain: {fault}")))
            })?;
            self.told.insert(trust_domain, bundle.version);
        }
        self.current().await?;
        let known = Token::from_bytes(&open.token);
        if known.is_some_and(|known| known.version > self.entries.version()) {
            // Another server told it more than this one knows yet; if that fails, it is told what is known.
            drop(self.entries.refresh().await);
        }
        let mut bundles = self.bundles.changed();
        bundles.mark_unchanged();
        let (followed, start) = self.entries.follow_agent(&self.agent, known);
        let mut last = match start {
            Start::Current(token) => {
                self.number += 1;
                self.finish(&followed, self.update(), token, true).await?;
                token
            }
            Start::Changes => self.send_changes(&followed, known).await?,
            Start::Everything(all, token) => {
                self.number += 1;
                let (mut everything, mut page) = (true, Page::default());
                let mut rest = page.fill(&all, self.page);
                while !rest.is_empty() {
                    let update = wire::Update { everything, entries: page.take(), ..self.update() };
                    self.send(update).await?;
                    everything = false;
                    rest = page.fill(rest, self.page);
                }
                drop(all);
                let update = wire::Update { everything, entries: page.take(), ..self.update() };
                self.finish(&followed, update, token, false).await?;
                token
            }
        };
        let mut quiet_until = Instant::now() + self.heartbeat;
        // Something changed while an update was awaited.
        let mut behind = true;
        loop {
            let late = self.awaited.map_or(quiet_until, |(_, until)| until.min(quiet_until));
            tokio::select! {
                request = requests.next() => match request {
                    None => return Ok(()),
                    Some(Err(status)) if status.code() == tonic::Code::Cancelled => return Ok(()),
                    Some(request) => self.acknowledged(request.map_err(Some)?)?,
                },
                () = followed.woken() => {
                    behind = true;
                    if followed.standing_changed() {
                        self.recheck.ask().await.map_err(Some)?;
                    }
                }
                changed = bundles.changed() => {
                    changed.map_err(|_gone| None)?;
                    behind = true;
                    self.recheck.ask().await.map_err(Some)?;
                }
                () = sleep_until(late) => {
                    if self.awaited.is_some_and(|(_, until)| until <= Instant::now()) {
                        return Err(Some(Status::deadline_exceeded("an update was not acknowledged in time")));
                    }
                    self.recheck.ask().await.map_err(Some)?;
                    if self.awaited.is_none() {
                        self.current().await?;
                        // What is gathered in this moment is sent below, and the next heartbeat comes later.
                        if let Some(Taken { token: Some(token), .. }) = followed.take(0) {
                            last = token;
                            let heartbeat = wire::Heartbeat { token: token.to_bytes() };
                            self.answer(Answer::Heartbeat(heartbeat)).await?;
                        } else {
                            behind = true;
                        }
                    }
                    quiet_until = Instant::now() + self.heartbeat;
                }
            }
            if behind && self.awaited.is_none() {
                behind = false;
                let before = self.number;
                last = self.send_changes(&followed, Some(last)).await?;
                if self.number != before {
                    quiet_until = Instant::now() + self.heartbeat;
                }
            }
        }
    }

    async fn current(&self) -> Result<(), End> {
        self.entries.current().await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "entries are too old to be used");
            Some(Status::unavailable(
                "failed to fetch entries: the datastore does not answer; try again later",
            ))
        })
    }

    fn acknowledged(&mut self, request: wire::FollowRequest) -> Result<(), End> {
        match request.step {
            Some(Asked::Ack(ack)) if self.awaited.is_some_and(|(number, _)| number == ack.number) => {
                self.awaited = None;
                Ok(())
            }
            Some(Asked::Ack(_)) => {
                Err(Some(Status::invalid_argument("an update was acknowledged that is not awaited")))
            }
            _ => Err(Some(Status::invalid_argument("the stream is open already"))),
        }
    }

    /// Sends what was gathered; what the agent has then.
    async fn send_changes(&mut self, followed: &Followed, last: Option<Token>) -> Result<Token, End> {
        let replaced = || Some(Status::aborted("a newer stream of this agent took the place of this one"));
        self.number += 1;
        let mut begun = false;
        loop {
            let Taken { changed, removed, token } = followed.take(self.page).ok_or_else(replaced)?;
            let mut update = wire::Update { removed, ..self.update() };
            let mut page = Page::default();
            for held in changed {
                page.push(&held);
                if page.is_full(self.page) {
                    self.send(wire::Update { entries: page.take(), ..self.update() }).await?;
                    begun = true;
                }
            }
            update.entries = page.take();
            match token {
                None => {
                    self.send(update).await?;
                    begun = true;
                }
                Some(token) => {
                    let same = !begun && last.is_some_and(|last| last.digest == token.digest);
                    self.finish(followed, update, token, same).await?;
                    return Ok(token);
                }
            }
        }
    }

    /// Sends an update's last page, with the bundles that changed. Nothing is sent when the agent's entries are the `same`
    /// and its bundles too.
    async fn finish(
        &mut self,
        followed: &Followed,
        mut update: wire::Update,
        token: Token,
        same: bool,
    ) -> Result<(), End> {
        self.add_bundles(followed, &mut update)?;
        if same && update.bundles.is_empty() && update.removed_bundles.is_empty() {
            self.number -= 1;
            return Ok(());
        }
        update.token = token.to_bytes();
        self.awaited = Some((self.number, Instant::now() + self.patience));
        self.send(update).await
    }

    /// The bundles that the agent needs and does not have, and those that it has and does not need.
    fn add_bundles(&mut self, followed: &Followed, update: &mut wire::Update) -> Result<(), End> {
        let mut needed: BTreeSet<TrustDomain> = followed.federates_with().into_iter().collect();
        needed.insert(self.own.clone());
        for trust_domain in &needed {
            let Some(stored) = self.bundles.stored(trust_domain) else { continue };
            let bundle = bundle_message(&stored).map_err(Some)?;
            let version = version(&bundle);
            if self.told.get(trust_domain) != Some(&version) {
                self.told.insert(trust_domain.clone(), version.clone());
                update.bundles.push(wire::BundleUpdate { bundle: Some(bundle), version });
            }
        }
        // Our own is never taken away: an agent without it trusts nobody.
        let gone: Vec<_> = self
            .told
            .keys()
            .filter(|td| **td != self.own && (!needed.contains(td) || self.bundles.stored(td).is_none()))
            .cloned()
            .collect();
        for trust_domain in gone {
            self.told.remove(&trust_domain);
            update.removed_bundles.push(trust_domain.to_string());
        }
        Ok(())
    }

    fn update(&self) -> wire::Update {
        wire::Update { number: self.number, ..wire::Update::default() }
    }

    async fn send(&self, update: wire::Update) -> Result<(), End> {
        self.answer(Answer::Update(update)).await
    }

    async fn answer(&self, step: Answer) -> Result<(), End> {
        let answer = Ok(wire::FollowResponse { step: Some(step) });
        match tokio::time::timeout(self.patience, self.sender.send(answer)).await {
            Ok(sent) => sent.map_err(|_gone| None),
            Err(_late) => Err(Some(Status::deadline_exceeded("an update was not taken in time"))),
        }
    }
}

/// What a bundle is recognised by: the first 8 bytes of the SHA-256 of its message.
fn version(bundle: &hardroot_api::spire::api::types::Bundle) -> Vec<u8> {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bundle.encode_to_vec());
    hash.as_ref().iter().copied().take(8).collect()
}
