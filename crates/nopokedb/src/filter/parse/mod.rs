//! The two dialects, each into the one tree.

pub(super) mod dict;
pub(super) mod text;
