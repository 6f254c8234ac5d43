//! Reading again, from the disk, what was checked once: for `check()`.
//!
//! Invariants:
//! 1. Nothing is believed because it was right before: every byte comes from the file again, not from a mapping that was
//!    verified at its first touch.
//! 2. Only reads. Frames that are being written meanwhile lie behind the published end and are not looked at.
//!
//! Threading: [`Segment::audit`] needs no lock, if nobody compacts or seals meanwhile; [`Log::audit_manifests`] is the
//! owner's.

use super::files::{read_header, segment_path};
use super::footer::{BLOCK, Footer, block_hash};
use super::manifest;
use super::scan::scan;
use super::segment::{FooterRef, Segment};
use super::writer::Log;
use crate::error::{IoContext, Result};
use crate::io::vfs::read_exact_at;

impl Segment {
    /// Compares header, footer and every block with their checksums, or, where there is no footer yet, every frame with its
    /// hash and its place in the chain; then decodes every row. Returns how many bytes were read.
    pub(crate) fn audit(&self) -> Result<u64> {
        let (end, header) = (self.end(), read_header(&**self.file(), self.path())?);
        if header != *self.header() {
            return Err(self.damaged(0, "its header is not the one that was there when it was opened"));
        }
        match self.footer() {
            Some(at) => self.audit_blocks(at)?,
            None => {
                let scan = scan(&**self.file(), self.path(), &header)?;
                if scan.end < end {
                    return Err(self.damaged(scan.stop, scan.why));
                }
            }
        }
        self.frames().try_for_each(|frame| frame?.rows().try_for_each(|row| row.map(drop)))?;
        Ok(self.len())
    }

    fn audit_blocks(&self, at: FooterRef) -> Result<()> {
        let len = self.file().len().context("read the length of", self.path())?;
        if len != at.file_len {
            return Err(self.damaged(len.min(at.file_len), "the file does not have the length that the manifest lists"));
        }
        let mut bytes = vec![0; usize::try_from(len - at.offset).unwrap_or(0)];
        read_exact_at(&**self.file(), &mut bytes, at.offset).context("read", self.path())?;
        let footer = Footer::decode(&bytes).map_err(|what| self.damaged(at.offset, what))?;
        if bytes[8..24] != at.hash {
            return Err(self.damaged(at.offset, "the footer is not the one that the manifest lists"));
        }
        let mut buf = vec![0; usize::try_from(BLOCK).expect("64 KiB fits in memory")];
        for (start, expected) in (0..).step_by(buf.len()).zip(&footer.blocks) {
            let want = usize::try_from(BLOCK.min(footer.covered - start)).expect("at most a block");
            read_exact_at(&**self.file(), &mut buf[..want], start).context("read", self.path())?;
            if block_hash(&buf[..want]) != *expected {
                return Err(self.damaged(start, "this block of 64 KiB does not match its checksum"));
            }
        }
        Ok(())
    }
}

impl Log {
    /// What is wrong with the manifests: each that is kept must be whole, ours, and name files that are there. Older ones than
    /// the last two are on their way out, a loss of power may have brought them back, and nobody believes them.
    pub(crate) fn audit_manifests(&self) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for number in manifest::numbers(&*self.vfs, &self.dir)?.into_iter().take(2) {
            let listed = match manifest::read(&*self.vfs, &self.dir, number) {
                Ok(manifest) => manifest,
                Err(e) => {
                    problems.push(e.message().to_owned());
                    continue;
                }
            };
            if listed.db_uuid != self.db_uuid {
                problems.push(format!("MANIFEST-{number} belongs to another database"));
            }
            for no in listed.segments.iter().map(|s| s.no).chain([listed.scan_from]) {
                let path = segment_path(&self.dir, no);
                if self.vfs.kind(&path).context("look at", &path)?.is_none() {
                    problems.push(format!("MANIFEST-{number} names {}, which is missing", path.display()));
                }
            }
        }
        Ok(problems)
    }
}
