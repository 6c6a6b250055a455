//! What loads have found out and made is remembered, so that a restart is quick.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leeway::app::Stop;
use leeway::config::Config;
use leeway::model::onnx::OnnxRuntime;
use leeway::registry::Trial;
use leeway::repository::LoadCache;
use leeway_testkit::{leeway_program, shipped};
use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, TestApp, trial};

/// A file that makes a version large enough for a kept graph.
const LARGE: (&str, &[u8]) = ("padding.bin", &[0; 17 << 20]);

/// A folder for a cache.
struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Cache {
        Cache(tempfile::tempdir().unwrap())
    }

    /// Trials that are remembered here.
    fn trial(&self, config: &Config, max_bytes: u64) -> Trial {
        let libraries = OnnxRuntime::load(&config.library_candidates()).unwrap().libraries();
        let cache = LoadCache::open(self.0.path(), max_bytes, &libraries, &leeway_program()).unwrap();
        Trial { cache: Some(Arc::new(cache)), ..trial(config) }
    }

    /// Trials that fail, so that only what is remembered can be served.
    fn no_trial(&self, config: &Config) -> Trial {
        Trial { program: PathBuf::from("/bin/false"), ..self.trial(config, u64::MAX) }
    }

    /// Starts a server that keeps the graph of its model, and stops it. Returns its answer.
    async fn first_answer(&self, config: &Config) -> Value {
        let first = TestApp::with_trial(config.clone(), self.trial(config, u64::MAX)).await;
        let expected = answer(&first).await;
        shut_down(first).await;
        expected
    }

    /// The folders of the kept graphs.
    fn graphs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.path().join("graphs")).unwrap();
        entries.map(|entry| entry.unwrap().path().canonicalize().unwrap()).collect()
    }
}

fn digits() -> PathBuf {
    shipped("digits", 2).join("model.onnx")
}

/// A model with a file that makes it large.
fn large(model: &Path, version: u32, others: &[(&str, &[u8])]) -> Repository {
    let files = [&[LARGE], others].concat();
    Repository::new().with_version("large", version, model, &files).with_config("large", PLAIN)
}

fn rows() -> Value {
    let row = |first: u32| (0..64).map(|pixel| f64::from((first + pixel) % 17)).collect::<Vec<f64>>();
    json!([row(0), row(5)])
}

async fn answer(app: &TestApp) -> Value {
    app.predict("/v1/models/large:predict", json!({ "instances": rows() }).to_string()).await.predictions()
}

async fn state_of(app: &TestApp) -> Value {
    app.admin_get("/admin/v1/models").await.json()["models"][0]["versions"][0].clone()
}

