//! The hot core of Hubwire: plain Rust that knows no Python.
//!
//! ```text
//! tokenize   texts -> ragged batch of token ids        ragged     offsets, and the checks on them
//! pool       hidden states -> one vector a text        simd       the loops of pooling, for each instruction set
//! quantize   vectors -> float16, int8, bits            wire       vectors -> protobuf bytes
//! parallel   one call over a bounded number of threads error      everything that can be refused
//! ```

mod error;
mod parallel;
pub mod pool;
pub mod quantize;
pub mod ragged;
pub mod simd;
pub mod tokenize;
pub mod wire;

pub use error::{Error, Reason, Result};
