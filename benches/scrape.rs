//! Duration and size of a scrape: 30 versions of 64 features, with requests, drift and feedback.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on should panic")]
#![expect(clippy::print_stdout, reason = "a bench prints its results")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway::budget::{LatencyBudget, QueueTimings, StageClock};
use leeway::config::MonitoringWindows;
use leeway::feature::{Certainty, FeatureSchema, Features, Observation};
use leeway::http::compress;
use leeway::monitor::{
    Baseline, Monitor, MonitoringSpec, Predicted, Routing, Sample, Truth, VersionLabels, VersionRecorder,
};

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const VERSIONS: usize = 30;
const FEATURES: usize = 64;
const CLASSES: usize = 10;
const ROWS: usize = 100;
/// Number of recording threads. A scrape sums one shard for each of them.
const THREADS: usize = 8;

fn rows(random: &mut fastrand::Rng, shift: f32) -> (Features, Vec<Observation>) {
    let mut features = Features::with_rows(ROWS);
    features.numbers = (0..ROWS * FEATURES).map(|_| (random.f32() + random.f32()) + shift * random.f32()).collect();
    let observation = |_| {
        let confidence = 0.5 + random.f32() / 2.0;
        let certainty = Certainty { confidence, margin: confidence - 0.5, entropy: 1.0 - confidence };
        Observation::Class { class: random.usize(0..CLASSES), certainty }
    };
    (features, (0..ROWS).map(observation).collect())
}

fn baseline(random: &mut fastrand::Rng, schema: &FeatureSchema) -> Baseline {
    let seen: Vec<(Features, Vec<Observation>)> = (0..20).map(|_| rows(random, 0.0)).collect();
    let mut sample = Sample::new(schema.clone(), Some((0..CLASSES).map(|class| class.to_string()).collect()));
    seen.iter().for_each(|(features, observations)| sample.add(features, observations));
    let mut builder = sample.freeze();
    seen.iter().for_each(|(features, observations)| builder.count(features, observations));
    builder.finish()
}

async fn use_version(version: &Arc<VersionRecorder>, random: &mut fastrand::Rng) {
    for request in 0..50 {
        let mut clock = StageClock::new(Instant::now(), LatencyBudget::DEFAULT);
        let micros = |most: u64, random: &mut fastrand::Rng| Duration::from_micros(random.u64(20..most));
        let waited = QueueTimings { queue: micros(3_000, random), inference: micros(20_000, random), entered: None };
        clock.wait(async { Ok(((), waited)) }, Some(micros(20_000, random)), || None).await.unwrap();
        let guard = version.request(Routing::BySplit);
        if request % 10 == 0 {
            guard.failed(&clock, &leeway::error::Error::InvalidInput("wrong".to_owned()));
        } else {
            drop(guard.succeeded(&clock));
        }
        version.batch(random.usize(1..100), 64, 8);
        let (features, observations) = rows(random, 0.3);
        for observation in &observations {
            if let (Some(predicted @ Predicted::Class(..)), true) = (version.predicted(*observation), random.bool()) {
                let class = random.usize(0..CLASSES);
                let truth = Truth::Label { class, name: class.to_string() };
                let delay = Some(Duration::from_secs(random.u64(1..100_000)));
                version.outcomes(|outcomes| outcomes.label(&predicted, &truth, delay));
            }
        }
        version.observe(features, observations.into_iter());
    }
}

fn main() {
    let mut random = fastrand::Rng::with_seed(1);
    let names: Vec<Arc<str>> =
        (0..FEATURES).map(|feature| format!("pixel[{}][{}]", feature / 8, feature % 8).into()).collect();
    let schema = FeatureSchema { numbers: names, texts: Vec::new() };
    let baseline = Arc::new(baseline(&mut random, &schema));
    for (name, top_features) in [("top 10", Some(10)), ("all", None)] {
        let monitor = Monitor::new("1.31.1", MonitoringWindows { top_features, ..Default::default() });
        let version = |number: usize| {
            let labels = VersionLabels {
                model: format!("model-{}", number / 3),
                version: (number % 3 + 1).to_string(),
                sha256: "ab".repeat(32),
                provider: "cpu",
            };
            let classes = Some((0..CLASSES).map(|class| class.to_string()).collect());
            let watched = MonitoringSpec {
                schema: schema.clone(),
                classes,
                baseline: Some(Arc::clone(&baseline)),
                ..MonitoringSpec::default()
            };
            monitor.version(labels, LatencyBudget::DEFAULT, watched)
        };
        let versions: Vec<Arc<VersionRecorder>> = (0..VERSIONS).map(version).collect();
        let quiet = monitor.render();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let versions = &versions;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let mut random = fastrand::Rng::with_seed(thread as u64);
                    for version in versions {
                        runtime.block_on(use_version(version, &mut random));
                    }
                });
            }
        });
        monitor.render();
        let mut times: Vec<Duration> = (0..20)
            .map(|_| {
                let begin = Instant::now();
                std::hint::black_box(compress(monitor.render().as_bytes()));
                begin.elapsed()
            })
            .collect();
        times.sort_unstable();
        let text = monitor.render();
        println!(
            "{VERSIONS} versions of {FEATURES} features, {name}: a scrape takes {:.1} ms, compressed (median of 20, at the most {:.1} ms), {} \
             lines, {} kB, {} kB gzipped; before any request {} lines, {} kB gzipped",
            times[10].as_secs_f64() * 1e3,
            times[19].as_secs_f64() * 1e3,
            text.lines().count(),
            text.len() / 1_000,
            compress(text.as_bytes()).len() / 1_000,
            quiet.lines().count(),
            compress(quiet.as_bytes()).len() / 1_000
        );
    }
}
