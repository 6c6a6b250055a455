//! Simulated rollouts: events of two versions, second by second, judged by the server's own functions and by rules that
//! others use.

use std::collections::BTreeMap;

use jiff::Timestamp;
use leeway::api::rollout::{RolloutPlan, RolloutState};
use leeway::config::{Guardrail, OnTimeout};
use leeway::monitor::{DispersionWatch, EventCounts, GuardrailCounts};
use leeway::rollout::{
    Circumstances, Decision, Evidence, Failures, JudgedGuardrail, ProcessCounts, RolloutRecord, decide,
};
use leeway::traffic::Share;

/// Seconds for which the stable version is seen alone before the rollout.
const BEFORE: u32 = 60;

/// Name of the guardrail.
const ERRORS: &str = "errors";

/// The traffic of a rollout.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Rates of events of the stable version and of the new version.
    pub rates: (f64, f64),
    /// Requests of both versions in a second.
    pub requests: f64,
    /// Shares of the new version, one after the other, each for the same time.
    pub shares: &'static [f64],
    /// Factor by which both rates grow until the end.
    pub growth: f64,
    /// Number of requests of a user that come together, with the same result.
    pub cluster: u64,
}

/// A rule that decides when a version is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The evidence of Leeway.
    Evidence,
    /// More than 1% of the new version's requests fail within a minute, looked at every minute.
    OnePercent,
    /// A one-sided z-test of the two rates at the level of 1%, repeated every second.
    RepeatedTest,
}

/// A source of pseudo-random numbers.
struct Random(fastrand::Rng);

impl Random {
    /// Returns a number of `n` independent events with this probability.
    fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if n == 0 || p <= 0.0 {
            return 0;
        }
        if p >= 1.0 {
            return n;
        }
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        // Inversion (Devroye, Non-Uniform Random Variate Generation, 1986, X.4.3).
        let (odds, mut left) = (p / (1.0 - p), self.0.f64());
        let mut chance = (1.0 - p).powf(n as f64);
        let mut events = 0;
        while left > chance && events < n {
            left -= chance;
            chance *= odds * (n - events) as f64 / (events + 1) as f64;
            events += 1;
        }
        events
    }

    /// Returns the trials and events of a second.
    fn window(&mut self, requests: f64, rate: f64, cluster: u64) -> EventCounts {
        let mean = requests / cluster as f64;
        // Of few users, the number varies as that of a Poisson process: nearly that of twenty times as many trials.
        let most = (mean * 20.0).ceil() as u64;
        let users = if mean > 50.0 { mean.round() as u64 } else { self.binomial(most, mean / most as f64) };
        EventCounts { trials: users * cluster, events: self.binomial(users, rate.min(1.0)) * cluster }
    }
}

/// Returns the second in which the rule rolls the version back, if it does within so many seconds.
pub fn rolled_back_at(rule: Rule, scenario: &Scenario, seconds: u32, seed: u64) -> Option<u32> {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let mut judge = Judge::new(rule);
    for _ in 0..BEFORE {
        let stable = random.window(scenario.requests, scenario.rates.0, scenario.cluster);
        judge.look(stable, EventCounts::default());
    }
    judge.begin();
    (1..=seconds).find(|second| {
        let part = f64::from(*second) / f64::from(seconds);
        let index = ((part * scenario.shares.len() as f64) as usize).min(scenario.shares.len() - 1);
        let (share, factor) = (scenario.shares[index], 1.0 + part * (scenario.growth - 1.0));
        let stable = random.window(scenario.requests * (1.0 - share), scenario.rates.0 * factor, scenario.cluster);
        let candidate = random.window(scenario.requests * share, scenario.rates.1 * factor, scenario.cluster);
        judge.look(stable, candidate);
        judge.rolls_back(*second)
    })
}

/// What a rule knows.
struct Judge {
    rule: Rule,
    record: RolloutRecord,
    stable: EventCounts,
    candidate: EventCounts,
    watch: DispersionWatch,
    /// Counts of the new version a minute ago.
    minute: EventCounts,
}

