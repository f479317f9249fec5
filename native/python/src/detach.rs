//! When to let go of the GIL.

use pyo3::Python;
use pyo3::marker::Ungil;

/// Work below this many bytes keeps the GIL.
pub const DETACH_THRESHOLD: usize = 1 << 17;

/// A byte of text is as much work as so many bytes of an array that is streamed through.
pub const TEXT_BYTE_WORK: usize = 256;

/// Does `work`, which reads about `bytes` bytes of arrays, without the GIL where that is worth it.
pub fn detached<T: Ungil>(py: Python<'_>, bytes: usize, work: impl Ungil + FnOnce() -> T) -> T {
    if bytes < DETACH_THRESHOLD { work() } else { py.detach(work) }
}
