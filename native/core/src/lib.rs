//! The hot core of Hubwire: plain Rust that knows no Python.
//!
//! ```text
//! tokenize   texts -> ragged batch of token ids          ragged     the batch, offsets, and the checks on them
//! windows    what becomes of texts over the limit        units      positions in code points, bytes, UTF-16
//! vocabulary ids -> tokens and texts
//! pool       hidden states -> one vector a text          hidden     what it reads
//! simd       its loops, for each instruction set         numeric    the arithmetic of rows
//! topk       logits -> the largest of each row           sparse     logits -> sparse vectors
//! entities   labels of tokens -> entities                answers    logits of tokens -> spans
//! best       the best few of many
//! quantize   vectors -> float16, int8, bits              wire       vectors -> protobuf bytes
//! parallel   one call over a bounded number of threads   error      everything that can be refused
//! ```

pub mod answers;
mod best;
pub mod entities;
mod error;
mod hidden;
mod numeric;
mod parallel;
pub mod pool;
pub mod quantize;
pub mod ragged;
pub mod simd;
pub mod sparse;
pub mod tokenize;
pub mod topk;
mod units;
mod vocabulary;
mod windows;
pub mod wire;

pub use error::{Error, Reason, Result};
