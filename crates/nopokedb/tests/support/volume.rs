//! A file system of its own on a loop device, which can be mounted read-only, stopped at once, or copied as it lies on the
//! device. It needs root, loop devices and mkfs.
#![allow(clippy::disallowed_methods, reason = "makes whole file systems")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Runs a command; its standard error if it fails.
pub fn run(command: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(command).args(args).output().map_err(|e| format!("{command}: {e}"))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        false => Err(format!("{command}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

/// A file system of its own.
pub struct Volume {
    room: TempDir,
    mounted: bool,
}

impl Volume {
    /// An empty file system of this type, mounted, or why there is none.
    pub fn make(kind: &str) -> Result<Volume, String> {
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

    pub fn image(&self) -> PathBuf {
        self.beside("image")
    }

    pub fn mounted(&self) -> PathBuf {
        self.beside("mounted")
    }

    /// A path beside the file system's image and the directory where it is mounted.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    pub fn mount(&mut self) -> Result<(), String> {
        self.mount_as("loop")
    }

    /// Mounts it so that nobody can write to it.
    pub fn mount_read_only(&mut self) -> Result<(), String> {
        self.mount_as("loop,ro")
    }

    fn mount_as(&mut self, options: &str) -> Result<(), String> {
        let (image, mounted) = (self.image(), self.mounted());
        run("mount", &["-o", options, image.to_str().unwrap(), mounted.to_str().unwrap()])?;
        self.mounted = true;
        Ok(())
    }

    pub fn unmount(&mut self) {
        let give_up = Instant::now() + Duration::from_secs(30);
        while let Err(e) = run("umount", &[self.mounted().to_str().unwrap()]) {
            assert!(Instant::now() < give_up, "{e}");
            park_timeout(Duration::from_millis(20));
        }
        self.mounted = false;
    }

    /// A process that, on a line of input, stops the file system at once: nothing that only the page cache has will ever reach
    /// the device. With `journal`, the names and lengths in its journal's memory still do, without the bytes they are about.
    pub fn stopper(&self, journal: bool) -> Child {
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
    pub fn device(&self, to: &Path) {
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
