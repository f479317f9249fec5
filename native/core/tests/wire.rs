//! Protobuf bytes, read back by a small reader of the wire format.

mod common;

use common::Random;
use hubwire_core::Reason;
use hubwire_core::quantize::{self, Encoding, Values, convert};
use hubwire_core::wire::{Matrix, Message, Options, RepeatedVectors, Rows, StreamResults, TokenEmbeddings, Tokens, WireEncoding};

const ENCODINGS: [WireEncoding; 5] =
    [WireEncoding::Float, WireEncoding::Float32Bytes, WireEncoding::Float16Bytes, WireEncoding::Int8Bytes, WireEncoding::BinaryBytes];

fn options(encoding: WireEncoding) -> Options {
    Options { dimensions: None, normalize: false, encoding }
}

fn written(message: &impl Message) -> Vec<u8> {
    // The bytes before the message are written over whatever they were.
    let mut bytes = vec![0xaa; message.len()];
    message.write(&mut bytes).unwrap();
    bytes
}

/// A field of a message: its number, and its bytes.
type Field<'a> = (u64, &'a [u8]);

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

fn fields(mut bytes: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let length = match tag & 7 {
            2 => usize::try_from(varint(&mut bytes)).unwrap(),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (content, rest) = bytes.split_at(length);
        fields.push((tag >> 3, content));
        bytes = rest;
    }
    fields
}

/// The bytes that a `Vector` of one row should have, from `convert`.
fn expected_row(vectors: &[f32], shape: [usize; 2], row: usize, options: Options) -> Vec<(u64, Vec<u8>)> {
    let encoding = match options.encoding {
        WireEncoding::Float | WireEncoding::Float32Bytes => Encoding::Float32,
        WireEncoding::Float16Bytes => Encoding::Float16,
        WireEncoding::Int8Bytes => Encoding::Int8,
        WireEncoding::BinaryBytes => Encoding::Binary,
    };
    let field = if options.encoding == WireEncoding::Float { 1 } else { 2 };
    let options = quantize::Options { dimensions: options.dimensions, normalize: options.normalize, encoding, threads: 1 };
    let vector = &vectors[row * shape[1]..(row + 1) * shape[1]];
    match convert(vector, [1, shape[1]], &options).unwrap().values {
        Values::Float32(values) => vec![(field, values.iter().flat_map(|value| value.to_le_bytes()).collect())],
        Values::Float16(values) => vec![(field, values.iter().flat_map(|value| value.to_le_bytes()).collect())],
        Values::Int8(values, scales) => {
            vec![(field, values.iter().map(|value| value.cast_unsigned()).collect()), (3, scales[0].to_le_bytes().to_vec())]
        }
        Values::Binary(values) => vec![(field, values)],
    }
}

fn assert_fields(found: &[Field], wanted: &[(u64, Vec<u8>)]) {
    let wanted: Vec<Field> = wanted.iter().map(|(number, content)| (*number, &content[..])).collect();
    assert_eq!(found, wanted);
}

#[test]
fn repeated_vectors_hold_what_convert_gives() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let (rows, width) = (random.below(5), random.pick(&[1, 7, 16, 31, 384, 9000]));
        let vectors = random.values(rows * width);
        let field = random.pick(&[1, 2, 15, 16, 2047, 2048, 18_999, 20_000, (1 << 29) - 1]);
        let dimensions = random.chance().then(|| 1 + random.below(width));
        let options = Options { dimensions, normalize: random.chance(), encoding: random.pick(&ENCODINGS) };
        let message = RepeatedVectors::new(Rows::new(&vectors, [rows, width], options).unwrap(), field).unwrap();
        let bytes = written(&message);
        let found = fields(&bytes);
        assert_eq!(found.len(), rows, "seed {seed}");
        for (row, (number, vector)) in found.into_iter().enumerate() {
            assert_eq!(number, u64::from(field), "seed {seed}");
            assert_fields(&fields(vector), &expected_row(&vectors, [rows, width], row, options));
        }
    }
}

