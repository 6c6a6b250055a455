//! The stages of the request path, and their durations.

use std::fmt;
use std::time::Duration;

/// A part of the request path that has a name in metrics, logs, errors and `Server-Timing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the request's head to the end of its body: the part of the network time that the server can measure.
    Network,
    /// From the request's body to the model's inputs.
    Preprocess,
    /// Waiting for a worker.
    Queue,
    /// The model's run, as part of a batch.
    Inference,
    /// From the model's outputs to the text of the response.
    Postprocess,
}

/// Duration of each stage of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings([Duration; Stage::ALL.len()]);

// ===== impl Stage =====

impl Stage {
    /// All stages, in the order in which a request passes them.
    pub const ALL: [Stage; 5] = [Stage::Network, Stage::Preprocess, Stage::Queue, Stage::Inference, Stage::Postprocess];

    /// Returns the stage's name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Network => "network",
            Stage::Preprocess => "preprocess",
            Stage::Queue => "queue",
            Stage::Inference => "inference",
            Stage::Postprocess => "postprocess",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// ===== impl Timings =====

impl Timings {
    /// Returns the duration of `stage`; zero if the request did not reach it.
    pub fn of(&self, stage: Stage) -> Duration {
        self.0[stage as usize]
    }

    /// Sets the duration of `stage`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::stage::{Stage, Timings};
    /// let mut timings = Timings::default();
    /// timings.set(Stage::Queue, Duration::from_micros(1500));
    /// assert_eq!(timings.of(Stage::Queue).as_micros(), 1500);
    /// assert_eq!(timings.to_string(), "network 0.0 ms, preprocess 0.0 ms, queue 1.5 ms, inference 0.0 ms, postprocess 0.0 ms");
    /// ```
    pub fn set(&mut self, stage: Stage, took: Duration) {
        self.0[stage as usize] = took;
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{stage} {:.1} ms", self.of(stage).as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}
