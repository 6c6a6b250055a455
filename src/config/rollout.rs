//! `[rollout]` in a `model.toml`: steps, times and guardrails of the model's rollouts.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MonitoringConfig;
use crate::traffic::Share;

/// The guardrails that every model has, with the rate of events that each tolerates by default.
const GUARDRAILS: [(&str, f64); 8] = [
    ("errors", 0.002),
    ("invalid", 0.002),
    ("latency", 0.01),
    ("non_finite", 0.002),
    ("low_confidence", 0.01),
    ("wrong", 0.01),
    ("disagreement", 0.05),
    ("shadow_errors", 0.002),
];

/// Prefix of the guardrails of business metrics.
const BUSINESS: &str = "business_";

/// Tolerated rate of a business metric by default.
const BUSINESS_TOLERATED: f64 = 0.01;

/// Ratio of the rates that counts as not worse by default.
const MARGIN: f64 = 1.2;

/// Maximum number of steps.
const MAX_STEPS: usize = 100;

/// Limits of the times of a step, in milliseconds: a tenth of a second to a year.
const STEP_MS: std::ops::RangeInclusive<u64> = 100..=366 * 86_400_000;

/// `[rollout]`: steps, times and guardrails of the model's rollouts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutConfig {
    /// True if a version that arrives in the repository is rolled out by itself.
    pub automatic: bool,
    /// Shares of the version in percent, in rising order. The last one is 100.
    pub steps: Vec<Share>,
    /// Minimum time of each step.
    pub step_ms: u64,
    /// Maximum time of each step.
    pub timeout_ms: u64,
    /// Action at the end of the maximum time.
    pub on_timeout: OnTimeout,
    /// Share of the stable version's requests that the version gets as shadow traffic; 0 turns it off.
    pub shadow: Share,
    /// Duration above which an answer counts as slow; by default, the latency budget.
    pub slow_ms: Option<u64>,
    /// Absolute error above which a predicted number counts as wrong.
    pub error_above: Option<f64>,
    /// Amounts of business metrics below which an outcome counts as bad, by name.
    pub business_below: BTreeMap<String, f64>,
    /// Settings of guardrails, by name.
    pub guardrails: BTreeMap<String, GuardrailConfig>,
}

/// Action at the end of the maximum time of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// Pause the rollout: the share stays as it is.
    #[default]
    Hold,
    /// Give all requests to the stable version.
    RollBack,
}

/// `[rollout.guardrails.NAME]`: settings of a guardrail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardrailConfig {
    /// Weight of the guardrail in the division of the permitted false rollbacks. 0 turns the guardrail off.
    pub weight: Option<f64>,
    /// Ratio of the version's rate to the stable version's that counts as not worse.
    pub margin: Option<f64>,
    /// Rate of events that is tolerated whatever the stable version's is.
    pub tolerated: Option<f64>,
}

/// A guardrail with all its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guardrail {
    /// Name of the guardrail.
    pub name: String,
    /// Weight among the guardrails.
    pub weight: f64,
    /// Ratio of the version's rate to the stable version's that counts as not worse.
    pub margin: f64,
    /// Rate of events that is tolerated whatever the stable version's is.
    pub tolerated: f64,
}

/// The rate that the events of a guardrail are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardrailComparison {
    /// The rate of the stable version in other requests.
    WithStable,
    /// The rate of the stable version in the same requests.
    SameRequests,
    /// The tolerated rate only, because the stable version has no such events.
    WithTolerated,
}

/// Limits that make an event of a request or of an outcome.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventLimits {
    /// Duration above which an answer is slow; `None` for the latency budget.
    pub slow: Option<Duration>,
    /// Absolute error above which a predicted number is wrong.
    pub error_above: Option<f64>,
    /// Amounts of business metrics below which an outcome is bad.
    pub business_below: BTreeMap<String, f64>,
}

// ===== impl RolloutConfig =====

impl Default for RolloutConfig {
    fn default() -> RolloutConfig {
        let percent =
            |hundredths: &[f64]| hundredths.iter().filter_map(|share| Share::from_percent(*share).ok()).collect();
        RolloutConfig {
            automatic: false,
            steps: percent(&[1.0, 5.0, 25.0, 50.0, 100.0]),
            step_ms: 600_000,
            timeout_ms: 86_400_000,
            on_timeout: OnTimeout::Hold,
            shadow: Share::NONE,
            slow_ms: None,
            error_above: None,
            business_below: BTreeMap::new(),
            guardrails: BTreeMap::new(),
        }
    }
}

