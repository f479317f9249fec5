//! Vectors as protobuf bytes, into memory that is there already.

use gungraun::{library_benchmark, library_benchmark_group};
use hubwire_core::Result;
use hubwire_core::wire::{Message, Options, RepeatedVectors, Rows, StreamResults, TokenEmbeddings, Tokens, WireEncoding};

use crate::common::Random;
use crate::inputs::{self, WIDTH};

const ROWS: usize = 128;
/// The field that `EmbedResponse` has its vectors in.
const FIELD: u32 = 1;

/// Rows that are about to be written, and room for what is written.
pub struct Call {
    rows: Rows<'static>,
    room: Vec<u8>,
}

fn call(count: usize, encoding: WireEncoding, normalize: bool) -> Call {
    let rows = Rows::new(inputs::keep(inputs::vectors(count)), [count, WIDTH], Options { dimensions: None, normalize, encoding }).unwrap();
    // No form takes more than four bytes a value, and a hundred bytes more for tags, an id and the facts of a token.
    Call { rows, room: vec![0; count * (WIDTH * 4 + 100)] }
}

fn normalized(encoding: WireEncoding) -> Call {
    call(ROWS, encoding, true)
}

/// Writes a message. Returns the room, so that it is not dropped while instructions are counted.
fn written(message: Result<impl Message>, mut room: Vec<u8>) -> Result<Vec<u8>> {
    let message = message?;
    message.write(&mut room[..message.len()])?;
    Ok(room)
}

#[library_benchmark(setup = normalized)]
#[bench::float(WireEncoding::Float)]
#[bench::float16(WireEncoding::Float16Bytes)]
#[bench::int8(WireEncoding::Int8Bytes)]
#[bench::binary(WireEncoding::BinaryBytes)]
fn vectors(call: Call) -> Result<Vec<u8>> {
    written(RepeatedVectors::new(call.rows, FIELD), call.room)
}

/// Rows and their ids, some of which are empty.
fn stream() -> (Call, &'static [String]) {
    let ids = (0..ROWS).map(|row| if row % 8 == 0 { String::new() } else { format!("document-{row}") }).collect::<Vec<_>>();
    (call(ROWS, WireEncoding::Float32Bytes, false), inputs::keep(ids))
}

#[library_benchmark]
#[bench::float32(setup = stream)]
fn stream_results((call, ids): (Call, &'static [String])) -> Result<Vec<u8>> {
    written(StreamResults::new(call.rows, ids), call.room)
}

/// Rows and what is known of their tokens.
fn tokens() -> (Call, Tokens<'static>) {
    let offsets = inputs::keep(inputs::offsets(16, 64));
    let count = inputs::tokens(offsets);
    let mut random = Random::new(5);
    let ids: Vec<i32> = (0..count).map(|_| i32::try_from(random.below(30_000)).unwrap()).collect();
    let spans: Vec<[u32; 2]> =
        (0..count).map(|_| random.below(500)).map(|start| [start, start + 5].map(|end| end.try_into().unwrap())).collect();
    let marks: Vec<u8> = (0..count).map(|_| u8::from(random.below(10) == 0)).collect();
    let tokens = Tokens { offsets, ids: inputs::keep(ids), spans: inputs::keep(spans), special_tokens_mask: inputs::keep(marks) };
    (call(count, WireEncoding::Float16Bytes, false), tokens)
}

#[library_benchmark]
#[bench::float16(setup = tokens)]
fn token_embeddings((call, tokens): (Call, Tokens<'static>)) -> Result<Vec<u8>> {
    written(TokenEmbeddings::new(call.rows, tokens), call.room)
}

library_benchmark_group!(name = encoding, benchmarks = [vectors, stream_results, token_embeddings]);
