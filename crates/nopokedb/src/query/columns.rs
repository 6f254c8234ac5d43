//! Columns of the fields that filters ask about: made when a field is first asked about, from the rows in the log.
//!
//! Invariants:
//! 1. A column handed out holds at least the rows of the view it was asked for. Rows that come later are added when the
//!    column is next used; old ones are not looked at again, for a slot's metadata never changes.
//! 2. The columns of all collections share one budget (`column_pool.rs`). One that would take more than half of what its
//!    collection alone might is given up, for good: its field is answered by reading rows.
//! 3. A row that compaction dropped has no values. [`Known::lost`] says when the last such row died: views from before
//!    that must not rely on the column for it.
//! 4. Columns belong to one generation's slots and go with it.
//!
//! Threading: a mutex per column while it grows, so that a field is read once however many threads meet it. Lock order: several
//! columns by path, the pool last.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::filter::column::{CHUNK, Column, PartBuilder};
use crate::metadata::view::{Json, Members};
use crate::query::column_pool::{ColumnPool, budget};
use crate::types::{Lsn, Slot};
use crate::vectors::view::View;

/// Bytes of strings in one part.
const MOST_TEXT: usize = 256 << 20;
/// Rows read at a time, so that several threads have something to do.
const PIECE: u32 = CHUNK / 8;
/// More threads than this only wait for memory.
const MOST_THREADS: usize = 4;

/// A column and what is to be known about it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// `None`: given up.
    pub(crate) column: Option<Column>,
    /// When the last row died whose bytes were gone before the column was made.
    pub(crate) lost: Lsn,
}

impl Default for Known {
    fn default() -> Self {
        Known { column: Some(Column::default()), lost: Lsn(0) }
    }
}

/// The columns of one collection in memory.
#[derive(Debug)]
pub(crate) struct Columns {
    pool: ColumnPool,
    owner: u64,
}

impl Drop for Columns {
    fn drop(&mut self) {
        self.pool.forget(self.owner);
    }
}

impl Columns {
    /// No columns yet; they will be among those of `pool`.
    pub(crate) fn new(pool: &ColumnPool) -> Columns {
        Columns { pool: pool.clone(), owner: pool.owner() }
    }

    /// The columns of `paths` (sorted, none twice), for the rows of `view`.
    pub(crate) fn get(&self, paths: &[&[String]], view: &View<'_>) -> Result<Vec<Known>> {
        let listed: Vec<_> = paths.iter().map(|path| self.pool.listed(self.owner, path)).collect();
        let mut held: Vec<MutexGuard<'_, Known>> = listed.iter().map(|known| lock(known)).collect();
        let rows = view.snapshot.len as usize;
        let short = |known: &Known| known.column.as_ref().is_some_and(|column| column.len() < view.snapshot.len);
        let mut behind: Vec<(&[String], &mut Known)> =
            paths.iter().copied().zip(held.iter_mut().map(|known| &mut **known)).filter(|(_, k)| short(k)).collect();
        if !behind.is_empty() {
            extend(&mut behind, view, budget(rows) / 2)?;
        }
        let known: Vec<Known> = held.iter().map(|known| (**known).clone()).collect();
        drop(held);
        self.pool.settle(self.owner, rows, paths.iter().copied().zip(&known));
        Ok(known)
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.pool.bytes(self.owner)
    }
}

/// A panic under the lock leaves a column that lacks rows, which are then added.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds the rows of `view` that the columns lack, in one pass over them.
fn extend(behind: &mut [(&[String], &mut Known)], view: &View<'_>, most: usize) -> Result<()> {
    let lens: Vec<u32> = behind.iter().map(|(_, known)| known.column.as_ref().map_or(0, Column::len)).collect();
    let from = lens.iter().copied().min().unwrap_or(0);
    let pieces = pieces(from..view.snapshot.len);
    // Columns of different lengths are brought to one length first: what they lack is read for each by itself.
    if lens.iter().any(|len| *len != from) {
        return behind.iter_mut().try_for_each(|one| extend(std::slice::from_mut(one), view, most));
    }
    let paths: Vec<&[String]> = behind.iter().map(|(path, _)| *path).collect();
    // So many pieces at a time that memory in use stays small beside what is kept.
    for pieces in pieces.chunks(2 * MOST_THREADS) {
        for (parts, lost) in read_all(&paths, pieces, view, most.min(MOST_TEXT))? {
            for ((_, known), part) in behind.iter_mut().zip(parts) {
                known.lost = known.lost.max(lost);
                match (part, &mut known.column) {
                    (Some(part), Some(column)) if column.bytes() <= most => column.push(part),
                    _ => known.column = None,
                }
            }
        }
    }
    Ok(())
}

/// Ranges of at most [`PIECE`] rows that lie within chunks.
fn pieces(rows: Range<u32>) -> Vec<Range<u32>> {
    let mut pieces = Vec::new();
    let mut from = rows.start;
    while from < rows.end {
        let end = (u64::from(from / PIECE) + 1) * u64::from(PIECE);
        let end = u32::try_from(end).map_or(rows.end, |end| end.min(rows.end));
        pieces.push(from..end);
        from = end;
    }
    pieces
}

/// A part for each path (`None` if it holds too much text), and when the last row died that was gone.
type Piece = (Vec<Option<crate::filter::column::Part>>, Lsn);

/// Reads the pieces, on several threads where there are several.
fn read_all(paths: &[&[String]], pieces: &[Range<u32>], view: &View<'_>, most_text: usize) -> Result<Vec<Piece>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = pieces.len().min(cores).min(MOST_THREADS);
    if threads <= 1 {
        return pieces.iter().map(|rows| read(paths, rows, view, most_text)).collect();
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((i, rows)) = Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, pieces.get(i)?))) {
                    let piece = read(paths, rows, view, most_text);
                    lock(&done).push((i, piece));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, piece)| piece).collect()
}

fn read(paths: &[&[String]], rows: &Range<u32>, view: &View<'_>, most_text: usize) -> Result<Piece> {
    let mut builders: Vec<_> = paths.iter().map(|path| Some(PartBuilder::new(path, rows, most_text))).collect();
    let mut lost = Lsn(0);
    for slot in rows.clone() {
        let read = view.with_metadata(Slot(slot), |text| {
            let Some(Json::Object(members)) = text.map(Json::of) else { return };
            add(&mut builders, slot, members);
        })?;
        if read.is_none() {
            lost = lost.max(view.rows.died(Slot(slot)));
        }
    }
    Ok((builders.into_iter().map(|builder| builder?.finish()).collect(), lost))
}

fn add(builders: &mut [Option<PartBuilder>], slot: u32, members: Members<'_>) {
    for place in builders {
        if let Some(builder) = place {
            builder.add(slot, members);
            if builder.is_full() {
                *place = None;
            }
        }
    }
}
