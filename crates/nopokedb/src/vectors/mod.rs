//! Where a slot's vector is, and what is known about it.

pub(crate) mod chunked;
