//! What an arena counts is what the process has in memory for it. A test binary of its own: other tests' memory would count too.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nopokedb_kernels::{AppendArena, Zeroed};

/// Bytes of anonymous memory that the process has in pages.
fn anonymous() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn memory_is_what_was_written_and_that_is_what_is_counted() {
    let slack = 6 << 20;
    let before = anonymous();
    // A little more than fills a bucket: the next one is as large as all before.
    let rows = 64 * ((1 << 15) - 1) + 100;
    let arena = AppendArena::<u8>::new(64);
    arena.append_with(rows, |i, row| row.fill(u8::try_from(i % 251).unwrap()));
    let used = anonymous() - before;
    assert!(used.abs_diff(arena.bytes()) < slack, "{used} bytes in memory, {} counted", arena.bytes());
    assert!(arena.bytes() - rows * 64 < slack, "{} counted for {} used", arena.bytes(), rows * 64);

    let before = anonymous();
    let zeroed = Zeroed::<AtomicU64>::new(16 << 20);
    assert!(zeroed.iter().step_by(512).all(|zero| zero.load(Relaxed) == 0));
    zeroed[1 << 20].store(1, Relaxed);
    let used = anonymous() - before;
    assert!(used < slack, "{used} bytes in memory for one number");
}
