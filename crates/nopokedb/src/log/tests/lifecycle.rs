//! Create, append, roll, seal, close, open again: on the real disk.

use proptest::prelude::*;

use super::crash::TINY;
use super::*;
use crate::error::ErrorKind;
use crate::io::sim::SimDisk;
use crate::types::Lsn;

#[test]
fn what_was_appended_is_there_after_a_clean_close() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), 64 << 10);
    assert!(log.append(&[puts(0..3), deletes([1])]).is_ok());
    assert!(log.append(&[puts([7])]).is_ok());
    let expected = vec![(1, 0, true), (2, 1, true), (3, 2, true), (4, 1, false), (5, 7, true)];
    assert_eq!(rows_of(&log.segments()).unwrap(), expected);
    log.close_clean().unwrap();
    drop(log);
    let (log, recovered) = open(&vfs, dir.path()).unwrap();
    assert!(recovered.clean && recovered.dropped_tail.is_none());
    assert_eq!(rows_of(&recovered.segments).unwrap(), expected);
    assert_eq!((log.last_lsn(), recovered.collections), (Lsn(5), vec![collection()]));
}

#[test]
fn what_was_appended_is_there_after_a_kill() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), 64 << 10);
    for id in 0..5 {
        log.append(&[puts([id])]).unwrap();
    }
    drop(log);
    for round in 0..3 {
        let (mut log, recovered) = open(&vfs, dir.path()).unwrap();
        assert!(!recovered.clean && recovered.dropped_tail.is_none());
        assert_eq!(ids_of(&recovered.segments), (0..5 + round).collect::<Vec<_>>());
        log.append(&[puts([5 + round])]).unwrap();
    }
}

#[test]
fn a_batch_is_placed_where_it_can_be_read_at_once() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), 64 << 10);
    let empty = FrameBuilder::new(C, DIM).finish();
    let placed = log.append(&[puts(0..3), empty, puts(3..5)]).unwrap();
    let spans: Vec<_> = placed.iter().map(|p| (p.first_lsn.0, p.last_lsn.0, p.frames.len())).collect();
    assert_eq!(spans, [(1, 3, 1), (4, 3, 0), (4, 5, 1)]);
    let ids: Vec<u64> = placed
        .iter()
        .flat_map(|p| p.views().map(|v| v.unwrap()).flat_map(|v| v.rows()).map(|r| r.unwrap().id.0))
        .collect();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
}

#[test]
fn full_segments_are_sealed_and_opened_by_their_footers() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), 64 << 10);
    for id in 0..40 {
        log.append(&[puts([id])]).unwrap();
    }
    let full = log.without_footer();
    assert!(full.len() >= 2, "{}", full.len());
    for (i, segment) in full.iter().enumerate() {
        if i < 2 {
            write_footer(segment).unwrap();
            write_footer(segment).unwrap();
        }
    }
    log.publish_footers(&|_| 3).unwrap();
    log.append(&[puts([40])]).unwrap();
    drop(log);
    let (log, recovered) = open(&vfs, dir.path()).unwrap();
    assert_eq!(ids_of(&recovered.segments), (0..41).collect::<Vec<_>>());
    assert_eq!(recovered.segments.iter().filter(|s| s.footer().is_some()).count(), 2);
    assert_eq!(log.without_footer().len(), full.len() - 2);
}

#[test]
fn a_batch_longer_than_a_segment_gets_a_longer_segment() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), 64 << 10);
    log.append(&[puts([0])]).unwrap();
    log.append(&[puts(1..5000)]).unwrap();
    log.append(&[puts([5000])]).unwrap();
    assert_eq!(ids_of(&log.segments()), (0..5001).collect::<Vec<_>>());
    drop(log);
    let (_, recovered) = open(&vfs, dir.path()).unwrap();
    assert_eq!(ids_of(&recovered.segments), (0..5001).collect::<Vec<_>>());
}

#[test]
fn a_directory_is_told_by_what_is_in_it() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name);
    assert_eq!(inspect(&*vfs, &at("none")).unwrap(), DirState::Empty);
    assert_eq!(inspect(&*vfs, dir.path()).unwrap(), DirState::Empty);
    drop(create(&vfs, &at("a/b/ours"), 64 << 10));
    assert_eq!(inspect(&*vfs, &at("a/b/ours")).unwrap(), DirState::Ours);
    assert_eq!(inspect(&*vfs, &at("a")).unwrap(), DirState::Foreign(vec!["b".to_owned()]));
    assert!(Log::create(Arc::clone(&vfs), &at("a"), options(64 << 10), &[]).is_err());
    assert!(Log::create(Arc::clone(&vfs), &at("a/b/ours"), options(64 << 10), &[]).is_err());
    vfs.create_dir_all(&at("old/metadata.db")).unwrap();
    assert_eq!(inspect(&*vfs, &at("old")).unwrap(), DirState::OldNoPokeDB);
    vfs.open(&at("file"), crate::io::vfs::OpenMode::CreateNew).unwrap();
    assert!(inspect(&*vfs, &at("file")).is_err());
}

