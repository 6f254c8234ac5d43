//! NoPokeDB: an embedded vector database.
#![allow(dead_code, unused_imports)]

mod error;
mod index;
mod io;
mod metadata;
mod options;
mod types;
mod vectors;

pub use error::{Error, ErrorKind, Result, Subject};
pub use metadata::{MAX_DEPTH, MAX_METADATA_BYTES, Metadata};
pub use options::{MAX_DIM, Options};
pub use types::{CollectionId, Lsn, Metric, RecordId, SegmentNo, Slot};
