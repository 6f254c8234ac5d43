//! Reading an index image: every block is checked before it is used, and every link before it is followed.
//!
//! Invariants: those of [`super::image`]. A length is compared with the file's before anything is allocated by it.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::graph::{Graph, NONE, slot_of};
use super::image::{
    BLOCK, END_MAGIC, FOOTER_FIXED, HEADER_LEN, Image, KINDS, Kind, MAGIC, Parts, SECTION_ENTRY, SECTIONS, SECTIONS_AT,
    Section, Stamp, VERSION, lay_out, metric_code,
};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::index::flat::Flat;
use crate::index::space::Stored;
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{CollectionId, Lsn, Metric};
use crate::vectors::codes::{Codes, Encoded, Grid};
use crate::vectors::rotate::padded;

/// Reads and checks the image at `path`. It must belong to `expected` in everything but the LSN, and its LSN must not be
/// above `expected.lsn`.
pub(crate) fn read(vfs: &dyn Vfs, path: &Path, expected: &Stamp) -> Result<Image> {
    let file = vfs.open(path, OpenMode::Read).context("open", path)?;
    let mut reader = Reader { file: &*file, path, hashes: Vec::new(), end: 0 };
    let (stamp, sections) = reader.header()?;
    if stamp != (Stamp { lsn: stamp.lsn, ..expected.clone() }) {
        return Err(reader.bad(0, "it belongs to another database or collection, or was built with other parameters"));
    }
    if stamp.lsn > expected.lsn {
        return Err(reader.bad(32, "it reflects operations that the log does not hold"));
    }
    reader.contents(stamp, &sections)
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

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
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
    fn header(&mut self) -> Result<(Stamp, [Section; SECTIONS])> {
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
    fn sections(&self, h: &[u8], data_len: u64) -> Result<[Section; SECTIONS]> {
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
        let sizes = [entry(0)?, entry(1)?, entry(2)?, entry(3)?, entry(4)?, entry(5)?, entry(6)?];
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
    fn contents(&self, stamp: Stamp, sections: &[Section; SECTIONS]) -> Result<Image> {
        let mut filling = self.filling(stamp, sections)?;
        let mut fault = None;
        self.elements(sections, |kind, i, bytes| {
            if !filling.take(kind, i, bytes) && fault.is_none() {
                fault = Some((kind, i));
            }
        })?;
        if let Some((kind, i)) = fault {
            return Err(self.bad(HEADER_LEN as u64, &format!("element {i} of its {kind:?} section makes no sense")));
        }
        let Filling { covered, lsns, graph, stored, codes, .. } = filling;
        graph.publish(covered);
        Ok(Image {
            #[cfg(test)]
            stamp: filling.stamp,
            lsns,
            parts: Parts { graph, stored, codes },
        })
    }

    /// Empty arrays of the sizes that the sections have, if those belong together.
    fn filling(&self, stamp: Stamp, sections: &[Section; SECTIONS]) -> Result<Filling> {
        let [lsns, links, twins, entries, stored_at, centre, codes_at] = sections;
        let slots = u32::try_from(lsns.count).map_err(|_| self.bad(SECTIONS_AT as u64, "it has too many slots"))?;
        let (capacity, dim) = (2 * stamp.m as usize, stamp.dim as usize);
        let stored = Stored::new();
        let has_codes = Flat::keeps_codes(dim);
        let code_bytes = if has_codes { padded(dim) / 2 + 8 } else { 8 };
        let right = links.stride == 4 * capacity
            && lsns.stride == 8
            && [twins, entries, centre].iter().all(|s| s.stride == 4)
            && (stored_at.stride, codes_at.stride) == (stored.stride(), code_bytes)
            && links.count == twins.count
            && links.count <= lsns.count
            && stored_at.count == lsns.count
            && codes_at.count == if has_codes { lsns.count } else { 0 }
            && (centre.count == 0 || has_codes && centre.count == dim);
        if !right {
            return Err(self.bad(SECTIONS_AT as u64, "its sections have the wrong sizes"));
        }
        #[allow(clippy::cast_possible_truncation)] // at most `slots`
        let covered = links.count as u32;
        let graph = Graph::new(capacity);
        graph.reserve(covered);
        stored.reserve(slots);
        Ok(Filling {
            covered,
            lsns: Vec::with_capacity(lsns.count),
            graph,
            stored,
            codes: (has_codes && centre.count == 0).then(|| empty_codes(&stamp, Vec::new())),
            centre: Vec::with_capacity(centre.count),
            words: Vec::with_capacity(capacity),
            stamp,
        })
    }

    /// Calls `take` with every element of every section, in order, each from blocks that match their checksums.
    fn elements(&self, sections: &[Section; SECTIONS], mut take: impl FnMut(Kind, u32, &[u8])) -> Result<()> {
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

/// No codes yet, around `centre`.
fn empty_codes(stamp: &Stamp, centre: Vec<f32>) -> Codes {
    Codes::new(Grid::new(stamp.metric, stamp.dim as usize, centre, stamp.seed))
}

/// An image on its way into memory.
struct Filling {
    stamp: Stamp,
    covered: u32,
    lsns: Vec<u64>,
    graph: Graph,
    stored: Stored,
    codes: Option<Codes>,
    centre: Vec<f32>,
    words: Vec<u32>,
}

impl Filling {
    /// Takes element `i` of a section; false if it makes no sense. Elements come in order.
    fn take(&mut self, kind: Kind, i: u32, bytes: &[u8]) -> bool {
        let Filling { graph, covered, .. } = self;
        match kind {
            Kind::Lsns => {
                self.lsns.push(u64_at(bytes, 0));
                true
            }
            Kind::Links => take_links(graph, i, bytes, *covered, &mut self.words),
            Kind::Twins => take_twin(graph, i, u32_at(bytes, 0), *covered),
            Kind::Entries => {
                let entry = u32_at(bytes, 0);
                if entry < *covered {
                    graph.add_entry(entry);
                }
                entry < *covered
            }
            Kind::Stored => self.stored.decode(i, bytes),
            Kind::Centre => {
                self.centre.push(f32::from_bits(u32_at(bytes, 0)));
                if self.centre.len() == self.stamp.dim as usize {
                    self.codes = Some(empty_codes(&self.stamp, std::mem::take(&mut self.centre)));
                }
                f32::from_bits(u32_at(bytes, 0)).is_finite()
            }
            Kind::Codes => self.take_code(bytes),
        }
    }

    fn take_code(&mut self, bytes: &[u8]) -> bool {
        let Some(codes) = &self.codes else { return false };
        let (nibbles, rest) = bytes.split_at(bytes.len() - 8);
        let encoded = Encoded { norm: f32::from_bits(u32_at(rest, 0)), factor: f32::from_bits(u32_at(rest, 4)) };
        codes.append_encoded(nibbles, encoded);
        encoded.norm.is_finite() && encoded.norm >= 0.0 && encoded.factor.is_finite()
    }
}
