//! Whether a query scans or walks the graph: whichever is cheaper on this collection and this machine, by measurement.
//!
//! Both curves are simple: a scan costs so much a row, a walk so much for finding the way and so much a place in its beam.
//! The background worker measures them on rows of the collection after the graph has grown, walks at two widths, together
//! with how well a walk of common width finds what a scan finds. On data without structure, where a walk finds little, a scan is taken although it costs more.
//!
//! Threading: one measurer; any thread chooses. Figures are read one by one: a mixture of old and new only costs time.

use super::filtered::LIVE_FOR_ONE;
use super::filtered::TENTH;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// How a query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Compare every row.
    Flat,
    /// Walk the graph and scan the tail.
    Graph,
}

/// How a query among the rows that pass a filter is answered; see `filtered.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Compare the rows that pass.
    Gather,
    /// Compare every row.
    Scan,
    /// Walk from passing row to passing row.
    Hops,
    /// Walk through all rows.
    Walk,
}

/// Width of the walks that are measured.
pub(crate) const MEASURED_EF: usize = 50;
/// Width of wide ones, to tell what a place costs from what any walk does.
pub(crate) const MEASURED_WIDE: usize = 200;
/// Neighbours that are asked for when measuring.
pub(crate) const MEASURED_K: usize = 10;
/// Rows that are searched for when measuring.
pub(crate) const MEASURED_QUERIES: u32 = 32;

/// Rows in the beam of a walk with a filter for each place of `ef`.
const BEAM_FOR_PLACE: f32 = 2.0;

/// Below this share of passing rows, hops of two links lead to too few of them.
const HOPS_FROM: f32 = 0.04;

/// What is known about the costs.
#[derive(Debug)]
pub(crate) struct Costs {
    /// Nanoseconds a scanned row takes, as bits.
    row_ns: AtomicU32,
    /// Nanoseconds a walk takes however narrow its beam, and those of each place in the beam, as bits.
    way_ns: AtomicU32,
    place_ns: AtomicU32,
    /// Share of a scan's answer that a walk of [`MEASURED_EF`] finds, as bits.
    recall: AtomicU32,
    /// Nanoseconds a gathered row takes, a place in the beam of a walk by hops among one row in ten, and a whole walk of
    /// [`MEASURED_EF`] through all rows that looks for those, as bits.
    gather_ns: AtomicU32,
    hop_ns: AtomicU32,
    tenth_ns: AtomicU32,
    /// Rows the graph covered when this was measured.
    measured_at: AtomicU32,
}

impl Costs {
    /// What to expect of vectors of `dim` dimensions before anything was measured.
    pub(crate) fn expected(dim: usize) -> Costs {
        #[allow(clippy::cast_precision_loss)] // at most 2^16
        let dim = dim as f32;
        let (row, place) = (0.4 + dim / 400.0, 100.0 + 0.7 * dim);
        let bits = |x: f32| AtomicU32::new(x.to_bits());
        Costs {
            row_ns: bits(row),
            way_ns: bits(25.0 * place),
            place_ns: bits(place),
            recall: bits(1.0),
            gather_ns: bits(8.0 + dim / 32.0),
            hop_ns: bits(10.0 * place),
            tenth_ns: bits(3.0 * 75.0 * place),
            measured_at: AtomicU32::new(0),
        }
    }

    /// Whether the graph has grown enough, to `graph_len`, for measuring again.
    pub(crate) fn is_due(&self, graph_len: u32) -> bool {
        let last = self.measured_at.load(Relaxed);
        graph_len > 0 && graph_len - last.min(graph_len) >= last / 4
    }

