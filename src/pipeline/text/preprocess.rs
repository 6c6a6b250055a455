//! `kind = "text"`: texts, or pairs of texts, become the tokens of a transformer.
//!
//! The tokenizer is the version's own `tokenizer.json`, which the crate `tokenizers` of Hugging Face reads and runs.
//! Rows are as long as the longest text of the request. The batcher joins them with rows of similar length.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenizers::{Encoding, Tokenizer};

use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::json::reader::{Fits, Reader, misfit};
use crate::pipeline::text::hard_texts::{HardText, hard_texts};
use crate::pipeline::text::tokenizing::{BoundedTokenizer, cut, kept};
use crate::pipeline::{
    Elements, FormColumn, InstanceForm, Origin, Prepared, Preprocessor, Rehearsal, StageContext, TokenisedText,
};
use crate::tensor::{DType, Data, Dim, Padding, Signature, Tensor, TensorSpec, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Name of the tokenizer's file in the version.
    tokenizer: String,
    /// Maximum number of tokens of a row, including special tokens; by default, the limit in the tokenizer's file, or
    /// 512.
    max_tokens: Option<usize>,
    /// Treatment of a text with more than `max_tokens`.
    too_long: Option<TooLong>,
    /// Maximum number of characters of a text. A longer text is refused before it is tokenised.
    max_characters: usize,
    /// True if special tokens are added to a text.
    special_tokens: bool,
    /// The padding token; by default, the tokenizer's own.
    pad_token: Option<String>,
    /// Names of the model's inputs, if they are not the usual ones.
    inputs: InputNames,
}

/// Treatment of a text with too many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TooLong {
    /// Cuts off the end of the text.
    Truncate,
    /// Refuses the text.
    Error,
}

/// Names of the model's inputs for tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InputNames {
    ids: String,
    mask: String,
    types: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tokenizer: "tokenizer.json".to_owned(),
            max_tokens: None,
            too_long: None,
            max_characters: 1 << 16,
            special_tokens: true,
            pad_token: None,
            inputs: InputNames::default(),
        }
    }
}

impl Default for InputNames {
    fn default() -> Self {
        InputNames {
            ids: "input_ids".to_owned(),
            mask: "attention_mask".to_owned(),
            types: "token_type_ids".to_owned(),
        }
    }
}

/// Default maximum number of tokens of a row: that of BERT.
const MAX_TOKENS: usize = 512;

/// Names of the monitored features of a text.
const FEATURES: [&str; 4] = ["tokens", "unknown_tokens", "characters", "truncated"];
/// Tokens of a text are counted up to this multiple of `max_tokens`, so that texts which outgrow the model are seen.
const COUNTED: usize = 8;

/// Content of an input of the model, such as token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Ids of the tokens.
    Ids,
    /// The attention mask: 1 for a token, 0 for padding.
    Mask,
    /// The type of each token: 0 for the first text, 1 for the second.
    Types,
}

struct Input {
    name: Arc<str>,
    role: Role,
    is_short: bool,
}

struct TextPreprocessor {
    tokenizer: BoundedTokenizer,
    inputs: Vec<Input>,
    pad: u32,
    unknown: Option<u32>,
    max_tokens: usize,
    too_long: TooLong,
    /// True if long texts are truncated because `too_long` is not set.
    is_cut_by_default: bool,
    max_characters: usize,
    special_tokens: bool,
    /// Length of a row in tokens, if the model fixes it.
    fixed_length: Option<usize>,
    most_rows: NonZeroUsize,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let wrong = |problem: String| SetupError::Config(problem);
    let content = context.files.read(&settings.tokenizer)?;
    let in_file = |problem: &dyn std::fmt::Display| wrong(format!("{}: {problem}", settings.tokenizer));
    let bounded = BoundedTokenizer::new(&content, settings.max_characters).map_err(|problem| in_file(&problem))?;
    let tokenizer = bounded.get();
    let unknown = unknown_token(&content, tokenizer);

