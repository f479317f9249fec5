//! Vectors as the protobuf bytes of `hubwire.v1.Vector` and of the messages around it.
//!
//! The length of every message is known before its first byte is written, so that the bytes go straight to where the caller wants them.

use half::f16;

use crate::error::{Error, Reason, Result};
use crate::quantize::{Row, check_dimensions, int8_scale};
use crate::ragged::Offsets;

/// A message has less than 2 GiB: the limit of protobuf itself.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;
/// Field numbers end here.
const MAX_FIELD: u32 = (1 << 29) - 1;
/// Field numbers that protobuf keeps for itself.
const RESERVED_FIELDS: std::ops::RangeInclusive<u32> = 19_000..=19_999;

/// The wire types in use, which are the lowest three bits of a tag.
const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

/// Fields of `hubwire.v1.Vector`.
const VECTOR_VALUES: u32 = 1;
const VECTOR_DATA: u32 = 2;
const VECTOR_SCALE: u32 = 3;
/// A tag of one byte and the four bytes of the float.
const SCALE_BYTES: usize = 5;
/// Fields of `hubwire.v1.StreamEmbedResponse` and `hubwire.v1.StreamEmbedResult`.
const RESPONSE_RESULTS: u32 = 1;
const RESULT_ID: u32 = 1;
const RESULT_VECTOR: u32 = 2;
/// Fields of `hubwire.v1.EmbedTokensResponse`, `hubwire.v1.TokenEmbeddings` and `hubwire.v1.Span`.
const RESPONSE_EMBEDDINGS: u32 = 1;
const TOKEN_VECTORS: u32 = 1;
const TOKEN_IDS: u32 = 2;
const TOKEN_SPANS: u32 = 3;
const TOKEN_SPECIAL: u32 = 4;
const SPAN_START: u32 = 1;
const SPAN_END: u32 = 2;

/// The form of the numbers on the wire, after `hubwire.v1.VectorEncoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireEncoding {
    /// `repeated float values`.
    Float,
    /// float32 in `data`.
    Float32Bytes,
    /// float16 in `data`.
    Float16Bytes,
    /// int8 in `data`, and `scale`.
    Int8Bytes,
    /// Bits in `data`.
    BinaryBytes,
}

impl WireEncoding {
    /// The bytes of one row of so many values.
    fn row_bytes(self, values: usize) -> usize {
        match self {
            Self::Float | Self::Float32Bytes => values * 4,
            Self::Float16Bytes => values * 2,
            Self::Int8Bytes => values,
            Self::BinaryBytes => values.div_ceil(8),
        }
    }

    fn field(self) -> u32 {
        if self == Self::Float { VECTOR_VALUES } else { VECTOR_DATA }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many values at the beginning of each row are kept.
    pub dimensions: Option<usize>,
    /// Whether each row is scaled to length 1.
    pub normalize: bool,
    /// The form of the numbers.
    pub encoding: WireEncoding,
}

/// A message, or a part of one, whose length is known before it is written.
pub trait Message {
    /// The number of bytes.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `len` bytes.
    ///
    /// # Errors
    /// `NotFinite` with the row, or with the text where a message has several rows a text. What `out` then holds is of no use.
    fn write(&self, out: &mut [u8]) -> Result<()>;
}

/// Rows that become vectors.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    vectors: &'a [f32],
    count: usize,
    width: usize,
    kept: usize,
    options: Options,
}

impl<'a> Rows<'a> {
    /// The rows of `vectors`, shape (count, width).
    ///
    /// # Errors
    /// `ShapeMismatch`, `OutOfRange` for dimensions below 1 or above the width.
    pub fn new(vectors: &'a [f32], shape: [usize; 2], options: Options) -> Result<Self> {
        let kept = check_dimensions(vectors.len(), shape, options.dimensions)?;
        Ok(Self { vectors, count: shape[0], width: shape[1], kept, options })
    }

