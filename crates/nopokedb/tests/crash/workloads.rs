//! The canonical workloads, one test each.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use nopokedb::testing::crash::states_tried;

use crate::support::Expires::{Already, InAges};
use crate::support::Rng;
use crate::support::Write::{
    Add, Batch, Create, CreateAll, Delete, DeleteWhere, Document, Drop, Expiring, Given, Mixed, Note, Retag, Upsert,
};
use crate::support::{TEXT, long, seeds};
use crate::workload::*;

pub fn xs(n: u16) -> Vec<f32> {
    (0..n).map(f32::from).collect()
}

/// Adds rows with documents so long that four of them fill a segment.
pub fn large(ids: std::ops::Range<u64>) -> Vec<Step> {
    ids.flat_map(|id| [Do(Add(0, 1.0)), Do(Document(0, id, 14_000))]).collect()
}

pub fn steps(parts: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    parts.into_iter().flatten().collect()
}

#[test]
fn w01_acknowledged_adds_survive() {
    prove("adds", &[Do(Add(0, 1.0)), Do(Add(0, 2.0)), Do(Add(0, 3.0)), Do(Add(0, 4.0))]);
}

#[test]
fn w02_a_batch_is_there_whole_or_not_at_all() {
    prove("a batch", &[Do(Add(0, 1.0)), Do(Batch(0, xs(12))), Do(Add(0, 2.0))]);
}

#[test]
fn w03_a_batch_over_several_frames_is_there_whole_or_not_at_all() {
    prove("batches over frames", &[Do(Batch(0, xs(90))), Do(Batch(0, xs(60))), Do(Add(0, 2.0))]);
}

#[test]
fn w04_given_ids_survive() {
    prove("given ids", &[Do(Given(0, vec![(70, 1.0), (7, 2.0)])), Do(Add(0, 3.0)), Do(Given(0, vec![(8, 4.0)]))]);
}

#[test]
fn w05_upserts_are_old_or_new() {
    let writes = [Batch(0, xs(3)), Upsert(0, 1, 9.0), Upsert(0, 5, 8.0), Upsert(0, 1, 7.0), Upsert(0, 1, 6.0)];
    prove("upserts", &writes.map(Do));
}

#[test]
fn w06_changes_of_metadata_alone_keep_the_vector() {
    let writes = [Batch(0, xs(3)), Retag(0, 0, 7), Document(0, 1, 50), Retag(0, 1, 8), Upsert(0, 1, 5.0)];
    prove("metadata alone", &writes.map(Do));
}

#[test]
fn w07_deleted_rows_stay_deleted() {
    let writes = [Batch(0, xs(4)), Delete(0, 3), Delete(0, 0), Upsert(0, 0, 5.0), Delete(0, 0), Add(0, 6.0)];
    prove("deletes", &writes.map(Do));
}

#[test]
fn w08_ids_of_deleted_rows_are_not_given_again_after_reopening() {
    prove(
        "ids",
        &[Do(Batch(0, xs(3))), Do(Delete(0, 2)), Reopen, Do(Add(0, 9.0)), Do(Delete(0, 3)), Die, Do(Add(0, 8.0))],
    );
}

#[test]
fn w09_full_segments_are_followed_by_others() {
    prove("rolls", &large(0..4));
}

#[test]
fn w10_footers_of_full_segments_change_nothing() {
    prove("footers", &steps([large(0..3), vec![Quiet], large(3..4), vec![Quiet, Do(Add(0, 5.0))]]));
}

#[test]
fn w11_a_write_longer_than_a_segment_gets_a_longer_one() {
    let long = Do(Document(0, 0, 90_000));
    prove("a long write", &[Do(Add(0, 1.0)), long, Do(Add(0, 2.0)), Do(Document(0, 1, 30_000)), Do(Add(0, 3.0))]);
}

#[test]
fn w12_a_clean_close_loses_nothing() {
    prove("a close", &[Do(Batch(0, xs(3))), Do(Delete(0, 0)), Close]);
}

#[test]
fn w13_closing_and_opening_again_and_again_loses_nothing() {
    prove("reopening", &[Do(Add(0, 1.0)), Reopen, Do(Add(0, 2.0)), Reopen, Reopen, Do(Delete(0, 0)), Reopen]);
}

#[test]
fn w14_an_unclean_end_is_recovered_and_written_after() {
    prove(
        "unclean ends",
        &[Do(Batch(0, xs(3))), Die, Do(Upsert(0, 1, 7.0)), Die, Die, Do(Add(0, 8.0)), Reopen, Do(Delete(0, 2))],
    );
}