    let (inputs, fixed_length) = inputs(&settings.inputs, context.signature)?;
    let own = bounded.max_tokens.unwrap_or(MAX_TOKENS);
    let max_tokens = match (settings.max_tokens, fixed_length) {
        (Some(most), Some(length)) if most > length => {
            return Err(wrong(format!("max_tokens: {most} is more than the {length} tokens that the model takes")));
        }
        (Some(0), _) => return Err(wrong("max_tokens: 0 leaves nothing of a text".to_owned())),
        (most, length) => most.unwrap_or(own).min(length.unwrap_or(usize::MAX)),
    };
    let has_mask = inputs.iter().any(|input| input.role == Role::Mask);
    let pad = match &settings.pad_token {
        Some(token) => {
            tokenizer.token_to_id(token).ok_or_else(|| wrong(format!("pad_token: the tokenizer has no {token:?}")))?
        }
        // With a mask, the value of masked positions does not matter.
        None if has_mask => bounded.pad.unwrap_or(0),
        None => {
            return Err(wrong(
                "pad_token: the model takes no mask; name a padding token that the model itself ignores".to_owned(),
            ));
        }
    };
    let marks = bounded.special_tokens(true).max(bounded.special_tokens(false));
    if settings.special_tokens && max_tokens <= marks {
        return Err(wrong(format!("max_tokens: {max_tokens} leave no room for a text beside {marks} special tokens")));
    }
    let too_long = settings.too_long.unwrap_or(TooLong::Truncate);
    let most_rows = context.most_rows(max_tokens * inputs.len());
    Ok(Box::new(TextPreprocessor {
        tokenizer: bounded,
        inputs,
        pad,
        unknown,
        max_tokens,
        too_long,
        is_cut_by_default: settings.too_long.is_none(),
        max_characters: settings.max_characters,
        special_tokens: settings.special_tokens,
        fixed_length,
        most_rows,
    }))
}

/// Returns the id of the token for unknown words, according to the tokenizer's file.
fn unknown_token(content: &[u8], tokenizer: &Tokenizer) -> Option<u32> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        unk_token: Option<String>,
        unk_id: Option<u32>,
    }
    let File { model } = serde_json::from_slice(content).ok()?;
    model.unk_id.or_else(|| tokenizer.token_to_id(&model.unk_token?))
}

/// Returns the role of each input of the model, and the length of a row if it is fixed.
fn inputs(names: &InputNames, signature: &Signature) -> Result<(Vec<Input>, Option<usize>), SetupError> {
    let mut fixed = None;
    let input = |spec: &TensorSpec| {
        let role = match &*spec.name {
            name if *name == *names.ids => Role::Ids,
            name if *name == *names.mask => Role::Mask,
            name if *name == *names.types => Role::Types,
            name => {
                return Err(SetupError::Config(format!(
                    "inputs: the model's input {name:?} is none of {}, {} and {}; say which it is, as in \
                     inputs = {{ ids = {name:?} }}",
                    names.ids, names.mask, names.types
                )));
            }
        };
        let is_short = match spec.dtype {
            DType::I64 => false,
            DType::I32 => true,
            _ => {
                return Err(SetupError::Config(format!(
                    "the model's input {:?} is {}; tokens are int64 or int32",
                    spec.name,
                    spec.describe()
                )));
            }
        };
        match &*spec.dims {
            [_, Dim::Dynamic(_)] => {}
            [_, Dim::Fixed(length)] => fixed = Some(*length),
            _ => {
                return Err(SetupError::Config(format!(
                    "the model's input {:?} is {}; tokens have two dimensions",
                    spec.name,
                    spec.describe()
                )));
            }
        }
        Ok(Input { name: Arc::clone(&spec.name), role, is_short })
    };
    let inputs: Vec<Input> = signature.inputs.iter().map(input).collect::<Result<_, SetupError>>()?;
    if !inputs.iter().any(|input| input.role == Role::Ids) {
        return Err(SetupError::Config(format!("inputs: the model has no input {:?} for the tokens", names.ids)));
    }
    Ok((inputs, fixed))
}

/// Tokens of all rows of a request, one row after the other.
#[derive(Default)]
struct Tokens {
    ids: Vec<u32>,
    types: Vec<u32>,
    /// Number of tokens of each row.
    lengths: Vec<usize>,
}

impl Tokens {
    fn add(&mut self, encoding: &Encoding) {
        self.ids.extend_from_slice(encoding.get_ids());
        self.types.extend_from_slice(encoding.get_type_ids());
        self.lengths.push(encoding.len());
    }
}

