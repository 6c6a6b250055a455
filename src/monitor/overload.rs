//! Incidents of overload: one line of the log when a model begins to refuse requests, and one when that is over.
//!
//! [`OverloadWatch`] decides from the counts of the last seconds, once a second, off the path of requests.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::labels::{Label, ShedReason};

/// Interval of looks, about.
const SECOND: Duration = Duration::from_secs(1);
/// Length of the window that is judged, and that the first line reports.
const WINDOW: Duration = Duration::from_secs(10);
/// Time without overload after which an incident is over.
const CALM: Duration = Duration::from_secs(30);
/// Minimum number of requests that were not answered in time in the window of an overload: fewer are no incident.
const MIN_UNANSWERED: u64 = 10;
/// Minimum share of these requests in the window, as one in so many.
const ONE_IN: u64 = 100;

/// Requests of a model in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RequestCounts {
    /// All requests.
    pub(super) requests: u64,
    /// Requests that were refused for want of time or capacity, by reason.
    pub(super) shed: [u64; ShedReason::ALL.len()],
    /// Requests whose time ran out.
    pub(super) expired: u64,
}

/// Detects the incidents of one model.
#[derive(Debug, Default)]
pub(super) struct OverloadWatch {
    /// Counts within the window, each with the time of its end.
    window: VecDeque<(Duration, RequestCounts)>,
    incident: Option<Incident>,
}

#[derive(Debug)]
struct Incident {
    /// End of the first second with refusals.
    since: Duration,
    /// End of the last second with refusals.
    last_unanswered: Duration,
    last_overloaded: Duration,
    /// Counts from the first to the last second with refusals.
    total: RequestCounts,
    /// Counts of the seconds after that.
    after: RequestCounts,
    is_reported: bool,
}

/// A line about an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverloadEvent {
    /// Requests are refused. The counts are those of the window, which ends now.
    Began(RequestCounts),
    /// No longer. The counts are those from the first to the last second with refusals, which lasted so long.
    Ended(RequestCounts, Duration),
}

impl OverloadWatch {
    /// Takes the counts since the last call, and returns a line if an incident begins or ends. The first line comes a window
    /// after the first refusals, so that its numbers show how bad it is.
    pub(super) fn look(&mut self, now: Duration, counts: RequestCounts) -> Option<OverloadEvent> {
        self.window.push_back((now, counts));
        self.window.retain(|(end, _)| now.saturating_sub(*end) < WINDOW);
        let mut window = RequestCounts::default();
        self.window.iter().for_each(|(_, counts)| window.add(counts));
        let is_overloaded = window.is_overload();
        let Some(incident) = &mut self.incident else {
            self.incident = is_overloaded.then(|| Incident::of(&self.window, now));
            return None;
        };
        incident.add(now, &counts);
        if is_overloaded {
            incident.last_overloaded = now;
        }
        if !incident.is_reported && now.saturating_sub(incident.since) + SECOND >= WINDOW {
            incident.is_reported = true;
            return Some(OverloadEvent::Began(window));
        }
        if now.saturating_sub(incident.last_overloaded) < CALM {
            return None;
        }
        let took = (incident.last_unanswered + SECOND).saturating_sub(incident.since);
        let ended = OverloadEvent::Ended(incident.total, took);
        self.incident = None;
        Some(ended)
    }
}

impl Incident {
    /// Returns the incident that these counts show.
    fn of(window: &VecDeque<(Duration, RequestCounts)>, now: Duration) -> Incident {
        let mut incident = Incident {
            since: now,
            last_unanswered: now,
            last_overloaded: now,
            total: RequestCounts::default(),
            after: RequestCounts::default(),
            is_reported: false,
        };
        let mut seconds = window.iter().skip_while(|(_, counts)| counts.unanswered() == 0).peekable();
        incident.since = seconds.peek().map_or(now, |(end, _)| *end);
        seconds.for_each(|(end, counts)| incident.add(*end, counts));
        incident
    }

    /// Adds the counts of a second.
    fn add(&mut self, end: Duration, counts: &RequestCounts) {
        self.after.add(counts);
        if counts.unanswered() > 0 {
            self.last_unanswered = end;
            self.total.add(&std::mem::take(&mut self.after));
        }
    }
}

