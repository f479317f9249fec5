//! From ids back to entries of the vocabulary and to text.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::Model;

use crate::error::{Error, Reason, Result};
use crate::numeric::zeros;
use crate::ragged::Offsets;
use crate::tokenize::{Tokenizer, failed};

impl Tokenizer {
    /// The number of entries of the vocabulary, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The text of each row of `ids`. Ids that the vocabulary lacks are left out.
    ///
    /// # Errors
    /// `OffsetsOutOfOrder`; with the row `OutOfRange` where an id is negative, and `TokenizationFailed` where the decoder fails.
    pub fn decode(&self, ids: &[i32], offsets: &[i64], skip_special_tokens: bool) -> Result<Vec<String>> {
        let offsets = Offsets::check(offsets, ids.len())?;
        let mut row_ids = Vec::new();
        let rows = (0..offsets.rows()).map(|row| {
            row_ids.clear();
            for id in &ids[offsets.row(row)] {
                row_ids.push(u32::try_from(*id).map_err(|_| Error::at(Reason::OutOfRange, row, format!("{id} is no id")))?);
            }
            // The library promises no freedom from panics.
            catch_unwind(AssertUnwindSafe(|| self.inner.decode(&row_ids, skip_special_tokens)))
                .map_err(|_| failed("the tokenizers library panicked on these ids"))
                .and_then(|decoded| decoded.map_err(|error| failed(&error.to_string())))
                .map_err(|error| Error { index: Some(row), ..error })
        });
        rows.collect()
    }

    /// The entry of the vocabulary of each id.
    ///
    /// # Errors
    /// `OutOfRange` with the index of an id that the vocabulary lacks.
    pub fn tokens(&self, ids: &[i32]) -> Result<Vec<String>> {
        let tokens = ids.iter().enumerate().map(|(index, id)| {
            let token = u32::try_from(*id).ok().and_then(|id| self.inner.id_to_token(id));
            token.ok_or_else(|| Error::at(Reason::OutOfRange, index, format!("the vocabulary has no id {id}")))
        });
        tokens.collect()
    }

    /// The id of an entry of the vocabulary.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The number of code points of each entry of the vocabulary by id, 0 for ids that are not used. They are counted at the first call.
    ///
    /// # Errors
    /// `OutOfRange` where the highest id asks for more than there is memory.
    pub fn token_lengths(&self) -> Result<&[i32]> {
        if let Some(lengths) = self.lengths.get() {
            return Ok(lengths);
        }
        let (vocabulary, added) = (self.inner.get_model().get_vocab(), self.inner.get_added_tokens_decoder());
        let highest = vocabulary.values().chain(added.keys()).max();
        let mut lengths = zeros(highest.map_or(0, |id| *id as usize + 1), 1)?;
        // Added tokens come last, since they are what an id means where both have it.
        let entries = vocabulary.iter().map(|(token, id)| (id, token));
        for (id, token) in entries.chain(added.iter().map(|(id, token)| (id, &token.content))) {
            lengths[*id as usize] = i32::try_from(token.chars().count()).unwrap_or(i32::MAX);
        }
        Ok(self.lengths.get_or_init(|| lengths))
    }
}