impl RolloutConfig {
    /// Returns true if nothing is configured.
    pub fn is_default(&self) -> bool {
        *self == RolloutConfig::default()
    }

    /// Returns the guardrails that are not turned off.
    ///
    /// ```
    /// use leeway::config::RolloutConfig;
    /// let guardrails = RolloutConfig::default().guardrails();
    /// assert_eq!(guardrails[0].name, "errors");
    /// assert_eq!((guardrails[0].margin, guardrails[0].tolerated), (1.2, 0.002));
    /// ```
    pub fn guardrails(&self) -> Vec<Guardrail> {
        let of_business = self.business_below.keys().map(|name| (format!("{BUSINESS}{name}"), BUSINESS_TOLERATED));
        let all = GUARDRAILS.iter().map(|(name, tolerated)| ((*name).to_owned(), *tolerated)).chain(of_business);
        let settings = all.map(|(name, tolerated)| {
            let set = self.guardrails.get(&name).copied().unwrap_or_default();
            Guardrail {
                weight: set.weight.unwrap_or(1.0),
                margin: set.margin.unwrap_or(MARGIN),
                tolerated: set.tolerated.unwrap_or(tolerated),
                name,
            }
        });
        settings.filter(|guardrail| guardrail.weight > 0.0).collect()
    }

    /// Returns the limits that make an event.
    pub fn event_limits(&self) -> EventLimits {
        EventLimits {
            slow: self.slow_ms.map(Duration::from_millis),
            error_above: self.error_above,
            business_below: self.business_below.clone(),
        }
    }

    pub(super) fn validate(&self, monitoring: &MonitoringConfig) -> Result<(), String> {
        check_steps(&self.steps).map_err(|problem| format!("rollout.steps: {problem}"))?;
        check_times(self.step_ms, self.timeout_ms).map_err(|problem| format!("rollout.{problem}"))?;
        if self.slow_ms == Some(0) {
            return Err("rollout.slow_ms: found 0, expected at least 1".to_owned());
        }
        if self.error_above.is_some_and(|limit| !limit.is_finite() || limit < 0.0) {
            return Err("rollout.error_above: expected a number of at least 0".to_owned());
        }
        for (name, limit) in &self.business_below {
            if !monitoring.business.contains_key(name) {
                return Err(format!("rollout.business_below: {name:?} is not in [monitoring.business]"));
            }
            if !limit.is_finite() {
                return Err(format!("rollout.business_below.{name}: expected a finite number"));
            }
        }
        self.guardrails.iter().try_for_each(|(name, settings)| {
            settings
                .validate(name, &self.business_below)
                .map_err(|problem| format!("rollout.guardrails.{name}{problem}"))
        })
    }
}

impl GuardrailConfig {
    fn validate(&self, name: &str, business: &BTreeMap<String, f64>) -> Result<(), String> {
        let is_known = GUARDRAILS.iter().any(|(known, _)| *known == name)
            || name.strip_prefix(BUSINESS).is_some_and(|metric| business.contains_key(metric));
        if !is_known {
            let known: Vec<&str> = GUARDRAILS.iter().map(|(known, _)| *known).collect();
            let known = known.join(", ");
            return Err(format!(": expected {known}, or {BUSINESS}NAME for a NAME of rollout.business_below"));
        }
        let GuardrailConfig { weight, margin, tolerated } = *self;
        match () {
            () if weight.is_some_and(|weight| !(0.0..=1_000.0).contains(&weight)) => {
                Err(".weight: expected 0 to 1000".to_owned())
            }
            () if margin.is_some_and(|margin| !(margin > 1.0 && margin <= 100.0)) => {
                Err(".margin: expected more than 1 and at most 100".to_owned())
            }
            () if margin.is_some() && is_limited(name) => {
                Err(".margin: this guardrail is not compared with the stable version; set tolerated".to_owned())
            }
            () if tolerated.is_some_and(|rate| !(0.0..1.0).contains(&rate)) => {
                Err(".tolerated: expected a share of at least 0 and below 1".to_owned())
            }
            () if tolerated == Some(0.0) && is_limited(name) => Err(".tolerated: expected a share above 0".to_owned()),
            () => Ok(()),
        }
    }
}

impl Guardrail {
    /// Returns true if the events are compared with those of the stable version.
    pub fn is_compared(&self) -> bool {
        self.comparison() != GuardrailComparison::WithTolerated
    }

