//! Tests of `tokenizing.rs`.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokenizers::TruncationParams;
use tokenizers::utils::truncation::truncate_encodings;

use super::*;

fn file(normalizer: Value, pre_tokenizer: Value, model: Value) -> Vec<u8> {
    let mut file = json!({
        "version": "1.0", "added_tokens": [{
            "id": 1, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        }],
        "post_processor": {"type": "BertProcessing", "sep": ["[CLS]", 1], "cls": ["[CLS]", 1]}
    });
    (file["normalizer"], file["pre_tokenizer"], file["model"]) = (normalizer, pre_tokenizer, model);
    file.to_string().into_bytes()
}

fn word_piece(longest: usize) -> Value {
    let words = ["[UNK]", "[CLS]", "a", "##a", "b", "##b", "ab", "##ab", "é", "!", " "];
    let vocab: serde_json::Map<_, _> =
        words.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), json!(id))).collect();
    json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": longest, "vocab": vocab
    })
}

fn bounded(file: &[u8], max_characters: usize) -> Result<BoundedTokenizer, String> {
    BoundedTokenizer::new(file, max_characters)
}

/// Returns the tokens of a text, or the error message.
fn tokens(bounded: &BoundedTokenizer, text: &str) -> Result<Vec<u32>, String> {
    let tokens = bounded.tokens(text, 0, None, Deadline::never());
    tokens.map(|tokens| tokens.get_ids().to_vec()).map_err(|misfit| Error::from(misfit).to_string())
}

/// Returns a normaliser of this many steps, each of which replaces an "a" with ten.
fn ten_times(steps: usize) -> Value {
    let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"});
    json!({"type": "Sequence", "normalizers": vec![step; steps]})
}

#[test]
fn a_normaliser_that_multiplies_its_text_is_stopped_before_the_memory_is_taken() {
    let of = |normalizer| bounded(&file(normalizer, json!(null), word_piece(100)), 65_536).unwrap();
    let refused = |normalizer, text: &str| {
        let refused = tokens(&of(normalizer), text).unwrap_err();
        assert!(refused.contains("normaliser makes more than 1052672 bytes of this text"), "{refused}");
        assert!(refused.contains("preprocess.max_characters"), "{refused}");
    };
    assert!(tokens(&of(ten_times(5)), "aa").is_ok());
    refused(ten_times(5), &"a".repeat(65_536));
    // Too long as well: a single step, an empty pattern, and a prefix for each part of a text.
    let long = "x".repeat(1 << 20);
    refused(json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": long}), "aa");
    refused(json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x".repeat(100)}), &"a".repeat(65_536));
    refused(json!({"type": "Prepend", "prepend": "x".repeat(1 << 16)}), &"a[CLS]".repeat(100));
    // A text is accepted if it could become too long but does not.
    let rare = json!({"type": "Replace", "pattern": {"String": "b."}, "content": "x".repeat(100)});
    assert!(tokens(&of(rare), &"a ".repeat(32_768)).is_ok());
}

#[test]
fn a_table_that_replaces_a_character_by_much_is_refused() {
    let table = |longest: usize| {
        let texts = [&[0u8; 4][..], b"abc\0", "x".repeat(longest).as_bytes(), b"\0"].concat();
        STANDARD.encode(texts)
    };
    let of = |longest| {
        let nested = json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": table(longest)}]});
        check(&file(nested, json!(null), word_piece(100)))
    };
    assert_eq!(of(33), Ok(()));
    let problem = of(100_000).unwrap_err();
    assert!(problem.contains("replaces a character by 100000 bytes, at most 64"), "{problem}");
}

#[test]
fn a_post_processor_that_repeats_the_text_is_refused() {
    let mut repeated: Value = serde_json::from_slice(&file(json!(null), json!(null), word_piece(100))).unwrap();
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    repeated["post_processor"] = json!({
        "type": "TemplateProcessing", "single": vec![text; 1000], "pair": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
        ], "special_tokens": {}
    });
    let problem = bounded(repeated.to_string().as_bytes(), 100).err().unwrap();
    assert!(problem.contains("repeats a text"), "{problem}");
}

#[test]
fn a_word_that_is_slow_is_refused_and_words_are_ended_at_the_deadline() {
    let split = json!({"type": "Whitespace"});
    let slow = bounded(&file(json!(null), split.clone(), word_piece(1_000_000_000)), 65_536).unwrap();
    assert_eq!(tokens(&slow, &"a".repeat(1024)).unwrap().len(), 1024);
    let refused = tokens(&slow, &"a".repeat(1025)).unwrap_err();
    assert!(refused.contains("found a word of 1025 bytes, at most 1024"), "{refused}");
    let usual = bounded(&file(json!(null), split, word_piece(100)), 65_536).unwrap();
    assert_eq!(tokens(&usual, &"a".repeat(65_536)).unwrap(), [0]);
    let ended = usual.tokens("a b", 0, None, Deadline::from_now(Duration::ZERO)).unwrap_err();
    assert!(matches!(Error::from(ended), Error::Expired { .. }));
    // Unigram tries the pieces of its vocabulary at each position.
    let unigram = |longest: usize| {
        let pieces = json!([["<unk>", 0.0], ["a".repeat(longest), -1.0], ["a", -2.0]]);
        let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false});
        bounded(&file(json!(null), json!(null), unigram), 65_536).map(|bounded| bounded.longest_word())
    };
    assert_eq!(unigram(1024), Ok(1 << 16));
    // The vocabulary is a tree that is dropped recursively. This vocabulary would overflow the stack.
    assert!(unigram(1 << 14).unwrap_err().contains("a piece of its vocabulary has 16384 bytes, at most 1024"));
}

