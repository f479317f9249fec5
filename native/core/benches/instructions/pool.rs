//! Hidden states to vectors.

use gungraun::{library_benchmark, library_benchmark_group};
use half::{bf16, f16};
use hubwire_core::Result;
use hubwire_core::pool::{Hidden, Mask, Mode, Options, pool_padded, pool_ragged};

use crate::inputs::{self, WIDTH};

const TEXTS: usize = 24;
/// The longest of the texts of mixed lengths.
const LONGEST: usize = 96;
/// One text of so many tokens is summed in several float32 sums.
const LONG_TEXT: usize = 1000;

/// The types of hidden states.
#[derive(Clone, Copy)]
enum Type {
    F32,
    F16,
    Bf16,
}

/// One call on a ragged batch.
#[derive(Clone, Copy)]
pub struct Ragged {
    hidden: Hidden<'static>,
    offsets: &'static [i64],
    options: Options<'static>,
}

/// One call on a padded batch.
#[derive(Clone, Copy)]
pub struct Padded {
    hidden: Hidden<'static>,
    mask: Mask<'static>,
    length: usize,
}

fn options(mode: Mode, normalize: bool) -> Options<'static> {
    Options { mode, skip: None, normalize, threads: 1 }
}

fn hidden(tokens: usize, kind: Type) -> Hidden<'static> {
    let values = inputs::vectors(tokens);
    match kind {
        Type::F32 => Hidden::F32(inputs::keep(values)),
        Type::F16 => Hidden::F16(inputs::keep(values.into_iter().map(f16::from_f32).collect::<Vec<_>>())),
        Type::Bf16 => Hidden::Bf16(inputs::keep(values.into_iter().map(|value| bf16::from_f32(value).to_bits()).collect::<Vec<_>>())),
    }
}

fn mixed(mode: Mode, kind: Type) -> Ragged {
    let offsets = inputs::keep(inputs::offsets(TEXTS, LONGEST));
    Ragged { hidden: hidden(inputs::tokens(offsets), kind), offsets, options: options(mode, true) }
}

fn long() -> Ragged {
    let offsets = inputs::keep(vec![0, i64::try_from(LONG_TEXT).unwrap()]);
    Ragged { hidden: hidden(LONG_TEXT, Type::F32), offsets, options: options(Mode::Mean, false) }
}

/// A batch whose masks have ones for as many tokens as the texts of mixed lengths have.
fn padded() -> Padded {
    let offsets = inputs::offsets(TEXTS, LONGEST);
    let lengths: Vec<usize> = offsets.windows(2).map(|pair| inputs::tokens(&[pair[1] - pair[0]])).collect();
    let length = lengths.iter().copied().max().unwrap_or_default();
    let mask = lengths.iter().flat_map(|tokens| (0..length).map(|token| u64::from(token < *tokens))).collect::<Vec<_>>();
    Padded { hidden: hidden(TEXTS * length, Type::F32), mask: Mask::Bits64(inputs::keep(mask)), length }
}

#[library_benchmark(setup = mixed)]
#[bench::mean_f32(Mode::Mean, Type::F32)]
#[bench::mean_f16(Mode::Mean, Type::F16)]
#[bench::mean_bf16(Mode::Mean, Type::Bf16)]
#[bench::max_f32(Mode::Max, Type::F32)]
#[bench::max_f16(Mode::Max, Type::F16)]
#[bench::max_bf16(Mode::Max, Type::Bf16)]
#[bench::cls_f32(Mode::Cls, Type::F32)]
#[bench::cls_f16(Mode::Cls, Type::F16)]
#[bench::cls_bf16(Mode::Cls, Type::Bf16)]
#[bench::weighted_mean_f32(Mode::WeightedMean, Type::F32)]
#[bench::long_mean_f32(setup = long)]
fn ragged(call: Ragged) -> Result<Vec<f32>> {
    let tokens = inputs::tokens(call.offsets);
    pool_ragged(call.hidden, [tokens, WIDTH], call.offsets, &call.options)
}

#[library_benchmark(setup = padded)]
#[bench::mean_f32()]
fn padded_batch(call: Padded) -> Result<Vec<f32>> {
    pool_padded(call.hidden, [TEXTS, call.length, WIDTH], call.mask, [TEXTS, call.length], &options(Mode::Mean, true))
}

library_benchmark_group!(name = pooling, benchmarks = [ragged, padded_batch]);
