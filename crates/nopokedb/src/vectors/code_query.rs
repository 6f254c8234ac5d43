//! A query against codes: integer weights, look-up tables, and how their sums become estimates of distances.
//!
//! With `w` the rotated query (l2 and cosine: less the centre), `n` a row's norm and `y` its direction:
//! l2 is `|w|^2 + n^2 - 2 n <w, y>`, cosine half of that (both vectors have length 1), ip `1 - <q, c> - n <w, y>`.
//! `<w, y>` is estimated from the row's nibbles, or more coarsely from its signs.
//!
//! The estimate's error is about normal: its deviation is `n |w'| / sqrt(D)` times a constant of the code, with `w'` the part
//! of `w` that is perpendicular to `y`. Under l2 and cosine `|w'|^2` is at most the (squared) distance itself, so near rows are
//! estimated well however far the centre is; [`CodeQuery::margin`] is built on that.
//!
//! Threading: a `CodeQuery` belongs to one search.

use nopokedb_kernels::{Affine, CELL, MIDDLE, NibbleQuery, TABLE, TABLE_MAX, kernels, sign_groups};

use super::codes::{Codes, Grid};
use crate::types::Metric;

/// Deviation of a nibble's rounding error, in units of a coordinate's.
const NIBBLE_ERROR: f32 = 0.115;
/// The same of a sign, scaled to be unbiased: `sqrt(pi / 2 - 1)`.
const SIGN_ERROR: f32 = 0.77;
/// What balancing leaves, in units of a coordinate's variance.
const BALANCE_ERROR: f32 = 0.01;
/// The largest weight: leaves room for the correction of the low plane, so that that fits a byte too.
const LARGEST_WEIGHT: f32 = 118.0;

/// Which code an estimate is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    /// Four bits a dimension.
    Nibbles,
    /// One bit a dimension.
    Signs,
}

/// Which estimates a row at some distance can have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margin {
    distance: f32,
    per_norm: f32,
    farthest: f32,
}

impl Margin {
    /// The largest estimate of a row of this norm that is at the distance.
    pub(crate) fn of_norm(&self, norm: f32) -> f32 {
        self.distance + self.per_norm * norm
    }

    /// The largest estimate of any row at the distance, where no norm exceeds `longest`.
    pub(crate) fn of_all(&self, longest: f32) -> f32 {
        self.of_norm(longest.min(self.farthest))
    }
}

/// A vector prepared to be compared with codes. Reused between searches.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodeQuery {
    rotated: Vec<f32>,
    /// The rotated vector in the order of the signs, and what the weights' rounding leaves of it.
    ordered: Vec<f32>,
    errors: Vec<f32>,
    high: Vec<i8>,
    low: Vec<i8>,
    tables: Vec<u8>,
    nibbles: Affine,
    signs: Affine,
    /// `|w|`, and the deviation that the rounding of the weights adds to `<w, y>`, per plane.
    length: f32,
    rounding: [f32; 2],
    metric: Option<Metric>,
    /// `sqrt(D)`.
    root: f32,
    sums: Vec<i32>,
}

impl CodeQuery {
    /// Prepares a caller's vector.
    pub(crate) fn prepare(&mut self, grid: &Grid, vector: &[f32]) {
        self.prepare_planes(grid, vector, grid.has_signs());
    }

    /// Prepares a caller's vector to be compared with nibbles only.
    pub(crate) fn prepare_nibbles(&mut self, grid: &Grid, vector: &[f32]) {
        self.prepare_planes(grid, vector, false);
    }

    fn prepare_planes(&mut self, grid: &Grid, vector: &[f32], signs: bool) {
        let base = match grid.metric {
            Metric::Cosine | Metric::L2 => {
                grid.centred(vector, &mut self.rotated);
                let squared = kernels().norm_squared(&self.rotated);
                if grid.metric == Metric::L2 { squared } else { 0.5 * squared }
            }
            Metric::Ip => {
                self.rotated.clear();
                self.rotated.extend_from_slice(vector);
                1.0 - if grid.centre.is_empty() { 0.0 } else { kernels().dot(vector, &grid.centre) }
            }
        };
        grid.rotation.apply(&mut self.rotated);
        self.weigh(grid, base, signs);
    }

