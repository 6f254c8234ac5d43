//! What a sealed segment ends with: its frame directory and a hash of every 64 KiB block. Bytes: `docs/FORMAT.md`.
//!
//! Invariants:
//! 1. The footer's own hash is checked before any of its lengths is used, and the manifest repeats that hash.
//! 2. Decoded frames ascend, do not overlap, and lie inside the covered bytes.

use xxhash_rust::xxh3::xxh3_64;

use super::format::{
    ALIGN, Chain, FORMAT, FrameKind, MAX_PAYLOAD, MIN_READER, SEGMENT_HEADER_LEN, hash128, payload_len, take, u16_at,
    u32_at, u64_at,
};
use super::frame::FrameMeta;
use crate::types::{CollectionId, Lsn};

/// Bytes that one block hash covers.
pub(crate) const BLOCK: u64 = 64 << 10;
const MAGIC: [u8; 8] = *b"NPKDBFTR";
const HEAD: usize = 96;
const FRAME_ENTRY: usize = 56;

/// A sealed segment's footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// The blocks cover the file's bytes `[0, covered)`; the footer follows them.
    pub(crate) covered: u64,
    pub(crate) last_lsn: Lsn,
    /// Chain value after the last frame.
    pub(crate) last_chain: Chain,
    pub(crate) frames: Vec<FrameMeta>,
    /// XXH3-64 of each block; the last may be shorter.
    pub(crate) blocks: Vec<u64>,
}

/// How many blocks cover `covered` bytes.
pub(crate) fn block_count(covered: u64) -> u64 {
    covered.div_ceil(BLOCK)
}

/// A block's hash.
pub(crate) fn block_hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

impl Footer {
    /// The bytes on disk, and their hash for the manifest.
    pub(crate) fn encode(&self) -> (Vec<u8>, [u8; 16]) {
        let mut out = Vec::with_capacity(HEAD + self.frames.len() * FRAME_ENTRY + self.blocks.len() * 8);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 16]); // the hash, below
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&MIN_READER.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.covered.to_le_bytes());
        out.extend_from_slice(&self.last_lsn.0.to_le_bytes());
        out.extend_from_slice(&(self.frames.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.blocks.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.last_chain);
        out.resize(HEAD, 0);
        self.frames.iter().for_each(|f| out.extend_from_slice(&encode_frame(f)));
        self.blocks.iter().for_each(|b| out.extend_from_slice(&b.to_le_bytes()));
        let hash = hash128(&out[24..]);
        out[8..24].copy_from_slice(&hash);
        (out, hash)
    }

    /// The format and the oldest reader of a whole footer that only newer versions understand.
    pub(crate) fn newer(bytes: &[u8]) -> Option<(u16, u16)> {
        let whole = bytes.len() >= HEAD && bytes[..8] == MAGIC && bytes[8..24] == hash128(&bytes[24..]);
        (whole && u16_at(bytes, 26) > FORMAT).then(|| (u16_at(bytes, 24), u16_at(bytes, 26)))
    }

    /// Reads a footer back; `Err` says what does not check.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Footer, &'static str> {
        if bytes.len() < HEAD || bytes[..8] != MAGIC {
            return Err("no footer starts here");
        }
        if bytes[8..24] != hash128(&bytes[24..]) {
            return Err("the footer's checksum does not match");
        }
        if Footer::newer(bytes).is_some() {
            return Err("the footer was written by a newer version");
        }
        let (frames, blocks) = (u64_at(bytes, 48), u64_at(bytes, 56));
        let room = bytes.len() as u64;
        let counted = frames
            .checked_mul(FRAME_ENTRY as u64)
            .and_then(|f| blocks.checked_mul(8)?.checked_add(f)?.checked_add(HEAD as u64));
        if counted != Some(room) || blocks != block_count(u64_at(bytes, 32)) {
            return Err("the footer's counts do not add up to its length");
        }
        // Both counts are bounded by the footer's length now.
        let split = HEAD + usize::try_from(frames).map_err(|_| "the footer is too long")? * FRAME_ENTRY;
        let footer = Footer {
            covered: u64_at(bytes, 32),
            last_lsn: Lsn(u64_at(bytes, 40)),
            last_chain: take(bytes, 64),
            frames: bytes[HEAD..split].chunks_exact(FRAME_ENTRY).map(decode_frame).collect::<Result<_, _>>()?,
            blocks: bytes[split..].chunks_exact(8).map(|b| u64_at(b, 0)).collect(),
        };
        footer.check()?;
        Ok(footer)
    }

    /// Invariant 2.
    fn check(&self) -> Result<(), &'static str> {
        let mut end = SEGMENT_HEADER_LEN;
        for f in &self.frames {
            let counted = payload_len(f.rows, f.arena_len, f.vectors, f.dim);
            if f.payload_len != counted || counted > MAX_PAYLOAD || !f.offset.is_multiple_of(ALIGN) || f.offset < end {
                return Err("the footer's frames do not follow one another");
            }
            if f.offset > self.covered || f.payload_end() > self.covered {
                return Err("the footer's frames reach beyond the covered bytes");
            }
            end = f.payload_end();
        }
        Ok(())
    }
}

