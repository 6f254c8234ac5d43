//! The op log: the one truth of a database. Every other file is a cache of it. Bytes: `docs/FORMAT.md`; what happens
//! when: `docs/DURABILITY.md`.
//!
//! | file | what |
//! |---|---|
//! | [`format`] | bytes of segment and frame headers |
//! | [`encode`], [`frame`] | rows in a frame: encoding a batch, reading it in place |
//! | [`directory`], [`footer`] | which frames a segment holds, in memory and at the end of a sealed file |
//! | [`segment`] | a segment as readers see it |
//! | [`writer`], [`group`], [`roll`] | [`Log`]: append, watermark, clean close, the next segment |
//! | [`manifest`], [`publish`] | which segments make up the log, and how that changes |
//! | [`pick`], [`compact`] | the live rows of several segments into one |
//! | [`inspect`], [`scan`], [`survey`], [`recover`] | opening: what counts, what is damage, what a crash left behind |
//! | [`copy`] | a copy of it in another directory: a backup |
//! | [`audit`] | reading everything again, for `check()` |
//! | [`told`], [`follow`] | a log that another process writes: what may be shown of it, reading on, taking over its manifests |
//! | [`salvage`] | what can still be read of a damaged log |
//! | [`files`] | names; making and replacing a file |

pub(crate) mod audit;
#[cfg(feature = "testing")]
pub(crate) mod bench;
pub(crate) mod compact;
pub(crate) mod copy;
pub(crate) mod directory;
pub(crate) mod encode;
pub(crate) mod files;
pub(crate) mod follow;
pub(crate) mod footer;
pub(crate) mod format;
pub(crate) mod frame;
pub(crate) mod group;
pub(crate) mod inspect;
pub(crate) mod manifest;
pub(crate) mod pick;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod probe;
pub(crate) mod publish;
pub(crate) mod recover;
pub(crate) mod roll;
pub(crate) mod salvage;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod survey;
pub(crate) mod told;
pub(crate) mod writer;

pub(crate) use compact::{Compacted, Move, compact};
pub(crate) use copy::{Copied, Frozen, claim};
pub(crate) use encode::{Batch, FrameBuilder};
pub(crate) use follow::{Followed, gone, replaced};
pub(crate) use format::SegmentKind;
pub(crate) use frame::{FrameMeta, FrameView, NewRowRef, RowKind, RowView};
pub(crate) use inspect::{
    DirState, IMPORTING, REPAIRING, inspect, remove_mark, remove_unfinished_import, remove_unfinished_repair, set_mark,
};

pub(crate) use manifest::{CollectionEntry, Manifest};
pub(crate) use publish::write_footer;
pub(crate) use salvage::{Loss, Salvage};
pub(crate) use segment::Segment;
pub(crate) use survey::Survey;
pub(crate) use writer::{Log, LogOptions, Placed};

#[cfg(test)]
mod tests;
