//! Numpy arrays as slices, without a copy where they lie in memory row after row.

use half::f16;
use hubwire_core::pool::{Hidden, Mask};
use hubwire_core::{Error, Reason};
use numpy::{Element, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::error::raise;

/// An array of `T` with `N` dimensions, borrowed for reading, row after row in memory.
pub struct Array<'py, T: Element, const N: usize> {
    array: PyReadonlyArrayDyn<'py, T>,
}

impl<'py, T: Element, const N: usize> Array<'py, T, N> {
    /// The array in `value`, or an exception that says what `name` should be.
    pub fn extract(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        let array = value.cast::<PyArrayDyn<T>>().map_err(|_| wrong_type(value, name, &dtype::<T>(value.py()).to_string()))?;
        let array = if array.is_c_contiguous() && array.is_aligned() {
            array.clone()
        } else {
            array.call_method0("copy")?.cast_into::<PyArrayDyn<T>>()?
        };
        // Looked at last, since the copy of a subclass is whatever the subclass makes of it.
        if array.ndim() != N {
            let message = format!("{name} should have {N} dimensions, not {}", array.ndim());
            return Err(raise(value.py(), &Error::new(Reason::ShapeMismatch, message)));
        }
        let array = array.try_readonly().map_err(|_| PyTypeError::new_err(format!("{name} is borrowed for writing elsewhere")))?;
        Ok(Self { array })
    }

    /// The shape.
    pub fn shape(&self) -> [usize; N] {
        std::array::from_fn(|axis| self.array.shape()[axis])
    }

    /// The values.
    pub fn values(&self) -> PyResult<&[T]> {
        Ok(self.array.as_slice()?)
    }
}

impl<'py> Array<'py, u8, 1> {
    /// The bools in `value` as bytes that are zero or not: numpy allows more of them than the two that Rust does.
    pub fn extract_bools(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        let py = value.py();
        let array = value.cast::<PyArrayDyn<bool>>().map_err(|_| wrong_type(value, name, &dtype::<bool>(py).to_string()))?;
        Self::extract(&array.call_method1("view", (dtype::<u8>(py),))?, name)
    }
}

/// Hidden states of any of the three types.
pub enum HiddenArray<'py, const N: usize> {
    F32(Array<'py, f32, N>),
    F16(Array<'py, f16, N>),
    Bf16(Array<'py, u16, N>),
}

impl<'py, const N: usize> HiddenArray<'py, N> {
    pub fn extract(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        if value.cast::<PyArrayDyn<f32>>().is_ok() {
            Array::extract(value, "hidden").map(Self::F32)
        } else if value.cast::<PyArrayDyn<f16>>().is_ok() {
            Array::extract(value, "hidden").map(Self::F16)
        } else if value.cast::<PyArrayDyn<u16>>().is_ok() {
            Array::extract(value, "hidden").map(Self::Bf16)
        } else {
            Err(wrong_type(value, "hidden", "float32, float16 or uint16 (the bits of bfloat16)"))
        }
    }

    pub fn shape(&self) -> [usize; N] {
        match self {
            Self::F32(array) => array.shape(),
            Self::F16(array) => array.shape(),
            Self::Bf16(array) => array.shape(),
        }
    }

    pub fn values(&self) -> PyResult<Hidden<'_>> {
        Ok(match self {
            Self::F32(array) => Hidden::F32(array.values()?),
            Self::F16(array) => Hidden::F16(array.values()?),
            Self::Bf16(array) => Hidden::Bf16(array.values()?),
        })
    }
}

/// A mask of any integers or bools, seen as the unsigned integers of the same width.
pub enum MaskArray<'py> {
    Bits8(Array<'py, u8, 2>),
    Bits16(Array<'py, u16, 2>),
    Bits32(Array<'py, u32, 2>),
    Bits64(Array<'py, u64, 2>),
}

impl<'py> MaskArray<'py> {
    pub fn extract(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        const NAME: &str = "mask";
        let py = value.py();
        let wrong = || wrong_type(value, NAME, "of bools or integers");
        let kind = value.cast::<PyUntypedArray>().map_err(|_| wrong())?.dtype();
        let view = |dtype| value.call_method1("view", (dtype,));
        match (kind.kind(), kind.itemsize()) {
            (b'b' | b'i' | b'u', 1) => Array::extract(&view(dtype::<u8>(py))?, NAME).map(Self::Bits8),
            (b'i' | b'u', 2) => Array::extract(&view(dtype::<u16>(py))?, NAME).map(Self::Bits16),
            (b'i' | b'u', 4) => Array::extract(&view(dtype::<u32>(py))?, NAME).map(Self::Bits32),
            (b'i' | b'u', 8) => Array::extract(&view(dtype::<u64>(py))?, NAME).map(Self::Bits64),
            _ => Err(wrong()),
        }
    }

    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Bits8(array) => array.shape(),
            Self::Bits16(array) => array.shape(),
            Self::Bits32(array) => array.shape(),
            Self::Bits64(array) => array.shape(),
        }
    }

    pub fn values(&self) -> PyResult<Mask<'_>> {
        Ok(match self {
            Self::Bits8(array) => Mask::Bits8(array.values()?),
            Self::Bits16(array) => Mask::Bits16(array.values()?),
            Self::Bits32(array) => Mask::Bits32(array.values()?),
            Self::Bits64(array) => Mask::Bits64(array.values()?),
        })
    }
}

fn wrong_type(value: &Bound<'_, PyAny>, name: &str, wanted: &str) -> PyErr {
    let found = match value.cast::<PyUntypedArray>() {
        Ok(array) => format!("an array of {}", array.dtype()),
        Err(_) => value.get_type().to_string(),
    };
    PyTypeError::new_err(format!("{name} should be a numpy array {wanted}, not {found}"))
}
