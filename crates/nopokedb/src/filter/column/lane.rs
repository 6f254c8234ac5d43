//! The values of one kind that rows have at a path, each with the rows that have it.
//!
//! Invariants:
//! 1. Keys ascend and none comes twice; `slots[ends[i - 1]..ends[i]]` are the rows with key `i`, ascending, none twice.
//! 2. So the rows whose values lie within bounds are one run of `slots`.

use std::cmp::Ordering;
use std::ops::Range;

use crate::filter::ast::{Scalar, integer_to_float};

/// A place to keep keys of one kind.
pub(super) trait Keys: Default {
    type Key<'a>: Copy + Ord
    where
        Self: 'a;
    fn len(&self) -> usize;
    fn get(&self, i: usize) -> Self::Key<'_>;
    fn push(&mut self, key: Self::Key<'_>);
    fn bytes(&self) -> usize;
    /// The key as a value.
    fn scalar(key: Self::Key<'_>) -> Scalar;
    /// The order of a key to an operand, if they are of one kind.
    fn compare(key: Self::Key<'_>, operand: &Scalar) -> Option<Ordering>;
}

/// A float that is not NaN, `-0.0` being `0.0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Float(pub(super) f64);

impl Float {
    pub(super) fn new(float: f64) -> Option<Float> {
        (!float.is_nan()).then_some(Float(float + 0.0))
    }
}

impl Eq for Float {}

impl PartialOrd for Float {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Float {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A key that is kept as it is.
pub(super) trait Plain: Copy + Ord {
    fn scalar(self) -> Scalar;
    fn compare(self, operand: &Scalar) -> Option<Ordering>;
}

/// Null.
impl Plain for () {
    fn scalar(self) -> Scalar {
        Scalar::Null
    }

    fn compare(self, operand: &Scalar) -> Option<Ordering> {
        matches!(operand, Scalar::Null).then_some(Ordering::Equal)
    }
}

impl Plain for bool {
    fn scalar(self) -> Scalar {
        Scalar::Bool(self)
    }

    fn compare(self, operand: &Scalar) -> Option<Ordering> {
        match operand {
            Scalar::Bool(b) => Some(self.cmp(b)),
            _ => None,
        }
    }
}

impl Plain for i128 {
    fn scalar(self) -> Scalar {
        Scalar::Integer(self)
    }

    fn compare(self, operand: &Scalar) -> Option<Ordering> {
        match operand {
            Scalar::Integer(b) => Some(self.cmp(b)),
            Scalar::Float(b) => Some(integer_to_float(self, *b)),
            _ => None,
        }
    }
}

impl Plain for i64 {
    fn scalar(self) -> Scalar {
        Scalar::Integer(i128::from(self))
    }

    fn compare(self, operand: &Scalar) -> Option<Ordering> {
        Plain::compare(i128::from(self), operand)
    }
}

impl Plain for Float {
    fn scalar(self) -> Scalar {
        Scalar::Float(self.0)
    }

    fn compare(self, operand: &Scalar) -> Option<Ordering> {
        match operand {
            Scalar::Integer(b) => Some(integer_to_float(*b, self.0).reverse()),
            Scalar::Float(b) => self.0.partial_cmp(b),
            _ => None,
        }
    }
}

impl<T: Plain> Keys for Vec<T> {
    type Key<'a>
        = T
    where
        T: 'a;

    fn len(&self) -> usize {
        self.len()
    }

    fn get(&self, i: usize) -> T {
        self[i]
    }

    fn push(&mut self, key: T) {
        self.push(key);
    }

    fn bytes(&self) -> usize {
        self.capacity() * size_of::<T>()
    }

    fn scalar(key: T) -> Scalar {
        key.scalar()
    }

    fn compare(key: T, operand: &Scalar) -> Option<Ordering> {
        key.compare(operand)
    }
}

/// Strings, one after the other.
#[derive(Debug, Default)]
pub(super) struct Texts {
    text: String,
    ends: Vec<u32>,
}

impl Keys for Texts {
    type Key<'a> = &'a str;

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.text[start as usize..self.ends[i] as usize]
    }

    fn push(&mut self, key: &str) {
        self.text.push_str(key);
        self.ends.push(length(self.text.len()));
    }

    fn bytes(&self) -> usize {
        self.text.capacity() + 4 * self.ends.capacity()
    }

    fn scalar(key: &str) -> Scalar {
        Scalar::String(key.to_owned())
    }

    fn compare(key: &str, operand: &Scalar) -> Option<Ordering> {
        match operand {
            Scalar::String(b) => Some(key.cmp(b.as_str())),
            _ => None,
        }
    }
}

/// A length within a part, which its builder keeps far below this.
fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Keys and their rows.
#[derive(Debug, Default)]
pub(super) struct Lane<K> {
    pub(super) keys: K,
    ends: Vec<u32>,
    slots: Vec<u16>,
}

/// One end of what is looked for.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    pub(super) operand: &'a Scalar,
    pub(super) included: bool,
}

impl<K: Keys> Lane<K> {
    /// The lane of pairs, in order of key, then slot. Repeated ones count once.
    pub(super) fn of<'a>(pairs: impl Iterator<Item = (K::Key<'a>, u16)>) -> Lane<K>
    where
        K: 'a,
    {
        let mut lane = Lane::<K>::default();
        let mut last = None;
        for (key, slot) in pairs {
            if last == Some((key, slot)) {
                continue;
            }
            if last.is_none_or(|(last, _)| last != key) {
                lane.close();
                lane.keys.push(key);
            }
            lane.slots.push(slot);
            last = Some((key, slot));
        }
        lane.close();
        lane.shrink();
        lane
    }

    /// Two lanes as one; the slots of `later` come after those of `earlier`.
    pub(super) fn merged<'a>(earlier: &'a Lane<K>, later: &'a Lane<K>) -> Lane<K> {
        let mut lane = Lane::<K>::default();
        let (mut a, mut b) = (0, 0);
        while a < earlier.keys.len() || b < later.keys.len() {
            let order = match (a < earlier.keys.len(), b < later.keys.len()) {
                (true, true) => earlier.keys.get(a).cmp(&later.keys.get(b)),
                (true, false) => Ordering::Less,
                _ => Ordering::Greater,
            };
            lane.keys.push(if order.is_le() { earlier.keys.get(a) } else { later.keys.get(b) });
            if order.is_le() {
                lane.slots.extend_from_slice(earlier.rows(a..a + 1));
                a += 1;
            }
            if order.is_ge() {
                lane.slots.extend_from_slice(later.rows(b..b + 1));
                b += 1;
            }
            lane.close();
        }
        lane.shrink();
        lane
    }

