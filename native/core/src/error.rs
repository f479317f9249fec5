//! What the core refuses, and why.

use std::fmt;

/// A result of the core.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The text is not the JSON form of a tokenizer.
    InvalidTokenizer,
    /// The tokenizer itself failed on a text.
    TokenizationFailed,
    /// A value is not one of those that exist.
    InvalidArgument,
    /// Two shapes that belong together do not fit.
    ShapeMismatch,
    /// Offsets do not begin at zero, fall, or do not end at the number of tokens.
    OffsetsOutOfOrder,
    /// A number is too small or too large.
    OutOfRange,
    /// A value is NaN or infinite, or becomes infinite on the way.
    NotFinite,
    /// The core itself failed: by a mistake of its own, or because an array was written to while it was read.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::InvalidTokenizer,
        Self::TokenizationFailed,
        Self::InvalidArgument,
        Self::ShapeMismatch,
        Self::OffsetsOutOfOrder,
        Self::OutOfRange,
        Self::NotFinite,
        Self::Internal,
    ];

    /// The name by which callers tell reasons apart.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidTokenizer => "invalid_tokenizer",
            Self::TokenizationFailed => "tokenization_failed",
            Self::InvalidArgument => "invalid_argument",
            Self::ShapeMismatch => "shape_mismatch",
            Self::OffsetsOutOfOrder => "offsets_out_of_order",
            Self::OutOfRange => "out_of_range",
            Self::NotFinite => "not_finite",
            Self::Internal => "internal",
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind it is.
    pub reason: Reason,
    /// The text or row that is at fault, where it is one in particular.
    pub index: Option<usize>,
    /// A sentence for a developer.
    pub message: String,
}

impl Error {
    /// An error of no text or row in particular.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, index: None, message: message.into() }
    }

    /// An error of the text or row `index`.
    pub fn at(reason: Reason, index: usize, message: impl Into<String>) -> Self {
        Self { reason, index: Some(index), message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
