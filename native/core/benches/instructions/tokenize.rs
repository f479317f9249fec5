//! Texts of mixed lengths to ragged batches, and back.

use gungraun::{library_benchmark, library_benchmark_group};
use hubwire_core::Result;
use hubwire_core::ragged::{Offsets, RaggedBatch};
use hubwire_core::tokenize::{OffsetUnit, Options, PairTruncation, Tokenizer, TruncationSide};

use crate::common::Random;
use crate::{inputs, tokenizers};

/// What texts are made of: words of the vocabulary, words that fall into pieces, accents, punctuation, other scripts, unknown characters.
const WORDS: [&str; 24] = [
    "the",
    "of",
    "and",
    "vector",
    "token",
    "server",
    "quick",
    "The",
    "Tokenization",
    "internationalization",
    "unbelievably",
    "servers,",
    "naïve",
    "Müller",
    "(2024)",
    "isn't",
    "e\u{301}tude",
    "日本語",
    "東京",
    "при",
    "😀",
    "a",
    "x-ray",
    "well...",
];
const TEXTS: usize = 64;
const OPTIONS: Options = Options {
    add_special_tokens: true,
    max_tokens: Some(64),
    truncation_side: TruncationSide::Right,
    truncation: PairTruncation::LongestFirst,
    stride: None,
    spans: None,
    threads: 1,
};

/// One call of a tokenizer.
#[derive(Clone, Copy)]
pub struct Call {
    tokenizer: &'static Tokenizer,
    texts: &'static [String],
    pairs: Option<&'static [String]>,
    options: Options,
}

impl Call {
    /// A call on texts without pairs. It has been made once: a tokenizer of byte pairs remembers the words that it has seen, as it does in a
    /// server that has run for a while.
    fn new(tokenizer: Tokenizer, options: Options) -> Self {
        let call = Self { tokenizer: inputs::keep(tokenizer), texts: texts(3), pairs: None, options };
        call.run().unwrap();
        call
    }

    fn run(&self) -> Result<RaggedBatch> {
        self.tokenizer.encode(self.texts, self.pairs, &self.options)
    }
}

fn texts(seed: u64) -> &'static [String] {
    let mut random = Random::new(seed);
    let lengths: Vec<usize> = (0..TEXTS).map(|_| 1 + random.below(10) * random.below(10)).collect();
    inputs::keep(lengths.into_iter().map(|words| (0..words).map(|_| random.pick(&WORDS)).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>())
}

fn word_piece() -> Call {
    Call::new(tokenizers::word_piece(), OPTIONS)
}

fn pairs() -> Call {
    Call { pairs: Some(texts(4)), ..word_piece() }
}

fn spans() -> Call {
    Call::new(tokenizers::word_piece(), Options { spans: Some(OffsetUnit::Utf16Unit), ..OPTIONS })
}

/// Texts that go on in further rows instead of losing tokens.
fn windows() -> Call {
    Call::new(tokenizers::word_piece(), Options { max_tokens: Some(24), stride: Some(8), spans: Some(OffsetUnit::CodePoint), ..OPTIONS })
}

fn byte_pair() -> Call {
    Call::new(tokenizers::byte_pair(), OPTIONS)
}

#[library_benchmark]
#[bench::word_piece(setup = word_piece)]
#[bench::word_piece_pairs(setup = pairs)]
#[bench::word_piece_spans(setup = spans)]
#[bench::word_piece_windows(setup = windows)]
#[bench::byte_pair(setup = byte_pair)]
fn encode(call: Call) -> Result<RaggedBatch> {
    call.run()
}

/// A tokenizer and texts as their words.
fn split() -> (&'static Tokenizer, &'static [Vec<String>]) {
    let words = texts(3).iter().map(|text| text.split(' ').map(str::to_owned).collect()).collect::<Vec<_>>();
    (inputs::keep(tokenizers::word_piece()), inputs::keep(words))
}

#[library_benchmark]
#[bench::word_piece(setup = split)]
fn encode_words((tokenizer, texts): (&'static Tokenizer, &'static [Vec<String>])) -> Result<RaggedBatch> {
    tokenizer.encode_words(texts, &Options { spans: Some(OffsetUnit::CodePoint), ..OPTIONS })
}

/// A tokenizer and the ids that it made of texts.
fn encoded(tokenizer: Tokenizer) -> (&'static Tokenizer, &'static RaggedBatch) {
    let batch = tokenizer.encode(texts(3), None, &OPTIONS).unwrap();
    (inputs::keep(tokenizer), inputs::keep(batch))
}

fn word_piece_ids() -> (&'static Tokenizer, &'static RaggedBatch) {
    encoded(tokenizers::word_piece())
}

fn byte_pair_ids() -> (&'static Tokenizer, &'static RaggedBatch) {
    encoded(tokenizers::byte_pair())
}

#[library_benchmark]
#[bench::word_piece(setup = word_piece_ids)]
#[bench::byte_pair(setup = byte_pair_ids)]
fn decode((tokenizer, batch): (&'static Tokenizer, &'static RaggedBatch)) -> Result<Vec<String>> {
    tokenizer.decode(&batch.ids, &batch.offsets, true)
}

fn offsets() -> &'static [i64] {
    inputs::keep(inputs::offsets(4096, 128))
}

#[library_benchmark]
#[bench::offsets(setup = offsets)]
fn ragged(offsets: &'static [i64]) -> usize {
    let checked = Offsets::check(offsets, inputs::tokens(offsets)).unwrap();
    (0..checked.rows()).map(|row| checked.row(row).len()).max().unwrap_or_default()
}

library_benchmark_group!(name = tokenization, benchmarks = [encode, encode_words, decode, ragged]);