    /// Returns the rate that the events are compared with.
    pub fn comparison(&self) -> GuardrailComparison {
        match self.name.as_str() {
            name if is_limited(name) => GuardrailComparison::WithTolerated,
            "shadow_errors" => GuardrailComparison::SameRequests,
            _ => GuardrailComparison::WithStable,
        }
    }
}

fn is_limited(guardrail: &str) -> bool {
    guardrail == "disagreement"
}

/// Checks the shares of a rollout: rising, and ending at 100%.
pub fn check_steps(steps: &[Share]) -> Result<(), String> {
    let shown = || steps.iter().map(|share| share.percent().to_string()).collect::<Vec<_>>().join(", ");
    match () {
        () if steps.len() > MAX_STEPS => Err(format!("{} steps are too many, at most {MAX_STEPS}", steps.len())),
        () if steps.last() != Some(&Share::ALL) => {
            Err(format!("found [{}], expected the last step to be 100, at which the version becomes stable", shown()))
        }
        () if steps.len() == 1 => {
            Err("found [100], expected at least one share below 100, at which the version is compared".to_owned())
        }
        () if steps[0] == Share::NONE || !steps.is_sorted_by(|one, next| one < next) => {
            Err(format!("found [{}], expected rising shares in percent, each above 0", shown()))
        }
        () => Ok(()),
    }
}

/// Checks the times of a step, in milliseconds. The error begins with the name of the setting.
pub fn check_times(step_ms: u64, timeout_ms: u64) -> Result<(), String> {
    let (least, most) = (STEP_MS.start(), STEP_MS.end());
    match () {
        () if !STEP_MS.contains(&step_ms) => Err(format!("step_ms: found {step_ms}, expected {least} to {most}")),
        () if !STEP_MS.contains(&timeout_ms) => {
            Err(format!("timeout_ms: found {timeout_ms}, expected {least} to {most}"))
        }
        () if timeout_ms < step_ms => {
            Err(format!("timeout_ms: found {timeout_ms}, expected at least step_ms, which is {step_ms}"))
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BusinessKind;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let config: RolloutConfig = toml::from_str(text).unwrap();
        let business = BTreeMap::from([("revenue".to_owned(), BusinessKind::Sum)]);
        let monitoring = MonitoringConfig { business, ..MonitoringConfig::default() };
        assert_eq!(config.validate(&monitoring).err().unwrap_or_default(), expected, "{text}");
    }

    #[test]
    fn what_is_not_possible_is_refused_with_what_to_change() {
        check("", "");
        check("automatic = true\nsteps = [0.5, 100]\nshadow = 20\n[guardrails.errors]\nmargin = 1.5", "");
        check("business_below = { revenue = 10 }\n[guardrails.business_revenue]\nweight = 2", "");
        check(
            "steps = [1, 50]",
            "rollout.steps: found [1, 50], expected the last step to be 100, at which the version becomes stable",
        );
        check(
            "steps = [5, 5, 100]",
            "rollout.steps: found [5, 5, 100], expected rising shares in percent, each above 0",
        );
        check(
            "steps = []",
            "rollout.steps: found [], expected the last step to be 100, at which the version becomes stable",
        );
        check("step_ms = 5", "rollout.step_ms: found 5, expected 100 to 31622400000");
        check("timeout_ms = 1000", "rollout.timeout_ms: found 1000, expected at least step_ms, which is 600000");
        check("business_below = { clicks = 1 }", "rollout.business_below: \"clicks\" is not in [monitoring.business]");
        check(
            "[guardrails.errors]\nmargin = 1",
            "rollout.guardrails.errors.margin: expected more than 1 and at most 100",
        );
        check(
            "[guardrails.disagreement]\nmargin = 2",
            "rollout.guardrails.disagreement.margin: this guardrail is not compared with the stable version; set tolerated",
        );
        check(
            "[guardrails.disagreement]\ntolerated = 0",
            "rollout.guardrails.disagreement.tolerated: expected a share above 0",
        );
        check(
            "[guardrails.speed]",
            "rollout.guardrails.speed: expected errors, invalid, latency, non_finite, low_confidence, wrong, disagreement, \
             shadow_errors, or business_NAME for a NAME of rollout.business_below",
        );
    }

    #[test]
    fn a_weight_of_zero_turns_a_guardrail_off() {
        let config: RolloutConfig = toml::from_str("[guardrails.wrong]\nweight = 0").unwrap();
        assert!(config.guardrails().iter().all(|guardrail| guardrail.name != "wrong"));
        assert_eq!(config.guardrails().len(), GUARDRAILS.len() - 1);
    }
}
