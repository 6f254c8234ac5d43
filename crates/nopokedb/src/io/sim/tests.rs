//! Proofs of the model at the head of `sim/mod.rs`.

use std::path::Path;

use proptest::prelude::*;

use super::crash::{Enumeration, FaultSweep};
use super::*;
use crate::io::vfs::{Entry, EntryKind, OpenMode, Vfs, VfsFile, read_exact_at, read_file};

const F: &str = "/d/f";

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// A disk with a durable directory `/d`.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(p("/d")).unwrap();
    disk.sync_dir(p("/")).unwrap();
    disk
}

/// A disk with a durable file `/d/f` that holds `bytes`.
fn with_file(bytes: &[u8]) -> (SimDisk, Arc<dyn VfsFile>) {
    let disk = disk();
    let file = disk.open(p(F), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[bytes], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(p("/d")).unwrap();
    (disk, file)
}

/// Every content `path` may have after losing power now, by brute force over all subsets of parts.
fn outcomes(disk: &SimDisk, path: &str) -> Vec<Option<Vec<u8>>> {
    let n = disk.pending_at(disk.ops()).len();
    let mut all: Vec<_> =
        (0..1u64 << n).map(|bits| disk.crash_now(Fate::keeping(Keep::Mask(bits))).peek(p(path))).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn unsynced_bytes_may_be_lost_and_synced_ones_never_are() {
    let (disk, file) = with_file(b"old");
    file.write_all_at(&[b"n", b"ew"], 0).unwrap();
    assert_eq!(disk.peek(p(F)).unwrap(), b"new", "the process sees it at once");
    assert_eq!(outcomes(&disk, F), [Some(b"new".to_vec()), Some(b"old".to_vec())]);
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, F), [Some(b"new".to_vec())]);
    assert_eq!(disk.crash_now(Fate::NOTHING).peek(p(F)).unwrap(), b"new");
}

#[test]
fn growth_and_bytes_of_one_write_survive_separately() {
    let (disk, file) = with_file(b"ab");
    file.write_all_at(&[b"cd"], 2).unwrap();
    assert_eq!(outcomes(&disk, F), [Some(b"ab".to_vec()), Some(b"ab\0\0".to_vec()), Some(b"abcd".to_vec())]);
    let parts: Vec<Part> = disk.pending_at(disk.ops()).iter().map(|p| p.part).collect();
    assert_eq!(parts, [Part::Data, Part::Growth]);
    let noisy = disk.crash_now(Fate::keeping(Keep::Only(1)).with_noise()).peek(p(F)).unwrap();
    assert_eq!(&noisy[..2], b"ab");
    assert!(noisy.len() == 4 && noisy[2] != 0, "garbage where the bytes were lost");
}

#[test]
fn a_hole_reads_as_zeros_even_where_garbage_is_allowed() {
    let (disk, file) = with_file(b"");
    file.write_all_at(&[b"x"], 100).unwrap();
    for fate in [Fate::EVERYTHING, Fate::EVERYTHING.with_noise(), Fate::keeping(Keep::Only(1)).with_noise()] {
        assert_eq!(disk.crash_now(fate).peek(p(F)).unwrap()[..100], [0; 100]);
    }
}

#[test]
fn a_cut_may_be_lost_and_a_cut_that_survives_drops_what_was_behind() {
    let (disk, file) = with_file(b"abcd");
    file.set_len(1).unwrap();
    file.set_len(3).unwrap();
    let expected = [b"a".to_vec(), b"a\0\0".to_vec(), b"abc".to_vec(), b"abcd".to_vec()];
    assert_eq!(outcomes(&disk, F), expected.map(Some));
    file.sync_all().unwrap();
    assert_eq!(outcomes(&disk, F), [Some(b"a\0\0".to_vec())]);
}

