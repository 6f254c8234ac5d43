//! What an import brought over and what it could not, for people.

use std::fmt::{self, Display};

/// Ids in ascending order, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    ranges: Vec<(u64, u64)>,
    count: u64,
}

impl Ids {
    /// Takes in an id above all that are there.
    pub(crate) fn push(&mut self, id: u64) {
        debug_assert!(self.ranges.last().is_none_or(|(_, last)| *last < id), "ids ascend");
        self.count += 1;
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => self.ranges.push((id, id)),
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }
}

/// As `0-4, 9`.
impl Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// What the import of a directory of version 0.5.1 brought over. `Display` is what its note, `IMPORT.txt`, says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Rows that are here now.
    pub rows: u64,
    /// Of these, rows that waited in the old log and were in no saved index.
    pub from_log: u64,
    /// Ids that had been deleted, and stay so.
    pub deleted: u64,
    /// Whether vectors came as 0.5.1 had normalised them (cosine). Rows from the old log have their own length.
    pub normalised: bool,
    /// Rows that have no metadata: upserted without, or deleted after the last save before a crash.
    pub without_metadata: Ids,
    /// Rows whose metadata is no JSON object of this version (a list, NaN, a huge integer); it is kept, as text, under the
    /// key `json`.
    pub metadata_as_text: Ids,
    /// Left out: metadata without a vector. 0.5.1 lost in a crash what it had not saved.
    pub without_vector: Ids,
    /// Left out: vectors with NaN or infinity.
    pub not_finite: Ids,
    /// Left out: rows with a negative id.
    pub negative_ids: u64,
    /// Lines of the old log that were passed over, as 0.5.1 did: unreadable, or of another dimension.
    pub skipped_lines: u64,
}

impl Imported {
    /// One line for a warning or a log.
    pub fn summary(&self) -> String {
        let mut line = format!("imported {} rows that nopokedb 0.5 wrote; its files are as they were", self.rows);
        let left_out = self.without_vector.len() + self.not_finite.len() + self.negative_ids;
        if left_out > 0 {
            line += &format!("; {left_out} rows could not be imported, most often because 0.5 had lost their vectors");
        }
        if self.normalised {
            line += "; cosine vectors have length 1, as 0.5 stored them";
        }
        line + "; details are in IMPORT.txt"
    }
}

impl Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "This directory was written by nopokedb 0.5 and has been imported.")?;
        writeln!(
            f,
            "hnsw_index.bin, metadata.db and oplog.jsonl are as they were and no longer used: they may be removed."
        )?;
        writeln!(f, "\nrows imported: {}", self.rows)?;
        writeln!(f, "of these, from the log of unfinished adds: {}", self.from_log)?;
        writeln!(f, "ids that were deleted, and stay so: {}", self.deleted)?;
        if self.normalised {
            writeln!(
                f,
                "\n0.5 stored cosine vectors divided by their length. The original lengths cannot be given back;"
            )?;
            writeln!(f, "distances and scores do not depend on them.")?;
        }
        let lists = [
            (&self.without_metadata, "imported without metadata: 0.5 had none (a crash may have lost their deletion)"),
            (
                &self.metadata_as_text,
                "imported with metadata that is no JSON object here, kept as text under the key \"json\"",
            ),
            (
                &self.without_vector,
                "NOT imported: metadata without a vector (lost by 0.5 in a crash; or only metadata was upserted)",
            ),
            (&self.not_finite, "NOT imported: the vector holds NaN or infinity"),
        ];
        for (ids, what) in lists.into_iter().filter(|(ids, _)| !ids.is_empty()) {
            writeln!(f, "\n{} rows {what}:\n{ids}", ids.len())?;
        }
        if self.negative_ids > 0 {
            writeln!(f, "\n{} rows NOT imported: a negative id", self.negative_ids)?;
        }
        if self.skipped_lines > 0 {
            writeln!(
                f,
                "\n{} lines of oplog.jsonl passed over: unreadable or of another dimension",
                self.skipped_lines
            )?;
        }
        Ok(())
    }
}
