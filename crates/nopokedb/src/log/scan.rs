//! Reading a raw segment from front to back, when there is no footer to trust.
//!
//! Invariants:
//! 1. A frame is kept only if its header, its place in the chain, its LSNs and its payload's hash all check, and the
//!    batch it belongs to is complete.
//! 2. Where that stops is not called the end: what lies behind is searched for proof that more was durable. A whole frame in
//!    a place where it does not belong is such a proof itself.
//! 3. Bytes are read with `read_at`, a bounded window at a time: an unreadable sector is an error, not a signal, and no
//!    length from the file decides how much memory is taken.

use std::path::Path;

use xxhash_rust::xxh3::Xxh3Default;

use super::format::{
    ALIGN_SIZE, Chain, FRAME_HEADER_LEN, FRAME_HEADER_SIZE, FRAME_MAGIC, FrameHeader, FrameKind, PAGE,
    SEGMENT_HEADER_LEN, SegmentHeader, hash128,
};
use super::frame::FrameMeta;
use crate::error::{IoContext, Result};
use crate::io::vfs::VfsFile;
use crate::types::{Lsn, SegmentNo};

/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// What a raw segment holds.
#[derive(Debug)]
pub(super) struct Scan {
    /// The kept frames: all valid, all batches complete.
    pub(super) frames: Vec<FrameMeta>,
    /// Where the kept frames end.
    pub(super) end: u64,
    /// Chain value after the last kept frame.
    pub(super) chain: Chain,
    /// The LSN after the last kept row.
    pub(super) next_lsn: Lsn,
    /// The segment named by the SEAL frame that ends this one.
    pub(super) successor: Option<SegmentNo>,
    /// The last kept frame is a CLEAN_CLOSE and the file ends with it.
    pub(super) clean: bool,
    /// Where and why the scan stopped.
    pub(super) stop: u64,
    pub(super) why: &'static str,
    /// Something behind `stop` proves that what was there had been durable.
    pub(super) proven: Option<&'static str>,
    /// Length of the file.
    pub(super) len: u64,
}

/// A file read through one buffer.
pub(super) struct Window<'a> {
    file: &'a dyn VfsFile,
    path: &'a Path,
    len: u64,
    start: u64,
    buf: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn VfsFile, path: &'a Path) -> Result<Self> {
        let len = file.len().context("read the length of", path)?;
        Ok(Window { file, path, len, start: 0, buf: Vec::new() })
    }

    /// Up to `want` (at most [`WINDOW`]) bytes at `offset`; fewer only at the end of the file.
    fn at(&mut self, offset: u64, want: usize) -> Result<&[u8]> {
        let end = self.start + self.buf.len() as u64;
        let wanted_end = (offset + want as u64).min(self.len);
        if offset < self.start || wanted_end > end {
            let room = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.buf.resize(WINDOW.min(room), 0);
            let n = self.file.read_at(&mut self.buf, offset).context("read", self.path)?;
            self.buf.truncate(n);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.buf.len());
        Ok(&self.buf[from..(from + want).min(self.buf.len())])
    }

    /// The XXH3-128 of `[offset, offset + len)`, which lies inside the file.
    fn hash(&mut self, offset: u64, len: u64) -> Result<[u8; 16]> {
        let mut hash = Xxh3Default::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(WINDOW);
            let bytes = self.at(at, want)?;
            if bytes.is_empty() {
                break; // the file shrank while it was read; the hash will not match
            }
            hash.update(bytes);
            at += bytes.len() as u64;
        }
        Ok(hash.digest128().to_le_bytes())
    }
}

/// Reads the raw segment whose `header` was checked already.
pub(super) fn scan(file: &dyn VfsFile, path: &Path, header: &SegmentHeader) -> Result<Scan> {
    let mut window = Window::new(file, path)?;
    let mut scan = Scan {
        frames: Vec::new(),
        end: SEGMENT_HEADER_LEN,
        chain: header.prev_chain,
        next_lsn: header.first_lsn,
        successor: None,
        clean: false,
        stop: SEGMENT_HEADER_LEN,
        why: "the file ends here",
        proven: None,
        len: window.len,
    };
    scan.keep_frames(&mut window, header)?;
    if scan.successor.is_none() && scan.proven.is_none() && !broken::cuts_at_the_first_bad_checksum() {
        scan.look_behind(&mut window, header)?;
    }
    Ok(scan)
}

impl Scan {
    /// Keeps frames up to the first that does not check, or to the SEAL.
    fn keep_frames(&mut self, window: &mut Window<'_>, segment: &SegmentHeader) -> Result<()> {
        let (mut at, mut chain, mut next_lsn) = (self.end, self.chain, self.next_lsn);
        let mut open_batch = Vec::new();
        let last = loop {
            let (header, raw_hash) = match check_frame(window, segment, at, &chain, next_lsn)? {
                Ok(checked) => checked,
                Err(fault) => {
                    self.why = fault.why;
                    self.proven = fault.misplaced.then_some("its own header is intact, and no crash puts it here");
                    break None;
                }
            };
            open_batch.push(FrameMeta::new(at, &header));
            at = header.end(at);
            (chain, next_lsn) = (raw_hash, header.lsn_last.plus(1));
            if header.more() {
                continue;
            }
            self.frames.append(&mut open_batch);
            (self.end, self.chain, self.next_lsn) = (at, chain, next_lsn);
            self.clean = header.kind == FrameKind::CleanClose && at == window.len;
            if header.kind == FrameKind::Seal {
                break Some(SegmentNo(header.next_segment));
            }
        };
        self.stop = at;
        self.successor = last;
        Ok(())
    }

