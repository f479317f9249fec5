//! One call over a bounded number of threads.
//!
//! Threads are started for the call and end with it: a pool would outlive the call, would have to be sized once for all callers, and
//! would not survive a fork. Starting one costs 20-50 us, so callers ask for more than one only where the work is worth it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::error::{Error, Result};

/// Does `work` on each of `items`, on the calling thread and up to `threads - 1` others. Items are handed out in order, one at a time.
///
/// Of several errors the one with the lowest index is returned, whatever the threads did first. That is the first error of a run on one
/// thread as well, since an item is only left out after an item before it has failed.
pub(crate) fn for_each<T: Send>(
    threads: usize,
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let mut items = items;
    if threads <= 1 {
        return items.try_for_each(work);
    }
    let queue = Mutex::new(items);
    let failed = AtomicBool::new(false);
    let first_error: Mutex<Option<Error>> = Mutex::new(None);
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            // The lock is held for the handing out alone. It is poisoned only where the iterator panicked: then there is nothing left to do.
            let Ok(Some(item)) = queue.lock().map(|mut items| items.next()) else {
                return;
            };
            if let Err(error) = work(item) {
                failed.store(true, Ordering::Relaxed);
                if let Ok(mut first) = first_error.lock()
                    && first.as_ref().is_none_or(|known| error.index < known.index)
                {
                    *first = Some(error);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // A machine that gives no further thread still gets the work done, on fewer.
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    first_error.into_inner().ok().flatten().map_or(Ok(()), Err)
}