    /// Takes in a measurement: what one scan of `rows` took, a walk of [`MEASURED_EF`] and one of [`MEASURED_WIDE`], and how much
    /// of the answers the former found.
    pub(crate) fn measured(&self, graph_len: u32, rows: u32, scan_ns: f32, walks_ns: [f32; 2], recall: f32) {
        #[allow(clippy::cast_precision_loss)] // estimates
        let (rows, narrow, wide) = (rows.max(1) as f32, MEASURED_EF as f32, MEASURED_WIDE as f32);
        // Whatever a busy machine makes of the two: neither part is negative.
        let place =
            ((walks_ns[1] - walks_ns[0]) / (wide - narrow)).clamp(0.1 * walks_ns[0] / narrow, walks_ns[0] / narrow);
        self.row_ns.store((scan_ns / rows).to_bits(), Relaxed);
        self.way_ns.store((walks_ns[0] - narrow * place).to_bits(), Relaxed);
        self.place_ns.store(place.to_bits(), Relaxed);
        self.recall.store(recall.to_bits(), Relaxed);
        self.measured_at.store(graph_len, Relaxed);
    }

    /// Nanoseconds of a walk with so many places in its beam.
    fn walk_ns(&self, places: f32) -> f32 {
        f32::from_bits(self.way_ns.load(Relaxed)) + places * f32::from_bits(self.place_ns.load(Relaxed))
    }

    /// The share of a scan's answer that walks found when last measured.
    pub(crate) fn recall(&self) -> f32 {
        f32::from_bits(self.recall.load(Relaxed))
    }

    /// Takes in what a gathered row took, and, with one row in ten passing, a place in the beam of a walk by hops and a walk of
    /// [`MEASURED_EF`] through all rows.
    pub(crate) fn measured_among(&self, gather_ns: f32, hop_ns: f32, tenth_ns: f32) {
        self.gather_ns.store(gather_ns.to_bits(), Relaxed);
        self.hop_ns.store(hop_ns.to_bits(), Relaxed);
        self.tenth_ns.store(tenth_ns.to_bits(), Relaxed);
    }

    /// By what part of a usual walk a walk is dearer for each usual width that its beam is wider because few pass: from one that
    /// was measured with one row in ten passing.
    fn dearer(&self) -> f32 {
        #[allow(clippy::cast_precision_loss)] // small numbers
        let (usual, wider) = (self.walk_ns(MEASURED_EF as f32).max(1.0), wider(TENTH, MEASURED_K, MEASURED_EF as f32));
        // Whatever a busy machine makes of it: wider is dearer.
        ((f32::from_bits(self.tenth_ns.load(Relaxed)) / usual - 1.0) / (wider - 1.0)).clamp(0.2, 5.0)
    }

    /// The best way to find `k` of the `passing` rows among `len`, with a beam of `ef`, when `graph_len` rows are in the
    /// graph. Rows can be gathered only if they are `listed`.
    pub(crate) fn choose_among(
        &self,
        len: u32,
        graph_len: u32,
        k: usize,
        ef: usize,
        passing: usize,
        listed: bool,
    ) -> Route {
        let ns = |bits: &AtomicU32| f32::from_bits(bits.load(Relaxed));
        #[allow(clippy::cast_precision_loss)] // estimates
        let (len, tail, passing) = (len as f32, len.saturating_sub(graph_len) as f32, passing.max(1) as f32);
        #[allow(clippy::cast_precision_loss)]
        let places = ef.max(k) as f32;
        let share = (passing / len).min(1.0);
        let gather = if listed { passing * ns(&self.gather_ns) } else { f32::INFINITY };
        let scan = len * ns(&self.row_ns);
        let tail = tail * ns(&self.row_ns);
        let (mut hops, mut walk) = (f32::INFINITY, f32::INFINITY);
        if graph_len > 0 && share >= HOPS_FROM {
            hops = places * ns(&self.hop_ns) * (0.1 / share).max(0.5) + tail;
        }
        if graph_len > 0 {
            let wider = wider(share, k, places).max(1.0);
            walk = self.walk_ns(places) * (1.0 + self.dearer() * (wider - 1.0)) + tail;
        }
        (hops, walk) = (hops * self.patience(places), walk * self.patience(places));
        let ways = [(gather, Route::Gather), (scan, Route::Scan), (hops, Route::Hops), (walk, Route::Walk)];
        ways.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(Route::Scan, |(_, way)| way)
    }

