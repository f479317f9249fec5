//! When to let go of the GIL.

use pyo3::Python;
use pyo3::marker::Ungil;

/// Work on fewer bytes of arrays than this keeps the GIL.
///
/// Letting go costs nothing while no other thread runs Python code, but up to 5 ms (Python's switch interval) to get it back where one
/// does: measured on an AMD EPYC (Zen 5), every hundredth call of 0.1 ms then took 5 to 9 ms. Keeping it for these bytes makes the others
/// wait for 15 us where the bytes lie in the cache, and for some 0.1 ms where they come from memory.
pub const DETACH_THRESHOLD: usize = 1 << 20;

/// A byte of text is as much work as so many bytes of an array: tokenizing it takes 0.13 to 0.17 us on the same machine.
pub const TEXT_BYTE_WORK: usize = 1 << 11;

/// Does `work`, which reads about `bytes` bytes of arrays, without the GIL where that is worth it.
pub fn detached<T: Ungil>(py: Python<'_>, bytes: usize, work: impl Ungil + FnOnce() -> T) -> T {
    if bytes < DETACH_THRESHOLD { work() } else { py.detach(work) }
}
