//! Vectors as protobuf bytes, written straight into the Python object.

use hubwire_core::wire::{Matrix, Message, Options, RepeatedVectors, Rows, StreamResults, TokenEmbeddings, Tokens, WireEncoding};
use hubwire_core::{Error, Reason};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays::Array;
use crate::detach::detached;
use crate::error::{raise, unknown_name};
use crate::strings::strings;

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

#[pyfunction]
#[pyo3(signature = (vectors, offsets, ids, spans, special_tokens_mask, *, normalize=false, encoding="float"))]
#[allow(clippy::too_many_arguments, reason = "they are the arrays of a batch, and keywords in Python")]
pub fn encode_token_embeddings<'py>(
    py: Python<'py>,
    vectors: &Bound<'py, PyAny>,
    offsets: &Bound<'py, PyAny>,
    ids: &Bound<'py, PyAny>,
    spans: &Bound<'py, PyAny>,
    special_tokens_mask: &Bound<'py, PyAny>,
    normalize: bool,
    encoding: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let vectors = Array::<f32, 2>::extract(vectors, "vectors")?;
    let (offsets, ids) = (Array::<i64, 1>::extract(offsets, "offsets")?, Array::<i32, 1>::extract(ids, "ids")?);
    let (spans, marks) = (Array::<u32, 2>::extract(spans, "spans")?, Array::extract_bools(special_tokens_mask, "special_tokens_mask")?);
    let options = Options { dimensions: None, normalize, encoding: self::encoding(py, encoding)? };
    let [_, columns] = spans.shape();
    if columns != 2 {
        let message = format!("spans should have 2 columns, not {columns}");
        return Err(raise(py, &Error::new(Reason::ShapeMismatch, message)));
    }
    let (values, shape) = (vectors.values()?, vectors.shape());
    let tokens = Tokens {
        offsets: offsets.values()?,
        ids: ids.values()?,
        spans: spans.values()?.as_chunks().0,
        special_tokens_mask: marks.values()?,
    };
    // The length depends on the numbers of the tokens and on no value of the vectors.
    let read = size_of_val(tokens.ids) + size_of_val(tokens.spans);
    let message = detached(py, read, || Rows::new(values, shape, options).and_then(|rows| TokenEmbeddings::new(rows, tokens)))?;
    bytes_of(py, size_of_val(values), &message)
}

fn bytes(py: Python<'_>, message: hubwire_core::Result<impl Message + Sync>) -> PyResult<Bound<'_, PyBytes>> {
    bytes_of(py, 0, &message.map_err(|error| raise(py, &error))?)
}

/// The bytes of a message for which `read` bytes of arrays are read, which may be far more than it has.
fn bytes_of<'py>(py: Python<'py>, read: usize, message: &(impl Message + Sync)) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, message.len(), |out| {
        let length = out.len();
        detached(py, length.max(read), || message.write(out))
    })
}
