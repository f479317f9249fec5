//! Pooling against a plain float64 version of it, for every mode, type and instruction set.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]

mod common;

use common::{Random, for_each_level};
use half::{bf16, f16};
use hubwire_core::Reason;
use hubwire_core::pool::{Hidden, Mask, Mode, Options, pool_padded, pool_ragged};

const MODES: [Mode; 6] = [Mode::Mean, Mode::Max, Mode::Cls, Mode::LastToken, Mode::MeanSqrtLen, Mode::WeightedMean];
const EMPTY: [f32; 0] = [];
/// Most are no multiple of a vector width, and the last is beyond one block of columns.
const WIDTHS: [usize; 7] = [1, 3, 17, 64, 384, 1000, 1030];

fn options(mode: Mode) -> Options<'static> {
    Options { mode, skip: None, normalize: false, threads: 1 }
}

/// Hidden states in each of the three types, and the values that they then have.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<u16>),
}

impl Stored {
    fn new(kind: usize, values: Vec<f32>) -> Self {
        match kind {
            0 => Self::F32(values),
            1 => Self::F16(values.into_iter().map(f16::from_f32).collect()),
            _ => Self::Bf16(values.into_iter().map(|value| bf16::from_f32(value).to_bits()).collect()),
        }
    }

    fn hidden(&self) -> Hidden<'_> {
        match self {
            Self::F32(values) => Hidden::F32(values),
            Self::F16(values) => Hidden::F16(values),
            Self::Bf16(values) => Hidden::Bf16(values),
        }
    }

    fn value(&self, index: usize) -> f64 {
        match self {
            Self::F32(values) => f64::from(values[index]),
            Self::F16(values) => values[index].to_f64(),
            Self::Bf16(values) => bf16::from_bits(values[index]).to_f64(),
        }
    }
}

/// One text, pooled in float64. `tokens` are those of the text that are not masked, in order.
fn reference(stored: &Stored, width: usize, tokens: &[usize], skip: usize, mode: Mode, normalize: bool) -> Vec<f64> {
    let Some(origin) = tokens.first().copied() else { return vec![0.0; width] };
    let tokens: Vec<usize> = tokens.iter().copied().filter(|token| *token >= origin + skip).collect();
    if tokens.is_empty() {
        return vec![0.0; width];
    }
    let count = tokens.len() as f64;
    let weights: Vec<f64> = tokens.iter().map(|token| (token - origin + 1) as f64).collect();
    let mut row: Vec<f64> = (0..width)
        .map(|column| {
            let values = tokens.iter().map(|token| stored.value(token * width + column));
            match mode {
                Mode::Mean => values.sum::<f64>() / count,
                Mode::MeanSqrtLen => values.sum::<f64>() / count.sqrt(),
                Mode::WeightedMean => values.zip(&weights).map(|(value, weight)| value * weight).sum::<f64>() / weights.iter().sum::<f64>(),
                Mode::Max => values.fold(f64::NEG_INFINITY, f64::max),
                Mode::Cls => stored.value(tokens[0] * width + column),
                Mode::LastToken => stored.value(tokens[tokens.len() - 1] * width + column),
            }
        })
        .collect();
    let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
    if normalize && norm > 0.0 {
        for value in &mut row {
            *value /= norm;
        }
    }
    row
}

fn assert_close(found: &[f32], wanted: &[f64], case: &str) {
    assert_eq!(found.len(), wanted.len(), "{case}");
    for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((f64::from(*found) - wanted).abs() <= 2e-5, "{case}: value {index} is {found}, not {wanted}");
    }
}

#[test]
fn pools_padded_batches_as_float64_does() {
    for_each_level(|level| {
        for seed in 0..150 {
            let mut random = Random::new(seed);
            let (texts, length, width) = (random.below(5), random.below(12), random.pick(&WIDTHS));
            let stored = Stored::new(random.below(3), random.values(texts * length * width));
            let dense = random.chance();
            let mask: Vec<u8> = (0..texts * length).map(|_| u8::from(dense || random.chance())).collect();
            let skips: Vec<i64> = (0..texts).map(|_| random.below(4) as i64).collect();
            let skip = random.chance().then_some(&skips[..]);
            let (normalize, threads) = (random.chance(), 1 + random.below(3));
            for mode in MODES {
                let case = format!("seed {seed}, {level:?}, {mode:?}");
                let options = Options { mode, skip, normalize, threads };
                let pooled = pool_padded(stored.hidden(), [texts, length, width], Mask::Bits8(&mask), [texts, length], &options).unwrap();
                for text in 0..texts {
                    let tokens: Vec<usize> = (text * length..(text + 1) * length).filter(|token| mask[*token] != 0).collect();
                    let skip = skip.map_or(0, |skip| skip[text] as usize);
                    let wanted = reference(&stored, width, &tokens, skip, mode, normalize);
                    assert_close(&pooled[text * width..(text + 1) * width], &wanted, &case);
                }
            }
        }
    });
}

