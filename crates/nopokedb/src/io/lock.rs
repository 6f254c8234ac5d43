//! One writer per directory, and no use of a handle in a forked child.
//!
//! 1. The lock is the operating system's, on the file `LOCK`, which is never removed or renamed (two processes would lock
//!    two files). It is free the moment its holder dies; there is no such thing as a stale lock.
//! 2. `LOCK.info` says who holds it, for messages only. It may be missing, stale or damaged without any effect but on the
//!    words of an error.
//! 3. The lock is let go by closing the file, never by unlocking: a forked child shares the lock with its parent, and
//!    must be able to drop the handle without freeing it.
//!
//! Threading: an acquired lock is inert. [`ProcessMark::check`] is one load, for the head of every call.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::mmap::ForkPage;
use super::vfs::{LockGuard, OpenMode, Vfs};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// The file that is locked.
pub(crate) const LOCK: &str = "LOCK";
/// Who holds the lock, for messages.
pub(crate) const LOCK_INFO: &str = "LOCK.info";

/// How often a waiter tries again.
const RETRY_MS: u64 = 10;
/// More than this of `LOCK.info` is not ours.
const INFO_BYTES: usize = 512;

/// The right to write a directory, until dropped.
#[derive(Debug)]
pub(crate) struct WriterLock {
    guard: Box<dyn LockGuard>,
}

impl WriterLock {
    /// Whether the directory is still where it was opened.
    pub(crate) fn in_place(&self) -> bool {
        self.guard.in_place()
    }
}

/// Takes the writer lock of `dir`, waiting up to `timeout_ms` for another holder to let go.
///
/// A lock that is held is [`ErrorKind::Locked`], naming the holder; with a timeout of 0 at once.
pub(crate) fn acquire(vfs: &dyn Vfs, dir: &Path, timeout_ms: u64) -> Result<WriterLock> {
    acquire_watched(vfs, dir, timeout_ms, &mut || true)
}

/// [`acquire`], asking now and then while it waits whether to go on.
pub(crate) fn acquire_watched(
    vfs: &dyn Vfs,
    dir: &Path,
    timeout_ms: u64,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<WriterLock> {
    let path = dir.join(LOCK);
    // A deadline too far to be represented is none.
    let deadline = Instant::now().checked_add(Duration::from_millis(timeout_ms));
    loop {
        match vfs.try_lock(&path) {
            Ok(guard) => {
                // Best effort: it changes nothing but another process's error message.
                let _ = write_info(vfs, &dir.join(LOCK_INFO));
                return Ok(WriterLock { guard });
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("lock", &path),
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(locked(vfs, dir, timeout_ms));
        }
        if !goes_on() {
            return Err(Error::argument("stopped while waiting for the lock, by what was told the progress"));
        }
        let retry = Duration::from_millis(RETRY_MS);
        thread::sleep(left.map_or(retry, |left| left.min(retry)));
    }
}

/// Refuses a directory on a network file system unless `force`: neither the lock nor fsync can be trusted there.
pub(crate) fn refuse_network_fs(vfs: &dyn Vfs, dir: &Path, force: bool) -> Result<()> {
    match vfs.network_file_system(dir).context("find the file system of", dir)? {
        Some(name) if !force => Err(Error::path(
            dir,
            format!(
                "this is on a network file system ({name}), where locks and fsync cannot be trusted; use a local disk, or \
                 set force_network_fs if you are sure that one machine alone uses it and that its fsync is honest"
            ),
        )),
        _ => Ok(()),
    }
}

fn locked(vfs: &dyn Vfs, dir: &Path, timeout_ms: u64) -> Error {
    let holder = read_info(vfs, &dir.join(LOCK_INFO)).map_or(Cow::from("another process"), |info| info.describe());
    let waited = match timeout_ms {
        0 => String::new(),
        ms => format!(" and was not let go within {ms} ms"),
    };
    let message =
        format!("{} is open for writing in {holder}{waited}: close it there, or pass timeout= to wait", dir.display());
    Error::new(ErrorKind::Locked, message)
}

/// Who wrote `LOCK.info`.
#[derive(Debug, PartialEq, Eq)]
struct Info {
    pid: u32,
    host: String,
    boot: String,
}

impl Info {
    fn mine() -> Info {
        static HOST_AND_BOOT: OnceLock<(String, String)> = OnceLock::new();
        let (host, boot) = HOST_AND_BOOT.get_or_init(|| {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            (plain(&host), boot_id().unwrap_or_default())
        });
        Info { pid: std::process::id(), host: host.clone(), boot: boot.clone() }
    }

    /// The holder in words. One from before the last start of this machine cannot be the holder.
    fn describe(&self) -> Cow<'static, str> {
        let mine = Info::mine();
        if self.host == mine.host && self.boot != mine.boot {
            return "another process".into();
        }
        if *self == mine {
            return format!("this very process (pid {})", self.pid).into();
        }
        format!("process {} on host {}", self.pid, self.host).into()
    }
}

fn write_info(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    let Info { pid, host, boot } = Info::mine();
    let started = vfs.wall_clock()() / 1_000;
    // Of one length always, so that a shorter text leaves no rest of a longer one, in one write.
    let text = format!("pid {pid}\nhost {host}\nboot {boot}\nopened {started}\n");
    let text = format!("{text:width$}\n", width = INFO_BYTES - 1);
    let file = match vfs.open(path, OpenMode::Write) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => vfs.open(path, OpenMode::CreateNew)?,
        other => other?,
    };
    file.write_all_at(&[text.as_bytes()], 0)
}