#[test]
fn a_created_file_may_vanish_until_its_directory_is_synced_even_if_itself_is() {
    let disk = disk();
    let file = disk.open(p(F), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[b"x"], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(outcomes(&disk, F), [None, Some(b"x".to_vec())]);
    disk.sync_dir(p("/d")).unwrap();
    assert_eq!(outcomes(&disk, F), [Some(b"x".to_vec())]);
}

#[test]
fn a_durable_name_says_nothing_of_the_contents() {
    let disk = disk();
    let file = disk.open(p(F), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[b"x"], 0).unwrap();
    disk.sync_dir(p("/d")).unwrap();
    assert_eq!(outcomes(&disk, F), [Some(vec![]), Some(b"\0".to_vec()), Some(b"x".to_vec())]);
}

#[test]
fn a_new_directory_may_vanish_with_all_that_is_in_it() {
    let disk = SimDisk::new();
    disk.create_dir_all(p("/d/sub")).unwrap();
    disk.open(p("/d/sub/f"), OpenMode::CreateNew).unwrap();
    disk.sync_dir(p("/d/sub")).unwrap();
    assert_eq!(outcomes(&disk, "/d/sub/f"), [None, Some(vec![])]);
    disk.sync_dir(p("/d")).unwrap();
    assert_eq!(outcomes(&disk, "/d/sub/f"), [None, Some(vec![])], "/d itself is not durable");
    disk.sync_dir(p("/")).unwrap();
    assert_eq!(outcomes(&disk, "/d/sub/f"), [Some(vec![])]);
}

#[test]
fn a_rename_is_old_or_new_and_neither_only_if_the_new_file_was_not_synced() {
    let (disk, _old) = with_file(b"old");
    let tmp = disk.open(p("/d/tmp"), OpenMode::CreateNew).unwrap();
    tmp.write_all_at(&[b"new"], 0).unwrap();
    let unsynced = disk.kill_at(disk.ops());
    unsynced.rename(p("/d/tmp"), p(F)).unwrap();
    assert!(outcomes(&unsynced, F).contains(&Some(vec![])), "the empty file after a rename without sync");
    tmp.sync_data().unwrap();
    disk.rename(p("/d/tmp"), p(F)).unwrap();
    assert_eq!(outcomes(&disk, F), [Some(b"new".to_vec()), Some(b"old".to_vec())]);
    disk.sync_dir(p("/d")).unwrap();
    assert_eq!(outcomes(&disk, F), [Some(b"new".to_vec())]);
    assert_eq!(outcomes(&disk, "/d/tmp"), [None]);
}

#[test]
fn a_removed_file_may_come_back_until_the_directory_is_synced() {
    let (disk, _file) = with_file(b"x");
    disk.remove_file(p(F)).unwrap();
    assert_eq!(outcomes(&disk, F), [None, Some(b"x".to_vec())]);
    disk.sync_dir(p("/d")).unwrap();
    assert_eq!(outcomes(&disk, F), [None]);
}

#[test]
fn names_survive_in_any_subset_unless_order_is_asked_for() {
    let disk = disk();
    disk.open(p("/d/a"), OpenMode::CreateNew).unwrap();
    disk.open(p("/d/b"), OpenMode::CreateNew).unwrap();
    let only_b = Fate::keeping(Keep::Only(1));
    assert_eq!(disk.crash_now(only_b).names(), [p("/d"), p("/d/b")]);
    assert_eq!(disk.crash_now(Fate { ordered_names: true, ..only_b }).names(), [p("/d")]);
    let prefix = Fate { ordered_names: true, ..Fate::keeping(Keep::Prefix(1)) };
    assert_eq!(disk.crash_now(prefix).names(), [p("/d"), p("/d/a")]);
}

#[test]
fn a_write_tears_at_sectors_and_touches_nothing_outside_itself() {
    let (disk, file) = with_file(&[1; 2048]);
    file.write_all_at(&[&[2; 1200]], 300).unwrap();
    let torn = |cut| disk.crash_now(Fate::torn(0, cut)).peek(p(F)).unwrap();
    let twos = |bytes: &[u8]| -> Vec<usize> { (0..bytes.len()).filter(|i| bytes[*i] == 2).collect() };
    assert_eq!(twos(&torn(Cut::FirstSectors(1))), (300..512).collect::<Vec<_>>());
    assert_eq!(twos(&torn(Cut::FirstSectors(2))), (300..1024).collect::<Vec<_>>());
    assert_eq!(twos(&torn(Cut::AfterSectors(2))), (1024..1500).collect::<Vec<_>>());
    assert_eq!(twos(&torn(Cut::EveryOther)), (512..1024).collect::<Vec<_>>());
    assert_eq!(twos(&torn(Cut::FirstBytes(5))), (300..305).collect::<Vec<_>>());
    for cut in [Cut::FirstSectors(1), Cut::AfterSectors(1), Cut::EveryOther, Cut::FirstBytes(7)] {
        let bytes = torn(cut);
        assert!(bytes[..300].iter().chain(&bytes[1500..]).all(|b| *b == 1), "{cut:?}");
    }
}

#[test]
fn a_shredded_block_takes_its_neighbours_in_front_along_but_no_other_block() {
    let (disk, file) = with_file(&[1; 3 * BLOCK]);
    file.write_all_at(&[&[2; 100]], BLOCK as u64 + 50).unwrap();
    let bytes = disk.crash_now(Fate::torn(0, Cut::Shred)).peek(p(F)).unwrap();
    assert!(bytes[..BLOCK].iter().all(|b| *b == 1));
    assert!(bytes[BLOCK..BLOCK + 150].iter().filter(|b| **b == 1).count() < 10, "garbage from the block's start on");
    assert!(bytes[BLOCK + 150..].iter().all(|b| *b == 1));
}

#[test]
fn a_failed_sync_is_not_made_good_by_a_later_one() {
    for (how, after_fail, after_second) in [
        (SyncFailure::Forgotten, &b"new"[..], &b"old"[..]),
        (SyncFailure::Reverted, b"old", b"old"),
        (SyncFailure::Persisted, b"new", b"new"),
    ] {
        let (disk, file) = with_file(b"old");
        let region = file.map(100).unwrap();
        file.write_all_at(&[b"new"], 0).unwrap();
        disk.fail_call(disk.calls(), Fault::Sync(how, Errno::IO.raw_os_error()));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
        assert_eq!(disk.peek(p(F)).unwrap(), after_fail, "{how:?}: what the process sees");
        assert_eq!(region.bytes(0, 3), after_fail);
        file.sync_data().unwrap();
        assert_eq!(disk.crash_now(Fate::EVERYTHING).peek(p(F)).unwrap(), after_second, "{how:?}: what is on the disk");
    }
}

#[test]
fn bytes_written_again_after_a_failed_sync_can_be_made_durable() {
    let (disk, file) = with_file(b"old");
    file.write_all_at(&[b"new"], 0).unwrap();
    disk.fail_call(disk.calls(), Fault::EIO);
    file.sync_data().unwrap_err();
    file.write_all_at(&[b"new"], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, F), [Some(b"new".to_vec())]);
}

