//! Reading an index image: every block is checked before it is used, and every link before it is followed.
//!
//! Invariants: those of [`super::image`]. A length is compared with the file's before anything is allocated by it.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::graph::{Filled, Graph};
use super::image::{
    BLOCK, COUNTS_AT, Counts, END_MAGIC, FOOTER_FIXED, HEADER_LEN, Image, Kind, MAGIC, Parts, SECTION_ENTRY, SECTIONS,
    SECTIONS_AT, Section, Stamp, VERSION, lay_out, metric_code, stored_count, strides,
};
use super::packed::{self, Lists};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::index::flat::Flat;
use crate::index::space::Stored;
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{CollectionId, Lsn, Metric};
use crate::vectors::codes::{Codes, Grid, encoded_bytes};

/// Images of more bytes than this are read on two threads.
pub(super) const PARALLEL_FROM: u64 = 2 << 20;
/// The sections from here on are about rows, those before about links.
const FIRST_OF_ROWS: usize = 5;

/// Reads and checks the image at `path`. It must belong to `expected` in everything but the LSN, and its LSN must not be
/// above `expected.lsn`.
pub(crate) fn read(vfs: &dyn Vfs, path: &Path, expected: &Stamp) -> Result<Image> {
    let file = vfs.open(path, OpenMode::Read).context("open", path)?;
    let mut reader = Reader { file: &*file, path, hashes: Vec::new(), end: 0 };
    let (stamp, counts, sections) = reader.header()?;
    if stamp != (Stamp { lsn: stamp.lsn, ..expected.clone() }) {
        return Err(reader.bad(0, "it belongs to another database or collection, or was built with other parameters"));
    }
    if stamp.lsn > expected.lsn {
        return Err(reader.bad(32, "it reflects operations that the log does not hold"));
    }
    reader.contents(&stamp, counts, &sections)
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
    fn header(&mut self) -> Result<(Stamp, Counts, [Section; SECTIONS])> {
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
        let counts = Counts { slots: u32_at(&h, COUNTS_AT), covered: u32_at(&h, COUNTS_AT + 4) };
        Ok((self.stamp(&h)?, counts, self.sections(&h, data_len)?))
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
        let (mut strides, mut counts) = ([0; SECTIONS], [0; SECTIONS]);
        for i in 0..SECTIONS {
            let at = SECTIONS_AT + i * SECTION_ENTRY;
            let stride = u64::from(u32_at(h, at + 4));
            let fits = stride > 0 && u64_at(h, at + 8) <= data_len / stride;
            let sizes = (usize::try_from(stride), usize::try_from(u64_at(h, at + 8)));
            match (fits, sizes) {
                (true, (Ok(stride), Ok(count))) => (strides[i], counts[i]) = (stride, count),
                _ => return Err(self.bad(at as u64, "a section does not fit into it")),
            }
        }
        let (sections, len) = lay_out(strides, counts);
        let same = sections.iter().enumerate().all(|(i, s)| {
            let at = SECTIONS_AT + i * SECTION_ENTRY;
            u32_at(h, at) == s.kind as u32 && u64_at(h, at + 16) == s.offset
        });
        if !same || len != data_len {
            return Err(self.bad(SECTIONS_AT as u64, "its sections are not where they belong"));
        }
        Ok(sections)
    }

    /// Reads all blocks, checks them, and fills a graph and the per-slot data: on two threads where that pays.
    fn contents(&self, stamp: &Stamp, counts: Counts, sections: &[Section; SECTIONS]) -> Result<Image> {
        self.check_sizes(stamp, counts, sections)?;
        let (links, rows) = sections.split_at(FIRST_OF_ROWS);
        let middle = rows[0].offset;
        let read_links = || {
            let mut filling = LinksFilling::new(stamp, counts);
            self.part(links, middle, &mut |kind, first, bytes| filling.take(kind, first, bytes))?;
            let at = links[0].offset;
            filling
                .finish(&links[2])
                .ok_or_else(|| self.bad(at, "its lists are not as many, or not as long, as it says"))
        };
        let read_rows = || {
            let mut filling = RowsFilling::new(stamp, counts, rows);
            self.part(rows, self.end, &mut |kind, first, bytes| filling.take(kind, first, bytes))?;
            Ok::<_, Error>(filling)
        };
        let (links, rows) = if self.end < PARALLEL_FROM {
            (read_links(), read_rows())
        } else {
            std::thread::scope(|scope| {
                let links = scope.spawn(read_links);
                let rows = read_rows();
                (links.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), rows)
            })
        };
        let ((lsns, graph), RowsFilling { stored, codes, .. }) = (links?, rows?);
        Ok(Image {
            #[cfg(test)]
            stamp: stamp.clone(),
            lsns,
            parts: Parts { graph, stored, codes },
        })
    }

    /// Whether the sections' sizes belong together.
    fn check_sizes(&self, stamp: &Stamp, counts: Counts, sections: &[Section; SECTIONS]) -> Result<()> {
        let [_, degrees, links, twins, _, stored, centre, codes] = sections;
        let dim = stamp.dim as usize;
        let (slots, covered) = (counts.slots as usize, counts.covered as usize);
        let has_codes = Flat::keeps_codes(dim);
        let code = if has_codes { encoded_bytes(stamp.metric, dim, centre.count > 0) } else { 1 };
        let right = sections.iter().map(|s| s.stride).eq(strides(2 * stamp.m as usize, code))
            && covered <= slots
            && degrees.count == covered
            && links.count as u64 >= packed::bytes_of(0, counts.covered)
            && twins.count <= covered
            && stored.count == stored_count(stamp.metric, has_codes, slots)
            && codes.count == if has_codes { slots } else { 0 }
            && (centre.count == 0 || has_codes && centre.count == dim);
        if right { Ok(()) } else { Err(self.bad(SECTIONS_AT as u64, "its sections have the wrong sizes")) }
    }

    /// Reads the blocks from the first of `sections` to `until` and checks them; calls `take` with runs of whole elements, in
    /// order: their kind, the first one's number and their bytes. It says whether they make sense.
    fn part(&self, sections: &[Section], until: u64, take: &mut dyn FnMut(Kind, u32, &[u8]) -> bool) -> Result<()> {
        let block_of = |offset: u64| usize::try_from((offset - HEADER_LEN as u64) / BLOCK as u64).unwrap_or(usize::MAX);
        let mut next_block = block_of(sections[0].offset);
        let mut window_at = (HEADER_LEN + next_block * BLOCK) as u64;
        let mut window = Vec::with_capacity(2 * BLOCK);
        for section in sections {
            let mut done = 0;
            while done < section.count {
                let at = section.offset + (done * section.stride) as u64;
                let used = usize::try_from(at - window_at).unwrap_or(usize::MAX).min(window.len());
                let run = ((window.len() - used) / section.stride).min(section.count - done);
                if run == 0 {
                    window.drain(..used);
                    window_at += used as u64;
                    self.block(next_block, &mut window)?;
                    next_block += 1;
                    continue;
                }
                #[allow(clippy::cast_possible_truncation)]
                // bytes of links apart, which nobody counts, at most as many as slots
                let first = done as u32;
                if !take(section.kind, first, &window[used..used + run * section.stride]) {
                    let what =
                        format!("what its {:?} section holds from element {first} on makes no sense", section.kind);
                    return Err(self.bad(at, &what));
                }
                done += run;
            }
        }
        // What no element lies in (padding) is checked too.
        while next_block < self.hashes.len() && ((HEADER_LEN + next_block * BLOCK) as u64) < until {
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

/// The words of a section of u32.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word))
}

/// Graph and LSNs on their way into memory.
struct LinksFilling {
    counts: Counts,
    capacity: usize,
    lsns: Vec<u64>,
    graph: Graph,
    lists: Lists,
    filled: Filled,
    /// Slots below this have their chain.
    chained: u32,
}

impl LinksFilling {
    fn new(stamp: &Stamp, counts: Counts) -> LinksFilling {
        let capacity = 2 * stamp.m as usize;
        LinksFilling {
            counts,
            capacity,
            lsns: Vec::with_capacity(counts.slots as usize),
            graph: Graph::new(capacity),
            lists: Lists::new(counts.covered),
            filled: Filled::default(),
            chained: 0,
        }
    }

    /// Takes the elements of a section from number `first` on; false if one makes no sense. Elements come in order.
    fn take(&mut self, kind: Kind, first: u32, bytes: &[u8]) -> bool {
        match kind {
            Kind::Lsns => bytes.as_chunks::<16>().0.iter().all(|run| self.take_run(u64_at(run, 0), u64_at(run, 8))),
            Kind::Degrees => {
                let stride = strides(self.capacity, 1)[1];
                bytes.chunks_exact(stride).all(|degree| {
                    let degree = degree.iter().rev().fold(0, |value, &byte| value << 8 | u16::from(byte));
                    self.lists.take_degree(degree);
                    usize::from(degree) <= self.capacity
                })
            }
            Kind::Links => {
                self.lists.take_bytes(bytes);
                self.graph.take_lists(&mut self.filled, &mut self.lists)
            }
            Kind::Twins => {
                if first == 0 {
                    self.graph.finish_lists(&mut self.filled, self.counts.covered);
                }
                bytes.as_chunks::<8>().0.iter().all(|pair| self.take_twin(u32_at(pair, 0), u32_at(pair, 4)))
            }
            _ => words(bytes).all(|entry| {
                let fine = entry < self.counts.covered;
                if fine {
                    self.graph.add_entry(entry);
                }
                fine
            }),
        }
    }

    /// Takes a run of LSNs; false if there are more than slots, or a number is too large to be one.
    fn take_run(&mut self, first: u64, count: u64) -> bool {
        let room = (self.counts.slots as usize - self.lsns.len()) as u64;
        match first.checked_add(count) {
            Some(end) if count > 0 && count <= room => {
                self.lsns.extend(first..end);
                true
            }
            _ => false,
        }
    }

    /// Hangs `twin` behind a slot if that makes sense. Chains go up, so they end.
    fn take_twin(&mut self, slot: u32, twin: u32) -> bool {
        let fine = slot >= self.chained && twin > slot && twin < self.counts.covered;
        if fine {
            self.graph.set_twin(slot, twin);
            self.chained = slot + 1;
        }
        fine
    }

    /// All that was taken, if it is as much as `links` and the header say.
    fn finish(mut self, links: &Section) -> Option<(Vec<u64>, Graph)> {
        let Counts { slots, covered } = self.counts;
        let whole = self.lists.are_all()
            && self.lsns.len() == slots as usize
            && links.count as u64 == packed::bytes_of(self.lists.links(), covered);
        whole.then(|| {
            self.graph.finish_lists(&mut self.filled, covered);
            self.graph.publish(covered);
            (self.lsns, self.graph)
        })
    }
}

/// Norms and codes on their way into memory.
struct RowsFilling {
    stored: Stored,
    codes: Option<Codes>,
    centre: Vec<f32>,
    stamp: Stamp,
    slots: u32,
}

impl RowsFilling {
    fn new(stamp: &Stamp, counts: Counts, sections: &[Section]) -> RowsFilling {
        let stored = Stored::new();
        stored.reserve(counts.slots);
        let mut filling =
            RowsFilling { stored, codes: None, centre: Vec::new(), stamp: stamp.clone(), slots: counts.slots };
        if Flat::keeps_codes(stamp.dim as usize) && sections[1].count == 0 {
            filling.begin_codes();
        }
        filling
    }

    /// No codes yet, around the centre that was read.
    fn begin_codes(&mut self) {
        let Stamp { metric, dim, seed, .. } = self.stamp;
        let grid = Grid::new(metric, dim as usize, std::mem::take(&mut self.centre), seed);
        self.codes = Some(Codes::of(grid, self.slots as usize));
    }

    /// Takes the elements of a section from number `first` on; false if one makes no sense. Elements come in order.
    fn take(&mut self, kind: Kind, first: u32, bytes: &[u8]) -> bool {
        match kind {
            Kind::Stored => {
                let stride = self.stored.stride();
                (first..).zip(bytes.chunks_exact(stride)).all(|(i, bytes)| self.stored.decode(i, bytes))
            }
            Kind::Centre => {
                self.centre.extend(words(bytes).map(f32::from_bits));
                let fine = self.centre.iter().all(|x| x.is_finite());
                if self.centre.len() == self.stamp.dim as usize {
                    self.begin_codes();
                }
                fine
            }
            _ => self.codes.as_ref().is_some_and(|codes| codes.append_run(bytes)),
        }
    }
}
