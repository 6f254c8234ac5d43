//! Every page of the file is damaged in every way; what comes out is the log's truth or a rebuild, never a wrong answer.

use super::*;

const PAGE: usize = 8_192;

/// Opens the damaged `files` and uses them. Returns whether the damage was noticed (at the opening or at the reading).
fn survives(files: &BTreeMap<String, Vec<u8>>, ops: &[Op], what: &str) -> bool {
    let dir = Dir::new();
    for (name, bytes) in files {
        std::fs::write(dir.0.path().join(name), bytes).unwrap();
    }
    let (mut store, opened) = dir.open(ops.len() as u64).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut noticed = opened.found != Found::Intact;
    // Writing to a damaged file may fail or not; reading it must not lie.
    let written = apply(&mut store, ops).is_ok();
    match contents(&store) {
        Ok(found) if written => assert_eq!(found, model(ops, ops.len() as u64), "{what}"),
        Ok(found) => {
            assert_eq!(found, model(ops, store.applied_lsn().0), "{what}");
            noticed = true;
        }
        Err(Trouble::Damaged(_)) => noticed = true,
        Err(Trouble::Failed(e)) => panic!("{what}: {e}"),
    }
    if noticed {
        store.begin_anew().unwrap();
        apply(&mut store, ops).unwrap();
        assert_eq!(contents(&store).unwrap(), model(ops, ops.len() as u64), "{what}, rebuilt");
    }
    noticed
}

fn with(files: &BTreeMap<String, Vec<u8>>, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> BTreeMap<String, Vec<u8>> {
    let mut files = files.clone();
    change(files.get_mut(name).unwrap());
    files
}

#[test]
fn zeroed_and_flipped_pages_never_give_a_wrong_answer() {
    let ops = log(600);
    let files = Dir::filled(&ops).bytes();
    let pages = files["meta.sqlite"].len() / PAGE;
    assert!(pages > 15, "{pages} pages");
    let mut noticed = 0;
    for page in 0..pages {
        let zeroed = with(&files, "meta.sqlite", |bytes| bytes[page * PAGE..(page + 1) * PAGE].fill(0));
        noticed += usize::from(survives(&zeroed, &ops, &format!("page {page} zeroed")));
        for at in [0, 3, 5, 7, 8, 11, 20, 100, 2_000, 5_003, 8_000, 8_100, 8_180, 8_191] {
            for bit in [0, 6] {
                let flipped = with(&files, "meta.sqlite", |bytes| bytes[page * PAGE + at] ^= 1 << bit);
                survives(&flipped, &ops, &format!("bit {bit} of byte {at} of page {page} flipped"));
            }
        }
    }
    assert!(noticed > pages / 2, "only {noticed} of {pages} zeroed pages were noticed");
}

#[test]
fn a_truncated_file_never_gives_a_wrong_answer() {
    let ops = log(600);
    let files = Dir::filled(&ops).bytes();
    let len = files["meta.sqlite"].len();
    for cut in (0..len).step_by(PAGE / 2 + 17).chain([1, 15, 16, 99, 100, 101, 512, PAGE, 2 * PAGE, len - 1]) {
        let cut_off = with(&files, "meta.sqlite", |bytes| bytes.truncate(cut));
        assert!(survives(&cut_off, &ops, &format!("cut to {cut} bytes")));
    }
}

#[test]
fn a_damaged_write_ahead_log_gives_an_earlier_state_or_a_rebuild() {
    let ops = log(600);
    let dir = Dir::new();
    let (mut store, _) = dir.open(0).unwrap();
    for batch in ops.chunks(40) {
        apply(&mut store, batch).unwrap();
    }
    let mut files = dir.bytes();
    files.remove("meta.sqlite-shm");
    let len = files["meta.sqlite-wal"].len();
    for at in (0..len).step_by(len / 150) {
        let flipped = with(&files, "meta.sqlite-wal", |bytes| bytes[at] ^= 16);
        survives(&flipped, &ops, &format!("byte {at} of the -wal flipped"));
        let cut = with(&files, "meta.sqlite-wal", |bytes| bytes.truncate(at));
        survives(&cut, &ops, &format!("-wal cut to {at} bytes"));
    }
}

#[test]
fn a_changed_word_in_a_row_is_noticed_even_though_sqlite_has_no_checksums() {
    let ops = log(600);
    let files = Dir::filled(&ops).bytes();
    let word = "größe".as_bytes();
    let bytes = &files["meta.sqlite"];
    let places: Vec<_> = (0..bytes.len() - word.len()).filter(|&i| &bytes[i..i + word.len()] == word).collect();
    assert!(places.len() > 200);
    // Replaced rows leave their bytes behind in free space, where a change is harmless.
    let noticed = places.iter().step_by(10).filter(|&&at| {
        let changed = with(&files, "meta.sqlite", |bytes| bytes[at] = b'G');
        survives(&changed, &ops, &format!("word at {at} changed"))
    });
    assert!(noticed.count() > 15);
}
