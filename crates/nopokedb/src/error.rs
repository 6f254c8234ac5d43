//! The one error type. Every message says what happened and what to do about it.
//!
//! [`ErrorKind`] is what a caller can act on; adapters map it once to their own world (Python exceptions, exit codes).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::types::Id;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is not acceptable; nothing was written. The [`Subject`] says which part of it.
    Invalid(Subject),
    /// A query was made against a database that holds no rows.
    Empty,
    /// Another process (or an incompatible handle in this one) holds the directory.
    Locked,
    /// The handle cannot be used any more: closed, used after `fork`, or poisoned by a failed fsync.
    Closed,
    /// The disk is full. Reads go on; nothing was written; writes resume when there is room.
    Full,
    /// The operating system refused an operation.
    Io,
    /// A file that holds acknowledged data is damaged. Names the file and the offset.
    Corruption,
}

/// Which part of the input an [`ErrorKind::Invalid`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// An argument's value or type.
    Argument,
    /// A vector's dimension.
    Dimension,
    /// Metadata that is not a JSON object.
    Metadata,
    /// An id that exists already, or twice in one batch.
    DuplicateId,
    /// A filter expression.
    Filter,
    /// The directory's path or its contents.
    Path,
    /// A write, asked of a handle that was opened to read only.
    ReadOnly,
}

/// An error of this crate: a kind to act on, a sentence to read, and the cause where there is one.
pub struct Error {
    kind: ErrorKind,
    message: String,
    /// Boxed twice, for an error is handed through every call and this one is rare.
    #[allow(clippy::box_collection)]
    ids: Option<Box<Vec<Id>>>,
    source: Option<io::Error>,
}

impl Error {
    /// An error of `kind` with a `message` that tells the caller what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), ids: None, source: None }
    }

    /// A value the caller passed is not acceptable.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid(Subject::Argument), message)
    }

    /// A vector of dimension `got` where `expected` is wanted.
    pub fn dimension(expected: usize, got: usize) -> Self {
        let message = format!("expected a vector of dimension {expected}, got {got}");
        Self::new(ErrorKind::Invalid(Subject::Dimension), message)
    }

    /// Ids that are taken, all of `ids`: the message names the first few and says `what` is wrong with them.
    pub(crate) fn duplicate_id(what: &str, ids: Vec<Id>) -> Self {
        let shown: Vec<String> = ids.iter().take(10).map(|id| format!("{id:?}").chars().take(80).collect()).collect();
        let more = ids.len() - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!("ids {}{more} {what}", shown.join(", "));
        Error { ids: Some(Box::new(ids)), ..Self::new(ErrorKind::Invalid(Subject::DuplicateId), message) }
    }

    /// The directory's path or contents are not usable.
    pub fn path(path: &Path, why: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid(Subject::Path), format!("{}: {why}", path.display()))
    }

    /// Damage in a file that holds acknowledged data.
    pub fn corruption(file: &Path, offset: u64, what: impl fmt::Display) -> Self {
        let message = format!(
            "{} is damaged at byte {offset}: {what}. Nothing was changed; restore the file from a backup",
            file.display()
        );
        Self::new(ErrorKind::Corruption, message)
    }

    /// The handle was closed by the caller.
    pub fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the database is closed; open it again")
    }

    /// A write through a handle that was opened to read only.
    pub fn read_only() -> Self {
        let message = "this handle was opened to read only: write through one that was opened without read_only";
        Self::new(ErrorKind::Invalid(Subject::ReadOnly), message)
    }

    /// An operating-system error while doing `action` on `path`. Disk-full errors become [`ErrorKind::Full`].
    pub fn io(action: &str, path: &Path, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let (kind, advice) = if full {
            (ErrorKind::Full, "; free some space and try again, reads go on meanwhile")
        } else {
            (ErrorKind::Io, "")
        };
        let message = format!("could not {action} {}: {source}{advice}", path.display());
        Error { kind, message, ids: None, source: Some(source) }
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence without its kind.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The ids of [`Subject::DuplicateId`], all of them in the order in which they were given; empty for other errors.
    pub fn duplicate_ids(&self) -> &[Id] {
        self.ids.as_ref().map_or(&[], |ids| ids)
    }

    /// The same error for another waiter of the same failed commit: an `io::Error` cannot be cloned, its words can.
    pub(crate) fn duplicate(&self) -> Self {
        Error { kind: self.kind, message: self.message.clone(), ids: self.ids.clone(), source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

/// Adds the action and the path to a bare `io::Result`.
pub(crate) trait IoContext<T> {
    /// Turns the error into an [`Error`] that reads "could not `action` `path`: ...".
    fn context(self, action: &str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(action, path, e))
    }
}

/// Where damage was found; kept until the file's name is known to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The damaged file.
    pub(crate) file: PathBuf,
    /// Byte offset of the first thing that does not check.
    pub(crate) offset: u64,
    /// What does not check, as a phrase.
    pub(crate) what: String,
}

impl From<Damage> for Error {
    fn from(d: Damage) -> Self {
        Error::corruption(&d.file, d.offset, d.what)
    }
}
