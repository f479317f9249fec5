//! Pooling.

use hubwire_core::pool::{self, Mode, Options};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

use crate::arrays::{Array, HiddenArray, MaskArray};
use crate::detach::detached;
use crate::error::unknown_name;

/// `PoolingMode` in Python.
pub const MODES: [&str; 6] = ["mean", "max", "cls", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"];

fn mode(py: Python<'_>, name: &str) -> PyResult<Mode> {
    match name {
        "mean" => Ok(Mode::Mean),
        "max" => Ok(Mode::Max),
        "cls" => Ok(Mode::Cls),
        "lasttoken" => Ok(Mode::LastToken),
        "mean_sqrt_len_tokens" => Ok(Mode::MeanSqrtLen),
        "weightedmean" => Ok(Mode::WeightedMean),
        _ => Err(unknown_name(py, "mode", name, &MODES)),
    }
}

#[pyfunction]
#[pyo3(signature = (hidden, mask, *, mode="mean", skip=None, normalize=false, threads=1))]
pub fn pool_padded<'py>(
    py: Python<'py>,
    hidden: &Bound<'py, PyAny>,
    mask: &Bound<'py, PyAny>,
    mode: &str,
    skip: Option<&Bound<'py, PyAny>>,
    normalize: bool,
    threads: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (hidden, mask) = (HiddenArray::<3>::extract(hidden)?, MaskArray::extract(mask)?);
    let skip = skip.map(|skip| Array::<i64, 1>::extract(skip, "skip")).transpose()?;
    let (shape, mask_shape, values, mask) = (hidden.shape(), mask.shape(), hidden.values()?, mask.values()?);
    let skip = skip.as_ref().map(Array::values).transpose()?;
    let options = Options { mode: self::mode(py, mode)?, skip, normalize, threads };
    let pooled = detached(py, values.bytes(), || pool::pool_padded(values, shape, mask, mask_shape, &options))?;
    matrix(py, pooled, shape[0], shape[2])
}

#[pyfunction]
#[pyo3(signature = (hidden, offsets, *, mode="mean", skip=None, normalize=false, threads=1))]
pub fn pool_ragged<'py>(
    py: Python<'py>,
    hidden: &Bound<'py, PyAny>,
    offsets: &Bound<'py, PyAny>,
    mode: &str,
    skip: Option<&Bound<'py, PyAny>>,
    normalize: bool,
    threads: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (hidden, offsets) = (HiddenArray::<2>::extract(hidden)?, Array::<i64, 1>::extract(offsets, "offsets")?);
    let skip = skip.map(|skip| Array::<i64, 1>::extract(skip, "skip")).transpose()?;
    let (shape, values, offsets) = (hidden.shape(), hidden.values()?, offsets.values()?);
    let skip = skip.as_ref().map(Array::values).transpose()?;
    let options = Options { mode: self::mode(py, mode)?, skip, normalize, threads };
    let pooled = detached(py, values.bytes(), || pool::pool_ragged(values, shape, offsets, &options))?;
    matrix(py, pooled, offsets.len().saturating_sub(1), shape[1])
}

fn matrix(py: Python<'_>, pooled: Vec<f32>, rows: usize, width: usize) -> PyResult<Bound<'_, PyArray2<f32>>> {
    PyArray1::from_vec(py, pooled).reshape([rows, width])
}
