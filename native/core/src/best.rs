//! The best few of many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A value and where it was found. The greater one is the worse one, so that a heap has the worst on top.
#[derive(Clone, Copy, Debug)]
struct Entry<V, P> {
    value: V,
    place: P,
}

impl<V: PartialOrd, P: Ord> Ord for Entry<V, P> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Only NaN has no order, and callers refuse it.
        other.value.partial_cmp(&self.value).unwrap_or(Ordering::Equal).then_with(|| self.place.cmp(&other.place))
    }
}

impl<V: PartialOrd, P: Ord> PartialOrd for Entry<V, P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<V: PartialOrd, P: Ord> PartialEq for Entry<V, P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<V: PartialOrd, P: Ord> Eq for Entry<V, P> {}

/// The `limit` largest of the values that are offered, of equal ones those at the lower places. Offered must be in rising order of places.
#[derive(Debug)]
pub(crate) struct Best<V, P> {
    limit: usize,
    entries: BinaryHeap<Entry<V, P>>,
}

impl<V: PartialOrd + Copy, P: Ord + Copy> Best<V, P> {
    pub fn new(limit: usize) -> Self {
        Self { limit, entries: BinaryHeap::new() }
    }

    /// What a value must exceed to be kept; None where every value is. One that equals it comes from a higher place, and is not.
    pub fn threshold(&self) -> Option<V> {
        if self.entries.len() < self.limit { None } else { self.entries.peek().map(|worst| worst.value) }
    }

    /// Takes the value in where it is one of the best so far.
    pub fn offer(&mut self, value: V, place: P) {
        let entry = Entry { value, place };
        if self.entries.len() < self.limit {
            self.entries.push(entry);
        } else if let Some(mut worst) = self.entries.peek_mut()
            && value > worst.value
        {
            *worst = entry;
        }
    }

    /// The best, best first.
    pub fn into_sorted(self) -> impl Iterator<Item = (V, P)> {
        self.entries.into_sorted_vec().into_iter().map(|entry| (entry.value, entry.place))
    }
}
