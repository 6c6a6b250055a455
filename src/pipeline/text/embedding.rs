//! `kind = "embedding"`: answers one vector per row, pooled over the tokens if the model returns a vector per token.
//!
//! Mean pooling is Σ_t v_t / T over the T tokens of a row, without padding (Reimers & Gurevych, "Sentence-BERT", 2019);
//! normalising divides by √Σ v².

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result, SetupError};
use crate::pipeline::json_schema::{nested, object};
use crate::pipeline::outputs::{float_output, output, refuse_non_finite, unexpected_shape};
use crate::pipeline::{Origin, Postprocessor, Prediction, PredictionKind, StageContext};
use crate::tensor::{Dim, Tensor, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with the vectors; by default, the only floating-point output.
    output: Option<String>,
    /// Pooling of the vectors of a row's tokens; required if the output has a vector per token.
    pooling: Option<Pooling>,
    /// True if vectors are normalised to length 1. The dot product of two such vectors is the cosine of their angle.
    normalise: Option<bool>,
}

/// Method of pooling the vectors of a row's tokens into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pooling {
    /// The mean of the vectors.
    Mean,
    /// The vector of the first token.
    Cls,
    /// The maximum of the vectors at each position.
    Max,
}

/// Minimum divisor of the normalisation, as in sentence-transformers. It avoids a division by zero.
const MIN_NORM: f64 = 1e-12;

struct Embedding {
    output: Arc<str>,
    /// Length of a vector, as the model declares it.
    width: Dim,
    pooling: Option<Pooling>,
    normalise: bool,
    /// True if `normalise` is not set.
    is_normalised_by_default: bool,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let Settings { output, pooling, normalise } = context.config.settings()?;
    let output = float_output(context.signature, output.as_deref(), "vectors")?;
    let declared = context.signature.output(&output);
    let dims = declared.map_or(0, |spec| spec.dims.len());
    let width = declared.and_then(|spec| spec.dims.last().cloned()).unwrap_or(Dim::Dynamic(None));
    let wrong = |problem: String| Err(SetupError::Config(problem));
    match (dims, pooling) {
        (0, _) | (2, None) | (3, Some(_)) => {}
        (3, None) => {
            return wrong(format!(
                "pooling: {output:?} has a vector per token; say how they are pooled: \"mean\", \"cls\" or \"max\""
            ));
        }
        (2, Some(_)) => {
            return wrong(format!("pooling: {output:?} has one vector per row already; leave it out"));
        }
        (other, _) => {
            return wrong(format!("output: {output:?} has {other} dimensions; vectors have two, or three per token"));
        }
    }
    let is_normalised_by_default = normalise.is_none();
    let normalise = normalise.unwrap_or(true);
    Ok(Box::new(Embedding { output, width, pooling, normalise, is_normalised_by_default }))
}

impl Postprocessor for Embedding {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(vec![Arc::clone(&self.output)])
    }

    fn prediction_kind(&self) -> PredictionKind {
        PredictionKind::Embedding
    }

    fn prediction_schema(&self) -> Value {
        object([("embedding", nested(std::slice::from_ref(&self.width), json!({ "type": "number" })))])
    }

    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>> {
        let tensor = output(outputs, &self.output)?;
        refuse_non_finite(&self.output, tensor)?;
        let (tokens, width) = self.shape(tensor)?;
        let values = tensor.to_f32().ok_or_else(|| Error::internal("an embedding's values are not floats"))?;
        let rows = values.chunks_exact((tokens * width).max(1)).enumerate();
        let embedding = |(row, values): (usize, &[f32])| {
            let tokens = origin.tokens(row).unwrap_or(tokens).clamp(1, tokens);
            let mut vector = self.pool(&values[..tokens * width], width);
            if self.normalise {
                normalise(&mut vector);
            }
            Prediction::Embedding(vector)
        };
        Ok(rows.map(embedding).collect())
    }

    fn assumptions(&self) -> Vec<String> {
        let made_one_long = "vectors are normalised to length 1, because [postprocess] does not say normalise = false";
        self.is_normalised_by_default.then(|| made_one_long.to_owned()).into_iter().collect()
    }
}

impl Embedding {
    /// Returns the number of vectors in a row, and the length of a vector.
    fn shape(&self, tensor: &Tensor) -> Result<(usize, usize)> {
        match (tensor.shape(), self.pooling) {
            (&[_, width], None) if width > 0 => Ok((1, width)),
            (&[_, tokens, width], Some(_)) if tokens > 0 && width > 0 => Ok((tokens, width)),
            (_, None) => Err(unexpected_shape(&self.output, tensor, "[rows, width]")),
            (_, Some(_)) => Err(unexpected_shape(&self.output, tensor, "[rows, tokens, width]")),
        }
    }