    fn row(&self, index: usize) -> Result<Row<'a>> {
        let start = index * self.width;
        Row::new(&self.vectors[start..start + self.kept], self.options.normalize, index)
    }

    /// The bytes of the numbers of so many rows.
    fn payload_bytes(&self, rows: usize) -> usize {
        rows * self.options.encoding.row_bytes(self.kept)
    }

    /// The bytes of a `Vector` that holds so many rows. Without a value it is empty, as protobuf leaves out what is.
    fn vector_bytes(&self, rows: usize) -> usize {
        if self.payload_bytes(rows) == 0 {
            return 0;
        }
        let scale = if self.options.encoding == WireEncoding::Int8Bytes { SCALE_BYTES } else { 0 };
        delimited_bytes(self.options.encoding.field(), self.payload_bytes(rows)) + scale
    }

    /// Writes a `Vector` that holds the rows of `indices`. int8 has one scale for all of them; it is written even where it is zero, which
    /// protobuf allows and which keeps the length independent of the values.
    fn write_vector(&self, indices: std::ops::Range<usize>, out: &mut Cursor) -> Result<()> {
        let encoding = self.options.encoding;
        let payload = self.payload_bytes(indices.len());
        if payload == 0 {
            return Ok(());
        }
        out.tag(encoding.field(), LENGTH_DELIMITED);
        out.varint(payload);
        if encoding == WireEncoding::Int8Bytes {
            let mut largest = 0.0_f32;
            for index in indices.clone() {
                largest = largest.max(self.row(index)?.max_abs());
            }
            let scale = int8_scale(largest);
            for index in indices {
                self.row(index)?.int8(scale, out.take(self.kept), i8::cast_unsigned);
            }
            out.tag(VECTOR_SCALE, FIXED32);
            out.put(&scale.to_le_bytes());
            return Ok(());
        }
        for index in indices {
            let row = self.row(index)?;
            let bytes = out.take(encoding.row_bytes(self.kept));
            match encoding {
                WireEncoding::Float16Bytes => row.float16(bytes.as_chunks_mut().0, f16::to_le_bytes)?,
                WireEncoding::BinaryBytes => row.binary(bytes),
                _ => row.float32(bytes.as_chunks_mut().0, f32::to_le_bytes),
            }
        }
        Ok(())
    }
}

/// `repeated hubwire.v1.Vector <name> = <field>`, one a row.
#[derive(Debug)]
pub struct RepeatedVectors<'a> {
    rows: Rows<'a>,
    field: u32,
}

impl<'a> RepeatedVectors<'a> {
    /// The vectors of `rows` under the number `field`.
    ///
    /// # Errors
    /// `OutOfRange` where `field` is no field number, or the message would have 2 GiB or more.
    pub fn new(rows: Rows<'a>, field: u32) -> Result<Self> {
        if !(1..=MAX_FIELD).contains(&field) || RESERVED_FIELDS.contains(&field) {
            return Err(Error::new(Reason::OutOfRange, format!("{field} is no protobuf field number")));
        }
        check_size(Self { rows, field })
    }
}

impl Message for RepeatedVectors<'_> {
    fn len(&self) -> usize {
        // Rows of no values are not bounded by memory.
        self.rows.count.saturating_mul(delimited_bytes(self.field, self.rows.vector_bytes(1)))
    }

    fn write(&self, out: &mut [u8]) -> Result<()> {
        let mut out = Cursor(out);
        for index in 0..self.rows.count {
            out.tag(self.field, LENGTH_DELIMITED);
            out.varint(self.rows.vector_bytes(1));
            self.rows.write_vector(index..index + 1, &mut out)?;
        }
        Ok(())
    }
}

/// `repeated hubwire.v1.StreamEmbedResult results = 1`, one a row.
#[derive(Debug)]
pub struct StreamResults<'a, S> {
    rows: Rows<'a>,
    ids: &'a [S],
}

impl<'a, S: AsRef<str>> StreamResults<'a, S> {
    /// The results of `rows`, each with its id.
    ///
    /// # Errors
    /// `ShapeMismatch` where there is not one id a row, `OutOfRange` where the message would have 2 GiB or more.
    pub fn new(rows: Rows<'a>, ids: &'a [S]) -> Result<Self> {
        if ids.len() != rows.count {
            return Err(Error::new(Reason::ShapeMismatch, format!("{} ids for {} rows", ids.len(), rows.count)));
        }
        check_size(Self { rows, ids })
    }