#[test]
fn names_in_a_directory_whose_sync_failed_are_never_durable() {
    let disk = disk();
    disk.open(p(F), OpenMode::CreateNew).unwrap();
    disk.fail_call(disk.calls(), Fault::EIO);
    disk.sync_dir(p("/d")).unwrap_err();
    disk.sync_dir(p("/d")).unwrap();
    assert_eq!(outcomes(&disk, F), [None, Some(vec![])]);
}

#[test]
fn a_killed_process_leaves_its_cache_frees_its_locks_and_can_do_nothing_more() {
    let (disk, file) = with_file(b"old");
    let lock = disk.try_lock(p("/d/LOCK")).unwrap();
    file.write_all_at(&[b"new"], 0).unwrap();
    let next = disk.kill();
    assert!(file.write_all_at(&[b"late"], 0).is_err());
    assert!(file.sync_data().is_err());
    assert!(disk.open(p(F), OpenMode::Read).is_err());
    assert_eq!(next.peek(p(F)).unwrap(), b"new", "the page cache outlives the process");
    assert_eq!(next.crash_now(Fate::NOTHING).peek(p(F)).unwrap(), b"old", "but is no more durable than before");
    let _held = next.try_lock(p("/d/LOCK")).unwrap();
    drop(lock);
    assert!(next.try_lock(p("/d/LOCK")).is_err(), "an old guard frees nothing of the new process");
}