fn encode_frame(f: &FrameMeta) -> [u8; FRAME_ENTRY] {
    let mut out = [0; FRAME_ENTRY];
    out[0..8].copy_from_slice(&f.offset.to_le_bytes());
    out[8..16].copy_from_slice(&f.lsn_first.0.to_le_bytes());
    out[16..24].copy_from_slice(&f.lsn_last.0.to_le_bytes());
    out[24..32].copy_from_slice(&f.payload_len.to_le_bytes());
    out[32..36].copy_from_slice(&f.rows.to_le_bytes());
    out[36..40].copy_from_slice(&f.vectors.to_le_bytes());
    out[40..44].copy_from_slice(&f.arena_len.to_le_bytes());
    out[44..48].copy_from_slice(&f.collection.0.to_le_bytes());
    out[48..50].copy_from_slice(&f.dim.to_le_bytes());
    out[50] = f.kind.code();
    out[51] = f.flags;
    out
}

fn decode_frame(bytes: &[u8]) -> Result<FrameMeta, &'static str> {
    Ok(FrameMeta {
        offset: u64_at(bytes, 0),
        lsn_first: Lsn(u64_at(bytes, 8)),
        lsn_last: Lsn(u64_at(bytes, 16)),
        payload_len: u64_at(bytes, 24),
        rows: u32_at(bytes, 32),
        vectors: u32_at(bytes, 36),
        arena_len: u32_at(bytes, 40),
        collection: CollectionId(u32_at(bytes, 44)),
        dim: u16_at(bytes, 48),
        kind: FrameKind::from_code(bytes[50]).ok_or("a frame of an unknown kind is in the footer")?,
        flags: bytes[51],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Footer {
        let frame = FrameMeta {
            offset: 4096,
            lsn_first: Lsn(1),
            lsn_last: Lsn(2),
            payload_len: 192,
            rows: 2,
            vectors: 1,
            arena_len: 9,
            collection: CollectionId(1),
            dim: 3,
            kind: FrameKind::Rows,
            flags: 2,
        };
        let (covered, last_lsn, last_chain) = (8192, Lsn(2), [7; 16]);
        Footer { covered, last_lsn, last_chain, frames: vec![frame], blocks: vec![0x0102_0304_0506_0708] }
    }

    #[test]
    fn a_footer_has_the_documented_bytes_and_reads_back() {
        let (bytes, hash) = example().encode();
        let hex: String = bytes[24..].iter().map(|b| format!("{b:02x}")).collect();
        let documented = concat!(
            "0100010000000000",                 // format, min_reader
            "0020000000000000",                 // covered
            "0200000000000000",                 // last_lsn
            "01000000000000000100000000000000", // frames, blocks
            "07070707070707070707070707070707", // last_chain
            "00000000000000000000000000000000", // reserved
            "0010000000000000",                 // frame: offset
            "01000000000000000200000000000000", // lsn_first, lsn_last
            "c000000000000000",                 // payload_len
            "0200000001000000",                 // rows, vectors
            "0900000001000000",                 // arena_len, collection
            "0300010200000000",                 // dim, kind, flags
            "0807060504030201",                 // block hash
        );
        assert_eq!(hex, documented);
        assert_eq!(Footer::decode(&bytes), Ok(example()));
        assert_eq!(hash, bytes[8..24]);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_of_a_footer_is_noticed() {
        let (good, _) = example().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&bad).is_err(), "bit {bit}");
        }
        assert!((0..good.len()).all(|n| Footer::decode(&good[..n]).is_err()));
    }

    #[test]
    fn a_footer_with_a_good_hash_but_impossible_frames_is_refused() {
        for change in [
            |f: &mut Footer| f.frames[0].offset = 0,
            |f: &mut Footer| f.frames[0].offset = u64::MAX - 63,
            |f: &mut Footer| f.frames[0].payload_len = 128,
            |f: &mut Footer| f.frames.push(f.frames[0]),
            |f: &mut Footer| f.covered = 4160,
            |f: &mut Footer| f.blocks.clear(),
        ] {
            let mut footer = example();
            change(&mut footer);
            assert!(Footer::decode(&footer.encode().0).is_err(), "{footer:?}");
        }
    }
}