#[test]
fn a_regular_expression_that_gives_up_is_a_problem_of_the_text() {
    let split = json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false});
    let by_pre_tokenizer = file(json!(null), split, word_piece(100));
    let replace = json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"});
    let by_normaliser = file(replace, json!(null), word_piece(100));
    for file in [by_pre_tokenizer, by_normaliser] {
        let bounded = bounded(&file, 65_536).unwrap();
        let refused = tokens(&bounded, &format!("{}!", "a".repeat(60))).unwrap_err();
        assert!(refused.contains("a regular expression of the tokenizer gave up on this text"), "{refused}");
        assert!(tokens(&bounded, "ab").is_ok());
    }
}

proptest! {
    /// The bounded tokenizer agrees with `tokenizers` itself: tokens, offsets, special tokens, and truncated parts.
    #[test]
    fn bounds_change_no_token(
        text in "[ab é!]{0,40}|(\\[CLS\\]|ab|\\PC){0,6}", pair in prop::option::of("[ab é!]{0,40}"), most in 4usize..20,
    ) {
        let file = file(json!({"type": "NFKC"}), json!({"type": "BertPreTokenizer"}), word_piece(100));
        let mut alone = Tokenizer::from_bytes(&file).unwrap();
        alone.with_truncation(Some(TruncationParams { max_length: most, ..TruncationParams::default() })).unwrap();
        let theirs = match &pair {
            None => alone.encode(text.as_str(), true).unwrap(),
            Some(pair) => alone.encode((text.as_str(), pair.as_str()), true).unwrap(),
        };
        let bounded = bounded(&file, 65_536).unwrap();
        let never = Deadline::never();
        let first = bounded.tokens(&text, 0, Some(most), never).unwrap();
        let second = pair.as_ref().map(|pair| bounded.tokens(pair, 1, Some(most), never).unwrap());
        let room = most - bounded.special_tokens(pair.is_some());
        let (of_first, of_second) = kept(first.len(), second.as_ref().map(Encoding::len), room);
        let ours = bounded.framed(cut(first, of_first), second.map(|second| cut(second, of_second)), true).unwrap();
        prop_assert_eq!(ours.get_ids(), theirs.get_ids());
        prop_assert_eq!(ours.get_type_ids(), theirs.get_type_ids());
        prop_assert_eq!(ours.get_offsets(), theirs.get_offsets());
        prop_assert_eq!(ours.get_special_tokens_mask(), theirs.get_special_tokens_mask());
        prop_assert_eq!(ours.get_sequence_ids(), theirs.get_sequence_ids());
    }

    #[test]
    fn as_many_tokens_are_kept_as_tokenizers_keeps(first in 0usize..30, second in prop::option::of(0usize..30), most in 1usize..40) {
        let tokens = |count| Encoding::from_tokens(vec![Token::new(0, "a".to_owned(), (0, 1)); count], 0);
        let params = TruncationParams { max_length: most, ..TruncationParams::default() };
        let (one, other) = truncate_encodings(tokens(first), second.map(tokens), &params).unwrap();
        prop_assert_eq!(kept(first, second, most), (one.len(), other.map_or(0, |other| other.len())));
    }
}
