//! The loops of pooling and of logits, compiled once for each instruction set and chosen at run time.
//!
//! Each loop is written once, as plain Rust that the compiler turns into vector instructions; `level!` compiles it with the features of an
//! instruction set. What the compiler cannot find by itself, the conversion of float16, is written with intrinsics. This file and the
//! files below it are the only place of the core with unsafe code.
#![allow(unsafe_code, reason = "calling a function with target features and loading through pointers")]

use std::sync::atomic::{AtomicU8, Ordering};

use half::f16;

use crate::error::{Error, Reason, Result};

mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// What the target offers without asking.
    Scalar = 1,
    /// 128 bits on aarch64.
    Neon = 2,
    /// 256 bits on x86-64, with fused multiply-add and float16 conversion.
    Avx2 = 3,
    /// 512 bits on x86-64.
    Avx512 = 4,
}

impl Level {
    /// Every level, the best last.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// The name of the level.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this machine has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            // NEON is part of every aarch64.
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::has_avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    fn best() -> Self {
        Self::ALL.into_iter().rev().find(|level| level.is_available()).unwrap_or(Self::Scalar)
    }
}

/// The level in force; 0 where none was chosen yet. Nothing else hangs on it, so no order with other memory is needed.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that pooling uses.
pub fn level() -> Level {
    let stored = LEVEL.load(Ordering::Relaxed);
    Level::ALL.into_iter().find(|level| *level as u8 == stored).unwrap_or_else(|| {
        let best = Level::best();
        LEVEL.store(best as u8, Ordering::Relaxed);
        best
    })
}

/// Pins the level for the process, or gives the choice back where `wanted` is None. Returns what was in force.
///
/// # Errors
/// `InvalidArgument` where this machine lacks the level.
pub fn set_level(wanted: Option<Level>) -> Result<Level> {
    let previous = level();
    let wanted = wanted.unwrap_or_else(Level::best);
    if !wanted.is_available() {
        return Err(Error::new(Reason::InvalidArgument, format!("this machine has no {}", wanted.name())));
    }
    LEVEL.store(wanted as u8, Ordering::Relaxed);
    Ok(previous)
}

/// Rows of which each begins `stride` values after the one before. The last may be shorter than `stride`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// `count` columns of each row.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "it is part of the loops")]
    fn columns(self, from: usize, count: usize) -> impl Iterator<Item = &'a [f32]> {
        self.values.chunks(self.stride).map(move |row| &row[from..from + count])
    }

    /// The same rows without their first `columns`.
    fn without_columns(self, columns: usize) -> Self {
        Self { values: &self.values[columns..], ..self }
    }
}

/// The weights of rows that follow each other.
#[derive(Clone, Copy)]
pub(crate) struct Weights {
    pub first: f32,
    /// What each weighs more than the one before.
    pub step: f32,
}

/// So many values of a row of logits are compared, or summed, side by side.
pub(crate) const LANES: usize = 16;

/// Adds weighted rows to sums.
pub(crate) type Accumulate = fn(&mut [f32], Rows, Weights);
/// Adds sums to totals, and makes the sums zero.
pub(crate) type Flush = fn(&mut [f64], &mut [f32]);
/// Raises values to the largest of rows. Returns false where one of their values is NaN or infinite.
pub(crate) type Maximum = fn(&mut [f32], Rows) -> bool;
/// Widens float16.
pub(crate) type WidenF16 = fn(&[f16], &mut [f32]);
/// Widens bfloat16, given as its bits.
pub(crate) type WidenBf16 = fn(&[u16], &mut [f32]);

/// Raises the largest values of interleaved groups. Returns false where a value is NaN or infinite.
pub(crate) type LaneMaxima = fn(&mut [f32; LANES], &[f32]) -> bool;
/// Sums exp(value - largest).
pub(crate) type ExpSum = fn(&[f32], f32) -> f32;

/// The loops of one level. Rows are at least as wide as what they are pooled into; widening goes from one slice to one of the same length.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    pub accumulate: Accumulate,
    pub flush: Flush,
    pub maximum: Maximum,
    pub widen_f16: WidenF16,
    pub widen_bf16: WidenBf16,
    pub lane_maxima: LaneMaxima,
    pub exp_sum: ExpSum,
}

impl Kernels {
    /// The loops of the level in force.
    pub(crate) fn current() -> Self {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::AVX512,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::AVX2,
            // On aarch64 the plain loops are NEON already. They fuse multiplication and addition, which is an instruction there.
            Level::Neon => Self { accumulate: lanes::accumulate_rows::<true>, ..Self::SCALAR },
            _ => Self::SCALAR,
        }
    }

    const SCALAR: Self = Self {
        accumulate: lanes::accumulate_rows::<false>,
        flush: lanes::flush,
        maximum: lanes::maximum_rows,
        widen_f16: lanes::widen_f16,
        widen_bf16: lanes::widen_bf16,
        lane_maxima: lanes::lane_maxima,
        exp_sum: lanes::exp_sum,
    };
}
