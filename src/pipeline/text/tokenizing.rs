//! Tokenizer with bounded memory that stops at a deadline.
//!
//! Hugging Face's `tokenizers` does the work, in its usual steps: normalise, split into words, tokenise each word, add
//! special tokens. This module adds what that crate lacks: checks of the deadline between steps and words, a limit on
//! the output of the normaliser, and a limit on the length of words for models that are slow with long words. Neither
//! `tokenizer.json`, which comes from the author of the model, nor the text, which comes from the caller, is trusted to
//! be small.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::{NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::utils::SysRegex;
use tokenizers::{
    Encoding, Model, NormalizedString, Normalizer, OffsetType, PostProcessor as _, PreTokenizedString, PreTokenizer,
    Token, Tokenizer, TruncationDirection,
};

use crate::budget::Deadline;
#[cfg(test)]
use crate::error::Error;
use crate::error::Result;
use crate::pipeline::json::reader::{Fits, Misfit, misfit};

/// Maximum number of bytes that a normaliser may produce for each allowed character of a text. Decomposed Hangul has 9.
const BYTES_PER_CHARACTER: usize = 16;

/// Number of bytes that a normaliser may produce in addition to those per character, for example for a prefix.
const BYTES_BESIDE: usize = 4096;

/// Maximum length of a replacement in the table of a normaliser, in bytes. Those of SentencePiece have up to 33 (ﷺ).
const MAX_REPLACEMENT: usize = 64;

/// Maximum length of a word for WordPiece, in bytes, if the tokenizer itself has no smaller limit (usually 100
/// characters). WordPiece tries every part of a word, and reads every character of the part.
const MAX_TRIED_WORD: usize = 1024;

/// Maximum product of the lengths of a word and of the longest piece in the vocabulary of Unigram, in bytes. A word at
/// this limit takes about a second, because Unigram tries every piece at every position of the word.
const MAX_TRIED_PIECES: usize = 1 << 26;

/// Maximum length of a piece in the vocabulary of Unigram, in bytes. Pieces of SentencePiece have up to 16 characters.
const MAX_PIECE: usize = 1024;

/// Number of words between two checks of the deadline.
const WORDS_BETWEEN_CHECKS: usize = 32;

/// A tokenizer with limits on its work.
pub(crate) struct BoundedTokenizer {
    tokenizer: Tokenizer,
    /// Maximum number of tokens of a text, according to the tokenizer's file.
    pub(crate) max_tokens: Option<usize>,
    /// The padding token in the tokenizer's file.
    pub(crate) pad: Option<u32>,
    normaliser: Vec<Step>,
    /// Maximum number of bytes that the normaliser may produce from a text.
    most_normalised: usize,
    /// Maximum length of a word, in bytes.
    longest_word: usize,
}

/// A step of a normaliser, and the growth of a text that it can cause.
struct Step {
    normalizer: NormalizerWrapper,
    growth: Growth,
}

/// Growth of a text by a step of a normaliser.
enum Growth {
    /// The growth is bounded by Unicode, or by a table that has been checked.
    Small,
    /// The step adds a prefix of this many bytes.
    Prefix(usize),
    /// The step replaces every match with a text of this many bytes.
    Replacement { pattern: SysRegex, bytes: usize },
}

impl BoundedTokenizer {
    /// Reads a tokenizer's file, for texts of at most `max_characters`. Truncation and padding are done elsewhere.
    pub(crate) fn new(file: &[u8], max_characters: usize) -> Result<BoundedTokenizer, String> {
        check(file)?;
        let mut tokenizer = Tokenizer::from_bytes(file).map_err(|error| error.to_string())?;
        let max_tokens = tokenizer.get_truncation().map(|truncation| truncation.max_length);
        let pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        let mut normaliser = Vec::new();
        if let Some(normalizer) = tokenizer.get_normalizer() {
            add_steps(normalizer, &mut normaliser)?;
        }
        let longest_word = longest_word(tokenizer.get_model());
        let most_normalised = max_characters.saturating_mul(BYTES_PER_CHARACTER).saturating_add(BYTES_BESIDE);
        let bounded = BoundedTokenizer { tokenizer, max_tokens, pad, normaliser, most_normalised, longest_word };
        bounded.check_post_processor()?;
        Ok(bounded)
    }

