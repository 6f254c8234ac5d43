//! An image is what was written, or an error.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::index::testing::{Holes, Rows, absorb_all, index, recall};
use crate::index::{Image, ImageStamp, Index, IndexParams, Scratch};
use crate::io::disk::Disk;
use crate::io::vfs::{OpenMode, Vfs, read_file};
use crate::types::{CollectionId, Lsn, Metric, Slot};

const STAMP: ImageStamp = ImageStamp { database: *b"0123456789abcdef", collection: CollectionId(3), lsn: Lsn(700) };

const DIM: usize = 20;

struct Fixture {
    dir: tempfile::TempDir,
    disk: Disk,
    rows: Rows,
    index: Index,
    lsns: Vec<u64>,
}

impl Fixture {
    /// `n` rows, the last 50 of them still in the tail, some equal; written to "image".
    fn new(n: usize) -> Fixture {
        // Long enough for codes, and with a mean that codes are counted from.
        let mut rows = Rows::gaussian(DIM, n, 1);
        rows.data.iter_mut().for_each(|x| *x += 2.0);
        let copy = rows.row(5).to_vec();
        (20..30).for_each(|i| rows.data[i * DIM..(i + 1) * DIM].copy_from_slice(&copy));
        let index = index(&rows, Metric::Cosine);
        let upto = u32::try_from(n - 50).unwrap();
        index.absorb(upto, 1, &Holes::all(n), &std::sync::atomic::AtomicBool::new(false)).unwrap();
        let lsns: Vec<u64> = (0..n as u64).map(|i| i * 3 + 1).collect();
        let fixture = Fixture { dir: tempfile::tempdir().unwrap(), disk: Disk, rows, index, lsns };
        fixture.index.write_image(&fixture.disk, &fixture.path("image"), STAMP, &fixture.lsns).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str, params: &IndexParams) -> crate::error::Result<Image> {
        Index::read_image(&self.disk, &self.path(name), STAMP, params)
    }

    /// Reads `bytes` as an image.
    fn read_bytes(&self, bytes: &[u8]) -> crate::error::Result<Image> {
        let path = self.path("damaged");
        if self.disk.kind(&path).unwrap().is_some() {
            self.disk.remove_file(&path).unwrap();
        }
        self.disk.open(&path, OpenMode::CreateNew).unwrap().write_all_at(&[bytes], 0).unwrap();
        self.read("damaged", self.index.params())
    }
}

#[test]
fn an_image_brings_back_the_same_index() {
    let f = Fixture::new(600);
    let image = f.read("image", f.index.params()).unwrap();
    assert_eq!(image.stamp.lsn, Lsn(700));
    assert_eq!(image.lsns, f.lsns);
    let again = Index::with_image(*f.index.params(), Arc::new(f.rows.clone()), image);
    assert_eq!((again.len(), again.graph_len()), (600, 550));
    let view = Holes::all(600);
    assert_eq!(again.check(&view), f.index.check(&view));
    assert!(again.check(&view).is_sound());
    for q in 0..50 {
        let found = |i: &Index| i.search_graph(f.rows.row(q), 15, 30, &view, &mut Scratch::new()).unwrap();
        assert_eq!(found(&again), found(&f.index));
        let scanned = |i: &Index| i.search_flat(f.rows.row(q), 15, &view, &mut Scratch::new()).unwrap();
        assert_eq!(scanned(&again), scanned(&f.index));
    }
    absorb_all(&again, 1);
    absorb_all(&f.index, 1);
    assert!((0..600).all(|s| again.graph.links(s).eq(f.index.graph.links(s))), "building goes on the same way");
    let queries = Rows { dim: DIM, data: f.rows.data[..20 * DIM].iter().map(|x| x * 0.9 + 0.1).collect() };
    assert!(recall(&again, &f.rows, Metric::Cosine, &queries, 10, 100) > 0.97);
}

#[test]
fn a_large_image_is_read_on_two_threads_and_as_carefully() {
    let n = 28_000;
    let f = Fixture::new(n);
    let mut bytes = read_file(&f.disk, &f.path("image"), 1 << 30).unwrap();
    assert!(bytes.len() as u64 > super::image_read::PARALLEL_FROM + (1 << 18));
    let image = f.read("image", f.index.params()).unwrap();
    assert_eq!(image.lsns, f.lsns);
    let again = Index::with_image(*f.index.params(), Arc::new(f.rows.clone()), image);
    assert!((0..28_000).all(|s| again.graph.links(s).eq(f.index.graph.links(s))));
    assert!((0..28_000).all(|s| again.graph.twin(s) == f.index.graph.twin(s)));
    let (codes, expected) = (again.flat.codes().unwrap(), f.index.flat.codes().unwrap());
    assert!((0..28_000).all(|s| codes.hi_row(s) == expected.hi_row(s) && codes.norm(s) == expected.norm(s)));
    let view = Holes::all(n);
    for q in 0..20 {
        let scanned = |i: &Index| i.search_flat(f.rows.row(q), 15, &view, &mut Scratch::new()).unwrap();
        assert_eq!(scanned(&again), scanned(&f.index));
    }
    // A byte of each 64 KiB, among them each section's and those where one thread's part ends and the other's begins.
    for at in (4_096..bytes.len() - 40).step_by(64 << 10) {
        bytes[at] ^= 1;
        assert!(f.read_bytes(&bytes).is_err(), "byte {at} went unnoticed");
        bytes[at] ^= 1;
    }
}

