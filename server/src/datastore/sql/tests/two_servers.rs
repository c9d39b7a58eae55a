//! Two stores on one database, as two servers have them: random operations against a model, and many at once.

use std::collections::BTreeMap;

use hardroot_node_attestors::Enrolment;
use proptest::prelude::*;

use super::filters::check;
use super::*;
use crate::datastore::{
    Change, EntryFilter, JoinToken, JoinTokens, Journals, Page, Redeemed, StoredJournal, TpmEnrolments,
};

#[derive(Debug, Clone)]
enum Op {
    Create {
        path: u8,
        selector: u8,
    },
    Update {
        path: u8,
        selector: u8,
        hint: u8,
    },
    Delete {
        path: u8,
        selector: u8,
    },
    Attest {
        node: u8,
        serial: u8,
    },
    Renew {
        node: u8,
        current: u8,
        serial: u8,
    },
    Promote {
        node: u8,
        serial: u8,
    },
    Ban {
        node: u8,
    },
    Evict {
        node: u8,
    },
    Put {
        bundle: u8,
        expected: Option<i64>,
    },
    Token {
        token: u8,
    },
    Redeem {
        token: u8,
        key: u8,
    },
    /// A server writes its journal over what it believes to be stored, which may be what it read long ago.
    Journal {
        journal: u8,
        stale: bool,
        content: u8,
    },
    Enrol {
        ek: u8,
        path: u8,
    },
    Unenrol {
        ek: u8,
    },
}

fn op() -> impl Strategy<Value = (bool, Op)> {
    let small = 0..3_u8;
    let serial = 1..4_u8;
    let op = prop_oneof![
        3 => (small.clone(), small.clone()).prop_map(|(path, selector)| Op::Create { path, selector }),
        2 => (small.clone(), small.clone(), small.clone())
            .prop_map(|(path, selector, hint)| Op::Update { path, selector, hint }),
        1 => (small.clone(), small.clone()).prop_map(|(path, selector)| Op::Delete { path, selector }),
        3 => (small.clone(), serial.clone()).prop_map(|(node, serial)| Op::Attest { node, serial }),
        2 => (small.clone(), serial.clone(), serial.clone())
            .prop_map(|(node, current, serial)| Op::Renew { node, current, serial }),
        2 => (small.clone(), serial).prop_map(|(node, serial)| Op::Promote { node, serial }),
        1 => small.clone().prop_map(|node| Op::Ban { node }),
        1 => small.clone().prop_map(|node| Op::Evict { node }),
        3 => (small.clone(), proptest::option::of(1..4_i64))
            .prop_map(|(bundle, expected)| Op::Put { bundle, expected }),
        1 => small.clone().prop_map(|token| Op::Token { token }),
        2 => (small.clone(), small.clone()).prop_map(|(token, key)| Op::Redeem { token, key }),
        3 => (small.clone(), any::<bool>(), any::<u8>())
            .prop_map(|(journal, stale, content)| Op::Journal { journal, stale, content }),
        2 => (small.clone(), small.clone()).prop_map(|(ek, path)| Op::Enrol { ek, path }),
        1 => small.prop_map(|ek| Op::Unenrol { ek }),
    ];
    (any::<bool>(), op)
}

/// What the database should hold.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    nodes: BTreeMap<u8, Node>,
    bundles: BTreeMap<u8, i64>,
    tokens: BTreeMap<u8, Option<u8>>,
    /// What each holds now, and what it held before.
    journals: BTreeMap<u8, (StoredJournal, StoredJournal)>,
    /// In order of creation: EK and path.
    enrolments: Vec<(u8, u8)>,
    before: i64,
    changes: Vec<Change>,
    writes: u32,
}

fn entry_of(path: u8, selector: u8) -> Entry {
    Entry {
        id: format!("e-{path}-{selector}"),
        ..entry(&format!("/s{path}"), "/p", &[&format!("unix:uid:{selector}")])
    }
}

