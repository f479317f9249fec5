//! Vectors in smaller forms: fewer dimensions, length 1, float16, int8, bits.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Error, Reason, Result};
use crate::numeric::{all_finite, inverse_norm, scaled, zeros};
use crate::parallel;

/// Below this many bytes of vectors a second thread costs more than it saves: it takes about 30 us to start.
const BYTES_WORTH_A_THREAD: usize = 1 << 19;
/// Rows are handed out to threads in so many pieces a thread.
const PIECES_PER_THREAD: usize = 4;
/// float16 is converted in blocks of so many values, which lie on the stack.
const BLOCK: usize = 64;
/// The largest int8 in use. -128 is not, so that the scale is the same on both sides of zero.
const INT8_MAX: f32 = 127.0;

/// The form of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Float32,
    /// IEEE 754 binary16, rounded to nearest even.
    Float16,
    /// One scale a row; rounded to nearest even.
    Int8,
    /// One bit a value, set where it is above zero before it is scaled, most significant bit first.
    Binary,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many values at the beginning of each row are kept.
    pub dimensions: Option<usize>,
    /// Whether each row is scaled to length 1.
    pub normalize: bool,
    /// The form of the numbers.
    pub encoding: Encoding,
    /// The largest number of threads.
    pub threads: usize,
}

/// Converted rows, one after the other.
#[derive(Debug, PartialEq)]
pub enum Values {
    /// float32.
    Float32(Vec<f32>),
    /// float16.
    Float16(Vec<f16>),
    /// int8, and the scale of each row.
    Int8(Vec<i8>, Vec<f32>),
    /// Eight values a byte; each row begins with a new byte.
    Binary(Vec<u8>),
}

/// Converted rows and how many values each has.
#[derive(Debug, PartialEq)]
pub struct Converted {
    /// The rows.
    pub values: Values,
    /// Values a row; bytes a row under `Binary`.
    pub width: usize,
}

/// Converts the rows of `vectors`, shape (rows, width).
///
/// # Errors
/// `ShapeMismatch`, `OutOfRange` for dimensions below 1 or above the width, `NotFinite` with the row.
pub fn convert(vectors: &[f32], shape: [usize; 2], options: &Options) -> Result<Converted> {
    let [rows, width] = shape;
    let kept = check_dimensions(vectors.len(), shape, options.dimensions)?;
    let worth = rows * kept * size_of::<f32>() / BYTES_WORTH_A_THREAD + 1;
    let threads = options.threads.min(rows).min(worth).max(1);
    let job = Job { vectors, rows, width, kept, normalize: options.normalize, threads };
    let bytes = kept.div_ceil(8);
    let (values, width) = match options.encoding {
        Encoding::Float32 => {
            let (values, _) = job.run(kept, |row, out| {
                row.float32(out, |value| value);
                Ok(NO_SCALE)
            })?;
            (Values::Float32(values), kept)
        }
        Encoding::Float16 => {
            let (values, _) = job.run(kept, |row, out| row.float16(out, |value| value).map(|()| NO_SCALE))?;
            (Values::Float16(values), kept)
        }
        Encoding::Int8 => {
            let (values, scales) = job.run(kept, |row, out| {
                let scale = int8_scale(row.max_abs());
                row.int8(scale, out, |value| value);
                Ok(scale)
            })?;
            (Values::Int8(values, scales), kept)
        }
        Encoding::Binary => {
            let (values, _) = job.run(bytes, |row, out| {
                row.binary(out);
                Ok(NO_SCALE)
            })?;
            (Values::Binary(values), bytes)
        }
    };
    Ok(Converted { values, width })
}

/// What a form without a scale returns as the scale of a row.
const NO_SCALE: f32 = 0.0;

/// A conversion of all rows.
struct Job<'a> {
    vectors: &'a [f32],
    rows: usize,
    width: usize,
    kept: usize,
    normalize: bool,
    threads: usize,
}

impl Job<'_> {
    /// Lets `write` fill `out_width` values for each row. Returns them and what `write` returned, which is the scale of the row.
    fn run<T: Copy + Default + Send>(
        &self,
        out_width: usize,
        write: impl Fn(&Row, &mut [T]) -> Result<f32> + Sync,
    ) -> Result<(Vec<T>, Vec<f32>)> {
        let rows = self.rows;
        let (mut values, mut scales) = (zeros(rows, out_width)?, zeros(rows, 1)?);
        if values.is_empty() {
            return Ok((values, scales));
        }
        let piece = if self.threads == 1 { rows } else { rows.div_ceil(self.threads * PIECES_PER_THREAD) };
        let inputs = self.vectors.chunks(piece * self.width);
        let outputs = values.chunks_mut(piece * out_width).zip(scales.chunks_mut(piece));
        parallel::for_each(self.threads, inputs.zip(outputs).enumerate(), |(number, (input, (values, scales)))| {
            let rows = input.chunks_exact(self.width).zip(values.chunks_exact_mut(out_width)).zip(scales);
            for (index, ((row, out), scale)) in (number * piece..).zip(rows) {
                *scale = write(&Row::new(&row[..self.kept], self.normalize, index)?, out)?;
            }
            Ok(())
        })?;
        Ok((values, scales))
    }
}

