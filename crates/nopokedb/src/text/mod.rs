//! Full-text search: what is asked ([`request`]), which documents have which words ([`postings`]), and how they are ranked
//! ([`rank`]). The words lie in SQLite's FTS5 (`meta/text.rs`).

pub(crate) mod postings;
pub(crate) mod rank;
pub(crate) mod request;

pub(crate) use postings::TextCache;
