//! Any bytes read as a file of the log, for fuzzers and for tests of hostile files. See `crate::probe`.
//!
//! `sealed*` make the checksums of such bytes right, so that what stands behind them is reached. Threading: none.

use std::path::Path;

use super::footer::Footer;
use super::format::{
    ALIGN_SIZE, FRAME_HEADER_SIZE, FRAME_MAGIC, FrameHeader, PAGE_SIZE, ROW_SIZE, SEGMENT_MAGIC, SegmentHeader,
    hash128, header_crc, payload_len,
};
use super::frame::{FrameMeta, FrameView};
use super::manifest::Manifest;
use super::scan::scan;
use crate::io::vfs::{OpenMode, Vfs};

const SALT: [u8; 16] = [7; 16];

/// Makes the checksum of a manifest or a footer right.
pub(crate) fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() > 24 {
        let hash = hash128(&bytes[24..]);
        bytes[8..24].copy_from_slice(&hash);
    }
    bytes
}

/// Makes magic and checksum of a frame's header right.
pub(crate) fn sealed_frame(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    seal_frame(&mut bytes, &SALT);
    bytes
}

fn seal_frame(bytes: &mut [u8], salt: &[u8; 16]) {
    if bytes.len() >= FRAME_HEADER_SIZE {
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        let crc = header_crc(&bytes[..FRAME_HEADER_SIZE], salt).to_le_bytes();
        bytes[4..8].copy_from_slice(&crc);
    }
}

/// Makes the checksums of a segment's header and of its first frames right, payloads and links included.
pub(crate) fn sealed_segment(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < PAGE_SIZE {
        return bytes;
    }
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    let crc = crc32c::crc32c(&bytes[12..PAGE_SIZE]).to_le_bytes();
    bytes[8..12].copy_from_slice(&crc);
    let Ok(header) = SegmentHeader::decode(&bytes) else { return bytes };
    let (mut at, mut chain) = (PAGE_SIZE, header.prev_chain);
    while let Some(frame) =
        bytes.get_mut(at..).filter(|rest| rest.len() >= FRAME_HEADER_SIZE && rest[..4] == FRAME_MAGIC)
    {
        frame[64..80].copy_from_slice(&chain);
        seal_frame(frame, &header.salt);
        let Ok(parsed) = FrameHeader::decode(frame, &header.salt) else { break };
        let payload = usize::try_from(parsed.payload_len).expect("a checked payload fits in memory");
        if let Some(payload) = frame.get(FRAME_HEADER_SIZE..FRAME_HEADER_SIZE + payload) {
            let hash = hash128(payload);
            frame[80..96].copy_from_slice(&hash);
            seal_frame(frame, &header.salt);
        }
        chain = hash128(&frame[..FRAME_HEADER_SIZE]);
        at = usize::try_from(parsed.end(at as u64)).expect("at most a payload further");
    }
    bytes
}

pub(crate) fn frame(bytes: &[u8]) {
    if let Ok(header) = FrameHeader::decode(bytes, &SALT) {
        let meta = FrameMeta::new(0, &header);
        read_rows(meta, &bytes[FRAME_HEADER_SIZE..], &mut |_| ());
    }
}

/// Reads `bytes` as a payload whose counts come from their first bytes.
pub(crate) fn rows(bytes: &[u8], metadata: &mut dyn FnMut(&str)) {
    let [rows, vectors, dim, payload @ ..] = bytes else { return };
    let (rows, vectors, dim) = (u32::from(*rows % 8), u32::from(*vectors % 8), u16::from(*dim % 8));
    let fixed = payload_len(rows, 0, vectors, dim);
    let room = (payload.len() as u64).saturating_sub(fixed + ALIGN_SIZE as u64);
    let Ok(arena_len) = u32::try_from(room) else { return };
    let header = FrameHeader::decode(&probe_header(rows, arena_len, vectors, dim), &SALT);
    let Ok(header) = header else { return };
    read_rows(FrameMeta::new(0, &header), payload, metadata);
}

/// The header of a frame of rows with these counts.
fn probe_header(rows: u32, arena_len: u32, vectors: u32, dim: u16) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEADER_SIZE];
    bytes[8] = 1;
    bytes[10..12].copy_from_slice(&128u16.to_le_bytes());
    bytes[12..14].copy_from_slice(&dim.to_le_bytes());
    bytes[16..24].copy_from_slice(&1u64.to_le_bytes());
    bytes[24..32].copy_from_slice(&u64::from(rows).to_le_bytes());
    bytes[32..36].copy_from_slice(&rows.to_le_bytes());
    bytes[40..48].copy_from_slice(&payload_len(rows, arena_len, vectors, dim).to_le_bytes());
    bytes[112..116].copy_from_slice(&arena_len.to_le_bytes());
    bytes[116..120].copy_from_slice(&vectors.to_le_bytes());
    sealed_frame(&bytes)
}

fn read_rows(meta: FrameMeta, bytes: &[u8], metadata: &mut dyn FnMut(&str)) {
    let Some(payload) = usize::try_from(meta.payload_len).ok().and_then(|len| bytes.get(..len)) else { return };
    // As in a mapped segment, a payload starts on a 64-byte boundary.
    let mut aligned = vec![0u8; payload.len() + ALIGN_SIZE];
    let start = aligned.as_ptr().align_offset(ALIGN_SIZE).min(ALIGN_SIZE);
    aligned[start..start + payload.len()].copy_from_slice(payload);
    let Ok(view) = FrameView::new(Path::new("probe"), meta, &aligned[start..start + payload.len()]) else { return };
    debug_assert!(ROW_SIZE * view.len() as usize <= payload.len());
    for row in view.rows().flatten() {
        row.metadata.into_iter().for_each(&mut *metadata);
        assert!(row.vector.is_none_or(|v| v.len() == usize::from(meta.dim)));
    }
}

pub(crate) fn segment(vfs: &dyn Vfs, path: &Path) {
    let Ok(file) = vfs.open(path, OpenMode::Read) else { return };
    let mut bytes = vec![0; PAGE_SIZE];
    let Ok(n) = file.read_at(&mut bytes, 0) else { return };
    if let Ok(header) = SegmentHeader::decode(&bytes[..n]) {
        let _ = scan(&*file, path, &header);
    }
}

pub(crate) fn footer(bytes: &[u8]) {
    if let Ok(footer) = Footer::decode(bytes) {
        assert_eq!(Footer::decode(&footer.encode().0).map(|f| f.frames), Ok(footer.frames));
    }
}

pub(crate) fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(Manifest::decode(&manifest.encode()).ok().map(|m| m.segments), Some(manifest.segments));
    }
}