#[test]
fn w15_unclean_ends_after_rolls_are_recovered() {
    prove("unclean ends after rolls", &steps([large(0..3), vec![Die], large(3..5), vec![Die, Do(Add(0, 8.0))]]));
}

#[test]
fn w16_an_idle_database_marks_what_is_durable() {
    prove(
        "watermarks",
        &[Do(Add(0, 1.0)), Quiet, Do(Add(0, 2.0)), Do(Add(0, 3.0)), Quiet, Do(Delete(0, 0)), Die, Quiet],
    );
}

#[test]
fn w17_index_images_are_caches() {
    prove("images", &[Do(Batch(0, xs(20))), Index, Save, Do(Add(0, 50.0)), Reopen, Do(Delete(0, 3))]);
}

#[test]
fn w18_a_newer_image_takes_the_place_of_an_older_one() {
    let more = Do(Batch(0, xs(10)));
    let delete = Do(Delete(0, 3));
    prove(
        "newer images",
        &[Do(Batch(0, xs(20))), Index, Save, more, delete, Index, Save, Do(Upsert(0, 4, 3.5)), Die, Save],
    );
}

#[test]
fn w19_rows_in_the_graph_may_be_replaced_and_deleted() {
    let batch = Do(Batch(0, xs(16)));
    prove(
        "graph",
        &[batch, Index, Do(Upsert(0, 3, 90.0)), Do(Delete(0, 5)), Index, Reopen, Do(Upsert(0, 3, 91.0)), Index],
    );
}

#[test]
fn w20_collections_are_made_whole() {
    let writes = [Add(0, 1.0), Create(1), Add(1, 2.0), Create(2), Batch(2, xs(3)), Add(0, 3.0)];
    prove("collections", &writes.map(Do));
}

#[test]
fn w58_collections_that_are_made_at_once_are_all_there_or_none() {
    let writes = [Create(2), Add(2, 1.0), CreateAll(vec![1, 2, 3, 4]), Add(4, 2.0), Drop(3), CreateAll(vec![3, 5])];
    prove("collections at once", &steps([writes.map(Do).to_vec(), vec![Die, Do(Add(5, 3.0))]]));
}

#[test]
fn w21_dropped_collections_stay_dropped() {
    let before = [Create(1), Batch(1, xs(3)), Add(0, 1.0), Drop(1)].map(Do);
    let after = [Add(0, 2.0), Create(1), Add(1, 9.0)].map(Do);
    prove("drops", &steps([before.to_vec(), vec![Die], after.to_vec(), vec![Reopen, Do(Drop(1))]]));
}

#[test]
fn w22_collections_with_images_of_their_own() {
    let before = [Create(1), Batch(1, xs(12)), Batch(0, xs(12))].map(Do);
    let middle = vec![Index, Save, Do(Delete(1, 3)), Do(Add(0, 5.0)), Reopen];
    prove("images of collections", &steps([before.to_vec(), middle, vec![Do(Drop(1)), Save, Do(Add(0, 6.0))]]));
}

#[test]
fn w29_a_collection_dropped_right_after_a_clean_opening_stays_dropped_or_there() {
    // What a recovery served must not change at the next loss of power, although no frame was written since the close.
    let before = [Create(1), Add(1, 9.0)].map(Do);
    prove_twice(
        "a drop after a clean opening",
        &steps([before.to_vec(), vec![Reopen, Do(Drop(1)), Reopen, Do(Create(1))]]),
    );
}

#[test]
fn w30_rows_deleted_by_a_filter_go_together() {
    let before = [Batch(0, xs(30)), Retag(0, 3, 5), Retag(0, 9, 5), Retag(0, 20, 5), DeleteWhere(0, 5)].map(Do);
    let after = [Upsert(0, 3, 5.0), DeleteWhere(0, 0), DeleteWhere(0, 7), Add(0, 6.0)].map(Do);
    prove("deletes by a filter", &steps([before.to_vec(), vec![Die], after.to_vec()]));
}

#[test]
fn w23_segments_of_dead_rows_are_compacted_without_a_loss() {
    let deletes = [Delete(0, 0), Delete(0, 1), Delete(0, 2), Upsert(0, 3, 4.0)].map(Do);
    prove("compaction", &steps([large(0..5), deletes.to_vec(), vec![Compacted], large(5..6), vec![Quiet]]));
}

#[test]
fn w24_compaction_between_unclean_ends() {
    let deletes = [Delete(0, 0), Delete(0, 1), Delete(0, 2)].map(Do);
    let end = vec![Do(Add(0, 5.0)), Compacted, Die, Do(Delete(0, 3))];
    prove("compaction and unclean ends", &steps([large(0..4), deletes.to_vec(), vec![Die], end]));
}

