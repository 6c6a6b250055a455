//! `kind = "token-classifier"`: converts scores per token to entities, the parts of a text that name a person, a place
//! or a price.
//!
//! Labels in the form `B-city`, `I-city` (Ramshaw & Marcus, 1995) mark where a part begins: consecutive tokens of one
//! kind are one part, and `B-` begins a new one. A label in any other form is itself the kind. The score of a part is
//! the mean of the scores of its tokens.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result, SetupError};
use crate::pipeline::classify::labels::Labels;
use crate::pipeline::classify::scores::{ScoreSettings, Scores, ScoresOfModel, check_threshold, softmax, wrong_labels};
use crate::pipeline::json_schema::{label, object};
use crate::pipeline::outputs::{output, refuse_improbable, refuse_non_finite, unexpected_shape};
use crate::pipeline::{Entity, Label, Origin, Postprocessor, Prediction, StageContext, TokenisedText};
use crate::tensor::{Dim, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with one row of scores per token; by default, the only floating-point output.
    output: Option<String>,
    /// Kind of the scores; required.
    scores: Option<Scores>,
    /// The labels in the order of the scores, or a file with them; required.
    labels: Option<Labels>,
    /// Labels of the tokens that are outside of any part.
    #[serde(default = "outside")]
    ignore: Vec<Label>,
    /// Minimum score of a part of the text. Parts with a lower score are left out.
    #[serde(default)]
    threshold: f32,
}

fn outside() -> Vec<Label> {
    vec![Label::Text("O".into())]
}

struct TokenClassifier {
    output: Arc<str>,
    scores: Scores,
    /// Meaning of each label for its token.
    meanings: Vec<Meaning>,
    threshold: f32,
}

/// Meaning of a label for its token.
#[derive(Debug, Clone, PartialEq)]
enum Meaning {
    /// The token is outside of any part.
    Outside,
    /// The token is in a part of this kind; `begins` is true if it always begins a new part.
    Part { kind: Label, begins: bool },
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let Settings { output, scores, labels, ignore, threshold } = context.config.settings()?;
    check_threshold(threshold)?;
    let ScoresOfModel { output, scores, labels } = ScoreSettings { output, scores, labels }.find(&context)?;
    let labels = labels.ok_or_else(|| {
        SetupError::Config("labels: name them in the order of the scores, or a file with them".to_owned())
    })?;
    match context.signature.output(&output).map(|spec| &*spec.dims) {
        None | Some([_, _, Dim::Dynamic(_)]) => {}
        Some([_, _, Dim::Fixed(classes)]) if *classes == labels.len() => {}
        Some([_, _, Dim::Fixed(classes)]) => {
            return Err(wrong_labels(&labels, &output, &format!("{classes} scores a token")));
        }
        Some(dims) => {
            return Err(SetupError::Config(format!(
                "output: {output:?} has {} dimensions; scores per token have three: rows, tokens, labels",
                dims.len()
            )));
        }
    }
    let meanings = labels.into_iter().map(|label| Meaning::of(label, &ignore)).collect();
    Ok(Box::new(TokenClassifier { output, scores, meanings, threshold }))
}

impl Meaning {
    fn of(label: Label, ignored: &[Label]) -> Meaning {
        if ignored.contains(&label) {
            return Meaning::Outside;
        }
        let prefixed = match &label {
            Label::Text(text) => text.split_once('-').filter(|(prefix, _)| ["B", "I"].contains(prefix)),
            Label::Number(_) => None,
        };
        match prefixed {
            Some((prefix, kind)) => Meaning::Part { begins: prefix == "B", kind: Label::Text(kind.into()) },
            None => Meaning::Part { kind: label, begins: false },
        }
    }
}