    /// What was pushed belongs to the last key.
    fn close(&mut self) {
        if self.ends.len() < self.keys.len() {
            self.ends.push(length(self.slots.len()));
        }
    }

    fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// The rows of some neighbouring keys.
    pub(super) fn rows(&self, keys: Range<usize>) -> &[u16] {
        let end = |n: usize| if n == 0 { 0 } else { self.ends[n - 1] as usize };
        &self.slots[end(keys.start)..end(keys.end.max(keys.start))]
    }

    /// Shows `f` every key with its rows.
    pub(super) fn each(&self, mut f: impl FnMut(K::Key<'_>, &[u16])) {
        (0..self.keys.len()).for_each(|i| f(self.keys.get(i), self.rows(i..i + 1)));
    }

    /// The first key for which `before` does not hold; it holds for those up to some key.
    pub(super) fn first(&self, mut before: impl FnMut(K::Key<'_>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.keys.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.keys.get(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The keys within bounds; none if one of them is of another kind.
    pub(super) fn within(&self, low: Option<Bound<'_>>, high: Option<Bound<'_>>) -> Range<usize> {
        if self.keys.len() == 0 {
            return 0..0;
        }
        let alike = |bound: Bound<'_>| K::compare(self.keys.get(0), bound.operand).is_some();
        if !low.is_none_or(alike) || !high.is_none_or(alike) {
            return 0..0;
        }
        // Keys before what is looked for: below the operand, or equal to it where that is excluded (low) or included (high).
        let first = |bound: Bound<'_>, equal: bool| {
            self.first(|key| match K::compare(key, bound.operand) {
                Some(Ordering::Less) => true,
                Some(Ordering::Equal) => equal,
                _ => false,
            })
        };
        let start = low.map_or(0, |bound| first(bound, !bound.included));
        let end = high.map_or(self.keys.len(), |bound| first(bound, bound.included));
        start..end.max(start)
    }

    /// Bytes held in memory.
    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + 4 * self.ends.capacity() + 2 * self.slots.capacity()
    }
}
