//! The arithmetic of single rows that pooling and quantization share.

use crate::error::{Error, Reason, Result};

/// Room for rows of results. A shape such as (2^50, 0, 64) costs nothing to make and has results that no machine can hold, where plain
/// allocation would end the process.
pub(crate) fn zeros<T: Clone + Default>(rows: usize, width: usize) -> Result<Vec<T>> {
    let refuse = || Error::new(Reason::OutOfRange, format!("{rows} rows of {width} values do not fit into memory"));
    let count = rows.checked_mul(width).ok_or_else(refuse)?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| refuse())?;
    values.resize(count, T::default());
    Ok(values)
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    // Without an early exit, so that it becomes vector instructions.
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

/// One over the length of a row; 1 for a row of zeros. The squares are summed in float64, where no float32 overflows and none vanishes.
pub(crate) fn inverse_norm(row: &[f32]) -> f64 {
    // Eight sums instead of one, so that they become vector instructions.
    let mut sums = [0.0_f64; 8];
    let (blocks, rest) = row.as_chunks::<8>();
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    let rest: f64 = rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let square = sums.iter().sum::<f64>() + rest;
    if square > 0.0 { square.sqrt().recip() } else { 1.0 }
}

/// A value times a factor, in float64, rounded at the end.
#[allow(clippy::cast_possible_truncation, reason = "rounding to float32 is meant")]
pub(crate) fn scaled(value: f32, factor: f64) -> f32 {
    (f64::from(value) * factor) as f32
}

/// Scales a row to length 1; a row of zeros stays so.
pub(crate) fn normalize(row: &mut [f32]) {
    let factor = inverse_norm(row);
    for value in row {
        *value = scaled(*value, factor);
    }
}

/// The sum in float32, in the order in which numpy adds a row of values: eight sums side by side, and halves apart where there are many.
pub(crate) fn pairwise_sum(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const BLOCK: usize = 128;
    if values.len() > BLOCK {
        let half = values.len() / 2 / LANES * LANES;
        return pairwise_sum(&values[..half]) + pairwise_sum(&values[half..]);
    }
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += value;
        }
    }
    let sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    rest.iter().fold(sum, |sum, value| sum + value)
}
