//! What pooling reads: hidden states, and the mask that says which of them count.

use std::ops::Range;

use half::{bf16, f16};

/// Hidden states, token after token.
#[derive(Clone, Copy, Debug)]
pub enum Hidden<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float16.
    F16(&'a [f16]),
    /// bfloat16, given as its bits.
    Bf16(&'a [u16]),
}

/// A mask: what is not zero counts. One variant for each width of the integers, whatever their sign.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Mask<'a> {
    Bits8(&'a [u8]),
    Bits16(&'a [u16]),
    Bits32(&'a [u32]),
    Bits64(&'a [u64]),
}

impl Hidden<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// The size in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(*values),
            Self::F16(values) => size_of_val(*values),
            Self::Bf16(values) => size_of_val(*values),
        }
    }

    pub(crate) fn value(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values[index],
            Self::F16(values) => values[index].to_f32(),
            Self::Bf16(values) => bf16::from_bits(values[index]).to_f32(),
        }
    }
}

impl Mask<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bits8(mask) => mask.len(),
            Self::Bits16(mask) => mask.len(),
            Self::Bits32(mask) => mask.len(),
            Self::Bits64(mask) => mask.len(),
        }
    }

    /// Appends the runs of the mask in `tokens`.
    pub(crate) fn runs(&self, tokens: Range<usize>, runs: &mut Vec<Range<usize>>) {
        fn find<T: Copy + Default + PartialEq>(mask: &[T], base: usize, runs: &mut Vec<Range<usize>>) {
            let mut end = base;
            for stretch in mask.chunk_by(|left, right| (*left == T::default()) == (*right == T::default())) {
                let start = end;
                end += stretch.len();
                if stretch[0] != T::default() {
                    runs.push(start..end);
                }
            }
        }
        let base = tokens.start;
        match self {
            Self::Bits8(mask) => find(&mask[tokens], base, runs),
            Self::Bits16(mask) => find(&mask[tokens], base, runs),
            Self::Bits32(mask) => find(&mask[tokens], base, runs),
            Self::Bits64(mask) => find(&mask[tokens], base, runs),
        }
    }
}
