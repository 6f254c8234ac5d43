//! The one door to the disk: see [`vfs`] for the contract.

pub(crate) mod atomic;
pub(crate) mod beacon;
pub(crate) mod disk;
pub(crate) mod lock;
pub(crate) mod mmap;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod sim;
pub(crate) mod vfs;
