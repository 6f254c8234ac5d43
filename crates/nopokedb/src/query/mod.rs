//! Queries: what is asked ([`request`]), which rows pass a filter ([`matches`]), and how it is answered ([`execute`]).

pub(crate) mod execute;
pub(crate) mod matches;
pub(crate) mod request;
