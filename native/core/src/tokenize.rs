//! Texts to token ids, into one ragged batch.
//!
//! The parts of a tokenizer are run here one after the other, instead of through `Tokenizer::encode`: that reads its truncation from the
//! shared tokenizer, while here every call brings its own, and it does not tell how long a text was before it was cut.

use std::cmp;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tokenizers::{Encoding, Model, OffsetType, PostProcessor, PreTokenizer, Tokenizer as Inner};

use crate::error::{Error, Reason, Result};
use crate::parallel;
use crate::ragged::RaggedBatch;
pub use crate::units::OffsetUnit;
use crate::units::UnitTable;
use crate::windows::{self, Limit};
pub use crate::windows::{PairTruncation, TruncationSide};

/// Below this many bytes of text a second thread costs more than it saves: a thread takes about 30 us to start, in which one thread
/// tokenizes some 200 bytes; with both sides kept busy the gain begins at several times that.
const BYTES_WORTH_A_THREAD: usize = 2048;
/// Texts are handed out to threads in so many pieces a thread, so that one long text does not leave the other threads idle.
const PIECES_PER_THREAD: usize = 8;

/// How texts are tokenized.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the tokenizer adds its special tokens.
    pub add_special_tokens: bool,
    /// The largest number of tokens of a row, special tokens included.
    pub max_tokens: Option<usize>,
    /// The end that loses tokens.
    pub truncation_side: TruncationSide,
    /// The text of a pair that loses tokens.
    pub truncation: PairTruncation,
    /// How many tokens each row repeats of the one before it, where a text goes on in further rows instead of losing tokens.
    pub stride: Option<usize>,
    /// The unit of the spans, where spans are wanted.
    pub spans: Option<OffsetUnit>,
    /// The largest number of threads that share the texts.
    pub threads: usize,
}

/// One text, as it is or split into words already.
enum Input<'a, S> {
    Text(&'a str),
    Words(&'a [S]),
}

impl<S: AsRef<str>> Input<'_, S> {
    /// What turns positions into `unit`: one table for the text, or one for each word.
    fn tables(&self, unit: OffsetUnit) -> Vec<UnitTable> {
        match self {
            Self::Text(text) => vec![UnitTable::new(text, unit)],
            Self::Words(words) => words.iter().map(|word| UnitTable::new(word.as_ref(), unit)).collect(),
        }
    }
}

/// A tokenizer of the `tokenizers` library. Immutable.
#[derive(Debug)]
pub struct Tokenizer {
    pub(crate) inner: Inner,
    /// The lengths of the entries of the vocabulary, once somebody has asked for them.
    pub(crate) lengths: OnceLock<Vec<i32>>,
}

