//! Which files make up the database: an immutable file `MANIFEST-<n>`, replaced as a whole. Bytes: `docs/FORMAT.md`.
//!
//! Invariants:
//! 1. A manifest names only files that were durable before it was written.
//! 2. The highest valid one wins. The two highest are kept, and a change that must not be undone by falling back to the
//!    lower one (files replaced, collections changed) is written twice before anything is removed.
//! 3. A manifest that needs a newer reader is refused, and nothing is changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{DbUuid, FORMAT, MIN_READER, SegmentKind, hash128, take, u16_at, u32_at, u64_at};
use super::segment::FooterRef;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::io::atomic::{WriteFailed, write_atomic};
use crate::io::vfs::{EntryKind, Vfs, read_file};
use crate::types::{CollectionId, Lsn, Metric, SegmentNo, Tokenizer};

const MAGIC: [u8; 8] = *b"NPKDBMAN";
const HEAD: usize = 96;
const SEGMENT_ENTRY: usize = 80;
const COLLECTION_ENTRY: usize = 40;
const NO_MODEL: u32 = u32::MAX;
/// Longest manifest that is read: room for 700,000 segments.
const LIMIT: u64 = 64 << 20;
/// What the table of collections may take of it.
const MOST_COLLECTIONS: u64 = LIMIT / 2;
/// What a manifest's file name starts with.
pub(super) const PREFIX: &str = "MANIFEST-";

/// A collection's identity and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectionEntry {
    pub(crate) id: CollectionId,
    pub(crate) name: String,
    pub(crate) dim: u16,
    pub(crate) metric: Metric,
    pub(crate) m: u32,
    pub(crate) ef_construction: u32,
    /// No id below this one is given out again, even if no row of it is left.
    pub(crate) next_id: u64,
    /// What made the vectors, if the caller said so.
    pub(crate) model: Option<String>,
    /// How its documents are cut into words.
    pub(crate) tokenizer: Tokenizer,
}

/// A sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) no: SegmentNo,
    pub(crate) kind: SegmentKind,
    pub(crate) first_lsn: Lsn,
    pub(crate) last_lsn: Lsn,
    pub(crate) footer: FooterRef,
    pub(crate) rows: u64,
    /// Rows known to be dead when this was written; a hint for compaction.
    pub(crate) dead_rows: u64,
}

/// The contents of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) number: u64,
    pub(crate) db_uuid: DbUuid,
    pub(crate) created_ms: i64,
    /// The raw segment where reading frame by frame starts; those before it are listed with their footers, those after
    /// it are found by following SEAL frames.
    pub(crate) scan_from: SegmentNo,
    /// No segment of this number or above had been made.
    pub(crate) next_segment: u32,
    /// When a compaction last ran, in Unix milliseconds; 0 is never.
    pub(crate) last_compaction_ms: i64,
    /// Sealed segments in LSN order.
    pub(crate) segments: Vec<SegmentEntry>,
    pub(crate) collections: Arc<Vec<CollectionEntry>>,
}

/// Why a manifest is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManifestFault {
    Damaged { offset: u64, what: &'static str },
    Newer { format: u16, min_reader: u16 },
}

fn damaged(offset: usize, what: &'static str) -> ManifestFault {
    ManifestFault::Damaged { offset: offset as u64, what }
}

impl Manifest {
    /// The bytes on disk; see docs/FORMAT.md.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            HEAD + self.segments.len() * SEGMENT_ENTRY + self.collections.len() * 2 * COLLECTION_ENTRY,
        );
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 16]); // the hash, below
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&MIN_READER.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.db_uuid);
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.scan_from.0.to_le_bytes());
        out.extend_from_slice(&self.next_segment.to_le_bytes());
        out.extend_from_slice(&self.last_compaction_ms.to_le_bytes());
        out.extend_from_slice(&count(self.segments.len()).to_le_bytes());
        out.extend_from_slice(&count(self.collections.len()).to_le_bytes());
        out.resize(HEAD, 0);
        self.segments.iter().for_each(|s| encode_segment(s, &mut out));
        self.collections.iter().for_each(|c| encode_collection(c, &mut out));
        let hash = hash128(&out[24..]);
        out[8..24].copy_from_slice(&hash);
        out
    }

    /// Reads a manifest back.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, ManifestFault> {
        if bytes.len() < HEAD || bytes[..8] != MAGIC {
            return Err(damaged(0, "the manifest's magic bytes are wrong"));
        }
        if bytes[8..24] != hash128(&bytes[24..]) {
            return Err(damaged(8, "the manifest's checksum does not match"));
        }
        let (format, min_reader) = (u16_at(bytes, 24), u16_at(bytes, 26));
        if min_reader > FORMAT {
            return Err(ManifestFault::Newer { format, min_reader });
        }
        let mut reader = Reader { bytes, at: HEAD };
        let (segments, collections) = (u32_at(bytes, 80), u32_at(bytes, 84));
        let manifest = Manifest {
            number: u64_at(bytes, 32),
            db_uuid: take(bytes, 40),
            created_ms: u64_at(bytes, 56).cast_signed(),
            scan_from: SegmentNo(u32_at(bytes, 64)),
            next_segment: u32_at(bytes, 68),
            last_compaction_ms: u64_at(bytes, 72).cast_signed(),
            segments: (0..segments).map(|_| reader.segment()).collect::<Result<_, _>>()?,
            collections: Arc::new((0..collections).map(|_| reader.collection()).collect::<Result<_, _>>()?),
        };
        if reader.at != bytes.len() {
            return Err(damaged(reader.at, "bytes follow the last collection"));
        }
        Ok(manifest)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("a manifest lists fewer than 2^32 entries: segment numbers have 24 bits")
}

