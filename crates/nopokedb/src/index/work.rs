//! What the last search with a scratch did. Counting costs an addition here and there; nothing is timed.

use super::Scratch;

/// How a search went about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    /// Compared given rows, by their codes first where there are many.
    #[default]
    Gather,
    /// Scanned the codes of all rows.
    Scan,
    /// Walked the graph and scanned the tail.
    Graph,
}

/// What a search did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) way: Way,
    /// Rows whose codes were compared in order.
    pub(crate) scanned: usize,
    /// Codes that were compared, those of scanned rows included.
    pub(crate) codes: usize,
    /// `f32` rows that were compared.
    pub(crate) exact: usize,
}

impl Scratch {
    /// What the last search did.
    pub(crate) fn work(&self) -> Work {
        let (way, exact) = (self.way, self.top.offers());
        let scanned = if way == Way::Gather { 0 } else { self.flat.coded };
        let codes = match way {
            Way::Gather => self.gathered.coded(),
            Way::Scan => scanned + self.flat.refined,
            Way::Graph => scanned + self.flat.refined + self.walker.evaluations,
        };
        Work { way, scanned, codes, exact }
    }
}
