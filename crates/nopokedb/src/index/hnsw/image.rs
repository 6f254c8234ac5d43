//! The index image: graph, norms and codes of a collection in one file, so that opening does not build them again. Bytes:
//! docs/FORMAT.md, "Index image".
//!
//! The image is a cache. Whatever is wrong with one, reading it is an error that names the file and the byte, and the
//! caller builds the index from the log.
//!
//! Invariants:
//! 1. Nothing read is used before its block's checksum was compared, and no length before it was compared with the file's.
//! 2. Every link, chain and entry point was checked to name a slot of the graph, so a loaded graph can be walked blindly.
//! 3. The file appears under its name only when it is complete and durable (written aside, synced, renamed).

use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::graph::{Graph, slot_of};
use super::packed::{self, Packer};
use crate::error::{IoContext, Result};
use crate::index::space::Stored;
use crate::io::vfs::{OpenMode, Vfs, VfsFile};
use crate::types::{CollectionId, Lsn, Metric};
use crate::vectors::codes::Codes;

pub(super) const MAGIC: [u8; 8] = *b"NPDBIDX\n";
pub(super) const END_MAGIC: [u8; 8] = *b"NPDBEND\n";
/// Also stands for how rows become codes: whoever changes that raises it.
pub(super) const VERSION: u32 = 3;
pub(super) const HEADER_LEN: usize = 4096;
/// Where the header tells how many slots there are, and how many of them the graph covers.
pub(super) const COUNTS_AT: usize = 72;
pub(super) const SECTIONS_AT: usize = 128;
pub(super) const SECTION_ENTRY: usize = 24;
pub(super) const BLOCK: usize = 64 << 10;
/// Footer bytes after the blocks' checksums.
pub(super) const FOOTER_FIXED: usize = 32;
/// Sections start on cache lines.
const ALIGN: u64 = 64;

/// What an image belongs to and what it holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stamp {
    /// The database's own id.
    pub(crate) database: [u8; 16],
    pub(crate) collection: CollectionId,
    /// Everything up to this LSN is in the image.
    pub(crate) lsn: Lsn,
    pub(crate) metric: Metric,
    pub(crate) dim: u32,
    pub(crate) m: u32,
    pub(crate) ef_construction: u32,
    pub(crate) seed: u64,
}

/// How many rows an image is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) slots: u32,
    /// So many of the first ones are covered by the graph.
    pub(super) covered: u32,
}

/// The arrays of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The LSN that wrote each slot, for the caller to tell which rows these are: runs of consecutive ones.
    Lsns = 1,
    /// How many links each list has.
    Degrees = 2,
    /// The lists, as [`packed`] has them.
    Links = 3,
    /// The slots whose row has a next one in its chain, and which.
    Twins = 4,
    /// Slots where walks start.
    Entries = 5,
    /// What [`Stored`] keeps for each slot, where it is not zero for all.
    Stored = 6,
    /// The centre that codes are counted from; nothing if it is the origin.
    Centre = 7,
    /// Each slot's code: nibbles, and norm and factor where they are kept. None where rows are so short that they have no codes.
    Codes = 8,
}

/// How many arrays there are.
pub(super) const SECTIONS: usize = 8;
pub(super) const KINDS: [Kind; SECTIONS] =
    [Kind::Lsns, Kind::Degrees, Kind::Links, Kind::Twins, Kind::Entries, Kind::Stored, Kind::Centre, Kind::Codes];

/// Bytes of an element of each array for lists of `capacity` links and codes of so many bytes.
pub(super) fn strides(capacity: usize, code: usize) -> [usize; SECTIONS] {
    let degree = if capacity <= usize::from(u8::MAX) { 1 } else { 2 };
    [16, degree, 1, 8, 4, 4, 4, code]
}

/// How many slots have a [`Stored`] in an image. Where it would be zero for all, the codes alone tell how many slots there are.
pub(super) fn stored_count(metric: Metric, has_codes: bool, slots: usize) -> usize {
    if metric == Metric::Cosine || !has_codes { slots } else { 0 }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) kind: Kind,
    /// Bytes per element.
    pub(super) stride: usize,
    pub(super) count: usize,
    /// From the start of the file.
    pub(super) offset: u64,
}

