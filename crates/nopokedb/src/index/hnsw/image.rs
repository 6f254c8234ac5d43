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

use super::graph::{Graph, NONE, slot_of};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::index::space::Stored;
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{CollectionId, Lsn, Metric};

const MAGIC: [u8; 8] = *b"NPDBIDX\n";
const END_MAGIC: [u8; 8] = *b"NPDBEND\n";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 4096;
const SECTIONS_AT: usize = 128;
const SECTION_ENTRY: usize = 24;
const BLOCK: usize = 64 << 10;
/// Footer bytes after the blocks' checksums.
const FOOTER_FIXED: usize = 32;
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

/// The arrays of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The LSN that wrote each slot, for the caller to tell which rows these are.
    Lsns = 1,
    /// The lists, each padded with [`NONE`] to the graph's capacity.
    Links = 2,
    /// Next row of each slot's chain, or [`NONE`].
    Twins = 3,
    /// Slots where walks start.
    Entries = 4,
    /// What [`Stored`] keeps for each slot.
    Stored = 5,
}

const KINDS: [Kind; 5] = [Kind::Lsns, Kind::Links, Kind::Twins, Kind::Entries, Kind::Stored];

#[derive(Clone, Copy, Debug)]
struct Section {
    kind: Kind,
    /// Bytes per element.
    stride: usize,
    count: usize,
    /// From the start of the file.
    offset: u64,
}

/// Places the sections one behind the other; also the length of the data they make up.
fn lay_out(sizes: [(Kind, usize, usize); 5]) -> (Vec<Section>, u64) {
    let mut offset = HEADER_LEN as u64;
    let sections = sizes.map(|(kind, stride, count)| {
        let section = Section { kind, stride, count, offset };
        offset = (offset + stride as u64 * count as u64).next_multiple_of(ALIGN);
        section
    });
    (sections.to_vec(), offset - HEADER_LEN as u64)
}

/// A loaded image, checked.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) stamp: Stamp,
    /// The LSN that wrote each slot.
    pub(crate) lsns: Vec<u64>,
    pub(super) graph: Graph,
    pub(super) stored: Stored,
}

impl Image {
    /// The graph and the per-slot data, for the index to take over.
    pub(crate) fn into_parts(self) -> (Graph, Stored) {
        (self.graph, self.stored)
    }
}

