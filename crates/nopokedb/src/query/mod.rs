//! Queries: what is asked ([`request`]), which rows pass a filter ([`matches`], found by [`narrow`] in [`columns`]), and how
//! it is answered ([`execute`], and [`stages`] where hits are more than the nearest rows).

pub(crate) mod bits;
pub(crate) mod column_pool;
mod columns;
mod diversify;
pub(crate) mod examples;
pub(crate) mod execute;
pub(crate) mod explain;
pub(crate) mod fuse;
mod group;
pub(crate) mod hybrid;
pub(crate) mod matches;
mod narrow;
pub(crate) mod request;
mod stages;
pub(crate) mod target;
