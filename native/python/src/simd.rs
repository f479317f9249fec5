//! The instruction set of pooling.

use hubwire_core::simd::{self, Level};
use pyo3::prelude::*;

use crate::error::{raise, unknown_name};

#[pyfunction]
pub fn simd_level() -> &'static str {
    simd::level().name()
}

#[pyfunction]
pub fn set_simd_level(py: Python<'_>, level: &str) -> PyResult<&'static str> {
    let known = Level::ALL.into_iter().find(|known| known.name() == level);
    if known.is_none() && level != "auto" {
        return Err(unknown_name(py, "level", level, &["auto", "avx512", "avx2", "neon", "scalar"]));
    }
    simd::set_level(known).map(Level::name).map_err(|error| raise(py, &error))
}
