//! Answers out of the logits of their beginnings and ends.

use hubwire_core::answers::{self, Windows};
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::arrays::Array;
use crate::detach::detached;

#[pyclass(frozen, get_all, module = "hubwire_server._native")]
pub struct Answers {
    sources: Py<PyArray1<i64>>,
    first: Py<PyArray1<i64>>,
    last: Py<PyArray1<i64>>,
    scores: Py<PyArray1<f32>>,
    null_scores: Py<PyArray1<f32>>,
}

#[pyfunction]
#[pyo3(signature = (start, end, offsets, sources, allowed, null, *, max_answer_tokens, k))]
#[allow(clippy::too_many_arguments, reason = "they are the arrays of a batch, and keywords in Python")]
pub fn best_answers(
    py: Python<'_>,
    start: &Bound<'_, PyAny>,
    end: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    sources: &Bound<'_, PyAny>,
    allowed: &Bound<'_, PyAny>,
    null: &Bound<'_, PyAny>,
    max_answer_tokens: usize,
    k: usize,
) -> PyResult<Answers> {
    let (start, end) = (Array::<f32, 1>::extract(start, "start")?, Array::<f32, 1>::extract(end, "end")?);
    let (offsets, sources) = (Array::<i64, 1>::extract(offsets, "offsets")?, Array::<i64, 1>::extract(sources, "sources")?);
    let (allowed, null) = (Array::extract_bools(allowed, "allowed")?, Array::<i64, 1>::extract(null, "null")?);
    let windows = Windows {
        start: start.values()?,
        end: end.values()?,
        offsets: offsets.values()?,
        sources: sources.values()?,
        allowed: allowed.values()?,
        null: null.values()?,
    };
    // Each token may be the beginning of so many answers.
    let work = size_of_val(windows.start).saturating_mul(max_answer_tokens);
    let found = detached(py, work, || answers::best_answers(&windows, max_answer_tokens, k))?;
    Ok(Answers {
        sources: PyArray1::from_vec(py, found.sources).unbind(),
        first: PyArray1::from_vec(py, found.first).unbind(),
        last: PyArray1::from_vec(py, found.last).unbind(),
        scores: PyArray1::from_vec(py, found.scores).unbind(),
        null_scores: PyArray1::from_vec(py, found.null_scores).unbind(),
    })
}
