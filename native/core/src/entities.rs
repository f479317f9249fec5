//! The labels of tokens become entities, as in the token-classification pipeline of transformers.
//!
//! Tokens, or with some strategies words, are the members of an entity: neighbours of one tag, where no later one begins an entity itself.
//! Scores and means are float32 and are added up in the order of numpy, so that they are the same numbers and not only close ones.

use crate::error::{Error, Reason, Result};
use crate::numeric::{all_finite, pairwise_sum};
use crate::ragged::{Offsets, as_offset};

/// What the members of an entity are, and how words get their label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each token is an entity.
    None,
    /// Tokens.
    Simple,
    /// Words, with the label of their first token.
    First,
    /// Words, with the label that has the highest mean.
    Average,
    /// Words, with the label of the token with the highest score.
    Max,
}

/// The tokens of n rows, with the probabilities of their labels.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Shape (tokens, labels).
    pub scores: &'a [f32],
    /// The number of tokens and of labels.
    pub shape: [usize; 2],
    /// Where each row begins, and the number of tokens at the end.
    pub offsets: &'a [i64],
    /// Zero for tokens that are left out.
    pub kept: &'a [u8],
    /// Not zero for tokens that go on with the word of the token before.
    pub is_subword: &'a [u8],
}

/// What is known of each label.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Its tag.
    pub tags: &'a [i32],
    /// Not zero where it begins an entity.
    pub begins: &'a [u8],
}

/// The entities of all rows, in the order of the text.
#[derive(Debug, Default, PartialEq)]
pub struct Entities {
    /// The row of each.
    pub rows: Vec<i64>,
    /// Its first token, counted over all rows.
    pub first: Vec<i64>,
    /// Its last token.
    pub last: Vec<i64>,
    /// The label of its first member.
    pub labels: Vec<i32>,
    /// The mean of the scores of its members.
    pub scores: Vec<f32>,
}

/// Groups the tokens of each row.
///
/// # Errors
/// `ShapeMismatch`, `OffsetsOutOfOrder`, `OutOfRange` where there are tokens but no labels, `NotFinite` with the index of a row.
pub fn aggregate(tokens: &Tokens, labels: &Labels, strategy: Strategy) -> Result<Entities> {
    let [count, width] = tokens.shape;
    let offsets = Offsets::check(tokens.offsets, count)?;
    if tokens.kept.len() != count || tokens.is_subword.len() != count || count.checked_mul(width) != Some(tokens.scores.len()) {
        let message = format!("scores are of {count} tokens, kept of {} and is_subword of {}", tokens.kept.len(), tokens.is_subword.len());
        return Err(Error::new(Reason::ShapeMismatch, message));
    }
    if labels.tags.len() != width || labels.begins.len() != width {
        let message = format!("scores are of {width} labels, tags of {} and begins of {}", labels.tags.len(), labels.begins.len());
        return Err(Error::new(Reason::ShapeMismatch, message));
    }
    if (width == 0 && count > 0) || i32::try_from(width).is_err() {
        return Err(Error::new(Reason::OutOfRange, format!("there are {count} tokens and {width} labels")));
    }
    let mut groups = Groups { labels, apart: strategy == Strategy::None, open: None, scores: Vec::new(), found: Entities::default() };
    let mut words = Words { strategy, open: None, count: 0, sums: vec![0.0; width] };
    for row in 0..offsets.rows() {
        for token in offsets.row(row).filter(|token| tokens.kept[*token] != 0) {
            let scores = &tokens.scores[token * width..(token + 1) * width];
            if !all_finite(scores) {
                return Err(Error::at(Reason::NotFinite, row, format!("a score of row {row} is NaN or infinite")));
            }
            if let Some(word) = words.add(token, scores, tokens.is_subword[token] != 0) {
                groups.add(word);
            }
        }
        if let Some(word) = words.close() {
            groups.add(word);
        }
        groups.end_row(row);
    }
    Ok(groups.found)
}

/// A token or a word with its label.
#[derive(Clone, Copy)]
struct Member {
    first: usize,
    last: usize,
    label: usize,
    score: f32,
}

/// Makes members of tokens.
struct Words {
    strategy: Strategy,
    open: Option<Member>,
    /// The number of tokens of the open word.
    count: usize,
    /// Their scores, added up.
    sums: Vec<f32>,
}

impl Words {
    /// Adds a token. Returns the member that ends before it.
    fn add(&mut self, token: usize, scores: &[f32], is_subword: bool) -> Option<Member> {
        let (label, score) = largest(scores);
        match &mut self.open {
            Some(word) if is_subword && !matches!(self.strategy, Strategy::None | Strategy::Simple) => {
                word.last = token;
                match self.strategy {
                    Strategy::Max if score > word.score => (word.label, word.score) = (label, score),
                    Strategy::Average => self.sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score),
                    _ => {}
                }
                self.count += 1;
                None
            }
            _ => {
                let ended = self.close();
                self.open = Some(Member { first: token, last: token, label, score });
                self.count = 1;
                if self.strategy == Strategy::Average {
                    self.sums.copy_from_slice(scores);
                }
                ended
            }
        }
    }

    /// Ends the open word.
    fn close(&mut self) -> Option<Member> {
        let mut word = self.open.take()?;
        if self.strategy == Strategy::Average {
            let count = self.count;
            self.sums.iter_mut().for_each(|sum| *sum = mean_of(*sum, count));
            (word.label, word.score) = largest(&self.sums);
        }
        Some(word)
    }
}

/// Makes entities of members.
struct Groups<'a> {
    labels: &'a Labels<'a>,
    /// Whether each member is an entity.
    apart: bool,
    /// The first member of the open entity, with the last token so far.
    open: Option<Member>,
    /// The scores of its members.
    scores: Vec<f32>,
    found: Entities,
}

impl Groups<'_> {
    fn add(&mut self, member: Member) {
        let Labels { tags, begins } = self.labels;
        match &mut self.open {
            Some(first) if !self.apart && tags[first.label] == tags[member.label] && begins[member.label] == 0 => first.last = member.last,
            _ => {
                self.close();
                self.open = Some(member);
            }
        }
        self.scores.push(member.score);
    }

    fn close(&mut self) {
        if let Some(entity) = self.open.take() {
            self.found.first.push(as_offset(entity.first));
            self.found.last.push(as_offset(entity.last));
            self.found.labels.push(i32::try_from(entity.label).unwrap_or(i32::MAX));
            self.found.scores.push(mean_of(pairwise_sum(&self.scores), self.scores.len()));
            self.scores.clear();
        }
    }

    fn end_row(&mut self, row: usize) {
        self.close();
        self.found.rows.resize(self.found.first.len(), as_offset(row));
    }
}

/// The label with the highest score, of equal ones the first, and its score.
fn largest(scores: &[f32]) -> (usize, f32) {
    let mut best = (0, scores[0]);
    for (label, score) in scores.iter().enumerate() {
        if *score > best.1 {
            best = (label, *score);
        }
    }
    best
}

/// A float32 sum over a number, divided as numpy does: in float64.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounding is meant, and counts have less than 53 bits")]
fn mean_of(sum: f32, count: usize) -> f32 {
    (f64::from(sum) / count as f64) as f32
}