impl Tokenizer {
    /// Reads the JSON form of a tokenizer. The truncation and the padding that it carries are dropped.
    ///
    /// # Errors
    /// `InvalidTokenizer`.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let invalid = |message: String| Error::new(Reason::InvalidTokenizer, format!("not the JSON form of a tokenizer: {message}"));
        let mut inner = catch_unwind(|| Inner::from_bytes(json))
            .map_err(|_| invalid("the tokenizers library panicked while reading it".to_owned()))?
            .map_err(|error| invalid(error.to_string()))?;
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        inner.with_padding(None);
        Ok(Self { inner, lengths: OnceLock::new() })
    }

    /// How many special tokens a text, or a pair of texts, gets.
    #[must_use]
    pub fn count_special_tokens(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Tokenizes each text, or each pair of `texts[i]` and `pairs[i]`.
    ///
    /// # Errors
    /// `ShapeMismatch` where the two lists differ in length, `OutOfRange` where `max_tokens` leaves no room beside the special tokens, the
    /// stride, or the text that must not be cut, `TokenizationFailed` with the index of a text on which the tokenizer failed.
    pub fn encode<S: AsRef<str> + Sync>(&self, texts: &[S], pairs: Option<&[S]>, options: &Options) -> Result<RaggedBatch> {
        if let Some(pairs) = pairs
            && pairs.len() != texts.len()
        {
            let message = format!("{} texts and {} pairs; each text has one", texts.len(), pairs.len());
            return Err(Error::new(Reason::ShapeMismatch, message));
        }
        let bytes = |texts: &[S]| texts.iter().map(|text| text.as_ref().len()).sum::<usize>();
        let bytes = bytes(texts) + pairs.map_or(0, bytes);
        let call = Call::new(self, pairs.is_some(), options)?;
        call.encode_all(texts.len(), bytes, |batch, index| {
            let pair = pairs.map(|pairs| Input::<S>::Text(pairs[index].as_ref()));
            call.encode_into(batch, index, &Input::Text(texts[index].as_ref()), pair.as_ref())
        })
    }

    /// Tokenizes each text, given as its words. Spans are inside the word.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_words<S: AsRef<str> + Sync>(&self, texts: &[Vec<S>], options: &Options) -> Result<RaggedBatch> {
        let bytes = texts.iter().flatten().map(|word| word.as_ref().len()).sum::<usize>();
        let call = Call::new(self, false, options)?;
        call.encode_all(texts.len(), bytes, |batch, index| call.encode_into(batch, index, &Input::Words(&texts[index]), None))
    }

    /// The tokens of one text, without special tokens.
    fn encode_sequence<S: AsRef<str>>(&self, input: &Input<S>, type_id: u32, spans: bool) -> tokenizers::Result<Encoding> {
        match input {
            Input::Text(text) => self.encode_part(text, None, type_id, spans),
            Input::Words(words) => {
                let words = words.iter().zip(0..);
                words.map(|(word, number)| self.encode_part(word.as_ref(), Some(number), type_id, spans)).collect()
            }
        }
    }

    /// The tokens of a text, or of one word of it.
    fn encode_part(&self, text: &str, word: Option<u32>, type_id: u32, spans: bool) -> tokenizers::Result<Encoding> {
        let mut sequence = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut sequence)?;
        }
        self.inner.get_model().tokenize_in_pretokenized(&mut sequence, None)?;
        // The library finds code points through a hash map of all bytes. In ASCII text they are the bytes.
        let offsets = match spans {
            false => OffsetType::None,
            true if text.is_ascii() => OffsetType::Byte,
            true => OffsetType::Char,
        };
        sequence.into_encoding(word, type_id, offsets)
    }
}

/// One call: a tokenizer, what is asked of it, and what follows from that.
struct Call<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a Options,
    special_tokens: usize,
    limit: Limit,
}

impl<'a> Call<'a> {
    fn new(tokenizer: &'a Tokenizer, pairs: bool, options: &'a Options) -> Result<Self> {
        let special_tokens = if options.add_special_tokens { tokenizer.count_special_tokens(pairs) } else { 0 };
        let max_tokens = options.max_tokens.unwrap_or(usize::MAX);
        let refuse = |message| Err(Error::new(Reason::OutOfRange, message));
        if max_tokens <= special_tokens {
            return refuse(format!("max_tokens is {max_tokens}, which leaves no room beside {special_tokens} special tokens"));
        }
        let room = max_tokens - special_tokens;
        if let Some(stride) = options.stride
            && stride >= room
        {
            return refuse(format!("the stride is {stride}, and a window has room for {room} tokens: it would never come to an end"));
        }
        let limit = Limit { room, side: options.truncation_side, truncation: options.truncation, stride: options.stride };
        Ok(Self { tokenizer, options, special_tokens, limit })
    }

    /// Has `encode` append each of `count` texts, which have so many bytes together.
    fn encode_all(&self, count: usize, bytes: usize, encode: impl Fn(&mut RaggedBatch, usize) -> Result<()> + Sync) -> Result<RaggedBatch> {
        let worth = bytes / BYTES_WORTH_A_THREAD + 1;
        let threads = self.options.threads.min(count).min(worth).max(1);
        let piece = if threads == 1 { count } else { count.div_ceil(threads * PIECES_PER_THREAD) }.max(1);
        let empty = |texts| RaggedBatch::with_capacity(texts, self.options.spans.is_some());

        let mut parts: Vec<RaggedBatch> = Vec::new();
        parts.resize_with(count.div_ceil(piece), RaggedBatch::default);
        parallel::for_each(threads, parts.iter_mut().enumerate(), |(number, part)| {
            let indices = number * piece..cmp::min((number + 1) * piece, count);
            *part = empty(indices.len());
            for index in indices {
                // The tokenizers library promises no freedom from panics, and one bad text must not take the process down. The part that is
                // changed inside is lost with the call, and the library's own shared state is a cache behind a lock that it only tries to take.
                catch_unwind(AssertUnwindSafe(|| encode(part, index)))
                    .unwrap_or_else(|_| Err(failed("the tokenizers library panicked on this text")))
                    .map_err(|error| Error { index: Some(index), ..error })?;
            }
            Ok(())
        })?;

        let mut parts = parts.into_iter();
        let mut batch = parts.next().unwrap_or_else(|| empty(0));
        parts.for_each(|part| batch.append(part));
        Ok(batch)
    }

