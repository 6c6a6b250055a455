//! Makes a version's baseline, by running its own pipeline over the training data.
//!
//! The training data are read three times, row by row, and never held as a whole: to count the rows, to run the sample that
//! decides the bins, and to count all rows into the bins.

use serde_json::value::RawValue;

use super::columns::LabelColumn;
use super::data_file::DataFile;
use super::data_rows::Source;
use super::labelled_rows::{LabelledData, count};
use super::row::Row;
use super::row_times::{RowTimes, moment_of};
use crate::error::{Result, SetupError};
use crate::feature::{Features, Observation};
use crate::model::Session;
use crate::monitor::{
    Baseline, BaselineBuilder, LabelledBaseline, LabelledCounter, MIN_SLOT_VALUES, Sample, time_zone,
};
use crate::pipeline::{Prediction, PredictionKind, embeddings, some_of};
use crate::registry::{Findings, OpenedVersion};

/// Seed of the random sample of rows that decides the bins of a baseline. The same rows are drawn every time.
const SEED: u64 = 0x1ee_3a9;
/// Maximum number of sampled rows, and of their values in total, which bounds the memory to 160 MB.
const MAX_SAMPLED_ROWS: u64 = 20_000;
const MAX_SAMPLED_VALUES: u64 = 20_000_000;
/// Maximum number of rows of training data in one run.
const ROWS_AT_ONE_TIME: usize = 256;
/// Length of the rows of one run as JSON, in bytes, after which no more are added: images can be large.
const BYTES_AT_ONE_TIME: usize = 16 << 20;
/// Number of rows below which a baseline is called small. By chance alone, the PSI of a feature with ten bins is then
/// about 0.02, a fifth of what counts as a warning.
const FEW_ROWS: u64 = 500;
/// Number of labelled rows below which there is a remark.
const FEW_LABELLED_ROWS: u64 = 1_000;

/// Data from which a baseline is made.
#[derive(Debug, Clone)]
pub struct BaselineData {
    /// The training data.
    pub training: DataFile,
    /// Rows that the model was not trained on, with their truth, for the accuracy that is to be expected.
    pub labelled: Option<LabelledData>,
}

/// Progress of making a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The step: `sampling`, `counting` or `labelled`.
    pub step: &'static str,
    /// Number of finished rows.
    pub done: u64,
    /// Total number of rows.
    pub rows: u64,
}

/// Makes a baseline by running the pipeline over training data and labelled data. Also returns remarks on the data.
pub(super) fn make_baseline(
    BaselineData { training, labelled }: &BaselineData,
    opened: &OpenedVersion,
    findings: &Findings,
    progress: &dyn Fn(Progress),
) -> Result<(Baseline, Vec<String>), SetupError> {
    let label = labelled.as_ref().map(|labelled| &*labelled.column);
    if let Some(labelled) = labelled {
        check_labelled(training, labelled, opened)?;
    }
    let (mut baseline, mut remarks) = distribution_of(training, label, opened, findings, progress)?;
    if let Some(labelled) = labelled {
        let quality = quality_on(labelled, opened, findings, progress)?;
        remarks.extend(remark_on_few_labels(quality.rows()));
        baseline.labelled = Some(quality);
    }
    Ok((baseline, remarks))
}

/// Checks that labelled data fit the version and the training data, before either is run.
fn check_labelled(
    training: &DataFile,
    LabelledData { data, column }: &LabelledData,
    opened: &OpenedVersion,
) -> Result<(), SetupError> {
    if opened.prediction_kind() == PredictionKind::Anomaly {
        return Err(repository(format!(
            "the label column {column:?}: an anomaly detector has no true scores to compare with; --label-column is for \
             classifiers and regressors"
        )));
    }
    let mut session = opened.session().map_err(repository)?;
    let labelled = Source::open(data, Some(LabelColumn::Read(column)), opened, &mut *session)?;
    let training_source = Source::open(training, Some(LabelColumn::LeftOut(column)), opened, &mut *session)?;
    match (training_source.in_the_order_of_the_file(), labelled.in_the_order_of_the_file()) {
        (Some(expected), Some(found)) if expected != found => Err(repository(format!(
            "{}: the columns are not those of {} in the same order ({}, and not {}); they are used in the order of the \
             file",
            data.path.display(),
            training.path.display(),
            some_of(found),
            some_of(expected)
        ))),
        _ => Ok(()),
    }
}

