//! How much memory a request takes once it is decoded, told from its bytes before it is.
//!
//! In protobuf an empty item of a list is two bytes; as a structure it is dozens or hundreds. So a message within
//! the limit of 4 MiB could grow to many times that, for whoever may call at all. `make proto` writes the shape of
//! every request ([`Shape`]), with the sizes that the compiler gives the structures; a walk over the bytes adds up
//! what they will take. See docs/decisions/0023-requests-that-grow.md.

use prost::{DecodeError, Message};
use tonic::Status;

/// Requests up to this many bytes are not looked at: they cannot grow to much.
const SMALL: usize = 4 << 10;

/// A request may take this many bytes of memory for each of its own. Real ones take two to six: lists of entries, the
/// most expensive, hold IDs and selectors that are long beside their structures.
pub const MOST_FOR_EACH_BYTE: usize = 10;

/// What a stored message may take however short it is, in bytes.
const LEAST: usize = 2 << 10;

/// How deep messages may lie in each other; prost refuses more, too.
const DEPTH: usize = 100;

/// A message's fields, as far as they take memory beside the message itself.
#[derive(Debug)]
pub struct Shape {
    pub(crate) fields: &'static [(u32, Kind)],
}

/// What a field takes.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A string or bytes: its length.
    Text,
    /// Strings or bytes in a list: each its length and its place in the list.
    Texts,
    /// A message that is part of its parent: what is in it.
    Message(&'static Shape),
    /// Messages in a list or map: each its size in bytes, and what is in it.
    Messages(&'static Shape, usize),
}

/// A message that a codec may decode. Written by `make proto`.
pub trait Shaped {
    /// The shape of a request; `None` for messages that only a verified server sends.
    const SHAPE: Option<&'static Shape>;
}

/// Why a stored message was not decoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadStored {
    /// It is no protobuf of this message.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// It would take far more memory than bytes: lists of empty items, which nothing of ours writes.
    #[error("its {bytes} bytes would take more than {MOST_FOR_EACH_BYTE} times that in memory")]
    TooMuch {
        /// How many there are.
        bytes: usize,
    },
}

/// Decodes what was stored, if it takes no more than [`MOST_FOR_EACH_BYTE`], or a little.
///
/// # Errors
/// It is damaged, or would take too much.
pub fn decode_stored<T: Message + Shaped + Default>(bytes: &[u8]) -> Result<T, BadStored> {
    if let Some(shape) = T::SHAPE {
        let mut left = bytes.len().saturating_mul(MOST_FOR_EACH_BYTE).max(LEAST);
        if let Err(Refused::TooMuch) = walk(shape, bytes, &mut left, 0) {
            return Err(BadStored::TooMuch { bytes: bytes.len() });
        }
    }
    Ok(T::decode(bytes)?)
}

/// Refuses a request that would take more than [`MOST_FOR_EACH_BYTE`].
///
/// # Errors
/// `ResourceExhausted`, or `Internal` for what is no protobuf, as prost's decoder says it.
pub fn check(shape: &Shape, message: &[u8]) -> Result<(), Status> {
    if message.len() <= SMALL {
        return Ok(());
    }
    let mut left = message.len().saturating_mul(MOST_FOR_EACH_BYTE);
    match walk(shape, message, &mut left, 0) {
        Ok(()) => Ok(()),
        Err(Refused::TooMuch) => Err(Status::resource_exhausted(format!(
            "the request's {} bytes would take more than {MOST_FOR_EACH_BYTE} times that in memory; send fewer \
             items at once, and none that are empty",
            message.len()
        ))),
        Err(Refused::Malformed) => Err(Status::internal("failed to decode Protobuf message")),
    }
}

enum Refused {
    TooMuch,
    Malformed,
}