impl Preprocessor for TextPreprocessor {
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared> {
        let mut tokens = Tokens::default();
        let mut texts = Vec::new();
        let mut features: Vec<f32> = Vec::new();
        let read = |json: &mut Reader<'_>| {
            let (text, pair) = self.text(json)?;
            let (encoding, watched) = self.encode(&text, pair.as_deref(), deadline)?;
            features.extend(watched);
            tokens.add(&encoding);
            texts.push(TokenisedText { spans: spans(&encoding, pair.as_deref()), text: text.into_owned() });
            Ok(())
        };
        let rows = Reader::instances(instances.get(), (self.most_rows, deadline), read, Error::from)?;
        let longest = tokens.lengths.iter().copied().max().unwrap_or_default();
        let length = self.fixed_length.unwrap_or(longest);
        let tensor = |input: &Input| {
            let data = match input.is_short {
                false => Data::I64(self.elements(input.role, &tokens, length, i64::from)),
                // The cast is exact: ids count from 0, and a vocabulary has fewer than two billion tokens.
                true => Data::I32(self.elements(input.role, &tokens, length, |element| element as i32)),
            };
            Ok((Arc::clone(&input.name), Tensor::new(vec![rows, length], data)?))
        };
        let inputs: Tensors = self.inputs.iter().map(tensor).collect::<Result<Vec<_>>>()?.into_iter().collect();
        let mut watched = Features::with_rows(rows);
        watched.numbers = features;
        Ok(Prepared { inputs, features: watched, origin: Origin::Texts(texts) })
    }

    fn features(&self) -> FeatureSchema {
        FeatureSchema { numbers: FEATURES.map(Arc::from).to_vec(), texts: Vec::new() }
    }

    fn instance_form(&self) -> Option<InstanceForm> {
        let column = FormColumn::scalar("text", DType::Text, true);
        Some(InstanceForm::Value { column, elements: Elements::Second("text_pair".into()) })
    }

    /// Returns three texts. They are long enough to cut rows of several lengths from them.
    fn samples(&self) -> Option<[String; 3]> {
        const WORDS: [&str; 12] =
            ["the", "quick", "brown", "fox", "7", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"];
        let text = |start: usize| {
            let words: Vec<&str> = (0..48).map(|word| WORDS[(start + word * (start + 1)) % WORDS.len()]).collect();
            serde_json::Value::from(words.join(" ")).to_string()
        };
        Some([0, 4, 6].map(text))
    }

    fn instance_schema(&self) -> Value {
        let text = json!({ "type": "string", "maxLength": self.max_characters });
        let pair = json!({ "type": "array", "minItems": 2, "maxItems": 2, "items": text });
        json!({ "anyOf": [text, pair] })
    }

    /// Returns true, because the cost of a text depends on `tokenizer.json` and is not known in advance.
    fn is_heavy(&self) -> bool {
        true
    }

    fn rehearsals(&self) -> Vec<Rehearsal<'_>> {
        let rehearsal = |text: HardText| Rehearsal {
            instance: text.name.clone(),
            largest: self.max_characters,
            unit: "characters",
            setting: "preprocess.max_characters",
            run: Box::new(move |characters, deadline| {
                // Words have a quarter of the maximum length. Longer words would be refused, and a normaliser may
                // triple the bytes of a word.
                let text = text.of_length(characters, self.tokenizer.longest_word() / 4);
                self.encode_cut(&text, deadline).map_err(Error::from)
            }),
        };
        hard_texts(self.tokenizer.get()).into_iter().map(rehearsal).collect()
    }

    fn assumptions(&self) -> Vec<String> {
        let cut = || {
            format!(
                "texts of more than {} tokens are truncated at the end, because [preprocess] does not say too_long = \"error\"",
                self.max_tokens
            )
        };
        let words = || {
            let most = self.tokenizer.longest_word();
            format!(
                "words of more than {most} bytes are refused, because the tokenizer allows long words, but is slow with them"
            )
        };
        let is_slow = self.tokenizer.longest_word() < self.max_characters;
        self.is_cut_by_default.then(cut).into_iter().chain(is_slow.then(words)).collect()
    }

    fn padding(&self) -> Option<Padding> {
        let value = |input: &Input| if input.role == Role::Ids { i64::from(self.pad) } else { 0 };
        self.fixed_length.is_none().then(|| Padding(self.inputs.iter().map(value).collect()))
    }
}

