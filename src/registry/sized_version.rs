//! Opens a version with the numbers of workers, of threads and of rows in a shared run that suit it best, as far as its
//! `model.toml` leaves them open. They are found by measuring a few runs (`model/sizing.rs` chooses).
//!
//! This is done before the version is examined, because the number of threads can change the last bits of an answer.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::findings::{FirstRows, RowsFrom, WarmUp};
use super::load_order::LoadOrder;
use super::opened_version::OpenedVersion;
use crate::config::{Batching, Count, ModelConfig, SessionConfig, Threads};
use crate::model::{
    Engine, MAX_CHOSEN_ROWS, MeasuredThreads, Session, Sizing, shortest_runs, sizes, threads_to_measure,
};
use crate::pipeline::Stages;
use crate::repository::{Refusal, VerifiedVersion};

/// Maximum time for the runs with one number of threads. A run that has begun is completed.
const MAX_MEASURING: Duration = Duration::from_millis(240);

/// Memory of a session, in multiples of the size of its model: its weights, and these arranged for the processor.
pub(super) const SESSION_MEMORY: u64 = 2;

/// Divisor of the available memory. The quotient is what the sessions of workers that were not asked for may take.
const SESSIONS_SHARE: u64 = 2;

/// Maximum number of elements of inputs that are made up for measuring.
const MAX_ELEMENTS: usize = 1 << 24;

impl LoadOrder {
    /// Returns this order with the chosen numbers as its settings.
    pub fn sized(&self, sizing: Option<&Sizing>) -> LoadOrder {
        let Some(Sizing { workers, intra_op_threads, shared_rows, .. }) = sizing else { return self.clone() };
        let model = SessionConfig {
            workers: Count::Fixed(*workers),
            intra_op_threads: Count::Fixed(*intra_op_threads),
            measured_batch_size: *shared_rows,
            ..self.config.model.clone()
        };
        LoadOrder { config: Arc::new(ModelConfig { model, ..(*self.config).clone() }), ..self.clone() }
    }

    fn with_threads(&self, threads: Threads) -> LoadOrder {
        let Threads { workers, intra_op } = threads;
        self.sized(Some(&Sizing { workers, intra_op_threads: intra_op, shared_rows: None, reason: String::new() }))
    }
}

impl OpenedVersion {
    /// Opens a version, and chooses the numbers that its `model.toml` leaves open. Returns the choice; `None` if there was
    /// nothing to choose, nothing could be measured, or opening the model took longer than `longest`.
    pub fn open_sized(
        engine: &dyn Engine,
        stages: &Stages,
        order: &LoadOrder,
        verified: VerifiedVersion,
        (most_workers, longest): (NonZeroUsize, Duration),
    ) -> Result<(OpenedVersion, Option<Sizing>), Refusal> {
        let begin = Instant::now();
        let mut opened = Self::open(engine, stages, order, verified)?;
        let (usual, fewer) = numbers_to_measure(&order.config.model, most_workers);
        let is_open = !fewer.is_empty() || opened.may_choose_rows();
        if !is_open || begin.elapsed() > longest {
            return Ok((opened, None));
        }
        let mut session = opened.session()?;
        let rows = match opened.first_run(&mut |inputs| session.run(inputs))?.0 {
            WarmUp::Ran(rows) if rows.from != RowsFrom::Guess => rows,
            // Nothing is known of the runs of requests.
            WarmUp::Ran(_) | WarmUp::Failed { .. } => return Ok((opened, None)),
        };
        let measured_usual = opened.measure(usual, &mut *session, &rows);
        drop(session);
        let mut measured = Vec::new();
        for threads in fewer {
            opened.reopen(engine, &order.with_threads(threads))?;
            let mut session = opened.session()?;
            opened.warm_up(&mut *session, &WarmUp::Ran(rows.clone()))?;
            measured.push(opened.measure(threads, &mut *session, &rows));
        }
        measured.push(measured_usual);
        let sizing = Sizing::choose(&measured, order.config.model.max_batch_size);
        opened.reopen(engine, &order.sized(sizing.as_ref()))?;
        Ok((opened, sizing))
    }

    /// Returns true if the maximum number of rows in a shared run may be chosen.
    fn may_choose_rows(&self) -> bool {
        let settings = &self.config().model;
        settings.max_batch_size == Count::Auto && settings.batching != Batching::Never && self.fixed_rows().is_none()
    }

    /// Measures runs of a session, from the fewest rows to the most that requests may share.
    fn measure(&self, threads: Threads, session: &mut dyn Session, rows: &FirstRows) -> MeasuredThreads {
        let fewest = self.fewest_rows();
        let most = match (self.fixed_rows().or_else(|| (rows.count == 1).then_some(1)), self.config().model.batching) {
            (Some(rows), _) => rows,
            (None, Batching::Never) => fewest,
            (None, Batching::Auto | Batching::Always) => match self.config().model.max_batch_size {
                Count::Auto => MAX_CHOSEN_ROWS,
                Count::Fixed(most) => most.get().min(MAX_CHOSEN_ROWS),
            },
        };
        let most = most.min(MAX_ELEMENTS / rows.shape.elements().max(1)).max(fewest);
        let inputs = |count| self.inputs(rows, count);
        MeasuredThreads { threads, runs: shortest_runs(session, &inputs, sizes(fewest, most), MAX_MEASURING) }
    }
}

/// Returns the maximum number of workers that may be chosen for a model of this size, in bytes, with this memory.
pub(super) fn most_workers(config: &SessionConfig, size: u64, memory: u64) -> NonZeroUsize {
    let has_memory = |threads: &Threads| {
        size.saturating_mul(SESSION_MEMORY * threads.workers.get() as u64) <= memory / SESSIONS_SHARE
    };
    let measured = threads_to_measure(config.cores(), config).into_iter().filter(has_memory);
    measured.chain([config.threads()]).map(|threads| threads.workers).max().unwrap_or(NonZeroUsize::MIN)
}

/// Returns the usual numbers of workers and threads, and those with fewer threads that are worth measuring.
fn numbers_to_measure(config: &SessionConfig, most_workers: NonZeroUsize) -> (Threads, Vec<Threads>) {
    let usual = config.threads();
    let mut fewer = threads_to_measure(config.cores(), config);
    fewer.retain(|threads| *threads != usual && threads.workers <= most_workers);
    (usual, fewer)
}