/// Places the sections one behind the other; also the length of the data they make up.
pub(super) fn lay_out(strides: [usize; SECTIONS], counts: [usize; SECTIONS]) -> ([Section; SECTIONS], u64) {
    let mut offset = HEADER_LEN as u64;
    let sections = std::array::from_fn(|i| {
        let (kind, stride, count) = (KINDS[i], strides[i], counts[i]);
        let section = Section { kind, stride, count, offset };
        offset = (offset + stride as u64 * count as u64).next_multiple_of(ALIGN);
        section
    });
    (sections, offset - HEADER_LEN as u64)
}

/// A loaded image, checked.
#[derive(Debug)]
pub(crate) struct Image {
    #[cfg(test)]
    pub(crate) stamp: Stamp,
    /// The LSN that wrote each slot.
    pub(crate) lsns: Vec<u64>,
    pub(crate) parts: Parts,
}

/// What an index takes over from an image.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) graph: Graph,
    pub(crate) stored: Stored,
    /// `None` where rows have no codes.
    pub(crate) codes: Option<Codes>,
}

/// What an image is made from. The caller keeps the graph from changing meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// One entry for each slot that is to be in the image.
    pub(crate) lsns: &'a [u64],
    pub(crate) graph: &'a Graph,
    pub(crate) stored: &'a Stored,
    pub(crate) codes: Option<&'a Codes>,
}

/// Writes an image to `path`: aside first, then synced and renamed, then the directory synced.
pub(crate) fn write(vfs: &dyn Vfs, path: &Path, stamp: &Stamp, source: Source<'_>) -> Result<()> {
    let aside = path.with_extension("tmp");
    if vfs.kind(&aside).context("look for", &aside)?.is_some() {
        vfs.remove_file(&aside).context("remove", &aside)?;
    }
    let file = vfs.open(&aside, OpenMode::CreateNew).context("create", &aside)?;
    let mut out = Out { file: &*file, buffer: Vec::with_capacity(4 * BLOCK), written: 0, hashes: Vec::new() };
    out.image(stamp, source).context("write", &aside)?;
    file.sync_all().context("sync", &aside)?;
    drop(file);
    vfs.rename(&aside, path).context("rename", &aside)?;
    match path.parent() {
        Some(dir) => vfs.sync_dir(dir).context("sync", dir),
        None => Ok(()),
    }
}

/// The links of a list as far as they are to be in an image of `covered` slots.
fn kept_links(graph: &Graph, slot: u32, covered: u32) -> impl Iterator<Item = u32> {
    graph.links(slot).filter(move |&word| slot_of(word) < covered)
}

/// What has to be counted before the first byte is written.
#[derive(Debug)]
struct Small {
    /// Runs of consecutive LSNs: the first one and how many.
    runs: Vec<[u64; 2]>,
    degrees: Vec<u16>,
    /// Slots and the next ones of their chains.
    twins: Vec<[u32; 2]>,
    entries: Vec<u32>,
}

impl Small {
    fn of(lsns: &[u64], graph: &Graph, covered: u32) -> Small {
        let mut runs: Vec<[u64; 2]> = Vec::new();
        for &lsn in lsns {
            match runs.last_mut() {
                Some([first, count]) if lsn == *first + *count => *count += 1,
                _ => runs.push([lsn, 1]),
            }
        }
        let degree = |slot| u16::try_from(kept_links(graph, slot, covered).count()).unwrap_or(u16::MAX);
        let twin = |slot| graph.twin(slot).filter(|&twin| twin < covered).map(|twin| [slot, twin]);
        Small {
            runs,
            degrees: (0..covered).map(degree).collect(),
            twins: (0..covered).filter_map(twin).collect(),
            entries: graph.entries().filter(|&e| e < covered).collect(),
        }
    }
}

/// The data on its way to the file, hashed block by block.
struct Out<'a> {
    file: &'a dyn VfsFile,
    buffer: Vec<u8>,
    written: u64,
    hashes: Vec<u64>,
}