    /// Prepares a row from its own nibbles, to be compared with others' nibbles. Its estimates are on the scale of
    /// [`CodeQuery::prepare`]'s; margins and tables are not prepared.
    pub(crate) fn prepare_row(&mut self, codes: &Codes, slot: u32) {
        let grid = codes.grid();
        let norm = codes.norm(slot);
        self.metric = Some(grid.metric);
        self.root = grid.width_f32().sqrt();
        if grid.metric == Metric::Ip && !grid.centre.is_empty() {
            return self.prepare_row_around_centre(codes, slot, norm);
        }
        // Seven times the odd numbers of the cells' middles: the largest multiple that leaves the low plane room.
        let nibbles = codes.hi_row(slot);
        let middle = |nibble: u8| 7 * (2 * i16::from(nibble) - 15);
        let low = |byte: u8| middle(byte & 15) - ((middle(byte >> 4) + 8) >> 4);
        self.high.resize(nibbles.len(), 0);
        self.low.resize(nibbles.len(), 0);
        #[allow(clippy::cast_possible_truncation)] // at most 105 + 7
        for ((&byte, h), l) in nibbles.iter().zip(&mut self.high).zip(&mut self.low) {
            (*h, *l) = (middle(byte >> 4) as i8, low(byte) as i8);
        }
        let step = CELL * norm / (14.0 * self.root);
        let sum = sum_of_weights(&self.high, &self.low) * step;
        self.nibbles = self.affine_of(grid.metric, norm * norm, 1.0, CELL * step / 16.0, -MIDDLE * CELL * sum);
    }

    /// [`CodeQuery::prepare_row`] under ip, where a row is not told by its place around the centre alone.
    fn prepare_row_around_centre(&mut self, codes: &Codes, slot: u32, norm: f32) {
        let grid = codes.grid();
        let mut centre = grid.centre.clone();
        grid.rotation.apply(&mut centre);
        let nibbles = codes.hi_row(slot);
        let unit = CELL * norm / self.root;
        let cells = nibbles.iter().map(|b| b >> 4).chain(nibbles.iter().map(|b| b & 15));
        self.rotated.clear();
        self.rotated.extend(centre.iter().zip(cells).map(|(c, cell)| c + (f32::from(cell) - MIDDLE) * unit));
        let base = 1.0 - kernels().dot(&self.rotated, &centre);
        self.weigh(grid, base, false);
    }

    /// How sums become estimates: `squared` is `|w|^2` (l2, cosine), `base` the constant under ip.
    fn affine_of(&self, metric: Metric, squared: f32, base: f32, scale: f32, offset: f32) -> Affine {
        let (base, square, mul) = match metric {
            Metric::Cosine => (0.5 * squared, 0.5, -1.0),
            Metric::L2 => (squared, 1.0, -2.0),
            Metric::Ip => (base, 0.0, -1.0),
        };
        Affine { base, square, scale: mul * scale / self.root, offset: mul * offset / self.root }
    }

    /// Turns the rotated vector into weights and tables.
    fn weigh(&mut self, grid: &Grid, base: f32, signs: bool) {
        self.metric = Some(grid.metric);
        self.root = grid.width_f32().sqrt();
        self.length = kernels().norm_squared(&self.rotated).sqrt();
        let (square, mul) = match grid.metric {
            Metric::Cosine => (0.5, -1.0),
            Metric::L2 => (1.0, -2.0),
            Metric::Ip => (0.0, -1.0),
        };
        let mul = mul / self.root;
        let affine = |scale: f32, offset: f32| Affine { base, square, scale: mul * scale, offset: mul * offset };
        let bytes = grid.width / 2;
        let largest = self.rotated.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let step = if largest > 0.0 && largest.is_finite() { largest / LARGEST_WEIGHT } else { 1.0 };
        self.high.resize(bytes, 0);
        self.low.resize(bytes, 0);
        self.errors.resize(grid.width, 0.0);
        let (first, second) = self.rotated.split_at(bytes);
        let (errors, more_errors) = self.errors.split_at_mut(bytes);
        for ((&a, h), error) in first.iter().zip(&mut self.high).zip(errors) {
            *h = round(a / step);
            *error = f32::from(*h) * step - a;
        }
        for (((&b, &h), l), error) in second.iter().zip(&self.high).zip(&mut self.low).zip(more_errors) {
            let part = f32::from(h) / 16.0;
            *l = round(b / step - part);
            *error = (f32::from(*l) + part) * step - b;
        }
        let sum = sum_of_weights(&self.high, &self.low) * step;
        self.nibbles = affine(CELL * step / 16.0, -MIDDLE * CELL * sum);
        self.rounding = [kernels().norm_squared(&self.errors).sqrt(); 2];
        if signs {
            let (step, lowest, error) = self.tabulate(grid);
            // Twice the weights of the set bits, less all weights.
            let all = self.rotated.iter().sum::<f32>();
            self.signs = affine(2.0 * step, 2.0 * lowest - all);
            self.rounding[1] = 2.0 * error;
        }
    }

