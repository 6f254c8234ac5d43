//! A set of slots, one bit each.

use crate::types::Slot;

/// Some of the slots below a length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    len: u32,
    words: Vec<u64>,
}

impl Bits {
    /// None of `len` slots.
    pub(crate) fn none(len: u32) -> Bits {
        Bits { len, words: vec![0; len.div_ceil(64) as usize] }
    }

    /// All of `len` slots.
    pub(crate) fn all(len: u32) -> Bits {
        let mut bits = Bits { len, words: vec![u64::MAX; len.div_ceil(64) as usize] };
        bits.trim();
        bits
    }

    /// What `fill` sets of `len` slots.
    pub(crate) fn filled(len: u32, fill: impl FnOnce(&mut [u64])) -> Bits {
        let mut bits = Bits::none(len);
        fill(&mut bits.words);
        bits.trim();
        bits
    }

    /// The same slots of a larger number.
    pub(crate) fn grown(&self, len: u32) -> Bits {
        let mut words = Vec::with_capacity(len.div_ceil(64) as usize);
        words.extend_from_slice(&self.words);
        words.resize(len.div_ceil(64) as usize, 0);
        Bits { len, words }
    }

    /// Clears what is past the length in the last word.
    fn trim(&mut self) {
        if let Some(last) = self.words.last_mut().filter(|_| !self.len.is_multiple_of(64)) {
            *last &= (1 << (self.len % 64)) - 1;
        }
    }

    /// How many slots there are to choose from.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// One bit a slot.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        8 * self.words.capacity()
    }

    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.words.get(slot.index() / 64).is_some_and(|word| word >> (slot.0 % 64) & 1 == 1)
    }

    pub(crate) fn set(&mut self, slot: Slot) {
        self.words[slot.index() / 64] |= 1 << (slot.0 % 64);
    }

    /// How many slots are in the set.
    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Takes out what is not in `other`, which is as long.
    pub(crate) fn keep(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    /// Takes out what is in `other`.
    pub(crate) fn remove(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    /// Puts in what is in `other`.
    pub(crate) fn add(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    /// Takes out the slots for which `keeps` does not hold.
    pub(crate) fn retain<E>(&mut self, mut keeps: impl FnMut(Slot) -> Result<bool, E>) -> Result<(), E> {
        for (first, word) in (0u32..).step_by(64).zip(&mut self.words) {
            for slot in (Ones { first, word: *word }) {
                if !keeps(slot)? {
                    *word &= !(1 << (slot.0 % 64));
                }
            }
        }
        Ok(())
    }

    /// The first slot from `from` on.
    pub(crate) fn next(&self, from: u32) -> Option<Slot> {
        let place = from as usize / 64;
        let head = self.words.get(place)? & (u64::MAX << (from % 64));
        let rest = self.words[place + 1..].iter().copied();
        let mut words = (place..).zip(std::iter::once(head).chain(rest));
        let (place, word) = words.find(|(_, word)| *word != 0)?;
        Some(Slot(u32::try_from(place).ok()? * 64 + word.trailing_zeros()))
    }

    /// The slots in the set, in order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0u32..).step_by(64).zip(&self.words).flat_map(|(first, &word)| Ones { first, word })
    }
}

/// The set bits of a word, as slots.
struct Ones {
    first: u32,
    word: u64,
}

impl Iterator for Ones {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some(Slot(self.first + bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_do_what_sets_do_at_every_length() {
        for len in [0, 1, 63, 64, 65, 200] {
            let all = Bits::all(len);
            assert_eq!(all.count(), len as usize);
            let mut odd = Bits::filled(len, |words| words.fill(0xAAAA_AAAA_AAAA_AAAA));
            assert!(odd.slots().map(|slot| slot.0).eq((0..len).filter(|i| i % 2 == 1)), "{len}");
            let mut even = all.clone();
            even.remove(&odd);
            assert!(even.slots().map(|slot| slot.0).eq((0..len).step_by(2)));
            even.retain(|slot| Ok::<_, ()>(slot.0 % 4 == 0)).expect("no error");
            assert!(even.slots().map(|slot| slot.0).eq((0..len).step_by(4)));
            assert!(
                (0..len).all(|i| even.next(i) == even.slots().find(|slot| slot.0 >= i)) && odd.next(len + 64).is_none()
            );
            even.add(&odd);
            odd.keep(&Bits::none(len));
            assert_eq!((odd.count(), even.count()), (0, (len / 2 + len.div_ceil(4)) as usize));
            let grown = even.grown(len + 70);
            assert!(grown.slots().eq(even.slots()) && !grown.contains(Slot(len + 69)) && !even.contains(Slot(len)));
        }
    }
}
