//! The traffic of the demo: labelled rows, sent at a steady rate, each followed by its true outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::client::Client;
use crate::api::feedback::{Outcome, OutcomeLabel};

/// Rows that the model was not trained on, with their species. `examples/penguins/make_demo.py` makes them.
const ROWS: &[u8] = include_bytes!("penguins.csv");
/// Number of outcomes in a report.
const REPORT: usize = 50;

/// A row of the table, as the model takes it. A value that is `None` is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Penguin {
    island: String,
    bill_length_mm: Option<f64>,
    bill_depth_mm: Option<f64>,
    flipper_length_mm: Option<f64>,
    body_mass_g: Option<f64>,
    sex: Option<String>,
}

/// A row of the file.
#[derive(Debug, Deserialize)]
struct Labelled {
    species: String,
    island: String,
    bill_length_mm: Option<f64>,
    bill_depth_mm: Option<f64>,
    flipper_length_mm: Option<f64>,
    body_mass_g: Option<f64>,
    sex: Option<String>,
}

/// Requests of one step of the story.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    pub(super) requests: usize,
    pub(super) length: Duration,
    /// Change of each row before it is sent.
    pub(super) change: fn(Penguin) -> Penguin,
}

/// Source of the demo's traffic.
#[derive(Debug)]
pub(super) struct Source {
    rows: Vec<(Penguin, String)>,
    /// True once the demo is over, so that no more requests are sent.
    is_over: Arc<AtomicBool>,
}

impl Penguin {
    /// Returns the same penguin with its lengths in centimetres.
    pub(super) fn in_centimetres(self) -> Penguin {
        let tenth = |length: Option<f64>| length.map(|length| length / 10.0);
        Penguin {
            bill_length_mm: tenth(self.bill_length_mm),
            bill_depth_mm: tenth(self.bill_depth_mm),
            flipper_length_mm: tenth(self.flipper_length_mm),
            ..self
        }
    }
}

impl Source {
    pub(super) fn new(is_over: Arc<AtomicBool>) -> Result<Source> {
        let rows = csv::Reader::from_reader(ROWS).into_deserialize().map(|row| {
            let Labelled { species, island, bill_length_mm, bill_depth_mm, flipper_length_mm, body_mass_g, sex } = row?;
            let penguin = Penguin { island, bill_length_mm, bill_depth_mm, flipper_length_mm, body_mass_g, sex };
            Ok((penguin, species))
        });
        let rows = rows.collect::<Result<Vec<_>, csv::Error>>().context("the rows of the demo")?;
        Ok(Source { rows, is_over })
    }

    /// Returns a row as the body of a request shows it.
    pub(super) fn example(&self) -> Result<String> {
        let (penguin, _) = self.rows.first().context("the demo has no rows")?;
        Ok(serde_json::to_string(penguin)?)
    }

    /// Sends requests, evenly over their time, and the true outcomes of the predictions. Returns the number of requests that
    /// were refused.
    pub(super) fn send(&self, server: &Client, traffic: Traffic) -> Result<usize> {
        let Traffic { requests, length, change } = traffic;
        let bar = ProgressBar::new(requests as u64);
        if let Ok(style) = ProgressStyle::with_template("   [{bar:40}] {pos} of {len} requests") {
            bar.set_style(style.progress_chars("=> "));
        }
        let (begin, mut refused, mut outcomes) = (Instant::now(), 0, Vec::new());
        for (index, (penguin, species)) in self.rows.iter().cycle().take(requests).enumerate() {
            if self.is_over.load(Relaxed) {
                bail!("stopped");
            }
            let due = begin + length.mul_f64(index as f64 / requests as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            match server.predict(&change(penguin.clone()))? {
                Some(prediction_id) => outcomes.push(Outcome {
                    prediction_id,
                    label: Some(OutcomeLabel::Text(species.clone())),
                    value: None,
                    metrics: Default::default(),
                }),
                None => refused += 1,
            }
            if outcomes.len() == REPORT {
                server.report(std::mem::take(&mut outcomes))?;
            }
            bar.inc(1);
        }
        if !outcomes.is_empty() {
            server.report(outcomes)?;
        }
        bar.finish_and_clear();
        Ok(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_can_be_read_and_some_values_are_missing() {
        let source = Source::new(Arc::default()).unwrap();
        assert_eq!(source.rows.len(), 100);
        assert!(source.rows.iter().any(|(penguin, _)| penguin.sex.is_none()));
        let (penguin, species) = &source.rows[0];
        assert_eq!((penguin.bill_length_mm, species.as_str()), (Some(39.2), "Adelie"));
        let shifted = penguin.clone().in_centimetres();
        assert_eq!((shifted.flipper_length_mm, shifted.body_mass_g), (Some(19.6), penguin.body_mass_g));
    }
}
