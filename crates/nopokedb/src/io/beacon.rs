//! A beacon on the real disk: a small file that one process writes and all others read, never synced.
//!
//! Two slots of 64 bytes, written in turn, each with a number that counts up and a checksum: whoever reads while one is being
//! written finds the other whole. Each names the machine's start in which it was written, for after the next one the page
//! cache that it spoke of is gone. Bytes: `docs/FORMAT.md`.
//!
//! Invariants:
//! 1. Nothing rests on the file: missing, torn or from before the machine's last start it says nothing.
//! 2. It is written in place and keeps its length, so that a full disk does not stop it.
//!
//! Threading: one process tells (the holder of the writer's lock); any reads.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::lock::boot_id;
use super::vfs::{Beacon, OpenMode, Vfs, VfsFile, Word};

const SLOT: usize = 64;
const SLOTS: usize = 2;
/// How often a read is tried that met two slots being written.
const TRIES: usize = 50;

/// The start of the machine, as slots name it.
fn boot() -> [u8; 16] {
    static BOOT: OnceLock<[u8; 16]> = OnceLock::new();
    *BOOT.get_or_init(|| boot_id().map_or([0; 16], |id| xxh3_128(id.as_bytes()).to_le_bytes()))
}

/// A slot's bytes: number 8, boot 16, word 32, checksum 8.
fn encode(number: u64, boot: [u8; 16], word: &Word) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&number.to_le_bytes());
    slot[8..24].copy_from_slice(&boot);
    slot[24..56].copy_from_slice(word);
    let check = xxh3_64(&slot[..56]);
    slot[56..].copy_from_slice(&check.to_le_bytes());
    slot
}

/// The number, the boot and the word of a whole slot.
fn decode(slot: &[u8]) -> Option<(u64, [u8; 16], Word)> {
    let number = u64::from_le_bytes(slot.get(..8)?.try_into().ok()?);
    let check = u64::from_le_bytes(slot.get(56..SLOT)?.try_into().ok()?);
    let whole = check == xxh3_64(&slot[..56]);
    whole.then_some((number, slot[8..24].try_into().ok()?, slot[24..56].try_into().ok()?))
}

/// The newest whole slot.
fn newest(file: &dyn VfsFile) -> io::Result<Option<(u64, [u8; 16], Word)>> {
    let mut bytes = [0; SLOT * SLOTS];
    let n = file.read_at(&mut bytes, 0)?;
    Ok(bytes[..n].chunks(SLOT).filter_map(decode).max_by_key(|slot| slot.0))
}

/// What the beacon `path` says, if it was said since the machine was started.
pub(super) fn read(vfs: &dyn Vfs, path: &Path) -> io::Result<Option<Word>> {
    let file = match vfs.open(path, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for _ in 0..TRIES {
        if let Some((_, said, word)) = newest(&*file)? {
            return Ok((said == boot()).then_some(word));
        }
        if file.len()? == 0 {
            return Ok(None);
        }
        thread::yield_now();
    }
    Ok(None)
}

/// The telling end.
#[derive(Debug)]
pub(super) struct FileBeacon {
    file: Arc<dyn VfsFile>,
    number: AtomicU64,
}

impl FileBeacon {
    pub(super) fn open(vfs: &dyn Vfs, path: &Path) -> io::Result<FileBeacon> {
        let file = match vfs.open(path, OpenMode::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => vfs.open(path, OpenMode::CreateNew)?,
            other => other?,
        };
        let number = newest(&*file)?.map_or(0, |slot| slot.0);
        Ok(FileBeacon { file, number: AtomicU64::new(number) })
    }
}

impl Beacon for FileBeacon {
    fn tell(&self, word: &Word) -> io::Result<()> {
        let number = self.number.fetch_add(1, Relaxed).wrapping_add(1);
        self.file.write_all_at(&[&encode(number, boot(), word)], number % SLOTS as u64 * SLOT as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk::Disk;

    #[test]
    fn the_last_word_is_heard_and_outlives_whoever_said_it() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("ACKED");
        assert_eq!(Disk.told(&path).unwrap(), None, "nobody has spoken");
        for life in 0..3u8 {
            let beacon = Disk.beacon(&path).unwrap();
            for word in 0..5 {
                beacon.tell(&[life * 16 + word; 32]).unwrap();
                assert_eq!(Disk.told(&path).unwrap(), Some([life * 16 + word; 32]));
            }
        }
        assert_eq!(Disk.told(&path).unwrap(), Some([36; 32]));
    }

    #[test]
    fn a_word_that_is_damaged_or_from_before_the_last_start_of_the_machine_says_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("ACKED");
        Disk.beacon(&path).unwrap().tell(&[7; 32]).unwrap();
        let file = Disk.open(&path, OpenMode::Write).unwrap();
        let good = encode(1, boot(), &[7; 32]);
        for byte in 0..SLOT {
            let mut bad = good;
            bad[byte] ^= 1;
            file.write_all_at(&[&bad], SLOT as u64).unwrap();
            assert_eq!(Disk.told(&path).unwrap(), None, "byte {byte}");
        }
        file.write_all_at(&[&encode(9, [1; 16], &[7; 32])], SLOT as u64).unwrap();
        assert_eq!(Disk.told(&path).unwrap(), None, "another start");
        Disk.beacon(&path).unwrap().tell(&[8; 32]).unwrap();
        assert_eq!(Disk.told(&path).unwrap(), Some([8; 32]), "told anew");
    }

    #[test]
    fn readers_hear_words_in_order_while_they_are_said() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("ACKED");
        let beacon = Disk.beacon(&path).unwrap();
        let word = |n: u64| std::array::from_fn(|i| n.to_le_bytes()[i % 8]);
        beacon.tell(&word(1)).unwrap();
        thread::scope(|s| {
            s.spawn(|| (2..20_000).for_each(|n| beacon.tell(&word(n)).unwrap()));
            s.spawn(|| {
                let mut last = 0;
                while last < 19_999 {
                    let heard = Disk.told(&path).unwrap().expect("there is always a whole word");
                    let n = u64::from_le_bytes(heard[..8].try_into().unwrap());
                    assert!(heard == word(n) && n >= last);
                    last = n;
                }
            });
        });
    }
}