fn node_of(n: u8, serial: u8) -> Node {
    node(&format!("/spire/agent/{n}"), &serial.to_string(), &["tpm_quote:a"])
}

fn enrolment_of(ek: u8, path: u8) -> Enrolment {
    Enrolment {
        ek_hash: ek.to_string().repeat(64),
        agent_path: Some(format!("/spire/agent/{path}")),
        note: "rack".into(),
    }
}

/// What became of an operation, as far as the model tells it.
fn kind<T>(done: Result<T, StoreError>) -> &'static str {
    match done {
        Ok(_) => "ok",
        Err(StoreError::NotFound { .. }) => "not found",
        Err(StoreError::Exists { .. }) => "exists",
        Err(StoreError::Conflict { .. }) => "conflict",
        Err(StoreError::Banned { .. }) => "banned",
        Err(other) => panic!("{other}: {:?}", std::error::Error::source(&other)),
    }
}

impl Model {
    async fn step(&mut self, store: &SqlStore, op: &Op) {
        let (found, expected) = match op {
            Op::Create { path, selector } => {
                let wanted = entry_of(*path, *selector);
                let existed = self.entries.contains_key(&wanted.id);
                let (made, found) = store.create_entry(wanted.clone()).await.unwrap();
                if !existed {
                    let change = Change::Entry(wanted.id.clone());
                    // One made again is told from the one that went, which may have been of an earlier case.
                    let next = self.before + i64::try_from(self.changes.len()).unwrap() + 1;
                    let revision_number = made.revision_number;
                    let may_begin = !self.changes.contains(&change) && revision_number == 0;
                    assert!(may_begin || revision_number == next, "{made:?}");
                    self.changes.push(change);
                    self.entries.insert(wanted.id.clone(), Entry { revision_number, ..wanted });
                }
                (if found { "existed" } else { "made" }, if existed { "existed" } else { "made" })
            }
            Op::Update { path, selector, hint } => {
                let wanted = Entry { hint: hint.to_string(), ..entry_of(*path, *selector) };
                let found = kind(store.update_entry(wanted.clone(), &EntryMask::ALL).await);
                let expected = match self.entries.get_mut(&wanted.id) {
                    None => "not found",
                    Some(known) => {
                        *known = Entry { revision_number: known.revision_number + 1, ..wanted };
                        self.changes.push(Change::Entry(known.id.clone()));
                        "ok"
                    }
                };
                (found, expected)
            }
            Op::Delete { path, selector } => {
                let id = entry_of(*path, *selector).id;
                let found = kind(store.delete_entry(&id).await);
                let gone = self.entries.remove(&id).is_some();
                if gone {
                    self.changes.push(Change::Entry(id));
                }
                (found, if gone { "ok" } else { "not found" })
            }
            Op::Attest { node, serial } => {
                let wanted = node_of(*node, *serial);
                let found = kind(store.attested(wanted.clone(), None).await);
                let banned = self.nodes.get(node).is_some_and(Node::is_banned);
                if !banned {
                    self.changes.push(Change::Node(wanted.id.to_string()));
                    self.nodes.insert(*node, wanted);
                }
                (found, if banned { "banned" } else { "ok" })
            }
            Op::Renew { node, current, serial } => {
                let expires = at(3_000_000_000 + u64::from(*serial));
                let id = node_of(*node, 1).id;
                let (current, serial) = (current.to_string(), serial.to_string());
                let found = kind(store.node_renewed(&id, &current, &serial, expires).await);
                let expected = match self.nodes.get_mut(node) {
                    None => "not found",
                    Some(known) if known.is_banned() => "banned",
                    Some(known) if known.serial_number != current => "conflict",
                    Some(known) => {
                        known.new_serial_number = serial;
                        known.new_expires_at = Some(expires);
                        self.changes.push(Change::Node(id.to_string()));
                        "ok"
                    }
                };
                (found, expected)
            }
            Op::Promote { node, serial } => {
                let found = kind(store.promote_serial(&node_of(*node, 1).id, &serial.to_string()).await);
                if let Some(known) = self.nodes.get_mut(node)
                    && known.new_serial_number == serial.to_string()
                    && !known.is_banned()
                {
                    known.serial_number = std::mem::take(&mut known.new_serial_number);
                    known.expires_at = known.new_expires_at.take().unwrap();
                    self.changes.push(Change::Node(known.id.to_string()));
                }
                (found, "ok")
            }
            Op::Ban { node } => {
                let id = node_of(*node, 1).id;
                let found = kind(store.ban_node(&id).await);
                let expected = match self.nodes.get_mut(node) {
                    None => "not found",
                    Some(known) => {
                        known.serial_number.clear();
                        known.new_serial_number.clear();
                        known.new_expires_at = None;
                        self.changes.push(Change::Node(id.to_string()));
                        "ok"
                    }
                };
                (found, expected)
            }
            Op::Evict { node } => {
                let id = node_of(*node, 1).id;
                let found = kind(store.delete_node(&id).await);
                let gone = self.nodes.remove(node).is_some();
                if gone {
                    self.changes.push(Change::Node(id.to_string()));
                }
                (found, if gone { "ok" } else { "not found" })
            }
            Op::Put { bundle, expected } => {
                let name = td(&format!("b{bundle}.test"));
                let found = kind(store.put_bundle(&name, b"x", *expected).await);
                let known = self.bundles.get(bundle).copied();
                let outcome = match (known, expected) {
                    (None, None) => {
                        self.bundles.insert(*bundle, 1);
                        self.changes.push(Change::Bundle(name.to_string()));
                        "ok"
                    }
                    (Some(_), None) => "exists",
                    (known, Some(expected)) if known == Some(*expected) => {
                        self.bundles.insert(*bundle, expected + 1);
                        self.changes.push(Change::Bundle(name.to_string()));
                        "ok"
                    }
                    _ => "conflict",
                };
                (found, outcome)
            }
            Op::Token { token } => {
                let made = JoinToken { value: format!("t{token}"), expires_at: at(1_000) };
                let found = kind(store.create_join_token(&made).await);
                let known = self.tokens.contains_key(token);
                self.tokens.entry(*token).or_insert(None);
                (found, if known { "exists" } else { "ok" })
            }
            Op::Redeem { token, key } => {
                let found =
                    store.redeem_join_token(&format!("t{token}"), &format!("k{key}"), at(1)).await.unwrap();
                let expected = match self.tokens.get_mut(token) {
                    None => Redeemed::Unknown,
                    Some(bound @ None) => {
                        *bound = Some(*key);
                        Redeemed::First
                    }
                    Some(Some(bound)) if bound == key => Redeemed::Again,
                    Some(Some(_)) => Redeemed::ByAnother,
                };
                assert_eq!(found, expected, "{op:?}");
                return;
            }
            Op::Journal { journal, stale, content } => {
                // Two writes of the same are one: the number of writes makes each another.
                let data = vec![*content, u8::try_from(self.writes).unwrap()];
                self.writes += 1;
                let active = format!("authority-{journal}");
                let known = self.journals.get(journal).cloned();
                let before = known.as_ref().map(|(now, then)| if *stale { then } else { now });
                let done = store.put_journal(before, &data, &active).await;
                let row = done.as_ref().ok().copied();
                let lost = known.as_ref().is_some_and(|(now, then)| *stale && now != then);
                if let Some(row) = row {
                    let now = StoredJournal { row, data };
                    let then = known.map_or_else(|| now.clone(), |(then, _)| then);
                    self.journals.insert(*journal, (now, then));
                }
                (kind(done), if lost { "conflict" } else { "ok" })
            }
            Op::Enrol { ek, path } => {
                let found = kind(store.enrol(&enrolment_of(*ek, *path), at(7)).await);
                let free = self.enrolments.iter().all(|(known, at)| known != ek && at != path);
                if free {
                    self.enrolments.push((*ek, *path));
                }
                (found, if free { "ok" } else { "exists" })
            }
            Op::Unenrol { ek } => {
                let found = kind(store.remove_enrolment(&enrolment_of(*ek, 0).ek_hash).await);
                let before = self.enrolments.len();
                self.enrolments.retain(|(known, _)| known != ek);
                (found, if self.enrolments.len() < before { "ok" } else { "not found" })
            }
        };
        assert_eq!(found, expected, "{op:?}");
    }

