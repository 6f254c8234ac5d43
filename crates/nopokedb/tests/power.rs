//! The power fails under a real process on real file systems: its directory, SQLite's files included, goes back to what had
//! reached the device. What was acknowledged is there, what was under way is there whole or not at all, nothing else is.
//!
//! Each file system lies on a loop device. Its power is cut in two ways: by the kernel's own order to stop at once without
//! writing back what is in the page cache (`EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`), in the middle of whatever the writer's
//! threads are doing; and by taking what is on the device, at a moment when the writer stands still, as all there is. Then
//! the file system is mounted again, replays its own journal, and the database is opened.
//!
//! It needs root, loop devices and mkfs; without them it says so and proves nothing. `cargo test` cuts the power a few times
//! on ext4; `make power` (NOPOKEDB_CRASH=long) hundreds of times on ext4, XFS and Btrfs.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "moves whole file systems about")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::Write;
use std::thread::park_timeout;
use std::time::Duration;

use support::volume::{Volume, run};
use support::writer::{Oracle, Writer, write_if_asked};
use support::{Rng, long};

#[test]
fn writer_process() {
    write_if_asked();
}

fn end(writer: &mut Writer) {
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
}

/// Lets a writer work for a while, cuts its power, and mounts what is left.
fn one_cut(volume: &mut Volume, can_stop: bool, oracle: &mut Oracle, rng: &mut Rng) {
    let db = volume.mounted().join("db");
    let mut writer = oracle.start(&db);
    if rng.chance(15) {
        park_timeout(Duration::from_micros(rng.next() % 20_000));
    } else {
        oracle.hear(&writer, 1 + rng.below(100));
        park_timeout(Duration::from_micros(rng.next() % 2_000));
    }
    // What is told after the order was given counts for nothing: with a real loss of power nobody would have heard it. (The
    // process lives on for a moment, and a sync that was under way may say Ok when the journal is gone already.)
    if can_stop && rng.chance(60) {
        let mut stopper = volume.stopper(rng.chance(40));
        oracle.heard(&writer);
        stopper.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(stopper.wait().unwrap().success(), "the file system stops");
        end(&mut writer);
        volume.unmount();
    } else {
        oracle.heard(&writer);
        run("kill", &["-STOP", &writer.child.id().to_string()]).unwrap();
        let left = volume.beside("left");
        volume.device(&left);
        end(&mut writer);
        volume.unmount();
        fs::rename(left, volume.image()).unwrap();
    }
    oracle.buried(&writer, true);
    volume.mount().expect("the file system is mounted again");
}

fn cut(kind: &str, lives: u64, cuts: u64) {
    let (mut done, mut acked) = (0, 0);
    for life in 0..lives {
        let mut volume = match Volume::make(kind) {
            Ok(volume) => volume,
            Err(why) => return println!("power-losses: 0 on {kind}, SKIPPED: {why}"),
        };
        let (mut rng, mut oracle) = (Rng(life), Oracle::new());
        for n in 1..=cuts {
            one_cut(&mut volume, kind != "btrfs", &mut oracle, &mut rng);
            done += 1;
            if rng.chance(60) || n == cuts || oracle.open() >= 40 {
                oracle.verify(&volume.mounted().join("db"));
            }
        }
        acked += oracle.acked;
        volume.unmount();
    }
    println!("power-losses: {done} on {kind}, acknowledged writes among them: {acked}");
    assert!(acked > done * 3, "hardly anything was written");
}

#[test]
fn a_loss_of_power_under_ext4_loses_nothing_that_was_acknowledged() {
    let (lives, cuts) = if long() { (10, 40) } else { (1, 4) };
    cut("ext4", lives, cuts);
}

#[test]
fn a_loss_of_power_under_xfs_loses_nothing_that_was_acknowledged() {
    if long() {
        cut("xfs", 5, 40);
    }
}

#[test]
fn a_loss_of_power_under_btrfs_loses_nothing_that_was_acknowledged() {
    if long() {
        cut("btrfs", 5, 40);
    }
}