    /// Appends the rows of one text or pair to `batch`.
    fn encode_into<S: AsRef<str>>(&self, batch: &mut RaggedBatch, index: usize, text: &Input<S>, pair: Option<&Input<S>>) -> Result<()> {
        let encode = |input, type_id| {
            self.tokenizer.encode_sequence(input, type_id, self.options.spans.is_some()).map_err(|error| failed(&error.to_string()))
        };
        let first = encode(text, 0)?;
        let second = pair.map(|pair| encode(pair, 1)).transpose()?;
        let token_count = first.len() + second.as_ref().map_or(0, Encoding::len) + self.special_tokens;
        let tables = [Some(text), pair].map(|input| match (input, self.options.spans) {
            (Some(input), Some(unit)) => input.tables(unit),
            _ => Vec::new(),
        });

        let mut append = |first, second| {
            let processed = self.tokenizer.inner.post_process(first, second, self.options.add_special_tokens);
            let encoding = processed.map_err(|error| failed(&error.to_string()))?;
            append_tokens(batch, &encoding, &tables)?;
            batch.end_row(index, token_count);
            Ok(())
        };
        match second {
            None => match self.limit.windows(first.len())?.as_slice() {
                [whole] if whole.len() == first.len() => append(first, None),
                rows => rows.iter().try_for_each(|row| append(windows::slice(&first, row.clone()), None)),
            },
            Some(second) => {
                let sides = self.limit.pair_windows([first.len(), second.len()])?;
                windows::pair_order(sides.each_ref().map(Vec::len)).try_for_each(|(left, right)| {
                    append(windows::slice(&first, sides[0][left].clone()), Some(windows::slice(&second, sides[1][right].clone())))
                })
            }
        }
    }
}

/// Appends the tokens of a row to `batch`. `tables` are those of the one text or of both.
fn append_tokens(batch: &mut RaggedBatch, encoding: &Encoding, tables: &[Vec<UnitTable>; 2]) -> Result<()> {
    for id in encoding.get_ids() {
        batch.ids.push(i32::try_from(*id).map_err(|_| failed("a token id does not fit 31 bits"))?);
    }
    for type_id in encoding.get_type_ids() {
        batch.type_ids.push(i32::try_from(*type_id).map_err(|_| failed("a type id does not fit 31 bits"))?);
    }
    let Some(positions) = &mut batch.positions else {
        return Ok(());
    };
    let marks = encoding.get_special_tokens_mask().iter().zip(encoding.get_sequence_ids());
    for ((span, word), (special, sequence)) in encoding.get_offsets().iter().zip(encoding.get_word_ids()).zip(marks) {
        let special = *special != 0;
        positions.special_tokens_mask.push(special);
        if special {
            positions.spans.push([0, 0]);
            positions.sequence_ids.push(-1);
            positions.word_ids.push(-1);
            continue;
        }
        let second = sequence == Some(1);
        let word = word.unwrap_or(0);
        let tables = &tables[usize::from(second)];
        // A text has one table, whatever the word is.
        let table = tables.get(if tables.len() == 1 { 0 } else { word as usize });
        positions.spans.push(table.ok_or_else(|| failed("a token is of a word that does not exist"))?.convert(*span)?);
        positions.sequence_ids.push(i8::from(second));
        positions.word_ids.push(i32::try_from(word).map_err(|_| failed("the number of a word does not fit 31 bits"))?);
    }
    Ok(())
}

pub(crate) fn failed(message: &str) -> Error {
    Error::new(Reason::TokenizationFailed, format!("the tokenizer failed: {message}"))
}
