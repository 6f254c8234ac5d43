//! Links as an index image holds them: as few bits each as name a slot, and one for the tree's mark, without gaps.
//!
//! A link takes [`width`] bits: the slot's, lowest first, then the mark. Bits fill bytes from the lowest up. Links of all lists
//! follow each other; how many each list has is told elsewhere.

use super::graph::{KEPT, NONE, slot_of};

/// Bytes that a word is read from, wherever its bits begin in the first one.
pub(super) const READ: usize = 8;

/// Bits of a link in a graph that covers so many slots.
pub(super) fn width(covered: u32) -> u32 {
    u32::BITS - covered.saturating_sub(1).leading_zeros() + 1
}

/// Bytes of so many links, and as many behind them as let any link be read as [`READ`] bytes.
pub(super) fn bytes_of(links: u64, covered: u32) -> u64 {
    (links * u64::from(width(covered))).div_ceil(8) + READ as u64
}

/// Links on their way into bytes.
#[derive(Debug)]
pub(super) struct Packer {
    width: u32,
    bits: u64,
    have: u32,
}

impl Packer {
    /// For links of a graph that covers so many slots.
    pub(super) fn new(covered: u32) -> Packer {
        Packer { width: width(covered), bits: 0, have: 0 }
    }

    /// Adds a link: slot and mark. Bytes that are complete go to `out`.
    pub(super) fn push(&mut self, link: u32, out: &mut Vec<u8>) {
        let mark = u64::from(link & KEPT != 0) << (self.width - 1);
        // At most 31 bits are left over, and a link has at most 32.
        self.bits |= (u64::from(slot_of(link)) | mark) << self.have;
        self.have += self.width;
        if self.have >= 32 {
            out.extend_from_slice(&self.bits.to_le_bytes()[..4]);
            self.bits >>= 32;
            self.have -= 32;
        }
    }

    /// Adds what is left, and the bytes behind the last link.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bits.to_le_bytes()[..self.have.div_ceil(8) as usize]);
        out.extend_from_slice(&[0; READ]);
    }
}

/// Reads the links that begin at bit `at` of `bytes`, one for each of `links`; false if one names no slot below `covered`.
#[inline]
pub(super) fn unpack(bytes: &[u8], at: usize, covered: u32, links: &mut [u32]) -> bool {
    let width = width(covered);
    let (slots, mut at, mut fine) = ((1u64 << (width - 1)) - 1, at, true);
    for link in links {
        let word = bytes[at / 8..].first_chunk::<READ>().map_or(u64::MAX, |word| u64::from_le_bytes(*word)) >> (at % 8);
        #[allow(clippy::cast_possible_truncation)] // at most 31 bits
        let slot = (word & slots) as u32;
        fine &= slot < covered;
        *link = if word >> (width - 1) & 1 == 1 { slot | KEPT } else { slot };
        at += width as usize;
    }
    fine
}

/// Lists on their way from an image into a graph, in slot order.
#[derive(Debug)]
pub(super) struct Lists {
    covered: u32,
    degrees: Vec<u16>,
    /// The list that comes next.
    next: usize,
    /// Bytes whose lists are not taken yet, and the bit of them at which the next one begins.
    pending: Vec<u8>,
    bit: usize,
}

impl Lists {
    /// Nothing yet of a graph that will cover so many slots.
    pub(super) fn new(covered: u32) -> Lists {
        Lists { covered, degrees: Vec::with_capacity(covered as usize), next: 0, pending: Vec::new(), bit: 0 }
    }

    /// Takes how many links the next list has.
    pub(super) fn take_degree(&mut self, degree: u16) {
        self.degrees.push(degree);
    }

    /// Links in all lists.
    pub(super) fn links(&self) -> u64 {
        self.degrees.iter().map(|&degree| u64::from(degree)).sum()
    }