    /// Fills the tables; returns the value of a step, the sum that an all-zero row of tables stands for, and the deviation
    /// of a row's sum that rounding the entries adds.
    fn tabulate(&mut self, grid: &Grid) -> (f32, f32, f32) {
        let tables = 4 * sign_groups(grid.width);
        // Sign 2 i is byte i's high nibble: dimension i. Sign 2 i + 1 is its low one: dimension i + bytes.
        let (first, second) = self.rotated.split_at(grid.width / 2);
        self.ordered.clear();
        self.ordered.extend(first.iter().zip(second).flat_map(|(a, b)| [*a, *b]));
        self.ordered.resize(6 * tables, 0.0);
        let sixes = self.ordered.as_chunks::<6>().0;
        let widest = sixes.iter().map(|six| six.iter().map(|w| w.abs()).sum::<f32>()).fold(0.0, f32::max);
        // Two rounded parts add up to at most one more.
        let step = if widest > 0.0 && widest.is_finite() { widest / f32::from(TABLE_MAX - 1) } else { 1.0 };
        let per_step = 1.0 / step;
        self.tables.clear();
        let mut lowest = 0.0;
        for six in sixes {
            lowest += six.iter().map(|w| w.min(0.0)).sum::<f32>();
            let (mut four, mut two) = ([0.0f32; 16], [0.0f32; 4]);
            subset_sums(&six[..4], per_step, &mut four);
            subset_sums(&six[4..], per_step, &mut two);
            let (four, two) = (four.map(entry), two.map(entry));
            let mut entries = [0; TABLE];
            for (quarter, two) in entries.chunks_exact_mut(16).zip(two) {
                quarter.iter_mut().zip(four).for_each(|(e, four)| *e = four.wrapping_add(two));
            }
            self.tables.extend_from_slice(&entries);
        }
        #[allow(clippy::cast_precision_loss)] // a few thousand
        let error = step * (2.0 * tables as f32 / 12.0).sqrt();
        (step, lowest, error)
    }

    /// How sums of a plane become estimates, less `slack` times each row's norm.
    pub(crate) fn affine(&self, plane: Plane, slack: f32) -> Affine {
        let affine = match plane {
            Plane::Nibbles => self.nibbles,
            Plane::Signs => self.signs,
        };
        Affine { offset: affine.offset - slack, ..affine }
    }

    /// What to take from an ip estimate, per unit of the row's norm, to make it a lower bound at `deviations` standard
    /// deviations. Under the other metrics nothing: their error depends on the distance, see [`CodeQuery::margin`].
    pub(crate) fn slack(&self, plane: Plane, deviations: f32) -> f32 {
        if self.metric == Some(Metric::Ip) { deviations * self.deviation(plane, self.length) } else { 0.0 }
    }

    /// Standard deviation of `<w, y>` as a plane has it, where `perpendicular` of `w` is not in the row's direction.
    fn deviation(&self, plane: Plane, perpendicular: f32) -> f32 {
        let (error, rounding) = match plane {
            Plane::Nibbles => (NIBBLE_ERROR, self.rounding[0]),
            Plane::Signs => (SIGN_ERROR, self.rounding[1]),
        };
        // What balancing leaves is in the row's own direction.
        let balance = BALANCE_ERROR * self.length / self.root;
        (error * perpendicular).hypot(rounding).hypot(balance) / self.root
    }

    /// Three standard deviations of a near row's estimate from nibbles, per root of its distance. 0 under ip, where the error
    /// does not depend on the distance.
    pub(crate) fn noise(&self, codes: &Codes) -> f32 {
        let per_root = match self.metric {
            Some(Metric::L2) => 2.0,
            Some(Metric::Cosine) => std::f32::consts::SQRT_2,
            _ => 0.0,
        };
        3.0 * per_root * NIBBLE_ERROR * codes.longest() / self.root
    }

