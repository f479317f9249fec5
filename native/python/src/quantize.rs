//! Vectors in smaller forms.

use hubwire_core::quantize::{self, Encoding, Options, Values};
use numpy::{Element, PyArray1, PyArrayMethods};
use pyo3::prelude::*;

use crate::arrays::Array;
use crate::detach::detached;
use crate::error::unknown_name;

/// `Encoding` in Python.
pub const ENCODINGS: [&str; 4] = ["float32", "float16", "int8", "binary"];

fn encoding(py: Python<'_>, name: &str) -> PyResult<Encoding> {
    match name {
        "float32" => Ok(Encoding::Float32),
        "float16" => Ok(Encoding::Float16),
        "int8" => Ok(Encoding::Int8),
        "binary" => Ok(Encoding::Binary),
        _ => Err(unknown_name(py, "encoding", name, &ENCODINGS)),
    }
}

type Converted<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyArray1<f32>>>);

#[pyfunction]
#[pyo3(signature = (vectors, *, dimensions=None, normalize=false, encoding="float32", threads=1))]
pub fn convert<'py>(
    py: Python<'py>,
    vectors: &Bound<'py, PyAny>,
    dimensions: Option<usize>,
    normalize: bool,
    encoding: &str,
    threads: usize,
) -> PyResult<Converted<'py>> {
    let vectors = Array::<f32, 2>::extract(vectors, "vectors")?;
    let (shape, values) = (vectors.shape(), vectors.values()?);
    let options = Options { dimensions, normalize, encoding: self::encoding(py, encoding)?, threads };
    let converted = detached(py, size_of_val(values), || quantize::convert(values, shape, &options))?;
    let shape = [shape[0], converted.width];
    Ok(match converted.values {
        Values::Float32(values) => (matrix(py, values, shape)?, None),
        Values::Float16(values) => (matrix(py, values, shape)?, None),
        Values::Int8(values, scales) => (matrix(py, values, shape)?, Some(PyArray1::from_vec(py, scales))),
        Values::Binary(values) => (matrix(py, values, shape)?, None),
    })
}

fn matrix<T: Element>(py: Python<'_>, values: Vec<T>, shape: [usize; 2]) -> PyResult<Bound<'_, PyAny>> {
    Ok(PyArray1::from_vec(py, values).reshape(shape)?.into_any())
}
