//! Predictions by a model in this process. It is loaded as a server loads it, and gets the same requests. Nothing listens.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::value::{RawValue, to_raw_value};
use tokio::runtime::Runtime;

use super::predictor::{ColumnKind, KnownColumn, Predictor, Reply};
use crate::app::isolated_engine;
use crate::budget::{BlockingThreads, LatencyBudget, MemoryBudget};
use crate::cli::settings::one_thread;
use crate::config::{Config, RepositoryLocation, available_cores};
use crate::error::{Error, ErrorKind, Result as RequestResult};
use crate::identity::{ModelName, Version};
use crate::model::onnx::OnnxRuntime;
use crate::model::{InlineSlots, Priority};
use crate::monitor::Monitor;
use crate::pipeline::{RequestBody, Stages, request_body};
use crate::registry::{Catalog, LoadOrder, Loader, Pace, RunLimit, ServedModel, ServedVersion, Snapshot, Target};
use crate::repository::{self, Store};
use crate::serve::{EncodedRequest, Head, Input, Output, RequestOrigin, admit};
use crate::state::{self, PastJournal};
use crate::tensor::DType;
use crate::traffic::TrafficSplit;

/// Factor of the budget of a request over the default budget: an hour in all. Nobody waits for an answer.
const BUDGET_FACTOR: u32 = 18_000;

/// A version in this process.
pub(super) struct InProcess {
    runtime: Runtime,
    catalog: Catalog,
    threads: BlockingThreads,
    memory: MemoryBudget,
    version: Arc<ServedVersion>,
    columns: Vec<KnownColumn>,
}

/// The body of a request, as a server gets it.
struct Body {
    text: String,
    memory: MemoryBudget,
}

impl EncodedRequest for Body {
    type AnswerForm = ();

    fn size(&self) -> usize {
        self.text.len()
    }

    fn copied(&mut self, _: &MemoryBudget) -> Option<Body> {
        None
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> RequestResult<T>) -> RequestResult<(T, ())> {
        let input = match request_body(self.text.as_bytes())? {
            RequestBody::Instances(instances) => Input::Instances { instances, memory: &self.memory },
            RequestBody::Inputs(rows) | RequestBody::Rows(rows) => Input::Rows { rows, memory: &self.memory },
        };
        Ok((with(input)?, ()))
    }
}

