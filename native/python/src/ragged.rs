//! Ragged batches.

use hubwire_core::ragged;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

#[pyclass(frozen, get_all, module = "hubwire_server._native")]
pub struct RaggedBatch {
    ids: Py<PyArray1<i32>>,
    type_ids: Py<PyArray1<i32>>,
    offsets: Py<PyArray1<i64>>,
    token_counts: Py<PyArray1<i64>>,
    sources: Py<PyArray1<i64>>,
    spans: Option<Py<PyArray2<u32>>>,
    special_tokens_mask: Option<Py<PyArray1<bool>>>,
    sequence_ids: Option<Py<PyArray1<i8>>>,
    word_ids: Option<Py<PyArray1<i32>>>,
}

impl RaggedBatch {
    pub fn new(py: Python<'_>, batch: ragged::RaggedBatch) -> PyResult<Self> {
        let positions = batch.positions;
        let (spans, marks) = positions.map(|known| (known.spans, (known.special_tokens_mask, known.sequence_ids, known.word_ids))).unzip();
        let (special_tokens_mask, sequence_ids, word_ids) = match marks {
            Some((special, sequences, words)) => (Some(special), Some(sequences), Some(words)),
            None => (None, None, None),
        };
        let spans = spans.map(|spans: Vec<[u32; 2]>| {
            let tokens = spans.len();
            PyArray1::from_vec(py, spans.into_flattened()).reshape([tokens, 2])
        });
        Ok(Self {
            ids: PyArray1::from_vec(py, batch.ids).unbind(),
            type_ids: PyArray1::from_vec(py, batch.type_ids).unbind(),
            offsets: PyArray1::from_vec(py, batch.offsets).unbind(),
            token_counts: PyArray1::from_vec(py, batch.token_counts).unbind(),
            sources: PyArray1::from_vec(py, batch.sources).unbind(),
            spans: spans.transpose()?.map(Bound::unbind),
            special_tokens_mask: special_tokens_mask.map(|mask| PyArray1::from_vec(py, mask).unbind()),
            sequence_ids: sequence_ids.map(|ids| PyArray1::from_vec(py, ids).unbind()),
            word_ids: word_ids.map(|ids| PyArray1::from_vec(py, ids).unbind()),
        })
    }
}
