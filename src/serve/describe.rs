//! Descriptions of models for the protocols that have them: metadata, statistics, and the index of the repository.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::prediction_columns::column_specs;
use crate::api::admin::{ModelStatus, VersionState, VersionStatus};
use crate::api::v2::{
    DurationStatistic, IndexEntry, IndexState, InferStatistics, ModelConfig, ModelMetadata, ModelStatistics, PLATFORM,
    PLATFORM_OF_CHAINS, PipelineMetadata, Statistics, TensorConfig, TensorMetadata, datatype,
};
use crate::error::{Error, Result};
use crate::identity::ModelName;
use crate::monitor::{Latency, RequestPart, RequestStats};
use crate::pipeline::{Elements, FormColumn, InstanceForm};
use crate::registry::{Interface, ServedVersion, Snapshot, Target};
use crate::tensor::{DType, Dim, RowDimension, Signature, TensorSpec};

/// Level of detail of the reasons in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reasons {
    /// Reasons for callers, without paths.
    ForCallers,
    /// Reasons for operators.
    ForOperators,
}

/// Returns the metadata of a model: of the version that the target names, or else of its stable version.
pub fn model_metadata(snapshot: &Snapshot, target: Target<'_>) -> Result<ModelMetadata> {
    let (name, served, versions) = described(snapshot, target)?;
    let Some(pipeline) = served.pipeline() else { return chain_metadata(snapshot, name, served, versions) };
    let signature = pipeline.model.signature();
    let answered = pipeline.postprocessor.answered();
    let is_answered = |output: &&TensorSpec| answered.as_ref().is_none_or(|names| names.contains(&output.name));
    Ok(ModelMetadata {
        name: name.to_string(),
        versions,
        platform: PLATFORM.into(),
        inputs: signature.inputs.iter().map(|input| tensor_metadata(signature, input)).collect(),
        outputs: signature
            .outputs
            .iter()
            .filter(is_answered)
            .map(|output| tensor_metadata(signature, output))
            .collect(),
        pipeline: snapshot.interface_of(served, |interface| pipeline_metadata(&interface, Some(signature)))?,
    })
}

/// Returns the metadata of a chain, which has no tensors of its own: the columns that it takes and answers.
fn chain_metadata(
    snapshot: &Snapshot,
    name: &ModelName,
    served: &ServedVersion,
    versions: Vec<String>,
) -> Result<ModelMetadata> {
    let columns = snapshot.interface_of(served, |interface| pipeline_metadata(&interface, None))?;
    let (inputs, outputs) = columns.map(|columns| (columns.inputs, columns.outputs)).unwrap_or_default();
    Ok(ModelMetadata {
        name: name.to_string(),
        versions,
        platform: PLATFORM_OF_CHAINS.into(),
        inputs,
        outputs,
        pipeline: None,
    })
}

/// Returns the configuration of a model in Triton's form.
pub fn model_config(snapshot: &Snapshot, target: Target<'_>) -> Result<ModelConfig> {
    let ModelMetadata { name, platform, inputs, outputs, .. } = model_metadata(snapshot, target)?;
    let (_, served, _) = described(snapshot, target)?;
    let signature = served.pipeline().map(|pipeline| pipeline.model.signature());
    let is_first = |name: &str| signature.is_none_or(|signature| signature.rows_of(name) == RowDimension::At(0));
    // Triton leaves out the dimension of the rows only if it is the first of all tensors.
    let all = || inputs.iter().chain(&outputs);
    let has_rows = all().all(|tensor| is_first(&tensor.name));
    let tensor = |tensor: &TensorMetadata| TensorConfig {
        name: tensor.name.clone(),
        data_type: format!("TYPE_{}", if tensor.datatype == "BYTES" { "STRING" } else { &tensor.datatype }),
        dims: tensor.shape.iter().skip(usize::from(has_rows)).copied().collect(),
    };
    Ok(ModelConfig {
        name,
        platform,
        backend: if signature.is_some() { "onnxruntime" } else { PLATFORM_OF_CHAINS }.into(),
        max_batch_size: if has_rows { served.config.model.max_instances.get() } else { 0 },
        input: inputs.iter().map(tensor).collect(),
        output: outputs.iter().map(tensor).collect(),
    })
}

/// Returns the name of a model if it, or the version that the target names, can answer requests.
pub fn check_ready<'a>(
    snapshot: &'a Snapshot,
    target: Target<'_>,
    stuck_after: impl Fn(&ServedVersion) -> Duration,
) -> Result<&'a ModelName> {
    let (name, served, _) = described(snapshot, target)?;
    match served.is_stuck(stuck_after(served)) {
        false => Ok(name),
        true => Err(Error::ModelUnavailable {
            model: served.model.clone(),
            reason: format!("all workers of version {} are in runs that do not end", served.version),
        }),
    }
}

/// Returns the described version of a model: the named one, or else the stable one. With it, its name and the versions
/// that the description is about.
fn described<'a>(
    snapshot: &'a Snapshot,
    target: Target<'_>,
) -> Result<(&'a ModelName, &'a Arc<ServedVersion>, Vec<String>)> {
    if let Target::Version(name, version) = target {
        let served = snapshot.resolve(Target::Version(name, version), b"")?;
        return Ok((&served.model, served, vec![served.version.to_string()]));
    }
    let (name, model) = match target {
        Target::Model(name) | Target::Version(name, _) => snapshot.model(name)?,
        Target::Default => match snapshot.default_model() {
            Some(name) => snapshot.model(name.as_str())?,
            None => return snapshot.resolve(target, b"").map(|served| (&served.model, served, Vec::new())),
        },
    };
    let versions = model.versions.keys().map(ToString::to_string).collect();
    Ok((name, snapshot.stable_or_newest(name.as_str())?, versions))
}

