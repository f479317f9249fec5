//! The largest logits, and sparse vectors, against plain statements of what they are.

mod common;

use common::{Random, for_each_level};
use hubwire_core::Reason;
use hubwire_core::sparse::sparse_rows;
use hubwire_core::topk::top_k;

/// Values of which many are equal, in rows of many lengths.
fn logits(random: &mut Random) -> (Vec<f32>, [usize; 2]) {
    let shape = [random.below(5), random.pick(&[1, 3, 16, 17, 127, 128, 129, 1000, 2300])];
    let count = shape[0] * shape[1];
    let values = if random.chance() { random.values(count) } else { (0..count).map(|_| random.value().round() * 20.0).collect() };
    (values, shape)
}

#[test]
fn the_largest_values_are_the_first_of_a_sorted_row() {
    for_each_level(|_| the_largest_are_right());
}

fn the_largest_are_right() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let (logits, shape) = logits(&mut random);
        let k = random.pick(&[0, 1, 2, 10, 5000]);
        let found = top_k(&logits, shape, k, 1 + random.below(3)).unwrap();
        let width = k.min(shape[1]);
        assert_eq!(found.width, width);
        for (row, values) in logits.chunks(shape[1]).enumerate() {
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|left, right| values[*right].partial_cmp(&values[*left]).unwrap());
            let wanted: Vec<i32> = order[..width].iter().map(|id| i32::try_from(*id).unwrap()).collect();
            assert_eq!(found.ids[row * width..(row + 1) * width], wanted, "seed {seed}");
            let sum: f64 = values.iter().map(|value| f64::from(*value).exp()).sum();
            assert!((f64::from(found.logsumexp[row]) - sum.ln()).abs() < 1e-5, "seed {seed}");
        }
    }
}

#[test]
fn the_sum_of_exponentials_holds_over_the_whole_range() {
    for_each_level(|level| {
        for step in 0..4000_u16 {
            let difference = f32::from(step) / 40.0;
            let found = top_k(&[1.0, 1.0 - difference], [1, 2], 1, 1).unwrap().logsumexp[0];
            let wanted = 1.0 + (-f64::from(difference)).exp().ln_1p();
            assert!((f64::from(found) - wanted).abs() <= 1.3e-7, "{difference} with {level:?}");
        }
    });
}

#[test]
fn sparse_rows_hold_what_is_above_zero() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (maxima, shape) = logits(&mut random);
        let found = sparse_rows(&maxima, shape, 1 + random.below(3)).unwrap();
        assert_eq!(found.offsets.len(), shape[0] + 1);
        let mut entries = found.indices.iter().zip(&found.values);
        for (row, values) in maxima.chunks(shape[1]).enumerate() {
            for (column, value) in values.iter().enumerate().filter(|(_, value)| **value > 0.0) {
                let (index, found) = entries.next().unwrap();
                assert_eq!(*index, i32::try_from(column).unwrap());
                assert!((f64::from(*found) - f64::from(*value).ln_1p()).abs() < 1e-6);
            }
            assert_eq!(found.offsets[row + 1], i64::try_from(found.indices.len() - entries.len()).unwrap(), "seed {seed}");
        }
        assert_eq!(entries.next(), None);
    }
}

#[test]
fn the_first_row_that_is_not_finite_is_named() {
    for (bad, threads) in [(f32::NAN, 1), (f32::INFINITY, 4), (f32::NEG_INFINITY, 4)] {
        let mut values = vec![0.0; 60 * 20_000];
        values[41 * 20_000 + 3] = bad;
        values[55 * 20_000 + 3] = bad;
        let error = top_k(&values, [60, 20_000], 3, threads).unwrap_err();
        assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(41)));
        let error = sparse_rows(&values, [60, 20_000], threads).unwrap_err();
        assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(41)));
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert_eq!(top_k(&[], [2, 0], 1, 1).unwrap_err().reason, Reason::ShapeMismatch);
    assert_eq!(top_k(&[1.0], [2, 1], 1, 1).unwrap_err().reason, Reason::ShapeMismatch);
    assert_eq!(sparse_rows(&[1.0], [2, 1], 1).unwrap_err().reason, Reason::ShapeMismatch);
}
