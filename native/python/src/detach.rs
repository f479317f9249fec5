//! Where the core works: with or without the GIL, and without a panic that gets any further.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hubwire_core::{Error, Reason, Result};
use pyo3::{PyResult, Python};

use crate::error::raise;

/// Work on fewer bytes of arrays than this keeps the GIL.
///
/// Letting go costs nothing while no other thread runs Python code, but up to 5 ms (Python's switch interval) to get it back where one
/// does: measured on an AMD EPYC (Zen 5), every hundredth call of 0.1 ms then took 5 to 9 ms. Keeping it for these bytes makes the others
/// wait for 15 us where the bytes lie in the cache, and for some 0.1 ms where they come from memory.
pub const DETACH_THRESHOLD: usize = 1 << 20;

/// A byte of text is as much work as so many bytes of an array: tokenizing it takes 0.13 to 0.17 us on the same machine.
pub const TEXT_BYTE_WORK: usize = 1 << 11;

/// Does `work`, which reads about `bytes` bytes of arrays, without the GIL where that is worth it. Its errors become exceptions, and so does
/// a panic: another thread may write to an array after the core has checked it.
pub fn detached<T: Send>(py: Python<'_>, bytes: usize, work: impl Send + FnOnce() -> Result<T>) -> PyResult<T> {
    // What `work` has changed until then is its own and goes with it: the results, and nothing that a later call sees.
    let guarded = || catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(internal(&*panic)));
    let result = if bytes < DETACH_THRESHOLD { guarded() } else { py.detach(guarded) };
    result.map_err(|error| raise(py, &error))
}

fn internal(panic: &(dyn Any + Send)) -> Error {
    let literal = || panic.downcast_ref::<&str>().copied();
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(literal).unwrap_or("it panicked");
    Error::new(Reason::Internal, format!("the core failed, maybe since an array was written to while it was read: {message}"))
}
