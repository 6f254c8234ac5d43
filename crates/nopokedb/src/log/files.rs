//! Names of the log's files, and making, reading and replacing one.
//!
//! A file that is not complete and synced yet has a name that ends in `.tmp`, except a raw segment, which becomes
//! part of the log only when the SEAL frame of the one before it names it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{HeaderFault, PAGE_SIZE, SegmentHeader};
use super::manifest::newer;
use crate::error::{Error, IoContext, Result};
use crate::io::atomic;
use crate::io::vfs::{OpenMode, Vfs, VfsFile};
use crate::types::SegmentNo;

/// The beacon that says what was acknowledged: see [`super::told`].
pub(super) const ACKED: &str = "ACKED";
/// Segments have 24 bits of number, because a row's location packs it beside a 40-bit offset.
pub(super) const MAX_SEGMENT_NO: u32 = (1 << 24) - 1;
/// Bytes copied at once.
const COPY: usize = 1 << 20;

/// The directory of the segments.
pub(super) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The path of segment `no`.
pub(super) fn segment_path(dir: &Path, no: SegmentNo) -> PathBuf {
    log_dir(dir).join(format!("{:08x}.seg", no.0))
}

/// The number in a segment's file name.
pub(super) fn segment_no_in(name: &str) -> Option<SegmentNo> {
    let digits = name.strip_suffix(".seg").filter(|d| d.len() == 8)?;
    let no = u32::from_str_radix(digits, 16).ok().filter(|no| (1..=MAX_SEGMENT_NO).contains(no))?;
    (format!("{no:08x}") == digits).then_some(SegmentNo(no))
}

/// Makes a segment file with nothing but its header, synced; its name is durable after the next `sync_dir`.
/// On an error nothing is left behind, as far as the file system lets us.
pub(super) fn create_segment(vfs: &dyn Vfs, path: &Path, header: &SegmentHeader) -> Result<Arc<dyn VfsFile>> {
    let file = vfs.open(path, OpenMode::CreateNew).context("create", path)?;
    let written = file.write_all_at(&[&header.encode()], 0).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // Left behind, it would be recognised as never used and removed when the log is next opened.
        let _ = vfs.remove_file(path);
        return Err(Error::io("create", path, e));
    }
    Ok(file)
}

/// Reads and checks the header of a segment.
pub(super) fn read_header(file: &dyn VfsFile, path: &Path) -> Result<SegmentHeader> {
    let mut bytes = vec![0; PAGE_SIZE];
    let n = file.read_at(&mut bytes, 0).context("read", path)?;
    SegmentHeader::decode(&bytes[..n]).map_err(|fault| match fault {
        HeaderFault::Damaged(what) => Error::corruption(path, 0, what),
        HeaderFault::Newer { format, min_reader } => newer(path, format, min_reader),
    })
}

/// Puts a fresh file in the place of `path`: the first `len` bytes of `file`, then `more`. Durable when this returns.
/// What was read into the page cache before may never have reached the disk; what is in the new file has.
pub(super) fn rewrite(vfs: &dyn Vfs, path: &Path, file: &dyn VfsFile, len: u64, more: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    atomic::replace(vfs, dir, &name, |copy| {
        let mut buf = vec![0; COPY];
        let mut at = 0;
        while at < len {
            let want = usize::try_from(len - at).unwrap_or(COPY).min(COPY);
            // The padding behind the last frame may be missing; it is zeros.
            let n = file.read_at(&mut buf[..want], at)?;
            buf[n..want].fill(0);
            copy.write_all_at(&[&buf[..want]], at)?;
            at += want as u64;
        }
        copy.write_all_at(&[more], len)
    })?;
    Ok(())
}

/// Removes a file that may be missing.
pub(super) fn remove_if_there(vfs: &dyn Vfs, path: &Path) -> Result<()> {
    match vfs.remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_write_are_taken_for_segments() {
        assert_eq!(segment_no_in("0000002a.seg"), Some(SegmentNo(42)));
        assert!(segment_path(Path::new("db"), SegmentNo(42)).ends_with("log/0000002a.seg"));
        for name in ["2a.seg", "0000002A.seg", "0000002a.seg.tmp", "00000000.seg", "01000000.seg", "+000002a.seg", "x"]
        {
            assert_eq!(segment_no_in(name), None, "{name}");
        }
    }
}
