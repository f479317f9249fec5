//! Entities, by cases that can be followed by hand. The comparison with transformers is in the Python tests.

use hubwire_core::entities::{Entities, Labels, Strategy, Tokens, aggregate};
use hubwire_core::{Reason, Result};

/// O, B-PER, I-PER, B-LOC, I-LOC.
const LABELS: Labels = Labels { tags: &[0, 1, 1, 2, 2], begins: &[0, 1, 0, 1, 0] };

/// The entities of one row of tokens, each given by its label, its score, and whether it goes on with a word.
fn entities(tokens: &[(usize, f32, bool)], strategy: Strategy) -> Entities {
    let mut scores = vec![0.01; tokens.len() * 5];
    for (scores, (label, score, _)) in scores.chunks_mut(5).zip(tokens) {
        scores[*label] = *score;
    }
    let is_subword: Vec<u8> = tokens.iter().map(|(_, _, subword)| u8::from(*subword)).collect();
    aggregate_rows(&scores, &[0, i64::try_from(tokens.len()).unwrap()], &vec![1; tokens.len()], &is_subword, strategy).unwrap()
}

fn aggregate_rows(scores: &[f32], offsets: &[i64], kept: &[u8], is_subword: &[u8], strategy: Strategy) -> Result<Entities> {
    aggregate(&Tokens { scores, shape: [scores.len() / 5, 5], offsets, kept, is_subword }, &LABELS, strategy)
}

fn spans(entities: &Entities) -> Vec<(i64, i64, i32)> {
    let bounds = entities.first.iter().zip(&entities.last);
    bounds.zip(&entities.labels).map(|((first, last), label)| (*first, *last, *label)).collect()
}

#[test]
fn neighbours_of_one_tag_are_one_entity_until_one_begins() {
    let tokens = [(1, 0.9, false), (2, 0.5, false), (1, 0.8, false), (4, 0.7, false), (4, 0.6, false), (0, 0.9, false), (2, 0.9, false)];
    let found = entities(&tokens, Strategy::Simple);
    assert_eq!(spans(&found), [(0, 1, 1), (2, 2, 1), (3, 4, 4), (5, 5, 0), (6, 6, 2)]);
    assert!((found.scores[0] - 0.7).abs() < 1e-6);
    assert_eq!(spans(&entities(&tokens, Strategy::None)).len(), tokens.len());
}

#[test]
fn a_word_has_the_label_that_the_strategy_names() {
    let tokens = [(0, 0.5, false), (3, 0.6, true), (4, 0.9, true)];
    assert_eq!(spans(&entities(&tokens, Strategy::Simple)), [(0, 0, 0), (1, 2, 3)]);
    assert_eq!(spans(&entities(&tokens, Strategy::First)), [(0, 2, 0)]);
    let highest = entities(&tokens, Strategy::Max);
    assert_eq!((spans(&highest), highest.scores), (vec![(0, 2, 4)], vec![0.9]));
    let mean = entities(&tokens, Strategy::Average);
    assert_eq!(spans(&mean), [(0, 2, 4)]);
    assert!((mean.scores[0] - (0.9 + 0.01 + 0.01) / 3.0).abs() < 1e-6);
}

#[test]
fn of_equal_scores_the_first_counts() {
    let tokens = [(3, 0.6, false), (1, 0.6, true)];
    assert_eq!(spans(&entities(&tokens, Strategy::Max)), [(0, 1, 3)]);
    assert_eq!(spans(&entities(&tokens, Strategy::Average)), [(0, 1, 1)]);
}

#[test]
fn entities_end_with_their_row_and_go_on_over_tokens_that_are_left_out() {
    let scores = [0.0, 0.0, 0.9, 0.0, 0.0].repeat(5);
    let found = aggregate_rows(&scores, &[0, 0, 3, 5], &[1, 0, 1, 1, 1], &[0, 0, 0, 1, 0], Strategy::Max).unwrap();
    assert_eq!((spans(&found), found.rows), (vec![(0, 2, 2), (3, 4, 2)], vec![1, 2]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let scores = [0.1; 10];
    let refused = |offsets: &[i64], kept: &[u8]| aggregate_rows(&scores, offsets, kept, &[0, 0], Strategy::First).unwrap_err().reason;
    assert_eq!(refused(&[0, 3], &[1, 1]), Reason::OffsetsOutOfOrder);
    assert_eq!(refused(&[0, 2], &[1]), Reason::ShapeMismatch);
    let error = aggregate_rows(&[f32::NAN; 10], &[0, 1, 2], &[0, 1], &[0, 0], Strategy::First).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(1)));
}