    /// Rows in the beam of a walk that costs twice as much as the other ways to find rows of the `passing` among `len`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // an estimate
    pub(crate) fn beam_for(&self, len: u32, passing: usize, listed: bool) -> usize {
        let ns = |bits: &AtomicU32| f32::from_bits(bits.load(Relaxed));
        let scan = len as f32 * ns(&self.row_ns);
        let other = if listed { scan.min(passing as f32 * ns(&self.gather_ns)) } else { scan };
        let places = MEASURED_EF as f32;
        let times = 2.0 * other / self.walk_ns(places).max(1.0);
        let wider = if times > 1.0 { 1.0 + (times - 1.0) / self.dearer() } else { times };
        (wider * BEAM_FOR_PLACE * places).min(65_536.0) as usize
    }

    /// How many times a walk's cost a scan may cost where walks find less than they should. A caller who asks for a wide beam
    /// has made up for it.
    fn patience(&self, places: f32) -> f32 {
        #[allow(clippy::cast_precision_loss)]
        match self.recall() {
            r if r >= 0.97 => 1.0,
            r if r >= 0.90 => 2.0,
            _ => (8.0 * MEASURED_EF as f32 / places).max(1.0),
        }
    }

    /// The better way to find `k` of `len` rows with a beam of `ef` when `graph_len` of them are in the graph.
    pub(crate) fn choose(&self, len: u32, graph_len: u32, k: usize, ef: usize) -> Plan {
        #[allow(clippy::cast_precision_loss)] // estimates
        let (len, tail, places) = (len as f32, len.saturating_sub(graph_len) as f32, ef.max(k) as f32);
        let row_ns = f32::from_bits(self.row_ns.load(Relaxed));
        let walk = self.walk_ns(places) + tail * row_ns;
        if graph_len > 0 && self.patience(places) * walk < len * row_ns { Plan::Graph } else { Plan::Flat }
    }
}

