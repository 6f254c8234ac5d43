//! The one door to the disk: see [`vfs`] for the contract.

pub(crate) mod disk;
pub(crate) mod mmap;
pub(crate) mod vfs;