#[test]
fn pools_ragged_batches_as_float64_does() {
    for_each_level(|level| {
        for seed in 0..150 {
            let mut random = Random::new(seed);
            let (texts, width) = (random.below(6), random.pick(&WIDTHS));
            let mut offsets = vec![0_i64];
            for _ in 0..texts {
                offsets.push(offsets[offsets.len() - 1] + random.below(14) as i64);
            }
            let tokens = offsets[texts] as usize;
            let stored = Stored::new(random.below(3), random.values(tokens * width));
            let skips: Vec<i64> = (0..texts).map(|_| random.below(4) as i64).collect();
            let skip = random.chance().then_some(&skips[..]);
            let (normalize, threads) = (random.chance(), 1 + random.below(3));
            for mode in MODES {
                let options = Options { mode, skip, normalize, threads };
                let pooled = pool_ragged(stored.hidden(), [tokens, width], &offsets, &options).unwrap();
                for text in 0..texts {
                    let tokens: Vec<usize> = (offsets[text] as usize..offsets[text + 1] as usize).collect();
                    let skip = skip.map_or(0, |skip| skip[text] as usize);
                    let wanted = reference(&stored, width, &tokens, skip, mode, normalize);
                    assert_close(&pooled[text * width..(text + 1) * width], &wanted, &format!("seed {seed}, {level:?}, {mode:?}"));
                }
            }
        }
    });
}

#[test]
fn many_threads_give_what_one_gives() {
    let mut random = Random::new(1);
    // Enough bytes for three threads.
    let (texts, length, width) = (37, 100, 700);
    let values = random.values(texts * length * width);
    let mask: Vec<u64> = (0..texts * length).map(|_| u64::from(random.chance()) << 40).collect();
    for mode in MODES {
        let [one, many] = [1, 3].map(|threads| {
            let options = Options { threads, ..options(mode) };
            pool_padded(Hidden::F32(&values), [texts, length, width], Mask::Bits64(&mask), [texts, length], &options).unwrap()
        });
        assert_eq!(one, many, "{mode:?}");
    }
}

#[test]
fn the_error_of_many_threads_is_that_of_the_first_text() {
    let (texts, length, width) = (40, 100, 700);
    let mut values = vec![1.0; texts * length * width];
    for text in [11, 12, 23, 39] {
        values[text * length * width + 5] = f32::NAN;
    }
    let mask = vec![1_u8; texts * length];
    for _ in 0..20 {
        let options = Options { threads: 4, ..options(Mode::Mean) };
        let error = pool_padded(Hidden::F32(&values), [texts, length, width], Mask::Bits8(&mask), [texts, length], &options).unwrap_err();
        assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(11)));
    }
}

