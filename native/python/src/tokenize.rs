//! Tokenization.

use hubwire_core::tokenize::{self, OffsetUnit, Options, PairTruncation, TruncationSide};
use hubwire_core::{Error, Reason};
use numpy::PyArray1;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyBytes, PyString};

use crate::arrays::Array;
use crate::detach::{TEXT_BYTE_WORK, detached};
use crate::error::{raise, unknown_name};
use crate::ragged::RaggedBatch;
use crate::strings::{lists_of_strings, strings};

/// `TruncationSide` in Python.
pub const TRUNCATION_SIDES: [&str; 2] = ["left", "right"];
/// `PairTruncation` in Python.
pub const PAIR_TRUNCATIONS: [&str; 3] = ["longest_first", "only_first", "only_second"];
/// `OffsetUnit` in Python.
pub const OFFSET_UNITS: [&str; 3] = ["code_point", "utf8_byte", "utf16_unit"];

/// Decoding a token, or looking it up, is as much work as so many bytes of an array: it takes about 0.1 us.
const TOKEN_WORK: usize = 1 << 11;

#[pyclass(frozen, module = "hubwire_server._native")]
pub struct Tokenizer {
    core: tokenize::Tokenizer,
    /// What `token_lengths` returns.
    lengths: PyOnceLock<Py<PyArray1<i32>>>,
}

#[pymethods]
impl Tokenizer {
    #[new]
    fn new(py: Python<'_>, json: &Bound<'_, PyAny>) -> PyResult<Self> {
        let read = |json: &[u8]| {
            detached(py, json.len().saturating_mul(TEXT_BYTE_WORK), || tokenize::Tokenizer::from_json(json))
                .map(|core| Self { core, lengths: PyOnceLock::new() })
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

    #[pyo3(signature = (texts, pairs=None, *, add_special_tokens=true, max_tokens=None, truncation_side="right", truncation="longest_first",
        stride=None, spans=None, threads=1))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn encode(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        pairs: Option<&Bound<'_, PyAny>>,
        add_special_tokens: bool,
        max_tokens: Option<usize>,
        truncation_side: &str,
        truncation: &str,
        stride: Option<usize>,
        spans: Option<&str>,
        threads: usize,
    ) -> PyResult<RaggedBatch> {
        let options = Options {
            add_special_tokens,
            max_tokens,
            truncation_side: self::truncation_side(py, truncation_side)?,
            truncation: pair_truncation(py, truncation)?,
            stride,
            spans: spans.map(|unit| offset_unit(py, unit)).transpose()?,
            threads,
        };
        let texts = strings(texts, "texts")?;
        let pairs = pairs.map(|pairs| strings(pairs, "pairs")).transpose()?;
        let bytes: usize = texts.iter().chain(pairs.iter().flatten()).map(|text| text.len()).sum();
        let work = || self.core.encode(&texts, pairs.as_deref(), &options);
        RaggedBatch::new(py, detached(py, bytes.saturating_mul(TEXT_BYTE_WORK), work)?)
    }

    #[pyo3(signature = (words, *, add_special_tokens=true, max_tokens=None, truncation_side="right", stride=None, spans=None, threads=1))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn encode_words(
        &self,
        py: Python<'_>,
        words: &Bound<'_, PyAny>,
        add_special_tokens: bool,
        max_tokens: Option<usize>,
        truncation_side: &str,
        stride: Option<usize>,
        spans: Option<&str>,
        threads: usize,
    ) -> PyResult<RaggedBatch> {
        let options = Options {
            add_special_tokens,
            max_tokens,
            truncation_side: self::truncation_side(py, truncation_side)?,
            truncation: PairTruncation::LongestFirst,
            stride,
            spans: spans.map(|unit| offset_unit(py, unit)).transpose()?,
            threads,
        };
        let words = lists_of_strings(words, "words")?;
        let bytes: usize = words.iter().flatten().map(|word| word.len()).sum();
        let work = || self.core.encode_words(&words, &options);
        RaggedBatch::new(py, detached(py, bytes.saturating_mul(TEXT_BYTE_WORK), work)?)
    }

    #[pyo3(signature = (ids, offsets, *, skip_special_tokens))]
    fn decode(
        &self,
        py: Python<'_>,
        ids: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        skip_special_tokens: bool,
    ) -> PyResult<Vec<String>> {
        let (ids, offsets) = (Array::<i32, 1>::extract(ids, "ids")?, Array::<i64, 1>::extract(offsets, "offsets")?);
        let (ids, offsets) = (ids.values()?, offsets.values()?);
        detached(py, ids.len().saturating_mul(TOKEN_WORK), || self.core.decode(ids, offsets, skip_special_tokens))
    }

    fn tokens(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
        let ids = Array::<i32, 1>::extract(ids, "ids")?;
        let ids = ids.values()?;
        detached(py, ids.len().saturating_mul(TOKEN_WORK), || self.core.tokens(ids))
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.core.token_to_id(token)
    }

    fn token_lengths(&self, py: Python<'_>) -> PyResult<Py<PyArray1<i32>>> {
        let lengths = self.lengths.get_or_try_init(py, || {
            let size = self.core.vocab_size();
            let lengths = detached(py, size.saturating_mul(TOKEN_WORK), || self.core.token_lengths())?;
            let lengths = PyArray1::from_slice(py, lengths);
            // All callers get this one array.
            lengths.call_method("setflags", (), Some(&[("write", false)].into_py_dict(py)?))?;
            Ok::<_, PyErr>(lengths.unbind())
        })?;
        Ok(lengths.clone_ref(py))
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

fn truncation_side(py: Python<'_>, name: &str) -> PyResult<TruncationSide> {
    match name {
        "left" => Ok(TruncationSide::Left),
        "right" => Ok(TruncationSide::Right),
        _ => Err(unknown_name(py, "truncation_side", name, &TRUNCATION_SIDES)),
    }
}

fn pair_truncation(py: Python<'_>, name: &str) -> PyResult<PairTruncation> {
    match name {
        "longest_first" => Ok(PairTruncation::LongestFirst),
        "only_first" => Ok(PairTruncation::OnlyFirst),
        "only_second" => Ok(PairTruncation::OnlySecond),
        _ => Err(unknown_name(py, "truncation", name, &PAIR_TRUNCATIONS)),
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
