//! NoPokeDB: an embedded vector database.
#![allow(dead_code, unused_imports)]

mod error;
mod io;
mod options;
mod types;
mod vectors;

pub use error::{Error, ErrorKind, Result, Subject};
pub use options::{MAX_DIM, Options};
pub use types::{CollectionId, Lsn, Metric, RecordId, SegmentNo, Slot};
