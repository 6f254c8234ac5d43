//! The graph: storage ([`graph`]), choice of links ([`neighbors`]), adding rows ([`insert`]), walking ([`search`]), and the
//! checker ([`check`]).

pub(crate) mod check;
pub(crate) mod graph;
pub(crate) mod insert;
pub(crate) mod neighbors;
pub(crate) mod search;
