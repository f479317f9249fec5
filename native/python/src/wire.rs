//! Vectors as protobuf bytes, written straight into the Python object.

use hubwire_core::wire::{Matrix, Message, Options, RepeatedVectors, Rows, StreamResults, WireEncoding};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays::Array;
use crate::detach::detached;
use crate::error::{raise, unknown_name};
use crate::tokenize::strings;

/// `WireEncoding` in Python.
pub const ENCODINGS: [&str; 5] = ["float", "float32_bytes", "float16_bytes", "int8_bytes", "binary_bytes"];

fn encoding(py: Python<'_>, name: &str) -> PyResult<WireEncoding> {
    match name {
        "float" => Ok(WireEncoding::Float),
        "float32_bytes" => Ok(WireEncoding::Float32Bytes),
        "float16_bytes" => Ok(WireEncoding::Float16Bytes),
        "int8_bytes" => Ok(WireEncoding::Int8Bytes),
        "binary_bytes" => Ok(WireEncoding::BinaryBytes),
        _ => Err(unknown_name(py, "encoding", name, &ENCODINGS)),
    }
}

#[pyfunction]
#[pyo3(signature = (vectors, *, field, dimensions=None, normalize=false, encoding="float"))]
pub fn encode_vectors<'py>(
    py: Python<'py>,
    vectors: &Bound<'py, PyAny>,
    field: u32,
    dimensions: Option<usize>,
    normalize: bool,
    encoding: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let vectors = Array::<f32, 2>::extract(vectors, "vectors")?;
    let options = Options { dimensions, normalize, encoding: self::encoding(py, encoding)? };
    let message = Rows::new(vectors.values()?, vectors.shape(), options).and_then(|rows| RepeatedVectors::new(rows, field));
    bytes(py, message)
}

#[pyfunction]
#[pyo3(signature = (ids, vectors, *, dimensions=None, normalize=false, encoding="float"))]
pub fn encode_stream_results<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    vectors: &Bound<'py, PyAny>,
    dimensions: Option<usize>,
    normalize: bool,
    encoding: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let (ids, vectors) = (strings(ids, "ids")?, Array::<f32, 2>::extract(vectors, "vectors")?);
    let options = Options { dimensions, normalize, encoding: self::encoding(py, encoding)? };
    let message = Rows::new(vectors.values()?, vectors.shape(), options).and_then(|rows| StreamResults::new(rows, &ids));
    bytes(py, message)
}

#[pyfunction]
#[pyo3(signature = (vectors, *, normalize=false, encoding="float"))]
pub fn encode_matrix<'py>(py: Python<'py>, vectors: &Bound<'py, PyAny>, normalize: bool, encoding: &str) -> PyResult<Bound<'py, PyBytes>> {
    let vectors = Array::<f32, 2>::extract(vectors, "vectors")?;
    let options = Options { dimensions: None, normalize, encoding: self::encoding(py, encoding)? };
    let message = Rows::new(vectors.values()?, vectors.shape(), options).and_then(Matrix::new);
    bytes(py, message)
}

fn bytes(py: Python<'_>, message: hubwire_core::Result<impl Message + Sync>) -> PyResult<Bound<'_, PyBytes>> {
    let message = message.map_err(|error| raise(py, &error))?;
    PyBytes::new_with(py, message.len(), |out| {
        let length = out.len();
        detached(py, length, || message.write(out)).map_err(|error| raise(py, &error))
    })
}
