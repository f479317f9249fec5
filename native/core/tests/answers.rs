//! Answer spans against all spans there are.

mod common;

use common::Random;
use hubwire_core::Reason;
use hubwire_core::answers::{Windows, best_answers};

#[test]
fn the_best_spans_of_one_window_are_the_first_of_all_sorted() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let count = 1 + random.below(40);
        let rough = random.chance();
        let mut logits = || random.values(count).into_iter().map(|value| if rough { value.round() } else { value }).collect::<Vec<f32>>();
        let (start, end) = (logits(), logits());
        let allowed: Vec<u8> = (0..count).map(|_| u8::from(random.below(4) > 0)).collect();
        let null = i64::try_from(random.below(count + 1)).unwrap() - 1;
        let (reach, k) = (1 + random.below(50), random.below(6));
        let offsets = [0, i64::try_from(count).unwrap()];
        let windows = Windows { start: &start, end: &end, offsets: &offsets, sources: &[0], allowed: &allowed, null: &[null] };
        let found = best_answers(&windows, reach, k).unwrap();

        let sum = |first: usize, last: usize| f64::from(start[first]) + f64::from(end[last]);
        let mut spans: Vec<(usize, usize)> =
            (0..count).flat_map(|first| (first..count.min(first + reach)).map(move |last| (first, last))).collect();
        spans.retain(|(first, last)| allowed[*first] != 0 && allowed[*last] != 0);
        spans.sort_by(|left, right| sum(right.0, right.1).partial_cmp(&sum(left.0, left.1)).unwrap());
        spans.truncate(4 * k);
        let read: Vec<usize> = (0..count).filter(|token| allowed[*token] != 0 || i64::try_from(*token).unwrap() == null).collect();
        let total = |logits: &[f32]| read.iter().map(|token| f64::from(logits[*token]).exp()).sum::<f64>();
        let total = total(&start) * total(&end);

        let places = found.first.iter().zip(&found.last);
        let places: Vec<_> = places.map(|(first, last)| (usize::try_from(*first).unwrap(), usize::try_from(*last).unwrap())).collect();
        assert_eq!(places, spans, "seed {seed}");
        for ((first, last), score) in spans.iter().zip(&found.scores) {
            assert!((f64::from(*score) - sum(*first, *last).exp() / total).abs() < 1e-6, "seed {seed}");
        }
        let wanted = usize::try_from(null).map_or(0.0, |null| sum(null, null).exp() / total);
        assert!((f64::from(found.null_scores[0]) - wanted).abs() < 1e-6, "seed {seed}");
    }
}

#[test]
fn windows_of_one_source_share_their_probabilities() {
    let logits = [0.0; 6];
    let windows = Windows {
        start: &logits,
        end: &logits,
        offsets: &[0, 2, 4, 6],
        sources: &[0, 0, 1],
        allowed: &[0, 1, 0, 1, 1, 1],
        null: &[0, 2, -1],
    };
    let found = best_answers(&windows, 9, 1).unwrap();
    assert_eq!((found.sources, found.first, found.last), (vec![0, 0, 1, 1, 1], vec![1, 3, 4, 4, 5], vec![1, 3, 4, 5, 5]));
    assert_eq!(found.scores, [1.0 / 16.0, 1.0 / 16.0, 0.25, 0.25, 0.25]);
    assert_eq!(found.null_scores, [1.0 / 16.0, 0.0]);
}

#[test]
fn sources_and_null_tokens_out_of_place_are_refused() {
    let logits = [0.0; 4];
    let refused = |sources: &[i64], null: &[i64]| {
        let windows = Windows { start: &logits, end: &logits, offsets: &[0, 2, 4], sources, allowed: &[1; 4], null };
        let error = best_answers(&windows, 1, 1).unwrap_err();
        (error.reason, error.index)
    };
    assert_eq!(refused(&[1, 1], &[-1, -1]), (Reason::OutOfRange, Some(0)));
    assert_eq!(refused(&[0, i64::MAX], &[-1, -1]), (Reason::OutOfRange, Some(1)));
    assert_eq!(refused(&[0, 0], &[-1, 1]), (Reason::OutOfRange, Some(1)));
    assert_eq!(refused(&[0, 0], &[i64::MIN, 2]), (Reason::OutOfRange, Some(0)));
    assert_eq!(refused(&[0], &[-1, -1]), (Reason::ShapeMismatch, None));
}