    /// Returns the tokenizer of the crate `tokenizers`.
    pub(crate) fn get(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the maximum length of a word, in bytes.
    pub(crate) fn longest_word(&self) -> usize {
        self.longest_word
    }

    /// Returns the number of special tokens that are added to a text or a pair.
    pub(crate) fn special_tokens(&self, is_pair: bool) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(is_pair))
    }

    /// Returns the tokens of a text without special tokens. With `enough`, stops after the first words that have this
    /// many tokens together. `type_id` is 0 for the first text of a pair and 1 for the second.
    pub(crate) fn tokens(&self, text: &str, type_id: u32, enough: Option<usize>, deadline: Deadline) -> Fits<Encoding> {
        deadline.check()?;
        let tokens = catch_unwind(AssertUnwindSafe(|| self.tokens_of(text, type_id, enough, deadline)));
        tokens.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map_or("", |said| said);
            match said.starts_with("Onig: Regex") {
                // The crate reports this error only as a panic.
                true => Err(misfit(
                    "a regular expression of the tokenizer gave up on this text, because it takes too many steps; send \
                     another or a shorter one"
                        .to_owned(),
                )),
                false => resume_unwind(panic),
            }
        })
    }

    fn tokens_of(&self, text: &str, type_id: u32, enough: Option<usize>, deadline: Deadline) -> Fits<Encoding> {
        let normaliser = BoundedNormaliser {
            steps: &self.normaliser,
            most: self.most_normalised,
            made: AtomicUsize::new(0),
            failed: OnceLock::new(),
            deadline,
        };
        let mut words = self.tokenizer.get_added_vocabulary().extract_and_normalize(Some(&normaliser), text);
        if let Some(failed) = normaliser.failed.into_inner() {
            return Err(failed);
        }
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            split(pre_tokenizer, &mut words, deadline)?;
        }
        deadline.check()?;
        let (count, failed) = (Cell::new(0usize), RefCell::new(None));
        let of_word = |word: &NormalizedString| {
            self.tokens_of_word(word.get(), &count, deadline).map_err(|problem| {
                *failed.borrow_mut() = Some(problem);
                "ended".into()
            })
        };
        let tokenised = match enough {
            Some(enough) => words.tokenize_with_limit(of_word, enough, TruncationDirection::Right),
            None => words.tokenize(of_word),
        };
        if let Some(failed) = failed.into_inner() {
            return Err(failed);
        }
        tokenised.map_err(not_taken)?;
        deadline.check()?;
        words.into_encoding(None, type_id, OffsetType::Byte).map_err(not_taken)
    }

    fn tokens_of_word(&self, word: &str, count: &Cell<usize>, deadline: Deadline) -> Fits<Vec<Token>> {
        count.set(count.get() + 1);
        if count.get().is_multiple_of(WORDS_BETWEEN_CHECKS) || word.len() > WORDS_BETWEEN_CHECKS {
            deadline.check()?;
        }
        if word.len() > self.longest_word {
            let (found, most) = (word.len(), self.longest_word);
            return Err(misfit(format!(
                "found a word of {found} bytes, at most {most} for this model's tokenizer; send it in parts"
            )));
        }
        self.tokenizer.get_model().tokenize(word).map_err(not_taken)
    }

    /// Adds the special tokens to a text or a pair.
    pub(crate) fn framed(&self, tokens: Encoding, pair: Option<Encoding>, special_tokens: bool) -> Fits<Encoding> {
        self.tokenizer.post_process(tokens, pair, special_tokens).map_err(not_taken)
    }

    /// Checks that the post-processor uses each text only once. A repeated text could make rows of any length.
    fn check_post_processor(&self) -> Result<(), String> {
        let tokens = |type_id| Encoding::from_tokens(vec![Token::new(0, "a".to_owned(), (0, 1)); 2], type_id);
        for (is_pair, most) in [(false, 2), (true, 4)] {
            let framed = self.framed(tokens(0), is_pair.then(|| tokens(1)), true);
            // Skips pairs if the tokenizer does not take them.
            let Ok(framed) = framed else { continue };
            if framed.len() > most + self.special_tokens(is_pair) {
                return Err("post_processor: it repeats a text, but must use each text only once".to_owned());
            }
        }
        Ok(())
    }
}

fn not_taken(error: impl std::fmt::Display) -> Box<Misfit> {
    misfit(format!("the tokenizer does not take this text: {error}"))
}

