//! How many instructions the core takes, counted by callgrind: times move with the machine and its load, counts do not.
//!
//! Inputs come from seeds and are made before counting begins; results are dropped after it has ended. Everything runs on one thread, since
//! the number of threads would decide how much is counted. Memory comes from the system, so that a third of what tokenization takes is
//! glibc's. `make instructions` compares the counts with those that are recorded.

#[path = "../../tests/common/mod.rs"]
mod common;
mod heads;
mod inputs;
mod pool;
mod quantize;
mod tokenize;
mod tokenizers;
mod wire;

use gungraun::{Callgrind, LibraryBenchmarkConfig, main};
use heads::decoding;
use pool::pooling;
use quantize::quantization;
use tokenize::tokenization;
use wire::encoding;

main!(
    // Misses of a cache that is made up are of no use here, and take time.
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [tokenization, pooling, quantization, encoding, decoding]
);