/// Writes an image to `path`: aside first, then synced and renamed, then the directory synced.
///
/// The caller keeps the graph from changing meanwhile. `lsns` has one entry for each slot that is in the image.
pub(crate) fn write(
    vfs: &dyn Vfs,
    path: &Path,
    stamp: &Stamp,
    lsns: &[u64],
    graph: &Graph,
    stored: &Stored,
) -> Result<()> {
    let aside = path.with_extension("tmp");
    if vfs.kind(&aside).context("look for", &aside)?.is_some() {
        vfs.remove_file(&aside).context("remove", &aside)?;
    }
    let file = vfs.open(&aside, OpenMode::CreateNew).context("create", &aside)?;
    let mut out = Out { file: &*file, buffer: Vec::with_capacity(4 * BLOCK), written: 0, hashes: Vec::new() };
    out.image(stamp, lsns, graph, stored).context("write", &aside)?;
    file.sync_all().context("sync", &aside)?;
    drop(file);
    vfs.rename(&aside, path).context("rename", &aside)?;
    match path.parent() {
        Some(dir) => vfs.sync_dir(dir).context("sync", dir),
        None => Ok(()),
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
    fn image(&mut self, stamp: &Stamp, lsns: &[u64], graph: &Graph, stored: &Stored) -> io::Result<()> {
        // Rows past the caller's are left out, and so is what leads to them. Kept links and chains lead to younger rows, so
        // everything that stays can still be reached.
        let covered = u32::try_from(lsns.len()).map_or(graph.len(), |slots| slots.min(graph.len()));
        let entries: Vec<u32> = graph.entries().filter(|&e| e < covered).collect();
        let (sections, data_len) = lay_out([
            (Kind::Lsns, 8, lsns.len()),
            (Kind::Links, 4 * graph.capacity(), covered as usize),
            (Kind::Twins, 4, covered as usize),
            (Kind::Entries, 4, entries.len()),
            (Kind::Stored, stored.stride(), lsns.len()),
        ]);
        let header = encode_header(stamp, &sections, data_len);
        self.file.write_all_at(&[&header], 0)?;
        self.written = HEADER_LEN as u64;
        let mut buffer_end = self.written;
        for section in &sections {
            let gap = usize::try_from(section.offset - buffer_end).unwrap_or(0);
            self.buffer.extend(std::iter::repeat_n(0, gap));
            for i in 0..section.count {
                #[allow(clippy::cast_possible_truncation)] // slots are u32
                let slot = i as u32;
                match section.kind {
                    Kind::Lsns => self.buffer.extend_from_slice(&lsns[i].to_le_bytes()),
                    Kind::Links => {
                        let links = graph.links(slot).filter(|&word| slot_of(word) < covered);
                        let padded = links.chain(std::iter::repeat(NONE)).take(graph.capacity());
                        padded.for_each(|word| self.buffer.extend_from_slice(&word.to_le_bytes()));
                    }
                    Kind::Twins => {
                        let twin = graph.twin(slot).filter(|&twin| twin < covered);
                        self.buffer.extend_from_slice(&twin.unwrap_or(NONE).to_le_bytes());
                    }
                    Kind::Entries => self.buffer.extend_from_slice(&entries[i].to_le_bytes()),
                    Kind::Stored => stored.encode(slot, &mut self.buffer),
                }
                self.drain(false)?;
            }
            buffer_end = section.offset + section.stride as u64 * section.count as u64;
        }
        let rest = HEADER_LEN as u64 + data_len - buffer_end;
        self.buffer.extend(std::iter::repeat_n(0, usize::try_from(rest).unwrap_or(0)));
        self.drain(true)?;
        let footer = encode_footer(&self.hashes, &header);
        self.file.write_all_at(&[&footer], self.written)
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

fn metric_code(metric: Metric) -> u32 {
    match metric {
        Metric::Cosine => 0,
        Metric::L2 => 1,
        Metric::Ip => 2,
    }
}

fn encode_header(stamp: &Stamp, sections: &[Section], data_len: u64) -> [u8; HEADER_LEN] {
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
    let lsn = Lsn(u64_at(&bytes, 32).min(expected.lsn.0));
    let mut header = encode_header(&Stamp { lsn, ..expected.clone() }, &[], data_len as u64);
    header[SECTIONS_AT..HEADER_LEN - 8].copy_from_slice(&bytes[SECTIONS_AT..HEADER_LEN - 8]);
    let hash = xxh3_64(&header[..HEADER_LEN - 8]);
    header[HEADER_LEN - 8..].copy_from_slice(&hash.to_le_bytes());
    bytes.truncate(data.end);
    bytes[..HEADER_LEN].copy_from_slice(&header);
    bytes.extend_from_slice(&encode_footer(&hashes, &header));
    bytes
}

/// Reads and checks the image at `path`. It must belong to `expected` in everything but the LSN, and its LSN must not be
/// above `expected.lsn`. `stored` makes the empty per-slot data that the collection's parameters ask for.
pub(crate) fn read(vfs: &dyn Vfs, path: &Path, expected: &Stamp, stored: Stored) -> Result<Image> {
    let file = vfs.open(path, OpenMode::Read).context("open", path)?;
    let mut reader = Reader { file: &*file, path, hashes: Vec::new(), end: 0 };
    let (stamp, sections) = reader.header()?;
    if stamp != (Stamp { lsn: stamp.lsn, ..expected.clone() }) {
        return Err(reader.bad(0, "it belongs to another database or collection, or was built with other parameters"));
    }
    if stamp.lsn > expected.lsn {
        return Err(reader.bad(32, "it reflects operations that the log does not hold"));
    }
    reader.contents(stamp, &sections, stored)
}

struct Reader<'a> {
    file: &'a dyn VfsFile,
    path: &'a Path,
    hashes: Vec<u64>,
    /// Where the data ends and the footer begins.
    end: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Reader<'_> {
    fn bad(&self, offset: u64, what: &str) -> Error {
        let message = format!(
            "the index image {} cannot be used (byte {offset}): {what}. It is a cache and is built again from the log",
            self.path.display()
        );
        Error::new(ErrorKind::Corruption, message)
    }

    fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        read_exact_at(self.file, &mut bytes, offset).context("read", self.path)?;
        Ok(bytes)
    }

    /// Reads header and footer and takes over the blocks' checksums.
    fn header(&mut self) -> Result<(Stamp, Vec<Section>)> {
        let file_len = self.file.len().context("ask for the length of", self.path)?;
        if file_len < (HEADER_LEN + FOOTER_FIXED) as u64 {
            return Err(self.bad(file_len, "it is too short"));
        }
        let h = self.bytes(0, HEADER_LEN)?;
        if h[..8] != MAGIC {
            return Err(self.bad(0, "it is not an index image"));
        }
        if xxh3_64(&h[..HEADER_LEN - 8]) != u64_at(&h, HEADER_LEN - 8) {
            return Err(self.bad(0, "its header does not match its checksum"));
        }
        if u32_at(&h, 8) != VERSION {
            return Err(self.bad(8, "it has another format version"));
        }
        let data_len = u64_at(&h, 48);
        let blocks = data_len.div_ceil(BLOCK as u64);
        let footer_len = blocks.checked_mul(8).and_then(|b| b.checked_add(FOOTER_FIXED as u64));
        let whole = footer_len.and_then(|f| f.checked_add(data_len)).and_then(|l| l.checked_add(HEADER_LEN as u64));
        if whole != Some(file_len) {
            return Err(self.bad(48, "its length is not what its header says"));
        }
        // The lengths are no larger than the file, which exists.
        self.end = HEADER_LEN as u64 + data_len;
        let footer_len = usize::try_from(file_len - self.end).map_err(|_| self.bad(48, "it is too large"))?;
        let footer = self.bytes(self.end, footer_len)?;
        let (body, hash) = footer.split_at(footer_len - 8);
        let fixed = &body[body.len() - 24..];
        if xxh3_64(body) != u64_at(hash, 0) || fixed[..8] != END_MAGIC || u64_at(fixed, 8) != blocks {
            return Err(self.bad(self.end, "its footer does not match its checksum"));
        }
        if fixed[16..] != h[HEADER_LEN - 8..] {
            return Err(self.bad(self.end, "its footer belongs to another header"));
        }
        self.hashes = body[..body.len() - 24].chunks_exact(8).map(|b| u64_at(b, 0)).collect();
        Ok((self.stamp(&h)?, self.sections(&h, data_len)?))
    }

    fn stamp(&self, h: &[u8]) -> Result<Stamp> {
        let metric = [Metric::Cosine, Metric::L2, Metric::Ip].into_iter().find(|m| metric_code(*m) == u32_at(h, 12));
        let mut database = [0; 16];
        database.copy_from_slice(&h[16..32]);
        Ok(Stamp {
            database,
            collection: CollectionId(u32_at(h, 56)),
            lsn: Lsn(u64_at(h, 32)),
            metric: metric.ok_or_else(|| self.bad(12, "its metric is unknown"))?,
            dim: u32_at(h, 60),
            m: u32_at(h, 64),
            ef_construction: u32_at(h, 68),
            seed: u64_at(h, 40),
        })
    }

    /// The section table, which must be the one that this version writes for these counts.
    fn sections(&self, h: &[u8], data_len: u64) -> Result<Vec<Section>> {
        let entry = |i: usize| {
            let at = SECTIONS_AT + i * SECTION_ENTRY;
            let stride = u64::from(u32_at(h, at + 4));
            let fits = stride > 0 && u64_at(h, at + 8) <= data_len / stride;
            let sizes = (usize::try_from(stride), usize::try_from(u64_at(h, at + 8)));
            match (fits, sizes) {
                (true, (Ok(stride), Ok(count))) => Ok((KINDS[i], stride, count)),
                _ => Err(self.bad(at as u64, "a section does not fit into it")),
            }
        };
        let sizes = [entry(0)?, entry(1)?, entry(2)?, entry(3)?, entry(4)?];
        let (sections, len) = lay_out(sizes);
        let same = sections.iter().enumerate().all(|(i, s)| {
            let at = SECTIONS_AT + i * SECTION_ENTRY;
            u32_at(h, at) == s.kind as u32 && u64_at(h, at + 16) == s.offset
        });
        if !same || len != data_len {
            return Err(self.bad(SECTIONS_AT as u64, "its sections are not where they belong"));
        }
        Ok(sections)
    }

    /// Reads all blocks, checks them, and fills a graph and the per-slot data.
    fn contents(&self, stamp: Stamp, sections: &[Section], mut stored: Stored) -> Result<Image> {
        let [lsns_at, links_at, twins_at, entries_at, stored_at] = sections else { unreachable!("five sections") };
        let capacity = 2 * stamp.m as usize;
        let slots = u32::try_from(lsns_at.count).map_err(|_| self.bad(SECTIONS_AT as u64, "it has too many slots"))?;
        let right = lsns_at.stride == 8
            && links_at.stride == 4 * capacity
            && (twins_at.stride, entries_at.stride, stored_at.stride) == (4, 4, stored.stride())
            && links_at.count == twins_at.count
            && links_at.count <= lsns_at.count
            && stored_at.count == lsns_at.count;
        if !right {
            return Err(self.bad(SECTIONS_AT as u64, "its sections have the wrong sizes"));
        }
        #[allow(clippy::cast_possible_truncation)] // at most `slots`
        let covered = links_at.count as u32;
        let graph = Graph::new(capacity);
        graph.reserve(covered);
        stored.reserve(slots);
        let mut lsns = Vec::with_capacity(lsns_at.count);
        let mut words = Vec::with_capacity(capacity);
        let mut fault = None;
        self.elements(sections, |kind, i, bytes| {
            let fine = match kind {
                Kind::Lsns => {
                    lsns.push(u64_at(bytes, 0));
                    true
                }
                Kind::Links => take_links(&graph, i, bytes, covered, &mut words),
                Kind::Twins => take_twin(&graph, i, u32_at(bytes, 0), covered),
                Kind::Entries => {
                    let entry = u32_at(bytes, 0);
                    if entry < covered {
                        graph.add_entry(entry);
                    }
                    entry < covered
                }
                Kind::Stored => stored.decode(i, bytes),
            };
            if !fine && fault.is_none() {
                fault = Some((kind, i));
            }
        })?;
        if let Some((kind, i)) = fault {
            return Err(self.bad(HEADER_LEN as u64, &format!("element {i} of its {kind:?} section makes no sense")));
        }
        graph.publish(covered);
        Ok(Image { stamp, lsns, graph, stored })
    }

    /// Calls `take` with every element of every section, in order, each from blocks that match their checksums.
    fn elements(&self, sections: &[Section], mut take: impl FnMut(Kind, u32, &[u8])) -> Result<()> {
        let mut window = Vec::with_capacity(4 * BLOCK);
        let mut window_at = HEADER_LEN as u64;
        let mut next_block = 0;
        for section in sections {
            for i in 0..section.count {
                let at = section.offset + (i * section.stride) as u64;
                while at + section.stride as u64 > window_at + window.len() as u64 {
                    let used = usize::try_from(at - window_at).unwrap_or(usize::MAX).min(window.len());
                    if used >= BLOCK || used == window.len() {
                        window.drain(..used);
                        window_at += used as u64;
                    }
                    self.block(next_block, &mut window)?;
                    next_block += 1;
                }
                let start = usize::try_from(at - window_at).map_err(|_| self.bad(at, "it is too large"))?;
                #[allow(clippy::cast_possible_truncation)] // counts are at most the slots', which are u32
                take(section.kind, i as u32, &window[start..start + section.stride]);
            }
        }
        // What no element lies in (padding) is checked too.
        while next_block < self.hashes.len() {
            window.clear();
            self.block(next_block, &mut window)?;
            next_block += 1;
        }
        Ok(())
    }

    /// Appends block `i` to `window`, checked.
    fn block(&self, i: usize, window: &mut Vec<u8>) -> Result<()> {
        let offset = (HEADER_LEN + i * BLOCK) as u64;
        let len = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(BLOCK).min(BLOCK);
        let start = window.len();
        window.resize(start + len, 0);
        read_exact_at(self.file, &mut window[start..], offset).context("read", self.path)?;
        if Some(&xxh3_64(&window[start..])) != self.hashes.get(i) {
            return Err(self.bad(offset, "a block does not match its checksum"));
        }
        Ok(())
    }
}

/// Fills slot `i`'s list if its links make sense.
fn take_links(graph: &Graph, i: u32, bytes: &[u8], covered: u32, words: &mut Vec<u32>) -> bool {
    let all = bytes.chunks_exact(4).map(|b| u32_at(b, 0));
    words.clear();
    words.extend(all.clone().take_while(|&w| w != NONE));
    let padded = all.skip(words.len()).all(|w| w == NONE);
    let fine = padded && words.iter().all(|&w| slot_of(w) < covered);
    if fine {
        graph.set_links(i, words);
    }
    fine
}

/// Hangs `twin` behind slot `i` if that makes sense. Chains go up, so they end.
fn take_twin(graph: &Graph, i: u32, twin: u32, covered: u32) -> bool {
    if twin == NONE {
        return true;
    }
    let fine = twin > i && twin < covered;
    if fine {
        graph.set_twin(i, twin);
    }
    fine
}
