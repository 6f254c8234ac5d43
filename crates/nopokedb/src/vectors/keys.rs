//! Text ids: which record number a text has.
//!
//! A record with a text id has a number from 2^63 on, made of the text's hash, so that the map of ids needs nothing more for
//! it than for an integer: no text is kept in memory. The text itself is the record's key in the log, and it decides.
//!
//! Invariants:
//! 1. A live record with a key has one of the [`PLACES`] numbers that its key's hash leads to, and no other live record of
//!    the collection has the same key.
//! 2. A number is given to a text only while no live record has it; a record keeps its number as long as it lives.
//! 3. These numbers are on the disk (docs/FORMAT.md): the hash never changes.
//!
//! Threading: pure functions.

use xxhash_rust::xxh3::xxh3_64;

use crate::types::{Id, RecordId};

/// How many numbers a text may have. That four others with the same 63 bits of hash live at once does not happen by chance.
pub(crate) const PLACES: usize = 4;

/// The numbers that the record of `text` may have, in the order in which they are looked at.
pub(crate) fn places(text: &str) -> impl Iterator<Item = RecordId> + use<> {
    let hash = xxh3_64(text.as_bytes());
    (0..PLACES as u64).map(move |n| RecordId(hash.wrapping_add(n) | RecordId::FIRST_TEXT))
}

/// The numbers that any text which may have `record` may have: its own among them. An integer has its own alone.
pub(crate) fn relatives(record: RecordId) -> impl Iterator<Item = RecordId> {
    let reach = if record.is_text() { PLACES as u64 - 1 } else { 0 };
    (0..=2 * reach).map(move |n| match reach {
        0 => record,
        _ => RecordId(record.0.wrapping_add(n).wrapping_sub(reach) | RecordId::FIRST_TEXT),
    })
}

/// The first number that the record of `id` may have: what its writers hold while they look.
pub(crate) fn first_place(id: &Id) -> RecordId {
    match id {
        Id::Int(number) => RecordId(*number),
        Id::Text(text) => RecordId(xxh3_64(text.as_bytes()) | RecordId::FIRST_TEXT),
    }
}

/// The id of a record as callers see it.
pub(crate) fn public_id(record: RecordId, key: Option<&str>) -> Id {
    key.map_or(Id::Int(record.0), Id::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_text_are_what_the_format_says() {
        let numbers: Vec<u64> = places("doc-1").map(|place| place.0).collect();
        assert_eq!(numbers[0], xxh3_64(b"doc-1") | 1 << 63);
        assert!(numbers.windows(2).all(|w| w[1] == (w[0] + 1) | 1 << 63));
        assert_eq!(first_place(&Id::from("doc-1")).0, numbers[0]);
    }

    #[test]
    fn relatives_are_all_numbers_that_a_text_with_one_of_its_numbers_may_have() {
        for first in [0, 1, 2, 77, (1 << 63) - 1, (1 << 63) - 3] {
            let all: Vec<RecordId> = (0..4).map(|n: u64| RecordId((first + n) | RecordId::FIRST_TEXT)).collect();
            for one in &all {
                let relatives: Vec<RecordId> = relatives(*one).collect();
                assert!(all.iter().all(|place| relatives.contains(place)), "{first}: {one:?}");
            }
        }
        assert_eq!(relatives(RecordId(2)).collect::<Vec<_>>(), [RecordId(2)]);
    }

    #[test]
    fn an_integer_is_its_own_number() {
        assert_eq!(first_place(&Id::Int(7)), RecordId(7));
        assert_eq!((public_id(RecordId(7), None), public_id(RecordId(7), Some("x"))), (Id::Int(7), Id::from("x")));
    }
}
