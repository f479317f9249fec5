//! Sequences of strings.

use hubwire_core::{Error, Reason};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PySequence, PyString};

use crate::error::raise;

/// Room for so many strings is made beforehand, and for more when they come: a length is what an object says of itself, and
/// `range(2**62)` has one as well.
const MAX_RESERVED: usize = 1 << 16;

/// The strings of a sequence, borrowed: each keeps its Python string alive, and shares its UTF-8 form.
pub fn strings(sequence: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<PyBackedStr>> {
    let texts = sequence_of(sequence, name, "str")?;
    let mut strings = Vec::with_capacity(texts.len()?.min(MAX_RESERVED));
    for (index, text) in texts.try_iter()?.enumerate() {
        strings.push(string(text?, index, || format!("{name}[{index}]"))?);
    }
    Ok(strings)
}

/// The same for a sequence of sequences. The index of an error is that of the outer one.
pub fn lists_of_strings(sequence: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<Vec<PyBackedStr>>> {
    let lists = sequence_of(sequence, name, "sequences of str")?;
    let mut all = Vec::with_capacity(lists.len()?.min(MAX_RESERVED));
    for (index, list) in lists.try_iter()?.enumerate() {
        let list = list?;
        let texts = sequence_of(&list, &format!("{name}[{index}]"), "str")?;
        let texts = texts.try_iter()?.enumerate().map(|(inner, text)| string(text?, index, || format!("{name}[{index}][{inner}]")));
        all.push(texts.collect::<PyResult<_>>()?);
    }
    Ok(all)
}

fn sequence_of<'a, 'py>(sequence: &'a Bound<'py, PyAny>, name: &str, of: &str) -> PyResult<&'a Bound<'py, PySequence>> {
    // A string is a sequence of strings as well, but never what is meant.
    match sequence.cast::<PySequence>() {
        Ok(texts) if !sequence.is_instance_of::<PyString>() => Ok(texts),
        _ => Err(PyTypeError::new_err(format!("{name} should be a sequence of {of}, not {}", sequence.get_type()))),
    }
}

/// The string `text`, which belongs to text `index`.
fn string(text: Bound<'_, PyAny>, index: usize, name: impl Fn() -> String) -> PyResult<PyBackedStr> {
    let py = text.py();
    let text = text
        .cast_into::<PyString>()
        .map_err(|error| PyTypeError::new_err(format!("{} should be a str, not {}", name(), error.into_inner().get_type())))?;
    PyBackedStr::try_from(text).map_err(|_| {
        let message = format!("{} holds a lone surrogate, which is no Unicode text", name());
        raise(py, &Error::at(Reason::InvalidArgument, index, message))
    })
}