impl TextPreprocessor {
    /// Reads an instance: a text, or an array of two texts.
    fn text<'a>(&self, json: &mut Reader<'a>) -> Fits<(Cow<'a, str>, Option<Cow<'a, str>>)> {
        match json.peek() {
            b'"' => Ok((self.short_enough(json.string()?)?, None)),
            b'[' => {
                let mut both = Vec::with_capacity(2);
                json.array("a pair of strings", |json| match json.peek() {
                    b'"' if both.len() == 2 => Err(misfit("found a third string, expected a pair".to_owned())),
                    b'"' => {
                        both.push(self.short_enough(json.string()?)?);
                        Ok(())
                    }
                    _ => Err(json.found_instead_of("a string")),
                })?;
                match <[_; 2]>::try_from(both) {
                    Ok([text, pair]) => Ok((text, Some(pair))),
                    Err(fewer) => Err(misfit(format!("found an array of {}, expected a pair of strings", fewer.len()))),
                }
            }
            _ => Err(json.found_instead_of("a string, or an array of two")),
        }
    }

    fn short_enough<'a>(&self, text: Cow<'a, str>) -> Fits<Cow<'a, str>> {
        let most = self.max_characters;
        // A character has at least one byte, so most texts need no counting.
        if text.len() <= most || text.chars().nth(most).is_none() {
            return Ok(text);
        }
        Err(misfit(format!(
            "found a text of more than {most} characters, which is the limit (preprocess.max_characters); send a part of it"
        )))
    }

    /// Returns the tokens of a text or a pair as they are in a row, and the values of the features.
    fn encode(&self, text: &str, pair: Option<&str>, deadline: Deadline) -> Fits<(Encoding, [f32; FEATURES.len()])> {
        let enough = self.enough();
        let mut first = self.tokenizer.tokens(text, 0, enough, deadline)?;
        let mut second = pair.map(|pair| self.tokenizer.tokens(pair, 1, enough, deadline)).transpose()?;
        // Counted before the texts are truncated.
        let (mut tokens, mut unknown) = self.counts(&first);
        if let Some(second) = &second {
            let (of_second, unknown_of_second) = self.counts(second);
            (tokens, unknown) = (tokens + of_second, unknown + unknown_of_second);
        }
        let mut is_truncated = false;
        if self.too_long == TooLong::Truncate {
            let marks = if self.special_tokens { self.tokenizer.special_tokens(pair.is_some()) } else { 0 };
            let (of_first, of_second) =
                kept(first.len(), second.as_ref().map(Encoding::len), self.max_tokens.saturating_sub(marks));
            is_truncated = of_first + of_second < tokens;
            first = cut(first, of_first);
            second = second.map(|second| cut(second, of_second));
        }
        let encoding = self.tokenizer.framed(first, second, self.special_tokens)?;
        match encoding.len() {
            0 => Err(misfit("found a text without a single token".to_owned())),
            found if found > self.max_tokens => {
                let most = self.max_tokens;
                Err(misfit(format!("found a text of {found} tokens, at most {most}; send a part of it")))
            }
            _ => {
                let characters = text.chars().count() + pair.map_or(0, |pair| pair.chars().count());
                let unknown = unknown as f32 / tokens.max(1) as f32;
                let truncated = if is_truncated { 1.0 } else { 0.0 };
                Ok((encoding, [tokens as f32, unknown, characters as f32, truncated]))
            }
        }
    }

    /// Returns the number of tokens after which the rest of a text is not needed; `None` if all tokens are needed.
    fn enough(&self) -> Option<usize> {
        (self.too_long == TooLong::Truncate).then_some(COUNTED * self.max_tokens)
    }

    /// Encodes a made-up text and truncates it, even if long texts in requests are refused.
    fn encode_cut(&self, text: &str, deadline: Deadline) -> Fits<()> {
        let tokens = self.tokenizer.tokens(text, 0, self.enough(), deadline)?;
        let (first, _) = kept(tokens.len(), None, self.max_tokens);
        self.tokenizer.framed(cut(tokens, first), None, self.special_tokens).map(drop)
    }

    /// Returns the number of tokens, and the number of unknown ones among them.
    fn counts(&self, tokens: &Encoding) -> (usize, usize) {
        let unknown = tokens.get_ids().iter().filter(|id| Some(**id) == self.unknown).count();
        (tokens.len(), unknown)
    }

    /// Returns the elements of all rows of an input, padded to `length`.
    fn elements<T: Clone>(&self, role: Role, tokens: &Tokens, length: usize, element: impl Fn(u32) -> T) -> Vec<T> {
        let mut elements = Vec::with_capacity(tokens.lengths.len() * length);
        let mut start = 0;
        for (row, count) in tokens.lengths.iter().enumerate() {
            let end = start + count;
            match role {
                Role::Ids => elements.extend(tokens.ids[start..end].iter().map(|id| element(*id))),
                Role::Types => elements.extend(tokens.types[start..end].iter().map(|kind| element(*kind))),
                Role::Mask => elements.resize(elements.len() + count, element(1)),
            }
            elements.resize((row + 1) * length, element(if role == Role::Ids { self.pad } else { 0 }));
            start = end;
        }
        elements
    }
}

/// Returns the position of each token in the first text; `None` for special tokens and for tokens of a second text.
fn spans(encoding: &Encoding, pair: Option<&str>) -> Vec<Option<std::ops::Range<usize>>> {
    let tokens = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask());
    let span = |(&(start, end), is_special): (&(usize, usize), &u32)| (*is_special == 0).then_some(start..end);
    let mut spans: Vec<_> = tokens.map(span).collect();
    if pair.is_some() {
        let of_second = encoding.get_sequence_ids().into_iter().map(|sequence| sequence == Some(1));
        spans.iter_mut().zip(of_second).filter(|(_, of_second)| *of_second).for_each(|(span, _)| *span = None);
    }
    spans
}

#[cfg(test)]
mod tests;