#[test]
fn an_image_without_rows_is_an_image() {
    let rows = Rows::gaussian(7, 0, 1);
    let index = index(&rows, Metric::L2);
    let dir = tempfile::tempdir().unwrap();
    let (disk, path) = (Disk, dir.path().join("image"));
    index.write_image(&disk, &path, STAMP, &[]).unwrap();
    index.write_image(&disk, &path, STAMP, &[]).unwrap();
    let image = Index::read_image(&disk, &path, STAMP, index.params()).unwrap();
    assert_eq!(Index::with_image(*index.params(), Arc::new(rows), image).len(), 0);
}

#[test]
fn every_damaged_byte_is_noticed_and_nothing_panics() {
    let f = Fixture::new(150);
    let good = read_file(&f.disk, &f.path("image"), 1 << 30).unwrap();
    let mut bytes = good.clone();
    for at in 0..good.len() {
        // Every byte of header fields and footer, and every 13th of the rest.
        if (320..4088).contains(&at) && at % 97 != 0 || (4096..good.len() - 40).contains(&at) && at % 13 != 0 {
            continue;
        }
        for flip in [1, 0x80, 0xFF] {
            bytes[at] ^= flip;
            assert!(f.read_bytes(&bytes).is_err(), "byte {at} ^ {flip:#x} went unnoticed");
            bytes[at] ^= flip;
        }
    }
    assert!(f.read_bytes(&bytes).is_ok());
}

#[test]
fn a_cut_or_lengthened_image_is_refused() {
    let f = Fixture::new(150);
    let good = read_file(&f.disk, &f.path("image"), 1 << 30).unwrap();
    for len in (0..good.len()).step_by(501).chain([good.len() - 1]) {
        assert!(f.read_bytes(&good[..len]).is_err(), "{len} bytes");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(f.read_bytes(&longer).is_err());
}

#[test]
fn an_image_of_something_else_is_refused() {
    let f = Fixture::new(150);
    let params = f.index.params();
    for other in [
        IndexParams { dim: DIM + 1, ..*params },
        IndexParams { m: 17, ..*params },
        IndexParams { ef_construction: 99, ..*params },
        IndexParams { metric: Metric::Ip, ..*params },
        IndexParams { seed: 1, ..*params },
    ] {
        assert!(f.read("image", &other).is_err(), "{other:?}");
    }
    for stamp in [
        ImageStamp { database: [0; 16], ..STAMP },
        ImageStamp { collection: CollectionId(4), ..STAMP },
        ImageStamp { lsn: Lsn(699), ..STAMP },
    ] {
        assert!(Index::read_image(&f.disk, &f.path("image"), stamp, params).is_err(), "{stamp:?}");
    }
    assert!(Index::read_image(&f.disk, &f.path("image"), ImageStamp { lsn: Lsn(701), ..STAMP }, params).is_ok());
    assert!(f.read("missing", params).is_err());
}

/// A file whose checksums are right but whose links are not: only a bug could write it, and it must still not be walked.
#[test]
fn links_to_nowhere_are_refused_even_under_right_checksums() {
    let f = Fixture::new(300);
    let good = read_file(&f.disk, &f.path("image"), 1 << 30).unwrap();
    let offset_of = |section: usize| {
        let at = 128 + 24 * section + 16;
        usize::try_from(u64::from_le_bytes(good[at..at + 8].try_into().unwrap())).unwrap()
    };
    let with_bytes = |at: usize, new: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        reseal(&mut bytes);
        f.read_bytes(&bytes)
    };
    let with = |at: usize, word: u32| with_bytes(at, &word.to_le_bytes()).is_ok();
    // The graph covers 250 slots, so a link has 8 bits and a mark; its lists hold up to 32, and the first row has links. Rows 5
    // and 20 to 29 are equal.
    let [lsns, degrees, links, twins, entries, stored, centre, codes] = std::array::from_fn(offset_of);
    assert_eq!((good[twins], good[twins + 4], good[twins + 8]), (5, 20, 20));
    assert!(with_bytes(links, &[249]).is_ok() && with(twins + 4, 249) && with(entries, 5));
    assert!(with_bytes(links, &[250]).is_err(), "a link past the graph");
    assert!(with_bytes(degrees, &[33]).is_err(), "a list that is too long");
    assert!(with_bytes(degrees, &[good[degrees] - 1]).is_err(), "fewer links than there are");
    assert!(with_bytes(degrees, &[good[degrees] + 1]).is_err(), "more links than there are");
    assert!(!with(twins + 4, 250), "a chain past the graph");
    assert!(!with(twins + 4, 5), "a chain that does not go up");
    assert!(!with(twins + 8, 5), "a row with two chains");
    assert!(!with(entries, 250), "an entry point past the graph");
    assert!(!with(stored, f32::NAN.to_bits()), "a norm that is no number");
    let norm = codes + 32;
    assert!(with(centre, 2f32.to_bits()) && with(norm, 2f32.to_bits()));
    assert!(!with(centre, f32::INFINITY.to_bits()), "a centre that is nowhere");
    assert!(!with(norm, (-1f32).to_bits()), "a code of negative length");
    // 300 runs of one LSN each.
    let run = |first: u64, count: u64| [first.to_le_bytes(), count.to_le_bytes()].concat();
    assert!(with_bytes(lsns, &run(0, 1)).is_ok());
    for (first, count) in [(0, 0), (0, 2), (0, u64::MAX), (u64::MAX, 1), (1, 1 << 40)] {
        assert!(with_bytes(lsns, &run(first, count)).is_err(), "{count} LSNs from {first} on");
    }
}

