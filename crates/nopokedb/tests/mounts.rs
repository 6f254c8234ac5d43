//! A database on a file system that is mounted read-only: readers serve all of it and change no byte, and no writer gets in.
//!
//! It needs root, loop devices and mkfs; without them it says so and proves nothing.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "copies and mounts whole directories")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::path::Path;

use nopokedb::{Database, ErrorKind, Options, Query, Text};

use support::Write::{Batch, Create, Delete, Document, Retag};
use support::volume::{Volume, run};
use support::{document, options, perform, served, vector};

fn reader(path: &Path) -> Database {
    Database::open(path, Options { read_only: true, ..options() }).unwrap()
}

fn refused(path: &Path) {
    let refused = Database::open(path, options()).unwrap_err();
    assert!(refused.kind() == ErrorKind::Io && refused.message().contains("Read-only"), "{refused}");
}

#[test]
fn a_database_on_a_read_only_file_system_is_read_in_every_way_and_nobody_writes_to_it() {
    let mut volume = match Volume::make("ext4") {
        Ok(volume) => volume,
        Err(why) => return println!("read-only mounts: 0 on ext4, SKIPPED: {why}"),
    };
    let (closed, unclean) = (volume.mounted().join("closed"), volume.mounted().join("unclean"));
    let db = Database::open(&closed, options()).unwrap();
    let rows = (0..40u8).map(f32::from).collect();
    for write in [Batch(0, rows), Document(0, 7, 300), Retag(0, 9, 5), Delete(0, 3), Create(1), Batch(1, vec![5.0; 3])]
    {
        perform(&db, &write).unwrap();
    }
    db.wait_applied().unwrap();
    // What a process that was killed leaves: all files in the middle of their use.
    run("cp", &["-r", closed.to_str().unwrap(), unclean.to_str().unwrap()]).unwrap();
    db.wait_indexed(None).unwrap();
    let expected = served(&db);
    db.close().unwrap();
    volume.unmount();
    let before = fs::read(volume.image()).unwrap();

    volume.mount_read_only().unwrap();
    for path in [&closed, &unclean] {
        assert!(fs::write(path.join("new"), "").is_err(), "the file system takes writes");
        refused(path);
        let db = reader(path);
        assert_eq!(served(&db), expected, "{}", path.display());
        let nearest = db.collection().query(&vector(9.25), &Query::nearest(1)).unwrap();
        assert_eq!((nearest[0].id.int(), nearest[0].distance), (Some(9), 0.0625));
        let words = Query { text: Some(Text::new(document(300))), ..Query::nearest(1) };
        assert_eq!(db.collection().search_text(&words).unwrap()[0].id.int(), Some(7));
        let report = db.check().unwrap();
        assert!(report.is_ok(), "{report:?}");
        db.close().unwrap();
        let copy = volume.beside("copy");
        run("cp", &["-r", path.to_str().unwrap(), copy.to_str().unwrap()]).unwrap();
        assert_eq!(served(&Database::open(&copy, options()).unwrap()), expected, "a copy elsewhere can be written to");
        fs::remove_dir_all(&copy).unwrap();
    }
    volume.unmount();
    assert!(fs::read(volume.image()).unwrap() == before, "a byte of the device was changed");
    println!("read-only mounts: 2 databases on ext4");
}
