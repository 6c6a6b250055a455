//! A `leeway` with stages of its own: implement a trait, register a name, use it in `model.toml`
//! (`examples/models/drawings`). The preprocessor reads a digit drawn with 64 characters; the postprocessor gives the
//! probability that it is even. The model is a shipped one.
//!
//!     cargo run --example custom_stage -- serve --models examples/models
//!     curl http://127.0.0.1:8080/predict -H 'content-type: application/json' -d '{"instances": ["...##......##.....#.......#.......####....##..#...##.##....####."]}'
use leeway::budget::Deadline;
use leeway::error::{Error, Result};
use leeway::feature::{FeatureSchema, Features};
use leeway::pipeline::{Origin, Postprocessor, Prediction, Prepared, Preprocessor, Stages};
use leeway::tensor::{Data, Tensor, Tensors};
use serde_json::value::RawValue;

/// Each instance is a string of 64 characters: `#` is ink, anything else is paper.
struct Drawing;

impl Preprocessor for Drawing {
    fn transform(&self, instances: &RawValue, _: Deadline) -> Result<Prepared> {
        let drawings: Vec<String> = serde_json::from_str(instances.get())
            .map_err(|error| Error::InvalidInput(format!("instances: {error}")))?;
        if let Some(bad) = drawings.iter().position(|drawing| drawing.chars().count() != 64) {
            return Err(Error::InvalidInput(format!("instances[{bad}]: expected 64 characters")));
        }
        let ink = |character| if character == '#' { 16.0f32 } else { 0.0 };
        let pixels = drawings.iter().flat_map(|drawing| drawing.chars().map(ink)).collect();
        let inputs =
            [("pixels".into(), Tensor::new(vec![drawings.len(), 64], Data::F32(pixels))?)].into_iter().collect();
        let mut features = Features::with_rows(drawings.len());
        features.numbers = drawings.iter().map(|drawing| drawing.matches('#').count() as f32).collect();
        Ok(Prepared { inputs, features, origin: Origin::Unknown })
    }

    /// The feature that drift is measured on: the amount of ink.
    fn features(&self) -> FeatureSchema {
        FeatureSchema { numbers: vec!["ink".into()], texts: Vec::new() }
    }
}

/// The probability that the digit is even.
struct Even;

impl Postprocessor for Even {
    fn decode(&self, outputs: &Tensors, _: &Origin) -> Result<Vec<Prediction>> {
        let scores = outputs.get("probabilities").and_then(|tensor| tensor.values::<f32>());
        let scores = scores.ok_or_else(|| Error::internal("the model has no float32 output \"probabilities\""))?;
        let even = |row: &[f32]| serde_json::json!({ "even": row.iter().step_by(2).sum::<f32>() });
        Ok(scores.chunks_exact(10).map(even).map(Prediction::Json).collect())
    }
}

/// The built-in kinds and these two. The function that makes a stage gets its settings, the model's signature and the
/// version's files.
pub(crate) fn stages() -> Stages {
    Stages::default()
        .with_preprocessor("drawing", |_| Ok(Box::new(Drawing)))
        .with_postprocessor("even", |_| Ok(Box::new(Even)))
}

fn main() -> std::process::ExitCode {
    leeway::cli::main_with(stages())
}
