//! Caches written ahead of need, so that the next opening is fast: SQLite's checkpoint and the index images.
//!
//! Invariants:
//! 1. An image reflects rows that were durable before it was begun, and appears under its name only when it is durable
//!    itself. Its name carries the LSN of its last slot; the highest is the newest.
//! 2. An older image is removed only after a newer one is durable. A crash in between leaves two, and the next writer
//!    removes the older.
//! 3. Whatever is wrong with an image, the answer is to set it aside and to build from the log.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use crate::engine::{CollectionCore, Engine};
use crate::error::{IoContext, Result};
use crate::index::{Image, ImageStamp, Index, IndexParams};
use crate::io::atomic::replace;
use crate::io::vfs::{Entry, OpenMode, Vfs};
use crate::types::{CollectionId, Lsn, Slot};
use crate::vectors::Visibility;

/// Fewer slots than this are read from the log as fast as from an image.
const MIN_SLOTS: usize = 256;
/// An image is due when this many slots, and a quarter of the graph, were absorbed since the last one.
const MIN_NEW_SLOTS: u32 = 50_000;

/// The images in a directory. It is listed once for all collections: there may be many of both.
#[derive(Debug, Default)]
pub(crate) struct Images {
    newest_first: HashMap<CollectionId, Vec<Lsn>>,
}

impl Images {
    /// What is in the folder of images of the database in `dir`.
    pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> Result<Images> {
        let (folder, mut images) = (dir.join("index"), Images::default());
        if vfs.kind(&folder).context("look at", &folder)?.is_none() {
            return Ok(images);
        }
        for entry in vfs.list(&folder).context("list", &folder)? {
            if let Some((collection, lsn)) = parse_name(&entry.name) {
                images.newest_first.entry(collection).or_default().push(lsn);
            }
        }
        images.newest_first.values_mut().for_each(|lsns| lsns.sort_unstable_by(|a, b| b.cmp(a)));
        Ok(images)
    }

    fn of(&self, collection: CollectionId) -> &[Lsn] {
        self.newest_first.get(&collection).map_or(&[], Vec::as_slice)
    }
}

fn name_of(collection: CollectionId, lsn: Lsn) -> String {
    format!("{:08x}-{:016x}.idx", collection.0, lsn.0)
}

/// Whose image a name stands for, and of when.
fn parse_name(name: &str) -> Option<(CollectionId, Lsn)> {
    let (collection, lsn) = name.strip_suffix(".idx")?.split_once('-')?;
    let collection = CollectionId(u32::from_str_radix(collection, 16).ok()?);
    let lsn = Lsn(u64::from_str_radix(lsn, 16).ok()?);
    (name == name_of(collection, lsn)).then_some((collection, lsn))
}

/// Whose directory and rows an image belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageOf<'a> {
    pub(crate) vfs: &'a dyn Vfs,
    pub(crate) dir: &'a Path,
    pub(crate) database: [u8; 16],
    pub(crate) collection: CollectionId,
    /// Nothing is removed, useless as it may be.
    pub(crate) read_only: bool,
}

