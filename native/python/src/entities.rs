//! Entities out of the labels of tokens.

use hubwire_core::entities::{self, Labels, Strategy, Tokens};
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::arrays::Array;
use crate::detach::detached;
use crate::error::unknown_name;

/// `AggregationStrategy` in Python.
pub const STRATEGIES: [&str; 5] = ["none", "simple", "first", "average", "max"];

#[pyclass(frozen, get_all, module = "hubwire_server._native")]
pub struct Entities {
    rows: Py<PyArray1<i64>>,
    first: Py<PyArray1<i64>>,
    last: Py<PyArray1<i64>>,
    labels: Py<PyArray1<i32>>,
    scores: Py<PyArray1<f32>>,
}

#[pyfunction]
#[pyo3(signature = (scores, offsets, kept, is_subword, tags, begins, *, strategy))]
#[allow(clippy::too_many_arguments, reason = "they are the arrays of a batch, and a keyword in Python")]
pub fn aggregate_entities(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    kept: &Bound<'_, PyAny>,
    is_subword: &Bound<'_, PyAny>,
    tags: &Bound<'_, PyAny>,
    begins: &Bound<'_, PyAny>,
    strategy: &str,
) -> PyResult<Entities> {
    let (scores, offsets) = (Array::<f32, 2>::extract(scores, "scores")?, Array::<i64, 1>::extract(offsets, "offsets")?);
    let (kept, is_subword) = (Array::extract_bools(kept, "kept")?, Array::extract_bools(is_subword, "is_subword")?);
    let (tags, begins) = (Array::<i32, 1>::extract(tags, "tags")?, Array::extract_bools(begins, "begins")?);
    let strategy = self::strategy(py, strategy)?;
    let tokens = Tokens {
        scores: scores.values()?,
        shape: scores.shape(),
        offsets: offsets.values()?,
        kept: kept.values()?,
        is_subword: is_subword.values()?,
    };
    let labels = Labels { tags: tags.values()?, begins: begins.values()? };
    let found = detached(py, size_of_val(tokens.scores), || entities::aggregate(&tokens, &labels, strategy))?;
    Ok(Entities {
        rows: PyArray1::from_vec(py, found.rows).unbind(),
        first: PyArray1::from_vec(py, found.first).unbind(),
        last: PyArray1::from_vec(py, found.last).unbind(),
        labels: PyArray1::from_vec(py, found.labels).unbind(),
        scores: PyArray1::from_vec(py, found.scores).unbind(),
    })
}

fn strategy(py: Python<'_>, name: &str) -> PyResult<Strategy> {
    match name {
        "none" => Ok(Strategy::None),
        "simple" => Ok(Strategy::Simple),
        "first" => Ok(Strategy::First),
        "average" => Ok(Strategy::Average),
        "max" => Ok(Strategy::Max),
        _ => Err(unknown_name(py, "strategy", name, &STRATEGIES)),
    }
}
