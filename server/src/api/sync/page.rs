//! Entries that go to an agent together.

use prost::bytes::{Bytes, BytesMut};

use crate::entries::Held;

/// Bytes of entries after which a page is full: an answer's message is at most 4 MiB for most clients.
const MAX_BYTES: usize = 1 << 20;

/// An encoded `hardroot.server.sync.v1.Entries`. Entries are copied into it side by side as they are held: to count one
/// reference more and one less for each of a hundred thousand that lie about in memory takes longer.
#[derive(Default)]
pub(super) struct Page {
    bytes: BytesMut,
    count: usize,
}

impl Page {
    /// Adds an entry.
    pub(super) fn push(&mut self, held: &Held) {
        self.bytes.extend_from_slice(held.listed());
        self.count += 1;
    }

    /// Adds entries until there are `most` or enough bytes; those that are left.
    pub(super) fn fill<'a>(&mut self, mut entries: &'a [Held], most: usize) -> &'a [Held] {
        while !self.is_full(most)
            && let Some((held, rest)) = entries.split_first()
        {
            self.push(held);
            entries = rest;
        }
        entries
    }

    /// Whether it has `most` entries or enough bytes.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.count >= most || self.bytes.len() >= MAX_BYTES
    }

    /// The entries; the next page is taken to be about as large, or a little larger.
    pub(super) fn take(&mut self) -> Bytes {
        self.count = 0;
        let next = BytesMut::with_capacity(self.bytes.len() + self.bytes.len() / 8);
        std::mem::replace(&mut self.bytes, next).freeze()
    }
}

#[cfg(test)]
mod tests {
    use hardroot_api::hardroot::server::sync::v1::Entries;
    use prost::Message as _;

    use super::*;
    use crate::datastore::Entry;
    use crate::datastore::sql_tests::entry as unnamed;

    fn entry(id: &str) -> Entry {
        Entry { id: id.to_owned(), ..unnamed("/workload", "/agent", &["unix:uid:1"]) }
    }

    fn held(count: usize) -> Vec<Held> {
        (0..count).map(|n| Held::of(&entry(&format!("{n:05}")))).collect()
    }

    fn ids(page: &mut Page) -> Vec<String> {
        Entries::decode(page.take()).unwrap().entries.into_iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn pages_have_every_entry_once_in_order_and_no_more_than_they_may() {
        let all = held(200);
        for most in [1, 64, 100, 199, 200, 201] {
            let (mut page, mut got, mut rest) = (Page::default(), Vec::new(), all.as_slice());
            while !rest.is_empty() {
                rest = page.fill(rest, most);
                let some = ids(&mut page);
                assert!(!some.is_empty() && some.len() <= most, "{most}");
                got.extend(some);
            }
            assert_eq!(got, all.iter().map(|held| held.id().to_owned()).collect::<Vec<_>>(), "{most}");
        }
    }

    #[test]
    fn a_page_ends_with_the_entry_that_makes_it_large() {
        let mut large = entry("large");
        large.hint = "x".repeat(MAX_BYTES);
        let all = [&entry("small"), &large, &entry("later")].map(Held::of);
        let mut page = Page::default();
        let rest = page.fill(&all, 500);
        assert_eq!(rest.len(), 1);
        assert_eq!(ids(&mut page), ["small", "large"]);
        assert!(page.fill(rest, 500).is_empty());
        assert_eq!(ids(&mut page), ["later"]);
    }
}