#[test]
fn a_reader_changes_no_byte_and_sees_what_is_whole() {
    let disk = SimDisk::new();
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let dir = Path::new("/db");
    let mut log = create(&vfs, dir, TINY);
    for id in 0..7 {
        log.append(&[puts([id])]).unwrap();
    }
    log.without_footer().iter().for_each(|s| write_footer(s).unwrap());
    log.publish_footers(&|_| 0).unwrap();
    let before = disk.hash();
    let read = || Log::open_reading(&vfs, dir, options(TINY)).unwrap();
    let seen = read();
    assert_eq!(ids_of(&seen.segments()), (0..7).collect::<Vec<_>>());
    assert_eq!(disk.hash(), before);
    // While it is read the writer goes on.
    log.append(&[puts([7])]).unwrap();
    assert_eq!(ids_of(&seen.segments()).len(), 7);
    assert_eq!(ids_of(&read().segments()).len(), 8);
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_goes_on_when_there_is_room() {
    let disk = SimDisk::new();
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let mut log = create(&vfs, Path::new("/db"), TINY);
    let mut expected = Vec::new();
    for id in 0..40 {
        // Room for some bytes more: now too little for a group, now for the next segment, now enough.
        disk.set_quota(Some(disk.used() + (id * 1_777) % 20_000));
        match log.append(&[puts([id])]) {
            Ok(_) => expected.push(id),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Full, "{e}"),
        }
        assert_eq!(ids_of(&log.segments()), expected, "reads go on");
    }
    assert!((5..35).contains(&expected.len()), "{}", expected.len());
    disk.set_quota(None);
    log.append(&[puts([40])]).unwrap();
    expected.push(40);
    drop(log);
    assert_eq!(ids_of(&open(&vfs, Path::new("/db")).unwrap().1.segments), expected);
}

/// What a program may do with a log.
#[derive(Clone, Debug)]
enum Step {
    /// A group of batches of so many rows each.
    Append(Vec<u8>),
    Watermark,
    Footers,
    Seal,
    Compact,
    CloseAndOpen,
    KillAndOpen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => prop::collection::vec(0u8..40, 1..4).prop_map(Step::Append),
        1 => Just(Step::Watermark),
        1 => Just(Step::Footers),
        1 => Just(Step::Seal),
        1 => Just(Step::Compact),
        1 => Just(Step::CloseAndOpen),
        1 => Just(Step::KillAndOpen),
    ]
}

fn footers(log: &mut Log) {
    log.without_footer().iter().for_each(|s| write_footer(s).unwrap());
    log.publish_footers(&|_| 0).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_done_every_row_is_there_in_order(steps in prop::collection::vec(any_step(), 1..25)) {
        let disk = SimDisk::new();
        let vfs: Arc<dyn Vfs> = Arc::new(disk);
        let dir = Path::new("/db");
        let mut log = create(&vfs, dir, TINY);
        let mut next = 0;
        for step in steps {
            match step {
                Step::Append(sizes) => {
                    let group: Vec<Batch> = sizes.iter().map(|n| {
                        next += u64::from(*n);
                        puts(next - u64::from(*n)..next)
                    }).collect();
                    log.append(&group).unwrap();
                }
                Step::Watermark => log.watermark().unwrap(),
                Step::Footers => footers(&mut log),
                Step::Seal => log.seal_active().unwrap(),
                Step::Compact => {
                    footers(&mut log);
                    let old: Vec<_> = log.segments().iter().filter(|s| s.footer().is_some()).map(|s| s.no()).collect();
                    if !old.is_empty() {
                        let job = log.plan_compaction(&old, &|_| 0).unwrap();
                        let done = compact(&*vfs, &job, &|_, _| true, &|_, _| true).unwrap();
                        log.replace_segments(&done.old, done.new, vec![collection()], &|_| 0).unwrap();
                    }
                }
                Step::CloseAndOpen => {
                    log.close_clean().unwrap();
                    drop(log);
                    let opened = open(&vfs, dir).unwrap();
                    prop_assert!(opened.1.clean);
                    log = opened.0;
                }
                Step::KillAndOpen => {
                    drop(log);
                    log = open(&vfs, dir).unwrap().0;
                }
            }
            let rows = rows_of(&log.segments()).unwrap();
            prop_assert!(rows.iter().enumerate().all(|(i, row)| *row == (i as u64 + 1, i as u64, true)));
            prop_assert_eq!((rows.len() as u64, log.last_lsn()), (next, Lsn(next)));
        }
    }
}
