//! `[budget]` of a `model.toml`: parts of a request's time in milliseconds, converted to a [`LatencyBudget`].

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::budget::{Enforce, LatencyBudget};

/// Maximum of `total_ms`: an hour. Work that takes longer is a batch job.
const MAX_MS: u64 = 3_600_000;

/// `[budget]` as it is in the file. A part that is left out gets its default share of the total.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    #[serde(default = "default_total_ms")]
    total_ms: u64,
    network_ms: Option<u64>,
    preprocess_ms: Option<u64>,
    inference_ms: Option<u64>,
    postprocess_ms: Option<u64>,
    #[serde(default)]
    enforce: EnforceName,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum EnforceName {
    #[default]
    Total,
    Stages,
}

fn default_total_ms() -> u64 {
    LatencyBudget::DEFAULT.total.as_millis() as u64
}

/// Reads `[budget]` and checks that the parts fit into the total.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LatencyBudget, D::Error> {
    let section = Section::deserialize(deserializer)?;
    budget(&section).map_err(de::Error::custom)
}

/// Writes only the total of a budget, for a trial process, which does not enforce the budget.
pub(super) fn serialize<S: serde::Serializer>(budget: &LatencyBudget, serializer: S) -> Result<S::Ok, S::Error> {
    let total_ms = u64::try_from(budget.total.as_millis()).unwrap_or(u64::MAX);
    serializer.collect_map([("total_ms", total_ms)])
}

fn budget(section: &Section) -> Result<LatencyBudget, String> {
    if !(1..=MAX_MS).contains(&section.total_ms) {
        return Err(format!("total_ms: found {}, expected milliseconds from 1 to {MAX_MS}", section.total_ms));
    }
    let parts = [
        ("network_ms", section.network_ms, LatencyBudget::DEFAULT.network),
        ("preprocess_ms", section.preprocess_ms, LatencyBudget::DEFAULT.preprocess),
        ("inference_ms", section.inference_ms, LatencyBudget::DEFAULT.inference),
        ("postprocess_ms", section.postprocess_ms, LatencyBudget::DEFAULT.postprocess),
    ];
    let total = Duration::from_millis(section.total_ms);
    let scale = total.as_secs_f64() / LatencyBudget::DEFAULT.total.as_secs_f64();
    let [network, preprocess, inference, postprocess] =
        parts.map(|(_, given, default)| given.map_or_else(|| default.mul_f64(scale), millis));
    let sum = [network, preprocess, inference, postprocess].into_iter().fold(Duration::ZERO, Duration::saturating_add);
    if sum > total {
        let shown = |(name, given, default): (&str, Option<u64>, Duration)| match given {
            Some(given) => format!("{name} {given}"),
            None => format!("{name} {} (its share, because it is not given)", default.mul_f64(scale).as_millis()),
        };
        return Err(format!(
            "the parts do not fit into total_ms {}: {}; raise total_ms or lower a part",
            section.total_ms,
            parts.map(shown).join(", ")
        ));
    }
    if network == total {
        return Err(format!("network_ms is all of total_ms {}; leave time for the server", section.total_ms));
    }
    let enforce = match section.enforce {
        EnforceName::Total => Enforce::Total,
        EnforceName::Stages => Enforce::Stages,
    };
    let nothing = parts.iter().find(|(_, given, _)| *given == Some(0));
    if let (Enforce::Stages, Some((name, ..))) = (enforce, nothing) {
        return Err(format!(
            "{name}: with enforce = \"stages\" a part of 0 would end every request; give it at least 1"
        ));
    }
    Ok(LatencyBudget { total, network, preprocess, inference, postprocess, enforce })
}

/// Converts a part of a budget to a duration. A part above [`MAX_MS`] is capped to a value that still exceeds any
/// total.
fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms.min(2 * MAX_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, expected: Result<[u64; 6], &str>) {
        use figment::providers::Format;
        let read = figment::Figment::from(figment::providers::Toml::string(toml)).extract::<Section>().unwrap();
        let parts = budget(&read).map(|budget| {
            let tail = budget.tail();
            [budget.total, budget.network, budget.preprocess, budget.inference, budget.postprocess, tail]
                .map(|part| part.as_millis() as u64)
        });
        match (parts, expected) {
            (Ok(parts), Ok(expected)) => assert_eq!(parts, expected, "{toml}"),
            (Err(message), Err(expected)) => assert!(message.contains(expected), "{message}"),
            (parts, _) => panic!("{toml}: {parts:?}"),
        }
    }

    #[test]
    fn parts_that_are_left_out_keep_their_share() {
        check("", Ok([200, 15, 20, 100, 20, 45]));
        check("total_ms = 400", Ok([400, 30, 40, 200, 40, 90]));
        check("total_ms = 200\nnetwork_ms = 0\ninference_ms = 150", Ok([200, 0, 20, 150, 20, 10]));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        check("total_ms = 0", Err("total_ms: found 0, expected milliseconds from 1 to 3600000"));
        check("inference_ms = 190", Err("the parts do not fit into total_ms 200: network_ms 15 (its share"));
        check("network_ms = 9223372036854775807", Err("do not fit"));
        check("preprocess_ms = 0\nenforce = \"stages\"", Err("preprocess_ms: with enforce = \"stages\" a part of 0"));
        check(
            "total_ms = 5\nnetwork_ms = 5\npreprocess_ms = 0\ninference_ms = 0\npostprocess_ms = 0",
            Err("leave time for the server"),
        );
    }
}
