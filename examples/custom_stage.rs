//! Stages of your own: implement a trait, register a name, use it in `model.toml` (`examples/models/drawings`).
//!
//!     cargo run --example custom_stage -- serve --models examples/models
//!     curl http://127.0.0.1:8080/predict -d '{"instances": ["...##......##.....#.......#.......####....##..#...##.##....####."]}'
//!
//! The preprocessor reads a digit drawn with 64 characters, `#` for ink, in place of numbers. The postprocessor
//! answers whether the digit is even. The model in between is the shipped one, untouched.

use std::sync::Arc;

use leeway::error::{Error, Result};
use leeway::feature::{FeatureSchema, Features};
use leeway::pipeline::{Origin, Postprocessor, Prediction, Prepared, Preprocessor, StageContext, Stages};
use leeway::tensor::{Data, Tensor, Tensors};
use serde_json::value::RawValue;

/// Each instance is a string of 64 characters: `#` is ink, anything else is paper.
struct Drawing {
    input: Arc<str>,
}

impl Preprocessor for Drawing {
    fn transform(&self, instances: &RawValue) -> Result<Prepared> {
        let drawings: Vec<String> = serde_json::from_str(instances.get())
            .map_err(|error| Error::InvalidInput(format!("instances: {error}")))?;
        let mut pixels = Vec::with_capacity(64 * drawings.len());
        for (index, drawing) in drawings.iter().enumerate() {
            pixels.extend(drawing.chars().map(|c| if c == '#' { 16.0f32 } else { 0.0 }));
            if pixels.len() != 64 * (index + 1) {
                return Err(Error::InvalidInput(format!("instances[{index}]: expected 64 characters")));
            }
        }
        let tensor = Tensor::new(vec![drawings.len(), 64], Data::F32(pixels))?;
        let mut features = Features::with_rows(drawings.len());
        features.numbers = drawings.iter().map(|drawing| drawing.matches('#').count() as f32).collect();
        Ok(Prepared {
            inputs: [(Arc::clone(&self.input), tensor)].into_iter().collect(),
            features,
            origin: Origin::Unknown,
        })
    }

    /// What is watched for drift: how much ink there is.
    fn features(&self) -> FeatureSchema {
        FeatureSchema { numbers: vec!["ink".into()], texts: Vec::new() }
    }
}

/// The probability that the digit is even.
struct Even;

impl Postprocessor for Even {
    fn decode(&self, outputs: &Tensors, _origin: &Origin) -> Result<Vec<Prediction>> {
        let scores = outputs.get("probabilities").and_then(|tensor| tensor.values::<f32>());
        let scores = scores.ok_or_else(|| Error::internal("the model has no float32 output \"probabilities\""))?;
        let even = |row: &[f32]| serde_json::json!({ "even": row.iter().step_by(2).sum::<f32>() });
        Ok(scores.chunks_exact(10).map(even).map(Prediction::Json).collect())
    }
}

fn drawing(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>> {
    match &*context.signature.inputs {
        [only] => Ok(Box::new(Drawing { input: Arc::clone(&only.name) })),
        _ => Err(Error::Config("a drawing feeds a model with one input".to_owned())),
    }
}

fn even(_context: StageContext<'_>) -> Result<Box<dyn Postprocessor>> {
    Ok(Box::new(Even))
}

/// The built-in kinds and these two.
pub(crate) fn stages() -> Stages {
    Stages::default().with_preprocessor("drawing", drawing).with_postprocessor("even", even)
}

/// All of Leeway's commands, with these stages.
fn main() -> std::process::ExitCode {
    leeway::cli::main_with(stages())
}
