//! The alerts of a server: a pure function of its status and its numbers. Prometheus' rules in
//! `deploy/prometheus` watch the same over longer times and all servers; these are for a look at one server.

use jiff::{SignedDuration, Timestamp};

use super::alert_advice::advice_on;
use crate::api::admin::{Action, ModelStatus, Overview, VersionState, VersionStatus};
use crate::api::console::{Alert, Severity};
use crate::api::rollout::{Rollout, RolloutState};
use crate::identity::{ModelName, Version};
use crate::monitor::{AttentionStats, DriftStatus, RecentRequests};
use crate::traffic::Share;

/// Minimum number of requests without a prediction within the window that are worth an alert.
const MIN_UNANSWERED: u64 = 10;
/// Shares of refused requests: for a note, a ticket and a page.
const REFUSED: [f64; 3] = [0.01, 0.05, 0.3];
/// Shares of failed requests: for a ticket and a page.
const FAILED: [f64; 2] = [0.01, 0.1];
/// Minimum number of labels for a statement about accuracy, and the fall that is worth an alert.
const MIN_LABELS: u64 = 100;
const ACCURACY_FALL: f64 = 0.03;
/// Time before the end of a certificate for a ticket and for a page.
const CERTIFICATE: [SignedDuration; 2] = [SignedDuration::from_hours(7 * 24), SignedDuration::from_hours(24)];
/// Time for which the end of a rollout is shown.
const ROLLOUT_SHOWN: SignedDuration = SignedDuration::from_hours(24);
/// Time that the servers of a fleet have to follow a change.
const FOLLOWS_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// The status of a server and its numbers at one moment.
#[derive(Debug, Clone)]
pub struct AlertFacts {
    /// The moment.
    pub at: Timestamp,
    /// Status of all models.
    pub overview: Overview,
    /// True if the server accepts new requests.
    pub is_ready: bool,
    /// Certificates of the listeners.
    pub certificates: Vec<ExpiringCertificate>,
    /// The loaded versions.
    pub versions: Vec<VersionFacts>,
    /// The current or last rollout of every model that has had one.
    pub rollouts: Vec<Rollout>,
}

/// The end of a listener's certificate.
#[derive(Debug, Clone, Copy)]
pub struct ExpiringCertificate {
    /// Section of the listener in the configuration.
    pub listener: &'static str,
    /// Time at which the certificate expires.
    pub at: Timestamp,
}

/// The numbers of a loaded version.
#[derive(Debug, Clone)]
pub struct VersionFacts {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// Share of the requests that name no version.
    pub traffic: Share,
    /// True if all its workers are in runs that do not end.
    pub is_stuck: bool,
    /// Its numbers.
    pub stats: AttentionStats,
}

/// Returns the alerts, the most severe first.
pub fn alerts(facts: &AlertFacts) -> Vec<Alert> {
    let mut found = of_server(facts);
    found.extend(facts.rollouts.iter().filter_map(|rollout| of_rollout(facts.at, rollout)));
    facts.overview.models.iter().for_each(|model| found.extend(of_model(facts, model)));
    facts.versions.iter().for_each(|version| found.extend(of_version(version)));
    found.sort_by_key(|alert| alert.severity);
    found
}

/// Creates an alert about the server. `name` is the Prometheus alert about the same, whose advice it gets.
fn alert(severity: Severity, name: &str, title: impl Into<String>, text: impl Into<String>) -> Alert {
    let advice = advice_on(name);
    Alert {
        severity,
        alert: advice.is_some().then(|| name.to_owned()),
        model: None,
        version: None,
        title: title.into(),
        text: text.into(),
        runbook: advice.as_ref().map(|advice| advice.runbook.clone()),
        advice: advice.map(|advice| advice.text),
    }
}

// ===== the server =====

fn of_server(facts: &AlertFacts) -> Vec<Alert> {
    let mut found = Vec::new();
    if !facts.is_ready {
        let text = "The server is stopping, or has not started completely: load balancers send it no requests.";
        found.push(alert(Severity::Page, "LeewayReplicaNotReady", "The server accepts no new requests", text));
    }
    for problem in &facts.overview.problems {
        found.push(alert(Severity::Ticket, "", "A problem with the state or the repository", problem.clone()));
    }
    found.extend(facts.certificates.iter().filter_map(|certificate| of_certificate(facts.at, certificate)));
    found
}

fn of_certificate(now: Timestamp, certificate: &ExpiringCertificate) -> Option<Alert> {
    let left = certificate.at.duration_since(now);
    let [for_ticket, for_page] = CERTIFICATE;
    let severity = if left <= for_page { Severity::Page } else { Severity::Ticket };
    let hours = left.as_hours();
    let text = match hours {
        ..0 => format!(
            "The certificate of {} expired at {}: clients refuse to connect.",
            certificate.listener, certificate.at
        ),
        0..48 => {
            format!("The certificate of {} expires in {hours} hours, at {}.", certificate.listener, certificate.at)
        }
        48.. => format!(
            "The certificate of {} expires in {} days, at {}.",
            certificate.listener,
            hours / 24,
            certificate.at
        ),
    };
    (left <= for_ticket).then(|| alert(severity, "LeewayCertificateExpiring", "A certificate expires", text))
}

