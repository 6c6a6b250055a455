//! Selection of the bytes of a file that a model takes: some from its beginning, some from its end.
//!
//! A model of file types looks at both ends of a file, without the white space around its content. A model of malware
//! looks at the first bytes. Both replace missing bytes by a number that is no byte.

use std::ops::Range;

/// Selection of bytes from both ends of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Number of bytes from the beginning.
    pub(crate) beginning: usize,
    /// Number of bytes from the end.
    pub(crate) end: usize,
    /// Part of the file at each end that the bytes are selected from, in bytes.
    pub(crate) block: usize,
    /// True if white space is removed, from the start of the first block and from the end of the last block.
    pub(crate) is_stripped: bool,
}

/// The selected bytes of a file. Each part is shorter than required if the file has too few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selected<'a> {
    /// Bytes from the beginning. Padding follows them.
    pub(crate) beginning: &'a [u8],
    /// Bytes from the end. Padding precedes them.
    pub(crate) end: &'a [u8],
    /// Number of bytes from which the beginning was selected; if none is taken from there, the end.
    pub(crate) available: usize,
}

impl Selection {
    /// Number of bytes that a model takes.
    pub(crate) fn len(&self) -> usize {
        self.beginning + self.end
    }

    /// Selects the bytes of a file.
    pub(crate) fn select<'a>(&self, file: &'a [u8]) -> Selected<'a> {
        let block = self.block.min(file.len());
        let mut first = &file[..block];
        let mut last = &file[file.len() - block..];
        if self.is_stripped {
            first = &first[first.iter().position(|byte| !is_space(*byte)).unwrap_or(block)..];
            last = &last[..last.iter().rposition(|byte| !is_space(*byte)).map_or(0, |at| at + 1)];
        }
        Selected {
            beginning: &first[..self.beginning.min(first.len())],
            end: &last[last.len() - self.end.min(last.len())..],
            available: if self.beginning > 0 { first.len() } else { last.len() },
        }
    }
}

impl Selected<'_> {
    /// Writes the bytes as elements: the beginning and its padding, then the padding of the end and the end.
    pub(crate) fn write<T: Clone>(&self, selection: &Selection, elements: &Elements<T>, to: &mut Vec<T>) {
        let element = |byte: &u8| elements.of_byte[usize::from(*byte)].clone();
        let Range { start, end } = to.len()..to.len() + selection.len();
        to.reserve(selection.len());
        to.extend(self.beginning.iter().map(element));
        to.resize(start + selection.beginning, elements.padding.clone());
        to.resize(end - self.end.len(), elements.padding.clone());
        to.extend(self.end.iter().map(element));
    }
}

/// Elements of a tensor that stand for bytes.
pub(crate) struct Elements<T> {
    /// The element of each byte, indexed by its value.
    pub(crate) of_byte: Vec<T>,
    /// The element of a missing byte.
    pub(crate) padding: T,
}

/// Returns true for the white space of Python's `bytes.strip`, which includes the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(selection: &Selection, file: &[u8], expected: &[u16]) {
        let elements = Elements { of_byte: (0..256).collect(), padding: 256 };
        let mut values: Vec<u16> = Vec::new();
        selection.select(file).write(selection, &elements, &mut values);
        assert_eq!(values, expected, "{selection:?}");
    }

    #[test]
    fn a_short_file_is_padded_after_its_beginning_and_before_its_end() {
        let both = Selection { beginning: 3, end: 3, block: 8, is_stripped: true };
        check(&both, b" \t12345678\x0b\n", &[49, 50, 51, 54, 55, 56]);
        check(&both, b" 12 ", &[49, 50, 32, 32, 49, 50]);
        check(&both, b"  \n", &[256; 6]);
        check(&both, b"", &[256; 6]);
        // White space beyond the block stays, and so do the bytes behind it.
        check(&both, b"         1234", &[256, 256, 256, 50, 51, 52]);
        let plain = Selection { beginning: 4, end: 0, block: usize::MAX, is_stripped: false };
        check(&plain, b" 12", &[32, 49, 50, 256]);
        check(&plain, b"123456", &[49, 50, 51, 52]);
    }

    proptest! {
        #[test]
        fn every_file_becomes_a_row(
            file in prop::collection::vec(prop::sample::select(b" \n\x0bab".to_vec()), 0..40),
            beginning in 0usize..9, end in 0usize..9, block in 9usize..30, is_stripped in any::<bool>(),
        ) {
            let selection = Selection { beginning, end, block, is_stripped };
            let elements = Elements { of_byte: (0..256).collect(), padding: 256 };
            let mut values: Vec<u16> = Vec::new();
            selection.select(&file).write(&selection, &elements, &mut values);
            prop_assert_eq!(values.len(), selection.len());
        }
    }
}