    fn result_bytes(&self, id: &S) -> usize {
        // An empty id is the default, which protobuf leaves out.
        let id = if id.as_ref().is_empty() { 0 } else { delimited_bytes(RESULT_ID, id.as_ref().len()) };
        id + delimited_bytes(RESULT_VECTOR, self.rows.vector_bytes(1))
    }
}

impl<S: AsRef<str>> Message for StreamResults<'_, S> {
    fn len(&self) -> usize {
        self.ids.iter().map(|id| delimited_bytes(RESPONSE_RESULTS, self.result_bytes(id))).sum()
    }

    fn write(&self, out: &mut [u8]) -> Result<()> {
        let mut out = Cursor(out);
        for (index, id) in self.ids.iter().enumerate() {
            out.tag(RESPONSE_RESULTS, LENGTH_DELIMITED);
            out.varint(self.result_bytes(id));
            let id = id.as_ref().as_bytes();
            if !id.is_empty() {
                out.tag(RESULT_ID, LENGTH_DELIMITED);
                out.varint(id.len());
                out.put(id);
            }
            out.tag(RESULT_VECTOR, LENGTH_DELIMITED);
            out.varint(self.rows.vector_bytes(1));
            self.rows.write_vector(index..index + 1, &mut out)?;
        }
        Ok(())
    }
}

/// One `hubwire.v1.Vector` that holds all rows, without a tag around it.
#[derive(Debug)]
pub struct Matrix<'a>(Rows<'a>);

impl<'a> Matrix<'a> {
    /// The matrix of `rows`.
    ///
    /// # Errors
    /// `OutOfRange` where the message would have 2 GiB or more.
    pub fn new(rows: Rows<'a>) -> Result<Self> {
        check_size(Self(rows))
    }
}

impl Message for Matrix<'_> {
    fn len(&self) -> usize {
        self.0.vector_bytes(self.0.count)
    }

    fn write(&self, out: &mut [u8]) -> Result<()> {
        self.0.write_vector(0..self.0.count, &mut Cursor(out))
    }
}

/// What is known of the tokens of n texts beside their vectors, one text after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Where each text begins, and the number of tokens at the end.
    pub offsets: &'a [i64],
    /// Vocabulary numbers.
    pub ids: &'a [i32],
    /// Start and end of each token in its text.
    pub spans: &'a [[u32; 2]],
    /// Not zero where the tokenizer added the token.
    pub special_tokens_mask: &'a [u8],
}

/// `repeated hubwire.v1.TokenEmbeddings embeddings = 1`, one a text.
#[derive(Debug)]
pub struct TokenEmbeddings<'a> {
    rows: Rows<'a>,
    offsets: Offsets<'a>,
    tokens: Tokens<'a>,
    sizes: Vec<EntrySize>,
}

/// The bytes of one `TokenEmbeddings`, and of the numbers in its `token_ids`.
#[derive(Debug)]
struct EntrySize {
    entry: usize,
    ids: usize,
}

impl<'a> TokenEmbeddings<'a> {
    /// The embeddings of the texts that `tokens` delimits in `rows`.
    ///
    /// # Errors
    /// `ShapeMismatch` where there is not one of each a row, `OffsetsOutOfOrder`, `OutOfRange` with the text where an id is negative, and
    /// `OutOfRange` where the message would have 2 GiB or more.
    pub fn new(rows: Rows<'a>, tokens: Tokens<'a>) -> Result<Self> {
        let lengths = [("ids", tokens.ids.len()), ("spans", tokens.spans.len()), ("marks", tokens.special_tokens_mask.len())];
        if let Some((name, length)) = lengths.into_iter().find(|(_, length)| *length != rows.count) {
            return Err(Error::new(Reason::ShapeMismatch, format!("{length} {name} for {} rows", rows.count)));
        }
        let offsets = Offsets::check(tokens.offsets, rows.count)?;
        let mut sizes = Vec::with_capacity(offsets.rows());
        for text in 0..offsets.rows() {
            let range = offsets.row(text);
            let mut ids = 0;
            for id in &tokens.ids[range.clone()] {
                let unsigned =
                    usize::try_from(*id).map_err(|_| Error::at(Reason::OutOfRange, text, format!("text {text} has the id {id}")))?;
                ids += varint_bytes(unsigned);
            }
            let spans: usize = tokens.spans[range.clone()].iter().map(|span| delimited_bytes(TOKEN_SPANS, span_bytes(*span))).sum();
            // Packed fields without a number are left out.
            let packed = if range.is_empty() { 0 } else { delimited_bytes(TOKEN_IDS, ids) + delimited_bytes(TOKEN_SPECIAL, range.len()) };
            let entry = delimited_bytes(TOKEN_VECTORS, rows.vector_bytes(range.len())) + packed + spans;
            sizes.push(EntrySize { entry, ids });
        }
        check_size(Self { rows, offsets, tokens, sizes })
    }
}

