//! Tokenization.

use hubwire_core::tokenize::{self, OffsetUnit, Options, TruncationSide};
use hubwire_core::{Error, Reason};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PySequence, PyString};

use crate::detach::{TEXT_BYTE_WORK, detached};
use crate::error::{raise, unknown_name};

/// `TruncationSide` in Python.
pub const TRUNCATION_SIDES: [&str; 2] = ["left", "right"];
/// `OffsetUnit` in Python.
pub const OFFSET_UNITS: [&str; 3] = ["code_point", "utf8_byte", "utf16_unit"];

/// Room for so many strings is made beforehand, and for more when they come: a length is what an object says of itself, and
/// `range(2**62)` has one as well.
const MAX_RESERVED: usize = 1 << 16;

#[pyclass(frozen, get_all, module = "hubwire_server._native")]
pub struct RaggedBatch {
    ids: Py<PyArray1<i32>>,
    type_ids: Py<PyArray1<i32>>,
    offsets: Py<PyArray1<i64>>,
    token_counts: Py<PyArray1<i64>>,
    spans: Option<Py<PyArray2<u32>>>,
    special_tokens_mask: Option<Py<PyArray1<bool>>>,
}

#[pyclass(frozen, module = "hubwire_server._native")]
pub struct Tokenizer {
    core: tokenize::Tokenizer,
}

#[pymethods]
impl Tokenizer {
    #[new]
    fn new(py: Python<'_>, json: &Bound<'_, PyAny>) -> PyResult<Self> {
        let read = |json: &[u8]| {
            detached(py, json.len().saturating_mul(TEXT_BYTE_WORK), || tokenize::Tokenizer::from_json(json)).map(|core| Self { core })
        };
        if let Ok(bytes) = json.cast::<PyBytes>() {
            return read(bytes.as_bytes());
        }
        let text = json.cast::<PyString>().map_err(|_| PyTypeError::new_err("json should be a str or bytes"))?;
        match text.to_str() {
            Ok(text) => read(text.as_bytes()),
            Err(_) => Err(raise(py, &Error::new(Reason::InvalidTokenizer, "json is not valid Unicode"))),
        }
    }

    #[pyo3(signature = (texts, pairs=None, *, add_special_tokens=true, max_tokens=None, truncation_side="right", spans=None, threads=1))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn encode(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        pairs: Option<&Bound<'_, PyAny>>,
        add_special_tokens: bool,
        max_tokens: Option<usize>,
        truncation_side: &str,
        spans: Option<&str>,
        threads: usize,
    ) -> PyResult<RaggedBatch> {
        let options = Options {
            add_special_tokens,
            max_tokens,
            truncation_side: self::truncation_side(py, truncation_side)?,
            spans: spans.map(|unit| offset_unit(py, unit)).transpose()?,
            threads,
        };
        let texts = strings(texts, "texts")?;
        let pairs = pairs.map(|pairs| strings(pairs, "pairs")).transpose()?;
        let bytes: usize = texts.iter().chain(pairs.iter().flatten()).map(|text| text.len()).sum();
        let work = || self.core.encode(&texts, pairs.as_deref(), &options);
        let batch = detached(py, bytes.saturating_mul(TEXT_BYTE_WORK), work)?;
        let (spans, special_tokens_mask) = batch.positions.map(|positions| (positions.spans, positions.special_tokens_mask)).unzip();
        let spans = spans.map(|spans| {
            let tokens = spans.len();
            PyArray1::from_vec(py, spans.into_flattened()).reshape([tokens, 2])
        });
        Ok(RaggedBatch {
            ids: PyArray1::from_vec(py, batch.ids).unbind(),
            type_ids: PyArray1::from_vec(py, batch.type_ids).unbind(),
            offsets: PyArray1::from_vec(py, batch.offsets).unbind(),
            token_counts: PyArray1::from_vec(py, batch.token_counts).unbind(),
            spans: spans.transpose()?.map(Bound::unbind),
            special_tokens_mask: special_tokens_mask.map(|mask| PyArray1::from_vec(py, mask).unbind()),
        })
    }

    #[pyo3(signature = (pair=false))]
    fn count_special_tokens(&self, pair: bool) -> usize {
        self.core.count_special_tokens(pair)
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.core.vocab_size()
    }
}

/// The strings of a sequence, borrowed: each keeps its Python string alive, and shares its UTF-8 form.
pub fn strings(sequence: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<PyBackedStr>> {
    let py = sequence.py();
    // A string is a sequence of strings as well, but never what is meant.
    let texts = match sequence.cast::<PySequence>() {
        Ok(texts) if !sequence.is_instance_of::<PyString>() => texts,
        _ => return Err(PyTypeError::new_err(format!("{name} should be a sequence of str, not {}", sequence.get_type()))),
    };
    let mut strings = Vec::with_capacity(texts.len()?.min(MAX_RESERVED));
    for (index, text) in texts.try_iter()?.enumerate() {
        let text = text?;
        let text = text
            .cast_into::<PyString>()
            .map_err(|error| PyTypeError::new_err(format!("{name}[{index}] should be a str, not {}", error.into_inner().get_type())))?;
        strings.push(PyBackedStr::try_from(text).map_err(|_| {
            let message = format!("{name}[{index}] holds a lone surrogate, which is no Unicode text");
            raise(py, &Error::at(Reason::InvalidArgument, index, message))
        })?);
    }
    Ok(strings)
}

fn truncation_side(py: Python<'_>, name: &str) -> PyResult<TruncationSide> {
    match name {
        "left" => Ok(TruncationSide::Left),
        "right" => Ok(TruncationSide::Right),
        _ => Err(unknown_name(py, "truncation_side", name, &TRUNCATION_SIDES)),
    }
}

fn offset_unit(py: Python<'_>, name: &str) -> PyResult<OffsetUnit> {
    match name {
        "code_point" => Ok(OffsetUnit::CodePoint),
        "utf8_byte" => Ok(OffsetUnit::Utf8Byte),
        "utf16_unit" => Ok(OffsetUnit::Utf16Unit),
        _ => Err(unknown_name(py, "spans", name, &OFFSET_UNITS)),
    }
}