impl ImageOf<'_> {
    fn folder(&self) -> PathBuf {
        self.dir.join("index")
    }

    pub(crate) fn path(&self, lsn: Lsn) -> PathBuf {
        self.folder().join(name_of(self.collection, lsn))
    }

    fn stamp(&self, lsn: Lsn) -> ImageStamp {
        ImageStamp { database: self.database, collection: self.collection, lsn }
    }

    /// The LSNs of this collection's images, newest first: those of `listed` that are there still, and the one that was
    /// `written` last.
    pub(crate) fn found(&self, listed: &Images, written: Lsn) -> Result<Vec<Lsn>> {
        let mut found: Vec<Lsn> = listed.of(self.collection).iter().copied().filter(|lsn| *lsn != written).collect();
        found.extend(Some(written).filter(|lsn| *lsn != Lsn(0)));
        found.sort_unstable_by(|a, b| b.cmp(a));
        let there = |lsn: Lsn| {
            let path = self.path(lsn);
            Ok(self.vfs.kind(&path).context("look at", &path)?.is_some().then_some(lsn))
        };
        found.into_iter().filter_map(|lsn| there(lsn).transpose()).collect()
    }

    /// The newest of the `listed` images that is whole and reflects nothing beyond `last`. The others are removed.
    pub(crate) fn load(&self, listed: &Images, params: &IndexParams, last: Lsn) -> Result<Option<(Lsn, Image)>> {
        for &lsn in listed.of(self.collection) {
            let path = self.path(lsn);
            match Index::read_image(self.vfs, &path, self.stamp(last), params) {
                Ok(image) => return Ok(Some((lsn, image))),
                Err(_) => self.remove(lsn)?,
            }
        }
        Ok(None)
    }

    /// Removes an image that is of no use any more.
    pub(crate) fn remove(&self, lsn: Lsn) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let path = self.path(lsn);
        self.vfs.remove_file(&path).context("remove", &path)
    }

    /// What these images take on the disk.
    fn bytes(&self, found: &[Lsn]) -> Result<u64> {
        let length = |lsn: &Lsn| {
            let path = self.path(*lsn);
            self.vfs.open(&path, OpenMode::Read).and_then(|file| file.len()).context("read the length of", &path)
        };
        found.iter().map(length).sum()
    }

    /// Copies the image of `lsn` to another directory; its bytes, or `None` if it is there already.
    pub(crate) fn copy(&self, to: &ImageOf<'_>, lsn: Lsn) -> Result<Option<u64>> {
        let (path, target) = (self.path(lsn), to.path(lsn));
        let file = self.vfs.open(&path, OpenMode::Read).context("open", &path)?;
        let len = file.len().context("read the length of", &path)?;
        if self.vfs.open(&target, OpenMode::Read).and_then(|there| there.len()).is_ok_and(|there| there == len) {
            return Ok(None);
        }
        let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        replace(self.vfs, &to.folder(), &name, |copy| {
            let (mut buf, mut at) = (vec![0; 1 << 20], 0);
            while at < len {
                let n = file.read_at(&mut buf, at)?;
                if n == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                copy.write_all_at(&[&buf[..n]], at)?;
                at += n as u64;
            }
            Ok(())
        })?;
        Ok(Some(len))
    }

    /// Reads all images through: how many there are, and what is wrong with them. An image must hold every live row up to
    /// its LSN, or the next opening would not use it.
    pub(crate) fn audit(
        &self,
        listed: &Images,
        (collection, written): (&CollectionCore, Lsn),
        last: Lsn,
    ) -> Result<(u64, Vec<String>)> {
        let (mut images, mut wrong) = (0, Vec::new());
        let generation = collection.generation();
        let view = generation.stored();
        for lsn in self.found(listed, written)? {
            images += 1;
            match Index::read_image(self.vfs, &self.path(lsn), self.stamp(last), generation.index.params()) {
                Ok(image) => {
                    let missing = (0..view.snapshot.len)
                        .map(Slot)
                        .filter(|&slot| view.is_live(slot) && generation.rows.lsn(slot) <= lsn)
                        .filter(|&slot| image.lsns.binary_search(&generation.rows.lsn(slot).0).is_err())
                        .count();
                    if missing > 0 {
                        let path = self.path(lsn);
                        wrong
                            .push(format!("{} lacks {missing} rows; the next opening will not use it", path.display()));
                    }
                }
                Err(e) => wrong.push(e.message().to_owned()),
            }
        }
        Ok((images, wrong))
    }

    /// Writes the image of `collection`, unless it is small or on the disk already.
    fn write(&self, listed: &Images, collection: &CollectionCore) -> Result<()> {
        let mut written = collection.image_lsn.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_if_newer(listed, collection, &mut written)
    }

    /// As [`ImageOf::write`], for who has made sure that nobody else writes one; `written` is the image that is there.
    fn write_if_newer(&self, listed: &Images, collection: &CollectionCore, written: &mut Lsn) -> Result<()> {
        let generation = collection.generation();
        let lsns: Vec<u64> = (0..generation.view().snapshot.len).map(|s| generation.rows.lsn(Slot(s)).0).collect();
        let lsn = Lsn(lsns.last().copied().unwrap_or_default());
        let least = MIN_SLOTS.min(generation.index.params().graph_from as usize);
        if lsns.len() < least || *written == lsn {
            return Ok(());
        }
        // The folder's name is not synced: losing it loses a cache, while a failed sync of the database's own directory would
        // leave no name in it to be relied upon.
        self.vfs.create_dir_all(&self.folder()).context("create the directory", &self.folder())?;
        generation.index.write_image(self.vfs, &self.path(lsn), self.stamp(lsn), &lsns)?;
        let before = std::mem::replace(written, lsn);
        self.found(listed, before)?.into_iter().filter(|&other| other != lsn).try_for_each(|other| self.remove(other))
    }
}

/// Removes images that a crash left half-written, and those of collections that are not there any more. For an opening: nobody
/// writes images yet.
pub(crate) fn remove_leftover_images(
    vfs: &dyn Vfs,
    dir: &Path,
    collections: &BTreeMap<CollectionId, Arc<CollectionCore>>,
) -> Result<()> {
    remove_images_but(vfs, dir, &|id| id.is_some_and(|id| collections.contains_key(&id)))
}

/// Removes the images of collections that are not to be kept; `None` stands for what is no whole image.
fn remove_images_but(vfs: &dyn Vfs, dir: &Path, keep: &dyn Fn(Option<CollectionId>) -> bool) -> Result<()> {
    let folder = dir.join("index");
    if vfs.kind(&folder).context("look at", &folder)?.is_none() {
        return Ok(());
    }
    for Entry { name, .. } in vfs.list(&folder).context("list", &folder)? {
        let id = name.strip_suffix(".idx").and_then(|n| u32::from_str_radix(n.split_once('-')?.0, 16).ok());
        if !keep(id.map(CollectionId)) {
            let path = folder.join(&name);
            vfs.remove_file(&path).context("remove", &path)?;
        }
    }
    Ok(())
}