#[test]
fn w25_compaction_with_images_and_collections() {
    let before =
        [Create(1), Batch(1, xs(10)), Batch(0, xs(10)), Document(1, 0, 30_000), Document(0, 0, 30_000)].map(Do);
    let dead = [Drop(1), Upsert(0, 0, 9.0), Document(0, 0, 30_000), Document(0, 0, 20_000)].map(Do);
    let all = [before.to_vec(), vec![Index, Save], dead.to_vec(), vec![Compacted, Save, Reopen, Do(Add(0, 5.0))]];
    prove("compaction, images, collections", &steps(all));
}

#[test]
fn w26_writers_at_once_share_a_sync_and_lose_nothing() {
    let writer = |t: u64| (0..3).map(|i| Given(0, vec![(100 * t + i, 1.0), (100 * t + i + 50, 2.0)])).collect();
    prove_together("threads", &[Together((0..3).map(writer).collect()), Quiet, Together(vec![writer(3), writer(4)])]);
}

#[test]
fn w27_everything_in_one_life() {
    let life = vec![
        Do(Batch(0, xs(10))),
        Do(Create(1)),
        Do(Batch(1, xs(5))),
        Index,
        Do(Document(0, 2, 40_000)),
        Do(Delete(0, 1)),
        Die,
        Do(Document(1, 2, 40_000)),
        Save,
        Do(Upsert(0, 2, 3.0)),
        Quiet,
        Reopen,
        Do(Drop(1)),
        Do(Batch(0, xs(80))),
        Die,
        Do(Retag(0, 2, 5)),
    ];
    prove("everything", &life);
}

#[test]
fn w31_text_ids_survive_beside_numbers() {
    let before =
        [Given(0, vec![(TEXT + 1, 1.0), (3, 2.0), (TEXT, 3.0)]), Upsert(0, TEXT + 1, 4.0), Add(0, 5.0)].map(Do);
    let after = [Delete(0, TEXT), Document(0, TEXT + 1, 70), Upsert(0, TEXT, 6.0), Retag(0, TEXT, 4)].map(Do);
    let end = [Delete(0, TEXT + 1), Add(0, 7.0)].map(Do);
    prove("text ids", &steps([before.to_vec(), vec![Die], after.to_vec(), vec![Reopen], end.to_vec()]));
}

#[test]
fn w32_a_batch_of_mixed_writes_is_done_whole_or_not_at_all() {
    let first = [Add(0, 1.0), Upsert(0, 1, 8.0), Delete(0, 2), Note(0, 1, 3), Upsert(0, TEXT, 9.0), Delete(0, 40)];
    // Over several frames, with deletes at both ends.
    let rows = (0..70u16).map(|i| Upsert(0, TEXT + u64::from(i), f32::from(i)));
    let second = [Delete(0, 3)].into_iter().chain(rows).chain([Retag(0, 4, 6), Delete(0, 5)]).collect();
    let third = [Upsert(0, 4, 1.5), Delete(0, 4), Add(0, 2.5), Document(0, TEXT + 7, 400), Note(0, TEXT + 7, 1)];
    let writes = [Batch(0, xs(6)), Mixed(0, first.to_vec()), Mixed(0, second), Mixed(0, third.to_vec())].map(Do);
    prove("mixed batches", &steps([writes[..3].to_vec(), vec![Die], writes[3..].to_vec(), vec![Do(Add(0, 3.0))]]));
}

#[test]
fn w33_updates_of_single_members_keep_the_rest() {
    let before = [Batch(0, xs(3)), Note(0, 1, 5), Document(0, 1, 60), Note(0, 1, 6), Note(0, 2, 7)].map(Do);
    let after = [Note(0, 1, 0), Retag(0, 2, 9), Note(0, 2, 8), Upsert(0, TEXT, 3.0), Note(0, TEXT, 2)].map(Do);
    prove("single members", &steps([before.to_vec(), vec![Die], after.to_vec(), vec![Reopen, Do(Note(0, TEXT, 0))]]));
}

#[test]
fn w34_text_ids_through_images_and_compactions() {
    let long = |n: u64| [Upsert(0, TEXT + n, 1.0), Document(0, TEXT + n, 14_000)].map(Do);
    let rows = (0..5).flat_map(long).collect();
    let dead = (0..3).map(|n| Delete(0, TEXT + n)).chain([Upsert(0, TEXT + 3, 4.0)]).collect();
    let batch = (5..20).map(|n| Upsert(0, TEXT + n, n as f32)).collect();
    let middle = vec![Do(Mixed(0, batch)), Index, Save, Do(Mixed(0, dead)), Compacted];
    prove("text ids, images, compaction", &steps([rows, middle, vec![Save, Die, Do(Upsert(0, TEXT, 5.0))]]));
}