// ===== models =====

fn of_model(facts: &AlertFacts, status: &ModelStatus) -> Vec<Alert> {
    let model = &status.model;
    let mut found = Vec::new();
    if let Some(reason) = &status.unserved {
        // A new model may not be copied completely yet.
        let is_new = status.deployment.change.action == Action::Discover;
        let severity = if is_new { Severity::Ticket } else { Severity::Page };
        found.push(alert(severity, "LeewayModelNotReady", format!("{model} is not served"), reason.clone()));
    }
    if let Some(reason) = &status.unwritten {
        let title = format!("The deployment of {model} is not in the journal");
        found.push(alert(Severity::Page, "LeewayDeploymentUnwritten", title, reason.clone()));
    }
    if let Some(problem) = &status.deployment_problem {
        let title = format!("The newest deployment of {model} is not in effect here");
        found.push(alert(Severity::Ticket, "LeewayDeploymentMismatch", title, problem.clone()));
    }
    if let Some(problem) = &status.config_problem {
        let title = format!("The model.toml of {model} is not used");
        found.push(alert(Severity::Ticket, "LeewayVersionRefused", title, problem.clone()));
    }
    found.extend(of_fleet(facts, status));
    status.versions.iter().for_each(|version| found.extend(of_files(status, version)));
    found.into_iter().map(|alert| Alert { model: Some(model.clone()), ..alert }).collect()
}

/// Finds the servers that have not followed the last change of a model.
fn of_fleet(facts: &AlertFacts, status: &ModelStatus) -> Option<Alert> {
    let deployment = &status.deployment;
    let lagging: Vec<String> = facts
        .overview
        .replicas
        .iter()
        .filter_map(|replica| replica.lagging(&status.model, deployment.generation))
        .map(|lagging| match lagging.problem {
            Some(problem) => format!("{} ({problem})", lagging.name),
            None => lagging.name,
        })
        .collect();
    let has_had_time = facts.at.duration_since(deployment.change.at) > FOLLOWS_WITHIN;
    (has_had_time && !lagging.is_empty()).then(|| {
        let (of, generation) = (facts.overview.replicas.len(), deployment.generation);
        let text = format!(
            "Generation {generation} is not in effect on {} of {of} servers: {}.",
            lagging.len(),
            lagging.join(", ")
        );
        alert(Severity::Ticket, "LeewayDeploymentMismatch", format!("Servers differ in {}", status.model), text)
    })
}

/// Finds problems with the files of a version.
fn of_files(status: &ModelStatus, version: &VersionStatus) -> Vec<Alert> {
    let (model, number) = (&status.model, version.version);
    let mut found = Vec::new();
    if let VersionState::Refused { problem, .. } = &version.state {
        let has_traffic = version.traffic_percent != Share::NONE;
        let severity = if has_traffic && status.unserved.is_none() { Severity::Page } else { Severity::Ticket };
        let title = format!("Version {number} of {model} is refused");
        found.push(alert(severity, "LeewayVersionRefused", title, problem.clone()));
    }
    if let Some(problem) = &version.reload_problem {
        let title = format!("Version {number} of {model} is served with the previous model.toml");
        found.push(alert(Severity::Ticket, "LeewayVersionRefused", title, problem.clone()));
    }
    if let Some(difference) = &version.altered {
        let title = format!("The files of version {number} of {model} have changed");
        found.push(alert(Severity::Page, "LeewayVersionAltered", title, difference.clone()));
    }
    found.into_iter().map(|alert| Alert { version: Some(number), ..alert }).collect()
}

// ===== rollouts =====

/// Finds a rollout that waits for an operator, or that has failed within a day.
fn of_rollout(now: Timestamp, rollout: &Rollout) -> Option<Alert> {
    let (version, model) = (rollout.version, &rollout.model);
    let is_recent = rollout.ended_at.is_none_or(|ended| now.duration_since(ended) < ROLLOUT_SHOWN);
    let (severity, what) = match rollout.state {
        RolloutState::Paused => (Severity::Ticket, "is paused"),
        RolloutState::RolledBack if is_recent => (Severity::Ticket, "was rolled back"),
        RolloutState::Aborted | RolloutState::Superseded if is_recent => (Severity::Note, "was ended"),
        _ => return None,
    };
    let title = format!("The rollout of version {version} of {model} {what}");
    let found = alert(severity, "", title, rollout.explanation.clone());
    Some(Alert { model: Some(model.clone()), version: Some(version), ..found })
}