    /// Invariant 2: looks for frames behind the stop that were written after what is missing had been synced.
    fn look_behind(&mut self, window: &mut Window<'_>, segment: &SegmentHeader) -> Result<()> {
        let mut at = self.stop;
        while at + FRAME_HEADER_LEN <= window.len {
            let bytes = window.at(at, WINDOW)?;
            if bytes.len() < FRAME_HEADER_SIZE {
                break;
            }
            let mut step = 0;
            while step + FRAME_HEADER_SIZE <= bytes.len() {
                let candidate = &bytes[step..step + FRAME_HEADER_SIZE];
                if candidate[..4] == FRAME_MAGIC
                    && let Ok(header) = FrameHeader::decode(candidate, &segment.salt)
                    && let Some(proof) = self.proof(&header)
                {
                    self.proven = Some(proof);
                    return Ok(());
                }
                step += ALIGN_SIZE;
            }
            at += step as u64;
        }
        Ok(())
    }

    fn proof(&self, later: &FrameHeader) -> Option<&'static str> {
        if later.durable_lsn >= self.next_lsn {
            return Some("a later frame says that the missing rows were durable");
        }
        if u64::from(later.group_page) * PAGE > self.stop {
            return Some("a later frame was written after the missing bytes had been made durable");
        }
        None
    }
}

/// What many logs do instead of invariant 2, for the test that shows it being caught.
pub(crate) mod broken {
    #[cfg(feature = "testing")]
    thread_local! {
        static CUTS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    /// Runs `open` on this thread with a scan that calls the first bad checksum the end of the log.
    #[cfg(feature = "testing")]
    pub fn cut_at_the_first_bad_checksum<R>(open: impl FnOnce() -> R) -> R {
        CUTS.set(true);
        let opened = open();
        CUTS.set(false);
        opened
    }

    #[cfg(feature = "testing")]
    pub(super) fn cuts_at_the_first_bad_checksum() -> bool {
        CUTS.get()
    }

    #[cfg(not(feature = "testing"))]
    pub(super) const fn cuts_at_the_first_bad_checksum() -> bool {
        false
    }
}

/// Why a frame is not kept.
pub(super) struct Fault {
    pub(super) why: &'static str,
    /// A frame that is whole, but not here: frames are written one after the other, each once what is before it is durable,
    /// so what was before this one is gone or was exchanged.
    misplaced: bool,
}

fn torn(why: &'static str) -> Fault {
    Fault { why, misplaced: false }
}

/// The header of the frame at `at` and its chain value, or what does not check.
pub(super) fn check_frame(
    window: &mut Window<'_>,
    segment: &SegmentHeader,
    at: u64,
    chain: &Chain,
    next_lsn: Lsn,
) -> Result<Result<(FrameHeader, Chain), Fault>> {
    if at >= window.len {
        return Ok(Err(torn("the file ends here")));
    }
    let bytes = window.at(at, FRAME_HEADER_SIZE)?;
    let header = match FrameHeader::decode(bytes, &segment.salt) {
        Ok(header) => header,
        Err(why) => return Ok(Err(torn(why))),
    };
    let link = hash128(&bytes[..FRAME_HEADER_SIZE]);
    let rows = header.lsn_last.0.wrapping_add(1).wrapping_sub(header.lsn_first.0);
    if header.prev_chain != *chain {
        return Ok(Err(Fault { why: "the frame does not follow the one before it", misplaced: true }));
    }
    if header.lsn_first != next_lsn || rows != u64::from(header.rows) || header.durable_lsn >= header.lsn_first {
        return Ok(Err(Fault { why: "the frame's LSNs do not follow those before it", misplaced: true }));
    }
    if window.len - at < FRAME_HEADER_LEN + header.payload_len {
        return Ok(Err(torn("the file ends inside a frame")));
    }
    if window.hash(at + FRAME_HEADER_LEN, header.payload_len)? != header.payload_hash {
        return Ok(Err(torn("the frame's payload does not match its checksum")));
    }
    Ok(Ok((header, link)))
}

/// Whether the file holds anything but zeros from `offset` on.
pub(super) fn holds_data(file: &dyn VfsFile, path: &Path, offset: u64) -> Result<bool> {
    let mut window = Window::new(file, path)?;
    let mut at = offset;
    while at < window.len {
        let bytes = window.at(at, WINDOW)?;
        if bytes.is_empty() {
            break;
        }
        if bytes.iter().any(|b| *b != 0) {
            return Ok(true);
        }
        at += bytes.len() as u64;
    }
    Ok(false)
}