/// A life of random steps. The same for a seed.
pub fn random(seed: u64, len: usize) -> Vec<Step> {
    let mut rng = Rng(seed);
    let (mut model, mut steps) = (crate::support::Model::default(), Vec::new());
    while steps.len() < len {
        let x = f32::from(u16::try_from(rng.below(4_000)).unwrap()) / 8.0;
        let c = *model.0.keys().nth(rng.below(model.0.len())).unwrap();
        let ids: Vec<u64> = model.0[&c].rows.keys().copied().collect();
        let id = if ids.is_empty() { 0 } else { ids[rng.below(ids.len())] };
        let named = TEXT + rng.next() % 12;
        let write = match rng.below(100) {
            0..15 => Add(c, x),
            15..25 => Batch(c, (0..=rng.below(9)).map(|i| x + i as f32).collect()),
            25..28 => Batch(c, vec![x; 40]),
            28..35 => Upsert(c, id, x),
            35..38 => Upsert(c, named, x),
            38..41 => {
                Mixed(c, vec![Add(c, x), Upsert(c, id, x), Note(c, id, 2), Delete(c, named), Upsert(c, named, x)])
            }
            41..43 if !ids.is_empty() => Note(c, id, 1),
            43..45 if !ids.is_empty() => Retag(c, id, 3),
            45..60 if !ids.is_empty() => Document(c, id, 6 + rng.below(25_000)),
            60..72 => Delete(c, id),
            72..75 => DeleteWhere(c, 3),
            75..79 => Create(1),
            79..81 if c != 0 => Drop(c),
            step => {
                let steps_of = [Index, Save, Quiet, Reopen, Die, Die];
                steps.push(steps_of[step % steps_of.len()].clone());
                continue;
            }
        };
        model.apply(&write);
        steps.push(Do(write));
    }
    steps
}

/// Crashes random lives on some threads until the tests of this process have tried so many states that differ. NOPOKEDB_SEED
/// chooses lives.
#[test]
fn w28_random_lives_lose_nothing() {
    let wanted = if long() { 1_000_000 } else { 1 };
    // A state of a short life costs a third of one of a long life, so there are many short ones; long ones get to what takes
    // long to come about.
    let len = |seed: u64| match seed % 64 {
        _ if !long() => 25,
        1 => 60,
        2 => 40,
        _ => 20,
    };
    let lives = seeds(1, u64::from(u32::MAX));
    let (tried, next) = (AtomicUsize::new(0), AtomicU64::new(lives.start));
    let enough = || if long() { states_tried() >= wanted } else { tried.load(Relaxed) >= wanted };
    std::thread::scope(|s| {
        let work = || {
            while !enough() {
                let seed = next.fetch_add(1, Relaxed);
                if !lives.contains(&seed) {
                    break;
                }
                tried.fetch_add(prove(&format!("random life {seed}"), &random(seed, len(seed))), Relaxed);
            }
        };
        // A recovery waits for its database's own threads most of the time.
        let workers: Vec<_> = (0..if long() { 8 } else { 2 }).map(|_| s.spawn(work)).collect();
        workers.into_iter().for_each(|t| t.join().unwrap());
    });
    println!("{} different states so far, {} of random lives", states_tried(), tried.into_inner());
}

#[test]
fn w50_rows_that_expire_do_so_at_their_instant_and_no_other() {
    let writes = [Expiring(0, 1, 5.0, InAges), Retag(0, 1, 9), Expiring(0, 2, 6.0, Already), Upsert(0, 2, 7.0)];
    let more = [Expiring(0, 0, 8.0, Already), Expiring(0, 3, 9.0, InAges), Delete(0, 3)];
    prove(
        "expiry",
        &steps([
            vec![Do(Batch(0, xs(3)))],
            writes.map(Do).to_vec(),
            vec![Quiet, Reopen],
            more.map(Do).to_vec(),
            vec![Die, Quiet],
        ]),
    );
}

#[test]
fn w51_compaction_keeps_what_expires_later() {
    let early = vec![Do(Expiring(0, 1_000, 1.0, InAges)), Do(Expiring(0, 1_001, 1.0, Already))];
    let gone = (0..4).map(|id| Do(Expiring(0, id, 2.0, Already))).collect();
    prove(
        "expiry and compaction",
        &steps([
            early,
            large(1_002..1_006),
            gone,
            vec![Do(Delete(0, 1_002)), Do(Delete(0, 1_003)), Do(Delete(0, 1_004)), Compacted, Reopen],
        ]),
    );
}
