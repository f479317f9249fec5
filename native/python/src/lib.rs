//! `hubwire_server._native`: the Python face of `hubwire-core`. Arguments in, one call, results out; what a value means is decided in the
//! core. The stub `_native.pyi` documents every function.

use pyo3::prelude::*;

/// Tokenization allocates several times a word. On one thread this allocator makes it a quarter faster than that of glibc, and two threads
/// do not get into each other's way.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod answers;
mod arrays;
mod detach;
mod entities;
mod error;
mod literals;
mod pool;
mod quantize;
mod ragged;
mod simd;
mod sparse;
mod strings;
mod tokenize;
mod topk;
mod wire;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::answers::{Answers, best_answers};
    #[pymodule_export]
    use super::entities::{Entities, aggregate_entities};
    #[pymodule_export]
    use super::pool::{pool_padded, pool_ragged};
    #[pymodule_export]
    use super::quantize::convert;
    #[pymodule_export]
    use super::ragged::RaggedBatch;
    #[pymodule_export]
    use super::simd::{set_simd_level, simd_level};
    #[pymodule_export]
    use super::sparse::sparse_rows;
    #[pymodule_export]
    use super::tokenize::Tokenizer;
    #[pymodule_export]
    use super::topk::top_k;
    #[pymodule_export]
    use super::wire::{encode_matrix, encode_stream_results, encode_token_embeddings, encode_vectors};

    use super::{Bound, PyModule, PyResult, error, literals};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        error::register(module)?;
        literals::register(module)
    }
}
