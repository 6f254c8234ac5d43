//! A whole directory, one of whose files was patched and given right checksums: what a stranger could send.
//! The first byte chooses the file; then follow patches of three bytes (offset, offset, value).
#![no_main]

use nopokedb::testing::probe;
use nopokedb::{Metric, Options};

macro_rules! kept {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../../crates/nopokedb/tests/fixtures/v1/clean/", $name)) as &[u8])),*]
    };
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let files = kept!["MANIFEST-10", "MANIFEST-11", "log/00000003.seg", "log/00000004.seg"];
    let Some((choice, patches)) = bytes.split_first() else { return };
    let (name, original) = files[usize::from(*choice) % files.len()];
    let mut changed = original.to_vec();
    for patch in patches.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % changed.len();
        changed[at] = patch[2];
    }
    let options = Options { metric: Metric::L2, segment_bytes: 64 << 10, ..Options::new(2) };
    probe::directory(&files, name, &changed, &options);
});