    /// Takes the next bytes, whatever lists they cut.
    pub(super) fn take_bytes(&mut self, bytes: &[u8]) {
        let used = (self.bit / 8).min(self.pending.len());
        self.pending.drain(..used);
        self.bit -= 8 * used;
        self.pending.extend_from_slice(bytes);
    }

    /// Fills `words` with the next list, [`NONE`] behind its last link. `None` if not all of its bytes are here yet, or there
    /// is no further one; else whether its links make sense. `words` has room for the longest list.
    #[inline]
    pub(super) fn next(&mut self, words: &mut [u32]) -> Option<bool> {
        let degree = usize::from(*self.degrees.get(self.next)?);
        let bits = degree * width(self.covered) as usize;
        if (self.bit + bits) / 8 + READ > self.pending.len() {
            return None;
        }
        let (links, rest) = words.split_at_mut(degree);
        rest.fill(NONE);
        let fine = unpack(&self.pending, self.bit, self.covered, links);
        self.bit += bits;
        self.next += 1;
        Some(fine)
    }

    /// Whether every covered slot's list was taken.
    pub(super) fn are_all(&self) -> bool {
        self.next == self.covered as usize
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // numbers of a test are small
mod tests {
    use super::*;
    use crate::index::testing::Random;

    #[test]
    fn links_come_back_however_many_slots_there_are_and_however_bytes_are_cut() {
        let mut random = Random(3);
        for covered in [1, 2, 3, 64, 65, 1_000, 1 << 20, super::super::graph::MAX_SLOTS] {
            let lists: Vec<Vec<u32>> = (0..200.min(covered))
                .map(|_| {
                    let degree = random.below(33);
                    (0..degree)
                        .map(|i| if i % 5 == 0 { KEPT } else { 0 } | (random.next() % u64::from(covered)) as u32)
                        .collect()
                })
                .collect();
            let (mut packer, mut bytes) = (Packer::new(covered), Vec::new());
            lists.iter().flatten().for_each(|&link| packer.push(link, &mut bytes));
            packer.finish(&mut bytes);
            let links = lists.iter().map(|list| list.len() as u64).sum();
            assert_eq!(bytes.len() as u64, bytes_of(links, covered));
            for step in [1, 7, 64, 10_000] {
                let mut taken = Lists::new(lists.len() as u32);
                taken.covered = covered;
                lists.iter().for_each(|list| taken.take_degree(list.len() as u16));
                let (mut words, mut found) = ([7; 40], Vec::new());
                for bytes in bytes.chunks(step) {
                    taken.take_bytes(bytes);
                    while let Some(fine) = taken.next(&mut words) {
                        assert!(fine);
                        found.push(words.iter().copied().take_while(|&word| word != NONE).collect::<Vec<_>>());
                    }
                }
                assert_eq!(found, lists, "{covered} slots, {step} bytes at a time");
            }
        }
    }

    /// The example of docs/FORMAT.md.
    #[test]
    fn the_bytes_of_links_are_those_of_the_format() {
        let (mut packer, mut bytes) = (Packer::new(5), Vec::new());
        [1, 4 | KEPT, 2].into_iter().for_each(|link| packer.push(link, &mut bytes));
        packer.finish(&mut bytes);
        assert_eq!(bytes, [0xC1, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_link_takes_no_bit_more_than_it_needs() {
        assert_eq!([0, 1, 2, 3, 4, 5, 1 << 20, (1 << 20) + 1].map(width), [1, 1, 2, 3, 3, 4, 21, 22]);
    }

    #[test]
    fn a_link_past_the_graph_makes_no_sense() {
        for (slot, sense) in [(249, true), (250, false), (255, false)] {
            let (mut packer, mut bytes) = (Packer::new(250), Vec::new());
            packer.push(slot, &mut bytes);
            packer.finish(&mut bytes);
            assert_eq!(unpack(&bytes, 0, 250, &mut [0]), sense);
        }
    }
}