#[test]
fn stream_results_hold_ids_and_vectors() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (rows, width) = (random.below(5), random.pick(&[1, 7, 31, 384]));
        let vectors = random.values(rows * width);
        let ids: Vec<String> = (0..rows).map(|_| "é".repeat(random.pick(&[0, 1, 60, 200, 9000]))).collect();
        let options = Options { dimensions: None, normalize: random.chance(), encoding: random.pick(&ENCODINGS) };
        let message = StreamResults::new(Rows::new(&vectors, [rows, width], options).unwrap(), &ids).unwrap();
        let bytes = written(&message);
        let found = fields(&bytes);
        assert_eq!(found.len(), rows, "seed {seed}");
        for (row, (number, result)) in found.into_iter().enumerate() {
            assert_eq!(number, 1);
            let result = fields(result);
            let (id, vector) = result.split_at(result.len() - 1);
            let wanted: Vec<Field> = if ids[row].is_empty() { vec![] } else { vec![(1, ids[row].as_bytes())] };
            assert_eq!(id, wanted, "seed {seed}");
            assert_eq!(vector[0].0, 2);
            assert_fields(&fields(vector[0].1), &expected_row(&vectors, [rows, width], row, options));
        }
    }
}

#[test]
fn a_matrix_holds_all_rows() {
    let vectors = [3.0, -4.0, 0.5, 0.0, 0.0, 12.0];
    let matrix = |encoding, normalize| {
        let rows = Rows::new(&vectors, [2, 3], Options { normalize, ..options(encoding) }).unwrap();
        written(&Matrix::new(rows).unwrap())
    };
    let floats: Vec<u8> = vectors.iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
    assert_eq!(fields(&matrix(WireEncoding::Float, false)), [(1, &floats[..])]);
    assert_eq!(fields(&matrix(WireEncoding::Float32Bytes, false)), [(2, &floats[..])]);
    // Every row begins with a new byte.
    assert_eq!(fields(&matrix(WireEncoding::BinaryBytes, false)), [(2, &[0b1010_0000, 0b0010_0000][..])]);
    // One scale for all rows.
    let scale = (12.0_f32 / 127.0).to_le_bytes();
    let bytes = matrix(WireEncoding::Int8Bytes, false);
    let integers = [32_i8, -42, 5, 0, 0, 127].map(i8::cast_unsigned);
    assert_eq!(fields(&bytes), [(2, &integers[..]), (3, &scale[..])]);
    // Rows are scaled one by one, before the common scale is taken.
    let scale = (1.0_f32 / 127.0).to_le_bytes();
    let bytes = matrix(WireEncoding::Int8Bytes, true);
    let integers = [76_i8, -101, 13, 0, 0, 127].map(i8::cast_unsigned);
    assert_eq!(fields(&bytes), [(2, &integers[..]), (3, &scale[..])]);
}

/// The tokens of texts of so many tokens each.
struct Batch {
    offsets: Vec<i64>,
    ids: Vec<i32>,
    spans: Vec<[u32; 2]>,
    special_tokens_mask: Vec<u8>,
}

impl Batch {
    /// Tokens of numbers of every length, and of zeros among them.
    fn new(random: &mut Random, lengths: &[usize]) -> Self {
        let tokens = lengths.iter().sum();
        let offsets = std::iter::once(0).chain(lengths.iter().scan(0, |end, length| {
            *end += i64::try_from(*length).unwrap();
            Some(*end)
        }));
        let mut number = || u32::try_from(random.next() >> 32).unwrap().checked_shr(random.pick(&[0, 8, 16, 24, 30, 32])).unwrap_or(0);
        Self {
            offsets: offsets.collect(),
            spans: (0..tokens).map(|_| [number(), number()]).collect(),
            ids: (0..tokens).map(|_| (number() >> 1).cast_signed()).collect(),
            special_tokens_mask: (0..tokens).map(|_| random.pick(&[0, 0, 1, 2, 255])).collect(),
        }
    }

