//! Sparse vectors.

use hubwire_core::sparse;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::arrays::Array;
use crate::detach::detached;

type SparseRows<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<i64>>);

#[pyfunction]
#[pyo3(signature = (maxima, *, threads=1))]
pub fn sparse_rows<'py>(py: Python<'py>, maxima: &Bound<'py, PyAny>, threads: usize) -> PyResult<SparseRows<'py>> {
    let maxima = Array::<f32, 2>::extract(maxima, "maxima")?;
    let (shape, values) = (maxima.shape(), maxima.values()?);
    let found = detached(py, size_of_val(values), || sparse::sparse_rows(values, shape, threads))?;
    Ok((PyArray1::from_vec(py, found.indices), PyArray1::from_vec(py, found.values), PyArray1::from_vec(py, found.offsets)))
}