    async fn compare(&self, store: &SqlStore) {
        let (mut entries, _) = store.list_entries(&EntryFilter::default(), &Page::default()).await.unwrap();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(entries, self.entries.values().cloned().collect::<Vec<_>>());
        for n in 0..3 {
            let read = store.node(&node_of(n, 1).id).await.unwrap();
            assert_eq!(read.as_ref(), self.nodes.get(&n), "node {n}");
            let bundle = store.bundle(&td(&format!("b{n}.test"))).await.unwrap();
            assert_eq!(bundle.map(|(_, revision)| revision), self.bundles.get(&n).copied(), "bundle {n}");
            let journal = store.find_journal(&[format!("authority-{n}")]).await.unwrap();
            assert_eq!(journal.as_ref(), self.journals.get(&n).map(|(now, _)| now), "journal {n}");
        }
        let enrolled = store.list_enrolments().await.unwrap();
        let enrolled: Vec<_> = enrolled.into_iter().map(|stored| stored.enrolment).collect();
        let expected: Vec<_> = self.enrolments.iter().map(|(ek, path)| enrolment_of(*ek, *path)).collect();
        assert_eq!(enrolled, expected);
    }
}

async fn random_operations_of_two_servers_agree_with_the_model(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    check(&f, &proptest::collection::vec(op(), 1..60), async |ops| {
        let before = f.store.entries_version().await.unwrap();
        let mut model = Model { before, ..Model::default() };
        for (first, op) in ops {
            model.step(if *first { &f.store } else { &other }, op).await;
        }
        model.compare(&f.store).await;
        model.compare(&other).await;
        // Each of the two can follow what both did.
        for store in [&f.store, &other] {
            let changes = store.changes_since(before).await.unwrap();
            assert_eq!(changes.changed.as_ref(), Some(&model.changes));
            assert_eq!(changes.version, before + i64::try_from(model.changes.len()).unwrap());
        }
    });
}

