//! The log of 0.5.1 (`oplog.jsonl`): one JSON object a line for each row of an `add` that had not returned.
//!
//! The old program cleared it after each `add`, so what is in it was never acknowledged; a line that cannot be read (torn by
//! a crash) or has another dimension it passed over, and so do we, counting them.

use std::collections::BTreeMap;
use std::str;

use super::json;
use super::window::Window;
use crate::error::Result;

/// Bytes looked at at once while looking for the end of a line.
const PIECE: u64 = 64 << 10;
/// A row of 65,535 numbers and the largest metadata fit.
const MAX_LINE: usize = 256 << 20;

/// The rows that wait in the log.
#[derive(Debug, Default)]
pub(super) struct Pending {
    file: Option<Window>,
    /// Where the first line of each id is: the old program does nothing for a second one.
    lines: BTreeMap<u64, (u64, usize)>,
    /// Lines that were passed over.
    pub(super) skipped: u64,
    /// Ids that this version cannot have: negative ones.
    pub(super) unusable: u64,
    /// A dimension that was passed over.
    pub(super) other_dim: Option<usize>,
}

/// A row in the log.
#[derive(Debug)]
struct Entry {
    id: i64,
    vector: Vec<f32>,
    /// As JSON text.
    metadata: String,
}

impl Pending {
    /// Reads all lines. Vectors stay in the file until they are asked for.
    pub(super) fn read(file: Option<Window>, dim: usize) -> Result<Pending> {
        let mut pending = Pending { file, ..Pending::default() };
        let mut at = 0;
        while let Some((line, len)) = pending.line(at)? {
            match entry(&line) {
                Line::Row(row) if row.vector.len() != dim => {
                    pending.other_dim = Some(row.vector.len());
                    pending.skipped += 1;
                }
                Line::Row(row) => match u64::try_from(row.id) {
                    Ok(id) => drop(pending.lines.entry(id).or_insert((at, line.len()))),
                    Err(_) => pending.unusable += 1,
                },
                Line::Nothing => {}
                Line::Unreadable => pending.skipped += 1,
                Line::Damaged(what) => return Err(pending.damaged(at, what)),
            }
            at += len;
        }
        Ok(pending)
    }

    fn damaged(&self, at: u64, what: &str) -> crate::error::Error {
        self.file.as_ref().expect("a line came from a file").damaged(at, what)
    }

    /// The line that begins at `at`, and its length with its end; `None` at the end of the file.
    fn line(&mut self, at: u64) -> Result<Option<(Vec<u8>, u64)>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let mut line = Vec::new();
        loop {
            let from = at + line.len() as u64;
            let piece = usize::try_from(PIECE.min(file.len() - from)).unwrap_or(0);
            if piece == 0 {
                let len = line.len() as u64;
                return Ok((len > 0).then_some((line, len)));
            }
            let bytes = file.bytes(from, piece)?;
            if let Some(end) = bytes.iter().position(|b| *b == b'\n') {
                line.extend_from_slice(&bytes[..end]);
                let len = line.len() as u64 + 1;
                return Ok(Some((line, len)));
            }
            line.extend_from_slice(bytes);
            if line.len() > MAX_LINE {
                return Err(file.damaged(at, "a line has no end"));
            }
        }
    }

    /// The ids that wait, ascending.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.lines.keys().copied()
    }

    /// Whether `id` waits.
    pub(super) fn contains(&self, id: u64) -> bool {
        self.lines.contains_key(&id)
    }

    /// The highest id that waits.
    pub(super) fn highest(&self) -> Option<u64> {
        self.lines.keys().next_back().copied()
    }

    /// The vector and the metadata's text of an id that waits.
    pub(super) fn row(&mut self, id: u64) -> Result<(Vec<f32>, String)> {
        let (at, len) = self.lines[&id];
        let file = self.file.as_mut().expect("a line came from a file");
        match entry(file.bytes(at, len)?) {
            Line::Row(row) if u64::try_from(row.id) == Ok(id) => Ok((row.vector, row.metadata)),
            _ => Err(file.damaged(at, "the line changed while it was read")),
        }
    }
}

enum Line {
    Row(Entry),
    /// White space, or a record of another kind.
    Nothing,
    Unreadable,
    /// A record of a row that lacks something: 0.5.1 could not open such a directory.
    Damaged(&'static str),
}

fn entry(line: &[u8]) -> Line {
    let Ok(text) = str::from_utf8(line) else { return Line::Unreadable };
    if text.trim_ascii().is_empty() {
        return Line::Nothing;
    }
    let Some(members) = json::members(text) else { return Line::Unreadable };
    // Of a key that is there twice Python takes the last.
    let member = |name: &str| members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value);
    if member("t") != Some("\"add\"") {
        return Line::Nothing;
    }
    let Some(id) = member("id").and_then(|id| id.parse::<i64>().ok()) else {
        return Line::Damaged("the record has no id");
    };
    let Some(vector) = member("vec").and_then(json::numbers) else {
        return Line::Damaged("the record has no vector");
    };
    #[allow(clippy::cast_possible_truncation)]
    // numbers of an f32, written in full; what does not fit becomes infinite, as before
    let vector = vector.into_iter().map(|x| x as f32).collect();
    let metadata = member("md").filter(|text| *text != "null").unwrap_or("{}").to_owned();
    Line::Row(Entry { id, vector, metadata })
}
