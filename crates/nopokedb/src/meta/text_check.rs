//! Whether a collection's text index is what its documents make it: what `check()` asks of it.
//!
//! FTS5 itself looks whether its tables are sound (`quick_check`); whether they have the words of the documents it cannot say,
//! for it keeps no copy of the text. So the documents are cut again.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::connection::{Outcome, Trouble};
use super::readers::Reader;
use super::records::signed;
use super::text::{Scratch, every_word};
use crate::types::{CollectionId, Lsn, Tokenizer};

/// Documents are cut again so many bytes at a time.
const AT_ONCE: usize = 256 << 10;

impl Reader<'_> {
    /// That the text index of `collection` has each document that its rows have, and no other, and of each document the words
    /// that its tokenizer cuts it into, at their places, and no other.
    pub(super) fn verify_text(&self, collection: CollectionId) -> Outcome<()> {
        let tokenizer = self.text_tokenizer(collection)?;
        let documents = "SELECT lsn FROM records WHERE collection = ?1 AND document IS NOT NULL";
        let indexed = match tokenizer {
            Some(_) => format!("SELECT id FROM text_{}_docsize", collection.0),
            None => "SELECT NULL WHERE FALSE".into(),
        };
        let count = |of: &str, but: &str| -> Outcome<i64> {
            let sql = format!("SELECT count(*) FROM (SELECT * FROM ({of}) EXCEPT SELECT * FROM ({but})) WHERE ?1 = ?1");
            Ok(self.conn().query_row(&sql, [collection.0], |row| row.get(0))?)
        };
        let (missing, foreign) = (count(documents, &indexed)?, count(&indexed, documents)?);
        if missing + foreign != 0 {
            return Err(Trouble::Damaged(format!(
                "the text index of collection {} lacks {missing} documents and has {foreign} that no row has",
                collection.0
            )));
        }
        tokenizer.map_or(Ok(()), |tokenizer| self.verify_words(collection, tokenizer))
    }

    /// Adds up a number for each word and place that the index has of a document, and for how many it says there are, and
    /// takes off what the document cut again has: all must come to zero.
    fn verify_words(&self, collection: CollectionId, tokenizer: Tokenizer) -> Outcome<()> {
        let mut sums: HashMap<i64, u64> = HashMap::new();
        let mut add = |document, number| {
            let sum: &mut u64 = sums.entry(document).or_default();
            *sum = sum.wrapping_add(number);
        };
        every_word(self.conn(), &format!("text_{}_words", collection.0), &mut |document, word, place| {
            add(document, number_of(word, place));
        })?;
        self.text_lengths(collection, Lsn(0), &mut |lsn, words| {
            add(signed(lsn.0), EACH.wrapping_mul(u64::from(words)));
        })?;
        let again = Scratch::new(tokenizer)?;
        let mut take_off = |documents: &mut Vec<(i64, String)>| {
            let done = again.each_word(documents, &mut |document, word, place| {
                add(document, number_of(word, place).wrapping_add(EACH).wrapping_neg());
            });
            documents.clear();
            done
        };
        let sql = "SELECT lsn, document FROM records WHERE collection = ?1 AND document IS NOT NULL";
        let mut statement = self.conn().prepare(sql)?;
        let mut rows = statement.query([collection.0])?;
        let (mut documents, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let document: String = row.get(1)?;
            bytes += document.len();
            documents.push((row.get(0)?, document));
            if bytes >= AT_ONCE {
                take_off(&mut documents)?;
                bytes = 0;
            }
        }
        take_off(&mut documents)?;
        let wrong = sums.values().filter(|sum| **sum != 0).count();
        if wrong == 0 {
            return Ok(());
        }
        let message =
            format!("the text index of collection {} has other words than {wrong} of its documents", collection.0);
        Err(Trouble::Damaged(message))
    }
}

/// What each word counts in a document's sum, beside what follows from the word: an odd number of no meaning.
const EACH: u64 = 0x9E37_79B9_7F4A_7C15;

/// A number that another word, or another place, hardly has.
fn number_of(word: &[u8], place: i64) -> u64 {
    xxh3_64_with_seed(word, u64::from_ne_bytes(place.to_ne_bytes()))
}