impl OverloadEvent {
    /// Writes the line about a model to the log.
    pub(super) fn log(self, model: &str) {
        let (OverloadEvent::Began(counts) | OverloadEvent::Ended(counts, _)) = self;
        let (requests, refused, expired) = (counts.requests, counts.refused(), counts.expired);
        match self {
            OverloadEvent::Began(_) => tracing::warn!(
                model,
                requests,
                refused,
                expired,
                "overload: {model} refuses {}",
                counts.to_text(WINDOW)
            ),
            OverloadEvent::Ended(_, took) => tracing::info!(
                model,
                requests,
                refused,
                expired,
                "the overload is over: {model} has refused {}",
                counts.to_text(took)
            ),
        }
    }
}

/// Detects the incidents of all models, and writes them to the log.
#[derive(Debug, Default)]
pub(super) struct OverloadWatches(BTreeMap<String, OverloadWatch>);

impl OverloadWatches {
    /// Takes the counts of each version since the last call.
    pub(super) fn look<'a>(&mut self, now: Duration, versions: impl Iterator<Item = (&'a str, RequestCounts)>) {
        let mut models = BTreeMap::<&str, RequestCounts>::new();
        versions.for_each(|(model, counts)| models.entry(model).or_default().add(&counts));
        self.0.retain(|model, _| models.contains_key(model.as_str()));
        for (model, counts) in models {
            let event = self.0.entry(model.to_owned()).or_default().look(now, counts);
            event.into_iter().for_each(|event| event.log(model));
        }
    }
}

impl RequestCounts {
    /// Returns the counts since `before`.
    pub(super) fn since(&self, before: &RequestCounts) -> RequestCounts {
        let mut counts = *self;
        counts.requests = counts.requests.saturating_sub(before.requests);
        counts.expired = counts.expired.saturating_sub(before.expired);
        counts.shed.iter_mut().zip(before.shed).for_each(|(now, before)| *now = now.saturating_sub(before));
        counts
    }

    fn add(&mut self, other: &RequestCounts) {
        self.requests += other.requests;
        self.expired += other.expired;
        self.shed.iter_mut().zip(other.shed).for_each(|(sum, other)| *sum += other);
    }

    /// Number of refused requests. Those that are refused because the version is retired do not count.
    fn refused(&self) -> u64 {
        self.reasons().map(|(_, count)| count).sum()
    }

    fn reasons(&self) -> impl Iterator<Item = (ShedReason, u64)> {
        let reasons = ShedReason::ALL.into_iter().filter(|reason| *reason != ShedReason::ShuttingDown);
        reasons.map(|reason| (reason, self.shed[reason.index()]))
    }

    fn unanswered(&self) -> u64 {
        self.refused() + self.expired
    }

    fn is_overload(&self) -> bool {
        let unanswered = self.unanswered();
        unanswered >= MIN_UNANSWERED && unanswered.saturating_mul(ONE_IN) >= self.requests
    }

    /// Returns the counts in some time as a text, as in `1,240 of 5,300 requests in 10 s (predicted late 593, overtaken 647)`.
    fn to_text(self, time: Duration) -> String {
        let (refused, requests, seconds) = (grouped(self.refused()), grouped(self.requests), time.as_secs());
        let reasons: Vec<String> = self
            .reasons()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{} {}", in_words(reason), grouped(count)))
            .collect();
        let more = if reasons.is_empty() { "" } else { " more" };
        let expired = (self.expired > 0).then(|| format!("{}{more} ran out of time", grouped(self.expired)));
        let reasons = Some(reasons.join(", ")).filter(|reasons| !reasons.is_empty());
        let parts: Vec<String> = reasons.into_iter().chain(expired).collect();
        format!("{refused} of {requests} requests in {seconds} s ({})", parts.join("; "))
    }
}

fn in_words(reason: ShedReason) -> &'static str {
    match reason {
        ShedReason::Predicted => "predicted late",
        ShedReason::TooSlow => "too slow even alone",
        ShedReason::Overtaken => "overtaken",
        ShedReason::QueueFull => "queue full",
        ShedReason::Connections => "too many connections",
        ShedReason::BodyMemory => "no memory for bodies",
        ShedReason::ShuttingDown => "shutting down",
    }
}

