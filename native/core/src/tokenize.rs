//! Texts to token ids, into one ragged batch.
//!
//! The parts of a tokenizer are run here one after the other, instead of through `Tokenizer::encode`: that reads its truncation from the
//! shared tokenizer, while here every call brings its own, and it does not tell how long a text was before it was cut.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{cmp, iter};

use tokenizers::{Encoding, Model, OffsetType, PostProcessor, PreTokenizer, Tokenizer as Inner};

use crate::error::{Error, Reason, Result};
use crate::parallel;
use crate::ragged::RaggedBatch;

/// Below this many bytes of text a second thread costs more than it saves: a thread takes about 30 us to start, in which one thread
/// tokenizes some 200 bytes; with both sides kept busy the gain begins at several times that.
const BYTES_WORTH_A_THREAD: usize = 2048;
/// Texts are handed out to threads in so many pieces a thread, so that one long text does not leave the other threads idle.
const PIECES_PER_THREAD: usize = 8;

/// The end of a text that loses tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruncationSide {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// What positions in a text count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetUnit {
    /// Unicode code points.
    CodePoint,
    /// Bytes of the UTF-8 form.
    Utf8Byte,
    /// Code units of the UTF-16 form.
    Utf16Unit,
}

/// How texts are tokenized.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the tokenizer adds its special tokens.
    pub add_special_tokens: bool,
    /// The largest number of tokens of a text or pair, special tokens included.
    pub max_tokens: Option<usize>,
    /// The end that loses tokens.
    pub truncation_side: TruncationSide,
    /// The unit of the spans, where spans are wanted.
    pub spans: Option<OffsetUnit>,
    /// The largest number of threads that share the texts.
    pub threads: usize,
}

/// A tokenizer of the `tokenizers` library. Immutable.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
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
        Ok(Self { inner })
    }

    /// How many special tokens a text, or a pair of texts, gets.
    #[must_use]
    pub fn count_special_tokens(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// The number of entries of the vocabulary, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokenizes each text, or each pair of `texts[i]` and `pairs[i]`.
    ///
    /// # Errors
    /// `ShapeMismatch` where the two lists differ in length, `OutOfRange` where `max_tokens` leaves no room beside the special tokens,
    /// `TokenizationFailed` with the index of a text on which the tokenizer failed.
    pub fn encode<S: AsRef<str> + Sync>(&self, texts: &[S], pairs: Option<&[S]>, options: &Options) -> Result<RaggedBatch> {
        if let Some(pairs) = pairs
            && pairs.len() != texts.len()
        {
            let message = format!("{} texts and {} pairs; each text has one", texts.len(), pairs.len());
            return Err(Error::new(Reason::ShapeMismatch, message));
        }
        let special_tokens = if options.add_special_tokens { self.count_special_tokens(pairs.is_some()) } else { 0 };
        if let Some(max_tokens) = options.max_tokens
            && max_tokens <= special_tokens
        {
            let message = format!("max_tokens is {max_tokens}, which leaves no room beside {special_tokens} special tokens");
            return Err(Error::new(Reason::OutOfRange, message));
        }

        let bytes = |texts: &[S]| texts.iter().map(|text| text.as_ref().len()).sum::<usize>();
        let worth = (bytes(texts) + pairs.map_or(0, bytes)) / BYTES_WORTH_A_THREAD + 1;
        let threads = options.threads.min(texts.len()).min(worth).max(1);
        let piece = if threads == 1 { texts.len() } else { texts.len().div_ceil(threads * PIECES_PER_THREAD) }.max(1);

        let mut parts: Vec<RaggedBatch> = Vec::new();
        parts.resize_with(texts.len().div_ceil(piece), RaggedBatch::default);
        parallel::for_each(threads, parts.iter_mut().enumerate(), |(number, part)| {
            let indices = number * piece..cmp::min((number + 1) * piece, texts.len());
            *part = RaggedBatch::with_capacity(indices.len(), options.spans.is_some());
            for index in indices {
                let pair = pairs.map(|pairs| pairs[index].as_ref());
                self.encode_into(part, texts[index].as_ref(), pair, special_tokens, options)
                    .map_err(|error| Error { index: Some(index), ..error })?;
            }
            Ok(())
        })?;

        let mut parts = parts.into_iter();
        let mut batch = parts.next().unwrap_or_else(|| RaggedBatch::with_capacity(0, options.spans.is_some()));
        parts.for_each(|part| batch.append(part));
        Ok(batch)
    }

    /// Appends one text or pair to `batch`.
    fn encode_into(&self, batch: &mut RaggedBatch, text: &str, pair: Option<&str>, special_tokens: usize, options: &Options) -> Result<()> {
        // The tokenizers library promises no freedom from panics, and one bad text must not take the process down. Nothing of ours is
        // changed inside, and the library's own shared state is a cache behind a lock that it only tries to take.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.encode_one(text, pair, special_tokens, options)));
        let (encoding, token_count) =
            encoded.map_err(|_| failed("the tokenizers library panicked on this text"))?.map_err(|error| failed(&error.to_string()))?;

        for id in encoding.get_ids() {
            batch.ids.push(i32::try_from(*id).map_err(|_| failed("a token id does not fit 31 bits"))?);
        }
        for type_id in encoding.get_type_ids() {
            batch.type_ids.push(i32::try_from(*type_id).map_err(|_| failed("a type id does not fit 31 bits"))?);
        }
        if let (Some(unit), Some(positions)) = (options.spans, &mut batch.positions) {
            let tables = [Some(text), pair].map(|text| UnitTable::new(text.unwrap_or_default(), unit));
            let tokens = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask());
            for (token, (span, special)) in tokens.enumerate() {
                let special = *special != 0;
                let sequence = if pair.is_some() { encoding.token_to_sequence(token).unwrap_or(0) } else { 0 };
                positions.special_tokens_mask.push(special);
                positions.spans.push(if special { [0, 0] } else { tables[sequence.min(1)].convert(*span)? });
            }
        }
        batch.end_text(token_count);
        Ok(())
    }

    /// The tokens of one text or pair, cut to size, and their number before that.
    fn encode_one(
        &self,
        text: &str,
        pair: Option<&str>,
        special_tokens: usize,
        options: &Options,
    ) -> tokenizers::Result<(Encoding, usize)> {
        let mut first = self.encode_sequence(text, 0, options)?;
        let mut second = pair.map(|pair| self.encode_sequence(pair, 1, options)).transpose()?;
        let token_count = first.len() + second.as_ref().map_or(0, Encoding::len) + special_tokens;

        if let Some(max_tokens) = options.max_tokens
            && token_count > max_tokens
        {
            truncate(&mut first, second.as_mut(), max_tokens - special_tokens, options.truncation_side);
        }
        Ok((self.inner.post_process(first, second, options.add_special_tokens)?, token_count))
    }

    /// The tokens of one text, without special tokens.
    fn encode_sequence(&self, text: &str, type_id: u32, options: &Options) -> tokenizers::Result<Encoding> {
        let mut sequence = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut sequence)?;
        }
        self.inner.get_model().tokenize_in_pretokenized(&mut sequence, None)?;
        // The library finds code points through a hash map of all bytes. In ASCII text they are the bytes.
        let offsets = match options.spans {
            None => OffsetType::None,
            Some(_) if text.is_ascii() => OffsetType::Byte,
            Some(_) => OffsetType::Char,
        };
        sequence.into_encoding(None, type_id, offsets)
    }
}