impl Postprocessor for TokenClassifier {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(vec![Arc::clone(&self.output)])
    }

    fn prediction_schema(&self) -> Value {
        let mut kinds: Vec<Label> = Vec::new();
        for meaning in &self.meanings {
            match meaning {
                Meaning::Part { kind, .. } if !kinds.contains(kind) => kinds.push(kind.clone()),
                Meaning::Part { .. } | Meaning::Outside => {}
            }
        }
        let position = || json!({ "type": "integer", "minimum": 0 });
        let entity = object([
            ("label", label(Some(&kinds))),
            ("score", json!({ "type": "number" })),
            ("start", position()),
            ("end", position()),
            ("text", json!({ "type": "string" })),
        ]);
        object([("entities", json!({ "type": "array", "items": entity }))])
    }

    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>> {
        let tensor = output(outputs, &self.output)?;
        refuse_non_finite(&self.output, tensor)?;
        let values = tensor.to_f32().ok_or_else(|| Error::internal("a token classifier's scores are not floats"))?;
        let &[rows, tokens, classes] = tensor.shape() else {
            return Err(unexpected_shape(&self.output, tensor, "[rows, tokens, labels]"));
        };
        if classes != self.meanings.len() {
            let problem = format!("has {classes} scores per token, but there are {} labels", self.meanings.len());
            return Err(Error::UnusableOutput { output: self.output.to_string(), problem });
        }
        let none: &[TokenisedText] = &[];
        if self.scores == Scores::Probabilities {
            refuse_improbable(&self.output, &values)?;
        }
        // The warm-up run has tokens without texts.
        let texts = if let Origin::Texts(texts) = origin { texts } else { none };
        let entities = |row: usize| {
            let scores = &values[row * tokens * classes..(row + 1) * tokens * classes];
            Prediction::Entities(texts.get(row).map(|text| self.entities(text, scores)).unwrap_or_default())
        };
        Ok((0..rows).map(entities).collect())
    }
}

/// Part of a text whose tokens become one entity, as far as the tokens were read.
struct Part<'a> {
    kind: &'a Label,
    start: usize,
    end: usize,
    scores: f64,
    tokens: usize,
}

impl TokenClassifier {
    fn entities(&self, text: &TokenisedText, scores: &[f32]) -> Vec<Entity> {
        let mut parts: Vec<Part<'_>> = Vec::new();
        let mut is_open = false;
        let mut probabilities = Vec::with_capacity(self.meanings.len());
        for (span, scores) in text.spans.iter().zip(scores.chunks_exact(self.meanings.len())) {
            // A special token is not in any part, and does not end one.
            let Some(span) = span.as_ref().filter(|span| !span.is_empty()) else { continue };
            let Some((meaning, score)) = self.best(scores, &mut probabilities) else { continue };
            let Meaning::Part { kind, begins } = meaning else {
                is_open = false;
                continue;
            };
            match parts.last_mut() {
                Some(last) if is_open && !begins && last.kind == kind => {
                    last.end = span.end;
                    last.scores += score;
                    last.tokens += 1;
                }
                _ => parts.push(Part { kind, start: span.start, end: span.end, scores: score, tokens: 1 }),
            }
            is_open = true;
        }
        let mut characters = Characters { text: &text.text, bytes: 0, count: 0 };
        let entity = |part: Part<'_>| {
            let score = (part.scores / part.tokens as f64) as f32;
            let (start, end) = (characters.before(part.start), characters.before(part.end));
            let shown = text.text.get(part.start..part.end).unwrap_or_default().to_owned();
            Entity { label: part.kind.clone(), score, start, end, text: shown }
        };
        let mut entities: Vec<Entity> = parts.into_iter().map(entity).collect();
        entities.retain(|entity| entity.score >= self.threshold);
        entities
    }

    /// Returns the meaning of a token's most probable label, and its probability.
    fn best(&self, scores: &[f32], probabilities: &mut Vec<f64>) -> Option<(&Meaning, f64)> {
        match self.scores {
            Scores::Logits => softmax(scores, 1.0, probabilities),
            Scores::Probabilities => {
                probabilities.clear();
                probabilities.extend(scores.iter().map(|score| f64::from(*score)));
            }
        }
        let best = probabilities.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1))?;
        Some((self.meanings.get(best.0)?, *best.1))
    }
}

/// Counts the characters before a position in a text. Fast if the positions increase from call to call.
struct Characters<'a> {
    text: &'a str,
    bytes: usize,
    count: usize,
}