impl Judge {
    fn new(rule: Rule) -> Judge {
        let nothing = EventCounts::default();
        Judge {
            rule,
            record: record(),
            stable: nothing,
            candidate: nothing,
            watch: DispersionWatch::default(),
            minute: nothing,
        }
    }

    fn look(&mut self, stable: EventCounts, candidate: EventCounts) {
        (self.stable, self.candidate) = (self.stable.plus(stable), self.candidate.plus(candidate));
        if self.rule == Rule::Evidence {
            self.watch.look(BTreeMap::from([(ERRORS.to_owned(), self.stable)]));
        }
    }

    /// Begins the rollout: what was counted until now is from before.
    fn begin(&mut self) {
        self.record.seen.extend(self.counts());
        (self.stable, self.candidate) = match self.rule {
            Rule::Evidence => (self.stable, self.candidate),
            _ => (EventCounts::default(), EventCounts::default()),
        };
    }

    fn rolls_back(&mut self, second: u32) -> bool {
        match self.rule {
            Rule::Evidence => {
                let counts = self.counts();
                self.record.add(&counts);
                let around = Circumstances { now: Timestamp::UNIX_EPOCH, drift: None };
                matches!(decide(&self.record, &around), Decision::RollBack(_))
            }
            Rule::OnePercent if second.is_multiple_of(60) => {
                let last = self.candidate.since(self.minute);
                self.minute = self.candidate;
                last.rate().is_some_and(|rate| rate > 0.01)
            }
            Rule::OnePercent => false,
            Rule::RepeatedTest => z(self.stable, self.candidate) > 2.326,
        }
    }

    fn counts(&self) -> BTreeMap<String, ProcessCounts> {
        let of = |counts| GuardrailCounts {
            guardrails: BTreeMap::from([(ERRORS.to_owned(), counts)]),
            ..GuardrailCounts::default()
        };
        let stable = GuardrailCounts { dispersions: self.watch.dispersions().clone(), ..of(self.stable) };
        let counts = ProcessCounts { started_at: Timestamp::UNIX_EPOCH, stable, candidate: of(self.candidate) };
        BTreeMap::from([("a".to_owned(), counts)])
    }
}

/// Returns the statistic of the z-test of two rates.
fn z(stable: EventCounts, candidate: EventCounts) -> f64 {
    let (Some(p0), Some(p1)) = (stable.rate(), candidate.rate()) else { return 0.0 };
    let (n0, n1) = (stable.trials as f64, candidate.trials as f64);
    let p = (stable.events + candidate.events) as f64 / (n0 + n1);
    let deviation = (p * (1.0 - p) * (1.0 / n0 + 1.0 / n1)).sqrt();
    if deviation > 0.0 { (p1 - p0) / deviation } else { 0.0 }
}

/// A rollout with one guardrail.
fn record() -> RolloutRecord {
    let guardrail = Guardrail { name: ERRORS.to_owned(), weight: 1.0, margin: 1.2, tolerated: 0.002 };
    let share = |percent| Share::from_percent(percent).expect("a share");
    RolloutRecord {
        model: "simulated".parse().expect("a name"),
        number: 1,
        revision: 1,
        version: "2".parse().expect("a version"),
        stable: "1".parse().expect("a version"),
        state: RolloutState::Running,
        explanation: String::new(),
        plan: RolloutPlan {
            steps: vec![share(5.0), share(100.0)],
            step_ms: u64::MAX,
            timeout_ms: u64::MAX,
            on_timeout: OnTimeout::Hold,
            shadow: None,
        },
        step: 0,
        step_since: Timestamp::UNIX_EPOCH,
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
        generation: 1,
        pending: None,
        guardrails: vec![JudgedGuardrail { guardrail, evidence: Evidence::default() }],
        failures: Failures::default(),
        seen: BTreeMap::new(),
        events: Vec::new(),
    }
}
