//! Conversions of vectors against plain float64 versions of them.

mod common;

use common::Random;
use half::f16;
use hubwire_core::Reason;
use hubwire_core::quantize::{Encoding, Options, Values, convert};

const ENCODINGS: [Encoding; 4] = [Encoding::Float32, Encoding::Float16, Encoding::Int8, Encoding::Binary];

fn options(encoding: Encoding) -> Options {
    Options { dimensions: None, normalize: false, encoding, threads: 1 }
}

/// The first `kept` values of each row, scaled to length 1 where asked, in float64.
fn reference(vectors: &[f32], width: usize, kept: usize, normalize: bool) -> Vec<f64> {
    let mut rows = Vec::new();
    for row in vectors.chunks_exact(width) {
        let row: Vec<f64> = row[..kept].iter().map(|value| f64::from(*value)).collect();
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let divisor = if normalize && norm > 0.0 { norm } else { 1.0 };
        rows.extend(row.iter().map(|value| value / divisor));
    }
    rows
}

#[test]
fn converts_as_float64_does() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let (rows, width) = (random.below(6), random.pick(&[1, 3, 8, 17, 64, 384, 1000]));
        let vectors = random.values(rows * width);
        let kept = 1 + random.below(width);
        let (normalize, encoding) = (random.chance(), random.pick(&ENCODINGS));
        let options = Options { dimensions: Some(kept), normalize, encoding, threads: 1 + random.below(3) };
        let wanted = reference(&vectors, width, kept, normalize);
        let converted = convert(&vectors, [rows, width], &options).unwrap();
        match converted.values {
            Values::Float32(values) => {
                assert_eq!((values.len(), converted.width), (rows * kept, kept));
                for (value, wanted) in values.iter().zip(wanted) {
                    assert!((f64::from(*value) - wanted).abs() <= 1e-7 * wanted.abs(), "seed {seed}: {value}, not {wanted}");
                }
            }
            Values::Float16(values) => {
                assert_eq!((values.len(), converted.width), (rows * kept, kept));
                for (value, wanted) in values.iter().zip(wanted) {
                    assert!((value.to_f64() - wanted).abs() <= 5e-4 * wanted.abs() + 3e-8, "seed {seed}: {value}, not {wanted}");
                }
            }
            Values::Int8(values, scales) => {
                assert_eq!((values.len(), scales.len(), converted.width), (rows * kept, rows, kept));
                for ((row, wanted), scale) in values.chunks_exact(kept).zip(wanted.chunks_exact(kept)).zip(scales) {
                    let scale = f64::from(scale);
                    let largest = wanted.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
                    assert!((scale - largest / 127.0).abs() <= 1e-7 * scale, "seed {seed}");
                    for (value, wanted) in row.iter().zip(wanted) {
                        assert!(
                            (f64::from(*value) * scale - wanted).abs() <= 0.5001 * scale,
                            "seed {seed}: {value} x {scale}, not {wanted}"
                        );
                    }
                }
            }
            Values::Binary(values) => {
                assert_eq!((values.len(), converted.width), (rows * kept.div_ceil(8), kept.div_ceil(8)));
                for (row, wanted) in values.chunks_exact(kept.div_ceil(8)).zip(wanted.chunks_exact(kept)) {
                    for bit in 0..row.len() * 8 {
                        let set = row[bit / 8] >> (7 - bit % 8) & 1 == 1;
                        assert_eq!(set, bit < kept && wanted[bit] > 0.0, "seed {seed}, bit {bit}");
                    }
                }
            }
        }
    }
}

#[test]
fn int8_rounds_halves_to_even() {
    // The largest value makes the scale 1, so that the others stand exactly between two integers.
    let vectors = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, -127.0];
    let converted = convert(&vectors, [1, 10], &options(Encoding::Int8)).unwrap();
    assert_eq!(converted.values, Values::Int8(vec![127, 0, 2, 2, 0, -2, -2, 126, -126, -127], vec![1.0]));
}

