//! The most probable spans of tokens, from the logits of where an answer begins and where it ends.
//!
//! A source, which is a question with its context, may have several windows. Its probabilities are those of all of them together. Logits are
//! compared as sums in float64, and only what is kept becomes a probability.

use std::ops::Range;

use crate::best::Best;
use crate::error::{Error, Reason, Result};
use crate::ragged::{Offsets, as_offset};

/// A source has up to so many times k spans, since one span of the text may be in several windows.
const CANDIDATES: usize = 4;

/// The logits of the tokens of w windows.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    /// Of each token, that an answer begins there.
    pub start: &'a [f32],
    /// Of each token, that an answer ends there.
    pub end: &'a [f32],
    /// Where each window begins, and the number of tokens at the end.
    pub offsets: &'a [i64],
    /// The source of each window: from 0, and rising by at most 1.
    pub sources: &'a [i64],
    /// Zero for tokens of which no answer is made.
    pub allowed: &'a [u8],
    /// The token of each window that stands for "no answer"; -1 where none does.
    pub null: &'a [i64],
}

/// The best spans of each source, those of one after those of the other.
#[derive(Debug, Default, PartialEq)]
pub struct Answers {
    /// The source of each span.
    pub sources: Vec<i64>,
    /// Its first token, counted over all windows.
    pub first: Vec<i64>,
    /// Its last token.
    pub last: Vec<i64>,
    /// Its probability.
    pub scores: Vec<f32>,
    /// The probability of each source that there is no answer.
    pub null_scores: Vec<f32>,
}

/// Finds up to 4 `k` spans of each source, each of at most `max_answer_tokens` tokens of one window.
///
/// # Errors
/// `ShapeMismatch`, `OffsetsOutOfOrder`; `OutOfRange` where `max_answer_tokens` is 0, and with the index of a window whose source is not in
/// order or whose null token is not in it; `NotFinite` with the index of a window.
pub fn best_answers(windows: &Windows, max_answer_tokens: usize, k: usize) -> Result<Answers> {
    let offsets = windows.check()?;
    if max_answer_tokens == 0 {
        return Err(Error::new(Reason::OutOfRange, "max_answer_tokens is 0; an answer has at least one token"));
    }
    let mut found = Answers::default();
    let mut from = 0;
    for group in windows.sources.chunk_by(|left, right| left == right) {
        let source = Source { windows, offsets, group: from..from + group.len() };
        from += group.len();
        source.answer(group[0], max_answer_tokens, k.saturating_mul(CANDIDATES), &mut found)?;
    }
    Ok(found)
}

impl<'a> Windows<'a> {
    fn check(&self) -> Result<Offsets<'a>> {
        let offsets = Offsets::check(self.offsets, self.start.len())?;
        let (tokens, count) = (self.start.len(), offsets.rows());
        if self.end.len() != tokens || self.allowed.len() != tokens {
            let message = format!("start is of {tokens} tokens, end of {} and allowed of {}", self.end.len(), self.allowed.len());
            return Err(Error::new(Reason::ShapeMismatch, message));
        }
        if self.sources.len() != count || self.null.len() != count {
            let message = format!("offsets are of {count} windows, sources of {} and null of {}", self.sources.len(), self.null.len());
            return Err(Error::new(Reason::ShapeMismatch, message));
        }
        let mut previous = -1;
        for (window, (source, null)) in self.sources.iter().zip(self.null).enumerate() {
            if !(previous.max(0)..=previous + 1).contains(source) {
                let message =
                    format!("the source of window {window} is {source}, after {previous}; sources begin at 0 and rise by at most 1");
                return Err(Error::at(Reason::OutOfRange, window, message));
            }
            previous = *source;
            let inside = |null: i64| usize::try_from(null).is_ok_and(|null| offsets.row(window).contains(&null));
            if *null != -1 && !inside(*null) {
                let message = format!("the null token of window {window} is {null}, which is not in it");
                return Err(Error::at(Reason::OutOfRange, window, message));
            }
        }
        Ok(offsets)
    }

    /// The null token of a window.
    fn null(&self, window: usize) -> Option<usize> {
        usize::try_from(self.null[window]).ok()
    }
}

/// The windows of one source.
struct Source<'a> {
    windows: &'a Windows<'a>,
    offsets: Offsets<'a>,
    group: Range<usize>,
}

impl Source<'_> {
    fn answer(&self, source: i64, max_answer_tokens: usize, limit: usize, found: &mut Answers) -> Result<()> {
        let Windows { start, end, .. } = *self.windows;
        let total = self.log_sum_exp(start)? + self.log_sum_exp(end)?;
        let mut best = Best::new(limit);
        for window in self.group.clone() {
            self.search(window, max_answer_tokens, &mut best);
        }
        for (sum, (first, last)) in best.into_sorted() {
            found.sources.push(source);
            found.first.push(as_offset(first));
            found.last.push(as_offset(last));
            found.scores.push(probability(sum - total));
        }
        let null_sums = self.group.clone().filter_map(|window| self.windows.null(window)).map(|null| sum(start[null], end[null]));
        let lowest = null_sums.reduce(f64::min);
        found.null_scores.push(lowest.map_or(0.0, |sum| probability(sum - total)));
        Ok(())
    }

    /// Offers the spans of one window.
    fn search(&self, window: usize, max_answer_tokens: usize, best: &mut Best<f64, (usize, usize)>) {
        let tokens = self.offsets.row(window);
        let Windows { start, end, allowed, .. } = *self.windows;
        // What no answer ends at is never the largest of anything, and never kept.
        let ends: Vec<f64> =
            tokens.clone().map(|token| if allowed[token] == 0 { f64::NEG_INFINITY } else { f64::from(end[token]) }).collect();
        let highest = ends.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (place, first) in tokens.clone().enumerate().filter(|(_, token)| allowed[*token] != 0) {
            let begin = f64::from(start[first]);
            // Most tokens are no good beginning, whatever the end.
            if best.threshold().is_some_and(|threshold| begin + highest <= threshold) {
                continue;
            }
            let reach = place..ends.len().min(place.saturating_add(max_answer_tokens));
            for (end, last) in ends[reach].iter().zip(first..) {
                if *end > f64::NEG_INFINITY && best.threshold().is_none_or(|threshold| begin + end > threshold) {
                    best.offer(begin + end, (first, last));
                }
            }
        }
    }

    /// log(sum(exp(logits))) over the allowed tokens and the null tokens of all windows.
    fn log_sum_exp(&self, logits: &[f32]) -> Result<f64> {
        let mut read = Vec::new();
        for window in self.group.clone() {
            let null = self.windows.null(window);
            let tokens = self.offsets.row(window).filter(|token| self.windows.allowed[*token] != 0 || Some(*token) == null);
            let from = read.len();
            read.extend(tokens.map(|token| f64::from(logits[token])));
            if !read[from..].iter().all(|logit| logit.is_finite()) {
                return Err(Error::at(Reason::NotFinite, window, format!("a logit of window {window} is NaN or infinite")));
            }
        }
        let largest = read.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(largest + read.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln())
    }
}

fn sum(start: f32, end: f32) -> f64 {
    f64::from(start) + f64::from(end)
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to float32 is meant")]
fn probability(logarithm: f64) -> f32 {
    logarithm.exp() as f32
}
