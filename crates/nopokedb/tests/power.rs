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
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use support::writer::{Oracle, Writer, write_if_asked};
use support::{Rng, long};
use tempfile::TempDir;

#[test]
fn writer_process() {
    write_if_asked();
}

/// Runs a command; its standard error if it fails.
fn run(command: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(command).args(args).output().map_err(|e| format!("{command}: {e}"))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        false => Err(format!("{command}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

/// A file system of its own.
struct Volume {
    room: TempDir,
    mounted: bool,
}

impl Volume {
    /// An empty file system of this type, mounted, or why there is none.
    fn make(kind: &str) -> Result<Volume, String> {
        let shm = Path::new("/dev/shm");
        let room = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        fs::create_dir(room.path().join("mounted")).unwrap();
        let mut volume = Volume { room, mounted: false };
        let (bytes, quiet): (u64, &[&str]) = match kind {
            "xfs" => (320 << 20, &["-q"]),
            "btrfs" => (192 << 20, &["-q"]),
            _ => (96 << 20, &["-q", "-F"]),
        };
        fs::File::create(volume.image()).unwrap().set_len(bytes).unwrap();
        let image = volume.image();
        run(&format!("mkfs.{kind}"), &[quiet, &[image.to_str().unwrap()]].concat())?;
        volume.mount()?;
        Ok(volume)
    }

    fn image(&self) -> PathBuf {
        self.room.path().join("image")
    }

    fn mounted(&self) -> PathBuf {
        self.room.path().join("mounted")
    }

    fn mount(&mut self) -> Result<(), String> {
        let (image, mounted) = (self.image(), self.mounted());
        run("mount", &["-o", "loop", image.to_str().unwrap(), mounted.to_str().unwrap()])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        let give_up = Instant::now() + Duration::from_secs(30);
        while let Err(e) = run("umount", &[self.mounted().to_str().unwrap()]) {
            assert!(Instant::now() < give_up, "{e}");
            park_timeout(Duration::from_millis(20));
        }
        self.mounted = false;
    }

    /// A process that, on a line of input, stops the file system at once: nothing that only the page cache has will ever reach
    /// the device. With `journal`, the names and lengths in its journal's memory still do, without the bytes they are about.
    fn stopper(&self, journal: bool) -> Child {
        // A system call that std has no name for, and a test no `unsafe` for.
        let order = "import fcntl, os, struct, sys\n\
                     root = os.open(sys.argv[1], os.O_RDONLY)\n\
                     print('ready', flush=True)\n\
                     sys.stdin.readline()\n\
                     fcntl.ioctl(root, 0x8004587D, struct.pack('I', int(sys.argv[2])))";
        let mut stopper = Command::new("python3")
            .args(["-c", order, self.mounted().to_str().unwrap(), if journal { "1" } else { "2" }])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        stopper.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        stopper
    }

    /// Writes that reached the device so far.
    fn device_writes(&self) -> String {
        let devices = run("losetup", &["-j", self.image().to_str().unwrap()]).unwrap();
        let device = devices.split(':').next().unwrap().trim_start_matches("/dev/").to_owned();
        let stat = fs::read_to_string(format!("/sys/block/{device}/stat")).unwrap();
        // Completed writes, discards and flushes, and requests in flight.
        let fields: Vec<&str> = stat.split_whitespace().collect();
        [4, 8, 11, 15].map(|i| *fields.get(i).unwrap_or(&"0")).join(" ")
    }

    /// What is on the device while the writer stands still.
    fn device(&self, to: &Path) {
        loop {
            let before = self.device_writes();
            run("cp", &["--sparse=always", self.image().to_str().unwrap(), to.to_str().unwrap()]).unwrap();
            if self.device_writes() == before {
                return;
            }
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            let _ = run("umount", &["-l", self.mounted().to_str().unwrap()]);
        }
    }
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
        let left = volume.room.path().join("left");
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
