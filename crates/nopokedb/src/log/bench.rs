//! A door for `examples/log_bench.rs`: the log alone, timed. Not public API.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Batch, CollectionEntry, FrameBuilder, Log, LogOptions, NewRowRef, RowKind};
use crate::error::Result;
use crate::io::disk::Disk;
use crate::types::{CollectionId, Metric, RecordId, Tokenizer};

/// A log on the real disk with one collection.
#[derive(Debug)]
pub struct LogBench {
    log: Log,
    dim: u16,
    next_id: u64,
}

impl LogBench {
    pub fn create(dir: &Path, dim: u16) -> Result<LogBench> {
        let (id, name, metric) = (CollectionId::DEFAULT, "default".to_owned(), Metric::Cosine);
        let entry = CollectionEntry {
            id,
            name,
            dim,
            metric,
            m: 16,
            ef_construction: 200,
            next_id: 0,
            model: None,
            tokenizer: Tokenizer::default(),
        };
        let log = Log::create(Arc::new(Disk), dir, LogOptions::new(&Disk, 64 << 20), &[entry])?;
        Ok(LogBench { log, dim, next_id: 0 })
    }

    /// Encodes and appends one batch of `rows` rows; returns the time of each, and the bytes written.
    pub fn append(&mut self, rows: usize) -> Result<(Duration, Duration, u64)> {
        let vectors: Vec<f32> = (0..rows * usize::from(self.dim)).map(|i| i as f32).collect();
        let start = Instant::now();
        let batch = self.encode(&vectors)?;
        let encoded = start.elapsed();
        let start = Instant::now();
        let bytes = batch.len();
        self.log.append(&[batch])?;
        Ok((encoded, start.elapsed(), bytes.next_multiple_of(4096)))
    }

    fn encode(&mut self, vectors: &[f32]) -> Result<Batch> {
        let mut builder = FrameBuilder::new(CollectionId::DEFAULT, self.dim);
        builder.reserve(vectors.len() / usize::from(self.dim), 32 * vectors.len() / usize::from(self.dim));
        for vector in vectors.chunks_exact(usize::from(self.dim)) {
            let (kind, id) = (RowKind::Put, RecordId(self.next_id));
            let metadata = Some(r#"{"source":"a","n":12345}"#);
            let row = NewRowRef { kind, id, key: None, metadata, document: None, vector: Some(vector), expires_ms: 0 };
            builder.push(&row)?;
            self.next_id += 1;
        }
        Ok(builder.finish())
    }
}
