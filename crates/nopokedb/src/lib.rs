//! NoPokeDB: an embedded vector database.

mod background;
mod backup;
mod catalog;
mod checkpoint;
mod clock;
mod collection;
mod commit;
mod compaction;
mod database;
mod engine;
mod error;
mod filter;
mod follower;
mod generation;
mod import;
mod index;
mod io;
mod log;
mod meta;
mod metadata;
mod options;
#[cfg(feature = "testing")]
mod probe;
mod purge;
mod query;
mod reaper;
mod rebuild;
mod recover;
mod repair;
#[cfg(all(test, nopokedb_shuttle))]
mod schedules;
mod stats;
mod sync;
mod text;
mod types;
mod vectors;
mod verify;

pub use backup::Backup;
pub use clock::{Clock, Expiry};
pub use collection::batch::WriteBatch;
pub use collection::{Change, Collection, Facet, MAX_DOCUMENT_BYTES, NewRow, NewRows, OnConflict, Record};
pub use database::Database;
pub use error::{Error, ErrorKind, Result, Subject};
pub use filter::{Field, Filter, Scalar};
pub use import::{Ids, Imported};
pub use metadata::{MAX_DEPTH, MAX_METADATA_BYTES, Metadata};
pub use options::{CollectionOptions, MAX_DIM, Options};
pub use query::explain::{Explanation, Plan};
pub use query::fuse::Fusion;
pub use query::request::{Diversity, Grouping, Hit, Include, Query};
pub use repair::{Lost, Repair, Repaired};
pub use stats::Stats;
pub use text::request::{Text, TextMode, TextSyntax};
pub use types::{CollectionId, Id, Lsn, Metric, SegmentNo, Slot, Tokenizer};
pub use verify::Report;

/// What tests outside this crate need: the disk as a trait, a simulated one, and the crash enumeration. Not public API.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing {
    /// What fuzzers call, one function for each kind of file.
    pub mod probe {
        pub use crate::probe::{directory, footer, frame, image, manifest, reads_image, rows, segment};
    }
    pub use crate::index::bench::{IndexBench, Way};
    pub use crate::io::disk::Disk;
    pub use crate::io::mmap::Region;
    pub use crate::io::sim::{
        BLOCK, Bounds, Call, CallKind, Cut, Fate, Fault, Holes, Keep, Part, PendingPart, SECTOR, SimDisk, SyncFailure,
        Torn, crash,
    };
    pub use crate::io::vfs::{
        Beacon, Entry, EntryKind, LockGuard, OpenMode, Vfs, VfsFile, Word, read_exact_at, read_file,
    };
    pub use crate::log::bench::LogBench;
    pub use crate::log::scan::broken::cut_at_the_first_bad_checksum;
}
