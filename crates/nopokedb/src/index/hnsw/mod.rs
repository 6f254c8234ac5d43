//! The graph: storage ([`graph`]), choice of links ([`neighbors`]), adding rows ([`insert`]) and taking
//! dead ones out ([`repair`]), walking ([`search`], [`beam`], where from: [`entrance`]; among the rows that pass a filter: [`hops`]), the checker
//! ([`check`]) and the file it is kept in ([`image`],
//! [`image_read`]; its links: [`packed`]).

pub(crate) mod beam;
pub(crate) mod check;
pub(crate) mod entrance;
pub(crate) mod graph;
mod hops;
pub(crate) mod image;
pub(crate) mod image_read;
#[cfg(test)]
mod image_tests;
pub(crate) mod insert;
pub(crate) mod neighbors;
mod packed;
pub(crate) mod repair;
pub(crate) mod search;
