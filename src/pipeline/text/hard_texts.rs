//! Made-up texts that are hard on tokenizers. Each kind can have any length, and makes some tokenizer slow or its
//! output large.

use tokenizers::{Model as _, Tokenizer};

/// A kind of hard text: a part that is repeated, and an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HardText {
    /// Name of the kind, for messages.
    pub(crate) name: String,
    part: String,
    end: &'static str,
}

/// Kinds of hard texts for every tokenizer. An end that differs from the part makes a regular expression backtrack.
const KINDS: [(&str, &str, &str); 12] = [
    ("words", "ab ", ""),
    ("letters without a blank", "a", ""),
    ("letters without a blank, and a mark", "a", "!"),
    ("blanks", " ", ""),
    ("blanks, and a letter", " ", "a"),
    ("line ends", "\n", "a"),
    ("digits", "7", "."),
    ("punctuation", "!", "a"),
    ("accented letters", "é", ""),
    ("Chinese characters", "漢", ""),
    ("Hangul", "각", ""),
    ("emoji", "👍🏽", ""),
];

/// Returns the kinds of hard texts to try with a tokenizer. Some repeat its own tokens.
pub(crate) fn hard_texts(tokenizer: &Tokenizer) -> Vec<HardText> {
    let hard = |name: &str, part: &str, end| HardText { name: name.to_owned(), part: part.to_owned(), end };
    let mut kinds: Vec<HardText> = KINDS.iter().map(|(name, part, end)| hard(name, part, end)).collect();
    let special = tokenizer.get_added_vocabulary().get_vocab().keys().min();
    kinds.extend(special.map(|token| hard("a token of added_tokens", token, "")));
    // Takes the first of equally long tokens in the order of the alphabet, so that every trial uses the same texts.
    let vocabulary = tokenizer.get_model().get_vocab();
    let longest = vocabulary.keys().max_by_key(|token| (token.len(), std::cmp::Reverse(*token)));
    let longest = longest.map(|token| token.trim_start_matches(['#', '▁', 'Ġ'])).filter(|token| !token.is_empty());
    if let Some(longest) = longest {
        kinds.push(hard("the longest token of the vocabulary", longest, ""));
        kinds.extend(
            longest
                .get(..longest.chars().next().map_or(0, char::len_utf8))
                .map(|first| hard("the first character of the longest token of the vocabulary", first, "")),
        );
    }
    kinds
}

impl HardText {
    /// Returns a text of this many characters, in words of at most `longest_word` bytes.
    pub(crate) fn of_length(&self, characters: usize, longest_word: usize) -> String {
        let length = characters.saturating_sub(self.end.chars().count());
        let mut text = String::with_capacity(length * 2);
        let mut word = 0;
        for character in self.part.chars().cycle().take(length) {
            word += character.len_utf8();
            match word > longest_word {
                true => text.push(' '),
                false => text.push(character),
            }
            if word > longest_word || character == ' ' {
                word = 0;
            }
        }
        text.extend(self.end.chars().take(characters));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_length_that_is_asked_for() {
        for (name, part, end) in KINDS {
            let text = HardText { name: name.to_owned(), part: part.to_owned(), end };
            for characters in [0, 1, 2, 16, 1000] {
                let made = text.of_length(characters, usize::MAX);
                assert_eq!(made.chars().count(), characters, "{name}");
                let in_words = text.of_length(characters, 50);
                assert_eq!(in_words.chars().count(), characters, "{name}");
                assert!(in_words.split(' ').all(|word| word.len() <= 50 + end.len()), "{name}");
            }
        }
    }
}