/// Describes the columns that a version takes and answers. `None` if it takes no columns. `signature` is that of its model.
fn pipeline_metadata(interface: &Interface<'_>, signature: Option<&Signature>) -> Option<PipelineMetadata> {
    let tensor = |name: &str, dtype: DType, shape: Vec<i64>| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype(dtype).unwrap_or("SEQUENCE").into(),
        shape,
    };
    let form = interface.instance_form()?;
    let inputs: Vec<TensorMetadata> = match &form {
        InstanceForm::Value { column, elements: Elements::Named(names) } => {
            names.iter().map(|name| tensor(name, column.spec.dtype, vec![-1])).collect()
        }
        form => {
            let column = |column: &FormColumn| {
                tensor(column.name(), column.spec.dtype, column.spec.dims.iter().map(length).collect())
            };
            form.columns().iter().map(column).collect()
        }
    };
    let outputs = column_specs(&interface.prediction_kind());
    let outputs = outputs.iter().map(|spec| tensor(&spec.name, spec.dtype, vec![-1; spec.dimensions])).collect();
    let is_input = |column: &TensorMetadata| {
        signature.is_some_and(|signature| signature.inputs.iter().any(|input| *input.name == *column.name))
    };
    let content = inputs.iter().all(is_input).then_some("pipeline".into());
    Some(PipelineMetadata { content, inputs, outputs })
}

fn length(dim: &Dim) -> i64 {
    match dim {
        Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
        Dim::Dynamic(_) => -1,
    }
}

fn tensor_metadata(signature: &Signature, spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata {
        name: spec.name.to_string(),
        datatype: datatype(spec.dtype).unwrap_or("SEQUENCE").into(),
        shape: signature.in_the_file(spec).dims.iter().map(length).collect(),
    }
}

/// Returns the statistics of these versions.
pub fn statistics<'a>(versions: impl Iterator<Item = &'a Arc<ServedVersion>>, now: Duration) -> Statistics {
    let of_version = |served: &Arc<ServedVersion>| version_statistics(served, &served.recorder.request_stats(now));
    Statistics { model_stats: versions.map(of_version).collect() }
}

fn version_statistics(served: &ServedVersion, stats: &RequestStats) -> ModelStatistics {
    let statistic = |latency: &Latency| DurationStatistic { count: latency.count, ns: nanoseconds(latency.sum_s) };
    let part = |part| stats.latency.answered.get(&part).map(statistic).unwrap_or_default();
    let failed = stats.latency.unanswered.values().map(statistic);
    let fail = failed.fold(DurationStatistic::default(), |all, one| DurationStatistic {
        count: all.count + one.count,
        ns: all.ns + one.ns,
    });
    ModelStatistics {
        name: served.model.to_string(),
        version: served.version.to_string(),
        last_inference: stats.last_request_ms,
        inference_count: stats.rows,
        execution_count: stats.runs,
        inference_stats: InferStatistics {
            success: part(RequestPart::Total),
            fail,
            queue: part(RequestPart::Queue),
            compute_input: part(RequestPart::Preprocess),
            compute_infer: part(RequestPart::Inference),
            compute_output: part(RequestPart::Postprocess),
            cache_hit: DurationStatistic::default(),
            cache_miss: DurationStatistic::default(),
        },
        batch_stats: Vec::new(),
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Returns the index of the repository: each version of each model, or the model if it has none.
pub fn repository_index(
    models: &[ModelStatus],
    unserved: &BTreeMap<ModelName, String>,
    only_ready: bool,
    reasons: Reasons,
) -> Vec<IndexEntry> {
    let mut entries = Vec::new();
    for status in models {
        let why = status.unserved.as_deref().or_else(|| unserved.get(&status.model).map(String::as_str));
        entries.extend(status.versions.iter().map(|version| entry_of(&status.model, version, why, reasons)));
        if status.versions.is_empty() {
            entries.push(unavailable(&status.model, why.unwrap_or("it has no version")));
        }
    }
    let known = |name: &ModelName| models.iter().any(|status| status.model == *name);
    entries.extend(unserved.iter().filter(|(name, _)| !known(name)).map(|(name, why)| unavailable(name, why)));
    entries.retain(|entry| !only_ready || entry.state == IndexState::Ready);
    entries
}

fn entry_of(model: &ModelName, version: &VersionStatus, unserved: Option<&str>, reasons: Reasons) -> IndexEntry {
    let (state, reason) = match (&version.state, unserved) {
        (VersionState::Loaded, None) => (IndexState::Ready, String::new()),
        (VersionState::Loaded, Some(why)) => (IndexState::Unavailable, format!("the model is not served: {why}")),
        (VersionState::Loading { .. }, _) => (IndexState::Loading, String::new()),
        (VersionState::Available, _) => (IndexState::Unavailable, "not loaded".to_owned()),
        (VersionState::Refused { fault, .. }, _) if reasons == Reasons::ForCallers => {
            (IndexState::Unavailable, format!("refused ({})", fault.name()))
        }
        (VersionState::Refused { problem, .. }, _) => (IndexState::Unavailable, problem.clone()),
    };
    IndexEntry { name: model.to_string(), version: Some(version.version.to_string()), state, reason }
}

fn unavailable(model: &ModelName, why: &str) -> IndexEntry {
    IndexEntry { name: model.to_string(), version: None, state: IndexState::Unavailable, reason: why.to_owned() }
}