/// Removes what is in the folder of images, if there is one, for good.
pub(crate) fn remove_all(vfs: &dyn Vfs, folder: &Path) -> Result<()> {
    if vfs.kind(folder).context("look at", folder)?.is_none() {
        return Ok(());
    }
    for entry in vfs.list(folder).context("list", folder)? {
        let path = folder.join(&entry.name);
        vfs.remove_file(&path).context("remove", &path)?;
    }
    vfs.sync_dir(folder).context("sync the directory", folder)
}

impl Engine {
    /// Writes the caches: SQLite first, then the images.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let sqlite = self.applier.checkpoint();
        let database = self.place_of_images()?;
        let listed = Images::list(&*self.vfs, self.dir())?;
        for collection in self.all_collections() {
            self.image_of(database, &collection).write(&listed, &collection)?;
        }
        sqlite
    }

    /// Removes all index images, and what crashes left of others; the next checkpoint writes new ones. Durable when it returns.
    pub(crate) fn remove_images(&self) -> Result<()> {
        self.place_of_images()?;
        let collections = self.all_collections();
        let mut written = Vec::with_capacity(collections.len());
        for collection in &collections {
            // Held until all are gone: nobody writes one meanwhile.
            written.push(collection.image_lsn.lock().unwrap_or_else(PoisonError::into_inner));
        }
        written.iter_mut().for_each(|lsn| **lsn = Lsn(0));
        remove_all(&*self.vfs, &self.dir().join("index"))
    }

    /// Has SQLite's file built again from the log, and writes the manifests anew.
    pub(crate) fn rebuild_caches(&self) -> Result<()> {
        self.applier.rebuild("a repair asks for it");
        self.wait_applied()?;
        self.lock_log().publish_manifest(2)
    }

    /// Writes images anew that are far larger than what they would have now, and removes those of dropped collections.
    pub(crate) fn shrink_images(&self) -> Result<()> {
        let database = self.place_of_images()?;
        // A file that is being written belongs to a collection that is there.
        remove_images_but(&*self.vfs, self.dir(), &|id| {
            id.is_none_or(|id| self.with_collections(|c| c.contains_key(&id)))
        })?;
        let listed = Images::list(&*self.vfs, self.dir())?;
        for collection in self.all_collections() {
            let images = self.image_of(database, &collection);
            let mut written = collection.image_lsn.lock().unwrap_or_else(PoisonError::into_inner);
            let found = images.found(&listed, *written)?;
            let memory = collection.generation().index.memory();
            let worth = (memory.graph + memory.codes) as u64;
            if images.bytes(&found)? > 2 * worth + self.spare() {
                *written = Lsn(0);
                found.into_iter().try_for_each(|lsn| images.remove(lsn))?;
                images.write_if_newer(&listed, &collection, &mut written)?;
            }
        }
        Ok(())
    }

    /// Writes the index images of those of these collections that have grown much since their last.
    pub(crate) fn checkpoint_if_due(&self, busy: &[Arc<CollectionCore>]) -> Result<()> {
        for collection in busy {
            let generation = collection.generation();
            let graph_len = generation.index.graph_len();
            let written = *collection.image_lsn.lock().unwrap_or_else(PoisonError::into_inner);
            let new = (0..graph_len).rev().take_while(|&slot| generation.rows.lsn(Slot(slot)) > written).count();
            if new >= MIN_NEW_SLOTS.max(graph_len / 4) as usize {
                let database = self.place_of_images()?;
                let listed = Images::list(&*self.vfs, self.dir())?;
                self.image_of(database, collection).write(&listed, collection)?;
            }
        }
        Ok(())
    }

    /// The database's identity, if its directory is still where it was opened.
    fn place_of_images(&self) -> Result<[u8; 16]> {
        let log = self.lock_log();
        log.check_in_place()?;
        Ok(log.db_uuid())
    }

    pub(crate) fn image_of(&self, database: [u8; 16], collection: &CollectionCore) -> ImageOf<'_> {
        ImageOf { vfs: &*self.vfs, dir: self.dir(), database, collection: collection.id, read_only: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_this_version_writes_are_those_of_images() {
        let (collection, lsn) = (CollectionId(0x1F), Lsn(0xAB));
        assert_eq!(name_of(collection, lsn), "0000001f-00000000000000ab.idx");
        assert_eq!(parse_name("0000001f-00000000000000ab.idx"), Some((collection, lsn)));
        for name in [
            "1f-ab.idx",
            "0000001F-00000000000000ab.idx",
            "+000001f-00000000000000ab.idx",
            "10000001f-00000000000000ab.idx",
            "0000001f-00000000000000ab.idx.tmp",
            "0000001f.idx",
            "",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
