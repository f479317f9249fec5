//! The largest logits of rows.

use hubwire_core::topk;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

use crate::arrays::Array;
use crate::detach::detached;

type TopK<'py> = (Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<f32>>);

#[pyfunction]
#[pyo3(signature = (logits, k, *, threads=1))]
pub fn top_k<'py>(py: Python<'py>, logits: &Bound<'py, PyAny>, k: usize, threads: usize) -> PyResult<TopK<'py>> {
    let logits = Array::<f32, 2>::extract(logits, "logits")?;
    let (shape, values) = (logits.shape(), logits.values()?);
    let found = detached(py, size_of_val(values), || topk::top_k(values, shape, k, threads))?;
    let shape = [shape[0], found.width];
    Ok((
        PyArray1::from_vec(py, found.ids).reshape(shape)?,
        PyArray1::from_vec(py, found.values).reshape(shape)?,
        PyArray1::from_vec(py, found.logsumexp),
    ))
}