fn encode_segment(s: &SegmentEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(&s.no.0.to_le_bytes());
    out.extend_from_slice(&[s.kind.code(), 0, 0, 0]);
    for number in [s.first_lsn.0, s.last_lsn.0, s.footer.file_len, s.footer.offset] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&s.footer.hash);
    for number in [s.rows, s.dead_rows, 0] {
        out.extend_from_slice(&u64::to_le_bytes(number));
    }
}

fn encode_collection(c: &CollectionEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(&c.id.0.to_le_bytes());
    out.extend_from_slice(&c.dim.to_le_bytes());
    out.extend_from_slice(&[metric_code(c.metric), tokenizer_code(c.tokenizer)]);
    for number in [c.m, c.ef_construction] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&c.next_id.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&count(c.name.len()).to_le_bytes());
    out.extend_from_slice(&c.model.as_ref().map_or(NO_MODEL, |m| count(m.len())).to_le_bytes());
    out.extend_from_slice(c.name.as_bytes());
    out.extend_from_slice(c.model.as_deref().unwrap_or("").as_bytes());
}

/// Directories from before there was a choice have 0.
fn tokenizer_code(tokenizer: Tokenizer) -> u8 {
    match tokenizer {
        Tokenizer::Unicode61 => 0,
        Tokenizer::Porter => 1,
        Tokenizer::Trigram => 2,
    }
}

fn metric_code(metric: Metric) -> u8 {
    match metric {
        Metric::Cosine => 1,
        Metric::L2 => 2,
        Metric::Ip => 3,
    }
}

/// A position in a manifest whose hash was checked; lengths are checked all the same.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self, len: usize) -> Result<&'a [u8], ManifestFault> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(damaged(self.at, "the manifest ends inside an entry"))?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn segment(&mut self) -> Result<SegmentEntry, ManifestFault> {
        let at = self.at;
        let b = self.next(SEGMENT_ENTRY)?;
        Ok(SegmentEntry {
            no: SegmentNo(u32_at(b, 0)),
            kind: SegmentKind::from_code(b[4]).ok_or(damaged(at + 4, "a segment's kind is unknown"))?,
            first_lsn: Lsn(u64_at(b, 8)),
            last_lsn: Lsn(u64_at(b, 16)),
            footer: FooterRef { file_len: u64_at(b, 24), offset: u64_at(b, 32), hash: take(b, 40) },
            rows: u64_at(b, 56),
            dead_rows: u64_at(b, 64),
        })
    }

    fn collection(&mut self) -> Result<CollectionEntry, ManifestFault> {
        let at = self.at;
        let b = self.next(COLLECTION_ENTRY)?;
        let metric = [Metric::Cosine, Metric::L2, Metric::Ip].into_iter().find(|m| metric_code(*m) == b[6]);
        let tokenizer = Tokenizer::ALL.into_iter().find(|t| tokenizer_code(*t) == b[7]);
        let (name_len, model_len) = (u32_at(b, 32), u32_at(b, 36));
        if u16_at(b, 4) == 0 {
            return Err(damaged(at + 4, "a collection's vectors have no dimensions"));
        }
        if !(2..=256).contains(&u32_at(b, 8)) || !(8..=4_096).contains(&u32_at(b, 12)) {
            return Err(damaged(at + 8, "a collection's M or ef_construction is out of range"));
        }
        Ok(CollectionEntry {
            id: CollectionId(u32_at(b, 0)),
            dim: u16_at(b, 4),
            metric: metric.ok_or(damaged(at + 6, "a collection's metric is unknown"))?,
            m: u32_at(b, 8),
            ef_construction: u32_at(b, 12),
            next_id: u64_at(b, 16),
            name: self.text(name_len)?,
            tokenizer: tokenizer.ok_or(damaged(at + 7, "a collection's tokenizer is unknown"))?,
            model: if model_len == NO_MODEL { None } else { Some(self.text(model_len)?) },
        })
    }

    fn text(&mut self, len: u32) -> Result<String, ManifestFault> {
        let at = self.at;
        let bytes = self.next(len as usize)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| damaged(at, "a name is not UTF-8"))
    }
}