/// Measures the predictions for labelled rows.
fn quality_on(
    LabelledData { data, column }: &LabelledData,
    opened: &OpenedVersion,
    findings: &Findings,
    progress: &dyn Fn(Progress),
) -> Result<LabelledBaseline, SetupError> {
    let at_one_time = opened.rows_at_one_time(ROWS_AT_ONE_TIME, findings);
    let mut session = opened.session().map_err(repository)?;
    let source = Source::open(data, Some(LabelColumn::Read(column)), opened, &mut *session)?;
    let mut runner = Runner { opened, at_one_time, session };
    let rows = source.count()?;
    let (names, mut counter) = (opened.class_names(), LabelledCounter::new(opened.class_names()));
    let mut take = |rows: &[Row], _: &Features, made: &[Observation]| {
        rows.iter().zip(made).try_for_each(|(row, prediction)| {
            let counted = count(&mut counter, row, *prediction, names.as_deref().unwrap_or_default());
            counted.map_err(|problem| source.wrong(&row.place, &format!("column {column:?}: {problem}")))
        })
    };
    runner.run(&source, &mut |_| true, &|done| progress(Progress { step: "labelled", done, rows }), &mut take)?;
    let wrong = |problem: &str| repository(format!("{}: column {column:?} {problem}", data.path.display()));
    match counter.finish() {
        None => Err(wrong("has no labels")),
        Some(LabelledBaseline::Values(values)) if !values.root_mean_squared_error.is_finite() => {
            Err(wrong("is so far from the predictions that the squares of the errors are not finite"))
        }
        Some(quality) => Ok(quality),
    }
}

/// Counts the distributions of the features of training data, and of the predictions for them. The column `label` is left
/// out.
fn distribution_of(
    data: &DataFile,
    label: Option<&str>,
    opened: &OpenedVersion,
    findings: &Findings,
    progress: &dyn Fn(Progress),
) -> Result<(Baseline, Vec<String>), SetupError> {
    let at_one_time = opened.rows_at_one_time(ROWS_AT_ONE_TIME, findings);
    let mut session = opened.session().map_err(repository)?;
    let source = Source::open(data, label.map(LabelColumn::LeftOut), opened, &mut *session)?;
    let mut runner = Runner { opened, at_one_time, session };
    let rows = source.count()?;
    if rows == 0 {
        return Err(SetupError::Repository(format!("{}: there are no rows", data.path.display())));
    }
    let remarks = source.remarks().into_iter().chain(remark_on_few(rows)).collect();

    let schema = opened.features();
    let width = schema.len() as u64 + 4;
    let wanted = rows.min(MAX_SAMPLED_ROWS).min((MAX_SAMPLED_VALUES / width).max(1_000));
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut still_wanted = wanted;
    let mut sample = Sample::new(schema, opened.class_names()).without(opened.ignored_features());
    // Draws each row with probability (rows still wanted) / (rows left) (Knuth, TAOCP 2, 3.4.2, S).
    let mut is_drawn = |row: u64| {
        // A file that has grown since its rows were counted has more of them.
        let is_drawn = row < rows && random.u64(0..rows - row) < still_wanted;
        still_wanted -= u64::from(is_drawn);
        is_drawn
    };
    let step = |step| move |done| progress(Progress { step, done, rows });
    let mut add = |_: &[Row], features: &Features, made: &[Observation]| {
        sample.add(features, made);
        Ok(())
    };
    runner.run(&source, &mut is_drawn, &step("sampling"), &mut add)?;
    let mut builder = sample.freeze();
    let Some(times) = &data.times else {
        let mut count = |_: &[Row], features: &Features, made: &[Observation]| {
            builder.count(features, made);
            Ok(())
        };
        runner.run(&source, &mut |_| true, &step("counting"), &mut count)?;
        return Ok((builder.finish(), remarks));
    };
    let counting = (&source, &step("counting") as &dyn Fn(u64));
    let baseline = with_profile(builder, times, &mut runner, counting)?;
    let remarks = remarks.into_iter().chain(remarks_on_times(&baseline, times)?).collect();
    Ok((baseline, remarks))
}

/// Counts all rows, also by hour.
fn with_profile(
    mut builder: BaselineBuilder,
    times: &RowTimes,
    runner: &mut Runner<'_>,
    (source, progress): (&Source, &dyn Fn(u64)),
) -> Result<Baseline, SetupError> {
    let zone = time_zone(&times.time_zone).map_err(|problem| repository(format!("--time-zone: {problem}")))?;
    let settings = runner.opened.monitoring().clone();
    let mut by_hour = builder.by_hour(settings, &times.time_zone).map_err(repository)?;
    let mut count = |rows: &[Row], features: &Features, made: &[Observation]| {
        builder.count(features, made);
        rows.iter().enumerate().try_for_each(|(index, row)| {
            let time = row.time.as_ref().map_or(Ok(None), |time| moment_of(time, &zone));
            let wrong = |problem: String| {
                let column = times.column.as_deref().unwrap_or("time");
                source.wrong(&row.place, &format!("column {column:?}: {problem}"))
            };
            let predictions = made.get(index..=index).unwrap_or_default();
            by_hour.count(time.map_err(wrong)?, features.of_row(index), predictions);
            Ok(())
        })
    };
    runner.run(source, &mut |_| true, progress, &mut count)?;
    Ok(builder.finish_with_profile(&by_hour))
}

