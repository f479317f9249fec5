//! The units in which positions in a text are counted.

use crate::error::{Error, Reason, Result};

/// What positions in a text count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetUnit {
    /// Unicode code points.
    CodePoint,
    /// Bytes of the UTF-8 form.
    Utf8Byte,
    /// Code units of the UTF-16 form.
    Utf16Unit,
}

/// Turns the positions of the tokenizers library, which are code points, into another unit.
pub(crate) struct UnitTable {
    /// The position of each code point, and of the end. None where code points and units are the same.
    positions: Option<Vec<usize>>,
}

impl UnitTable {
    pub fn new(text: &str, unit: OffsetUnit) -> Self {
        let width: fn(char) -> usize = match unit {
            _ if text.is_ascii() => return Self { positions: None },
            OffsetUnit::CodePoint => return Self { positions: None },
            OffsetUnit::Utf8Byte => char::len_utf8,
            OffsetUnit::Utf16Unit => char::len_utf16,
        };
        let mut end = 0;
        let starts = text.chars().map(|character| {
            let start = end;
            end += width(character);
            start
        });
        let mut positions: Vec<usize> = starts.collect();
        positions.push(end);
        Self { positions: Some(positions) }
    }

    pub fn convert(&self, (start, end): (usize, usize)) -> Result<[u32; 2]> {
        let convert = |position: usize| {
            let position = match &self.positions {
                // A position behind the end would be a mistake of the library; it is moved to the end.
                Some(positions) => positions[position.min(positions.len() - 1)],
                None => position,
            };
            u32::try_from(position).map_err(|_| Error::new(Reason::OutOfRange, "a position in the text does not fit 32 bits"))
        };
        Ok([convert(start)?, convert(end)?])
    }
}