    fn tokens(&self) -> Tokens<'_> {
        let Self { offsets, ids, spans, special_tokens_mask } = self;
        Tokens { offsets, ids, spans, special_tokens_mask }
    }
}

fn naive_varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() + 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn naive_delimited(field: u64, content: &[u8]) -> Vec<u8> {
    [naive_varint(field * 8 + 2), naive_varint(content.len() as u64), content.to_vec()].concat()
}

/// The bytes that token embeddings should have, each part made on its own and copied into the one around it.
fn naive_token_embeddings(vectors: &[f32], width: usize, tokens: Tokens, options: Options) -> Vec<u8> {
    let mut message = vec![];
    for pair in tokens.offsets.windows(2) {
        let range = usize::try_from(pair[0]).unwrap()..usize::try_from(pair[1]).unwrap();
        let rows = Rows::new(&vectors[range.start * width..range.end * width], [range.len(), width], options).unwrap();
        let mut entry = naive_delimited(1, &written(&Matrix::new(rows).unwrap()));
        if !range.is_empty() {
            let ids: Vec<Vec<u8>> = tokens.ids[range.clone()].iter().map(|id| naive_varint(u64::try_from(*id).unwrap())).collect();
            entry.extend(naive_delimited(2, &ids.concat()));
        }
        for [start, end] in &tokens.spans[range.clone()] {
            let mut span = vec![];
            if *start > 0 {
                span.extend([vec![8], naive_varint((*start).into())].concat());
            }
            if *end > 0 {
                span.extend([vec![16], naive_varint((*end).into())].concat());
            }
            entry.extend(naive_delimited(3, &span));
        }
        if !range.is_empty() {
            let marks: Vec<u8> = tokens.special_tokens_mask[range].iter().map(|mark| u8::from(*mark > 0)).collect();
            entry.extend(naive_delimited(4, &marks));
        }
        message.extend(naive_delimited(1, &entry));
    }
    message
}

#[test]
fn token_embeddings_are_what_a_naive_encoder_writes() {
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let width = random.pick(&[0, 1, 7, 16, 31, 384]);
        let lengths: Vec<usize> = (0..random.below(6)).map(|_| random.pick(&[0, 0, 1, 2, 5, 127, 128, 300])).collect();
        let batch = Batch::new(&mut random, &lengths);
        let vectors = random.values(batch.ids.len() * width);
        let options = Options { dimensions: None, normalize: random.chance(), encoding: random.pick(&ENCODINGS) };
        let rows = Rows::new(&vectors, [batch.ids.len(), width], options).unwrap();
        let found = written(&TokenEmbeddings::new(rows, batch.tokens()).unwrap());
        assert!(found == naive_token_embeddings(&vectors, width, batch.tokens(), options), "seed {seed}");
    }
}

#[test]
fn token_numbers_of_every_length_are_right() {
    // One value below, at and above each size where a number gets one byte longer.
    let mut edges: Vec<u32> = [7, 14, 21, 28].into_iter().flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1]).collect();
    edges.extend([0, 1, u32::MAX]);
    let batch = Batch {
        offsets: vec![0, i64::try_from(edges.len()).unwrap()],
        ids: edges.iter().map(|edge| i32::try_from(*edge).unwrap_or(i32::MAX)).collect(),
        spans: edges.iter().zip(edges.iter().rev()).map(|(start, end)| [*start, *end]).collect(),
        special_tokens_mask: vec![1; edges.len()],
    };
    let vectors = vec![1.5; edges.len()];
    let options = options(WireEncoding::Float);
    let rows = Rows::new(&vectors, [edges.len(), 1], options).unwrap();
    let found = written(&TokenEmbeddings::new(rows, batch.tokens()).unwrap());
    assert_eq!(found, naive_token_embeddings(&vectors, 1, batch.tokens(), options));
}

