//! Whether a query scans or walks the graph: whichever is estimated to compare fewer rows.

/// How a query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Compare every row.
    Flat,
    /// Walk the graph and scan the tail.
    Graph,
}

/// Rows compared per place in the beam of a walk, and how much more a row met at random costs than one scanned in order
/// (15 to 20 ns against 0.6 to 0.8).
const ROWS_PER_PLACE: u64 = 20;
const RANDOM_ACCESS: u64 = 24;

/// The cheaper way to find `k` rows with a beam of `ef` when `graph_len` of `len` rows are in the graph.
pub(crate) fn choose(len: u32, graph_len: u32, k: usize, ef: usize) -> Plan {
    let walk = (ef.max(k) as u64).saturating_mul(ROWS_PER_PLACE * RANDOM_ACCESS);
    if walk < u64::from(graph_len.min(len)) { Plan::Graph } else { Plan::Flat }
}
