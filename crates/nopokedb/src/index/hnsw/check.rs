//! Checks the graph's invariants, for tests and for `check()`.

use super::graph::{Graph, KEPT, slot_of};

/// What the checker found. All counters but `covered` and `nodes` are zero in a sound graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GraphReport {
    /// Slots the graph covers.
    pub(crate) covered: u32,
    /// Rows with a list or a link to them.
    pub(crate) nodes: u32,
    /// Live rows that no walk from the entry points can meet.
    pub(crate) unreachable: u32,
    /// Links (or chain links, or entry points) to slots that are not covered.
    pub(crate) dangling: u32,
    /// Links from a row to itself, or to the same row twice.
    pub(crate) repeated: u32,
    /// Rows with more than one kept link to them, or one from a younger row.
    pub(crate) misplaced: u32,
    /// Chains that do not go up in slot order.
    pub(crate) unordered: u32,
}

impl GraphReport {
    /// Whether every invariant holds.
    pub(crate) fn is_sound(&self) -> bool {
        let GraphReport { covered, nodes, .. } = *self;
        *self == GraphReport { covered, nodes, ..GraphReport::default() }
    }
}

/// Walks the whole graph. Meant for a graph that nobody writes to meanwhile.
pub(crate) fn check(graph: &Graph, is_live: &dyn Fn(u32) -> bool) -> GraphReport {
    let len = graph.len();
    let mut report = GraphReport { covered: len, ..GraphReport::default() };
    let mut met = vec![false; len as usize];
    let mut kept_links = vec![0u8; len as usize];
    let mut stack: Vec<u32> = Vec::new();
    for entry in graph.entries() {
        meet(entry, &mut met, &mut stack, &mut report);
    }
    while let Some(slot) = stack.pop() {
        report.nodes += 1;
        let mut links: Vec<u32> = Vec::new();
        for word in graph.links(slot) {
            let neighbour = slot_of(word);
            if neighbour == slot || links.contains(&neighbour) {
                report.repeated += 1;
            }
            links.push(neighbour);
            if word & KEPT != 0 && neighbour < len {
                kept_links[neighbour as usize] = kept_links[neighbour as usize].saturating_add(1);
                report.misplaced += u32::from(neighbour < slot || kept_links[neighbour as usize] > 1);
            }
            meet(neighbour, &mut met, &mut stack, &mut report);
        }
        let mut last = slot;
        while let Some(twin) = graph.twin(last) {
            if twin <= last {
                report.unordered += 1;
                break;
            }
            match met.get_mut(twin as usize) {
                Some(met) => *met = true,
                None => {
                    report.dangling += 1;
                    break;
                }
            }
            last = twin;
        }
    }
    #[allow(clippy::cast_possible_truncation)] // at most `len`
    let unreachable = (0..len).filter(|&s| !met[s as usize] && is_live(s)).count() as u32;
    report.unreachable = unreachable;
    report
}

fn meet(slot: u32, met: &mut [bool], stack: &mut Vec<u32>, report: &mut GraphReport) {
    match met.get_mut(slot as usize) {
        Some(true) => {}
        Some(met) => {
            *met = true;
            stack.push(slot);
        }
        None => report.dangling += 1,
    }
}
