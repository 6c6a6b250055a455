//! What several fuzz targets need: stages, and what has to be true of what they answer.

use std::collections::BTreeMap;

use leeway::budget::Deadline;
use leeway::error::{Error, Result};
use leeway::pipeline::{InstanceForm, Prepared, Preprocessor, StageContext, Stages};
use leeway::tensor::{DType, Dim, Signature, TensorSpec};
use serde_json::Value;

/// The longest message to a caller, in bytes.
const LONGEST_MESSAGE: usize = 2_000;

/// A preprocessor beside the model's inputs that it makes.
pub struct Stage {
    inputs: Vec<TensorSpec>,
    preprocessor: Box<dyn Preprocessor>,
}

/// An input of a model: its rows have these lengths, `None` for a length that varies.
pub fn input(name: &str, dtype: DType, row: &[Option<usize>]) -> TensorSpec {
    let row = row.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed));
    TensorSpec { name: name.into(), dtype, dims: [Dim::Dynamic(None)].into_iter().chain(row).collect() }
}

impl Stage {
    /// A stage with settings as `[preprocess]` of a `model.toml` has them.
    pub fn new(settings: Value, inputs: Vec<TensorSpec>) -> Stage {
        let config = serde_json::from_value(settings).expect("settings of a stage");
        let signature = Signature { inputs: inputs.clone(), ..Signature::default() };
        let no_files = BTreeMap::new();
        let preprocessor = Stages::default().preprocessor(StageContext::new(&config, &signature, &no_files));
        Stage { inputs, preprocessor: preprocessor.expect("a stage that can be") }
    }

    /// The form of its instances.
    pub fn instance_form(&self) -> Option<InstanceForm> {
        self.preprocessor.instance_form()
    }

    /// Prepares a request, and checks what came of it against what the model takes: so many rows, if it is known how many.
    /// `None` if it was refused.
    pub fn run(
        &self,
        transform: impl FnOnce(&dyn Preprocessor, Deadline) -> Result<Prepared>,
        rows: Option<usize>,
    ) -> Option<Prepared> {
        match transform(&*self.preprocessor, Deadline::never()) {
            Ok(prepared) => {
                self.check(&prepared, rows);
                Some(prepared)
            }
            Err(error) => {
                refused(error);
                None
            }
        }
    }

    fn check(&self, prepared: &Prepared, rows: Option<usize>) {
        let Prepared { inputs, features, .. } = prepared;
        let (made, schema) = (inputs.rows(), self.preprocessor.features());
        assert!(made > 0, "no rows");
        assert!(rows.is_none_or(|rows| rows == made), "{made} rows of {rows:?} instances");
        assert_eq!(inputs.len(), self.inputs.len());
        for ((name, tensor), spec) in inputs.iter().zip(&self.inputs) {
            assert_eq!((name, tensor.dtype()), (&spec.name, spec.dtype));
            assert_eq!((tensor.rows(), tensor.shape().len()), (made, spec.dims.len()), "{name}");
            for (length, dim) in tensor.shape().iter().zip(&spec.dims) {
                assert!(!matches!(dim, Dim::Fixed(fixed) if fixed != length), "{name} has {:?}", tensor.shape());
            }
            assert_eq!(tensor.data().len(), tensor.shape().iter().product::<usize>());
            assert_eq!(tensor.data().first_non_finite(), None, "{name} has a number that is none");
            if let Some(texts) = tensor.values::<String>() {
                assert!(texts.iter().all(|text| !text.contains('\0')), "{name} has a NUL in a text");
            }
        }
        assert_eq!(features.rows(), made);
        assert_eq!(features.numbers.len(), made * schema.numbers.len());
        assert_eq!(features.texts.len(), made * schema.texts.len());
    }
}

/// Checks how a body was refused: as the caller's fault, with a message of a bounded length.
pub fn refused(error: Error) {
    match error {
        Error::InvalidInput(message) => {
            assert!(message.len() <= LONGEST_MESSAGE, "a message of {} bytes", message.len());
        }
        other => panic!("not the caller's fault: {other:?}"),
    }
}
