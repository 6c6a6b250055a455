//! The clock of one request: times its stages, limits each to the time that is left, and traces them.

use std::future::Future;
use std::time::{Duration, Instant};

use super::heavy_work::{BlockingThreads, StageCost};
use super::{Deadline, Enforce, LatencyBudget};
use crate::error::{Error, Result};
use crate::stage::{Stage, Timings};

/// Times the stages of one request, and ends the request when its time has run out.
#[derive(Debug)]
pub struct StageClock {
    started: Instant,
    budget: LatencyBudget,
    deadline: Deadline,
    spent: Timings,
    /// Time that was left when each stage was entered.
    left: [Option<Duration>; Stage::ALL.len()],
    /// Time at which each stage was entered.
    entered: [Option<Instant>; Stage::ALL.len()],
    predicted: Option<Duration>,
}

/// Times at which a request entered and left a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// Time at which the request entered it.
    pub began: Instant,
    /// Time at which the request left it.
    pub ended: Instant,
}

/// Time limits for running the model on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// Time after which nobody waits for the outputs any more.
    pub deadline: Deadline,
    /// Time at which the run has to end, so that enough time is left for the later stages.
    pub finish_by: Instant,
}

/// Durations of a request's wait in the queue and of its run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueTimings {
    /// From the arrival in the queue until a worker forms the batch.
    pub queue: Duration,
    /// The run of the batch.
    pub inference: Duration,
    /// Time of the arrival in the queue; `None` if that is when the wait begins.
    pub entered: Option<Instant>,
}

impl Deadline {
    /// Returns the deadline of work that begins now.
    pub fn from_now(limit: Duration) -> Deadline {
        Deadline::after(Instant::now(), limit)
    }

    /// Returns a deadline that is never reached, for work that no request waits for.
    pub fn never() -> Deadline {
        const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        Deadline::from_now(TEN_YEARS)
    }

    /// Returns an error once the deadline has passed. A stage calls it between the parts of its work (texts, words,
    /// images, rows) and returns the error, because its request has ended.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::budget::Deadline;
    /// assert!(Deadline::from_now(Duration::from_secs(9)).check().is_ok());
    /// assert!(Deadline::from_now(Duration::ZERO).check().is_err());
    /// ```
    pub fn check(self) -> Result<()> {
        match self.has_passed(Instant::now()) {
            false => Ok(()),
            // The clock of the request fills in the stage and the times.
            true => Err(Error::Expired { stage: Stage::Preprocess, spent: Timings::default() }),
        }
    }
}

/// Does some work. Returns its result and its duration.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let done = work();
    (done, begin.elapsed())
}

impl StageClock {
    /// Returns a clock for a request whose head was read at `started`.
    pub fn new(started: Instant, budget: LatencyBudget) -> StageClock {
        StageClock {
            started,
            budget,
            deadline: Deadline::after(started, budget.on_the_server()),
            spent: Timings::default(),
            left: [None; Stage::ALL.len()],
            entered: [None; Stage::ALL.len()],
            predicted: None,
        }
    }

    /// Returns the request's deadline.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Shortens the time of the request to a limit that its body has, counted from its head.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use leeway::budget::{LatencyBudget, StageClock};
    /// let mut clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
    /// clock.end_within(Duration::from_millis(20));
    /// assert_eq!(clock.budget().total.as_millis(), 20);
    /// clock.end_within(Duration::from_millis(900));
    /// assert_eq!(clock.budget().total.as_millis(), 20);
    /// ```
    pub fn end_within(&mut self, limit: Duration) {
        self.budget = self.budget.within(Some(limit));
        self.deadline = self.deadline.min(Deadline::after(self.started, self.budget.on_the_server()));
    }

    /// Returns the clock of a step of a chain, which begins now: the step has the time of its own version's budget, and at
    /// most the time that is left to the chain.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use leeway::budget::{LatencyBudget, StageClock};
    /// let chain = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
    /// let short = LatencyBudget { total: Duration::from_millis(50), ..LatencyBudget::DEFAULT };
    /// // 50 ms without the 15 for the network, which a step does not have.
    /// assert_eq!(chain.of_step(&short).budget().total.as_millis(), 35);
    /// let long = LatencyBudget { total: Duration::from_secs(9), ..LatencyBudget::DEFAULT };
    /// assert!(chain.of_step(&long).deadline() <= chain.deadline());
    /// ```
    pub fn of_step(&self, budget: &LatencyBudget) -> StageClock {
        let begin = Instant::now();
        let own = LatencyBudget { total: budget.on_the_server(), network: Duration::ZERO, ..*budget };
        let mut clock = StageClock::new(begin, own.within(Some(self.deadline.left(begin))));
        clock.deadline = clock.deadline.min(self.deadline);
        clock
    }

    /// Returns the time at which work has to end, so that this much time is left for later work and the time of the last
    /// stage.
    pub fn finish_by(&self, later: Duration) -> Instant {
        let reserve = self.budget.postprocess.saturating_add(later);
        // The subtraction fails only before the epoch of the system's clock; no time is left in that case anyway.
        self.deadline.instant().checked_sub(reserve).unwrap_or(self.started)
    }