/// Formats a number with a comma between each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    fn counts(requests: u64, predicted: u64, overtaken: u64, expired: u64) -> RequestCounts {
        let mut counts = RequestCounts { requests, expired, ..RequestCounts::default() };
        counts.shed[ShedReason::Predicted.index()] = predicted;
        counts.shed[ShedReason::Overtaken.index()] = overtaken;
        counts
    }

    /// Returns the events, each with the second in which it occurs, of counts in each second.
    fn events(seconds: impl IntoIterator<Item = RequestCounts>) -> Vec<(u64, OverloadEvent)> {
        let mut watch = OverloadWatch::default();
        let look = |(second, counts)| Some((second, watch.look(Duration::from_secs(second), counts)?));
        (1..).zip(seconds).filter_map(look).collect()
    }

    #[test]
    fn an_incident_has_one_line_at_its_begin_and_one_at_its_end() {
        let (calm, busy) = (counts(500, 0, 0, 0), counts(530, 60, 64, 2));
        let seconds =
            std::iter::repeat_n(calm, 20).chain(std::iter::repeat_n(busy, 95)).chain(std::iter::repeat_n(calm, 60));
        let found = events(seconds);
        // The first refusals are in second 21, and the window is full of them in second 30.
        let [(30, OverloadEvent::Began(window)), (_, OverloadEvent::Ended(total, took))] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(window, counts(5_300, 600, 640, 20));
        assert_eq!(
            window.to_text(WINDOW),
            "1,240 of 5,300 requests in 10 s (predicted late 600, overtaken 640; 20 more ran out of time)"
        );
        assert_eq!(total, counts(95 * 530, 95 * 60, 95 * 64, 95 * 2));
        assert_eq!(took.as_secs(), 95);
    }

    #[test]
    fn a_short_burst_is_reported_once_and_pauses_do_not_end_an_incident() {
        let (calm, busy) = (counts(500, 0, 0, 0), counts(530, 400, 0, 0));
        let burst = events((0..60).map(|second| if second == 3 { busy } else { calm }));
        assert!(matches!(burst[..], [(_, OverloadEvent::Began(_)), (_, OverloadEvent::Ended(..))]), "{burst:?}");
        // Every 25 seconds for a second.
        let again = events((0..600).map(|second| if second % 25 == 3 { busy } else { calm }));
        assert!(matches!(again[..], [(_, OverloadEvent::Began(_))]), "{again:?}");
    }

    #[test]
    fn single_refusals_and_a_stopping_version_are_no_incident() {
        assert_eq!(events(std::iter::repeat_n(counts(10_000, 9, 0, 0), 100)), []);
        assert_eq!(events(std::iter::repeat_n(counts(1, 0, 0, 0), 100)), []);
        let mut stopping = counts(500, 0, 0, 0);
        stopping.shed[ShedReason::ShuttingDown.index()] = 400;
        assert_eq!(events(std::iter::repeat_n(stopping, 100)), []);
        assert_eq!(counts(30, 0, 0, 12).to_text(WINDOW), "0 of 30 requests in 10 s (12 ran out of time)");
        // All of few requests are an incident.
        assert!(!events(std::iter::repeat_n(counts(2, 0, 0, 2), 100)).is_empty());
    }

    /// The log of a test.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_has_two_lines_for_an_incident_of_all_versions_of_a_model() {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().without_time().with_ansi(false).with_target(false);
        let lines = lines.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(lines, || {
            let (calm, busy) = (counts(10, 0, 0, 0), counts(100, 20, 5, 0));
            let mut watches = OverloadWatches::default();
            for second in 1..=60 {
                let churn = if second <= 20 { busy } else { calm };
                let versions = [("churn", churn), ("digits", calm), ("churn", counts(50, 0, 0, 0))];
                watches.look(Duration::from_secs(second), versions.into_iter());
            }
        });
        let log = String::from_utf8(log.0.lock().clone()).unwrap();
        let lines: Vec<&str> = log.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "WARN overload: churn refuses 250 of 1,500 requests in 10 s (predicted late 200, overtaken 50) \
                 model=\"churn\" requests=1500 refused=250 expired=0",
                "INFO the overload is over: churn has refused 500 of 3,000 requests in 20 s (predicted late 400, overtaken \
                 100) model=\"churn\" requests=3000 refused=500 expired=0",
            ]
        );
    }

    #[test]
    fn digits_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }
}