impl Out<'_> {
    fn image(&mut self, stamp: &Stamp, source: Source<'_>) -> io::Result<()> {
        let Source { lsns, graph, codes, .. } = source;
        // Rows past the caller's are left out, and so is what leads to them. Kept links and chains lead to younger rows, so
        // everything that stays can still be reached.
        let covered = u32::try_from(lsns.len()).map_or(graph.len(), |slots| slots.min(graph.len()));
        let small = Small::of(lsns, graph, covered);
        let centre = codes.map_or(&[][..], |codes| &codes.grid().centre);
        let links: u64 = small.degrees.iter().map(|&degree| u64::from(degree)).sum();
        let strides = strides(graph.capacity(), codes.map_or(1, Codes::encoded_bytes));
        let counts = [
            small.runs.len(),
            covered as usize,
            usize::try_from(packed::bytes_of(links, covered)).map_err(io::Error::other)?,
            small.twins.len(),
            small.entries.len(),
            stored_count(stamp.metric, codes.is_some(), lsns.len()),
            centre.len(),
            codes.map_or(0, |_| lsns.len()),
        ];
        let (sections, data_len) = lay_out(strides, counts);
        let slots = u32::try_from(lsns.len()).map_err(io::Error::other)?;
        let header = encode_header(stamp, Counts { slots, covered }, &sections, data_len);
        self.file.write_all_at(&[&header], 0)?;
        self.written = HEADER_LEN as u64;
        let mut buffer_end = self.written;
        for section in &sections {
            self.fill_up(section.offset - buffer_end);
            if section.kind == Kind::Links {
                self.links(graph, covered)?;
            } else {
                for i in 0..section.count {
                    self.element(section, i, &small, source);
                    self.drain(false)?;
                }
            }
            buffer_end = section.offset + section.stride as u64 * section.count as u64;
        }
        self.fill_up(HEADER_LEN as u64 + data_len - buffer_end);
        self.drain(true)?;
        let footer = encode_footer(&self.hashes, &header);
        self.file.write_all_at(&[&footer], self.written)
    }

    /// Adds zeros up to where a section begins.
    fn fill_up(&mut self, gap: u64) {
        self.buffer.extend(std::iter::repeat_n(0, usize::try_from(gap).unwrap_or(0)));
    }

    /// Adds the lists of the first `covered` slots.
    fn links(&mut self, graph: &Graph, covered: u32) -> io::Result<()> {
        let mut packer = Packer::new(covered);
        for slot in 0..covered {
            kept_links(graph, slot, covered).for_each(|link| packer.push(link, &mut self.buffer));
            self.drain(false)?;
        }
        packer.finish(&mut self.buffer);
        Ok(())
    }

    /// Adds element `i` of a section.
    fn element(&mut self, section: &Section, i: usize, small: &Small, source: Source<'_>) {
        let Source { stored, codes, .. } = source;
        let out = &mut self.buffer;
        #[allow(clippy::cast_possible_truncation)] // slots are u32
        let slot = i as u32;
        match section.kind {
            Kind::Lsns => small.runs[i].iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes())),
            Kind::Degrees => out.extend_from_slice(&small.degrees[i].to_le_bytes()[..section.stride]),
            Kind::Twins => small.twins[i].iter().for_each(|slot| out.extend_from_slice(&slot.to_le_bytes())),
            Kind::Entries => out.extend_from_slice(&small.entries[i].to_le_bytes()),
            Kind::Stored => stored.encode(slot, out),
            Kind::Centre => {
                let centre = codes.map_or(0.0, |codes| codes.grid().centre[i]);
                out.extend_from_slice(&centre.to_le_bytes());
            }
            Kind::Codes => codes.into_iter().for_each(|codes| codes.put(slot, out)),
            Kind::Links => {}
        }
    }

    /// Hashes and writes the whole blocks in the buffer, or at the end all of it.
    fn drain(&mut self, all: bool) -> io::Result<()> {
        if self.buffer.len() < 4 * BLOCK && !all {
            return Ok(());
        }
        let whole = if all { self.buffer.len() } else { self.buffer.len() / BLOCK * BLOCK };
        let blocks = &self.buffer[..whole];
        self.hashes.extend(blocks.chunks(BLOCK).map(xxh3_64));
        self.file.write_all_at(&[blocks], self.written)?;
        self.written += whole as u64;
        self.buffer.drain(..whole);
        Ok(())
    }
}