impl InProcess {
    /// Loads a version of a model: the given one, or else the stable one, or without a journal the highest.
    pub(super) fn load(
        mut config: Config,
        models: RepositoryLocation,
        model: &ModelName,
        version: Option<Version>,
        stages: Stages,
    ) -> Result<InProcess> {
        config.repository.path = models;
        let store = repository::store(&config.repository, &config.state)?;
        let version = chosen(&config, &*store, model, version)?;
        let mut settings = store.read_config(model)?;
        if !settings.steps.is_empty() {
            bail!(
                "model {model} is a chain of models, and only a server runs chains: use --server, with `leeway serve` running"
            );
        }
        settings.budget = without_hurry();
        let order = LoadOrder {
            model: model.clone(),
            version,
            config_place: store.config_place(model),
            place: settings.model.isolation.place(true),
            config: Arc::new(settings),
            pace: Pace::Full,
        };
        let engine = OnnxRuntime::configured(&config)?;
        let loader = Loader {
            store,
            trusted_keys: config.repository.trusted_keys.clone().into(),
            isolated_engine: isolated_engine(&engine)?,
            monitor: Arc::new(Monitor::new("", config.monitoring.windows())),
            engine: Arc::new(engine),
            stages,
            inline_slots: InlineSlots::none(),
            // The trial keeps a server alive. Here, a model that ends the process harms nobody.
            trial: None,
            run_limit: RunLimit(config.loading.trial_timeout()),
            load_limit: config.loading.timeout(),
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no thread could be started")?;
        let served = {
            let _guard = runtime.enter();
            let prepared = loader.prepare(&order, &|_| {})?;
            Arc::new(loader.start(&order, prepared)?)
        };
        let columns = columns_of(&served);
        let catalog = Catalog::default();
        catalog.publish(snapshot(&served));
        let memory = MemoryBudget::new(config.http.body_memory(), NonZeroUsize::MIN);
        Ok(InProcess {
            runtime,
            catalog,
            threads: BlockingThreads::new(available_cores()),
            memory,
            version: served,
            columns,
        })
    }
}

/// Returns the version to load.
fn chosen(config: &Config, store: &dyn Store, model: &ModelName, given: Option<Version>) -> Result<Version> {
    let found = store.list()?;
    let of_model = found.models.iter().find(|found| found.name == *model);
    let Some(versions) = of_model.map(|found| &found.versions) else {
        let names: Vec<String> = found.models.iter().map(|found| found.name.to_string()).collect();
        bail!("{}: there is no model {model}; models: {}", config.repository.path, names.join(", "))
    };
    let exists = |version: &Version| versions.contains(version);
    match given {
        Some(given) if exists(&given) => return Ok(given),
        Some(given) => {
            let known: Vec<String> = versions.iter().map(Version::to_string).collect();
            bail!("model {model} has no version {given}; versions: {}", known.join(", "))
        }
        None => {}
    }
    let stable = one_thread()?.block_on(async {
        match state::past_journal(&config.state).await? {
            PastJournal::Written(journal) => {
                let latest = journal.latest().await?.deployments;
                Ok(latest.iter().find(|deployment| deployment.model == *model).map(|deployment| deployment.stable))
            }
            PastJournal::Empty | PastJournal::Unknown => anyhow::Ok(None),
        }
    })?;
    let highest = versions.iter().max().copied();
    stable.filter(exists).or(highest).ok_or_else(|| anyhow!("model {model} has no versions; leeway add makes one"))
}

/// Returns a latency budget that ends no request of a command.
fn without_hurry() -> LatencyBudget {
    let LatencyBudget { total, network, preprocess, inference, postprocess, enforce } = LatencyBudget::DEFAULT;
    let [total, network, preprocess, inference, postprocess] =
        [total, network, preprocess, inference, postprocess].map(|part| BUDGET_FACTOR * part);
    LatencyBudget { total, network, preprocess, inference, postprocess, enforce }
}

/// Returns a snapshot with one version.
fn snapshot(served: &Arc<ServedVersion>) -> Snapshot {
    let model = ServedModel {
        description: None,
        versions: BTreeMap::from([(served.version, Arc::clone(served))]),
        stable: served.version,
        split: TrafficSplit::all_to(served.version),
        shadow: None,
    };
    Snapshot::new(BTreeMap::from([(served.model.clone(), model)]), BTreeMap::new(), Some(served.model.clone()))
}

fn columns_of(served: &ServedVersion) -> Vec<KnownColumn> {
    let kind = |dtype| match dtype {
        DType::Text => ColumnKind::Text,
        DType::Bool => ColumnKind::Boolean,
        _ => ColumnKind::Number,
    };
    let form = served.pipeline().and_then(|pipeline| pipeline.preprocessor.instance_form());
    let columns = form.iter().flat_map(|form| form.columns());
    columns.map(|column| KnownColumn { name: column.name().to_owned(), kind: kind(column.spec.dtype) }).collect()
}

impl Predictor for InProcess {
    fn name(&self) -> String {
        format!("{} version {}", self.version.model, self.version.version)
    }

    fn columns(&self) -> &[KnownColumn] {
        &self.columns
    }

    fn concurrency(&self) -> usize {
        available_cores().get() + 1
    }

    fn request_time(&self) -> Duration {
        Duration::from_millis(50)
    }

    fn predict(&self, body: &str) -> Result<Reply> {
        let head = Head {
            target: Target::Default,
            routing_key: b"",
            read_at: Instant::now(),
            client_timeout: None,
            priority: Priority::default(),
            media_type: None,
            origin: RequestOrigin::Real,
            notes: None,
            to_log: None,
            shadows: None,
        };
        let body = Body { text: body.to_owned(), memory: self.memory.clone() };
        let encode = |output: Output<'_>, (), _: &ServedVersion| {
            let Output::Predictions { predictions, .. } = output else { return Err(Error::internal("no predictions")) };
            let texts = predictions.iter().map(to_raw_value).collect::<Result<Vec<Box<RawValue>>, _>>();
            texts.map_err(Error::internal)
        };
        let answered = self.runtime.block_on(async {
            let admitted = admit(&self.catalog, head)?;
            let arriving = pin!(async { Ok(body) });
            admitted.infer(arriving, &self.threads, encode).await
        });
        match answered {
            Ok(answer) => Ok(Reply::Predictions(answer.encoded)),
            Err(error) => match error.kind() {
                ErrorKind::InvalidArgument | ErrorKind::ModelFailed => Ok(Reply::Refused(error.to_string())),
                ErrorKind::Overloaded | ErrorKind::Unavailable => Ok(Reply::Busy(error.to_string(), None)),
                ErrorKind::DeadlineExceeded => Ok(Reply::TooSlow(error.to_string())),
                _ => bail!("{}", error.for_operators()),
            },
        }
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.version.pipeline().into_iter().for_each(|pipeline| pipeline.model.retire());
    }
}
