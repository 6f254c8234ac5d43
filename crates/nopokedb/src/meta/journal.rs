//! SQLite's rollback journal, applied to a database in memory: what SQLite does when it opens a file whose last writer died
//! in the middle of a transaction, without touching the file. Format: <https://www.sqlite.org/fileformat2.html#the_rollback_journal>.

use std::collections::HashSet;

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
const HEADER: usize = 28;

/// What is wrong with a journal: where, and what.
pub(super) type Fault = (usize, &'static str);

/// Puts the pages that `journal` has kept back into `database`.
pub(super) fn roll_back(database: &mut Vec<u8>, journal: &[u8]) -> Result<(), Fault> {
    // A journal whose transaction has ended is removed, cut to nothing, or begins with zeros.
    if journal.first().is_none_or(|b| *b == 0) {
        return Ok(());
    }
    let Some(first) = Header::read(journal, 0) else { return Err((0, "the journal has no header")) };
    let (page, sector) = (first.page_len, first.sector_len);
    if !((512..=65_536).contains(&page) && page.is_power_of_two()) {
        return Err((24, "the journal's page size is impossible"));
    }
    if !((32..=65_536).contains(&sector) && sector.is_power_of_two()) {
        return Err((20, "the journal's sector size is impossible"));
    }
    let whole = first.pages.checked_mul(page).filter(|len| *len <= database.len() + journal.len());
    let Some(whole) = whole else { return Err((16, "the journal's database size is impossible")) };
    database.truncate(whole);
    let mut at = 0;
    let mut restored = HashSet::new();
    while let Some(header) = Header::read(journal, at) {
        at += sector;
        let counted = header.records != u32::MAX;
        let records = if counted { header.records as usize } else { journal.len().saturating_sub(at) / (page + 8) };
        for _ in 0..records {
            match journal.get(at..at + page + 8) {
                Some(record) if restore(database, whole, record, header.nonce) => {
                    // The checksum does not cover the number.
                    if !restored.insert(u32_at(record, 0)) {
                        return Err((at, "the journal has a page twice"));
                    }
                }
                // Counted records were synced before they were counted.
                _ if counted => return Err((at, "a page in the journal is not as it was written")),
                _ => return Ok(()),
            }
            at += page + 8;
        }
        at = at.next_multiple_of(sector);
    }
    Ok(())
}

struct Header {
    records: u32,
    nonce: u32,
    pages: usize,
    sector_len: usize,
    page_len: usize,
}

impl Header {
    fn read(journal: &[u8], at: usize) -> Option<Header> {
        let bytes = journal.get(at..at.checked_add(HEADER)?).filter(|bytes| bytes[..8] == MAGIC)?;
        let number = |i: usize| u32_at(bytes, 8 + 4 * i);
        let size = |i: usize| number(i) as usize;
        Some(Header { records: number(0), nonce: number(1), pages: size(2), sector_len: size(3), page_len: size(4) })
    }
}

/// Puts one page back; `false` if it does not match its checksum, or is none that was there before the transaction.
fn restore(database: &mut Vec<u8>, whole: usize, record: &[u8], nonce: u32) -> bool {
    let (no, rest) = record.split_at(4);
    let (page, sum) = rest.split_at(rest.len() - 4);
    let sampled = (1..).map_while(|i| page.len().checked_sub(200 * i).filter(|at| *at > 0));
    let expected = sampled.fold(nonce, |sum, at| sum.wrapping_add(u32::from(page[at])));
    let no = u32_at(no, 0) as usize;
    let end = no.checked_mul(page.len()).filter(|end| (1..=whole).contains(end));
    let Some(end) = end.filter(|_| u32_at(sum, 0) == expected) else { return false };
    if database.len() < end {
        database.resize(end, 0);
    }
    database[end - page.len()..end].copy_from_slice(page);
    true
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