impl Message for TokenEmbeddings<'_> {
    fn len(&self) -> usize {
        self.sizes.iter().map(|size| delimited_bytes(RESPONSE_EMBEDDINGS, size.entry)).sum()
    }

    fn write(&self, out: &mut [u8]) -> Result<()> {
        let mut out = Cursor(out);
        for (text, size) in self.sizes.iter().enumerate() {
            let range = self.offsets.row(text);
            out.tag(RESPONSE_EMBEDDINGS, LENGTH_DELIMITED);
            out.varint(size.entry);
            out.tag(TOKEN_VECTORS, LENGTH_DELIMITED);
            out.varint(self.rows.vector_bytes(range.len()));
            let written = self.rows.write_vector(range.clone(), &mut out);
            written.map_err(|error| Error::at(error.reason, text, format!("text {text}: {}", error.message)))?;
            if range.is_empty() {
                continue;
            }
            out.tag(TOKEN_IDS, LENGTH_DELIMITED);
            out.varint(size.ids);
            for id in &self.tokens.ids[range.clone()] {
                out.varint(id.cast_unsigned() as usize);
            }
            for span in &self.tokens.spans[range.clone()] {
                out.tag(TOKEN_SPANS, LENGTH_DELIMITED);
                out.varint(span_bytes(*span));
                for (field, value) in [SPAN_START, SPAN_END].into_iter().zip(*span).filter(|(_, value)| *value != 0) {
                    out.tag(field, VARINT);
                    out.varint(value as usize);
                }
            }
            out.tag(TOKEN_SPECIAL, LENGTH_DELIMITED);
            out.varint(range.len());
            let marks = &self.tokens.special_tokens_mask[range];
            out.take(marks.len()).iter_mut().zip(marks).for_each(|(out, mark)| *out = u8::from(*mark != 0));
        }
        Ok(())
    }
}

fn check_size<M: Message>(message: M) -> Result<M> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(Error::new(Reason::OutOfRange, format!("{} bytes do not fit a protobuf message", message.len())));
    }
    Ok(message)
}

fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    bits.max(1).div_ceil(7) as usize
}

/// The bytes of a field of so many bytes, its tag and its length included.
fn delimited_bytes(field: u32, length: usize) -> usize {
    varint_bytes((field << 3) as usize) + varint_bytes(length) + length
}

/// The bytes of a `Span`. A zero is the default, which protobuf leaves out.
fn span_bytes(span: [u32; 2]) -> usize {
    // Both tags have one byte.
    span.into_iter().filter(|value| *value != 0).map(|value| 1 + varint_bytes(value as usize)).sum()
}

/// What remains to be written.
struct Cursor<'a>(&'a mut [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> &'a mut [u8] {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(length);
        self.0 = rest;
        taken
    }

    fn put(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }

    fn varint(&mut self, value: usize) {
        let mut rest = value;
        for byte in self.take(varint_bytes(value)) {
            // Seven bits a byte, the lowest first; the eighth bit says whether more follow.
            let more = if rest > 0x7f { 0x80 } else { 0 };
            *byte = rest.to_le_bytes()[0] & 0x7f | more;
            rest >>= 7;
        }
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint((field << 3 | wire_type) as usize);
    }
}
