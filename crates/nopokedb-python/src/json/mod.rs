//! Metadata between Python objects and JSON text, both ways exact and without a tree in between.

mod read;
mod write;

pub(crate) use read::Reader;
pub(crate) use write::{filter_text, metadata_of, text_of};