/// How many values of each row are kept.
pub(crate) fn check_dimensions(length: usize, [rows, width]: [usize; 2], dimensions: Option<usize>) -> Result<usize> {
    if rows.checked_mul(width) != Some(length) {
        return Err(Error::new(Reason::ShapeMismatch, format!("{length} values do not have the shape ({rows}, {width})")));
    }
    match dimensions {
        None => Ok(width),
        Some(dimensions) if (1..=width).contains(&dimensions) => Ok(dimensions),
        Some(dimensions) => Err(Error::new(Reason::OutOfRange, format!("dimensions is {dimensions}; the vectors have 1 to {width}"))),
    }
}

/// The scale of int8: the largest absolute value becomes 127.
pub(crate) fn int8_scale(max_abs: f32) -> f32 {
    max_abs / INT8_MAX
}

/// One row of finite values, which is about to be written in some form. `T` is a number in memory, or its bytes on the wire.
pub(crate) struct Row<'a> {
    values: &'a [f32],
    index: usize,
    /// What each value is multiplied with; None where the values stay as they are.
    factor: Option<f64>,
}

impl<'a> Row<'a> {
    pub(crate) fn new(values: &'a [f32], normalize: bool, index: usize) -> Result<Self> {
        if !all_finite(values) {
            return Err(Error::at(Reason::NotFinite, index, format!("row {index} holds NaN or infinity")));
        }
        Ok(Self { values, index, factor: normalize.then(|| inverse_norm(values)) })
    }

    fn fill<T>(&self, out: &mut [T], store: impl Fn(f32) -> T) {
        match self.factor {
            // Two loops instead of a choice in one, so that each becomes vector instructions, or a plain copy.
            None => out.iter_mut().zip(self.values).for_each(|(out, value)| *out = store(*value)),
            Some(factor) => out.iter_mut().zip(self.values).for_each(|(out, value)| *out = store(scaled(*value, factor))),
        }
    }

    pub(crate) fn float32<T>(&self, out: &mut [T], store: impl Fn(f32) -> T) {
        self.fill(out, store);
    }

    pub(crate) fn float16<T>(&self, out: &mut [T], store: impl Fn(f16) -> T) -> Result<()> {
        let (mut wide, mut narrow) = ([0.0_f32; BLOCK], [f16::ZERO; BLOCK]);
        let mut finite = true;
        for (out, values) in out.chunks_mut(BLOCK).zip(self.values.chunks(BLOCK)) {
            let (wide, narrow) = (&mut wide[..values.len()], &mut narrow[..values.len()]);
            Row { values, ..*self }.fill(wide, |value| value);
            narrow.convert_from_f32_slice(wide);
            for (out, value) in out.iter_mut().zip(narrow) {
                finite &= value.is_finite();
                *out = store(*value);
            }
        }
        if finite {
            Ok(())
        } else {
            Err(Error::at(Reason::NotFinite, self.index, format!("row {} holds a value that float16 cannot hold", self.index)))
        }
    }

    /// The largest absolute value.
    pub(crate) fn max_abs(&self) -> f32 {
        // The bits of absolute values are in the order of the values, and whole numbers become vector instructions.
        let largest = f32::from_bits(self.values.iter().fold(0, |largest, value| largest.max(value.abs().to_bits())));
        self.factor.map_or(largest, |factor| scaled(largest, factor))
    }

    pub(crate) fn int8<T>(&self, scale: f32, out: &mut [T], store: impl Fn(i8) -> T) {
        // Adding this number to a small one leaves no bits for a fraction, so that the processor rounds to the nearest integer, halves to
        // even; the integer then stands in the lowest bits. In contrast to `round_ties_even` this becomes vector instructions everywhere.
        const ROUND: f64 = 6_755_399_441_055_744.0;
        // A scale too small for float32 is zero, and so are then the integers.
        let divisor = if scale > 0.0 { f64::from(scale) } else { f64::INFINITY };
        self.fill(out, |value| {
            let quotient = (f64::from(value) / divisor).clamp(-127.0, 127.0);
            #[allow(clippy::cast_possible_truncation, reason = "the integer stands in the lowest bits")]
            let integer = (quotient + ROUND).to_bits() as i8;
            store(integer)
        });
    }

    pub(crate) fn binary(&self, out: &mut [u8]) {
        // The bits tell of the values before they are scaled: what is positive counts as such even where it then is too small for float32.
        for (out, values) in out.iter_mut().zip(self.values.chunks(8)) {
            *out = values.iter().enumerate().fold(0, |byte, (bit, value)| byte | u8::from(*value > 0.0) << (7 - bit));
        }
    }
}