/// The header tells how many slots there are and how many the graph covers; the sections must hold as many.
#[test]
fn counts_that_the_sections_contradict_are_refused() {
    let f = Fixture::new(300);
    let good = read_file(&f.disk, &f.path("image"), 1 << 30).unwrap();
    for (at, count) in
        [(72, 299u32), (72, 301), (72, u32::MAX), (76, 249), (76, 251), (76, 0), (76, 301), (76, u32::MAX)]
    {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
        let hash = xxh3_64(&bytes[..4088]).to_le_bytes();
        bytes[4088..4096].copy_from_slice(&hash);
        let footer = bytes.len() - 16;
        bytes[footer..footer + 8].copy_from_slice(&hash);
        reseal(&mut bytes);
        assert!(f.read_bytes(&bytes).is_err(), "{count} at {at}");
    }
}

#[test]
fn an_image_of_consecutive_rows_is_small() {
    let n = 2_000;
    let rows = Rows::gaussian(128, n, 4);
    let index = index(&rows, Metric::Cosine);
    absorb_all(&index, 1);
    let dir = tempfile::tempdir().unwrap();
    let (disk, path) = (Disk, dir.path().join("image"));
    index.write_image(&disk, &path, STAMP, &(1..=n as u64).collect::<Vec<_>>()).unwrap();
    // Links of 12 bits, a degree, a norm, 64 bytes of code, and the ends.
    let links: usize = (0..2_000).map(|slot| index.graph.links(slot).count()).sum();
    let len = read_file(&disk, &path, 1 << 30).unwrap().len();
    assert!(len < links * 12 / 8 + n * (1 + 4 + 64) + 4_096 + 2_048, "{len} bytes for {links} links");
}

/// Makes every checksum after the header right again.
fn reseal(bytes: &mut [u8]) {
    let data_len = usize::try_from(u64::from_le_bytes(bytes[48..56].try_into().unwrap())).unwrap();
    let (data, footer) = bytes[4096..].split_at_mut(data_len);
    for (block, hash) in data.chunks(64 << 10).zip(footer.chunks_exact_mut(8)) {
        hash.copy_from_slice(&xxh3_64(block).to_le_bytes());
    }
    let (body, hash) = footer.split_at_mut(footer.len() - 8);
    hash.copy_from_slice(&xxh3_64(body).to_le_bytes());
}

#[test]
fn slots_appended_after_the_stamp_are_left_out() {
    let f = Fixture::new(200);
    f.index.write_image(&f.disk, &f.path("image"), STAMP, &f.lsns[..170]).unwrap();
    let image = f.read("image", f.index.params()).unwrap();
    assert_eq!(image.lsns.len(), 170);
    let again = Index::with_image(*f.index.params(), Arc::new(f.rows.clone()), image);
    again.append(Slot(170), &f.rows.data[170 * DIM..]).unwrap();
    absorb_all(&again, 1);
    assert!(again.check(&Holes::all(200)).is_sound());
}

#[test]
fn an_image_of_fewer_slots_than_the_graph_covers_has_no_link_to_the_others() {
    let f = Fixture::new(400);
    f.index.write_image(&f.disk, &f.path("image"), STAMP, &f.lsns[..25]).unwrap();
    let again =
        Index::with_image(*f.index.params(), Arc::new(f.rows.clone()), f.read("image", f.index.params()).unwrap());
    assert_eq!((again.len(), again.graph_len()), (25, 25));
    assert!(again.check(&Holes::all(25)).is_sound());
    again.append(Slot(25), &f.rows.data[25 * DIM..]).unwrap();
    absorb_all(&again, 1);
    assert!(again.check(&Holes::all(400)).is_sound());
}
