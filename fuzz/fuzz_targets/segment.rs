//! Any bytes as a segment: see `crates/nopokedb/src/probe.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nopokedb::testing::probe::segment(bytes));