    /// Pools the vectors of a row's tokens into one vector.
    fn pool(&self, values: &[f32], width: usize) -> Vec<f32> {
        let mut tokens = values.chunks_exact(width);
        let mut pooled = tokens.next().unwrap_or_default().to_vec();
        match self.pooling {
            None | Some(Pooling::Cls) => {}
            Some(Pooling::Max) => {
                for token in tokens {
                    pooled.iter_mut().zip(token).for_each(|(most, value)| *most = most.max(*value));
                }
            }
            Some(Pooling::Mean) => {
                for token in tokens {
                    pooled.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
                }
                let count = (values.len() / width) as f32;
                pooled.iter_mut().for_each(|sum| *sum /= count);
            }
        }
        pooled
    }
}

fn normalise(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let norm = squares.sqrt().max(MIN_NORM);
    vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::TokenisedText;
    use crate::pipeline::stage_context::of_settings;
    use crate::tensor::{DType, Data, Dim, Signature, TensorSpec};

    fn signature(dims: usize) -> Signature {
        let spec = TensorSpec { name: "v".into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None); dims] };
        Signature { outputs: vec![spec], ..Signature::default() }
    }

    fn texts(tokens: &[usize]) -> Origin {
        let text = |&tokens: &usize| TokenisedText { text: String::new(), spans: vec![None; tokens] };
        Origin::Texts(tokens.iter().map(text).collect())
    }

    fn embed(settings: &str, shape: &[usize], values: Vec<f32>, origin: &Origin) -> Vec<Vec<f32>> {
        let settings = format!(r#"{{"kind": "embedding", {settings}}}"#);
        let stage = of_settings(make, &settings, &signature(shape.len())).unwrap();
        let outputs = [("v".into(), Tensor::new(shape.to_vec(), Data::F32(values)).unwrap())].into_iter().collect();
        let vector = |prediction| match prediction {
            Prediction::Embedding(vector) => vector,
            other => panic!("{other:?}"),
        };
        stage.decode(&outputs, origin).unwrap().into_iter().map(vector).collect()
    }

    #[test]
    fn vectors_of_tokens_become_one() {
        let values = || vec![3.0, 4.0, 5.0, 0.0, -9.0, 9.0];
        let two_of_three = texts(&[2]);
        let pooled = |settings: &str, origin: &Origin| embed(settings, &[1, 3, 2], values(), origin).remove(0);
        assert_eq!(pooled(r#""pooling": "mean", "normalise": false"#, &two_of_three), [4.0, 2.0]);
        assert_eq!(pooled(r#""pooling": "max", "normalise": false"#, &two_of_three), [5.0, 4.0]);
        assert_eq!(pooled(r#""pooling": "cls""#, &two_of_three), [0.6, 0.8]);
        // All tokens of a row of unknown origin count.
        assert_eq!(pooled(r#""pooling": "max", "normalise": false"#, &Origin::Unknown), [5.0, 9.0]);
        assert_eq!(embed(r#""normalise": true"#, &[1, 2], vec![3.0, 4.0], &Origin::Unknown), [[0.6, 0.8]]);
        assert_eq!(embed(r#""normalise": true"#, &[1, 2], vec![0.0, 0.0], &Origin::Unknown), [[0.0, 0.0]]);
    }

    #[test]
    fn pooling_is_said_where_it_is_needed() {
        let problem = |settings: &str, dims| of_settings(make, settings, &signature(dims)).err().unwrap().to_string();
        assert!(problem(r#"{"kind": "embedding"}"#, 3).contains("say how they are pooled"));
        assert!(problem(r#"{"kind": "embedding", "pooling": "cls"}"#, 2).contains("leave it out"));
        assert!(problem(r#"{"kind": "embedding"}"#, 4).contains("4 dimensions"));
    }

    proptest! {
        #[test]
        fn what_was_filled_up_changes_nothing(
            tokens in prop::collection::vec(prop::array::uniform3(-9f32..9.0), 1..6), more in 0usize..4,
            pooling in prop::sample::select(vec!["mean", "cls", "max"]),
        ) {
            let settings = format!(r#""pooling": "{pooling}""#);
            let (count, values) = (tokens.len(), tokens.concat());
            let alone = embed(&settings, &[1, count, 3], values.clone(), &texts(&[count]));
            let padded = [values, vec![7.0; 3 * more]].concat();
            prop_assert_eq!(&embed(&settings, &[1, count + more, 3], padded, &texts(&[count])), &alone);
            let norm: f32 = alone[0].iter().map(|value| value * value).sum();
            prop_assert!((norm - 1.0).abs() < 1e-5 || norm == 0.0);
        }
    }
}
