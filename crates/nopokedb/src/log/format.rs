//! The bytes of a segment's and a frame's header; `docs/FORMAT.md` has the tables, this module nothing else.
//!
//! Invariants:
//! 1. No length of a header is believed before the header's own CRC32C, which is salted with the segment's salt.
//! 2. A decoded [`FrameHeader`] is consistent in itself: `payload_len` is what its counts add up to, and in bounds.
//! 3. Nothing here knows a file: decoders say what does not check, the caller adds where.

use crate::types::{CollectionId, Lsn, SegmentNo};

/// The version these files are written in.
pub(crate) const FORMAT: u16 = 1;
/// The oldest reader that understands what this version writes.
pub(crate) const MIN_READER: u16 = 1;
/// Groups of frames start and end on this boundary, so that no sector holds bytes of two commits.
pub(crate) const PAGE: u64 = 4096;
/// Frames, payloads and vector blocks start on this boundary.
pub(crate) const ALIGN: u64 = 64;
/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER_LEN: u64 = PAGE;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_LEN: u64 = 128;
/// The longest payload of one frame.
pub(crate) const MAX_PAYLOAD: u64 = 64 << 20;
/// Bytes of one entry of a frame's row table.
pub(crate) const ROW_LEN: u64 = 40;
/// The same lengths as sizes of buffers.
pub(crate) const PAGE_SIZE: usize = 4096;
pub(crate) const ALIGN_SIZE: usize = 64;
pub(crate) const FRAME_HEADER_SIZE: usize = 128;
pub(crate) const ROW_SIZE: usize = 40;
pub(crate) const MAX_PAYLOAD_SIZE: usize = 64 << 20;
/// First bytes of a segment.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"NPKDBSEG";
/// First bytes of a frame.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"NPFR";

/// Links a frame to everything before it: the XXH3-128 of the preceding frame's header.
pub(crate) type Chain = [u8; 16];
/// A segment's random salt.
pub(crate) type Salt = [u8; 16];
/// A database's identity, in each of its files.
pub(crate) type DbUuid = [u8; 16];

/// `n` rounded up to a multiple of `to`, a power of two.
pub(crate) const fn align_up(n: u64, to: u64) -> u64 {
    (n + to - 1) & !(to - 1)
}

/// The XXH3-128 of `bytes` in the order it has on disk.
pub(crate) fn hash128(bytes: &[u8]) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(bytes).to_le_bytes()
}

/// The `N` bytes of `bytes` at `at`.
pub(crate) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

/// The little-endian `u16` at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(take(bytes, at))
}

/// The little-endian `u32` at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

/// The little-endian `u64` at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(bytes, at))
}

/// What wrote a segment, hence how its LSNs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentKind {
    /// Written by commits, frame by frame; chained through all raw segments.
    Raw,
    /// Written at once by a compaction; chained within itself.
    Compact,
}

impl SegmentKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            SegmentKind::Raw => 1,
            SegmentKind::Compact => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [SegmentKind::Raw, SegmentKind::Compact].into_iter().find(|k| k.code() == code)
    }
}

/// The first 4 KiB of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) kind: SegmentKind,
    pub(crate) no: SegmentNo,
    pub(crate) db_uuid: DbUuid,
    /// The first LSN it may hold. In a raw segment everything below was durable when this header was written.
    pub(crate) first_lsn: Lsn,
    pub(crate) salt: Salt,
    /// The chain value of the frame before this segment's first.
    pub(crate) prev_chain: Chain,
    pub(crate) created_ms: i64,
    /// How far frames may reach.
    pub(crate) capacity: u64,
}

/// Why a segment's header is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// It does not check.
    Damaged(&'static str),
    /// It was written by a newer version, which only readers of `min_reader` and above understand.
    Newer { format: u16, min_reader: u16 },
}