impl Characters<'_> {
    fn before(&mut self, bytes: usize) -> usize {
        if bytes < self.bytes {
            (self.bytes, self.count) = (0, 0);
        }
        self.count += self.text.get(self.bytes..bytes).map_or(0, |passed| passed.chars().count());
        self.bytes = bytes;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::stage_context::of_settings;
    use crate::tensor::{DType, Data, Signature, Tensor, TensorSpec};

    const LABELS: [&str; 5] = ["O", "B-city", "I-city", "B-name", "I-name"];

    fn signature() -> Signature {
        let dims = vec![Dim::Dynamic(None), Dim::Dynamic(None), Dim::Fixed(LABELS.len())];
        Signature { outputs: vec![TensorSpec { name: "p".into(), dtype: DType::F32, dims }], ..Signature::default() }
    }

    /// Returns the entities of a text whose tokens are its words. `labels` has a label for each word, with a
    /// probability of 0.75.
    fn entities(text: &str, labels: &[usize], more: &str) -> String {
        let mut at = 0;
        let words = text.split(' ').map(|word| {
            let start = at;
            at += word.len() + 1;
            Some(start..start + word.len())
        });
        let spans: Vec<_> = [None].into_iter().chain(words).chain([None]).collect();
        let tokens = [&[1], labels, &[1]].concat();
        assert_eq!(spans.len(), tokens.len());
        let score = |(token, label): (usize, usize)| if tokens[token] == label { 0.75 } else { 0.0625 };
        let scores = (0..tokens.len()).flat_map(|token| (0..LABELS.len()).map(move |label| (token, label))).map(score);
        let tensor = Tensor::new(vec![1, tokens.len(), LABELS.len()], Data::F32(scores.collect())).unwrap();
        let settings = serde_json::json!({ "kind": "token-classifier", "scores": "probabilities", "labels": LABELS });
        let mut settings = settings.to_string();
        settings.insert_str(settings.len() - 1, more);
        let stage = of_settings(make, &settings, &signature()).unwrap();
        let origin = Origin::Texts(vec![TokenisedText { text: text.to_owned(), spans }]);
        let outputs = [("p".into(), tensor)].into_iter().collect();
        serde_json::to_string(&stage.decode(&outputs, &origin).unwrap()[0]).unwrap()
    }

    #[test]
    fn tokens_of_one_kind_are_one_part_with_its_place_in_characters() {
        assert_eq!(
            entities("Zoë flog nach Den Haag", &[3, 0, 0, 1, 2], ""),
            r#"{"entities":[{"label":"name","score":0.75,"start":0,"end":3,"text":"Zoë"},{"label":"city","score":0.75,"start":14,"end":22,"text":"Den Haag"}]}"#
        );
        // `B-` begins a new part.
        assert_eq!(
            entities("Bonn Köln", &[1, 1], ""),
            r#"{"entities":[{"label":"city","score":0.75,"start":0,"end":4,"text":"Bonn"},{"label":"city","score":0.75,"start":5,"end":9,"text":"Köln"}]}"#
        );
        assert_eq!(entities("Bonn", &[0], ""), r#"{"entities":[]}"#);
        assert_eq!(entities("Bonn", &[1], r#", "threshold": 0.9"#), r#"{"entities":[]}"#);
    }

    #[test]
    fn labels_that_do_not_fit_are_refused() {
        let problem = |settings: &str| of_settings(make, settings, &signature()).err().unwrap().to_string();
        assert!(problem(r#"{"kind": "token-classifier", "scores": "logits"}"#).contains("labels: name them"));
        let two = problem(r#"{"kind": "token-classifier", "scores": "logits", "labels": ["O", "B-x"]}"#);
        assert_eq!(two, "labels: there are 2, but the output \"p\" has 5 scores a token");
    }

    proptest! {
        #[test]
        fn every_part_is_found_at_its_place(words in prop::collection::vec("[a-zäß€😀]{1,5}", 1..8), seed in 0usize..9999) {
            let labels: Vec<usize> = (0..words.len()).map(|word| (seed / (word + 1)) % LABELS.len()).collect();
            let text = words.join(" ");
            let answer: serde_json::Value = serde_json::from_str(&entities(&text, &labels, "")).unwrap();
            let characters: Vec<char> = text.chars().collect();
            for entity in answer["entities"].as_array().unwrap() {
                let place = entity["start"].as_u64().unwrap() as usize..entity["end"].as_u64().unwrap() as usize;
                prop_assert_eq!(characters[place].iter().collect::<String>(), entity["text"].as_str().unwrap());
            }
        }
    }
}
