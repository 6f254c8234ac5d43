//! A real process that writes is killed with SIGKILL at any moment, again and again, on the real file system: what it told
//! us was done is there, what it was doing is there whole or not at all, and nothing else is.
//!
//! Two threads of the process write at once (`support/writer.rs`). `cargo test` kills some; NOPOKEDB_CRASH=long
//! (`make crash`) a thousand.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::writer::{Oracle, one_kill, write_if_asked};
use support::{Rng, long};

#[test]
fn writer_process() {
    write_if_asked();
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    let (lives, kills) = if long() { (20, 55) } else { (1, 15) };
    let (mut done, mut acked) = (0, 0);
    for life in 0..lives {
        let (dir, mut rng, mut oracle) = (tempfile::tempdir().unwrap(), Rng(life), Oracle::new());
        for kill in 1..=kills {
            one_kill(dir.path(), &mut oracle, &mut rng);
            done += 1;
            // Often the next writer itself meets what the killed one left.
            if rng.chance(50) || kill == kills || oracle.open() >= 4 {
                oracle.verify(dir.path());
            }
        }
        acked += oracle.acked;
    }
    println!("kills: {done}, acknowledged writes among them: {acked}");
    assert!(acked > done * 5, "hardly anything was written");
}
