//! Finding, setting and removing items of a configuration tree.

use hardroot_config::{Body, Item, Kind, Name, Pos, Value};

/// One step of a path into the tree: a key, and the label of a labelled block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// `key = …` or `key { … }`.
    Key(&'a str),
    /// `key "label" { … }`.
    Labelled(&'a str, &'a str),
}

impl Step<'_> {
    pub(crate) fn matches(self, item: &Item) -> bool {
        match self {
            Self::Key(key) => item.labels.is_empty() && item.key.text.eq_ignore_ascii_case(key),
            Self::Labelled(key, label) => {
                item.key.text.eq_ignore_ascii_case(key) && item.labels.iter().map(|l| &l.text).eq([label])
            }
        }
    }

    fn item(self) -> Item {
        let name = |text: &str| Name { text: text.to_owned(), pos: NOWHERE };
        let (key, labels) = match self {
            Self::Key(key) => (name(key), Vec::new()),
            Self::Labelled(key, label) => (name(key), vec![name(label)]),
        };
        Item {
            key,
            labels,
            value: Value { kind: Kind::Object(Body::default()), pos: NOWHERE },
            assigned: false,
        }
    }
}

/// The place of what was not in the old file.
pub(crate) const NOWHERE: Pos = Pos { line: 0 };

/// The item at the end of a path.
pub(crate) fn find<'a>(body: &'a Body, path: &[Step<'_>]) -> Option<&'a Item> {
    let (step, rest) = path.split_first()?;
    let mut found = body.items.iter().filter(|item| step.matches(item));
    if rest.is_empty() {
        return found.next();
    }
    found.find_map(|item| match &item.value.kind {
        Kind::Object(body) => find(body, rest),
        _ => None,
    })
}

/// Sets what is at the end of a path, and makes the blocks that lead there.
pub(crate) fn set(body: &mut Body, path: &[Step<'_>], kind: Kind) {
    let Some((step, rest)) = path.split_first() else { return };
    let at = body.items.iter().position(|item| step.matches(item)).unwrap_or_else(|| {
        body.items.push(step.item());
        body.items.len() - 1
    });
    let Some(item) = body.items.get_mut(at) else { return };
    if rest.is_empty() {
        item.assigned = !matches!(kind, Kind::Object(_));
        item.value.kind = kind;
        return;
    }
    if !matches!(item.value.kind, Kind::Object(_)) {
        item.value.kind = Kind::Object(Body::default());
    }
    if let Kind::Object(inner) = &mut item.value.kind {
        set(inner, rest, kind);
    }
}

/// Removes the item at the end of a path of indexes.
pub(crate) fn remove_at(body: &mut Body, path: &[usize]) -> Option<Item> {
    let (&at, rest) = path.split_first()?;
    if rest.is_empty() {
        return (at < body.items.len()).then(|| body.items.remove(at));
    }
    match &mut body.items.get_mut(at)?.value.kind {
        Kind::Object(inner) => remove_at(inner, rest),
        _ => None,
    }
}

/// How a person names the item at the end of a path of indexes: `server.log_level`, `plugins.KeyManager "disk"`.
pub(crate) fn name_at(body: &Body, path: &[usize]) -> String {
    let mut name = String::new();
    let mut body = Some(body);
    for at in path {
        let Some(item) = body.and_then(|body| body.items.get(*at)) else { break };
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&item.key.text);
        for label in &item.labels {
            name.push_str(" \"");
            name.push_str(&label.text);
            name.push('"');
        }
        body = match &item.value.kind {
            Kind::Object(inner) => Some(inner),
            _ => None,
        };
    }
    name
}

/// How a person names a path.
pub(crate) fn name_of(path: &[Step<'_>]) -> String {
    let steps = path.iter().map(|step| match step {
        Step::Key(key) => (*key).to_owned(),
        Step::Labelled(key, label) => format!("{key} \"{label}\""),
    });
    steps.collect::<Vec<_>>().join(".")
}

/// Gives labelled blocks one shape: in JSON, and in HCL if one likes, `KeyManager { disk { … } }` is the same as
/// `KeyManager "disk" { … }`.
pub(crate) fn label_blocks(body: &mut Body) {
    let mut labelled = Vec::new();
    for item in std::mem::take(&mut body.items) {
        let bodies = match &item.value.kind {
            Kind::Object(body) if item.labels.is_empty() => vec![body],
            Kind::List(list) if item.labels.is_empty() => list
                .iter()
                .filter_map(|value| if let Kind::Object(body) = &value.kind { Some(body) } else { None })
                .collect(),
            _ => Vec::new(),
        };
        let named = bodies.iter().flat_map(|body| &body.items).filter_map(|inner| {
            let bodies = match &inner.value.kind {
                Kind::Object(_) => vec![inner.value.clone()],
                Kind::List(list) => list.clone(),
                _ => return None,
            };
            Some(bodies.into_iter().map(|value| Item {
                key: item.key.clone(),
                labels: vec![inner.key.clone()],
                value,
                assigned: false,
            }))
        });
        let named: Vec<Item> = named.flatten().collect();
        if named.is_empty() { labelled.push(item) } else { labelled.extend(named) }
    }
    body.items = labelled;
}