#[test]
fn texts_without_tokens_are_entries_with_an_empty_vector() {
    for encoding in ENCODINGS {
        let batch = Batch::new(&mut Random::new(1), &[0, 0]);
        let rows = Rows::new(&[], [0, 8], options(encoding)).unwrap();
        assert_eq!(written(&TokenEmbeddings::new(rows, batch.tokens()).unwrap()), [10, 2, 10, 0, 10, 2, 10, 0]);
        let batch = Batch::new(&mut Random::new(1), &[]);
        assert!(TokenEmbeddings::new(rows, batch.tokens()).unwrap().is_empty());
    }
}

#[test]
fn a_value_of_a_token_that_is_not_finite_is_refused_with_its_text() {
    let batch = Batch::new(&mut Random::new(1), &[2, 0, 2, 1]);
    let refused = |encoding, normalize, value| {
        let mut vectors = [1.0; 10];
        vectors[7] = value;
        let rows = Rows::new(&vectors, [5, 2], Options { normalize, ..options(encoding) }).unwrap();
        let message = TokenEmbeddings::new(rows, batch.tokens()).unwrap();
        let error = message.write(&mut vec![0; message.len()]).unwrap_err();
        assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(2)));
    };
    for encoding in ENCODINGS {
        for normalize in [false, true] {
            refused(encoding, normalize, f32::NAN);
            refused(encoding, normalize, f32::INFINITY);
        }
    }
    refused(WireEncoding::Float16Bytes, false, 70_000.0);
}

#[test]
fn tokens_that_do_not_fit_their_vectors_are_refused() {
    let rows = Rows::new(&[1.0; 6], [3, 2], options(WireEncoding::Float)).unwrap();
    let batch = Batch { offsets: vec![0, 1, 3], ids: vec![1; 3], spans: vec![[0; 2]; 3], special_tokens_mask: vec![0; 3] };
    let refused = |tokens| {
        let error = TokenEmbeddings::new(rows, tokens).unwrap_err();
        (error.reason, error.index)
    };
    let tokens = batch.tokens();
    assert!(TokenEmbeddings::new(rows, tokens).is_ok());
    assert_eq!(refused(Tokens { ids: &[1; 2], ..tokens }), (Reason::ShapeMismatch, None));
    assert_eq!(refused(Tokens { spans: &[[0; 2]; 4], ..tokens }), (Reason::ShapeMismatch, None));
    assert_eq!(refused(Tokens { special_tokens_mask: &[], ..tokens }), (Reason::ShapeMismatch, None));
    assert_eq!(refused(Tokens { offsets: &[], ..tokens }), (Reason::OffsetsOutOfOrder, Some(0)));
    assert_eq!(refused(Tokens { offsets: &[1, 3], ..tokens }), (Reason::OffsetsOutOfOrder, Some(0)));
    assert_eq!(refused(Tokens { offsets: &[0, 2, 1, 3], ..tokens }), (Reason::OffsetsOutOfOrder, Some(2)));
    assert_eq!(refused(Tokens { offsets: &[0, 2], ..tokens }), (Reason::OffsetsOutOfOrder, Some(1)));
    assert_eq!(refused(Tokens { ids: &[1, 2, -1], ..tokens }), (Reason::OutOfRange, Some(1)));
}

#[test]
fn lengths_of_every_size_are_right() {
    // One value below, at and above each size where a length gets one byte longer.
    for width in [31, 32, 33, 4095, 4096, 4097, (1 << 19) - 1, 1 << 19, (1 << 19) + 1] {
        let vectors = vec![1.5; width];
        let rows = Rows::new(&vectors, [1, width], options(WireEncoding::Float)).unwrap();
        let bytes = written(&RepeatedVectors::new(rows, 1).unwrap());
        let found = fields(&bytes);
        let vector = fields(found[0].1);
        assert_eq!((found.len(), vector.len(), vector[0].1.len()), (1, 1, width * 4));
    }
}

