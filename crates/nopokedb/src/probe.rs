//! The doors that fuzzers knock at: each takes any bytes for one kind of file and reads them as an opening would.
//!
//! Invariants: whatever the bytes, a probe returns; it takes no more memory than a small multiple of their length. Checksums
//! are made right first (`sealed`), or a fuzzer would only ever prove that checksums work: behind them stands the
//! question whether a directory made by a stranger can do harm.
//!
//! Only with the feature `testing`. Threading: none.

use std::path::Path;
use std::sync::Arc;

use crate::Metadata;
use crate::database::Database;
use crate::index::{ImageStamp, Index, IndexParams};
use crate::io::sim::SimDisk;
use crate::io::vfs::{OpenMode, Vfs};
use crate::log::probe;
use crate::options::Options;
use crate::types::{CollectionId, Lsn, Metric};

const FILE: &str = "/probe";

/// A frame's header and, where it is followed by its payload, the rows in it.
pub fn frame(bytes: &[u8]) {
    probe::frame(bytes);
    probe::frame(&probe::sealed_frame(bytes));
}

/// The rows of a payload: entries, text, metadata.
pub fn rows(bytes: &[u8]) {
    probe::rows(bytes, &mut |text| {
        let stored = Metadata::from_stored(text.into());
        let _ = stored.to_map();
        if let Ok(checked) = Metadata::from_json(text) {
            let again = Metadata::from_json(checked.as_json()).expect("canonical text is metadata");
            assert_eq!(again.as_json(), checked.as_json(), "canonical text is canonical");
        }
    });
}

/// A raw segment, read from front to back.
pub fn segment(bytes: &[u8]) {
    probe::segment(&disk_with(bytes), Path::new(FILE));
    probe::segment(&disk_with(&probe::sealed_segment(bytes)), Path::new(FILE));
}

/// The footer of a sealed segment.
pub fn footer(bytes: &[u8]) {
    probe::footer(bytes);
    probe::footer(&probe::sealed(bytes));
}

/// A manifest.
pub fn manifest(bytes: &[u8]) {
    probe::manifest(bytes);
    probe::manifest(&probe::sealed(bytes));
}

/// An index image.
pub fn image(bytes: &[u8]) {
    reads_image(bytes);
}

/// Whether an index image is one that this version reads, once its stamp and its checksums are made right.
pub fn reads_image(bytes: &[u8]) -> bool {
    let mut read = false;
    let params = IndexParams::new(2, Metric::L2, 16, 200);
    let stamp = ImageStamp { database: [0; 16], collection: CollectionId::DEFAULT, lsn: Lsn(u64::MAX) };
    for bytes in [bytes, &Index::sealed_image(bytes, stamp, &params)] {
        read = Index::read_image(&disk_with(bytes), Path::new(FILE), stamp, &params).is_ok();
    }
    read
}

/// A whole database whose files are `files`, of which `name` has these bytes: opened, and read if it opens.
pub fn directory(files: &[(&str, &[u8])], name: &str, bytes: &[u8], options: &Options) {
    let sealed = if name.starts_with("MANIFEST") { probe::sealed(bytes) } else { probe::sealed_segment(bytes) };
    for changed in [bytes, &sealed] {
        let disk = SimDisk::new();
        for (file, bytes) in files {
            write(&disk, &Path::new("/db").join(file), if *file == name { changed } else { bytes });
        }
        let Ok(db) = Database::open_on(Arc::new(disk), Path::new("/db"), options.clone()) else { continue };
        let collection = db.collection();
        let query = crate::Query { exact: true, ..crate::Query::nearest(100) };
        let zeros = vec![0.0; collection.dim()];
        for hit in collection.query(&zeros, &query).unwrap_or_default() {
            let _ = collection.get(hit.id);
        }
    }
}

fn disk_with(bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    write(&disk, Path::new(FILE), bytes);
    disk
}

fn write(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let dir = path.parent().expect("a file is in a directory");
    let written = disk
        .create_dir_all(dir)
        .and_then(|()| disk.open(path, OpenMode::CreateNew))
        .and_then(|file| file.write_all_at(&[bytes], 0));
    written.expect("an unharmed simulated disk takes writes");
}
