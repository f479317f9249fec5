//! Pooling: the vectors of the tokens of a text become one vector.
//!
//! A text is a list of runs, which are stretches of tokens that lie side by side in memory: one run in a ragged batch, one or more where a
//! mask has holes. Tokens outside the runs are never read. Hidden states stream through once, in float32.
//!
//! The rounding errors of a float32 sum grow with the number of its terms, so that it takes few of them and is then added to sums in float64.
//!
//! Finding NaN and infinity costs nothing for sums: one such value makes the sum NaN or infinite as well, so only the results are
//! looked at, and the tokens of a text again where its result is not finite.

use std::ops::Range;

use crate::error::{Error, Reason, Result};
pub use crate::hidden::{Hidden, Mask};
use crate::numeric::{all_finite, normalize, zeros};
use crate::parallel;
use crate::ragged::Offsets;
use crate::simd::{Kernels, Rows, Weights};

/// Below this many bytes of hidden states a second thread costs more than it saves: a thread takes about 30 us to start, in which one
/// thread pools 0.3 MB that lie in memory, and 2 MB that lie in the cache.
const BYTES_WORTH_A_THREAD: usize = 1 << 22;
/// Texts are handed out to threads in so many pieces a thread, since texts differ in length.
const PIECES_PER_THREAD: usize = 4;
/// Other types than float32 are widened so many rows and columns at a time, which stay in the first-level cache.
const ROWS: usize = 4;
const COLUMNS: usize = 1024;
/// A float32 sum takes so many tokens. The mean of 100,000 tokens near 3 is then right to 1e-7 of itself, where one sum of all is off by 1e-5.
const TOKENS_A_SUM: usize = 256;

/// How tokens become one vector. The names are those of sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The mean.
    Mean,
    /// The largest value of each dimension.
    Max,
    /// The first token.
    Cls,
    /// The last token.
    LastToken,
    /// The sum, divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean where the n-th token weighs n.
    WeightedMean,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// How tokens become one vector.
    pub mode: Mode,
    /// How many tokens at the beginning of each text are left out.
    pub skip: Option<&'a [i64]>,
    /// Whether each vector is scaled to length 1.
    pub normalize: bool,
    /// The largest number of threads.
    pub threads: usize,
}

/// Pools `hidden`, shape (texts, length, width), where `mask`, shape (texts, length), is not zero. Returns (texts, width).
///
/// # Errors
/// `ShapeMismatch`, `OutOfRange` for a negative skip, `NotFinite` with the index of a text.
pub fn pool_padded(hidden: Hidden, shape: [usize; 3], mask: Mask, mask_shape: [usize; 2], options: &Options) -> Result<Vec<f32>> {
    let [texts, length, width] = shape;
    if mask_shape != [texts, length] || mask.len() != texts * length {
        let message = format!("hidden has the shape {shape:?} and the mask {mask_shape:?}; it should have {:?}", [texts, length]);
        return Err(Error::new(Reason::ShapeMismatch, message));
    }
    pool(hidden, texts * length, width, texts, options, |text, runs| mask.runs(text * length..(text + 1) * length, runs))
}

/// Pools `hidden`, shape (tokens, width), over the texts that `offsets` delimit. Returns (texts, width).
///
/// # Errors
/// `OffsetsOutOfOrder` with the index, otherwise as `pool_padded`.
pub fn pool_ragged(hidden: Hidden, shape: [usize; 2], offsets: &[i64], options: &Options) -> Result<Vec<f32>> {
    let [tokens, width] = shape;
    let offsets = Offsets::check(offsets, tokens)?;
    pool(hidden, tokens, width, offsets.rows(), options, |text, runs| runs.push(offsets.row(text)))
}

/// Pools each text over the runs that `runs_of` finds for it.
fn pool(
    hidden: Hidden,
    tokens: usize,
    width: usize,
    texts: usize,
    options: &Options,
    runs_of: impl Fn(usize, &mut Vec<Range<usize>>) + Sync,
) -> Result<Vec<f32>> {
    if hidden.len() != tokens * width {
        let message = format!("hidden holds {} values; {tokens} tokens of width {width} have {}", hidden.len(), tokens * width);
        return Err(Error::new(Reason::ShapeMismatch, message));
    }
    check_skip(options.skip, texts)?;
    let mut pooled = zeros(texts, width)?;
    if width == 0 {
        return Ok(pooled);
    }
    let worth = hidden.bytes() / BYTES_WORTH_A_THREAD + 1;
    let threads = options.threads.min(texts).min(worth).max(1);
    let piece = if threads == 1 { texts } else { texts.div_ceil(threads * PIECES_PER_THREAD) }.max(1);
    let kernels = Kernels::current();
    parallel::for_each(threads, pooled.chunks_mut(piece * width).enumerate(), |(number, rows)| {
        let mut texts_pooler = Pooler::new(hidden, width, options.mode, kernels);
        let mut runs = Vec::new();
        for (row, text) in rows.chunks_exact_mut(width).zip(number * piece..) {
            runs.clear();
            runs_of(text, &mut runs);
            let origin = runs.first().map_or(0, |run| run.start);
            let skip = options.skip.map_or(0, |skip| usize::try_from(skip[text]).unwrap_or(usize::MAX));
            leave_out(&mut runs, origin.saturating_add(skip));
            if !runs.is_empty() {
                texts_pooler.pool_text(&runs, origin, row).ok_or_else(|| not_finite(text))?;
                if options.normalize {
                    normalize(row);
                }
            }
        }
        Ok(())
    })?;
    Ok(pooled)
}

