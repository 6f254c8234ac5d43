//! Whether a query scans or walks the graph: whichever is cheaper on this collection and this machine, by measurement.
//!
//! Both curves are simple: a scan costs so much a row, a walk so much a place in its beam. The background worker measures
//! them on rows of the collection after the graph has grown, together with how well a walk of common width finds what a
//! scan finds. On data without structure, where a walk finds little, a scan is taken although it costs more.
//!
//! Threading: one measurer; any thread chooses. Figures are read one by one: a mixture of old and new only costs time.

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

/// Width of the walks that are measured.
pub(crate) const MEASURED_EF: usize = 50;
/// Neighbours that are asked for when measuring.
pub(crate) const MEASURED_K: usize = 10;
/// Rows that are searched for when measuring.
pub(crate) const MEASURED_QUERIES: u32 = 32;

/// What is known about the costs.
#[derive(Debug)]
pub(crate) struct Costs {
    /// Nanoseconds a scanned row takes, as bits.
    row_ns: AtomicU32,
    /// Nanoseconds a place in a walk's beam takes, as bits.
    place_ns: AtomicU32,
    /// Share of a scan's answer that a walk of [`MEASURED_EF`] finds, as bits.
    recall: AtomicU32,
    /// Rows the graph covered when this was measured.
    measured_at: AtomicU32,
}

impl Costs {
    /// What to expect of vectors of `dim` dimensions before anything was measured.
    pub(crate) fn expected(dim: usize) -> Costs {
        #[allow(clippy::cast_precision_loss)] // at most 2^16
        let dim = dim as f32;
        let (row, place) = (0.4 + dim / 400.0, 150.0 + dim);
        let bits = |x: f32| AtomicU32::new(x.to_bits());
        Costs { row_ns: bits(row), place_ns: bits(place), recall: bits(1.0), measured_at: AtomicU32::new(0) }
    }

    /// Whether the graph has grown enough, to `graph_len`, for measuring again.
    pub(crate) fn is_due(&self, graph_len: u32) -> bool {
        let last = self.measured_at.load(Relaxed);
        graph_len > 0 && graph_len - last.min(graph_len) >= last / 4
    }

    /// Takes in a measurement: what one scan of `rows` and one walk took, and how much of the answers walks found.
    pub(crate) fn measured(&self, graph_len: u32, rows: u32, scan_ns: f32, walk_ns: f32, recall: f32) {
        #[allow(clippy::cast_precision_loss)] // an estimate
        let (rows, places) = (rows.max(1) as f32, MEASURED_EF as f32);
        self.row_ns.store((scan_ns / rows).to_bits(), Relaxed);
        self.place_ns.store((walk_ns / places).to_bits(), Relaxed);
        self.recall.store(recall.to_bits(), Relaxed);
        self.measured_at.store(graph_len, Relaxed);
    }

    /// The share of a scan's answer that walks found when last measured.
    pub(crate) fn recall(&self) -> f32 {
        f32::from_bits(self.recall.load(Relaxed))
    }

    /// The better way to find `k` of `len` rows with a beam of `ef` when `graph_len` of them are in the graph.
    pub(crate) fn choose(&self, len: u32, graph_len: u32, k: usize, ef: usize) -> Plan {
        #[allow(clippy::cast_precision_loss)] // estimates
        let (len, tail, places) = (len as f32, len.saturating_sub(graph_len) as f32, ef.max(k) as f32);
        let row_ns = f32::from_bits(self.row_ns.load(Relaxed));
        let walk = places * f32::from_bits(self.place_ns.load(Relaxed)) + tail * row_ns;
        // How many times a walk's cost a scan may cost where walks find less than they should. A caller who asks for a wide
        // beam has made up for it.
        #[allow(clippy::cast_precision_loss)]
        let patience = match self.recall() {
            r if r >= 0.97 => 1.0,
            r if r >= 0.90 => 2.0,
            _ => (8.0 * MEASURED_EF as f32 / places).max(1.0),
        };
        if graph_len > 0 && patience * walk < len * row_ns { Plan::Graph } else { Plan::Flat }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_way_is_taken_whatever_the_size() {
        let costs = Costs::expected(128);
        costs.measured(100_000, 100_000, 100_000.0, 20_000.0, 0.99);
        assert_eq!(costs.choose(100_000, 100_000, 10, 50), Plan::Graph);
        assert_eq!(costs.choose(10_000, 10_000, 10, 50), Plan::Flat, "few rows");
        assert_eq!(costs.choose(100_000, 100_000, 10, 400), Plan::Flat, "a wide beam");
        assert_eq!(costs.choose(100_000, 100_000, 100_000, 50), Plan::Flat, "everything is wanted");
        assert_eq!(costs.choose(100_000, 10_000, 10, 50), Plan::Flat, "most rows are in the tail");
        assert_eq!(costs.choose(100_000, 0, 10, 50), Plan::Flat, "no graph");
    }

    #[test]
    fn where_walks_find_little_a_scan_may_cost_more() {
        let costs = Costs::expected(128);
        costs.measured(100_000, 100_000, 100_000.0, 20_000.0, 0.5);
        assert_eq!(costs.choose(100_000, 100_000, 10, 50), Plan::Flat);
        costs.measured(1_000_000, 1_000_000, 1_000_000.0, 30_000.0, 0.5);
        assert_eq!(costs.choose(1_000_000, 1_000_000, 10, 50), Plan::Graph);
    }

    #[test]
    fn measuring_is_due_once_the_graph_has_grown_by_a_quarter() {
        let costs = Costs::expected(8);
        assert!(!costs.is_due(0) && costs.is_due(1));
        costs.measured(1_000, 1_000, 1.0, 1.0, 1.0);
        assert!(!costs.is_due(1_200) && costs.is_due(1_250));
    }
}
