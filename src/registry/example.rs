//! The example of a version: an instance that a caller can send as it is.
//!
//! Made-up instances are sent through the whole pipeline like a request, until one is answered: an example that is shown has
//! been answered.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::findings::{Example, FirstRows, RowsFrom, WarmUp};
use super::opened_version::OpenedVersion;
use crate::budget::Deadline;
use crate::error::{Error, Result};
use crate::model::{RowShape, SIZES, Session, Values, for_an_example, made_up, zeros};
use crate::pipeline::Prepared;
use crate::tensor::Tensors;

/// Maximum size of a request with the example, in bytes. The example is kept in memory. An image of 640 × 640 zeros fits.
const MAX_BYTES: usize = 5 << 20;

/// Maximum time for finding an example. The first instance is always tried.
const MAX_FINDING: Duration = Duration::from_secs(5);

impl OpenedVersion {
    /// Finds an instance that the version answers. These are tried in this order: the first golden example, the example of the
    /// preprocessor, its samples, and rows like those of the first run, first of zeros and then of other numbers.
    pub(super) fn find_example(&self, session: &mut dyn Session, warm_up: &WarmUp) -> Option<Example> {
        let begin = Instant::now();
        let golden = self.verified.golden.iter().filter_map(|golden| golden.instances.first());
        let golden = golden.map(|instance| instance.get().to_owned());
        let of_stage = self.preprocessor.example().into_iter().chain(self.preprocessor.samples().into_iter().flatten());
        let rows = match warm_up {
            WarmUp::Ran(rows) => Some(rows),
            WarmUp::Failed { .. } => None,
        };
        let made_up = rows.into_iter().flat_map(|rows| self.rows_like(rows));
        let made_up = made_up.filter_map(|inputs| self.preprocessor.instance_of(&inputs));
        let candidates = golden.chain(of_stage).chain(made_up).enumerate();
        let mut in_time = candidates.take_while(|(tried, _)| *tried == 0 || begin.elapsed() < MAX_FINDING);
        in_time.find_map(|(_, instance)| self.answer_to(session, instance))
    }

    /// Returns the instance as an example if the version answers it.
    fn answer_to(&self, session: &mut dyn Session, instance: String) -> Option<Example> {
        let count = self.fewest_rows();
        if instance.len().saturating_mul(count) > MAX_BYTES {
            return None;
        }
        let request = RawValue::from_string(format!("[{}]", vec![instance.as_str(); count].join(","))).ok()?;
        let stages = self.time_of_stages(session, &request).ok()?;
        Some(Example { instance, stages })
    }

    /// Sends a request through the pipeline, and returns the duration of the preprocessor and the postprocessor.
    fn time_of_stages(&self, session: &mut dyn Session, request: &RawValue) -> Result<Duration> {
        let preprocessing = self.stopwatch().start();
        let Prepared { inputs, origin, .. } = self.preprocessor.transform(request, Deadline::never())?;
        let preprocessing = preprocessing();
        let outputs = session.run(&inputs)?;
        let postprocessing = self.stopwatch().start();
        let outputs = self.joining().per_row(outputs, inputs.rows())?;
        let predictions = self.postprocessor.decode(&outputs, &origin)?;
        serde_json::to_writer(std::io::sink(), &predictions).map_err(Error::internal)?;
        Ok(preprocessing + postprocessing())
    }

    /// Returns rows like those of the first run: with their values, then of zeros, and of other numbers; if their lengths were
    /// guessed, also of other lengths, first of the shortest.
    fn rows_like<'a>(&'a self, rows: &'a FirstRows) -> impl Iterator<Item = Tensors> + 'a {
        let signature = self.signature();
        let guessed = [1].into_iter().chain(SIZES).filter(|_| rows.from == RowsFrom::Guess);
        let shapes = std::iter::once(rows.shape.clone()).chain(guessed.map(|size| RowShape::of_size(signature, size)));
        let others = shapes.flat_map(move |shape| {
            let of_zeros = zeros(signature, 1, &shape);
            let numbers = [Values::Small, Values::Usual, Values::Large].into_iter();
            let numbers = numbers.filter_map(move |values| made_up(signature, 1, &shape, values)).flatten();
            std::iter::once(of_zeros).chain(numbers).map(|inputs| for_an_example(&inputs))
        });
        self.inputs(rows, rows.count).into_iter().chain(others)
    }
}
