//! The one place where an error of the core becomes a Python exception.

use hubwire_core::{Error, Reason};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

pyo3::create_exception!(hubwire_server._native, NativeError, PyValueError, "A value that the core refuses.");

/// Puts the exception into the module, with the attributes that every instance has.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let class = module.py().get_type::<NativeError>();
    class.setattr("reason", "")?;
    class.setattr("index", module.py().None())?;
    class.setattr("reasons", PyTuple::new(module.py(), Reason::ALL.map(Reason::name))?)?;
    module.add("NativeError", class)
}

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let exception = NativeError::new_err(error.message.clone());
    let value = exception.value(py);
    let attributes = value.setattr("reason", error.reason.name()).and_then(|()| value.setattr("index", error.index));
    attributes.err().unwrap_or(exception)
}

/// The exception for a string that is not one of `names`.
pub fn unknown_name(py: Python<'_>, parameter: &str, value: &str, names: &[&str]) -> PyErr {
    let message = format!("{parameter} is {value:?}; it should be one of {}", names.join(", "));
    raise(py, &Error::new(Reason::InvalidArgument, message))
}