/// Returns true if this process has mapped a file below this folder into memory.
fn is_mapped(folder: &Path) -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(folder.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_tried_out_is_not_tried_out_again() {
    let cache = Cache::new();
    let repository = Repository::of("plus_1");
    let config = repository.config();
    let loaded = async |trial: Trial| {
        let app = TestApp::with_trial(config.clone(), trial).await;
        state_of(&app).await["state"].clone()
    };
    assert_eq!(loaded(cache.no_trial(&config)).await, "refused");
    assert_eq!(loaded(cache.trial(&config, u64::MAX)).await, "loaded");
    assert_eq!(loaded(cache.no_trial(&config)).await, "loaded");
    // Other settings, other limits, or other files: what is remembered does not count.
    let model_toml = repository.path().join("plus_1/model.toml");
    std::fs::write(&model_toml, format!("{PLAIN}max_instances = 7\n")).unwrap();
    assert_eq!(loaded(cache.no_trial(&config)).await, "refused");
    std::fs::write(&model_toml, PLAIN).unwrap();
    assert_eq!(loaded(cache.no_trial(&config)).await, "loaded");
    let other_limit = Trial { memory: Some(1 << 30), ..cache.no_trial(&config) };
    assert_eq!(loaded(other_limit).await, "refused");
    let other = Repository::new().with("plus_1", 1, "plus_2", PLAIN);
    let app = TestApp::with_trial(other.config(), cache.no_trial(&config)).await;
    assert_eq!(state_of(&app).await["state"], "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_of_a_large_model_is_kept_and_shared() {
    let cache = Cache::new();
    let repository = large(&digits(), 1, &[]);
    let config = repository.config();
    let first = TestApp::with_trial(config.clone(), cache.trial(&config, u64::MAX)).await;
    let expected = answer(&first).await;
    let graphs = cache.graphs();
    assert_eq!(graphs.len(), 1, "{graphs:?}");
    assert!(is_mapped(&graphs[0]));
    shut_down(first).await;
    assert!(!is_mapped(&graphs[0]));

    let again = TestApp::with_trial(config.clone(), cache.no_trial(&config)).await;
    assert_eq!(answer(&again).await, expected);
    assert!(is_mapped(&graphs[0]));
    shut_down(again).await;

    // Another version with the same model has the same graph, and so have its workers.
    let more = PLAIN.replace("workers = 1", "workers = 3");
    let golden = json!({ "instances": rows(), "predictions": expected }).to_string();
    let other = large(&digits(), 2, &[("golden.json", golden.as_bytes())]).with_config("large", &more);
    let app = TestApp::with_trial(other.config(), cache.trial(&config, u64::MAX)).await;
    assert_eq!(answer(&app).await, expected);
    assert_eq!(cache.graphs(), graphs);
}

/// Stops a server, and waits until its sessions are closed.
async fn shut_down(app: TestApp) {
    app.stop.send(Stop::AtOnce).await.unwrap();
    app.running.await.unwrap().unwrap();
}

/// Changes one byte of the weights of the only kept graph.
fn damage(cache: &Cache) {
    let weights = cache.graphs()[0].join("weights.bin");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&weights, bytes).unwrap();
}

/// With other settings, the findings of the trial do not count, but the graph would.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_graph_is_replaced_by_the_next_trial() {
    let cache = Cache::new();
    let repository = large(&digits(), 1, &[]);
    let config = repository.config();
    let expected = cache.first_answer(&config).await;
    damage(&cache);
    std::fs::write(repository.path().join("large/model.toml"), format!("{PLAIN}max_instances = 7\n")).unwrap();
    let tried = TestApp::with_trial(config.clone(), cache.trial(&config, u64::MAX)).await;
    assert_eq!(answer(&tried).await, expected);
    shut_down(tried).await;
    let again = TestApp::with_trial(config.clone(), cache.no_trial(&config)).await;
    assert_eq!(answer(&again).await, expected);
    assert!(is_mapped(&cache.graphs()[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_graph_is_never_used() {
    let cache = Cache::new();
    let repository = large(&digits(), 1, &[]);
    let config = repository.config();
    let expected = cache.first_answer(&config).await;
    damage(&cache);
    let graph = cache.graphs()[0].clone();
    // The version was tried out, so it is opened from its own file. The graph is thrown away, and made by the next trial.
    let from_file = TestApp::with_trial(config.clone(), cache.no_trial(&config)).await;
    assert_eq!(answer(&from_file).await, expected);
    assert!(!is_mapped(&graph));
    assert_eq!(cache.graphs(), [] as [PathBuf; 0]);
    shut_down(from_file).await;
    let refused = TestApp::with_trial(config.clone(), cache.no_trial(&config)).await;
    assert_eq!(state_of(&refused).await["state"], "refused");
    let app = TestApp::with_trial(config.clone(), cache.trial(&config, u64::MAX)).await;
    assert_eq!(answer(&app).await, expected);
    assert_eq!(cache.graphs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_its_graph_a_model_is_served_from_its_file() {
    let cache = Cache::new();
    let repository = large(&digits(), 1, &[]);
    let config = repository.config();
    let app = TestApp::with_trial(config.clone(), cache.trial(&config, 1 << 20)).await;
    let expected = answer(&app).await;
    assert_eq!(cache.graphs(), [] as [PathBuf; 0]);
    // The findings are kept all the same.
    let trial = Trial { program: PathBuf::from("/bin/false"), ..cache.trial(&config, 1 << 20) };
    let app = TestApp::with_trial(config.clone(), trial).await;
    assert_eq!(answer(&app).await, expected);
}
