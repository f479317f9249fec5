//! The loops, in a form that the compiler turns into vector instructions of whatever width the caller was compiled for.
//!
//! They are always inlined, because a function takes on the features of its caller only then.
//!
//! Rows come as separate arguments or are taken apart first, so that the compiler knows that they do not overlap with what is written.

#![allow(clippy::inline_always, reason = "see above")]

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Exponent bits of float32: all of them are set in NaN and infinities, and in nothing else.
const EXPONENT: u32 = 0x7f80_0000;

/// `sums += rows * weights`. `FUSED` fuses multiplication and addition, for targets that have an instruction for it.
#[inline(always)]
pub(super) fn accumulate<const FUSED: bool>(sums: &mut [f32], rows: [&[f32]; 4], weights: [f32; 4]) {
    let length = sums.len();
    let [a, b, c, d] = rows.map(|row| &row[..length]);
    let fused = |x: f32, weight: f32, sum: f32| if FUSED { x.mul_add(weight, sum) } else { x * weight + sum };
    for i in 0..length {
        // Two chains instead of one, so that the second does not wait for the first.
        let left = fused(b[i], weights[1], fused(a[i], weights[0], sums[i]));
        let right = fused(d[i], weights[3], c[i] * weights[2]);
        sums[i] = left + right;
    }
}

/// `largest = max(largest, rows)`. Returns false where a value of the rows is NaN or infinite: the comparison alone would lose a NaN.
#[inline(always)]
pub(super) fn maximum(largest: &mut [f32], rows: [&[f32]; 4]) -> bool {
    let length = largest.len();
    let [a, b, c, d] = rows.map(|row| &row[..length]);
    let larger = |x: f32, y: f32| if x > y { x } else { y };
    let mut found = 0_u32;
    for i in 0..length {
        let values = [a[i], b[i], c[i], d[i]];
        for value in values {
            found |= u32::from(value.to_bits() & EXPONENT == EXPONENT);
        }
        largest[i] = larger(larger(larger(values[0], values[1]), larger(values[2], values[3])), largest[i]);
    }
    found == 0
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