#[test]
fn a_lock_excludes_and_frees() {
    let disk = disk();
    let lock = disk.try_lock(p("/d/LOCK")).unwrap();
    assert_eq!(disk.try_lock(p("/d/LOCK")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    disk.try_lock(p("/d/LOCK")).unwrap();
}

#[test]
fn the_quota_cuts_a_write_short_until_something_is_freed() {
    let (disk, file) = with_file(b"0123");
    disk.set_quota(Some(6));
    assert_eq!(file.write_all_at(&[b"abcd"], 4).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.peek(p(F)).unwrap(), b"0123ab");
    file.write_all_at(&[b"xy"], 0).unwrap();
    let other = disk.open(p("/d/g"), OpenMode::CreateNew).unwrap();
    assert!(other.write_all_at(&[b"z"], 0).is_err());
    file.set_len(2).unwrap();
    other.write_all_at(&[b"z"], 0).unwrap();
    assert_eq!(disk.used(), 3);
    disk.remove_file(p(F)).unwrap();
    other.write_all_at(&[b"zzzz"], 0).unwrap();
    disk.set_quota_with(4, Errno::DQUOT.raw_os_error());
    assert_eq!(other.set_len(5).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
}

#[test]
fn calls_fail_as_told() {
    let (disk, file) = with_file(b"old");
    disk.fail_call(disk.calls() + 1, Fault::EMFILE);
    disk.open(p(F), OpenMode::Read).unwrap();
    assert_eq!(disk.open(p(F), OpenMode::Read).unwrap_err().raw_os_error(), Some(Errno::MFILE.raw_os_error()));
    disk.fail_if(|c| (c.kind == CallKind::Write && c.path.ends_with("f")).then_some(Fault::ShortWrite(1, 5)));
    assert_eq!(file.write_all_at(&[b"new"], 0).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(disk.peek(p(F)).unwrap(), b"nld");
    disk.clear_faults();
    file.write_all_at(&[b"new"], 0).unwrap();
}

#[test]
fn a_region_sees_later_writes_cuts_and_bit_flips() {
    let (disk, file) = with_file(&1.5f32.to_le_bytes());
    let region = file.map(1 << 20).unwrap();
    assert_eq!(region.f32s(0, 1), [1.5]);
    assert_eq!(region.get(4, 1), None);
    disk.open(p(F), OpenMode::Write).unwrap().write_all_at(&[b"late"], 4).unwrap();
    assert_eq!(region.bytes(4, 4), b"late");
    file.sync_data().unwrap();
    disk.flip_bit(p(F), 4, 0);
    assert_eq!(region.bytes(4, 4), b"mate");
    assert_eq!(disk.crash_now(Fate::EVERYTHING).peek(p(F)).unwrap()[4..], *b"mate");
    file.set_len(4).unwrap();
    assert_eq!(region.get(4, 1), None);
    file.set_len(8).unwrap();
    assert_eq!(region.bytes(4, 4), [0; 4]);
}

#[test]
fn it_refuses_what_a_real_disk_refuses() {
    let (disk, _file) = with_file(b"abc");
    let kind = |r: io::Result<Arc<dyn VfsFile>>| r.unwrap_err().kind();
    assert_eq!(kind(disk.open(p("/d/none"), OpenMode::Write)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open(p("/none/f"), OpenMode::CreateNew)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open(p(F), OpenMode::CreateNew)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open(p("/d"), OpenMode::Read)), io::ErrorKind::IsADirectory);
    assert!(disk.open(p(F), OpenMode::Read).unwrap().write_all_at(&[b"x"], 0).is_err());
    assert!(disk.rename(p("/d/none"), p("/d/g")).is_err());
    assert!(disk.list(p("/none")).is_err());
    assert_eq!(disk.kind(p(F)).unwrap(), Some(EntryKind::File));
    assert_eq!(disk.list(p("/d")).unwrap(), [Entry { name: "f".into(), kind: EntryKind::File, len: 3 }]);
    assert_eq!(read_file(&disk, p(F), 3).unwrap(), b"abc");
    let file = disk.open(p(F), OpenMode::Read).unwrap();
    assert!(read_exact_at(&*file, &mut [0; 4], 0).is_err());
}

#[test]
fn crash_states_of_earlier_points_can_be_asked_for_in_any_order() {
    let (disk, file) = with_file(b"0");
    let mut points = vec![(disk.ops(), b"0".to_vec())];
    for i in b'1'..=b'9' {
        file.write_all_at(&[&[i]], 0).unwrap();
        file.sync_data().unwrap();
        points.push((disk.ops(), vec![i]));
    }
    for i in [3, 9, 0, 5, 4, 8, 1] {
        assert_eq!(disk.crash(points[i].0, Fate::NOTHING).peek(p(F)).unwrap(), points[i].1);
        assert_eq!(disk.kill_at(points[i].0).peek(p(F)).unwrap(), points[i].1);
    }
}

/// One random operation on a few names.
fn random_op(disk: &SimDisk, code: u8, a: u8, b: u8) {
    let path = |n: u8| PathBuf::from(format!("/d/{}", n % 3));
    let open = |n| disk.open(&path(n), OpenMode::Write);
    let _ = match code % 7 {
        0 => disk.open(&path(a), OpenMode::CreateNew).map(drop),
        1 | 2 => open(a).and_then(|f| f.write_all_at(&[&[b; 3]], u64::from(b % 16))),
        3 => open(a).and_then(|f| f.set_len(u64::from(b % 20))),
        4 => open(a).and_then(|f| f.sync_data()),
        5 if b.is_multiple_of(2) => disk.remove_file(&path(a)),
        5 => disk.rename(&path(a), &path(b)),
        _ => disk.sync_dir(p("/d")),
    };
}

fn contents(disk: &SimDisk) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    disk.names().into_iter().map(|name| (name.clone(), disk.peek(&name))).collect()
}

proptest! {
    #[test]
    fn when_everything_survives_the_disk_is_what_the_process_saw(ops in prop::collection::vec(any::<(u8, u8, u8)>(), 0..40)) {
        let disk = disk();
        for (code, a, b) in ops {
            random_op(&disk, code, a, b);
        }
        let crashed = disk.crash_now(Fate::EVERYTHING);
        prop_assert_eq!(contents(&crashed), contents(&disk));
        prop_assert_eq!(crashed.hash(), disk.hash());
        prop_assert_eq!(contents(&disk.kill()), contents(&crashed));
    }

    #[test]
    fn when_all_is_synced_every_fate_leaves_the_same(ops in prop::collection::vec(any::<(u8, u8, u8)>(), 0..40)) {
        let disk = disk();
        for (code, a, b) in ops {
            random_op(&disk, code, a, b);
        }
        for name in disk.names().iter().filter(|n| disk.peek(n).is_some()) {
            disk.open(name, OpenMode::Read).unwrap().sync_all().unwrap();
        }
        disk.sync_dir(p("/d")).unwrap();
        prop_assert_eq!(contents(&disk.crash_now(Fate::NOTHING)), contents(&disk));
    }

    #[test]
    fn a_crash_point_in_the_past_equals_a_crash_at_that_time(ops in prop::collection::vec(any::<(u8, u8, u8)>(), 1..25), seed: u64) {
        let disk = disk();
        let fate = Fate::keeping(Keep::Random(seed));
        let mut then = Vec::new();
        for (code, a, b) in ops {
            random_op(&disk, code, a, b);
            then.push((disk.ops(), contents(&disk.crash_now(fate))));
        }
        for (point, expected) in then.iter().rev() {
            prop_assert_eq!(&contents(&disk.crash(*point, fate)), expected);
        }
    }
}

/// Appends records of 8 bytes to a file; with `sync`, acknowledges after a sync.
fn append_records(disk: &SimDisk, history: &crash::History<u64>, sync: bool) {
    let Ok(()) = disk.create_dir_all(p("/d")).and_then(|()| disk.sync_dir(p("/"))) else { return };
    let Ok(file) = disk.open(p(F), OpenMode::CreateNew) else { return };
    if disk.sync_dir(p("/d")).is_err() {
        return;
    }
    let mut at = 0;
    for i in 1..=4u64 {
        let done = history.attempt(i, || {
            file.write_all_at(&[&i.to_le_bytes()], at)?;
            if sync { file.sync_data() } else { Ok(()) }
        });
        if done.is_err() {
            return; // Poisoned: after a failed sync nothing more is acknowledged.
        }
        at += 8;
    }
}

/// Reads the records up to the first that is not whole, and makes them durable before they are served.
fn recover_records(disk: &SimDisk, sync: bool) -> Vec<u64> {
    let Some(bytes) = disk.peek(p(F)) else { return Vec::new() };
    let records = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap()));
    let records: Vec<u64> = records.zip(1..).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    if sync {
        let file = disk.open(p(F), OpenMode::Write).unwrap();
        let kept: Vec<u8> = records.iter().flat_map(|r| r.to_le_bytes()).collect();
        file.write_all_at(&[&kept], 0).unwrap();
        file.sync_all().unwrap();
    }
    records
}

fn check_records(records: Vec<u64>, seen: &crash::Seen<'_, u64>) -> Vec<u64> {
    assert!(seen.acked().all(|r| records.contains(r)), "an acknowledged record is lost");
    assert!(records.iter().all(|r| seen.possible().any(|s| s == r)), "a record out of nowhere");
    records
}

/// A plan for the toy above, whose records share blocks, which a shredding medium punishes.
fn sharing_blocks(plan: Enumeration) -> Enumeration {
    let kind = |bounds| Bounds { shred: false, ..bounds };
    Enumeration { second_every: 1, bounds: kind(plan.bounds), second_bounds: kind(plan.second_bounds), ..plan }
}

#[test]
fn the_enumeration_catches_records_that_share_a_block_when_blocks_shred() {
    let plan = Enumeration { second_every: 0, ..Enumeration::quick() };
    let failure = plan.search(|d, h| append_records(d, h, true), |d| recover_records(d, false), check_records);
    assert!(failure.unwrap_err().message.contains("Data TORN Shred"));
}

#[test]
fn the_enumeration_passes_a_correct_append_and_tries_what_it_says() {
    let report = sharing_blocks(Enumeration::thorough()).run(
        |d, h| append_records(d, h, true),
        |d| recover_records(d, true),
        check_records,
    );
    assert_eq!(report.points, 13, "{report:?}");
    assert!(report.states > 60 && report.distinct > 20 && report.kills == 13 && report.second > 30, "{report:?}");
    assert!(!report.truncated);
}

#[test]
fn the_enumeration_catches_an_acknowledgement_before_the_sync() {
    let plan = Enumeration::quick();
    let failure = plan.search(|d, h| append_records(d, h, false), |d| recover_records(d, true), check_records);
    let message = failure.unwrap_err().message;
    assert!(message.contains("an acknowledged record is lost") && message.contains("write /d/f [0, 8)"), "{message}");
}

#[test]
fn the_enumeration_catches_a_recovery_that_serves_what_is_not_durable() {
    let plan = sharing_blocks(Enumeration::quick());
    let failure = plan.search(|d, h| append_records(d, h, true), |d| recover_records(d, false), check_records);
    assert!(failure.unwrap_err().message.contains("served before"), "trusting the page cache after a kill");
}

#[test]
fn the_enumeration_catches_a_recovery_that_destroys() {
    let plan = Enumeration { kills: false, ..sharing_blocks(Enumeration::quick()) };
    let destroy_first = |disk: &SimDisk| {
        let records = recover_records(disk, false);
        if let Ok(file) = disk.open(p(F), OpenMode::Write) {
            file.set_len(0).unwrap();
            let kept: Vec<u8> = records.iter().flat_map(|r| r.to_le_bytes()).collect();
            file.write_all_at(&[&kept], 0).unwrap();
            file.sync_all().unwrap();
        }
        records
    };
    let failure = plan.search(|d, h| append_records(d, h, true), destroy_first, check_records);
    assert!(failure.unwrap_err().message.contains("then power lost in the recovery"));
}

#[test]
fn the_fault_sweep_passes_a_correct_append_and_catches_a_retried_sync() {
    let sweep = FaultSweep::default();
    let runs = sweep.run(|d, h| append_records(d, h, true), |d| recover_records(d, true), check_records);
    assert!(runs > 100, "{runs}");
    let retried = std::panic::catch_unwind(|| {
        let retry = |disk: &SimDisk, history: &crash::History<u64>| {
            let (_, file) = (disk.create_dir_all(p("/d")), disk.open(p(F), OpenMode::CreateNew));
            let Ok(file) = file else { return };
            let _ = disk.sync_dir(p("/")).and_then(|()| disk.sync_dir(p("/d")));
            let write =
                || file.write_all_at(&[&1u64.to_le_bytes()], 0).and_then(|()| file.sync_data().or(file.sync_data()));
            let _ = history.attempt(1, write);
        };
        sweep.run(retry, |d| recover_records(d, true), check_records)
    });
    assert!(retried.is_err(), "a second sync after a failed one says `fine`, and the record is gone");
}

#[test]
fn threads_may_share_the_disk_and_the_history() {
    let workload = |disk: &SimDisk, history: &crash::History<u8>| {
        disk.create_dir_all(p("/d")).and_then(|()| disk.sync_dir(p("/"))).unwrap();
        std::thread::scope(|scope| {
            for i in 0..3u8 {
                scope.spawn(move || {
                    let write = || {
                        let file = disk.open(&PathBuf::from(format!("/d/{i}")), OpenMode::CreateNew)?;
                        file.write_all_at(&[&[i; 9]], 0)?;
                        file.sync_data()?;
                        disk.sync_dir(p("/d"))
                    };
                    history.attempt(i, write).unwrap();
                });
            }
        });
    };
    let recover = |disk: &SimDisk| -> Vec<Option<Vec<u8>>> {
        (0..3).map(|i| disk.peek(&PathBuf::from(format!("/d/{i}")))).collect()
    };
    let plan = Enumeration { second_every: 0, ..Enumeration::quick() };
    let report = plan.run(workload, recover, |found, seen: &crash::Seen<'_, u8>| {
        assert!(seen.acked().all(|i| found[usize::from(*i)] == Some(vec![*i; 9])), "{found:?}");
    });
    assert_eq!(report.points, 15, "{report:?}");
}

#[test]
fn refused_attempts_must_not_reappear() {
    let disk = SimDisk::new();
    let history = crash::History::new(&disk);
    let attempt = history.start(1u64);
    history.refuse(attempt);
    let failure = Enumeration::quick().search(
        |disk, history| {
            disk.create_dir_all(p("/d")).unwrap();
            let file = disk.open(p(F), OpenMode::CreateNew).unwrap();
            let attempt = history.start(1u64);
            file.write_all_at(&[&1u64.to_le_bytes()], 0).unwrap();
            history.refuse(attempt);
        },
        |d| recover_records(d, false),
        check_records,
    );
    assert!(failure.unwrap_err().message.contains("out of nowhere"));
}