    /// The weights for nibbles.
    pub(crate) fn weights(&self) -> NibbleQuery<'_> {
        NibbleQuery { high: &self.high, low: &self.low }
    }

    /// The look-up tables for signs.
    pub(crate) fn tables(&self) -> &[u8] {
        &self.tables
    }

    /// By how much, at `deviations` standard deviations, the estimate of a row at distance `distance` may exceed it.
    pub(crate) fn margin(&self, plane: Plane, distance: f32, deviations: f32) -> Margin {
        let (squared, per_norm) = match self.metric {
            Some(Metric::L2) => (distance.max(0.0), 2.0),
            Some(Metric::Cosine) => (2.0 * distance.max(0.0), 1.0),
            _ => return Margin { distance, per_norm: 0.0, farthest: 0.0 },
        };
        // What a row at that distance can leave of `w` beside its own direction, and how far from the centre it can be.
        let perpendicular = squared.sqrt().min(self.length);
        let per_norm = per_norm * deviations * self.deviation(plane, perpendicular);
        Margin { distance, per_norm, farthest: self.length + squared.sqrt() }
    }

    /// The estimates from the nibbles of many rows, wherever they are: `out[i]` belongs to `slots[i]`.
    pub(crate) fn near_many(&mut self, codes: &Codes, slots: &[u32], out: &mut Vec<f32>) {
        let sums = |q: NibbleQuery<'_>, sums: &mut [i32]| codes.gather(q, slots, sums);
        if codes.grid().uniform() {
            self.near_all(slots.len(), sums, |_| 1.0, out);
        } else {
            self.near_all(slots.len(), sums, |i| codes.norm(slots[i]), out);
        }
    }

    /// The estimates of `n` rows: `sums` fills in their products with the weights, `norm` tells the `i`-th row's norm.
    #[inline]
    pub(crate) fn near_all(
        &mut self,
        n: usize,
        sums: impl FnOnce(NibbleQuery<'_>, &mut [i32]),
        norm: impl Fn(usize) -> f32,
        out: &mut Vec<f32>,
    ) {
        let mut room = std::mem::take(&mut self.sums);
        room.resize(n, 0);
        sums(self.weights(), &mut room);
        out.clear();
        out.extend(room.iter().enumerate().map(|(i, &sum)| self.estimate(sum, norm(i))));
        self.sums = room;
    }

    #[inline]
    #[allow(clippy::cast_precision_loss)] // an estimate
    fn estimate(&self, sum: i32, norm: f32) -> f32 {
        let a = &self.nibbles;
        a.base + a.square * norm * norm + (a.scale * sum as f32 + a.offset) * norm
    }
}

/// The sums of all subsets of `weights`, less the least of them, times `scale`.
#[inline(always)]
fn subset_sums(weights: &[f32], scale: f32, sums: &mut [f32]) {
    sums[0] = weights.iter().map(|w| w.min(0.0)).sum::<f32>() * -scale;
    for (b, weight) in weights.iter().enumerate() {
        let (known, next) = sums.split_at_mut(1 << b);
        next.iter_mut().zip(known).for_each(|(next, known)| *next = *known + weight * scale);
    }
}

/// The sum of the weights that two planes give, high nibbles and low ones.
#[allow(clippy::cast_precision_loss)] // small integers
fn sum_of_weights(high: &[i8], low: &[i8]) -> f32 {
    let sum_of = |plane: &[i8]| plane.iter().map(|&w| i32::from(w)).sum::<i32>();
    sum_of(high) as f32 * (17.0 / 16.0) + sum_of(low) as f32
}

/// To this are added numbers below 2^22, so that the last bits of the sum are the nearest integer's: cheaper than a conversion
/// that minds its range.
const WHOLE: f32 = 12_582_912.0;

/// To the nearest weight. Within range by construction.
#[inline(always)]
fn round(x: f32) -> i8 {
    (x + WHOLE).to_bits().to_le_bytes()[0].cast_signed()
}

/// To the nearest table entry. Small by construction, and not below 0 but for rounding.
#[inline(always)]
fn entry(x: f32) -> u8 {
    (x + WHOLE).to_bits().to_le_bytes()[0]
}
