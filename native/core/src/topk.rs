//! The largest logits of each row, and the sum that makes probabilities of them.
//!
//! A row streams through twice. First the largest value of each small group is found with vector instructions. The k-th largest of these is
//! a bound that at least k values reach, so only groups that reach it are looked at again, value by value. Then the exponentials are summed.

use std::cmp::Ordering;

use crate::error::{Error, Reason, Result};
use crate::parallel;
use crate::simd::{Kernels, LANES};

/// Below this many bytes of logits a second thread costs more than it saves: a thread takes about 30 us to start, in which one thread goes
/// through some 100 KB.
const BYTES_WORTH_A_THREAD: usize = 1 << 20;
/// Rows are handed out to threads in so many pieces a thread.
const PIECES_PER_THREAD: usize = 4;
/// So many values are looked at together. A group is every sixteenth of them, so that a vector instruction serves sixteen groups.
const BLOCK: usize = 32 * LANES;
/// A float32 sum takes so many values, and is then added to one in float64.
const VALUES_A_SUM: usize = 64 * LANES;

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
    let kernels = Kernels::current();
    parallel::for_each(threads, pieces.enumerate(), |(number, (found, logits))| {
        for (index, (row, values)) in found.iter_mut().zip(logits.chunks_exact(columns)).enumerate() {
            let row_index = number * piece + index;
            *row = Row::of(values, width, kernels)
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
    fn of(values: &[f32], k: usize, kernels: Kernels) -> Option<Self> {
        let mut groups = vec![f32::NEG_INFINITY; values.len().div_ceil(BLOCK) * LANES];
        let (blocks, _) = groups.as_chunks_mut::<LANES>();
        let mut finite = true;
        for (block, values) in blocks.iter_mut().zip(values.chunks(BLOCK)) {
            finite &= (kernels.lane_maxima)(block, values);
        }
        if !finite {
            return None;
        }
        let largest = groups.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Some(Self { best: best_of(values, &groups, k), logsumexp: log_sum_exp(values, largest, kernels) })
    }
}

/// The `k` best of values, best first, where `groups` are the largest of each group.
fn best_of(values: &[f32], groups: &[f32], k: usize) -> Vec<(f32, i32)> {
    if k == 0 {
        return Vec::new();
    }
    let bound = if k > groups.len() {
        f32::NEG_INFINITY
    } else {
        let mut groups = groups.to_vec();
        *groups.select_nth_unstable_by(k - 1, |left, right| right.total_cmp(left)).1
    };
    let mut best = Vec::new();
    for (group, _) in groups.iter().enumerate().filter(|(_, largest)| **largest >= bound) {
        let (block, lane) = (group / LANES * BLOCK, group % LANES);
        let end = values.len().min(block + BLOCK);
        for id in (block + lane..end).step_by(LANES).filter(|id| values[*id] >= bound) {
            best.push((values[id], i32::try_from(id).unwrap_or(i32::MAX)));
        }
    }
    if k < best.len() {
        best.select_nth_unstable_by(k - 1, |left, right| order(*left, *right));
        best.truncate(k);
    }
    best.sort_unstable_by(|left, right| order(*left, *right));
    best
}

/// Larger values first, equal ones by their column.
fn order(left: (f32, i32), right: (f32, i32)) -> Ordering {
    // Only NaN has no order, and none is left.
    right.0.partial_cmp(&left.0).unwrap_or(Ordering::Equal).then(left.1.cmp(&right.1))
}

/// log(sum(exp(values))), where `largest` is the largest of them.
#[allow(clippy::cast_possible_truncation, reason = "rounding to float32 is meant")]
fn log_sum_exp(values: &[f32], largest: f32, kernels: Kernels) -> f32 {
    let sums = values.chunks(VALUES_A_SUM).map(|values| f64::from((kernels.exp_sum)(values, largest)));
    (f64::from(largest) + sums.sum::<f64>().ln()) as f32
}