fn walk(shape: &Shape, mut rest: &[u8], left: &mut usize, depth: usize) -> Result<(), Refused> {
    if depth > DEPTH {
        return Err(Refused::Malformed);
    }
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let number = u32::try_from(key >> 3).or(Err(Refused::Malformed))?;
        let kind = shape.fields.iter().find(|(known, _)| *known == number).map(|(_, kind)| kind);
        match key & 7 {
            0 => drop(varint(&mut rest)?),
            1 => drop(split(&mut rest, 8)?),
            5 => drop(split(&mut rest, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).or(Err(Refused::Malformed))?;
                let content = split(&mut rest, length)?;
                match kind {
                    None => {}
                    Some(Kind::Text) => take(left, length)?,
                    Some(Kind::Texts) => take(left, length.saturating_add(size_of::<String>()))?,
                    Some(Kind::Message(inner)) => walk(inner, content, left, depth + 1)?,
                    Some(Kind::Messages(inner, size)) => {
                        take(left, *size)?;
                        walk(inner, content, left, depth + 1)?;
                    }
                }
            }
            // Groups: nothing that is alive writes them, and skipping them would have to be as prost does it.
            _ => return Err(Refused::Malformed),
        }
    }
    Ok(())
}

fn take(left: &mut usize, bytes: usize) -> Result<(), Refused> {
    *left = left.checked_sub(bytes).ok_or(Refused::TooMuch)?;
    Ok(())
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Refused> {
    let (content, after) = rest.split_at_checked(length).ok_or(Refused::Malformed)?;
    *rest = after;
    Ok(content)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Refused> {
    prost::encoding::decode_varint(rest).or(Err(Refused::Malformed))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::spire::api::server::entry::v1::{BatchCreateEntryRequest, SyncAuthorizedEntriesRequest};
    use crate::spire::api::types::{Entry, Selector, Spiffeid};

    fn verdict<T: Message + Shaped>(message: &T) -> Result<(), Status> {
        check(T::SHAPE.unwrap(), &message.encode_to_vec())
    }

    fn id(path: &str) -> Option<Spiffeid> {
        Some(Spiffeid { trust_domain: "a.b".to_owned(), path: path.to_owned() })
    }

    #[test]
    fn the_smallest_entries_that_mean_something_are_taken() {
        let entry = |n: u32| Entry {
            spiffe_id: id(&format!("/{n}")),
            parent_id: id("/p"),
            selectors: vec![Selector { r#type: "unix".to_owned(), value: format!("uid:{n}") }],
            ..Entry::default()
        };
        verdict(&BatchCreateEntryRequest { entries: (0..20_000).map(entry).collect(), ..Default::default() })
            .unwrap();
        let ids = (0..50_000).map(|n| format!("{n:036}")).collect();
        verdict(&SyncAuthorizedEntriesRequest { ids, ..Default::default() }).unwrap();
    }

    #[test]
    fn empty_items_are_refused_before_they_are_decoded() {
        let empty = |entries| verdict(&BatchCreateEntryRequest { entries, ..Default::default() });
        for entries in [
            vec![Entry::default(); 10_000],
            vec![Entry { selectors: vec![Selector::default(); 10_000], ..Entry::default() }],
            vec![Entry { dns_names: vec![String::new(); 10_000], ..Entry::default() }],
        ] {
            assert_eq!(empty(entries).unwrap_err().code(), Code::ResourceExhausted);
        }
        empty(vec![Entry::default(); 2000]).unwrap();
        // A real one before them does not help.
        let mut bytes = BatchCreateEntryRequest::default().encode_to_vec();
        bytes.extend([10, 0].repeat(100_000));
        let shape = BatchCreateEntryRequest::SHAPE.unwrap();
        assert_eq!(check(shape, &bytes).unwrap_err().code(), Code::ResourceExhausted);
    }

    #[test]
    fn what_is_no_protobuf_is_refused() {
        let shape = BatchCreateEntryRequest::SHAPE.unwrap();
        for bytes in [vec![0xff; 8192], [11, 12].repeat(4096), [10, 0xff, 0x7f].repeat(3000)] {
            assert_eq!(check(shape, &bytes).unwrap_err().code(), Code::Internal);
        }
    }
}