    /// Adds the durations of the stages of a step.
    pub fn include(&mut self, step: &Timings) {
        for stage in Stage::ALL {
            self.spent.set(stage, self.spent.of(stage) + step.of(stage));
        }
    }

    /// Returns the latency budget of the request.
    pub fn budget(&self) -> &LatencyBudget {
        &self.budget
    }

    /// Returns the duration of each stage.
    pub fn timings(&self) -> Timings {
        self.spent
    }

    /// Returns the time that was left when the request entered `stage`; `None` if it did not enter it.
    pub fn left_at(&self, stage: Stage) -> Option<Duration> {
        self.left[stage as usize]
    }

    /// Returns the times of the stages that the request has entered, in their order. A stage that has not ended ends now.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use leeway::budget::{LatencyBudget, StageClock};
    /// use leeway::stage::Stage;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let mut clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
    /// clock.receive(async { Ok(()) }).await.unwrap();
    /// let stages = clock.stage_times();
    /// assert_eq!((stages.len(), stages[0].stage, stages[0].began), (1, Stage::Network, clock.started()));
    /// # });
    /// ```
    pub fn stage_times(&self) -> Vec<StageTime> {
        let now = Instant::now();
        let entered = |stage: Stage| self.entered[stage as usize];
        let end = |stage: Stage, began: Instant| {
            let later = Stage::ALL.into_iter().skip(stage as usize + 1).find_map(entered);
            match self.spent.of(stage) {
                Duration::ZERO => later.unwrap_or(now),
                spent => began + spent,
            }
        };
        let time = |stage: Stage| entered(stage).map(|began| StageTime { stage, began, ended: end(stage, began) });
        Stage::ALL.into_iter().filter_map(time).collect()
    }

    /// Returns the predicted time in the queue and the run.
    pub fn predicted(&self) -> Option<Duration> {
        self.predicted
    }

    /// Returns the time at which the request's head had been read.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the time since the request's head was read.
    pub fn total(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the time limits for running the model, if the request enters its queue now.
    pub fn demand(&self) -> TimeLimits {
        self.demand_at(Instant::now())
    }

    fn demand_at(&self, now: Instant) -> TimeLimits {
        let deadline = self.limit(Stage::Inference, now);
        // The subtraction fails only before the epoch of the system's clock; no time is left in that case anyway.
        let reserve = self.deadline.instant().checked_sub(self.budget.postprocess).unwrap_or(now);
        TimeLimits { deadline, finish_by: deadline.instant().min(reserve) }
    }

    /// Returns the deadline of a stage that begins at `begin`.
    fn limit(&self, stage: Stage, begin: Instant) -> Deadline {
        match self.budget.enforce {
            Enforce::Total => self.deadline,
            Enforce::Stages => self.deadline.min(Deadline::after(begin, self.budget.part(stage))),
        }
    }

    /// Waits for the body, up to the deadline of the network stage.
    pub async fn receive<T>(&mut self, body: impl Future<Output = Result<T>>) -> Result<T> {
        self.enter(Stage::Network, self.started);
        let limit = self.limit(Stage::Network, self.started);
        let received = tokio::time::timeout_at(limit.instant().into(), body).await;
        self.spent.set(Stage::Network, self.started.elapsed());
        received.unwrap_or_else(|_elapsed| Err(Error::RequestTooSlow { limit: limit.left(self.started) }))
    }

    /// Runs a stage on this thread, or on one of `threads` if it is heavy. A request that has no time left does not
    /// enter the stage. `work` gets the deadline, at which the request ends; the stage should end by then, too.
    pub async fn run<T: Send + 'static>(
        &mut self,
        stage: Stage,
        (cost, units): (&StageCost, usize),
        threads: &BlockingThreads,
        work: impl FnOnce(Deadline) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let begin = Instant::now();
        self.enter(stage, begin);
        let limit = self.limit(stage, begin);
        if self.deadline.has_passed(begin) {
            return Err(self.expired(stage));
        }
        let done = if cost.is_heavy(units) {
            let timed = move || {
                let begin = Instant::now();
                let done = work(limit);
                done.map(|done| (done, begin.elapsed()))
            };
            // The cost is learned from the work alone, without the wait for a free place among the threads.
            let done = threads.run(limit, cost, timed).await;
            done.map(|done| {
                done.map(|(done, took)| {
                    cost.learn(units, took);
                    done
                })
            })
        } else {
            let done = work(limit);
            // A stage that fails early says nothing about its cost.
            if done.is_ok() {
                cost.learn(units, begin.elapsed());
            }
            Some(done)
        };
        let end = Instant::now();
        let took = end.saturating_duration_since(begin);
        self.spent.set(stage, took);
        tracing::trace!(%stage, ?took, "stage finished");
        match done {
            Some(Ok(done)) if !limit.has_passed(end) => Ok(done),
            // An error other than `Expired` is returned even after the deadline.
            Some(Err(error)) if !matches!(error, Error::Expired { .. }) => Err(error),
            _ => Err(self.expired(stage)),
        }
    }