fn check_skip(skip: Option<&[i64]>, texts: usize) -> Result<()> {
    let Some(skip) = skip else { return Ok(()) };
    if skip.len() != texts {
        let message = format!("{} values of skip for {texts} texts", skip.len());
        return Err(Error::new(Reason::ShapeMismatch, message));
    }
    match skip.iter().position(|skip| *skip < 0) {
        Some(text) => Err(Error::at(Reason::OutOfRange, text, format!("skip of text {text} is {}", skip[text]))),
        None => Ok(()),
    }
}

/// Leaves the tokens before `start` out of the runs, and the runs that are then empty.
fn leave_out(runs: &mut Vec<Range<usize>>, start: usize) {
    for run in runs.iter_mut() {
        run.start = run.start.max(start);
    }
    runs.retain(|run| !run.is_empty());
}

fn not_finite(text: usize) -> Error {
    Error::at(Reason::NotFinite, text, format!("hidden states of text {text} hold NaN or infinity, or their sum exceeds float32"))
}

/// Pools text after text.
struct Pooler<'a> {
    hidden: Hidden<'a>,
    width: usize,
    mode: Mode,
    kernels: Kernels,
    /// Rows of columns, widened to float32. Empty where the hidden states are float32.
    widened: Vec<f32>,
    /// The sums of a text in float64. Empty while the text has no more tokens than one float32 sum takes.
    totals: Vec<f64>,
}

impl<'a> Pooler<'a> {
    fn new(hidden: Hidden<'a>, width: usize, mode: Mode, kernels: Kernels) -> Self {
        let widened = if matches!(hidden, Hidden::F32(_)) { Vec::new() } else { vec![0.0; ROWS * width.min(COLUMNS)] };
        Self { hidden, width, mode, kernels, widened, totals: Vec::new() }
    }

    /// Pools the tokens of `runs`, of which there is at least one, into `row`. `origin` is the token that weighs 1 in the weighted mean.
    /// None where a value is not finite.
    fn pool_text(&mut self, runs: &[Range<usize>], origin: usize, row: &mut [f32]) -> Option<()> {
        let finite = match self.mode {
            Mode::Cls => self.copy_token(runs[0].start, row),
            Mode::LastToken => self.copy_token(runs[runs.len() - 1].end - 1, row),
            Mode::Max => self.max(runs, row),
            Mode::Mean | Mode::MeanSqrtLen | Mode::WeightedMean => {
                self.sum(runs, origin, row);
                self.divide(self.divisor(runs, origin), row);
                all_finite(row) || self.sum_again(runs, origin, row)
            }
        };
        finite.then_some(())
    }

    fn copy_token(&self, token: usize, row: &mut [f32]) -> bool {
        let values = token * self.width..(token + 1) * self.width;
        match self.hidden {
            Hidden::F32(hidden) => row.copy_from_slice(&hidden[values]),
            Hidden::F16(hidden) => (self.kernels.widen_f16)(&hidden[values], row),
            Hidden::Bf16(hidden) => (self.kernels.widen_bf16)(&hidden[values], row),
        }
        all_finite(row)
    }

    fn max(&mut self, runs: &[Range<usize>], row: &mut [f32]) -> bool {
        row.fill(f32::NEG_INFINITY);
        let maximum = self.kernels.maximum;
        let mut finite = true;
        for run in runs {
            self.for_each_part(run, row, |largest, rows, _| finite &= maximum(largest, rows));
        }
        finite
    }

