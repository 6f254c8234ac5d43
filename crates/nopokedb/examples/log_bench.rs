//! The log against a bare write + fdatasync of the same bytes, interleaved in one run, on the directory given:
//!
//! ```text
//! cargo run --release -p nopokedb --features testing --example log_bench -- /var/tmp/somewhere
//! ```

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nopokedb::testing::LogBench;

/// The 10th and the 50th percentile: on a busy machine the first says more.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [times[times.len() / 10], times[times.len() / 2]]
}

#[allow(clippy::disallowed_methods)] // The bare disk is what is compared with.
fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).expect("usage: log_bench <empty directory>"));
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    for (dim, rows, rounds) in [(128, 1, 2_000), (768, 1, 1_000), (128, 100, 500), (128, 5_000, 40), (128, 20_000, 20)]
    {
        let mut options = OpenOptions::new();
        let bare =
            options.write(true).create_new(true).open(dir.join(format!("bare-{dim}-{rows}"))).expect("a new file");
        let mut log = LogBench::create(&dir.join(format!("log-{dim}-{rows}")), dim).expect("a log");
        let (mut encode, mut append, mut plain, mut offset, mut len) = (vec![], vec![], vec![], 0, 0);
        for _ in 0..rounds {
            let (encoded, appended, bytes) = log.append(rows).expect("appended");
            let buffer = vec![7u8; usize::try_from(bytes).expect("fits")];
            let start = Instant::now();
            bare.write_all_at(&buffer, offset).expect("written");
            bare.sync_data().expect("synced");
            plain.push(start.elapsed());
            encode.push(encoded);
            append.push(appended);
            (offset, len) = (offset + bytes, bytes);
        }
        let (encode, append, plain) = (percentiles(encode), percentiles(append), percentiles(plain));
        let ratios = [0, 1].map(|i| append[i].as_secs_f64() / plain[i].as_secs_f64());
        println!(
            "{rows:6} x {dim:4}: {len:9} bytes; p10, p50: encode {encode:.1?} append {append:.1?} bare {plain:.1?} ratio {ratios:.2?}"
        );
    }
}
