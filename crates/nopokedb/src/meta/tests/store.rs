use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

#[test]
fn what_was_applied_is_read_back_whole() {
    let ops = log(2_000);
    for location in [MetaLocation::File(Dir::new().file()), MetaLocation::Memory] {
        if let MetaLocation::File(path) = &location {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        let (mut store, opened) = MetaStore::open(location.clone(), UUID, Lsn(0), Tokenizers::default()).unwrap();
        assert_eq!(opened, Opened { applied_lsn: Lsn(0), chain: [0; 16], found: Found::Fresh });
        for batch in ops.chunks(333) {
            apply(&mut store, batch).unwrap();
        }
        assert_eq!(contents(&store).unwrap(), model(&ops, 2_000));
        let readers = Readers::new(store.place().clone());
        let live = model(&ops, 2_000);
        let (&(collection, id), op) = live.iter().next().unwrap();
        readers
            .with(|reader| {
                let record = reader.get(CollectionId(collection), RecordId(id))?.unwrap();
                assert_eq!((record.lsn.0, record.metadata, record.key), (op.lsn, op.metadata.clone(), op.key.clone()));
                assert_eq!(reader.get(CollectionId(7), RecordId(id))?, None);
                let in_0 = live.keys().filter(|(c, _)| *c == 0).count() as u64;
                assert_eq!(reader.count(CollectionId(0))?, in_0);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_clean_reopen_finds_the_stamp_and_leaves_one_file() {
    let ops = log(300);
    let dir = Dir::filled(&ops);
    assert_eq!(dir.bytes().keys().collect::<Vec<_>>(), ["meta.sqlite"]);
    let (mut store, opened) = dir.open(300).unwrap();
    assert_eq!((opened.applied_lsn, opened.found), (Lsn(300), Found::Intact));
    assert_eq!(contents(&store).unwrap(), model(&ops, 300));
    store.close().unwrap();
    assert_eq!(dir.bytes().keys().collect::<Vec<_>>(), ["meta.sqlite"]);
}

#[test]
fn rows_that_are_out_of_order_are_an_error_and_none_of_their_batch_is_there() {
    let ops = log(40);
    let dir = Dir::new();
    let (mut store, _) = dir.open(0).unwrap();
    apply(&mut store, &ops[..10]).unwrap();
    let before = contents(&store).unwrap();
    for (i, lsn) in [(15, 15), (19, 1 << 40)] {
        let mut wrong = ops[10..20].to_vec();
        wrong[i - 10].lsn = lsn;
        let upto = Lsn(20);
        let e = store.apply(wrong.iter().map(Op::row), upto).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corruption, "{e}");
        assert!(e.to_string().contains("restore the directory"), "{e}");
        assert_eq!((contents(&store).unwrap(), store.applied_lsn()), (before.clone(), Lsn(10)));
    }
    apply(&mut store, &ops[10..]).unwrap();
    assert_eq!(contents(&store).unwrap(), model(&ops, 40));
}

#[test]
fn the_stamp_is_never_ahead_of_the_rows_when_a_transaction_fails() {
    let ops = log(4_000);
    let dir = Dir::new();
    let (mut store, _) = dir.open(0).unwrap();
    apply(&mut store, &ops[..100]).unwrap();
    let pages: i64 = store.raw().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    store.raw().pragma_update_and_check(None, "max_page_count", pages + 3, |_| Ok(())).unwrap();
    let e = apply(&mut store, &ops[100..]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Full, "{e}");
    assert_eq!(store.applied_lsn(), Lsn(100));
    assert_eq!(contents(&store).unwrap(), model(&ops, 100));
    store.raw().pragma_update_and_check(None, "max_page_count", 1 << 30, |_| Ok(())).unwrap();
    apply(&mut store, &ops[100..]).unwrap();
    assert_eq!(contents(&store).unwrap(), model(&ops, 4_000));
}

#[test]
fn deleting_the_file_loses_nothing_the_log_does_not_bring_back() {
    let ops = log(500);
    let dir = Dir::filled(&ops);
    std::fs::remove_file(dir.file()).unwrap();
    // A write-ahead log that outlived its database must not come back to life.
    std::fs::write(files::companion(&dir.file(), "-wal"), b"stale").unwrap();
    let (mut store, opened) = dir.open(500).unwrap();
    assert_eq!((opened.applied_lsn, opened.found), (Lsn(0), Found::Fresh));
    apply(&mut store, &ops).unwrap();
    assert_eq!(contents(&store).unwrap(), model(&ops, 500));
}

#[test]
fn another_databases_file_is_set_aside_not_used() {
    let dir = Dir::filled(&log(50));
    let before = dir.bytes()["meta.sqlite"].clone();
    let (store, opened) =
        MetaStore::open(MetaLocation::File(dir.file()), [7; 16], Lsn(1), Tokenizers::default()).unwrap();
    let Found::Quarantined { to, why } = opened.found else { panic!("{opened:?}") };
    assert!(why.contains("another database"), "{why}");
    assert_eq!(std::fs::read(to).unwrap(), before);
    assert_eq!((opened.applied_lsn, contents(&store).unwrap()), (Lsn(0), Model::new()));
}

#[test]
fn a_cache_ahead_of_its_log_is_an_error_and_nothing_is_touched() {
    // Closed cleanly, and left as by a kill, with a write-ahead log.
    for clean in [true, false] {
        let dir = Dir::new();
        let (mut store, _) = dir.open(0).unwrap();
        apply(&mut store, &log(50)).unwrap();
        if clean {
            store.close().unwrap();
        }
        drop(store);
        let before = dir.bytes();
        let e = dir.open(49).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corruption);
        assert!(e.message().contains("the device lost acknowledged writes"), "{e}");
        let mut after = dir.bytes();
        // SQLite's shared-memory file is an index of the -wal and never durable.
        after.remove("meta.sqlite-shm");
        after.retain(|name, bytes| before.contains_key(name) || !bytes.is_empty());
        assert!(before.iter().filter(|(name, _)| !name.ends_with("-shm")).eq(&after));
        assert!(dir.open(50).is_ok());
    }
}

#[test]
fn a_changed_schema_is_set_aside() {
    let dir = Dir::filled(&log(50));
    let conn = rusqlite::Connection::open(dir.file()).unwrap();
    conn.execute_batch("CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END").unwrap();
    drop(conn);
    let (_, opened) = dir.open(50).unwrap();
    assert!(matches!(opened.found, Found::Quarantined { why, .. } if why.contains("tables")));
}

#[test]
fn only_the_latest_damaged_file_is_kept() {
    let dir = Dir::filled(&log(50));
    for _ in 0..3 {
        std::fs::write(dir.file(), b"this is not a database, though it is long enough to look like one").unwrap();
        let (mut store, opened) = dir.open(50).unwrap();
        assert!(matches!(opened.found, Found::Quarantined { .. }));
        store.close().unwrap();
    }
    assert_eq!(dir.bytes().keys().collect::<Vec<_>>(), ["meta.sqlite", "meta.sqlite.damaged-3"]);
}

#[test]
fn a_cache_that_may_have_missed_a_purged_delete_is_begun_anew() {
    let dir = Dir::filled(&log(50));
    let (mut store, _) = dir.open(90).unwrap();
    assert!(!store.require(Lsn(50)).unwrap());
    assert!(store.require(Lsn(51)).unwrap());
    assert_eq!((store.applied_lsn(), contents(&store).unwrap()), (Lsn(0), Model::new()));
    assert!(!store.require(Lsn(51)).unwrap());
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_prefix() {
    const CHILD: &str = "NOPOKEDB_TEST_META_CHILD";
    let ops = log(60_000);
    if let Ok(dir) = std::env::var(CHILD) {
        let (mut store, opened) =
            MetaStore::open(MetaLocation::File(dir.into()), UUID, Lsn(60_000), Tokenizers::default()).unwrap();
        for batch in ops[opened.applied_lsn.0 as usize..].chunks(1_500) {
            apply(&mut store, batch).unwrap();
            println!("applied");
            std::io::stdout().flush().unwrap();
        }
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let dir = Dir::new();
    let mut last = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["meta::tests::store::a_kill_at_any_moment_leaves_a_whole_prefix", "--exact", "--nocapture"])
            .env(CHILD, dir.file())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let applied =
            lines.by_ref().map(Result::unwrap).filter(|line| line.contains("applied")).take(1 + round % 3).count();
        std::thread::sleep(Duration::from_micros(700 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        let (store, opened) = dir.open(60_000).unwrap();
        assert_eq!(opened.found, Found::Intact);
        assert!(opened.applied_lsn.0 >= (last + 1_500 * applied as u64).min(60_000), "{opened:?} after {last}");
        assert_eq!(contents(&store).unwrap(), model(&ops, opened.applied_lsn.0));
        last = opened.applied_lsn.0;
    }
}

#[test]
fn pythons_sqlite3_reads_the_file() {
    let ops = log(200);
    let dir = Dir::filled(&ops);
    let script = "import sqlite3, sys, json\n\
        db = sqlite3.connect(sys.argv[1])\n\
        rows = db.execute('SELECT id, metadata, expires FROM readable WHERE collection = 0').fetchall()\n\
        assert db.execute('SELECT applied_lsn FROM state').fetchone() == (200,)\n\
        print(len(rows), sum(json.loads(m)['lsn'] for _, m, _ in rows), sum(e == '2030-03-17 17:46:40.123' for *_, e in rows))";
    let output = Command::new("python3").args(["-c", script]).arg(dir.file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let live: Vec<_> = model(&ops, 200).into_values().filter(|op| op.collection == 0).collect();
    let expiring = live.iter().filter(|op| op.expires_ms != 0).count();
    let expected = format!("{} {} {expiring}\n", live.len(), live.iter().map(|op| op.lsn).sum::<u64>());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn rows_go_in_many_times_faster_together_than_one_by_one() {
    let rows: Vec<_> = (1..=200_000)
        .map(|i| {
            put(i, i, &format!("{{\"title\":\"row number {i}\",\"year\":{},\"tag\":\"t{}\"}}", 1900 + i % 120, i % 7))
        })
        .collect();
    let dir = Dir::new();
    let (mut store, _) = dir.open(0).unwrap();
    let mut rate = |rows: &[Op], at_once: usize| {
        let begun = Instant::now();
        rows.chunks(at_once).for_each(|batch| apply(&mut store, batch).unwrap());
        rows.len() as f64 / begun.elapsed().as_secs_f64()
    };
    let later = |rows: &[Op]| rows.iter().map(|op| Op { lsn: op.lsn + 200_000, ..op.clone() }).collect::<Vec<_>>();
    let (alone, new) = (rate(&rows[..2_000], 1), rate(&rows[2_000..], 20_000));
    let (replaced_alone, replaced) = (rate(&later(&rows[..2_000]), 1), rate(&later(&rows[2_000..40_000]), 38_000));
    let words = format!(
        "new: {new:.0} rows/s, one by one {alone:.0}; replaced: {replaced:.0} rows/s, one by one {replaced_alone:.0}"
    );
    println!("{words}");
    // Ratios, so that a busy or a slow machine tells no lies.
    assert!(new > 4.0 * alone && replaced > 2.0 * replaced_alone, "{words}");
}

fn any_op() -> impl Strategy<Value = Op> {
    (any::<bool>(), 0u32..2, 0u64..40, "[a-zé]{0,5}", any::<bool>()).prop_map(|(keep, collection, id, text, doc)| Op {
        collection,
        kind: if keep { RowKind::Put } else { RowKind::Delete },
        document: doc.then(|| text.clone()),
        ..put(0, id, &text)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replaying_any_stretch_again_changes_nothing(
        mut ops in prop::collection::vec(any_op(), 1..300),
        cuts in prop::collection::vec((0usize..300, 0usize..120), 1..12),
    ) {
        for (lsn, op) in (1..).zip(&mut ops) {
            op.lsn = lsn;
        }
        let (mut store, _) = MetaStore::open(MetaLocation::Memory, UUID, Lsn(0), Tokenizers::default()).unwrap();
        for (at, len) in cuts {
            // Any stretch that leaves no gap after the stamp.
            let from = at.min(store.applied_lsn().0 as usize);
            let upto = (from + len).min(ops.len());
            apply(&mut store, &ops[from..upto]).unwrap();
            prop_assert_eq!(contents(&store).unwrap(), model(&ops, store.applied_lsn().0));
        }
        apply(&mut store, &ops).unwrap();
        apply(&mut store, &ops).unwrap();
        prop_assert_eq!(contents(&store).unwrap(), model(&ops, ops.len() as u64));
    }
}
