//! The index file of hnswlib 0.8 (`hnsw_index.bin`), as nopokedb 0.5.1 saved it on a little-endian 64-bit machine.
//!
//! | offset | size | field | must be |
//! |---:|---:|---|---|
//! | 0 | 8 | offset of level 0 in an element | 0 |
//! | 8 | 8 | capacity | at least count |
//! | 16 | 8 | count of elements | |
//! | 24 | 8 | bytes of an element | label offset + 8 |
//! | 32 | 8 | label offset | vector offset + 4 dim |
//! | 40 | 8 | vector offset | 4 + 8 M |
//! | 48 | 4 | highest level, i32 | that of the lists; -1 if there is no element |
//! | 52 | 4 | entry point | below count; 2^32 - 1 if there is no element |
//! | 56, 64, 72 | 8 | links above level 0, links on level 0, M | M, 2 M, M |
//! | 80 | 8 | f64 | 1 / ln M |
//! | 88 | 8 | ef_construction | at least M |
//! | 96 | | elements: u16 count of links, u8 deleted, u8 0, 2 M links of 4 bytes, the vector, the label (8 bytes) | |
//! | | | for each element: u32 length, and that many bytes of links above level 0: (4 + 4 M) for each level | |
//!
//! There is no checksum, but nearly everything in the header follows from M, the dimension and the file's length, and is
//! compared with them. Links are not used; that they point at elements shows that the elements lie where the header says.

use std::collections::HashSet;

use super::window::Window;
use crate::error::Result;

const HEADER: u64 = 96;
/// hnswlib allows no more.
const MAX_M: u64 = 10_000;

/// An opened index file whose header fits its length.
#[derive(Debug)]
pub(super) struct OldIndex {
    file: Window,
    pub(super) count: u32,
    pub(super) dim: usize,
    pub(super) m: usize,
    pub(super) ef_construction: usize,
    max_level: i32,
}

/// One element of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) label: u64,
    pub(super) no: u32,
    pub(super) deleted: bool,
}

impl OldIndex {
    /// Reads and checks the header.
    pub(super) fn open(mut file: Window) -> Result<OldIndex> {
        if file.len() < HEADER {
            return Err(file.damaged(file.len(), "the file ends inside its header"));
        }
        let bytes: [u8; 96] = file.bytes(0, 96)?.try_into().expect("96 bytes were read");
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (m, count, ef_construction) = (word(72), word(16), word(88));
        let require = |holds: bool, at: u64, what: &str| if holds { Ok(()) } else { Err(file.damaged(at, what)) };
        require((1..=MAX_M).contains(&m), 72, "M is out of range")?;
        require(word(0) == 0, 0, "elements do not begin with their links")?;
        require(word(56) == m, 56, "the number of links is not M")?;
        require(word(64) == 2 * m, 64, "the number of links on the ground level is not 2 M")?;
        require(word(40) == 4 + 8 * m, 40, "vectors do not lie behind the links")?;
        let floats = word(32).checked_sub(4 + 8 * m).filter(|bytes| *bytes > 0 && bytes.is_multiple_of(4));
        require(floats.is_some(), 32, "the space for a vector is not a whole number of floats")?;
        require(word(32).checked_add(8) == Some(word(24)), 24, "an element's length does not fit its parts")?;
        let end = word(24).checked_mul(count).and_then(|len| len.checked_add(HEADER + 4 * count));
        let fits = count < u64::from(u32::MAX) && end.is_some_and(|end| end <= file.len());
        require(fits, 16, "the count of elements does not fit the file's length")?;
        require(word(8) >= count, 8, "there are more elements than the capacity")?;
        let mult = f64::from_bits(word(80)) * (m as f64).ln();
        require(m == 1 || (mult - 1.0).abs() < 1e-6, 80, "the level factor is not 1 / ln M")?;
        require(ef_construction >= m, 88, "ef_construction is below M")?;
        let (max_level, entry) = (i32::from_le_bytes(half(48).to_le_bytes()), half(52));
        let entry_fits = if count == 0 { entry == u32::MAX } else { u64::from(entry) < count };
        require(entry_fits, 52, "the entry point is no element")?;
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let dim = number(floats.unwrap_or(0) / 4);
        let (count, m, ef_construction) = (u32::try_from(count).unwrap_or(0), number(m), number(ef_construction));
        Ok(OldIndex { file, count, dim, m, ef_construction, max_level })
    }

    fn element_len(&self) -> usize {
        4 + 8 * self.m + 4 * self.dim + 8
    }

    fn offset(&self, no: u32) -> u64 {
        HEADER + u64::from(no) * self.element_len() as u64
    }

    /// All elements, in the order of the file. Checks what lies between and behind their vectors.
    pub(super) fn elements(&mut self) -> Result<Vec<Element>> {
        let (len, links, label_at) = (self.element_len(), 2 * self.m, self.element_len() - 8);
        let mut elements = Vec::with_capacity(self.count as usize);
        let mut labels = HashSet::with_capacity(self.count as usize);
        for no in 0..self.count {
            let (offset, count) = (self.offset(no), self.count);
            let bytes = self.file.bytes(offset, len)?;
            let linked = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
            let mut targets = bytes[4..].chunks_exact(4).take(linked.min(links));
            let stray = targets.any(|l| u32::from_le_bytes(l.try_into().expect("four bytes")) >= count);
            if linked > links || bytes[2] > 1 || bytes[3] != 0 || stray {
                return Err(self.file.damaged(offset, format!("the links of element {no} are none")));
            }
            let label = u64::from_le_bytes(bytes[label_at..].try_into().expect("eight bytes"));
            elements.push(Element { label, no, deleted: bytes[2] == 1 });
            if !labels.insert(label) {
                let at = offset + label_at as u64;
                return Err(self.file.damaged(at, format!("the id {label} was there before")));
            }
        }
        self.check_upper_lists()?;
        Ok(elements)
    }

    /// The lists above level 0 fill the file to its end.
    fn check_upper_lists(&mut self) -> Result<()> {
        let level_len = 4 + 4 * self.m as u64;
        let mut at = self.offset(self.count);
        let mut highest = if self.count == 0 { -1 } else { 0 };
        for _ in 0..self.count {
            let len = u32::from_le_bytes(self.file.bytes(at, 4)?.try_into().expect("four bytes"));
            if !u64::from(len).is_multiple_of(level_len) {
                return Err(self.file.damaged(at, "a list of links has an impossible length"));
            }
            highest = highest.max(i64::try_from(u64::from(len) / level_len).unwrap_or(i64::MAX));
            at += 4 + u64::from(len);
        }
        if at != self.file.len() {
            let what = format!("the lists of links end at byte {at}, the file at {}", self.file.len());
            return Err(self.file.damaged(at.min(self.file.len()), what));
        }
        if highest != i64::from(self.max_level) {
            return Err(self.file.damaged(48, "the highest level is not that of the highest element"));
        }
        Ok(())
    }

    /// Puts the vector of element `no` in the place of `vector`.
    pub(super) fn vector(&mut self, no: u32, vector: &mut Vec<f32>) -> Result<()> {
        let at = self.offset(no) + 4 + 8 * self.m as u64;
        let bytes = self.file.bytes(at, 4 * self.dim)?;
        vector.clear();
        vector.extend(bytes.chunks_exact(4).map(|f| f32::from_le_bytes(f.try_into().expect("four bytes"))));
        Ok(())
    }
}