/// Splits a text into words. The steps of a sequence of pre-tokenizers run in order.
fn split(pre_tokenizer: &PreTokenizerWrapper, words: &mut PreTokenizedString, deadline: Deadline) -> Fits<()> {
    if let PreTokenizerWrapper::Sequence(several) = pre_tokenizer {
        return several.as_ref().iter().try_for_each(|one| split(one, words, deadline));
    }
    deadline.check()?;
    pre_tokenizer.pre_tokenize(words).map_err(not_taken)
}

/// Returns the maximum length of a word in bytes, so that a word takes no more than about a second.
fn longest_word(model: &ModelWrapper) -> usize {
    match model {
        ModelWrapper::WordPiece(model) if model.max_input_chars_per_word > MAX_TRIED_WORD => MAX_TRIED_WORD,
        ModelWrapper::Unigram(model) => {
            let longest = model.iter().map(|(piece, _)| piece.len()).max().unwrap_or(0);
            MAX_TRIED_PIECES / longest.max(1)
        }
        ModelWrapper::WordPiece(_) | ModelWrapper::BPE(_) | ModelWrapper::WordLevel(_) => usize::MAX,
    }
}

// ===== the file =====

/// Checks a tokenizer's file for replacements and pieces that are too long, before `tokenizers` reads it.
fn check(file: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct File<'a> {
        normalizer: Option<Value>,
        #[serde(borrow)]
        model: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Unigram<'a> {
        #[serde(borrow)]
        vocab: Vec<(Cow<'a, str>, f64)>,
    }
    // Ignores a file that cannot be read here, because `tokenizers` refuses it later.
    let Ok(File { normalizer, model }) = serde_json::from_slice(file) else { return Ok(()) };
    let longest = normalizer.as_ref().map_or(0, longest_replacement);
    if longest > MAX_REPLACEMENT {
        return Err(format!(
            "normalizer: its precompiled_charsmap replaces a character by {longest} bytes, at most {MAX_REPLACEMENT}"
        ));
    }
    let unigram = model.and_then(|model| serde_json::from_str(model.get()).ok());
    let longest = unigram.map_or(0, |Unigram { vocab }| vocab.iter().map(|(piece, _)| piece.len()).max().unwrap_or(0));
    // The crate keeps pieces in a tree that is as deep as the longest piece, and whose destructor is recursive.
    match longest > MAX_PIECE {
        true => Err(format!("model: a piece of its vocabulary has {longest} bytes, at most {MAX_PIECE}")),
        false => Ok(()),
    }
}

/// Returns the length of the longest replacement in a table of SentencePiece (`precompiled_charsmap`), in bytes. The
/// table consists of the length of a trie, the trie, and replacements that end with NUL.
fn longest_replacement(normalizer: &Value) -> usize {
    let of_charsmap = |charsmap: &str| {
        let bytes = STANDARD.decode(charsmap).ok()?;
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let texts = rest.get(u32::from_le_bytes(*length) as usize..)?;
        texts.split(|byte| *byte == 0).map(<[u8]>::len).max()
    };
    match normalizer {
        Value::Array(several) => several.iter().map(longest_replacement).max().unwrap_or(0),
        Value::Object(entries) => {
            let of_entry = |(key, value): (&String, &Value)| match value.as_str() {
                Some(charsmap) if key == "precompiled_charsmap" => of_charsmap(charsmap).unwrap_or(0),
                _ => longest_replacement(value),
            };
            entries.iter().map(of_entry).max().unwrap_or(0)
        }
        _ => 0,
    }
}

// ===== the normaliser =====

fn add_steps(normalizer: &NormalizerWrapper, steps: &mut Vec<Step>) -> Result<(), String> {
    let growth = match normalizer {
        NormalizerWrapper::Sequence(several) => {
            return several.as_ref().iter().try_for_each(|one| add_steps(one, steps));
        }
        NormalizerWrapper::Replace(replace) => {
            Growth::Replacement { pattern: pattern(replace)?, bytes: replace.content.len() }
        }
        NormalizerWrapper::Prepend(prepend) => Growth::Prefix(prepend.prepend.len()),
        _ => Growth::Small,
    };
    steps.push(Step { normalizer: normalizer.clone(), growth });
    Ok(())
}

/// Returns the pattern of a Replace step of a normaliser, which is only accessible in the step's JSON form.
fn pattern(replace: &Replace) -> Result<SysRegex, String> {
    let written = serde_json::to_value(replace).map_err(|error| error.to_string())?;
    let pattern = &written["pattern"];
    let regex = match (&pattern["Regex"], &pattern["String"]) {
        (Value::String(regex), _) => regex.clone(),
        (_, Value::String(text)) => escaped(text),
        _ => return Err("normalizer: a Replace without a pattern".to_owned()),
    };
    SysRegex::new(&regex).map_err(|error| format!("normalizer: {error}"))
}

