//! What the benchmarks share: seeded texts, vectors and batches that live as long as the process, so that no benchmark drops them.

use crate::common::Random;

/// The hidden size of the models that are served most.
pub const WIDTH: usize = 384;
/// The size of the vocabulary of BERT.
pub const VOCABULARY: usize = 30_522;

/// Keeps a value until the process ends.
pub fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// `rows` vectors of `WIDTH` values between -4 and 4.
pub fn vectors(rows: usize) -> Vec<f32> {
    Random::new(1).values(rows * WIDTH)
}

/// Where texts of mixed lengths begin in a ragged batch: many short ones, few long ones, each of 2 to `longest` tokens.
pub fn offsets(texts: usize, longest: usize) -> Vec<i64> {
    let mut random = Random::new(2);
    let mut end = 0;
    let ends = (0..texts).map(|_| {
        // The product of two even numbers has a long tail.
        end += 2 + random.below(longest - 1) * random.below(longest - 1) / (longest - 1);
        i64::try_from(end).unwrap()
    });
    std::iter::once(0).chain(ends).collect()
}

/// The number of tokens that `offsets` delimit.
pub fn tokens(offsets: &[i64]) -> usize {
    usize::try_from(offsets[offsets.len() - 1]).unwrap()
}