impl SegmentHeader {
    /// The bytes on disk; see docs/FORMAT.md.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PAGE_SIZE);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&[0; 4]); // the checksum, below
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&MIN_READER.to_le_bytes());
        out.extend_from_slice(&self.db_uuid);
        out.extend_from_slice(&self.no.0.to_le_bytes());
        out.extend_from_slice(&[self.kind.code(), 0, 0, 0]);
        out.extend_from_slice(&self.first_lsn.0.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.prev_chain);
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.capacity.to_le_bytes());
        out.resize(PAGE_SIZE, 0);
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header back.
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if bytes.len() < PAGE_SIZE {
            return Err(HeaderFault::Damaged("the segment is shorter than its header"));
        }
        let bytes = &bytes[..PAGE_SIZE];
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Damaged("the segment's magic bytes are wrong"));
        }
        if u32_at(bytes, 8) != crc32c::crc32c(&bytes[12..]) {
            return Err(HeaderFault::Damaged("the segment header's checksum does not match"));
        }
        let (format, min_reader) = (u16_at(bytes, 12), u16_at(bytes, 14));
        if min_reader > FORMAT {
            return Err(HeaderFault::Newer { format, min_reader });
        }
        let kind = SegmentKind::from_code(bytes[36]).ok_or(HeaderFault::Damaged("the segment's kind is unknown"))?;
        Ok(SegmentHeader {
            kind,
            no: SegmentNo(u32_at(bytes, 32)),
            db_uuid: take(bytes, 16),
            first_lsn: Lsn(u64_at(bytes, 40)),
            salt: take(bytes, 48),
            prev_chain: take(bytes, 64),
            created_ms: u64_at(bytes, 80).cast_signed(),
            capacity: u64_at(bytes, 88),
        })
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Row operations.
    Rows,
    /// No rows: says that everything before it is durable.
    Watermark,
    /// No rows: the last frame of a full segment; names the next one.
    Seal,
    /// No rows: the database was closed in order.
    CleanClose,
}

impl FrameKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            FrameKind::Rows => 1,
            FrameKind::Watermark => 2,
            FrameKind::Seal => 3,
            FrameKind::CleanClose => 4,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [FrameKind::Rows, FrameKind::Watermark, FrameKind::Seal, FrameKind::CleanClose]
            .into_iter()
            .find(|k| k.code() == code)
    }
}

/// The batch goes on in the next frame; without it this frame is the batch's last.
pub(crate) const FLAG_MORE: u8 = 1;
/// The next frame starts at the next 4 KiB boundary.
pub(crate) const FLAG_GROUP_END: u8 = 2;

/// The 128 bytes before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    pub(crate) dim: u16,
    pub(crate) lsn_first: Lsn,
    /// LSN of the last row; `lsn_first - 1` in a frame without rows.
    pub(crate) lsn_last: Lsn,
    pub(crate) rows: u32,
    pub(crate) collection: CollectionId,
    pub(crate) payload_len: u64,
    /// Highest LSN known to be durable when this frame was written.
    pub(crate) durable_lsn: Lsn,
    pub(crate) unix_ms: i64,
    pub(crate) prev_chain: Chain,
    pub(crate) payload_hash: [u8; 16],
    pub(crate) arena_len: u32,
    /// Vectors in the payload's block.
    pub(crate) vectors: u32,
    /// In a [`FrameKind::Seal`]: the segment that follows; else 0.
    pub(crate) next_segment: u32,
    /// The 4 KiB page at which the group of this frame starts. A group is written only after the one before it was
    /// synced, so a frame that is there proves every byte before this page to have been durable.
    pub(crate) group_page: u32,
}

impl FrameHeader {
    /// A frame without rows that follows the frame of chain value `prev_chain`, in a group that starts at `group_offset`.
    /// All LSNs below `next_lsn` are durable.
    pub(crate) fn without_rows(
        kind: FrameKind,
        next_lsn: Lsn,
        prev_chain: Chain,
        group_offset: u64,
        unix_ms: i64,
    ) -> FrameHeader {
        let last_lsn = Lsn(next_lsn.0 - 1);
        FrameHeader {
            kind,
            flags: FLAG_GROUP_END,
            dim: 0,
            lsn_first: next_lsn,
            lsn_last: last_lsn,
            rows: 0,
            collection: CollectionId(0),
            payload_len: 0,
            durable_lsn: last_lsn,
            unix_ms,
            prev_chain,
            payload_hash: hash128(&[]),
            arena_len: 0,
            vectors: 0,
            next_segment: 0,
            group_page: group_page(group_offset),
        }
    }

    /// Whether the batch goes on in the next frame.
    pub(crate) fn more(&self) -> bool {
        self.flags & FLAG_MORE != 0
    }

