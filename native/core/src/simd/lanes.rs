//! The loops, in a form that the compiler turns into vector instructions of whatever width the caller was compiled for.
//!
//! They are always inlined, because a function takes on the features of its caller only then. Each comes in two shapes: `*_rows` reads row
//! after row and keeps the result in the first-level cache; `*_blocks` keeps a block of columns in registers while it reads all rows of it,
//! which pays where there are registers enough. Measured on an AMD EPYC (Zen 5), for rows of 384 values in the third-level cache: 80 to
//! 90 GB/s by rows, 100 to 120 GB/s by blocks of 24 of the 32 registers of AVX-512, and less than by rows by blocks of any size under AVX2.
#![allow(clippy::inline_always, reason = "see above")]

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{LANES, Rows, Weights};

/// Exponent bits of float32: all of them are set in NaN and infinities, and in nothing else.
const EXPONENT: u32 = 0x7f80_0000;

#[inline(always)]
fn multiply_add<const FUSED: bool>(value: f32, weight: f32, sum: f32) -> f32 {
    // Without an instruction for it, the fused form would be a call into the mathematical library.
    if FUSED { value.mul_add(weight, sum) } else { value * weight + sum }
}

/// Adds all rows, each times its weight, to `sums`. `FUSED` is for targets that multiply and add in one instruction.
#[inline(always)]
pub(super) fn accumulate_rows<const FUSED: bool>(sums: &mut [f32], rows: Rows, weights: Weights) {
    let mut weight = weights.first;
    for row in rows.columns(0, sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum = multiply_add::<FUSED>(*value, weight, *sum);
        }
        weight += weights.step;
    }
}

/// As `accumulate_rows`, by blocks.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for AVX-512"))]
pub(super) fn accumulate_blocks<const BLOCK: usize>(sums: &mut [f32], rows: Rows, weights: Weights) {
    let (blocks, rest) = sums.as_chunks_mut::<BLOCK>();
    let mut from = 0;
    for block in blocks {
        let (mut sums, mut weight) = (*block, weights.first);
        for row in rows.columns(from, BLOCK) {
            for i in 0..BLOCK {
                sums[i] = multiply_add::<true>(row[i], weight, sums[i]);
            }
            weight += weights.step;
        }
        *block = sums;
        from += BLOCK;
    }
    if !rest.is_empty() {
        accumulate_rows::<true>(rest, rows.without_columns(from), weights);
    }
}

/// Adds `sums` to `totals`, and makes them zero.
#[inline(always)]
pub(super) fn flush(totals: &mut [f64], sums: &mut [f32]) {
    for (total, sum) in totals.iter_mut().zip(sums) {
        *total += f64::from(*sum);
        *sum = 0.0;
    }
}

/// Raises `largest` to the largest values of all rows. Returns false where one of them is NaN or infinite: comparing alone would lose a NaN.
#[inline(always)]
pub(super) fn maximum_rows(largest: &mut [f32], rows: Rows) -> bool {
    let mut found = 0_u32;
    for row in rows.columns(0, largest.len()) {
        for (largest, value) in largest.iter_mut().zip(row) {
            found |= u32::from(value.to_bits() & EXPONENT == EXPONENT);
            *largest = if *value > *largest { *value } else { *largest };
        }
    }
    found == 0
}

/// As `maximum_rows`, by blocks.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for AVX-512"))]
pub(super) fn maximum_blocks<const BLOCK: usize>(largest: &mut [f32], rows: Rows) -> bool {
    let (blocks, rest) = largest.as_chunks_mut::<BLOCK>();
    let (mut from, mut found) = (0, 0_u32);
    for block in blocks {
        let mut largest = *block;
        for row in rows.columns(from, BLOCK) {
            for i in 0..BLOCK {
                found |= u32::from(row[i].to_bits() & EXPONENT == EXPONENT);
                largest[i] = if row[i] > largest[i] { row[i] } else { largest[i] };
            }
        }
        *block = largest;
        from += BLOCK;
    }
    found == 0 && (rest.is_empty() || maximum_rows(rest, rows.without_columns(from)))
}

/// Widens float16; the `half` crate knows the instructions of the machine.
pub(super) fn widen_f16(from: &[f16], to: &mut [f32]) {
    from.convert_to_f32_slice(to);
}

/// Widens bfloat16: its bits are the upper half of a float32.
#[inline(always)]
pub(super) fn widen_bf16(from: &[u16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(*from) << 16);
    }
}

/// Raises the largest values of `LANES` groups, of which each is every `LANES`-th value. Returns false where one is NaN or infinite.
#[inline(always)]
pub(super) fn lane_maxima(largest: &mut [f32; LANES], values: &[f32]) -> bool {
    let (mut maxima, mut found) = (*largest, [0_u32; LANES]);
    let mut look = |lane: usize, value: f32| {
        found[lane] |= u32::from(value.to_bits() & EXPONENT == EXPONENT);
        maxima[lane] = if value > maxima[lane] { value } else { maxima[lane] };
    };
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in block.iter().enumerate() {
            look(lane, *value);
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        look(lane, *value);
    }
    *largest = maxima;
    found == [0; LANES]
}

/// The sum of exp(value - largest), where no value is larger. Few enough values for a float32 sum.
#[inline(always)]
pub(super) fn exp_sum(values: &[f32], largest: f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += exp_of_negative(block[lane] - largest);
        }
    }
    let rest: f32 = rest.iter().map(|value| exp_of_negative(*value - largest)).sum();
    sums.iter().sum::<f32>() + rest
}

/// exp(x) for x up to 0, right to 1e-7 of itself; below -87 what float32 holds no smaller of. The method and the polynomial are those of expf in
/// the Cephes library: exp(x) = 2^n * exp(r), where r is at most half of log(2). Without a branch and a call, so that the compiler turns it
/// into vector instructions.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    /// log(2) in two parts, of which the first has few bits: n times it is exact.
    const LOG_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    /// Added to a small number it leaves no bits behind the point, which rounds the number, and has it in its last bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -87.0 { x } else { -87.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LOG_2[0] - n * LOG_2[1];
    let polynomial = POLYNOMIAL.iter().fold(0.0, |sum, coefficient| sum * r + coefficient);
    let power = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    (polynomial * r * r + r + 1.0) * f32::from_bits(power)
}
