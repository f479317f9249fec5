//! Vectors in smaller forms.

use gungraun::{library_benchmark, library_benchmark_group};
use hubwire_core::Result;
use hubwire_core::quantize::{Converted, Encoding, Options, convert as convert_rows};

use crate::inputs::{self, WIDTH};

const ROWS: usize = 128;

fn rows(encoding: Encoding) -> (&'static [f32], Options) {
    (inputs::keep(inputs::vectors(ROWS)), Options { dimensions: None, normalize: true, encoding, threads: 1 })
}

#[library_benchmark(setup = rows)]
#[bench::float32(Encoding::Float32)]
#[bench::float16(Encoding::Float16)]
#[bench::int8(Encoding::Int8)]
#[bench::binary(Encoding::Binary)]
fn convert((vectors, options): (&'static [f32], Options)) -> Result<Converted> {
    convert_rows(vectors, [ROWS, WIDTH], &options)
}

library_benchmark_group!(name = quantization, benchmarks = [convert]);