fn read_info(vfs: &dyn Vfs, path: &Path) -> Option<Info> {
    let mut bytes = [0; INFO_BYTES];
    let n = vfs.open(path, OpenMode::Read).ok()?.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(&bytes[..n]).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let (pid, host) = (field("pid")?.parse().ok()?, plain(field("host")?));
    Some(Info { pid, host, boot: plain(field("boot").unwrap_or_default()) })
}

/// At most 64 printable ASCII characters: what a file says may end in a terminal.
fn plain(text: &str) -> String {
    text.trim().chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// Names this start of the machine.
pub(super) fn boot_id() -> Option<String> {
    let mut bytes = [0; 64];
    let n =
        Disk.open(Path::new("/proc/sys/kernel/random/boot_id"), OpenMode::Read).ok()?.read_at(&mut bytes, 0).ok()?;
    Some(plain(std::str::from_utf8(&bytes[..n]).ok()?))
}

/// Remembers the process in which a handle was opened.
#[derive(Debug)]
pub(crate) struct ProcessMark {
    pid: u32,
    /// The kernel wipes this in a forked child: asking costs one load. `None` where it cannot.
    page: Option<ForkPage>,
}

impl ProcessMark {
    /// A mark of this process.
    pub(crate) fn new() -> Self {
        ProcessMark { pid: std::process::id(), page: ForkPage::new() }
    }

    /// Refuses with [`ErrorKind::Closed`] in any process but the one that made the mark: threads, locks and caches do not
    /// survive a fork.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        let same = match &self.page {
            Some(page) => !page.is_wiped(),
            None => self.pid == std::process::id(),
        };
        if same { Ok(()) } else { Err(self.forked()) }
    }

    #[cold]
    fn forked(&self) -> Error {
        let message = format!(
            "this handle was opened in process {} and used after fork; open the database again in the child",
            self.pid
        );
        Error::new(ErrorKind::Closed, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::SimDisk;

    fn sim() -> (SimDisk, &'static Path) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/db")).unwrap();
        (disk, Path::new("/db"))
    }

    fn refused(vfs: &dyn Vfs, dir: &Path) -> String {
        let try_once = || {
            let start = Instant::now();
            (acquire(vfs, dir, 0).unwrap_err(), start.elapsed())
        };
        // The machine may be busy just then; waiting would be seen in every try.
        let (error, least) = (0..5).map(|_| try_once()).min_by_key(|tried| tried.1).unwrap();
        assert!(least < Duration::from_millis(100), "{least:?}");
        assert_eq!(error.kind(), ErrorKind::Locked);
        error.message().to_string()
    }

    /// Replaces LOCK.info.
    fn set_info(disk: &SimDisk, text: &str) {
        let file = disk.open(Path::new("/db/LOCK.info"), OpenMode::Write).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(&[text.as_bytes()], 0).unwrap();
    }

    #[test]
    fn a_second_writer_is_refused_at_once_with_the_holder_and_what_to_do() {
        let tmp = tempfile::tempdir().unwrap();
        let held = acquire(&Disk, tmp.path(), 0).unwrap();
        let message = refused(&Disk, tmp.path());
        let me = format!("this very process (pid {})", std::process::id());
        for part in [me.as_str(), "close it", "timeout=", &tmp.path().display().to_string()] {
            assert!(message.contains(part), "{message}");
        }
        drop(held);
        acquire(&Disk, tmp.path(), 0).unwrap();
        assert!(tmp.path().join(LOCK).exists(), "never removed");
    }

    #[test]
    fn another_holder_is_named_by_pid_and_host() {
        let (disk, dir) = sim();
        let _held = acquire(&disk, dir, 0).unwrap();
        set_info(&disk, "pid 4242\nhost elsewhere\nboot x\n");
        assert!(refused(&disk, dir).contains("process 4242 on host elsewhere"));
    }

    #[test]
    fn a_stale_or_damaged_info_never_blocks_and_never_lies() {
        let (disk, dir) = sim();
        drop(acquire(&disk, dir, 0).unwrap());
        let host = Info::mine().host;
        for text in ["", "pid", "pid -1\nhost \u{1b}[31m", "\0\0\0", &"x".repeat(9999), "pid 1\nhost h\u{1b}[31mred\n"]
        {
            set_info(&disk, text);
            let held = acquire(&disk, dir, 0).unwrap();
            set_info(&disk, text);
            let message = refused(&disk, dir);
            assert!(message.chars().all(|c| !c.is_control()), "{message:?}");
            drop(held);
        }
        let _held = acquire(&disk, dir, 0).unwrap();
        set_info(&disk, &format!("pid 1\nhost {host}\nboot before-the-restart\n"));
        assert!(refused(&disk, dir).contains("in another process"), "a holder from before a restart is not named");
        disk.remove_file(Path::new("/db/LOCK.info")).unwrap();
        assert!(refused(&disk, dir).contains("in another process"));
    }

    #[test]
    fn the_info_file_adds_nothing_to_the_crash_states_of_others() {
        let (disk, dir) = sim();
        drop(acquire(&disk, dir, 0).unwrap());
        disk.sync_dir(dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        drop(acquire(&disk, dir, 0).unwrap());
        assert_eq!(disk.pending_at(disk.ops()), []);
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_let_go_and_gives_up_in_time_otherwise() {
        let (disk, dir) = sim();
        let held = acquire(&disk, dir, 0).unwrap();
        let give_up = || {
            let start = Instant::now();
            assert!(acquire(&disk, dir, 60).unwrap_err().message().contains("within 60 ms"));
            start.elapsed().as_millis()
        };
        // The machine may be busy just then; waiting for too long would be seen in every try.
        let least = (0..5).map(|_| give_up()).min().unwrap();
        assert!((60..400).contains(&least), "{least} ms");
        let release = thread::spawn(move || {
            thread::sleep(Duration::from_millis(40));
            drop(held);
        });
        acquire(&disk, dir, u64::MAX).unwrap();
        release.join().unwrap();
    }

    #[test]
    fn the_lock_of_a_killed_process_is_free() {
        let (disk, dir) = sim();
        let _held = acquire(&disk, dir, 0).unwrap();
        acquire(&disk.kill(), dir, 0).unwrap();
    }

    #[test]
    fn a_network_file_system_is_refused_unless_forced() {
        let (disk, dir) = sim();
        refuse_network_fs(&disk, dir, false).unwrap();
        disk.set_network(Some("nfs"));
        let error = refuse_network_fs(&disk, dir, false).unwrap_err();
        assert!(error.message().contains("(nfs)") && error.message().contains("force_network_fs"), "{error}");
        refuse_network_fs(&disk, dir, true).unwrap();
    }

    #[test]
    fn a_handle_is_fine_in_its_own_process_and_refused_in_another() {
        let mark = ProcessMark::new();
        mark.check().unwrap();
        let elsewhere = ProcessMark { pid: std::process::id() + 1, page: None };
        let error = elsewhere.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.message().contains("open the database again in the child"), "{error}");
    }
}