#[test]
fn a_message_beyond_the_limit_of_protobuf_is_refused() {
    // Zeroed memory of this size is only reserved, and never touched.
    let vectors = vec![0.0_f32; 1 << 29];
    let rows = Rows::new(&vectors, [1 << 20, 1 << 9], options(WireEncoding::Float)).unwrap();
    assert_eq!(RepeatedVectors::new(rows, 1).unwrap_err().reason, Reason::OutOfRange);
    assert_eq!(Matrix::new(rows).unwrap_err().reason, Reason::OutOfRange);
    let mut batch = Batch::new(&mut Random::new(1), &[1 << 19, 1 << 19]);
    let error = TokenEmbeddings::new(rows, batch.tokens()).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::OutOfRange, None));
    let rows = Rows::new(&vectors, [1 << 20, 1 << 9], options(WireEncoding::BinaryBytes)).unwrap();
    assert!(TokenEmbeddings::new(rows, batch.tokens()).unwrap().len() > 1 << 26);
    batch.ids[1 << 19] = i32::MIN;
    assert_eq!(TokenEmbeddings::new(rows, batch.tokens()).unwrap_err().index, Some(1));
    assert!(Matrix::new(rows).unwrap().len() > 1 << 26);
    let rows = Rows::new(&[], [usize::MAX, 0], options(WireEncoding::Float)).unwrap();
    assert_eq!(RepeatedVectors::new(rows, 1).unwrap_err().reason, Reason::OutOfRange);
}

#[test]
fn numbers_that_are_no_field_are_refused() {
    let rows = Rows::new(&[1.0], [1, 1], options(WireEncoding::Float)).unwrap();
    for field in [0, 19_000, 19_999, 1 << 29, u32::MAX] {
        assert_eq!(RepeatedVectors::new(rows, field).unwrap_err().reason, Reason::OutOfRange, "{field}");
    }
}

#[test]
fn values_that_are_not_finite_are_refused_with_their_row() {
    let vectors = [1.0, 2.0, 3.0, f32::NAN];
    for encoding in ENCODINGS {
        for normalize in [false, true] {
            let rows = Rows::new(&vectors, [2, 2], Options { normalize, ..options(encoding) }).unwrap();
            let message = RepeatedVectors::new(rows, 1).unwrap();
            let error = message.write(&mut vec![0; message.len()]).unwrap_err();
            assert_eq!((error.reason, error.index), (Reason::NotFinite, Some(1)));
            let message = Matrix::new(rows).unwrap();
            assert_eq!(message.write(&mut vec![0; message.len()]).unwrap_err().index, Some(1));
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert_eq!(Rows::new(&[1.0; 5], [2, 3], options(WireEncoding::Float)).unwrap_err().reason, Reason::ShapeMismatch);
    let rows = Rows::new(&[1.0; 6], [2, 3], options(WireEncoding::Float)).unwrap();
    assert_eq!(StreamResults::new(rows, &["a"]).unwrap_err().reason, Reason::ShapeMismatch);
    for dimensions in [0, 4] {
        let options = Options { dimensions: Some(dimensions), ..options(WireEncoding::Float) };
        assert_eq!(Rows::new(&[1.0; 6], [2, 3], options).unwrap_err().reason, Reason::OutOfRange);
    }
}

#[test]
fn no_rows_give_no_bytes() {
    for encoding in ENCODINGS {
        let rows = Rows::new(&[], [0, 8], options(encoding)).unwrap();
        assert!(RepeatedVectors::new(rows, 1).unwrap().is_empty());
        assert!(StreamResults::new(rows, &[""; 0]).unwrap().is_empty());
        assert!(Matrix::new(rows).unwrap().is_empty());
        // A row without values is an empty vector.
        let rows = Rows::new(&[], [2, 0], options(encoding)).unwrap();
        assert_eq!(written(&RepeatedVectors::new(rows, 1).unwrap()), [10, 0, 10, 0]);
    }
}
