//! The files beside a model of Hugging Face: `config.json`, `tokenizer_config.json`, `preprocessor_config.json`, and
//! those of sentence-transformers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// `config.json`: the architecture of the model, and the names of its classes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ModelConfigFile {
    architectures: Option<Vec<String>>,
    pub(super) model_type: Option<String>,
    id2label: Option<BTreeMap<String, String>>,
    pub(super) problem_type: Option<String>,
    max_position_embeddings: Option<usize>,
}

/// `tokenizer_config.json`, and `sentence_bert_config.json`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TokenizerConfigFile {
    /// Maximum number of tokens. Very large, as a float, if there is none.
    model_max_length: Option<f64>,
    /// A text, or an object with the text as `content`.
    pad_token: Option<Value>,
    /// Maximum number of tokens in sentence-transformers.
    max_seq_length: Option<usize>,
    /// True if sentence-transformers puts texts in lower case before they are tokenised.
    do_lower_case: Option<bool>,
}

/// `config_sentence_transformers.json`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct PromptsFile {
    /// Name of the prompt that is put before each text.
    default_prompt_name: Option<String>,
}

/// `1_Pooling/config.json` of sentence-transformers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct PoolingFile {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_lasttoken: bool,
}

/// A module in `modules.json` of sentence-transformers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct SentenceModule {
    r#type: String,
}

/// All of these files that are beside a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct HuggingFaceFiles {
    pub(super) config: Option<ModelConfigFile>,
    pub(super) tokenizer_config: Option<TokenizerConfigFile>,
    pub(super) sentence_config: Option<TokenizerConfigFile>,
    pub(super) prompts: Option<PromptsFile>,
    pub(super) pooling: Option<PoolingFile>,
    pub(super) modules: Option<Vec<SentenceModule>>,
    /// `preprocessor_config.json`.
    pub(super) image_processor: Option<serde_json::Map<String, Value>>,
}

