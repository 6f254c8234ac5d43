//! The whole engine on a disk that fails: at every operation of every workload the power is lost or the process dies, with
//! each fate (within bounds) of what was not synced, and again during the recovery. What was acknowledged is there, what
//! was not is there whole or not at all, and nothing else is.
//!
//! `cargo test` runs a quick slice; `make crash` sets NOPOKEDB_CRASH=long, tries all subsets of up to ten unsynced parts,
//! loses power again at each point of every other recovery, and adds up the lines "crash-states:".
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::needless_pass_by_value)] // closures and arguments of tests are used once

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod broken;
mod faults;
mod idle;
mod purges;
mod readers;
mod repairs;
mod sqlite;
mod table;
mod workload;
mod workloads;