/// The path of manifest `number`.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number}"))
}

/// The number in a manifest's file name; `None` for anything else, a temporary file among it.
pub(super) fn number_in(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The numbers of the manifests in `dir`, highest first.
pub(super) fn numbers(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<u64>> {
    let entries = vfs.list(dir).context("list", dir)?;
    let files = entries.iter().filter(|e| e.kind == EntryKind::File);
    let mut numbers: Vec<u64> = files.filter_map(|e| number_in(&e.name)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

/// The highest valid manifest, and the highest number in use.
pub(super) fn load(vfs: &dyn Vfs, dir: &Path) -> Result<(Manifest, u64)> {
    let numbers = numbers(vfs, dir)?;
    let Some(highest) = numbers.first().copied() else {
        return Err(Error::corruption(dir, 0, "there is a log but no MANIFEST-<n> file"));
    };
    let mut first_fault = None;
    for number in numbers {
        match read(vfs, dir, number) {
            Ok(manifest) => return Ok((manifest, highest)),
            Err(e) if e.kind() == ErrorKind::Corruption => first_fault.get_or_insert(e),
            Err(e) => return Err(e),
        };
    }
    Err(first_fault.unwrap_or_else(|| Error::corruption(dir, 0, "no manifest is readable")))
}

/// Manifest `number`, if it is whole.
pub(super) fn read(vfs: &dyn Vfs, dir: &Path, number: u64) -> Result<Manifest> {
    let path = path_of(dir, number);
    let bytes = match read_file(vfs, &path, LIMIT) {
        Err(e) if e.kind() == std::io::ErrorKind::FileTooLarge => {
            return Err(Error::corruption(&path, LIMIT, "the manifest is impossibly long"));
        }
        other => other.context("read", &path)?,
    };
    match Manifest::decode(&bytes) {
        Ok(manifest) if manifest.number == number => Ok(manifest),
        Ok(_) => Err(Error::corruption(&path, 32, "the manifest has another file's number")),
        Err(ManifestFault::Newer { format, min_reader }) => Err(newer(&path, format, min_reader)),
        Err(ManifestFault::Damaged { offset, what }) => Err(Error::corruption(&path, offset, what)),
    }
}

/// Manifest `number`, or `None` if it is not there (any more) or not readable.
pub(super) fn load_number(vfs: &dyn Vfs, dir: &Path, number: u64) -> Result<Option<Manifest>> {
    let path = path_of(dir, number);
    match read_file(vfs, &path, LIMIT) {
        Ok(bytes) => Ok(Manifest::decode(&bytes).ok().filter(|manifest| manifest.number == number)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// The refusal of files that a newer version wrote.
pub(super) fn newer(path: &Path, format: u16, min_reader: u16) -> Error {
    let words = format!(
        "was written in format {format} by a newer NoPokeDB and needs a reader of format {min_reader}; this version reads \
         format {FORMAT}. Nothing was changed; install a newer version to open it"
    );
    Error::path(path, words)
}

/// Writes `manifest` under its number: complete or not there, and durable when this returns. One that would not be read is
/// not written.
pub(super) fn store(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest) -> Result<(), WriteFailed> {
    let bytes = manifest.encode();
    if bytes.len() as u64 > LIMIT {
        let error = Error::argument(format!("the list of segments and collections would take {} bytes", bytes.len()));
        return Err(WriteFailed { error, unsure: false });
    }
    write_atomic(vfs, dir, &format!("{PREFIX}{}", manifest.number), &bytes)
}

/// Refuses a table of collections that leaves the segments too little room.
pub(super) fn check_table(collections: &[CollectionEntry]) -> Result<()> {
    let len = |c: &CollectionEntry| COLLECTION_ENTRY + c.name.len() + c.model.as_ref().map_or(0, String::len);
    let bytes: usize = collections.iter().map(len).sum();
    if bytes as u64 > MOST_COLLECTIONS {
        let n = collections.len();
        return Err(Error::argument(format!(
            "{n} collections (dropped ones included) take {bytes} bytes to list, and {MOST_COLLECTIONS} are there for them; \
             use fewer or shorter names, several directories, or one collection and a metadata field to filter by"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Manifest {
        let footer = FooterRef { offset: 8192, file_len: 8352, hash: [0x22; 16] };
        let (kind, first_lsn, last_lsn) = (SegmentKind::Compact, Lsn(1), Lsn(9));
        let segment = SegmentEntry { no: SegmentNo(3), kind, first_lsn, last_lsn, footer, rows: 7, dead_rows: 2 };
        let collection = CollectionEntry {
            id: CollectionId(1),
            name: "a".to_owned(),
            dim: 3,
            metric: Metric::L2,
            m: 16,
            ef_construction: 200,
            next_id: 10,
            model: Some("m".to_owned()),
            tokenizer: Tokenizer::Unicode61,
        };
        Manifest {
            number: 4,
            db_uuid: *b"0123456789abcdef",
            created_ms: 1_700_000_000_000,
            scan_from: SegmentNo(2),
            next_segment: 5,
            last_compaction_ms: 0,
            segments: vec![segment],
            collections: Arc::new(vec![
                CollectionEntry { model: None, ..collection.clone() },
                CollectionEntry { tokenizer: Tokenizer::Porter, ..collection },
            ]),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_manifest_has_the_documented_bytes() {
        let bytes = example().encode();
        let documented = concat!(
            "0100010000000000",                 // format, min_reader
            "0400000000000000",                 // number
            "30313233343536373839616263646566", // db_uuid
            "0068e5cf8b010000",                 // created_ms
            "0200000005000000",                 // scan_from, next_segment
            "0000000000000000",                 // last_compaction_ms
            "0100000002000000",                 // segments, collections
            "0000000000000000",                 // reserved
            "0300000002000000",                 // segment 3, compact
            "01000000000000000900000000000000", // first_lsn, last_lsn
            "a0200000000000000020000000000000", // file length, footer offset
            "22222222222222222222222222222222", // footer hash
            "07000000000000000200000000000000", // rows, dead rows
            "0000000000000000",                 // reserved
            "0100000003000200",                 // collection 1, dim 3, l2
            "10000000c8000000",                 // M, ef_construction
            "0a000000000000000000000000000000", // next_id, reserved
            "01000000ffffffff",                 // name length, model length
            "61",                               // name
            "0100000003000201",                 // collection 1, dim 3, l2, porter
            "10000000c8000000",                 // M, ef_construction
            "0a000000000000000000000000000000", // next_id, reserved
            "0100000001000000",                 // name length, model length
            "616d",                             // name, model
        );
        assert_eq!(hex(&bytes[24..]), documented);
        assert_eq!(Manifest::decode(&bytes), Ok(example()));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_of_a_manifest_is_noticed() {
        let good = example().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bad).is_err(), "bit {bit}");
        }
        assert!((0..good.len()).all(|n| Manifest::decode(&good[..n]).is_err()));
    }

    #[test]
    fn counts_and_lengths_are_not_believed_even_with_a_good_hash() {
        let good = example().encode();
        // The counts of segments and collections, a name's length, a model's length, a kind, a metric and a tokenizer.
        for at in [80, 81, 83, 84, 87, 96 + 80 + 32, 96 + 80 + 35, 96 + 80 + 36, 96 + 4, 96 + 80 + 6, 96 + 80 + 7] {
            let mut bad = good.clone();
            bad[at] = 0xF1;
            let hash = hash128(&bad[24..]);
            bad[8..24].copy_from_slice(&hash);
            assert!(Manifest::decode(&bad).is_err(), "byte {at}");
        }
        // A collection without dimensions, without links, and with too wide a beam.
        for (at, value) in [(96 + 80 + 4, 0), (96 + 80 + 8, 0), (96 + 80 + 13, 0xFF)] {
            let mut bad = good.clone();
            bad[at] = value;
            let hash = hash128(&bad[24..]);
            bad[8..24].copy_from_slice(&hash);
            assert!(Manifest::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_manifest_is_not_mistaken_for_its_temporary_file() {
        assert_eq!(number_in("MANIFEST-12"), Some(12));
        for name in ["MANIFEST-", "MANIFEST-12.tmp", "MANIFEST-x", "manifest-1", "MANIFEST-99999999999999999999"] {
            assert_eq!(number_in(name), None, "{name}");
        }
    }
}
