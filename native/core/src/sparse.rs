//! Sparse vectors: the few entries of a row that are above zero.

use crate::error::{Error, Reason, Result};
use crate::numeric::all_finite;
use crate::parallel;
use crate::ragged::as_offset;

/// Below this many bytes a second thread costs more than it saves: a thread takes about 30 us to start, in which one thread goes through some
/// 300 KB.
const BYTES_WORTH_A_THREAD: usize = 1 << 21;
/// Rows are handed out to threads in so many pieces a thread, since they differ in how many entries they have.
const PIECES_PER_THREAD: usize = 4;
/// So many values are looked at together: most of these have none above zero.
const BLOCK: usize = 64;

/// The entries of n rows, one row after the other.
#[derive(Debug, Default, PartialEq)]
pub struct SparseRows {
    /// The columns, rising within a row.
    pub indices: Vec<i32>,
    /// The values.
    pub values: Vec<f32>,
    /// Where each row begins, and the number of entries at the end.
    pub offsets: Vec<i64>,
}

/// log(1 + value) of the entries above 0 of each row of `maxima`, shape (rows, columns).
///
/// # Errors
/// `ShapeMismatch`, `OutOfRange` where a column does not fit 31 bits, `NotFinite` with the index of a row.
pub fn sparse_rows(maxima: &[f32], shape: [usize; 2], threads: usize) -> Result<SparseRows> {
    let [rows, columns] = shape;
    if rows.checked_mul(columns) != Some(maxima.len()) {
        return Err(Error::new(Reason::ShapeMismatch, format!("{} values make no rows of the shape {shape:?}", maxima.len())));
    }
    if i32::try_from(columns).is_err() {
        return Err(Error::new(Reason::OutOfRange, format!("{columns} columns do not fit 31 bits")));
    }
    let worth = size_of_val(maxima) / BYTES_WORTH_A_THREAD + 1;
    let threads = threads.min(rows).min(worth).max(1);
    let piece = if threads == 1 { rows } else { rows.div_ceil(threads * PIECES_PER_THREAD) }.max(1);
    let mut parts: Vec<SparseRows> = Vec::new();
    parts.resize_with(rows.div_ceil(piece), SparseRows::default);
    parallel::for_each(threads, parts.iter_mut().enumerate(), |(number, part)| {
        for row in number * piece..rows.min((number + 1) * piece) {
            let values = &maxima[row * columns..(row + 1) * columns];
            if !all_finite(values) {
                return Err(Error::at(Reason::NotFinite, row, format!("row {row} holds NaN or infinity")));
            }
            part.append_row(values);
        }
        Ok(())
    })?;

    let mut all = SparseRows { offsets: vec![0], ..SparseRows::default() };
    for part in parts {
        let base = as_offset(all.indices.len());
        all.offsets.extend(part.offsets.iter().map(|end| base + end));
        all.indices.extend(part.indices);
        all.values.extend(part.values);
    }
    Ok(all)
}

impl SparseRows {
    /// Appends the entries of a row, and where they end.
    #[allow(clippy::cast_possible_truncation, reason = "rounding to float32 is meant")]
    fn append_row(&mut self, row: &[f32]) {
        for (block, first) in row.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
            if block.iter().copied().fold(0.0, f32::max) > 0.0 {
                for (value, column) in block.iter().zip(first..).filter(|(value, _)| **value > 0.0) {
                    self.indices.push(column);
                    self.values.push(f64::from(*value).ln_1p() as f32);
                }
            }
        }
        self.offsets.push(as_offset(self.indices.len()));
    }
}
