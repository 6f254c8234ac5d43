//! Mapped memory.

/// A mapped range of a file.
#[derive(Debug)]
pub struct Region {}