/// Many at once: nothing fails for having met another, and who follows the log sees every change in order.
async fn writers_of_two_servers_at_once_lose_nothing(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    let before = f.store.entries_version().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40_u8 {
        let store = if n % 2 == 0 { f.store.clone() } else { other.clone() };
        tasks.spawn(async move {
            let (made, existed) = store.create_entry(entry_of(n % 4, n % 5)).await.unwrap();
            store.attested(node_of(n % 3, 1), None).await.unwrap();
            // Another one may have renewed it and used that already.
            match store.node_renewed(&node_of(n % 3, 1).id, "1", "2", at(5_000_000_000)).await {
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            store.promote_serial(&node_of(n % 3, 1).id, "2").await.unwrap();
            drop(store.put_bundle(&td("shared.test"), b"x", None).await);
            usize::from(!existed) + usize::from(made.id.is_empty())
        });
    }
    let made: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(made, 20, "each of 4 x 5 entries once");
    for store in [&f.store, &other] {
        let changes = store.changes_since(before).await.unwrap();
        let changed = changes.changed.unwrap();
        assert_eq!(before + i64::try_from(changed.len()).unwrap(), changes.version, "without gaps");
        assert_eq!(changed.iter().filter(|change| matches!(change, Change::Entry(_))).count(), 20);
        assert!(changed.iter().filter(|change| matches!(change, Change::Node(_))).count() >= 40);
        assert_eq!(changed.iter().filter(|change| matches!(change, Change::Bundle(_))).count(), 1);
    }
    assert_eq!(f.store.bundle(&td("shared.test")).await.unwrap().unwrap().1, 1);
}

on_every_engine! {
    random_operations_of_two_servers_agree_with_the_model,
    writers_of_two_servers_at_once_lose_nothing,
}
