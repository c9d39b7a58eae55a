//! Getters of blocks: one, several of a name, or several with a label each.

use std::sync::Arc;

use super::Block;
use crate::fault::shown;
use crate::value::{Item, Kind, Value};

/// Blocks of a name with a label each that are read: plugins of a kind.
const MAX_LABELLED: usize = 256;

impl<'a> Block<'a> {
    /// A block without labels; several of the name count as one, as in HCL 1. An empty one stands for one that is absent.
    #[must_use]
    pub fn block(&self, key: &str) -> Block<'a> {
        self.opt_block(key)
            .unwrap_or_else(|| self.child(self.name_of(key).into(), Vec::new(), self.line, false, Vec::new()))
    }

    /// As [`Block::block`], and a fault when it is absent.
    #[must_use]
    pub fn required_block(&self, key: &str) -> Block<'a> {
        if !self.has(key) {
            self.note(self.line, &format!("the block {} is required", self.name_of(key)));
        }
        self.block(key)
    }

    /// As [`Block::block`], `None` when it is absent.
    #[must_use]
    pub fn opt_block(&self, key: &str) -> Option<Block<'a>> {
        let blocks = self.blocks(key);
        let line = blocks.first()?.line;
        let mut items = Vec::new();
        for block in blocks {
            if !block.labels.is_empty() {
                self.note(block.line, &format!("{} takes no label", self.name_of(key)));
            }
            items.extend(block.items);
        }
        Some(self.child(self.name_of(key).into(), Vec::new(), line, true, items))
    }

    /// Every block of a name, in order, with its labels. A list of objects is as many blocks.
    #[must_use]
    pub fn blocks(&self, key: &str) -> Vec<Block<'a>> {
        self.ask(key);
        let mut blocks = Vec::new();
        for item in self.find(key) {
            let labels: Vec<&'a str> = item.labels.iter().map(|label| label.text.as_str()).collect();
            let mut path = self.name_of(key);
            for label in labels.iter().take(2) {
                path.push_str(&format!(" \"{}\"", shown(label)));
            }
            let path: Arc<str> = path.into();
            self.bodies(key, &item.value, |items, line| {
                // The line of the key, unless this is one of a list.
                let line = if item.value.pos.line == line { item.key.pos.line } else { line };
                blocks.push(self.child(Arc::clone(&path), labels.clone(), line, true, items));
            });
        }
        blocks
    }

    /// Every block of a name that takes one label, with it: `KeyManager "disk" { }`, and the same as nested objects
    /// (`"KeyManager": {"disk": { }}`, also in a list), which is how JSON says it. More than
    /// 256 are a fault.
    #[must_use]
    pub fn labelled_blocks(&self, key: &str) -> Vec<(&'a str, Block<'a>)> {
        let mut found = Vec::new();
        for block in self.blocks(key) {
            match block.labels.as_slice() {
                [label] => found.push((*label, block)),
                [] => {
                    for item in &block.items {
                        let label = item.key.text.as_str();
                        if !item.labels.is_empty() {
                            self.note(item.key.pos.line, &format!("{} takes one label", self.name_of(key)));
                        }
                        let path: Arc<str> = format!("{} \"{}\"", self.name_of(key), shown(label)).into();
                        self.bodies(key, &item.value, |items, _| {
                            // One more is enough to know that there are too many.
                            if found.len() > MAX_LABELLED {
                                return;
                            }
                            let child =
                                self.child(Arc::clone(&path), vec![label], item.key.pos.line, true, items);
                            found.push((label, child));
                        });
                    }
                }
                _ => self.note(block.line, &format!("{} takes one label", self.name_of(key))),
            }
        }
        if found.len() > MAX_LABELLED {
            found.truncate(MAX_LABELLED);
            self.note(self.line, &format!("more than {MAX_LABELLED} of {}", self.name_of(key)));
        }
        found
    }

    /// Calls `each` with the items of an object, or of every object in a list.
    fn bodies(&self, key: &str, value: &'a Value, mut each: impl FnMut(Vec<&'a Item>, u32)) {
        match &value.kind {
            Kind::Object(body) => each(body.items.iter().collect(), value.pos.line),
            Kind::List(list) => {
                for element in list {
                    match &element.kind {
                        Kind::Object(body) => each(body.items.iter().collect(), element.pos.line),
                        _ => {
                            let _none: Option<()> = self.wrong(key, element, "a block");
                        }
                    }
                }
            }
            _ => {
                let _none: Option<()> = self.wrong(key, value, "a block");
            }
        }
    }

    fn child(
        &self,
        path: Arc<str>,
        labels: Vec<&'a str>,
        line: u32,
        present: bool,
        items: Vec<&'a Item>,
    ) -> Block<'a> {
        Block::new(Arc::clone(&self.notes), path, labels, line, present, items)
    }
}
