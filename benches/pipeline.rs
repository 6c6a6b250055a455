//! Criterion: conversion of JSON to tensors, counting of features, a run in the server's process and in its own, and
//! the whole pipeline without HTTP, on the shipped digits.
//!
//! `serde_json to Vec<Vec<f32>>` is what most servers do, for comparison.

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use leeway::budget::{ArrivedBytes, BlockingThreads, Deadline, LatencyBudget, MemoryBudget};
use leeway::config::{Config, LoadingConfig, MonitoringConfig, MonitoringWindows, SessionConfig};
use leeway::deploy::Deployer;
use leeway::error::{Result, SetupError};
use leeway::feature::{Certainty, FeatureSchema, Features, Observation};
use leeway::feedback::Signer;
use leeway::model::isolated::IsolatedEngine;
use leeway::model::onnx::OnnxRuntime;
use leeway::model::{Engine, InlineSlots, ModelBytes, ModelSource, Priority};
use leeway::monitor::{Monitor, MonitoringSpec, Sample, VersionLabels};
use leeway::pipeline::{Stages, instances};
use leeway::prediction_log::{PredictionLog, RequestToLog};
use leeway::registry::{Catalog, Loader, RunLimit, ServedVersion, Target};
use leeway::repository::LocalFolder;
use leeway::serve::{self, EncodedRequest, Head, Input, Output, RequestOrigin};
use leeway::state::{MemoryFleet, MemoryJournal};
use leeway_testkit::{checkout, held_out, leeway_program, shipped};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

/// Returns the body of a request with this many digits.
fn body(rows: usize) -> Vec<u8> {
    json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..rows] }).to_string().into_bytes()
}

fn config() -> Config {
    let mut config = Config::default();
    config.repository.path = checkout().join("models").into();
    config.repository.default_model = Some("digits".parse().unwrap());
    config
}

/// Loads the shipped models.
fn catalog(runtime: &tokio::runtime::Runtime) -> Arc<Catalog> {
    let engine: Arc<dyn Engine> = Arc::new(OnnxRuntime::load(&config().library_candidates()).unwrap());
    let monitor = Arc::new(Monitor::new(engine.version(), Default::default()));
    let inline_slots = InlineSlots::for_threads(2.try_into().unwrap()).unwrap();
    let limits = LoadingConfig::default();
    let loader = Loader {
        store: Arc::new(LocalFolder::new(checkout().join("models"))),
        trusted_keys: Default::default(),
        engine,
        isolated_engine: None,
        stages: Stages::default(),
        monitor,
        inline_slots,
        trial: None,
        run_limit: RunLimit(limits.trial_timeout()),
        load_limit: limits.timeout(),
    };
    let (catalog, journal) = (Arc::new(Catalog::default()), Arc::new(MemoryJournal::default()));
    let fleet = Arc::new(MemoryFleet);
    runtime.block_on(Deployer::start(loader, journal, fleet, Arc::clone(&catalog), config().repository)).unwrap();
    catalog
}

fn json_to_tensor(criterion: &mut Criterion) {
    #[derive(Deserialize)]
    struct Request {
        instances: Vec<Vec<f32>>,
    }

    let catalog = catalog(&tokio::runtime::Runtime::new().unwrap());
    let digits = catalog.resolve(Target::Default, b"").unwrap();
    let stage = &digits.pipeline().unwrap().preprocessor;

    let mut group = criterion.benchmark_group("json to tensor");
    for rows in [1, 32, 256] {
        let body = body(rows);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("leeway", rows), &body, |bencher, body| {
            bencher.iter(|| stage.transform(instances(body).unwrap(), Deadline::never()).unwrap());
        });
        group.bench_with_input(BenchmarkId::new("serde_json to Vec<Vec<f32>>", rows), &body, |bencher, body| {
            bencher.iter(|| {
                let request: Request = serde_json::from_slice(body).unwrap();
                request.instances.into_iter().flatten().collect::<Vec<f32>>()
            });
        });
    }
    group.finish();
}

/// The JSON body of a `POST /predict`.
struct Json(ArrivedBytes);

impl EncodedRequest for Json {
    type AnswerForm = ();

    fn size(&self) -> usize {
        self.0.len()
    }

    fn copied(&mut self, memory: &MemoryBudget) -> Option<Json> {
        self.0.copied(memory).ok().map(Json)
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, ())> {
        let body = self.0.whole();
        Ok((with(Input::Instances { instances: instances(&body)?, memory: body.budget() })?, ()))
    }
}

