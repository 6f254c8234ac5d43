//! The power fails, or the process dies, while an idle log settles: it goes on to another segment, packs the one before, removes
//! what dropped collections left. No row comes or goes by it.

use crate::support::Write::{Add, Batch, Create, Delete, Drop, Upsert};
use crate::workload::*;
use crate::workloads::{steps, xs};

/// Writes that come one by one: each takes a page of its own, most of it of no use.
fn singles(from: u16, n: u16) -> Vec<Step> {
    (from..from + n).map(|x| Do(Add(0, f32::from(x)))).collect()
}

#[test]
fn w52_an_idle_log_is_packed_without_a_loss() {
    let first = vec![Do(Delete(0, 3)), Settle, Compacted, Do(Upsert(0, 4, 70.0))];
    let second = vec![Die, Do(Add(0, 80.0)), Settle, Do(Add(0, 81.0)), Quiet, Settle, Reopen, Do(Delete(0, 5)), Settle];
    prove("an idle log", &steps([singles(0, 8), first, singles(20, 7), second]));
}

#[test]
fn w53_what_dropped_collections_left_goes_and_nothing_else() {
    let before = [Create(1), Batch(1, xs(20)), Create(2), Batch(2, xs(12)), Batch(0, xs(12))].map(Do);
    let dropped = vec![Index, Save, Do(Drop(1)), Settle, Do(Add(0, 5.0)), Reopen];
    let again = [Create(1), Batch(1, xs(9)), Drop(2)].map(Do);
    let end = vec![Index, Save, Do(Drop(1)), Die, Settle, Do(Add(0, 6.0)), Settle];
    prove("leftovers of dropped collections", &steps([before.to_vec(), dropped, again.to_vec(), end]));
}