/// Returns remarks on the profile by time of day. Fails if no row has a time.
fn remarks_on_times(baseline: &Baseline, times: &RowTimes) -> Result<Vec<String>, SetupError> {
    let Some(profile) = &baseline.profile else { return Ok(Vec::new()) };
    let timed: u64 = profile.rows.iter().sum();
    if timed == 0 {
        let column = times.column.as_deref().unwrap_or("time");
        return Err(repository(format!("no row has a time in {column:?}")));
    }
    let untimed = (profile.untimed_rows > 0).then(|| {
        format!(
            "{} of {} rows have no time: they are in the baseline, but not in its profile by time of day",
            profile.untimed_rows,
            profile.untimed_rows + timed
        )
    });
    let (known, slots) = (profile.known_slots(), profile.rows.len());
    let few = (known < slots).then(|| {
        format!(
            "the profile by time of day has {known} of {slots} hours with {MIN_SLOT_VALUES} rows or more; at other hours, \
             requests are judged as without a profile"
        )
    });
    Ok(untimed.into_iter().chain(few).collect())
}

/// Returns a remark on a baseline of few rows.
fn remark_on_few(rows: u64) -> Option<String> {
    /// Number of bins of most numeric features, less one.
    const BINS_LESS_ONE: f64 = 9.0;
    (rows < FEW_ROWS).then(|| {
        format!(
            "the baseline has only {rows} rows: by chance alone, the PSI of a numeric feature is about {:.2} (0.1 counts as \
             a shift); drift is reported less this amount, and smaller shifts are not found. 1,000 rows are enough",
            BINS_LESS_ONE / rows as f64
        )
    })
}

/// Returns a remark on few labelled rows.
fn remark_on_few_labels(rows: u64) -> Option<String> {
    (rows < FEW_LABELLED_ROWS).then(|| {
        format!(
            "there are only {rows} labelled rows: accuracy is estimated without labels from 100 labelled rows on, and a fall \
             of three points can be told from chance with about {FEW_LABELLED_ROWS} or more"
        )
    })
}

fn repository(problem: impl std::fmt::Display) -> SetupError {
    SetupError::Repository(problem.to_string())
}

// ===== running =====

/// Takes rows, their features and their predictions.
type Take<'a> = &'a mut dyn FnMut(&[Row], &Features, &[Observation]) -> Result<(), SetupError>;

struct Runner<'a> {
    opened: &'a OpenedVersion,
    /// Number of rows in one run.
    at_one_time: usize,
    session: Box<dyn Session>,
}

impl Runner<'_> {
    /// Runs the pipeline on the wanted rows, with up to `at_one_time` rows in one run.
    fn run(
        &mut self,
        source: &Source,
        is_wanted: &mut dyn FnMut(u64) -> bool,
        progress: &dyn Fn(u64),
        take: Take<'_>,
    ) -> Result<(), SetupError> {
        let at_one_time = self.at_one_time;
        let mut waiting: Vec<Row> = Vec::with_capacity(at_one_time);
        let (mut bytes, mut done) = (0, 0);
        for row in source.rows()? {
            let row = row?;
            if is_wanted(done) {
                bytes += row.instance.get().len();
                waiting.push(row);
            }
            done += 1;
            if waiting.len() == at_one_time || bytes > BYTES_AT_ONE_TIME {
                self.run_some(source, &waiting, take)?;
                waiting.clear();
                bytes = 0;
                progress(done);
            }
        }
        if !waiting.is_empty() {
            self.run_some(source, &waiting, take)?;
        }
        progress(done);
        Ok(())
    }

    fn run_some(&mut self, source: &Source, rows: &[Row], take: Take<'_>) -> Result<(), SetupError> {
        match self.predict(rows) {
            Ok((features, made)) => take(rows, &features, &made),
            // Runs the rows one by one: rows of different lengths then succeed, and the error names a faulty row.
            Err(_) => rows.iter().map(std::slice::from_ref).try_for_each(|row| {
                let (features, made) = self.predict(row).map_err(|problem| source.wrong(&row[0].place, &problem))?;
                take(row, &features, &made)
            }),
        }
    }

    /// Runs the pipeline on these rows, as on a request.
    fn predict(&mut self, rows: &[Row]) -> std::result::Result<(Features, Vec<Observation>), String> {
        let mut instances: Vec<&RawValue> = rows.iter().map(|row| &*row.instance).collect();
        // Fills up a fixed batch with copies of the last row, which are not counted.
        let least = self.opened.fewest_rows();
        if let (Some(last), true) = (instances.last().copied(), !instances.len().is_multiple_of(least)) {
            instances.resize(instances.len().next_multiple_of(least), last);
        }
        let request = serde_json::value::to_raw_value(&instances).map_err(|error| error.to_string())?;
        let (mut features, mut predictions) = self.opened.predict_request(&mut *self.session, &request)?;
        features.truncate(rows.len());
        predictions.truncate(rows.len());
        features.embeddings = embeddings(&predictions);
        Ok((features, predictions.iter().map(Prediction::observation).collect()))
    }
}
