//! Queries: what is asked ([`request`]) and how it is answered ([`execute`]).

pub(crate) mod execute;
pub(crate) mod request;