fn whole_pipeline(criterion: &mut Criterion) {
    let threads = BlockingThreads::new(2.try_into().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let catalog = catalog(&runtime);
    let memory = MemoryBudget::new(1 << 30, 1024.try_into().unwrap());

    let mut group = criterion.benchmark_group("whole pipeline");
    for rows in [1, 32, 256] {
        let body = Bytes::from(body(rows));
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_with_input(BenchmarkId::from_parameter(rows), &body, |bencher, body| {
            bencher.to_async(&runtime).iter(|| predict(&catalog, &memory, &threads, body, None));
        });
    }
    group.finish();
}

/// Measures the whole pipeline with the prediction log: off, on for other requests, and on for this one.
fn prediction_log(criterion: &mut Criterion) {
    let threads = BlockingThreads::new(2.try_into().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (catalog, memory) = (catalog(&runtime), MemoryBudget::new(1 << 30, 1024.try_into().unwrap()));
    let body = Bytes::from(body(1));
    let mut group = criterion.benchmark_group("prediction log, one row");
    for (name, sample) in [("off", None), ("not sampled", Some(0.0)), ("sampled", Some(1.0))] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config().prediction_log;
        config.path = sample.map(|_| folder.path().to_owned());
        config.sample = sample.unwrap_or_default();
        // The disk is not measured.
        (config.queue_mb, config.file_rows) = (1024, 1_000_000);
        let log = PredictionLog::start(&config, Signer::new(b"key"), &Arc::default()).unwrap();
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let to_log = log.as_ref().map(|log| RequestToLog { log, unique: Uuid::now_v7(), request_id: "bench" });
                predict(&catalog, &memory, &threads, &body, to_log).await
            });
        });
        if let Some(log) = log {
            runtime.block_on(log.close());
        }
    }
    group.finish();
}

/// Answers a request. Returns the number of predictions.
async fn predict(
    catalog: &Catalog,
    memory: &MemoryBudget,
    threads: &BlockingThreads,
    body: &Bytes,
    to_log: Option<RequestToLog<'_>>,
) -> usize {
    let head = Head {
        target: Target::Default,
        routing_key: b"",
        read_at: Instant::now(),
        client_timeout: None,
        priority: Priority::Normal,
        media_type: None,
        origin: RequestOrigin::Real,
        notes: None,
        to_log,
        shadows: None,
    };
    let admitted = serve::admit(catalog, head).unwrap();
    let body = pin!(async {
        let mut arrived = ArrivedBytes::new(memory, body.len());
        arrived.add(body.clone()).map(|()| Json(arrived))
    });
    let count = |output: Output<'_>, (), _: &ServedVersion| match output {
        Output::Predictions { predictions, .. } => Ok(predictions.len()),
        Output::Named(_) => Ok(0),
    };
    admitted.infer(body, threads, count).await.unwrap().encoded
}

/// Measures counting the features of one row in the bins of its baseline.
fn watching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("watching one row");
    for width in [64, 512] {
        let names = (0..width).map(|number| format!("x{number}").into()).collect();
        let schema = FeatureSchema { numbers: names, texts: Vec::new() };
        let mut random = fastrand::Rng::with_seed(1);
        let mut features = |rows: usize| {
            let mut features = Features::with_rows(rows);
            features.numbers = (0..rows * width).map(|_| random.f32()).collect();
            features
        };
        let training = features(2_000);
        let nothing = vec![Observation::Nothing; training.rows()];
        let mut sample = Sample::new(schema.clone(), None);
        sample.add(&training, &nothing);
        let mut builder = sample.freeze();
        builder.count(&training, &nothing);
        let settings = MonitoringConfig { max_features: width, ..MonitoringConfig::default() };
        let baseline = Some(Arc::new(builder.finish()));
        let watched = MonitoringSpec { schema, baseline, settings, ..MonitoringSpec::default() };
        let monitor = Monitor::new("", MonitoringWindows::default());
        let labels = VersionLabels { model: "m".into(), version: "1".into(), sha256: String::new(), provider: "cpu" };
        let recorder = monitor.version(labels, LatencyBudget::DEFAULT, watched);
        let rows: Vec<Features> = (0..100).map(|_| features(1)).collect();
        let certainty = Certainty { confidence: 0.9, margin: 0.85, entropy: 0.1 };
        let mut next = rows.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(format!("{width} features")), |bencher| {
            bencher.iter(|| {
                let made = [Observation::Class { class: 3, certainty }];
                recorder.observe(next.next().unwrap().clone(), made.into_iter());
            });
        });
    }
    group.finish();
}

#[derive(Debug)]
struct Digits;

impl ModelSource for Digits {
    fn read(&self) -> Result<Arc<ModelBytes>, SetupError> {
        let path = shipped("digits", 2).join("model.onnx");
        Ok(Arc::new(ModelBytes { model: std::fs::read(path).unwrap().into(), external: Vec::new() }))
    }
}

/// Measures a run of one row in the server's process, and in a separate one (`isolation = "process"`).
fn one_run(criterion: &mut Criterion) {
    let runtime = OnnxRuntime::load(&config().library_candidates()).unwrap();
    let isolated = IsolatedEngine {
        program: leeway_program(),
        libraries: runtime.libraries(),
        version: runtime.version().to_owned(),
    };
    let catalog = catalog(&tokio::runtime::Runtime::new().unwrap());
    let served = catalog.resolve(Target::Default, b"").unwrap();
    let stage = &served.pipeline().unwrap().preprocessor;
    let inputs = stage.transform(instances(&body(1)).unwrap(), Deadline::never()).unwrap().inputs;

    let mut group = criterion.benchmark_group("one run");
    let engines: [(&str, &dyn Engine); 2] = [("in the server", &runtime), ("in a process of its own", &isolated)];
    for (place, engine) in engines {
        let model = engine.load(Arc::new(Digits), &SessionConfig::default()).unwrap();
        let mut session = model.open().unwrap();
        group.bench_function(place, |bencher| bencher.iter(|| session.run(&inputs).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, json_to_tensor, watching, one_run, whole_pipeline, prediction_log);
criterion_main!(benches);
