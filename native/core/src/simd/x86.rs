//! The loops for AVX2 and AVX-512.
#![allow(clippy::cast_ptr_alignment, reason = "the loads and stores in use ask for no alignment")]

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_loadu_si256, _mm256_storeu_ps, _mm512_cvtph_ps, _mm512_storeu_ps,
};

use half::f16;

use super::{Kernels, LANES, Rows, Weights, lanes};

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub(super) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Compiles the loops with `$features`, which are those that `$available` detects.
macro_rules! level {
    (
        $kernels:ident, $module:ident, $features:literal, $available:ident,
        pool: $accumulate:expr, $maximum:expr,
        f16: $lanes:literal, $vector:ty, $load:ident, $convert:ident, $store:ident
    ) => {
        pub(super) const $kernels: Kernels = Kernels {
            accumulate: $module::accumulate,
            flush: $module::flush,
            maximum: $module::maximum,
            widen_f16: $module::widen_f16,
            widen_bf16: $module::widen_bf16,
            lane_maxima: $module::lane_maxima,
            exp_sum: $module::exp_sum,
        };

        mod $module {
            use super::*;

            pub(super) fn accumulate(sums: &mut [f32], rows: Rows, weights: Weights) {
                #[target_feature(enable = $features)]
                fn compiled(sums: &mut [f32], rows: Rows, weights: Weights) {
                    $accumulate(sums, rows, weights);
                }
                debug_assert!($available());
                // SAFETY: `Kernels::current` hands this level out only where the machine has its features.
                unsafe { compiled(sums, rows, weights) }
            }

            pub(super) fn flush(totals: &mut [f64], sums: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn compiled(totals: &mut [f64], sums: &mut [f32]) {
                    lanes::flush(totals, sums);
                }
                debug_assert!($available());
                // SAFETY: `Kernels::current` hands this level out only where the machine has its features.
                unsafe { compiled(totals, sums) }
            }

            pub(super) fn maximum(largest: &mut [f32], rows: Rows) -> bool {
                #[target_feature(enable = $features)]
                fn compiled(largest: &mut [f32], rows: Rows) -> bool {
                    $maximum(largest, rows)
                }
                debug_assert!($available());
                // SAFETY: `Kernels::current` hands this level out only where the machine has its features.
                unsafe { compiled(largest, rows) }
            }

            pub(super) fn widen_f16(from: &[f16], to: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn compiled(from: &[f16], to: &mut [f32]) {
                    let (from, from_rest) = from.as_chunks::<$lanes>();
                    let (to, to_rest) = to.as_chunks_mut::<$lanes>();
                    for (from, to) in from.iter().zip(to) {
                        // SAFETY: both are arrays of $lanes values, which is what is read and written; neither access asks for alignment.
                        unsafe { $store(to.as_mut_ptr(), $convert($load(from.as_ptr().cast::<$vector>()))) };
                    }
                    lanes::widen_f16(from_rest, to_rest);
                }
                debug_assert!($available());
                // SAFETY: `Kernels::current` hands this level out only where the machine has its features.
                unsafe { compiled(from, to) }
            }

            pub(super) fn widen_bf16(from: &[u16], to: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn compiled(from: &[u16], to: &mut [f32]) {
                    lanes::widen_bf16(from, to);
                }
                debug_assert!($available());
                // SAFETY: `Kernels::current` hands this level out only where the machine has its features.
                unsafe { compiled(from, to) }
            }

            pub(super) fn lane_maxima(largest: &mut [f32; LANES], values: &[f32]) -> bool {
                #[target_feature(enable = $features)]
                fn compiled(largest: &mut [f32; LANES], values: &[f32]) -> bool {
                    lanes::lane_maxima(largest, values)
                }
                debug_assert!($available());
                // SAFETY: `Kernels::current` hands this level out only where the machine has its features.
                unsafe { compiled(largest, values) }
            }

            pub(super) fn exp_sum(values: &[f32], largest: f32) -> f32 {
                #[target_feature(enable = $features)]
                fn compiled(values: &[f32], largest: f32) -> f32 {
                    lanes::exp_sum(values, largest)
                }
                debug_assert!($available());
                // SAFETY: `Kernels::current` hands this level out only where the machine has its features.
                unsafe { compiled(values, largest) }
            }
        }
    };
}

level!(
    AVX2, avx2, "avx2,fma,f16c", has_avx2,
    pool: lanes::accumulate_rows::<true>, lanes::maximum_rows,
    f16: 8, __m128i, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps
);
level!(
    AVX512, avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", has_avx512,
    pool: lanes::accumulate_blocks::<384>, lanes::maximum_blocks::<384>,
    f16: 16, __m256i, _mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps
);
