//! Any bytes as a rows: see `crates/nopokedb/src/probe.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nopokedb::testing::probe::rows(bytes));
