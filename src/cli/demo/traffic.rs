//! The traffic of the demo: rows, sent at a steady rate, each followed by its true outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::client::Client;
use super::penguins::{self, Penguin};
use crate::api::feedback::{Outcome, OutcomeLabel};

/// Number of outcomes in a report.
const REPORT: usize = 50;

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

impl Source {
    pub(super) fn new(is_over: Arc<AtomicBool>) -> Result<Source> {
        let rows = penguins::labelled().context("the rows of the demo")?;
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