/// Cuts one text or a pair to `room` tokens, of a pair the longer side first. The library would do it inside `post_process`, and compare
/// the sides after it has stopped to tokenize each of them at its limit (version 0.23.2); 0.23.3, which is published for Python alone,
/// compares what they really have, as is done here.
fn truncate(first: &mut Encoding, second: Option<&mut Encoding>, room: usize, side: TruncationSide) {
    match second {
        None => cut(first, room, side),
        Some(second) => {
            let [first_room, second_room] = share([first.len(), second.len()], room);
            cut(first, first_room, side);
            cut(second, second_room, side);
        }
    }
}

/// How many tokens each side of a pair keeps: the shorter one all of them while the longer one can pay, then both the half.
fn share(lengths: [usize; 2], room: usize) -> [usize; 2] {
    let [shorter, longer] = if lengths[0] > lengths[1] { [lengths[1], lengths[0]] } else { lengths };
    let [shorter, longer] = if shorter <= room / 2 { [shorter, longer.min(room - shorter)] } else { [room / 2, room - room / 2] };
    if lengths[0] > lengths[1] { [longer, shorter] } else { [shorter, longer] }
}

/// Cuts an encoding to `length` tokens. The library's own `truncate` also makes encodings of everything that it cuts off: of a long text
/// that is cut to one token, as many as the text has tokens.
fn cut(encoding: &mut Encoding, length: usize, side: TruncationSide) {
    let tokens = encoding.len();
    if length >= tokens {
        return;
    }
    let kept = match side {
        TruncationSide::Left => tokens - length..tokens,
        TruncationSide::Right => 0..length,
    };
    *encoding = Encoding::new(
        encoding.get_ids()[kept.clone()].to_vec(),
        encoding.get_type_ids()[kept.clone()].to_vec(),
        encoding.get_tokens()[kept.clone()].to_vec(),
        encoding.get_word_ids()[kept.clone()].to_vec(),
        encoding.get_offsets()[kept.clone()].to_vec(),
        encoding.get_special_tokens_mask()[kept.clone()].to_vec(),
        encoding.get_attention_mask()[kept].to_vec(),
        Vec::new(),
        iter::empty().collect(),
    );
}

fn failed(message: &str) -> Error {
    Error::new(Reason::TokenizationFailed, format!("the tokenizer failed: {message}"))
}

/// Turns the positions of the tokenizers library, which are code points, into another unit.
struct UnitTable {
    /// The position of each code point, and of the end. None where code points and units are the same.
    positions: Option<Vec<usize>>,
}

impl UnitTable {
    fn new(text: &str, unit: OffsetUnit) -> Self {
        let width: fn(char) -> usize = match unit {
            _ if text.is_ascii() => return Self { positions: None },
            OffsetUnit::CodePoint => return Self { positions: None },
            OffsetUnit::Utf8Byte => char::len_utf8,
            OffsetUnit::Utf16Unit => char::len_utf16,
        };
        let mut end = 0;
        let starts = text.chars().map(|character| {
            let start = end;
            end += width(character);
            start
        });
        let mut positions: Vec<usize> = starts.collect();
        positions.push(end);
        Self { positions: Some(positions) }
    }

    fn convert(&self, (start, end): (usize, usize)) -> Result<[u32; 2]> {
        let convert = |position: usize| {
            let position = match &self.positions {
                // A position behind the end would be a mistake of the library; it is moved to the end.
                Some(positions) => positions[position.min(positions.len() - 1)],
                None => position,
            };
            u32::try_from(position).map_err(|_| Error::new(Reason::OutOfRange, "a position in the text does not fit 32 bits"))
        };
        Ok([convert(start)?, convert(end)?])
    }
}