    /// Sums the tokens: the last of them, `TOKENS_A_SUM` or fewer, in `row`, and those before in `totals`.
    fn sum(&mut self, runs: &[Range<usize>], origin: usize, row: &mut [f32]) {
        row.fill(0.0);
        self.totals.clear();
        let accumulate = self.kernels.accumulate;
        let weighted = self.mode == Mode::WeightedMean;
        let mut room = TOKENS_A_SUM;
        for run in runs {
            let mut start = run.start;
            while start < run.end {
                if room == 0 {
                    self.totals.resize(self.width, 0.0);
                    (self.kernels.flush)(&mut self.totals, row);
                    room = TOKENS_A_SUM;
                }
                let end = run.end.min(start + room);
                self.for_each_part(&(start..end), row, |sums, rows, token| {
                    let weights =
                        if weighted { Weights { first: weight(token, origin), step: 1.0 } } else { Weights { first: 1.0, step: 0.0 } };
                    accumulate(sums, rows, weights);
                });
                room -= end - start;
                start = end;
            }
        }
    }

    /// Makes of what `sum` left the quotients, in `row`.
    fn divide(&mut self, divisor: f64, row: &mut [f32]) {
        if self.totals.is_empty() {
            let divisor = rounded(divisor);
            for value in row {
                *value /= divisor;
            }
        } else {
            (self.kernels.flush)(&mut self.totals, row);
            let factor = divisor.recip();
            for (value, total) in row.iter_mut().zip(&self.totals) {
                *value = rounded(*total * factor);
            }
        }
    }

    /// Gives `take` columns of tokens that lie side by side, beside the same columns of `row`, and the number of the first of the tokens.
    /// float32 comes as one part, with all columns; other types are widened part by part, so that what is widened stays in the cache.
    fn for_each_part(&mut self, run: &Range<usize>, row: &mut [f32], mut take: impl FnMut(&mut [f32], Rows, usize)) {
        let Self { hidden, width, kernels, widened, .. } = self;
        match *hidden {
            Hidden::F32(hidden) => {
                let values = &hidden[run.start * *width..run.end * *width];
                take(row, Rows { values, stride: *width }, run.start);
            }
            Hidden::F16(hidden) => for_each_widened(hidden, *width, run, kernels.widen_f16, widened, row, &mut take),
            Hidden::Bf16(hidden) => for_each_widened(hidden, *width, run, kernels.widen_bf16, widened, row, &mut take),
        }
    }

    fn divisor(&self, runs: &[Range<usize>], origin: usize) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a text has far fewer than 2^52 tokens")]
        let tokens = runs.iter().map(ExactSizeIterator::len).sum::<usize>() as f64;
        match self.mode {
            Mode::MeanSqrtLen => tokens.sqrt(),
            Mode::WeightedMean => runs.iter().cloned().flatten().map(|token| f64::from(weight(token, origin))).sum(),
            _ => tokens,
        }
    }

    /// The sum in float64, for a text whose float32 sum is not finite. False where it still is not: then a value of the text is not finite,
    /// or the result is beyond float32.
    fn sum_again(&self, runs: &[Range<usize>], origin: usize, row: &mut [f32]) -> bool {
        let divisor = self.divisor(runs, origin);
        for (column, value) in row.iter_mut().enumerate() {
            let terms = runs.iter().cloned().flatten().map(|token| {
                let weight = if self.mode == Mode::WeightedMean { weight(token, origin) } else { 1.0 };
                f64::from(weight) * f64::from(self.hidden.value(token * self.width + column))
            });
            *value = rounded(terms.sum::<f64>() / divisor);
        }
        all_finite(row)
    }
}

/// The weight of a token in the weighted mean.
#[allow(clippy::cast_precision_loss, reason = "a text has far fewer than 2^24 tokens")]
fn weight(token: usize, origin: usize) -> f32 {
    (token - origin + 1) as f32
}

/// A value in float32; what exceeds it becomes infinite.
#[allow(clippy::cast_possible_truncation, reason = "rounding to float32 is meant")]
fn rounded(value: f64) -> f32 {
    value as f32
}

/// As `Pooler::for_each_part`, for values that are widened into `buffer`.
fn for_each_widened<T>(
    hidden: &[T],
    width: usize,
    run: &Range<usize>,
    widen: fn(&[T], &mut [f32]),
    buffer: &mut [f32],
    row: &mut [f32],
    take: &mut impl FnMut(&mut [f32], Rows, usize),
) {
    for first in run.clone().step_by(ROWS) {
        let tokens = first..run.end.min(first + ROWS);
        for (columns, column) in row.chunks_mut(COLUMNS).zip((0..width).step_by(COLUMNS)) {
            let values = &mut buffer[..tokens.len() * columns.len()];
            for (token, to) in tokens.clone().zip(values.chunks_exact_mut(columns.len())) {
                let start = token * width + column;
                widen(&hidden[start..start + to.len()], to);
            }
            let rows = Rows { values, stride: columns.len() };
            take(columns, rows, first);
        }
    }
}
