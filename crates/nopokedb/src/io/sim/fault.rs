//! Calls that fail.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::image::SyncFailure;

/// What a call asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Each is the method of the same name.
pub enum CallKind {
    CreateDir,
    Create,
    Open,
    Rename,
    Remove,
    SyncDir,
    List,
    Kind,
    Lock,
    Read,
    Write,
    Len,
    SetLen,
    Sync,
    Map,
}

/// One call about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its number, from 0.
    pub number: usize,
    /// What it asks.
    pub kind: CallKind,
    /// Of which file or directory (a rename: of which old name).
    pub path: &'a Path,
}

/// How a call fails. The numbers are the operating system's (`Fault::EIO` and so on name the common ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this error and no effect; a sync fails as [`SyncFailure::Forgotten`].
    Errno(i32),
    /// A write stops after so many bytes, then fails with this error; anything else just fails.
    ShortWrite(usize, i32),
    /// A sync fails in this way with this error; anything else just fails.
    Sync(SyncFailure, i32),
}

impl Fault {
    /// The device failed.
    pub const EIO: Fault = Fault::Errno(Errno::IO.raw_os_error());
    /// The disk is full.
    pub const ENOSPC: Fault = Fault::Errno(Errno::NOSPC.raw_os_error());
    /// The user's quota is used up.
    pub const EDQUOT: Fault = Fault::Errno(Errno::DQUOT.raw_os_error());
    /// Too many open files.
    pub const EMFILE: Fault = Fault::Errno(Errno::MFILE.raw_os_error());
    /// Not allowed.
    pub const EACCES: Fault = Fault::Errno(Errno::ACCESS.raw_os_error());

    /// The error the caller gets.
    pub fn error(self) -> io::Error {
        let (Fault::Errno(errno) | Fault::ShortWrite(_, errno) | Fault::Sync(_, errno)) = self;
        io::Error::from_raw_os_error(errno)
    }
}

type Rule = Box<dyn FnMut(&Call<'_>) -> Option<Fault> + Send>;

/// The rules by which calls fail.
#[derive(Default)]
pub(super) struct Faults {
    calls: usize,
    rules: Vec<Rule>,
}

impl Faults {
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Counts a call; the first rule that has a fault for it decides.
    pub(super) fn next(&mut self, kind: CallKind, path: &Path) -> Option<Fault> {
        let call = Call { number: self.calls, kind, path };
        self.calls += 1;
        self.rules.iter_mut().find_map(|rule| rule(&call))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faults({} calls, {} rules)", self.calls, self.rules.len())
    }
}
