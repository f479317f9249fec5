//! Protobuf bytes, read back by a small reader of the wire format.

mod common;

use common::Random;
use hubwire_core::Reason;
use hubwire_core::quantize::{self, Encoding, Values, convert};
use hubwire_core::wire::{Matrix, Message, Options, RepeatedVectors, Rows, StreamResults, WireEncoding};

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
    let rows = Rows::new(&vectors, [1 << 20, 1 << 9], options(WireEncoding::BinaryBytes)).unwrap();
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
        let bytes = written(&Matrix::new(rows).unwrap());
        assert!(fields(&bytes).iter().all(|(number, content)| *number == 3 || content.is_empty()));
    }
}