#[test]
fn float16_rounds_halves_to_even() {
    // 2048 is where float16 holds even integers only.
    let vectors = [2049.0, 2051.0, -2049.0, 65504.0, 65519.0, 6e-8, 2e-8];
    let Values::Float16(values) = convert(&vectors, [1, 7], &options(Encoding::Float16)).unwrap().values else { panic!() };
    let wanted = [2048.0, 2052.0, -2048.0, 65504.0, 65504.0, 5.960_464_5e-8, 0.0].map(f16::from_f32);
    assert_eq!(values, wanted);
}

#[test]
fn rows_of_zeros_stay_so() {
    for encoding in ENCODINGS {
        let options = Options { normalize: true, ..options(encoding) };
        match convert(&[0.0; 6], [2, 3], &options).unwrap().values {
            Values::Float32(values) => assert_eq!(values, [0.0; 6]),
            Values::Float16(values) => assert_eq!(values, [f16::ZERO; 6]),
            Values::Int8(values, scales) => assert_eq!((&values[..], &scales[..]), (&[0; 6][..], &[0.0; 2][..])),
            Values::Binary(values) => assert_eq!(values, [0; 2]),
        }
    }
}

#[test]
fn a_scale_too_small_for_float32_gives_zeros() {
    let smallest = f32::from_bits(1);
    let converted = convert(&[smallest, -smallest], [1, 2], &options(Encoding::Int8)).unwrap();
    assert_eq!(converted.values, Values::Int8(vec![0, 0], vec![0.0]));
}

#[test]
fn a_bit_tells_of_the_value_before_it_is_scaled() {
    let vectors = [f32::MAX, f32::from_bits(1), -f32::MAX, 0.0];
    let options = Options { normalize: true, ..options(Encoding::Float32) };
    let Values::Float32(scaled) = convert(&vectors, [1, 4], &options).unwrap().values else { panic!() };
    assert_eq!(scaled[1].to_bits(), 0);
    let bits = convert(&vectors, [1, 4], &Options { encoding: Encoding::Binary, ..options }).unwrap().values;
    assert_eq!(bits, Values::Binary(vec![0b1100_0000]));
}

#[test]
fn values_that_are_not_finite_are_refused_with_their_row() {
    for encoding in ENCODINGS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for threads in [1, 4] {
                let mut vectors = vec![1.0; 2000 * 300];
                vectors[1500 * 300 + 7] = bad;
                vectors[1900 * 300 + 7] = bad;
                let options = Options { threads, ..options(encoding) };
                let error = convert(&vectors, [2000, 300], &options).unwrap_err();
                assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(1500)));
                // What is cut off is not looked at.
                convert(&vectors, [2000, 300], &Options { dimensions: Some(7), ..options }).unwrap();
            }
        }
    }
}

#[test]
fn a_value_beyond_float16_is_refused_unless_it_is_scaled() {
    let vectors = [1.0, 65520.0];
    let error = convert(&vectors, [2, 1], &options(Encoding::Float16)).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(1)));
    let options = Options { normalize: true, ..options(Encoding::Float16) };
    assert_eq!(convert(&vectors, [2, 1], &options).unwrap().values, Values::Float16(vec![f16::ONE; 2]));
}

#[test]
fn dimensions_out_of_range_are_refused() {
    for dimensions in [0, 4, usize::MAX] {
        let error = convert(&[0.0; 6], [2, 3], &Options { dimensions: Some(dimensions), ..options(Encoding::Float32) }).unwrap_err();
        assert_eq!(error.reason, Reason::OutOfRange);
    }
    let error = convert(&[0.0; 6], [2, 4], &options(Encoding::Float32)).unwrap_err();
    assert_eq!(error.reason, Reason::ShapeMismatch);
}

#[test]
fn no_rows_and_no_columns_are_no_error() {
    for encoding in ENCODINGS {
        assert_eq!(convert(&[], [0, 5], &options(encoding)).unwrap().width, if encoding == Encoding::Binary { 1 } else { 5 });
        assert_eq!(convert(&[], [5, 0], &options(encoding)).unwrap().width, 0);
    }
    let converted = convert(&[], [2, 0], &options(Encoding::Int8)).unwrap();
    assert_eq!(converted.values, Values::Int8(vec![], vec![0.0; 2]));
}
