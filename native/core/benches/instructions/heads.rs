//! What the heads of understanding tasks put out, decoded: the largest logits, sparse vectors, entities and answers.

use gungraun::{library_benchmark, library_benchmark_group};
use hubwire_core::Result;
use hubwire_core::answers::{Answers, Windows, best_answers as find_answers};
use hubwire_core::entities::{Entities, Labels, Strategy, Tokens, aggregate};
use hubwire_core::sparse::{SparseRows, sparse_rows as find_entries};
use hubwire_core::topk::{TopK, top_k as find_largest};

use crate::common::Random;
use crate::inputs::{self, VOCABULARY};

/// The labels of CoNLL-2003, which most models that find names were trained with: O, and B- and I- of four tags.
const LABELS: Labels = Labels { tags: &[0, 1, 1, 2, 2, 3, 3, 4, 4], begins: &[0, 1, 0, 1, 0, 1, 0, 1, 0] };
/// Masks that are filled, and texts that become sparse vectors.
const ROWS: usize = 8;
/// The length of a window of a long context, and how many there are of one source.
const WINDOW: usize = 384;
const WINDOWS_A_SOURCE: usize = 3;

/// Rows of logits and how many of each are wanted.
#[derive(Clone, Copy)]
pub struct Logits {
    values: &'static [f32],
    k: usize,
}

fn logits(k: usize) -> Logits {
    Logits { values: inputs::keep(Random::new(6).values(ROWS * VOCABULARY)), k }
}

#[library_benchmark(setup = logits)]
#[bench::five(5)]
#[bench::hundred(100)]
fn top_k(logits: Logits) -> Result<TopK> {
    find_largest(logits.values, [ROWS, VOCABULARY], logits.k, 1)
}

/// Rows in which about one value in 200 is above zero, as a sparse model leaves them.
fn maxima() -> &'static [f32] {
    let mut random = Random::new(7);
    let value = |_| if random.below(200) == 0 { random.value().abs() } else { 0.0 };
    inputs::keep((0..ROWS * VOCABULARY).map(value).collect::<Vec<_>>())
}

#[library_benchmark]
#[bench::one_in_200(setup = maxima)]
fn sparse_rows(maxima: &'static [f32]) -> Result<SparseRows> {
    find_entries(maxima, [ROWS, VOCABULARY], 1)
}

/// The probabilities of the labels of tokens, most of which are O, and how they become entities.
fn entities(strategy: Strategy) -> (Tokens<'static>, Strategy) {
    let mut random = Random::new(8);
    let offsets = inputs::keep(inputs::offsets(64, 96));
    let (count, labels) = (inputs::tokens(offsets), LABELS.tags.len());
    let mut scores = vec![0.0; count * labels];
    for scores in scores.chunks_mut(labels) {
        let named = random.below(4) == 0;
        scores[if named { random.below(labels) } else { 0 }] = 4.0 + random.value().abs();
        let exponentials: Vec<f32> = scores.iter().map(|logit| logit.exp()).collect();
        let sum: f32 = exponentials.iter().sum();
        scores.iter_mut().zip(exponentials).for_each(|(score, exponential)| *score = exponential / sum);
    }
    let mut kept = vec![1_u8; count];
    for row in offsets.windows(2) {
        // The first and the last token are special.
        kept[inputs::tokens(&row[..1])] = 0;
        kept[inputs::tokens(&row[1..]) - 1] = 0;
    }
    let is_subword: Vec<u8> = (0..count).map(|_| u8::from(random.below(4) == 0)).collect();
    let tokens = Tokens {
        scores: inputs::keep(scores),
        shape: [count, labels],
        offsets,
        kept: inputs::keep(kept),
        is_subword: inputs::keep(is_subword),
    };
    (tokens, strategy)
}

#[library_benchmark(setup = entities)]
#[bench::simple(Strategy::Simple)]
#[bench::average(Strategy::Average)]
fn aggregate_entities((tokens, strategy): (Tokens<'static>, Strategy)) -> Result<Entities> {
    aggregate(&tokens, &LABELS, strategy)
}

/// Windows of several sources: the question at the beginning, of which no answer is made, and the context behind it.
fn windows(sources: usize) -> Windows<'static> {
    const QUESTION: usize = 12;
    let mut random = Random::new(9);
    let count = sources * WINDOWS_A_SOURCE;
    let starts = || (0..=count).map(|window| i64::try_from(window * WINDOW).unwrap());
    Windows {
        start: inputs::keep(random.values(count * WINDOW)),
        end: inputs::keep(random.values(count * WINDOW)),
        offsets: inputs::keep(starts().collect::<Vec<_>>()),
        sources: inputs::keep((0..count).map(|window| i64::try_from(window / WINDOWS_A_SOURCE).unwrap()).collect::<Vec<_>>()),
        allowed: inputs::keep((0..count * WINDOW).map(|token| u8::from(token % WINDOW > QUESTION)).collect::<Vec<_>>()),
        // The first token of a window stands for no answer.
        null: inputs::keep(starts().take(count).collect::<Vec<_>>()),
    }
}

#[library_benchmark]
#[bench::long_contexts(args = (8), setup = windows)]
fn best_answers(windows: Windows<'static>) -> Result<Answers> {
    find_answers(&windows, 15, 1)
}

library_benchmark_group!(name = decoding, benchmarks = [top_k, sparse_rows, aggregate_entities, best_answers]);