    /// Waits for the model's outputs, up to the deadline. `predicted` is the predicted time in the queue and the run.
    /// `work` returns the actual times, which only the worker knows. `taken` returns the time at which a worker took
    /// the request.
    pub async fn wait<T>(
        &mut self,
        work: impl Future<Output = Result<(T, QueueTimings)>>,
        predicted: Option<Duration>,
        taken: impl FnOnce() -> Option<Instant>,
    ) -> Result<T> {
        let begin = Instant::now();
        self.enter(Stage::Queue, begin);
        self.predicted = predicted;
        let limit = self.limit(Stage::Inference, begin);
        match tokio::time::timeout_at(limit.instant().into(), work).await {
            Ok(Ok((value, waited))) => {
                self.enter(Stage::Inference, begin + waited.queue);
                if let Some(entered) = waited.entered {
                    // The run may have been made before the wait for it.
                    self.entered[Stage::Queue as usize] = Some(entered);
                    self.entered[Stage::Inference as usize] = Some(entered + waited.queue);
                }
                self.spent.set(Stage::Queue, waited.queue);
                self.spent.set(Stage::Inference, waited.inference);
                tracing::trace!(?waited, "model finished");
                return Ok(value);
            }
            // The worker, or the timer here, found that the deadline has passed.
            Ok(Err(Error::Expired { .. })) | Err(_) => {}
            Ok(Err(error)) => {
                self.entered[Stage::Inference as usize] = taken();
                return Err(error);
            }
        }
        let (queue, stage) = match taken() {
            Some(taken) => {
                self.enter(Stage::Inference, taken);
                (taken.saturating_duration_since(begin), Stage::Inference)
            }
            None => (begin.elapsed(), Stage::Queue),
        };
        self.spent.set(Stage::Queue, queue);
        self.spent.set(Stage::Inference, begin.elapsed().saturating_sub(queue));
        Err(self.expired(stage))
    }

    /// Returns the stages that took longer than their part. The queue and the run share a part, reported as the run.
    pub fn overruns(&self) -> impl Iterator<Item = Stage> {
        let took = |stage| match stage {
            Stage::Queue => Duration::ZERO,
            Stage::Inference => self.spent.of(Stage::Queue) + self.spent.of(Stage::Inference),
            other => self.spent.of(other),
        };
        Stage::ALL.into_iter().filter(move |&stage| took(stage) > self.budget.part(stage))
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        self.left[stage as usize] = Some(self.deadline.left(now));
        self.entered[stage as usize] = Some(now);
    }

    fn expired(&self, stage: Stage) -> Error {
        Error::Expired { stage, spent: self.spent }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn budget(enforce: Enforce) -> LatencyBudget {
        let ms = Duration::from_millis;
        LatencyBudget {
            total: ms(10_000),
            network: ms(1_000),
            preprocess: ms(0),
            inference: ms(20),
            postprocess: ms(1_000),
            enforce,
        }
    }

    #[test]
    fn the_model_has_what_the_stages_after_it_leave() {
        let started = Instant::now();
        let after = |ms| started + Duration::from_millis(ms);
        let check = |enforce, deadline, finish_by| {
            let demand = StageClock::new(started, budget(enforce)).demand_at(after(100));
            assert_eq!((demand.deadline.instant(), demand.finish_by), (after(deadline), after(finish_by)));
        };
        check(Enforce::Total, 9_000, 8_000);
        check(Enforce::Stages, 120, 120);
    }

    /// Runs preprocessing whose part of the budget is zero, so that any duration is an overrun.
    async fn preprocess(enforce: Enforce, units: usize) -> (Result<u32>, Vec<Stage>) {
        let mut clock = StageClock::new(Instant::now(), budget(enforce));
        let (cost, threads) = (StageCost::default(), BlockingThreads::new(NonZeroUsize::MIN));
        let done = clock.run(Stage::Preprocess, (&cost, units), &threads, |_| Ok(7)).await;
        (done, clock.overruns().collect())
    }

    #[tokio::test]
    async fn an_overrun_is_counted_and_only_ends_the_request_if_stages_are_enforced() {
        for units in [1, 1_000_000_000] {
            let (done, overruns) = preprocess(Enforce::Total, units).await;
            assert_eq!((done, overruns), (Ok(7), vec![Stage::Preprocess]));
            let (done, overruns) = preprocess(Enforce::Stages, units).await;
            assert!(matches!(done, Err(Error::Expired { stage: Stage::Preprocess, .. })));
            assert_eq!(overruns, [Stage::Preprocess]);
        }
    }

    #[tokio::test]
    async fn a_wait_ends_with_its_part_if_stages_are_enforced() {
        let mut clock = StageClock::new(Instant::now(), budget(Enforce::Stages));
        let never = std::future::pending::<Result<((), QueueTimings)>>();
        let ended = clock.wait(never, None, || None).await;
        assert!(matches!(ended, Err(Error::Expired { stage: Stage::Queue, .. })));
        assert!(clock.overruns().eq([Stage::Inference]));
    }
}