#[test]
fn a_value_that_is_not_finite_is_found_wherever_it_is_pooled() {
    for_each_level(|level| {
        for mode in MODES {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for tokens in 1..=9 {
                    for token in 0..tokens {
                        for width in [1, 17, 40] {
                            for kind in 0..3 {
                                // The bad value stands in the second of three texts, in the last column.
                                let mut values = vec![1.0; 3 * tokens * width];
                                values[(tokens + token + 1) * width - 1] = bad;
                                let stored = Stored::new(kind, values);
                                let offsets = [0, tokens as i64, 2 * tokens as i64, 3 * tokens as i64];
                                let found = pool_ragged(stored.hidden(), [3 * tokens, width], &offsets, &options(mode));
                                let pooled = match mode {
                                    Mode::Cls => token == 0,
                                    Mode::LastToken => token == tokens - 1,
                                    _ => true,
                                };
                                let index = found.err().map(|error| (error.reason, error.index));
                                let case = format!("{level:?} {mode:?} {bad} at {token} of {tokens}, width {width}");
                                assert_eq!(index, pooled.then_some((Reason::NotFinite, Some(1))), "{case}");
                            }
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn the_sum_of_a_long_text_is_as_exact_as_float32_can_be() {
    const WIDTH: usize = 17;
    for (tokens, kinds) in [(256, 0..3), (257, 0..3), (600, 0..3), (100_000, 0..1)] {
        for kind in kinds {
            let mut random = Random::new(3);
            let stored = Stored::new(kind, (0..tokens * WIDTH).map(|_| 3.0 + random.value() / 2.0).collect());
            let all: Vec<usize> = (0..tokens).collect();
            for mode in [Mode::Mean, Mode::MeanSqrtLen, Mode::WeightedMean] {
                let wanted = reference(&stored, WIDTH, &all, 0, mode, false);
                for_each_level(|level| {
                    let found = pool_ragged(stored.hidden(), [tokens, WIDTH], &[0, tokens as i64], &options(mode)).unwrap();
                    for (found, wanted) in found.iter().zip(&wanted) {
                        let off = (f64::from(*found) / wanted - 1.0).abs();
                        assert!(off <= 1e-6, "{level:?} {mode:?} {tokens} tokens of type {kind}: {found}, not {wanted}");
                    }
                });
            }
        }
    }
}

#[test]
fn holes_in_a_long_text_do_not_change_its_sum() {
    const WIDTH: usize = 5;
    let mut random = Random::new(4);
    let values = random.values(2000 * WIDTH);
    let mask: Vec<u8> = (0..2000).map(|_| u8::from(random.chance())).collect();
    let kept: Vec<f32> = values.chunks(WIDTH).zip(&mask).filter(|(_, mask)| **mask != 0).flat_map(|(token, _)| token).copied().collect();
    let tokens = kept.len() / WIDTH;
    for_each_level(|level| {
        let holes = pool_padded(Hidden::F32(&values), [1, 2000, WIDTH], Mask::Bits8(&mask), [1, 2000], &options(Mode::Mean)).unwrap();
        let whole = pool_ragged(Hidden::F32(&kept), [tokens, WIDTH], &[0, tokens as i64], &options(Mode::Mean)).unwrap();
        assert_eq!(holes, whole, "{level:?}");
    });
}

#[test]
fn infinities_of_both_signs_do_not_cancel_out() {
    let values = [f32::INFINITY, f32::NEG_INFINITY, 1.0, 1.0, 1.0];
    let error = pool_ragged(Hidden::F32(&values), [5, 1], &[0, 5], &options(Mode::Mean)).unwrap_err();
    assert_eq!(error.reason, Reason::NotFinite);
    let mut values = [1.0; 600];
    (values[0], values[599]) = (f32::INFINITY, f32::NEG_INFINITY);
    let error = pool_ragged(Hidden::F32(&values), [600, 1], &[0, 600], &options(Mode::Mean)).unwrap_err();
    assert_eq!(error.reason, Reason::NotFinite);
}

#[test]
fn nan_under_the_mask_does_no_harm() {
    for_each_level(|_| {
        let mut values = vec![f32::NAN; 2 * 5 * 20];
        for token in [1, 2, 8] {
            values[token * 20..(token + 1) * 20].fill(2.0);
        }
        let mask = [0_u16, 1, 1, 0, 0, 0, 0, 0, 1, 0];
        for mode in [Mode::Mean, Mode::Max, Mode::Cls, Mode::LastToken, Mode::WeightedMean] {
            let pooled = pool_padded(Hidden::F32(&values), [2, 5, 20], Mask::Bits16(&mask), [2, 5], &options(mode)).unwrap();
            assert_eq!(pooled, [2.0; 40], "{mode:?}");
        }
    });
}

#[test]
fn a_sum_beyond_float32_is_still_a_mean() {
    let values = [f32::MAX; 6];
    for mode in [Mode::Mean, Mode::WeightedMean] {
        let pooled = pool_ragged(Hidden::F32(&values), [3, 2], &[0, 3], &options(mode)).unwrap();
        assert_eq!(pooled, [f32::MAX; 2], "{mode:?}");
        let pooled = pool_ragged(Hidden::F32(&[f32::MAX; 600]), [300, 2], &[0, 300], &options(mode)).unwrap();
        assert_eq!(pooled, [f32::MAX; 2], "{mode:?}");
    }
    let error = pool_ragged(Hidden::F32(&values), [3, 2], &[0, 3], &options(Mode::MeanSqrtLen)).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(0)));
}

#[test]
fn very_small_and_very_large_rows_are_normalized() {
    for value in [f32::MIN_POSITIVE / 64.0, 1e-30, 1e30, f32::MAX] {
        let values = [value; 4];
        let options = Options { normalize: true, ..options(Mode::Cls) };
        let pooled = pool_ragged(Hidden::F32(&values), [1, 4], &[0, 1], &options).unwrap();
        assert_close(&pooled, &[0.5; 4], &value.to_string());
    }
}

#[test]
fn a_text_without_tokens_gives_zeros() {
    let values = [1.0_f32; 12];
    for mode in MODES {
        let options = Options { normalize: true, skip: Some(&[0, i64::MAX]), ..options(mode) };
        let pooled = pool_padded(Hidden::F32(&values), [2, 2, 3], Mask::Bits32(&[0, 0, 1, 1]), [2, 2], &options).unwrap();
        assert_eq!(pooled, [0.0; 6], "{mode:?}");
        let options = Options { skip: None, ..options };
        let pooled = pool_ragged(Hidden::F32(&[]), [0, 3], &[0, 0, 0], &options).unwrap();
        assert_eq!(pooled, [0.0; 6], "{mode:?}");
    }
}

#[test]
fn empty_batches_and_empty_vectors_are_no_error() {
    for mode in MODES {
        assert_eq!(pool_ragged(Hidden::F32(&[]), [0, 8], &[0], &options(mode)).unwrap(), EMPTY);
        assert_eq!(pool_ragged(Hidden::F32(&[]), [4, 0], &[0, 4], &options(mode)).unwrap(), EMPTY);
        assert_eq!(pool_padded(Hidden::F32(&[]), [0, 4, 8], Mask::Bits8(&[]), [0, 4], &options(mode)).unwrap(), EMPTY);
        assert_eq!(pool_padded(Hidden::F32(&[]), [3, 0, 2], Mask::Bits8(&[]), [3, 0], &options(mode)).unwrap(), [0.0; 6]);
        assert_eq!(pool_padded(Hidden::F32(&[]), [1, 2, 0], Mask::Bits8(&[1, 1]), [1, 2], &options(mode)).unwrap(), EMPTY);
    }
}

#[test]
fn offsets_out_of_order_are_refused_with_their_index() {
    for (offsets, index) in [
        (&[][..], 0),
        (&[1, 4], 0),
        (&[-1, 4], 0),
        (&[0, 3, 2, 4], 2),
        (&[0, i64::MIN, 4], 1),
        (&[0, 5], 1),
        (&[0, 3], 1),
        (&[0, i64::MAX, 4], 2),
        (&[0], 0),
    ] {
        let error = pool_ragged(Hidden::F32(&[0.0; 4]), [4, 1], offsets, &options(Mode::Mean)).unwrap_err();
        assert_eq!((error.reason, error.index), (Reason::OffsetsOutOfOrder, Some(index)), "{offsets:?}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let hidden = Hidden::F32(&[0.0; 12]);
    let mask = Mask::Bits8(&[1; 6]);
    let refused = |result: hubwire_core::Result<Vec<f32>>| result.unwrap_err().reason == Reason::ShapeMismatch;
    assert!(refused(pool_padded(hidden, [2, 3, 2], mask, [3, 2], &options(Mode::Mean))));
    assert!(refused(pool_padded(hidden, [2, 2, 3], mask, [2, 2], &options(Mode::Mean))));
    assert!(refused(pool_padded(hidden, [2, 3, 3], mask, [2, 3], &options(Mode::Mean))));
    assert!(refused(pool_ragged(hidden, [6, 3], &[0, 6], &options(Mode::Mean))));
    let short = Options { skip: Some(&[0]), ..options(Mode::Mean) };
    assert!(refused(pool_padded(hidden, [2, 3, 2], mask, [2, 3], &short)));
}

#[test]
fn a_negative_skip_is_refused_with_its_index() {
    let negative = Options { skip: Some(&[0, -1]), ..options(Mode::Mean) };
    let error = pool_ragged(Hidden::F32(&[0.0; 4]), [4, 1], &[0, 2, 4], &negative).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::OutOfRange, Some(1)));
}

#[test]
fn results_that_no_memory_holds_are_refused() {
    for (texts, width) in [(1 << 50, 64), (usize::MAX, 2)] {
        let result = pool_padded(Hidden::F32(&[]), [texts, 0, width], Mask::Bits8(&[]), [texts, 0], &options(Mode::Mean));
        assert_eq!(result.unwrap_err().reason, Reason::OutOfRange);
    }
}