    /// Where a frame at `offset` ends and the next one begins.
    pub(crate) fn end(&self, offset: u64) -> u64 {
        let end = offset + FRAME_HEADER_LEN + self.payload_len;
        if self.flags & FLAG_GROUP_END != 0 { align_up(end, PAGE) } else { end }
    }

    /// The bytes on disk; see docs/FORMAT.md.
    pub(crate) fn encode(&self, salt: &Salt) -> [u8; FRAME_HEADER_SIZE] {
        let mut out = [0; FRAME_HEADER_SIZE];
        out[0..4].copy_from_slice(&FRAME_MAGIC);
        out[8] = self.kind.code();
        out[9] = self.flags;
        out[10..12].copy_from_slice(&128u16.to_le_bytes());
        out[12..14].copy_from_slice(&self.dim.to_le_bytes());
        out[16..24].copy_from_slice(&self.lsn_first.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.lsn_last.0.to_le_bytes());
        out[32..36].copy_from_slice(&self.rows.to_le_bytes());
        out[36..40].copy_from_slice(&self.collection.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.payload_len.to_le_bytes());
        out[48..56].copy_from_slice(&self.durable_lsn.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.unix_ms.to_le_bytes());
        out[64..80].copy_from_slice(&self.prev_chain);
        out[80..96].copy_from_slice(&self.payload_hash);
        out[112..116].copy_from_slice(&self.arena_len.to_le_bytes());
        out[116..120].copy_from_slice(&self.vectors.to_le_bytes());
        out[120..124].copy_from_slice(&self.next_segment.to_le_bytes());
        out[124..128].copy_from_slice(&self.group_page.to_le_bytes());
        let crc = header_crc(&out, salt);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header back; `Err` says what does not check.
    pub(crate) fn decode(bytes: &[u8], salt: &Salt) -> Result<FrameHeader, &'static str> {
        if bytes.len() < FRAME_HEADER_SIZE {
            return Err("the file ends inside a frame header");
        }
        let bytes = &bytes[..FRAME_HEADER_SIZE];
        if bytes[..4] != FRAME_MAGIC {
            return Err("no frame starts here");
        }
        if u32_at(bytes, 4) != header_crc(bytes, salt) {
            return Err("the frame header's checksum does not match");
        }
        if u64::from(u16_at(bytes, 10)) != FRAME_HEADER_LEN {
            return Err("the frame header's length is not known to this version");
        }
        let header = FrameHeader {
            kind: FrameKind::from_code(bytes[8]).ok_or("the frame's kind is unknown")?,
            flags: bytes[9],
            dim: u16_at(bytes, 12),
            lsn_first: Lsn(u64_at(bytes, 16)),
            lsn_last: Lsn(u64_at(bytes, 24)),
            rows: u32_at(bytes, 32),
            collection: CollectionId(u32_at(bytes, 36)),
            payload_len: u64_at(bytes, 40),
            durable_lsn: Lsn(u64_at(bytes, 48)),
            unix_ms: u64_at(bytes, 56).cast_signed(),
            prev_chain: take(bytes, 64),
            payload_hash: take(bytes, 80),
            arena_len: u32_at(bytes, 112),
            vectors: u32_at(bytes, 116),
            next_segment: u32_at(bytes, 120),
            group_page: u32_at(bytes, 124),
        };
        header.check_lengths()?;
        Ok(header)
    }

    /// Invariant 2: the counts add up to the payload's length, which is in bounds.
    fn check_lengths(&self) -> Result<(), &'static str> {
        // Each term is below 2^51, so the sum cannot overflow.
        let expected = payload_len(self.rows, self.arena_len, self.vectors, self.dim);
        if self.payload_len != expected || expected > MAX_PAYLOAD {
            return Err("the frame's counts do not add up to its length");
        }
        let lsns = self.lsn_last.0.wrapping_add(1).wrapping_sub(self.lsn_first.0);
        if lsns < u64::from(self.rows) || (self.rows == 0 && lsns != 0) || self.lsn_last.0 > i64::MAX as u64 {
            return Err("the frame's LSNs do not fit its number of rows");
        }
        Ok(())
    }
}

/// The page at which a group that starts at `offset` starts.
fn group_page(offset: u64) -> u32 {
    u32::try_from(offset / PAGE).expect("a segment is shorter than 2^44 bytes: its offsets have 40 bits")
}