// ===== the numbers of versions =====

fn of_version(facts: &VersionFacts) -> Vec<Alert> {
    let name = format!("Version {} of {}", facts.version, facts.model);
    let stats = &facts.stats;
    let mut found = Vec::new();
    if facts.is_stuck {
        let text = format!("All workers of {name} are in runs that do not end: it answers only 503 and 504.");
        found.push(alert(
            Severity::Page,
            "LeewayRunStuck",
            format!("{name} is stuck"),
            text.replace("of Version", "of version"),
        ));
    }
    found.extend(of_failures(&name, stats));
    found.extend(of_refusals(&name, stats));
    found.extend(of_drift(&name, facts));
    found.extend(of_accuracy(&name, stats));
    if stats.worker_restarts > 0 {
        let text = format!(
            "Workers were restarted {} times since the version was loaded; the log says why.",
            stats.worker_restarts
        );
        found.push(alert(Severity::Note, "LeewayWorkerRestarting", format!("{name} has restarted workers"), text));
    }
    let about = |alert| Alert { model: Some(facts.model.clone()), version: Some(facts.version), ..alert };
    found.into_iter().map(about).collect()
}

fn of_failures(name: &str, AttentionStats { recent, current, .. }: &AttentionStats) -> Option<Alert> {
    let RecentRequests { failed, expired, counted, .. } = *recent;
    let ratio = (failed + expired) as f64 / counted.max(1) as f64;
    let goes_on = current.failed + current.expired > 0;
    let [for_ticket, for_page] = FAILED;
    (failed + expired >= MIN_UNANSWERED && goes_on && ratio > for_ticket).then(|| {
        let (severity, alert_name) = match ratio > for_page {
            true => (Severity::Page, "LeewayErrorRatioVeryHigh"),
            false => (Severity::Ticket, "LeewayErrorRatioHigh"),
        };
        let text = format!(
            "{} of {counted} requests in the last 5 minutes ({}) were accepted but not answered: {failed} failed, {expired} \
             ran out of time.",
            failed + expired,
            percent(ratio)
        );
        alert(severity, alert_name, format!("{name} fails"), text)
    })
}

fn of_refusals(name: &str, AttentionStats { recent, current, .. }: &AttentionStats) -> Option<Alert> {
    let RecentRequests { refused, counted, .. } = *recent;
    let ratio = refused as f64 / counted.max(1) as f64;
    let [for_note, for_ticket, for_page] = REFUSED;
    (refused >= MIN_UNANSWERED && current.refused > 0 && ratio >= for_note).then(|| {
        let (severity, alert_name) = if ratio > for_page {
            (Severity::Page, "LeewayBudgetBurnFast")
        } else if ratio > for_ticket {
            (Severity::Ticket, "LeewayShedding")
        } else {
            (Severity::Note, "LeewayShedding")
        };
        let text = format!(
            "{refused} of {counted} requests in the last 5 minutes ({}) were refused at once, for want of time or capacity.",
            percent(ratio)
        );
        alert(severity, alert_name, format!("{name} refuses requests"), text)
    })
}

fn of_drift(name: &str, facts: &VersionFacts) -> Option<Alert> {
    let drift = &facts.stats.drift;
    let (severity, alert_name, how) = match drift.status {
        DriftStatus::Drifted => (Severity::Page, "LeewayDriftSevere", "strongly"),
        DriftStatus::Warning => (Severity::Ticket, "LeewayDrift", "somewhat"),
        DriftStatus::Ok | DriftStatus::NotEnoughData => return None,
    };
    // A version that gets no requests hurts nobody.
    let severity = if facts.traffic == Share::NONE { Severity::Note } else { severity };
    let text = match &*drift.features {
        [] => format!("The requests differ {how} from the training data."),
        features => {
            format!("The requests differ {how} from the training data, most of all in {}.", features.join(", "))
        }
    };
    Some(alert(severity, alert_name, format!("{name}: drift"), text))
}

fn of_accuracy(name: &str, stats: &AttentionStats) -> Option<Alert> {
    let ((accuracy, interval), expected) = (stats.accuracy?, stats.baseline_accuracy?);
    let fell = stats.labels >= MIN_LABELS && interval.upper < expected - ACCURACY_FALL;
    fell.then(|| {
        let text = format!(
            "{} of {} predictions with a known outcome were right, at most {} by chance; it was {} for the labelled rows of \
             the baseline.",
            percent(accuracy),
            stats.labels,
            percent(interval.upper),
            percent(expected)
        );
        alert(Severity::Ticket, "LeewayAccuracyFell", format!("{name} is less accurate than it was"), text)
    })
}

/// Formats a share as percent with one decimal.
fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

#[cfg(test)]
mod tests;
