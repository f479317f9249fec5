//! What becomes of texts that are longer than the limit: how many tokens each side of a pair keeps, and which windows cover the rest.

use std::iter;
use std::ops::Range;

use tokenizers::Encoding;

use crate::error::{Error, Reason, Result};

/// The end of a text that loses tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruncationSide {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// The text of a pair that loses tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairTruncation {
    /// The longer one first, and both where they have become equal.
    LongestFirst,
    /// The first one alone.
    OnlyFirst,
    /// The second one alone.
    OnlySecond,
}

/// Room for `room` tokens of a text or a pair, special tokens not counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub room: usize,
    pub side: TruncationSide,
    pub truncation: PairTruncation,
    /// How many tokens a window repeats of the one before it. None where there are no windows, and what is over the limit is lost.
    pub stride: Option<usize>,
}

impl Limit {
    /// The tokens of a text of `length` tokens that each window holds, in the order of the windows.
    ///
    /// # Errors
    /// `OutOfRange` where the windows would make no progress.
    pub fn windows(&self, length: usize) -> Result<Vec<Range<usize>>> {
        self.windows_of(length, self.room)
    }

    /// The same for the two texts of a pair: every window of the one belongs with every window of the other.
    ///
    /// # Errors
    /// `OutOfRange` also where the text that must not be cut leaves no room.
    pub fn pair_windows(&self, lengths: [usize; 2]) -> Result<[Vec<Range<usize>>; 2]> {
        let rooms = self.rooms(lengths)?;
        Ok([self.windows_of(lengths[0], rooms[0])?, self.windows_of(lengths[1], rooms[1])?])
    }

    /// How many tokens of each text of a pair fit into a window.
    fn rooms(&self, lengths: [usize; 2]) -> Result<[usize; 2]> {
        let [first, second] = lengths;
        if first.saturating_add(second) <= self.room {
            return Ok(lengths);
        }
        let left_by = |whole: usize, which: &str| {
            self.room.checked_sub(whole).filter(|room| *room > 0).ok_or_else(|| {
                let message =
                    format!("the {which} text of the pair has {whole} tokens, which leaves no room for the other among {}", self.room);
                Error::new(Reason::OutOfRange, message)
            })
        };
        match self.truncation {
            PairTruncation::LongestFirst => Ok(share(lengths, self.room)),
            PairTruncation::OnlyFirst => Ok([left_by(second, "second")?, second]),
            PairTruncation::OnlySecond => Ok([first, left_by(first, "first")?]),
        }
    }

    fn windows_of(&self, length: usize, room: usize) -> Result<Vec<Range<usize>>> {
        if length <= room {
            return Ok(iter::once(0..length).collect());
        }
        let from = |start: usize| match self.side {
            TruncationSide::Right => start..length.min(start + room),
            TruncationSide::Left => (length - start).saturating_sub(room)..length - start,
        };
        let Some(stride) = self.stride else {
            return Ok(iter::once(from(0)).collect());
        };
        let Some(step) = room.checked_sub(stride).filter(|step| *step > 0) else {
            let message = format!("a window has room for {room} tokens, and the stride is {stride}: it would never come to an end");
            return Err(Error::new(Reason::OutOfRange, message));
        };
        // The last window is the first that reaches the other end of the text.
        let count = (length - room).div_ceil(step) + 1;
        Ok((0..count).map(|window| from(window * step)).collect())
    }
}

/// How many tokens each side of a pair keeps: the shorter one all of them while the longer one can pay, then both the half. The library would
/// compare the sides after it has stopped to tokenize each of them at its limit (version 0.23.2); 0.23.3, which is published for Python
/// alone, compares what they really have, as is done here.
fn share(lengths: [usize; 2], room: usize) -> [usize; 2] {
    let [shorter, longer] = if lengths[0] > lengths[1] { [lengths[1], lengths[0]] } else { lengths };
    let [shorter, longer] = if shorter <= room / 2 { [shorter, longer.min(room - shorter)] } else { [room / 2, room - room / 2] };
    if lengths[0] > lengths[1] { [longer, shorter] } else { [shorter, longer] }
}

/// The pairs of windows, in the order of the library, which appends the windows of the second text to those of the first: first those that
/// the first text goes on in, each with the second text and what that goes on in.
pub(crate) fn pair_order(counts: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    let rows = move |first: usize, from: usize| (from..counts[1]).map(move |second| (first, second));
    let others = (1..counts[0]).flat_map(move |first| rows(first, 0));
    iter::once((0, 0)).chain(others).chain(rows(0, 1))
}

/// The tokens `kept` of an encoding. The library's own `truncate` makes encodings of everything that it cuts off as well: of a long text that
/// is cut to one token, as many as the text has tokens.
pub(crate) fn slice(encoding: &Encoding, kept: Range<usize>) -> Encoding {
    Encoding::new(
        encoding.get_ids()[kept.clone()].to_vec(),
        encoding.get_type_ids()[kept.clone()].to_vec(),
        encoding.get_tokens()[kept.clone()].to_vec(),
        encoding.get_word_ids()[kept.clone()].to_vec(),
        encoding.get_offsets()[kept.clone()].to_vec(),
        encoding.get_special_tokens_mask()[kept.clone()].to_vec(),
        encoding.get_attention_mask()[kept].to_vec(),
        Vec::new(),
        iter::empty().collect(),
    )
}