/// CRC32C of a frame header without its magic and checksum, salted.
pub(super) fn header_crc(bytes: &[u8], salt: &Salt) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(salt), &bytes[8..FRAME_HEADER_SIZE])
}

/// Where the vectors of a payload with so many rows and arena bytes start.
pub(crate) fn vectors_at(rows: u32, arena_len: u32) -> u64 {
    align_up(u64::from(rows) * ROW_LEN + u64::from(arena_len), ALIGN)
}

/// Length of a payload.
pub(crate) fn payload_len(rows: u32, arena_len: u32, vectors: u32, dim: u16) -> u64 {
    vectors_at(rows, arena_len) + align_up(u64::from(vectors) * u64::from(dim) * 4, ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            kind: SegmentKind::Raw,
            no: SegmentNo(7),
            db_uuid: *b"0123456789abcdef",
            first_lsn: Lsn(42),
            salt: [0x5A; 16],
            prev_chain: [0xC3; 16],
            created_ms: 1_700_000_000_000,
            capacity: 64 << 20,
        }
    }

    fn frame() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Rows,
            flags: FLAG_GROUP_END,
            dim: 3,
            lsn_first: Lsn(42),
            lsn_last: Lsn(43),
            rows: 2,
            collection: CollectionId(1),
            payload_len: 192,
            durable_lsn: Lsn(41),
            unix_ms: 1_700_000_000_001,
            prev_chain: [0xC3; 16],
            payload_hash: [0x11; 16],
            arena_len: 9,
            vectors: 1,
            next_segment: 0,
            group_page: 6,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_segment_header_has_the_documented_bytes() {
        let bytes = segment().encode();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(
            hex(&bytes[..96]),
            concat!(
                "4e504b4442534547",                 // magic
                "7b11951f",                         // crc32c
                "01000100",                         // format, min_reader
                "30313233343536373839616263646566", // db_uuid
                "0700000001000000",                 // segment no, kind
                "2a00000000000000",                 // first_lsn
                "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", // salt
                "c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3", // prev_chain
                "0068e5cf8b010000",                 // created_ms
                "0000000400000000",                 // capacity
            )
        );
        assert!(bytes[96..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_frame_header_has_the_documented_bytes() {
        assert_eq!(
            hex(&frame().encode(&[0x5A; 16])),
            concat!(
                "4e504652",                         // magic
                "ccac3d61",                         // crc32c
                "01028000",                         // kind, flags, header_len
                "03000000",                         // dim
                "2a00000000000000",                 // lsn_first
                "2b00000000000000",                 // lsn_last
                "0200000001000000",                 // rows, collection
                "c000000000000000",                 // payload_len
                "2900000000000000",                 // durable_lsn
                "0168e5cf8b010000",                 // unix_ms
                "c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3", // prev_chain
                "11111111111111111111111111111111", // payload_hash
                "00000000000000000000000000000000", // request_id
                "0900000001000000",                 // arena_len, vectors
                "0000000006000000",                 // next_segment, group_page
            )
        );
    }

    #[test]
    fn headers_read_back_as_written() {
        assert_eq!(SegmentHeader::decode(&segment().encode()), Ok(segment()));
        assert_eq!(FrameHeader::decode(&frame().encode(&[1; 16]), &[1; 16]), Ok(frame()));
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_noticed() {
        let good = segment().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
        let good = frame().encode(&[1; 16]);
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bad, &[1; 16]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_segment_is_not_a_frame() {
        assert!(FrameHeader::decode(&frame().encode(&[1; 16]), &[2; 16]).is_err());
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = segment().encode();
        bytes[12..16].copy_from_slice(&[9, 0, 8, 0]);
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Newer { format: 9, min_reader: 8 }));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused_whatever_the_checksum_says() {
        for change in [
            |f: &mut FrameHeader| f.payload_len += 64,
            |f: &mut FrameHeader| f.rows = u32::MAX,
            |f: &mut FrameHeader| f.lsn_last = Lsn(42),
            |f: &mut FrameHeader| f.vectors = u32::MAX,
            |f: &mut FrameHeader| f.lsn_last = Lsn(u64::MAX),
        ] {
            let mut f = frame();
            change(&mut f);
            assert!(FrameHeader::decode(&f.encode(&[1; 16]), &[1; 16]).is_err(), "{f:?}");
        }
    }
}
