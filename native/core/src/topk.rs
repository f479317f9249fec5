//! The largest logits of each row, and the sum that makes probabilities of them.
//!
//! A row streams through twice. First by blocks: the largest value of a block is found with vector instructions, and only where it exceeds the
//! worst value that is kept are the values looked at one by one, which happens to few blocks of many. Then the exponentials are summed.

use std::iter;

use crate::best::Best;
use crate::error::{Error, Reason, Result};
use crate::parallel;

/// Below this many bytes of logits a second thread costs more than it saves: a thread takes about 30 us to start, in which one thread goes
/// through some 100 KB.
const BYTES_WORTH_A_THREAD: usize = 1 << 20;
/// Rows are handed out to threads in so many pieces a thread.
const PIECES_PER_THREAD: usize = 4;
/// So many values are compared, or summed, side by side.
const LANES: usize = 16;
/// So many values are looked at together.
const BLOCK: usize = 8 * LANES;
/// A float32 sum takes so many blocks, and is then added to one in float64.
const BLOCKS_A_SUM: usize = 8;
/// Exponent bits of float32: all of them are set in NaN and infinities, and in nothing else.
const EXPONENT: u32 = 0x7f80_0000;

/// The largest values of m rows.
#[derive(Debug, PartialEq)]
pub struct TopK {
    /// How many values of each row there are.
    pub width: usize,
    /// Their columns, row after row.
    pub ids: Vec<i32>,
    /// Their values, row after row.
    pub values: Vec<f32>,
    /// The logarithm of the sum of the exponentials of all values of each row.
    pub logsumexp: Vec<f32>,
}

/// Finds the `k` largest values of each row of `logits`, shape (rows, columns): largest first, equal ones by their column.
///
/// # Errors
/// `ShapeMismatch`, also for rows without values; `OutOfRange` where a column does not fit 31 bits; `NotFinite` with the index of a row.
pub fn top_k(logits: &[f32], shape: [usize; 2], k: usize, threads: usize) -> Result<TopK> {
    let [rows, columns] = shape;
    if rows.checked_mul(columns) != Some(logits.len()) || (columns == 0 && rows > 0) {
        let message = format!("{} logits make no rows of the shape {shape:?} with values in them", logits.len());
        return Err(Error::new(Reason::ShapeMismatch, message));
    }
    if i32::try_from(columns).is_err() {
        return Err(Error::new(Reason::OutOfRange, format!("{columns} columns do not fit 31 bits")));
    }
    let width = k.min(columns);
    let mut found: Vec<Row> = Vec::new();
    found.resize_with(rows, Row::default);
    let worth = size_of_val(logits) / BYTES_WORTH_A_THREAD + 1;
    let threads = threads.min(rows).min(worth).max(1);
    let piece = if threads == 1 { rows } else { rows.div_ceil(threads * PIECES_PER_THREAD) }.max(1);
    let pieces = found.chunks_mut(piece).zip(logits.chunks((piece * columns).max(1)));
    parallel::for_each(threads, pieces.enumerate(), |(number, (found, logits))| {
        for (index, (row, values)) in found.iter_mut().zip(logits.chunks_exact(columns)).enumerate() {
            let row_index = number * piece + index;
            *row = Row::of(values, width)
                .ok_or_else(|| Error::at(Reason::NotFinite, row_index, format!("row {row_index} holds NaN or infinity")))?;
        }
        Ok(())
    })?;

    let kept = || found.iter().flat_map(|row| &row.best);
    Ok(TopK {
        width,
        ids: kept().map(|(_, id)| *id).collect(),
        values: kept().map(|(value, _)| *value).collect(),
        logsumexp: found.iter().map(|row| row.logsumexp).collect(),
    })
}

/// What is found in one row.
#[derive(Debug, Default)]
struct Row {
    best: Vec<(f32, i32)>,
    logsumexp: f32,
}

impl Row {
    /// None where a value is NaN or infinite.
    fn of(values: &[f32], k: usize) -> Option<Self> {
        let mut best = Best::new(k);
        let mut largest = f32::NEG_INFINITY;
        let mut ids = 0..;
        for block in values.chunks(BLOCK) {
            let highest = largest_of(block)?;
            largest = largest.max(highest);
            let first = ids.start;
            ids.start += block.len();
            if best.threshold().is_none_or(|threshold| highest > threshold) {
                for (value, id) in block.iter().zip(first..) {
                    best.offer(*value, i32::try_from(id).unwrap_or(i32::MAX));
                }
            }
        }
        Some(Self { best: best.into_sorted().collect(), logsumexp: log_sum_exp(values, largest) })
    }
}

/// The largest of values; None where one of them is NaN or infinite.
fn largest_of(values: &[f32]) -> Option<f32> {
    let (mut largest, mut found) = ([f32::NEG_INFINITY; LANES], [0_u32; LANES]);
    let mut look = |lane: usize, value: f32| {
        found[lane] |= u32::from(value.to_bits() & EXPONENT == EXPONENT);
        largest[lane] = if value > largest[lane] { value } else { largest[lane] };
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
    (found == [0; LANES]).then(|| largest.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// log(sum(exp(values))), where `largest` is the largest of them.
#[allow(clippy::cast_possible_truncation, reason = "rounding to float32 is meant")]
fn log_sum_exp(values: &[f32], largest: f32) -> f32 {
    let mut total = 0.0_f64;
    for values in values.chunks(BLOCK * BLOCKS_A_SUM) {
        let mut sums = [0.0_f32; LANES];
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for (sum, value) in sums.iter_mut().zip(block) {
                *sum += exp_of_negative(*value - largest);
            }
        }
        let rest = rest.iter().map(|value| exp_of_negative(*value - largest));
        total += sums.into_iter().chain(rest).chain(iter::once(0.0)).map(f64::from).sum::<f64>();
    }
    (f64::from(largest) + total.ln()) as f32
}

/// exp(x) for x up to 0, right to 1e-7 of itself; below -87 what float32 holds no smaller of. The method and the polynomial are those of expf in
/// the Cephes library: exp(x) = 2^n * exp(r), where r is at most half of log(2). Without a branch and a call, so that the compiler turns it
/// into vector instructions.
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