pub(super) fn metric_code(metric: Metric) -> u32 {
    match metric {
        Metric::Cosine => 0,
        Metric::L2 => 1,
        Metric::Ip => 2,
    }
}

fn encode_header(stamp: &Stamp, counts: Counts, sections: &[Section], data_len: u64) -> [u8; HEADER_LEN] {
    let mut h = [0; HEADER_LEN];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &metric_code(stamp.metric).to_le_bytes());
    put(16, &stamp.database);
    put(32, &stamp.lsn.0.to_le_bytes());
    put(40, &stamp.seed.to_le_bytes());
    put(48, &data_len.to_le_bytes());
    put(56, &stamp.collection.0.to_le_bytes());
    put(60, &stamp.dim.to_le_bytes());
    put(64, &stamp.m.to_le_bytes());
    put(68, &stamp.ef_construction.to_le_bytes());
    put(COUNTS_AT, &counts.slots.to_le_bytes());
    put(COUNTS_AT + 4, &counts.covered.to_le_bytes());
    for (i, section) in sections.iter().enumerate() {
        let at = SECTIONS_AT + i * SECTION_ENTRY;
        put(at, &(section.kind as u32).to_le_bytes());
        put(at + 4, &u32::try_from(section.stride).unwrap_or(u32::MAX).to_le_bytes());
        put(at + 8, &(section.count as u64).to_le_bytes());
        put(at + 16, &section.offset.to_le_bytes());
    }
    let hash = xxh3_64(&h[..HEADER_LEN - 8]);
    h[HEADER_LEN - 8..].copy_from_slice(&hash.to_le_bytes());
    h
}

fn encode_footer(hashes: &[u64], header: &[u8; HEADER_LEN]) -> Vec<u8> {
    let mut footer: Vec<u8> = hashes.iter().flat_map(|h| h.to_le_bytes()).collect();
    footer.extend_from_slice(&END_MAGIC);
    footer.extend_from_slice(&(hashes.len() as u64).to_le_bytes());
    footer.extend_from_slice(&header[HEADER_LEN - 8..]);
    let hash = xxh3_64(&footer);
    footer.extend_from_slice(&hash.to_le_bytes());
    footer
}

/// Makes the checksums of an image right, and its stamp that of `expected`: for hostile files in tests.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn sealed(bytes: &[u8], expected: &Stamp) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < HEADER_LEN + FOOTER_FIXED {
        return bytes;
    }
    // As many bytes of data as leave room for their blocks' checksums.
    let room = bytes.len() - HEADER_LEN - FOOTER_FIXED;
    let data_len = room - room.div_ceil(BLOCK + 8) * 8.min(room);
    let data = HEADER_LEN..HEADER_LEN + data_len;
    let hashes: Vec<u64> = bytes[data.clone()].chunks(BLOCK).map(xxh3_64).collect();
    let lsn = Lsn(super::image_read::u64_at(&bytes, 32).min(expected.lsn.0));
    let counts = Counts { slots: 0, covered: 0 };
    let mut header = encode_header(&Stamp { lsn, ..expected.clone() }, counts, &[], data_len as u64);
    header[COUNTS_AT..HEADER_LEN - 8].copy_from_slice(&bytes[COUNTS_AT..HEADER_LEN - 8]);
    let hash = xxh3_64(&header[..HEADER_LEN - 8]);
    header[HEADER_LEN - 8..].copy_from_slice(&hash.to_le_bytes());
    bytes.truncate(data.end);
    bytes[..HEADER_LEN].copy_from_slice(&header);
    bytes.extend_from_slice(&encode_footer(&hashes, &header));
    bytes
}