/// Returns a regular expression that matches exactly this text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Normaliser for one text, which checks the deadline and the size before and after each step.
struct BoundedNormaliser<'a> {
    steps: &'a [Step],
    /// Maximum number of bytes of all parts of the text together.
    most: usize,
    /// Number of bytes of the parts that are done. Special tokens split a text into parts.
    made: AtomicUsize,
    failed: OnceLock<Box<Misfit>>,
    deadline: Deadline,
}

impl Normalizer for BoundedNormaliser<'_> {
    /// Stores an error in `failed`, because `tokenizers` ignores errors of normalisers.
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if self.failed.get().is_none()
            && let Err(problem) = self.run(text)
        {
            // Cannot fail: `failed` was empty.
            let _ = self.failed.set(problem);
        }
        Ok(())
    }
}

impl BoundedNormaliser<'_> {
    fn run(&self, text: &mut NormalizedString) -> Fits<()> {
        for step in self.steps {
            self.deadline.check()?;
            self.check(step.at_most(text.get())).or_else(|_| self.check(step.exactly(text.get())))?;
            let done = step.normalizer.normalize(text);
            self.check(text.get().len())?;
            if done.is_err() {
                // Continues with the text as it is, like `tokenizers`.
                break;
            }
        }
        self.made.fetch_add(text.get().len(), Relaxed);
        Ok(())
    }

    fn check(&self, bytes: usize) -> Fits<()> {
        if self.made.load(Relaxed).saturating_add(bytes) <= self.most {
            return Ok(());
        }
        let most = self.most;
        Err(misfit(format!(
            "the tokenizer's normaliser makes more than {most} bytes of this text, which is the limit \
             ({BYTES_PER_CHARACTER} for each of preprocess.max_characters, and {BYTES_BESIDE}); send a part of it"
        )))
    }
}

impl Step {
    /// Returns an upper limit on the length of a text after the step, in bytes. Small growth is not counted.
    fn at_most(&self, text: &str) -> usize {
        match &self.growth {
            Growth::Small => text.len(),
            Growth::Prefix(bytes) => text.len().saturating_add(*bytes),
            // There is at most one match before each character, and one at the end.
            Growth::Replacement { bytes, .. } => text.len().saturating_add((text.len() + 1).saturating_mul(*bytes)),
        }
    }

    /// Returns the length of a text after the step in bytes, from the matches that are replaced. Small growth is not
    /// counted.
    fn exactly(&self, text: &str) -> usize {
        match &self.growth {
            Growth::Small | Growth::Prefix(_) => self.at_most(text),
            Growth::Replacement { pattern, bytes } => pattern
                .find_iter(text)
                .fold(text.len(), |length, (start, end)| length.saturating_add(*bytes).saturating_sub(end - start)),
        }
    }
}

// ===== truncation =====

/// Returns the number of tokens to keep of the first text and of the second, at most `most` together. Shortens the
/// longer text first, like `tokenizers`.
pub(crate) fn kept(first: usize, second: Option<usize>, most: usize) -> (usize, usize) {
    let Some(second) = second else { return (first.min(most), 0) };
    if first + second <= most {
        return (first, second);
    }
    let shorter = first.min(second);
    let (shorter, longer) =
        if shorter > most / 2 { (most / 2, most / 2 + most % 2) } else { (shorter, most - shorter) };
    if first > second { (longer, shorter) } else { (shorter, longer) }
}

/// Returns the first `length` tokens of a text. The truncation of `tokenizers` would also keep the rest, in any number
/// of pieces.
pub(crate) fn cut(tokens: Encoding, length: usize) -> Encoding {
    if tokens.len() <= length {
        return tokens;
    }
    Encoding::new(
        tokens.get_ids()[..length].to_vec(),
        tokens.get_type_ids()[..length].to_vec(),
        tokens.get_tokens()[..length].to_vec(),
        tokens.get_word_ids()[..length].to_vec(),
        tokens.get_offsets()[..length].to_vec(),
        tokens.get_special_tokens_mask()[..length].to_vec(),
        tokens.get_attention_mask()[..length].to_vec(),
        Vec::new(),
        Default::default(),
    )
}

#[cfg(test)]
mod tests;
