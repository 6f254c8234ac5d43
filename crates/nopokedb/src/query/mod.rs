//! Queries: what is asked ([`request`]), which rows pass a filter ([`matches`], found by [`narrow`] in [`columns`]), and how
//! it is answered ([`execute`]).

mod bits;
mod columns;
pub(crate) mod execute;
pub(crate) mod matches;
mod narrow;
pub(crate) mod request;
