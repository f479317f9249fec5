//! Ragged batches: n rows, one after the other in flat arrays, with n + 1 offsets.

use std::ops::Range;

use crate::error::{Error, Reason, Result};

/// The tokens of n rows, one after the other. A row is a text or a pair, or a window of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RaggedBatch {
    /// Vocabulary numbers of all tokens.
    pub ids: Vec<i32>,
    /// Segment numbers of all tokens: 0 for the first text of a pair, 1 for the second.
    pub type_ids: Vec<i32>,
    /// Where each row begins, and the number of tokens at the end.
    pub offsets: Vec<i64>,
    /// The number of tokens of the text of each row before truncation.
    pub token_counts: Vec<i64>,
    /// The index of the text of each row.
    pub sources: Vec<i64>,
    /// Positions and marks of all tokens, where they were asked for.
    pub positions: Option<Positions>,
}

/// Where tokens stand in their texts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Start and end of each token.
    pub spans: Vec<[u32; 2]>,
    /// Whether the tokenizer added the token.
    pub special_tokens_mask: Vec<bool>,
    /// The text of a pair that the token is of: 0 or 1, and -1 where the tokenizer added it.
    pub sequence_ids: Vec<i8>,
    /// The word of its text that the token is of, and -1 where the tokenizer added it.
    pub word_ids: Vec<i32>,
}

impl RaggedBatch {
    /// An empty batch with room for `rows` rows, which holds positions where `positions` is true.
    pub(crate) fn with_capacity(rows: usize, positions: bool) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        let (token_counts, sources) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        Self { offsets, token_counts, sources, positions: positions.then(Positions::default), ..Self::default() }
    }

    /// Closes the current row: what was appended to the flat arrays since the last call belongs to it.
    pub(crate) fn end_row(&mut self, source: usize, token_count: usize) {
        self.offsets.push(as_offset(self.ids.len()));
        self.token_counts.push(as_offset(token_count));
        self.sources.push(as_offset(source));
    }

    /// Appends all rows of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        let base = as_offset(self.ids.len());
        self.ids.extend(other.ids);
        self.type_ids.extend(other.type_ids);
        self.offsets.extend(other.offsets.iter().skip(1).map(|offset| base + offset));
        self.token_counts.extend(other.token_counts);
        self.sources.extend(other.sources);
        if let (Some(mine), Some(theirs)) = (&mut self.positions, other.positions) {
            mine.spans.extend(theirs.spans);
            mine.special_tokens_mask.extend(theirs.special_tokens_mask);
            mine.sequence_ids.extend(theirs.sequence_ids);
            mine.word_ids.extend(theirs.word_ids);
        }
    }
}

/// A length in memory as an offset. Memory is addressed with less than 63 bits, so this always fits.
pub(crate) fn as_offset(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Offsets that are known to be in order: row i is `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Copy, Debug)]
pub struct Offsets<'a>(&'a [i64]);

impl<'a> Offsets<'a> {
    /// Checks offsets into `total` tokens.
    ///
    /// # Errors
    /// `OffsetsOutOfOrder` where they do not begin at 0, fall, or do not end at `total`.
    pub fn check(offsets: &'a [i64], total: usize) -> Result<Self> {
        let refuse = |index, message| Err(Error::at(Reason::OffsetsOutOfOrder, index, message));
        match offsets {
            [] => return refuse(0, "offsets are empty; n texts have n + 1 of them".to_owned()),
            [first, ..] if *first != 0 => {
                return refuse(0, format!("offsets begin at {first} and not at 0"));
            }
            _ => {}
        }
        if let Some(index) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            let (from, to) = (offsets[index], offsets[index + 1]);
            return refuse(index + 1, format!("offsets fall from {from} to {to} at index {}", index + 1));
        }
        let last = offsets[offsets.len() - 1];
        if last != as_offset(total) {
            return refuse(offsets.len() - 1, format!("offsets end at {last}, but there are {total} tokens"));
        }
        Ok(Self(offsets))
    }

    /// The number of rows.
    #[must_use]
    pub const fn rows(self) -> usize {
        self.0.len() - 1
    }

    /// The tokens of row `index`.
    #[must_use]
    pub fn row(self, index: usize) -> Range<usize> {
        // Checked at construction: from 0 up to a length in memory.
        let position = |offset: i64| usize::try_from(offset).unwrap_or(usize::MAX);
        position(self.0[index])..position(self.0[index + 1])
    }
}
