//! The hot core of Hubwire: plain Rust that knows no Python.
//!
//! ```text
//! tokenize   texts -> ragged batch of token ids          ragged     the batch, offsets, and the checks on them
//! pool       hidden states -> one vector a text          hidden     what it reads
//! simd       its loops, for each instruction set         numeric    the arithmetic of rows
//! quantize   vectors -> float16, int8, bits              wire       vectors -> protobuf bytes
//! parallel   one call over a bounded number of threads   error      everything that can be refused
//! ```

mod error;
mod hidden;
mod numeric;
mod parallel;
pub mod pool;
pub mod quantize;
pub mod ragged;
pub mod simd;
pub mod tokenize;
pub mod wire;

pub use error::{Error, Reason, Result};
