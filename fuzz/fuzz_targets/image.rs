//! Any bytes as a image: see `crates/nopokedb/src/probe.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nopokedb::testing::probe::image(bytes));