/// Families of models whose position embeddings begin after two positions for padding.
const SHIFTED_POSITIONS: [&str; 8] =
    ["roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "roberta-prelayernorm", "xlm-roberta-xl", "xmod"];

/// Largest number of tokens that counts as a limit. Tokenizers without one say 10³⁰.
const MAX_TOKENS: f64 = 1e6;

impl ModelConfigFile {
    /// Returns the architecture, as in `BertForSequenceClassification`.
    pub(super) fn architecture(&self) -> Option<&str> {
        self.architectures.as_ref()?.first().map(String::as_str)
    }

    /// Returns true if the name of the architecture ends like this.
    pub(super) fn is_for(&self, task: &str) -> bool {
        self.architecture().is_some_and(|architecture| architecture.ends_with(task))
    }

    /// Returns the names of the classes in the order of the scores, if there is one for each.
    pub(super) fn labels(&self) -> Option<Vec<&str>> {
        let names = self.id2label.as_ref().filter(|names| !names.is_empty())?;
        (0..names.len()).map(|class| names.get(&class.to_string()).map(String::as_str)).collect()
    }
}

impl HuggingFaceFiles {
    /// Returns the maximum number of tokens of a text, and the file that says it.
    pub(super) fn max_tokens(&self) -> Option<(usize, &'static str)> {
        let of_sentences = self.sentence_config.as_ref().and_then(|config| config.max_seq_length);
        let of_tokenizer = self.tokenizer_config.as_ref().and_then(|config| config.model_max_length);
        let of_tokenizer = of_tokenizer.filter(|most| (1.0..=MAX_TOKENS).contains(most)).map(|most| most as usize);
        let of_model = self.config.as_ref().and_then(ModelConfigFile::positions);
        let most = |file: &'static str, tokens: usize| (tokens.min(of_model.unwrap_or(usize::MAX)), file);
        let found = of_sentences.map(|tokens| most("sentence_bert_config.json", tokens));
        let found = found.or_else(|| of_tokenizer.map(|tokens| most("tokenizer_config.json", tokens)));
        found.or_else(|| of_model.map(|tokens| (tokens, "config.json"))).filter(|(tokens, _)| *tokens > 0)
    }

    /// Returns a step that sentence-transformers takes before the tokenizer, and that Leeway leaves to the client.
    pub(super) fn step_before_tokenizer(&self) -> Option<String> {
        let lowers = self.sentence_config.as_ref().is_some_and(|config| config.do_lower_case == Some(true));
        let prompt = self.prompts.as_ref().and_then(|prompts| prompts.default_prompt_name.as_deref());
        match (prompt, lowers) {
            (Some(prompt), _) => {
                Some(format!("puts the prompt {prompt:?} of config_sentence_transformers.json before each text"))
            }
            (None, true) => Some("puts texts in lower case (do_lower_case in sentence_bert_config.json)".to_owned()),
            (None, false) => None,
        }
    }

    /// Returns the padding token.
    pub(super) fn pad_token(&self) -> Option<&str> {
        let token = self.tokenizer_config.as_ref()?.pad_token.as_ref()?;
        token.as_str().or_else(|| token.get("content")?.as_str())
    }

    /// Returns the pooling of sentence-transformers, if it is one that Leeway has, and if nothing but a normalisation
    /// follows it. The second value is true if vectors are normalised.
    pub(super) fn pooling(&self) -> Option<(&'static str, bool)> {
        let PoolingFile {
            pooling_mode_cls_token: cls,
            pooling_mode_mean_tokens: mean,
            pooling_mode_max_tokens: max,
            pooling_mode_mean_sqrt_len_tokens: sqrt,
            pooling_mode_weightedmean_tokens: weighted,
            pooling_mode_lasttoken: last,
        } = self.pooling.clone()?;
        let pooling = match (cls, mean, max, sqrt || weighted || last) {
            (true, false, false, false) => "cls",
            (false, true, false, false) => "mean",
            (false, false, true, false) => "max",
            _ => return None,
        };
        let kind = |module: &SentenceModule| module.r#type.rsplit('.').next().unwrap_or_default().to_owned();
        let modules: Vec<String> = self.modules.as_ref()?.iter().map(kind).collect();
        match &*modules.iter().map(String::as_str).collect::<Vec<_>>() {
            ["Transformer", "Pooling"] => Some((pooling, false)),
            ["Transformer", "Pooling", "Normalize"] => Some((pooling, true)),
            _ => None,
        }
    }
}

impl ModelConfigFile {
    fn positions(&self) -> Option<usize> {
        let positions = self.max_position_embeddings?;
        let is_shifted = self.model_type.as_deref().is_some_and(|kind| SHIFTED_POSITIONS.contains(&kind));
        Some(if is_shifted { positions.saturating_sub(2) } else { positions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(config: &str, tokenizer: &str, sentence: &str) -> HuggingFaceFiles {
        HuggingFaceFiles {
            config: serde_json::from_str(config).ok(),
            tokenizer_config: serde_json::from_str(tokenizer).ok(),
            sentence_config: serde_json::from_str(sentence).ok(),
            ..HuggingFaceFiles::default()
        }
    }

    #[test]
    fn the_maximum_number_of_tokens_is_the_one_that_the_library_uses() {
        let bert = r#"{"model_type": "bert", "max_position_embeddings": 512}"#;
        let roberta = r#"{"model_type": "roberta", "max_position_embeddings": 514}"#;
        for (config, tokenizer, sentence, expected) in [
            (bert, "", "", Some((512, "config.json"))),
            (roberta, "", "", Some((512, "config.json"))),
            (bert, r#"{"model_max_length": 128}"#, "", Some((128, "tokenizer_config.json"))),
            (bert, r#"{"model_max_length": 1000000000000000019884624838656}"#, "", Some((512, "config.json"))),
            (bert, r#"{"model_max_length": 8192}"#, "", Some((512, "tokenizer_config.json"))),
            (
                bert,
                r#"{"model_max_length": 512}"#,
                r#"{"max_seq_length": 256}"#,
                Some((256, "sentence_bert_config.json")),
            ),
            ("{}", "{}", "", None),
        ] {
            assert_eq!(files(config, tokenizer, sentence).max_tokens(), expected, "{config} {tokenizer} {sentence}");
        }
    }

    #[test]
    fn steps_before_the_tokenizer_are_found() {
        let step = |sentence: &str, prompts: &str| {
            let prompts = serde_json::from_str(prompts).ok();
            HuggingFaceFiles { prompts, ..files("", "", sentence) }.step_before_tokenizer()
        };
        assert_eq!(step(r#"{"do_lower_case": false}"#, r#"{"prompts": {}, "default_prompt_name": null}"#), None);
        let lowers = step(r#"{"do_lower_case": true}"#, "").unwrap();
        assert!(lowers.contains("lower case"), "{lowers}");
        let prompt = step("", r#"{"prompts": {"query": "query: "}, "default_prompt_name": "query"}"#).unwrap();
        assert!(prompt.contains("the prompt \"query\""), "{prompt}");
    }

    #[test]
    fn labels_are_in_the_order_of_the_scores() {
        let labels = |text: &str| {
            let config: ModelConfigFile = serde_json::from_str(text).unwrap();
            config.labels().map(|labels| labels.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        let many: BTreeMap<String, String> = (0..12).map(|class| (class.to_string(), format!("c{class}"))).collect();
        let many = serde_json::json!({ "id2label": many }).to_string();
        assert_eq!(labels(&many).unwrap()[10], "c10");
        assert_eq!(labels(r#"{"id2label": {"1": "b", "2": "c"}}"#), None);
        assert_eq!(labels(r#"{"id2label": null, "architectures": null}"#), None);
    }

    #[test]
    fn only_a_pooling_that_leeway_has_is_taken() {
        let pooling = |pooling: &str, modules: &str| {
            let files = HuggingFaceFiles {
                pooling: serde_json::from_str(pooling).ok(),
                modules: serde_json::from_str(modules).ok(),
                ..HuggingFaceFiles::default()
            };
            files.pooling()
        };
        let module = |kind: &str| format!(r#"{{"type": "sentence_transformers.models.{kind}"}}"#);
        let modules =
            |kinds: &[&str]| format!("[{}]", kinds.iter().map(|kind| module(kind)).collect::<Vec<_>>().join(","));
        let mean = r#"{"pooling_mode_mean_tokens": true}"#;
        let plain = modules(&["Transformer", "Pooling"]);
        assert_eq!(pooling(mean, &plain), Some(("mean", false)));
        assert_eq!(pooling(mean, &modules(&["Transformer", "Pooling", "Normalize"])), Some(("mean", true)));
        assert_eq!(pooling(mean, &modules(&["Transformer", "Pooling", "Dense"])), None);
        assert_eq!(pooling(r#"{"pooling_mode_lasttoken": true}"#, &plain), None);
        assert_eq!(pooling(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}"#, &plain), None);
        assert_eq!(pooling(mean, ""), None);
    }
}
