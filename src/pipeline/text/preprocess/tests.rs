//! Tests of `preprocess.rs`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::pipeline::stage_context::of_settings_with;

/// Files of a version with a tokenizer of a few words.
fn files() -> BTreeMap<String, Vec<u8>> {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "ol", "##é", "!"];
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let special = |id: usize| {
        serde_json::json!({
            "id": id, "content": words[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    };
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(0), special(1), special(2), special(3)],
        "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]
        },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab
        }
    });
    [("tokenizer.json".to_owned(), tokenizer.to_string().into_bytes())].into()
}

fn signature(length: Option<usize>) -> Signature {
    let input = |(name, dtype): (&str, DType)| TensorSpec {
        name: name.into(),
        dtype,
        dims: vec![Dim::Dynamic(None), length.map_or(Dim::Dynamic(None), Dim::Fixed)],
    };
    let inputs = [("input_ids", DType::I64), ("attention_mask", DType::I64), ("token_type_ids", DType::I32)];
    Signature { inputs: inputs.into_iter().map(input).collect(), ..Signature::default() }
}

fn stage(settings: &str, length: Option<usize>) -> Result<Box<dyn Preprocessor>, SetupError> {
    of_settings_with(make, &format!(r#"{{"kind": "text"{settings}}}"#), &signature(length), &files())
}

fn prepare(settings: &str, length: Option<usize>, instances: &str) -> Result<Prepared, String> {
    let raw: Box<RawValue> = serde_json::from_str(instances).unwrap();
    let stage = stage(settings, length).map_err(|error| error.to_string())?;
    stage.transform(&raw, Deadline::never()).map_err(|error| error.to_string())
}

#[test]
fn texts_become_rows_as_long_as_the_longest() {
    let prepared = prepare("", None, r#"["The cats sat!", "olé"]"#).unwrap();
    let ids = prepared.inputs.get("input_ids").unwrap();
    assert_eq!(ids.shape(), [2, 7]);
    assert_eq!(ids.values::<i64>().unwrap(), [2, 4, 5, 7, 6, 10, 3, 2, 8, 9, 3, 0, 0, 0]);
    let mask = prepared.inputs.get("attention_mask").unwrap().values::<i64>().unwrap();
    assert_eq!(mask, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    assert_eq!(prepared.features.numbers, [5.0, 0.0, 13.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
    let Origin::Texts(texts) = &prepared.origin else { panic!("{:?}", prepared.origin) };
    assert_eq!(texts[1].spans, [None, Some(0..2), Some(2..4), None]);
    assert_eq!(prepared.origin.tokens(1), Some(4));
}

#[test]
fn a_pair_is_told_apart_by_its_types() {
    let prepared = prepare("", None, r#"[["the cat", "sat on"]]"#).unwrap();
    let types = prepared.inputs.get("token_type_ids").unwrap().values::<i32>().unwrap();
    assert_eq!(types, [0, 0, 0, 0, 1, 1, 1]);
    assert_eq!(prepared.features.numbers, [4.0, 0.25, 13.0, 0.0]);
}

#[test]
fn a_long_text_is_cut_or_refused() {
    let ids = |settings: &str, length| {
        let prepared = prepare(settings, length, r#"["the cat sat the cat sat"]"#)?;
        Ok::<_, String>(prepared.inputs.get("input_ids").unwrap().values::<i64>().unwrap().to_vec())
    };
    assert_eq!(ids(r#", "max_tokens": 4"#, None).unwrap(), [2, 4, 5, 3]);
    assert_eq!(ids("", Some(5)).unwrap(), [2, 4, 5, 6, 3]);
    assert_eq!(ids("", Some(9)).unwrap(), [2, 4, 5, 6, 4, 5, 6, 3, 0]);
    assert_eq!(
        ids(r#", "max_tokens": 4, "too_long": "error""#, None).unwrap_err(),
        "instances[0]: found a text of 8 tokens, at most 4; send a part of it"
    );
    assert!(ids(r#", "max_characters": 9"#, None).unwrap_err().contains("more than 9 characters"));
    assert!(ids(r#", "max_tokens": 9"#, Some(5)).unwrap_err().contains("more than the 5 tokens"));
}

/// Texts that outgrow the model are seen in the features: tokens are counted before the text is truncated.
#[test]
fn the_features_of_a_truncated_text_are_those_of_the_whole_text() {
    let features = |settings: &str, instance: &str| prepare(settings, None, &format!("[{instance}]")).unwrap().features;
    let text = |words: usize| format!("{:?}", "cat ".repeat(words).trim_end());
    for (words, tokens, truncated) in [(2, 2.0, 0.0), (3, 3.0, 1.0), (20, 20.0, 1.0), (32, 32.0, 1.0), (400, 32.0, 1.0)]
    {
        let found = features(r#", "max_tokens": 4"#, &text(words));
        assert_eq!((found.numbers[0], found.numbers[3]), (tokens, truncated), "{words}");
    }
    let pair = features(r#", "max_tokens": 7"#, &format!("[{}, {}]", text(3), text(5)));
    assert_eq!((pair.numbers[0], pair.numbers[3]), (8.0, 1.0));
}

#[test]
fn what_is_no_text_is_refused_where_it_stands() {
    for (instances, problem) in [
        ("[1]", "instances[0]: found the number 1, expected a string, or an array of two"),
        (r#"["a", null]"#, "instances[1]: found null, expected a string, or an array of two"),
        (r#"[["a"]]"#, "instances[0]: found an array of 1, expected a pair of strings"),
        (r#"[["a", 2]]"#, "instances[0][1]: found the number 2, expected a string"),
        (r#"[["a", "b", "c"]]"#, "instances[0][2]: found a third string, expected a pair"),
        (r#"[{"text": "a"}]"#, "instances[0]: found an object, expected a string, or an array of two"),
        (r#""a""#, "instances: found the string \"a\", expected an array of instances"),
        ("[]", "instances: the array is empty; send at least one instance"),
    ] {
        assert_eq!(prepare("", None, instances).unwrap_err(), problem);
    }
    let bare = prepare(r#", "special_tokens": false"#, None, r#"["the", " "]"#).unwrap_err();
    assert_eq!(bare, "instances[1]: found a text without a single token");
}

#[test]
fn settings_that_do_not_fit_say_what_to_change() {
    let problem = |settings: &str| stage(settings, None).err().unwrap().to_string();
    assert!(problem(r#", "tokenizer": "none.json""#).contains("leeway add --file"));
    assert!(problem(r#", "pad_token": "<none>""#).contains("no \"<none>\""));
    assert!(problem(r#", "inputs": {"ids": "tokens"}"#).contains("inputs = { ids = \"input_ids\" }"));
}

proptest! {
    #[test]
    fn whatever_is_sent_becomes_rows_of_one_length(texts in prop::collection::vec(".{0,40}", 1..5)) {
        let prepared = prepare("", None, &serde_json::to_string(&texts).unwrap()).unwrap();
        for (_, tensor) in prepared.inputs.iter() {
            prop_assert_eq!(tensor.rows(), texts.len());
        }
        let mask = prepared.inputs.get("attention_mask").unwrap();
        for (row, values) in mask.values::<i64>().unwrap().chunks(mask.row_len()).enumerate() {
            prop_assert_eq!(values.iter().sum::<i64>() as usize, prepared.origin.tokens(row).unwrap());
        }
    }
}
