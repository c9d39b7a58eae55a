//! Texts that many things share, each held once and known by a small number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// The number of a text within its table.
pub(super) type Number = u32;

/// A table of texts, each with a value of its own. A text goes when its value says that nobody needs it.
pub(super) struct Table<V> {
    numbers: HashMap<Arc<str>, Number>,
    slots: Vec<Option<(Arc<str>, V)>>,
    free: Vec<Number>,
}

/// Whether a text's value is of no use any more.
pub(super) trait Unused: Default {
    fn is_unused(&self) -> bool;
}

impl<V: Unused> Table<V> {
    pub(super) fn new() -> Self {
        Self { numbers: HashMap::new(), slots: Vec::new(), free: Vec::new() }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn find(&self, text: &str) -> Option<Number> {
        self.numbers.get(text).copied()
    }

    /// The number of a text, made if there is none.
    pub(super) fn number(&mut self, text: &str) -> Number {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let shared: Arc<str> = text.into();
        let slot = Some((Arc::clone(&shared), V::default()));
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.slots.get_mut(index(number)) {
                    *place = slot;
                }
                number
            }
            None => {
                self.slots.push(slot);
                // Four milliards of texts do not fit into memory.
                Number::try_from(self.slots.len() - 1).unwrap_or(Number::MAX)
            }
        };
        self.numbers.insert(shared, number);
        number
    }

    pub(super) fn text(&self, number: Number) -> &str {
        self.slots.get(index(number)).and_then(Option::as_ref).map_or("", |(text, _)| text)
    }

    /// As [`Self::text`], to be kept.
    pub(super) fn shared(&self, number: Number) -> Arc<str> {
        let slot = self.slots.get(index(number)).and_then(Option::as_ref);
        slot.map_or_else(|| "".into(), |(text, _)| Arc::clone(text))
    }

    pub(super) fn get(&self, number: Number) -> Option<&V> {
        self.slots.get(index(number)).and_then(Option::as_ref).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, number: Number) -> Option<&mut V> {
        self.slots.get_mut(index(number)).and_then(Option::as_mut).map(|(_, value)| value)
    }

    /// Every text and its value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.slots.iter().flatten().map(|(text, value)| (&**text, value))
    }

    /// Forgets a text that nobody needs any more.
    pub(super) fn release(&mut self, number: Number) {
        let Some(place) = self.slots.get_mut(index(number)) else { return };
        if !place.as_ref().is_some_and(|(_, value)| value.is_unused()) {
            return;
        }
        if let Some((text, _)) = place.take() {
            self.numbers.remove(&text);
            self.free.push(number);
        }
    }
}

fn index(number: Number) -> usize {
    number as usize
}

/// How often a text is used.
#[derive(Debug, Default)]
pub(super) struct Uses(pub(super) u32);

impl Unused for Uses {
    fn is_unused(&self) -> bool {
        self.0 == 0
    }
}

/// A list that is mostly empty or has one member, in 16 bytes.
#[derive(Debug, Default)]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    #[expect(
        clippy::box_collection,
        reason = "one word here instead of three: nearly every list has one item"
    )]
    Many(Box<Vec<T>>),
}

impl<T> Few<T> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn push(&mut self, new: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(new),
            Self::One(one) => Self::Many(Box::new(vec![one, new])),
            Self::Many(mut many) => {
                many.push(new);
                Self::Many(many)
            }
        };
    }

    /// Removes a member that fits; the order of the others may change.
    pub(super) fn remove(&mut self, is_it: impl Fn(&T) -> bool) {
        match self {
            Self::None => {}
            Self::One(one) => {
                if is_it(one) {
                    *self = Self::None;
                }
            }
            Self::Many(many) => {
                if let Some(at) = many.iter().position(is_it) {
                    many.swap_remove(at);
                    if many.capacity() > 64 && many.len() < many.capacity() / 4 {
                        many.shrink_to_fit();
                    }
                }
                if many.len() < 2 {
                    *self = many.pop().map_or(Self::None, Self::One);
                }
            }
        }
    }
}

/// A map from numbers to lists without empty ones.
pub(super) fn file<K: Eq + Hash, T>(map: &mut HashMap<K, Few<T>>, key: K, value: T) {
    map.entry(key).or_default().push(value);
}

/// Takes a member out of its list.
pub(super) fn unfile<K: Eq + Hash, T>(map: &mut HashMap<K, Few<T>>, key: &K, is_it: impl Fn(&T) -> bool) {
    if let Some(list) = map.get_mut(key) {
        list.remove(is_it);
        if list.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_and_go() {
        let mut table: Table<Uses> = Table::new();
        let (a, b) = (table.number("a"), table.number("b"));
        assert_eq!((table.number("a"), table.text(b), table.find("c")), (a, "b", None));
        table.get_mut(a).unwrap().0 = 1;
        table.release(a);
        table.release(b);
        assert_eq!((table.find("a"), table.find("b"), table.text(b)), (Some(a), None, ""));
        assert_eq!((table.number("c"), table.len()), (b, 2), "a number is used again");
    }

    #[test]
    fn lists_grow_and_shrink() {
        let mut list = Few::None;
        for n in 0..5 {
            list.push(n);
        }
        assert_eq!(list.as_slice(), [0, 1, 2, 3, 4]);
        for n in [1, 9, 4, 0] {
            list.remove(|member| *member == n);
        }
        list.remove(|member| *member == 3);
        assert!(matches!(list, Few::One(2)));
        list.remove(|member| *member == 3);
        list.remove(|member| *member == 2);
        assert!(list.is_empty());
    }
}