/// How many times as wide as usual the beam of a walk is that finds `k` rows where only this share passes.
#[allow(clippy::cast_precision_loss)] // estimates
fn wider(share: f32, k: usize, places: f32) -> f32 {
    (LIVE_FOR_ONE * k) as f32 / (share * BEAM_FOR_PLACE * places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_way_is_taken_whatever_the_size() {
        let costs = Costs::expected(128);
        costs.measured(100_000, 100_000, 100_000.0, [20_000.0, 68_000.0], 0.99);
        assert_eq!(costs.choose(100_000, 100_000, 10, 50), Plan::Graph);
        assert_eq!(costs.choose(10_000, 10_000, 10, 50), Plan::Flat, "few rows");
        assert_eq!(
            costs.choose(100_000, 100_000, 10, 290),
            Plan::Graph,
            "a place costs less than the fiftieth part of a walk"
        );
        assert_eq!(costs.choose(100_000, 100_000, 10, 310), Plan::Flat, "a wide beam");
        assert_eq!(costs.choose(100_000, 100_000, 100_000, 50), Plan::Flat, "everything is wanted");
        assert_eq!(costs.choose(100_000, 10_000, 10, 50), Plan::Flat, "most rows are in the tail");
        assert_eq!(costs.choose(100_000, 0, 10, 50), Plan::Flat, "no graph");
    }

    #[test]
    fn few_rows_that_pass_are_gathered_and_most_walked_through() {
        let costs = Costs::expected(128);
        let way = |len, passing, listed| costs.choose_among(len, len, 10, 50, passing, listed);
        // A machine on which hops are worth their while where few pass.
        costs.measured(1_000_000, 1_000_000, 4_000_000.0, [20_000.0, 80_000.0], 0.99);
        costs.measured_among(20.0, 1_000.0, 60_000.0);
        assert_eq!(way(1_000_000, 100, true), Route::Gather);
        assert_eq!(way(1_000_000, 10_000, true), Route::Gather);
        assert_eq!(way(1_000_000, 100_000, false), Route::Hops);
        assert_eq!(way(1_000_000, 900_000, false), Route::Walk);
        assert_eq!(way(1_000_000, 500_000, false), Route::Walk, "as wide a beam as without a filter");
        assert_eq!(way(1_000_000, 20_000, false), Route::Walk, "too few for hops, not listed");
        assert_eq!(way(1_000_000, 1_000, false), Route::Scan, "too few for any walk");
        assert_eq!(way(10_000, 1_000, false), Route::Scan);
        assert_eq!(costs.choose_among(20_000, 0, 10, 50, 19_000, false), Route::Scan, "no graph");
    }

    #[test]
    fn a_walk_that_is_wide_because_few_pass_costs_what_such_a_one_was_measured_to_cost() {
        let costs = Costs::expected(768);
        costs.measured(60_000, 60_000, 400_000.0, [45_000.0, 80_000.0], 0.99);
        let way = |passing| costs.choose_among(60_000, 60_000, 10, 50, passing, true);
        costs.measured_among(20.0, 20_000.0, 160_000.0);
        assert_eq!((way(6_000), way(4_000), way(7_500)), (Route::Gather, Route::Gather, Route::Walk));
        costs.measured_among(20.0, 20_000.0, 90_000.0);
        assert_eq!((way(6_000), way(3_000)), (Route::Walk, Route::Gather), "the same rows, a cheaper walk");
        assert_eq!(costs.choose_among(60_000, 60_000, 10, 50, 30_000, false), Route::Walk);
    }

    #[test]
    fn a_walk_may_be_as_wide_before_it_gives_up_as_twice_the_other_ways_pay_for() {
        let costs = Costs::expected(128);
        costs.measured(100_000, 100_000, 100_000.0, [20_000.0, 80_000.0], 0.99);
        costs.measured_among(20.0, 1_000.0, 60_000.0);
        assert_eq!(costs.beam_for(100_000, 50_000, false), 1_000, "three times as wide, three times as dear");
        costs.measured_among(20.0, 1_000.0, 100_000.0);
        assert_eq!(costs.beam_for(100_000, 50_000, false), 550);
        assert_eq!(costs.beam_for(100_000, 100, true), 20, "what passes is quickly gathered");
    }

    #[test]
    fn where_walks_find_little_a_scan_may_cost_more() {
        let costs = Costs::expected(128);
        costs.measured(100_000, 100_000, 100_000.0, [20_000.0, 80_000.0], 0.5);
        assert_eq!(costs.choose(100_000, 100_000, 10, 50), Plan::Flat);
        costs.measured(1_000_000, 1_000_000, 1_000_000.0, [30_000.0, 120_000.0], 0.5);
        assert_eq!(costs.choose(1_000_000, 1_000_000, 10, 50), Plan::Graph);
    }

    #[test]
    fn a_measurement_that_makes_no_sense_leaves_costs_that_do() {
        let costs = Costs::expected(128);
        for wide in [1_000.0, 20_000.0, 9_000_000.0] {
            costs.measured(100_000, 100_000, 100_000.0, [20_000.0, wide], 0.99);
            assert!((costs.walk_ns(50.0) - 20_000.0).abs() < 1.0, "{wide}");
            assert!(costs.walk_ns(0.0) >= 0.0 && costs.walk_ns(400.0) > costs.walk_ns(50.0), "{wide}");
            assert_eq!(costs.choose(100_000, 100_000, 10, 5_000), Plan::Flat, "{wide}");
        }
    }

    #[test]
    fn measuring_is_due_once_the_graph_has_grown_by_a_quarter() {
        let costs = Costs::expected(8);
        assert!(!costs.is_due(0) && costs.is_due(1));
        costs.measured(1_000, 1_000, 1.0, [1.0, 1.0], 1.0);
        assert!(!costs.is_due(1_200) && costs.is_due(1_250));
    }
}
