//! Rows of data as instances, in a form that the pipeline accepts: each row of a table, each line of JSON, each row of
//! arrays, or each image of a folder.

use std::path::{Path, PathBuf};

use super::arrow_file;
use super::columns::{Cells, ColumnToRead, Columns, HeaderColumn, LabelColumn, RowForm, names};
use super::data_file::{DataFile, DataFormat, Delimiter, data_format, open_text};
use super::delimited_table;
use super::image_folder::ImageFolder;
use super::json_lines::{LabelMember, json_lines};
use super::logged_instances::LoggedInstances;
use super::numpy_rows::NumpyRows;
use super::parquet_file;
use super::row::{CellRows, Place, Row, Rows};
use crate::error::{Result, SetupError};
use crate::model::Session;
use crate::registry::OpenedVersion;

/// Data whose rows become instances.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    content: Content,
    /// Form of the instances of tables and arrays.
    form: RowForm,
}

#[derive(Debug)]
enum Content {
    /// Each line is an instance as JSON.
    JsonLines {
        label: LabelMember,
        time: LabelMember,
    },
    Table(Table),
    Arrays(NumpyRows),
    Images(ImageFolder),
    Log(LoggedInstances),
}

/// A table whose rows become instances.
#[derive(Debug)]
struct Table {
    file: TableFile,
    columns: Columns,
    /// Position of the column with the labels, if it is read.
    label: Option<usize>,
    /// Position of the column with the times, if it is read.
    time: Option<usize>,
}

/// Format of a file with a table.
#[derive(Debug, Clone, Copy)]
enum TableFile {
    Delimited(Delimiter),
    Parquet,
    Arrow,
}

impl Source {
    /// Opens the data, and finds the form of instance in which the pipeline accepts the first row.
    pub(super) fn open(
        data: &DataFile,
        label: Option<LabelColumn<'_>>,
        opened: &OpenedVersion,
        session: &mut dyn Session,
    ) -> Result<Source, SetupError> {
        let path = data.path.clone();
        let format = data_format(&path, data.delimiter)?;
        let file = match format {
            DataFormat::Delimited(delimiter) => Some(TableFile::Delimited(delimiter)),
            DataFormat::Parquet => Some(TableFile::Parquet),
            DataFormat::Arrow => Some(TableFile::Arrow),
            DataFormat::JsonLines | DataFormat::NumPy | DataFormat::NumPyArchive | DataFormat::ImageFolder => None,
        };
        let read = match label {
            Some(LabelColumn::Read(column)) if format != DataFormat::JsonLines => Some(column),
            _ => None,
        };
        let time = data.times.as_ref().and_then(|times| times.column.as_deref());
        let of_times = time.filter(|_| format != DataFormat::JsonLines);
        if let (None, Some(column)) = (file, data.ignored_columns.first().map(String::as_str).or(read).or(of_times)) {
            return Err(SetupError::Repository(format!(
                "{}: there is no column {column:?}, because only tables have columns: CSV, Parquet and Arrow. \
                 --delimiter reads any text as CSV",
                path.display()
            )));
        }
        let form = RowForm::Object;
        let source = |content| Source { path: path.clone(), content, form };
        if format == DataFormat::ImageFolder
            && let Some(log) = LoggedInstances::find(&path, data.window)?
        {
            return Ok(source(Content::Log(log)));
        }
        match (file, format) {
            (Some(file), _) => source(Content::Table(Table::open(file, data, label, opened)?)).in_form(opened, session),
            (None, DataFormat::NumPy) => {
                source(Content::Arrays(NumpyRows::open(&path, opened.signature())?)).in_form(opened, session)
            }
            (None, DataFormat::NumPyArchive) => {
                source(Content::Arrays(NumpyRows::open_archive(&path, opened.signature())?)).in_form(opened, session)
            }
            (None, DataFormat::ImageFolder) if opened.takes_images() => {
                Ok(source(Content::Images(ImageFolder::list(&path)?)))
            }
            (None, DataFormat::ImageFolder) => Err(SetupError::Repository(format!(
                "{}: a folder; only a model of images (kind = \"image\") takes one, so give one file",
                path.display()
            ))),
            (None, _) => {
                // Names files of other kinds before anything else is said about them.
                open_text(&path)?;
                let (label, time) = (LabelMember::new(label), LabelMember::of_time(time));
                Ok(source(Content::JsonLines { label, time }))
            }
        }
    }

    /// Finds the form of instance in which the pipeline accepts the first row.
    fn in_form(mut self, opened: &OpenedVersion, session: &mut dyn Session) -> Result<Source, SetupError> {
        let mut problems = Vec::new();
        for form in self.forms() {
            self.form = form;
            let Some(first) = self.rows()?.next() else { return Ok(self) };
            match try_row(&first?, opened, session) {
                Ok(()) => return Ok(self),
                Err(problem) => problems.push(format!("as {}: {problem}", self.name_of_form())),
            }
        }
        let remedy = match self.content {
            Content::Table(_) => {
                ". Columns that are not features can be left out with --ignore-column, or send one instance per line \
                 as JSON (.jsonl)"
            }
            _ => "",
        };
        let (path, problems) = (self.path.display(), problems.join("; "));
        Err(SetupError::Repository(format!("{path}: the pipeline does not take the first row: {problems}{remedy}")))
    }

    fn forms(&self) -> Vec<RowForm> {
        match &self.content {
            Content::Table(table) => table.columns.forms(),
            Content::Arrays(arrays) if arrays.has_one_array() => vec![RowForm::Value, RowForm::Object],
            _ => vec![RowForm::Object],
        }
    }

    fn name_of_form(&self) -> &'static str {
        match (&self.content, self.form) {
            (Content::Arrays(_), RowForm::Object) => "an object with the inputs as keys",
            (Content::Arrays(_), _) => "a row of the array",
            (_, form) => form.name(),
        }
    }

    /// Returns the columns of a table whose rows are arrays in the order of the file, because nothing says which element is
    /// which.
    pub(super) fn in_the_order_of_the_file(&self) -> Option<&[String]> {
        match &self.content {
            Content::Table(table) => table.columns.in_the_order_of_the_file(self.form),
            _ => None,
        }
    }

    /// Returns remarks on what was assumed about the data, and on what was left out.
    pub(super) fn remarks(&self) -> Vec<String> {
        let in_order = match &self.content {
            Content::Table(table) => table.columns.in_the_order_of_the_file(self.form),
            Content::Images(images) => return images.remark().into_iter().collect(),
            Content::JsonLines { .. } | Content::Log(_) | Content::Arrays(_) => None,
        };
        let remark = |columns: &[String]| {
            format!(
                "the columns of {} are used as the elements of a row in the order of the file, which must be the order \
                 of training ({}); set columns in [preprocess] to find them by name",
                self.path.display(),
                crate::pipeline::some_of(columns)
            )
        };
        in_order.map(remark).into_iter().collect()
    }

    /// Counts the rows.
    pub(super) fn count(&self) -> Result<u64, SetupError> {
        match &self.content {
            Content::Arrays(arrays) => Ok(arrays.count()),
            Content::Images(images) => Ok(images.count()),
            Content::JsonLines { .. } | Content::Table(_) | Content::Log(_) => {
                self.rows()?.try_fold(0, |count: u64, row| row.map(|_| count + 1))
            }
        }
    }

    /// Returns the rows from the first on.
    pub(super) fn rows(&self) -> Result<Rows<'_>, SetupError> {
        match &self.content {
            Content::JsonLines { label, time } => json_lines(&self.path, label, time),
            Content::Arrays(arrays) => Ok(arrays.rows(self.form == RowForm::Object)),
            Content::Images(images) => Ok(images.rows()),
            Content::Log(log) => Ok(log.rows()),
            Content::Table(table) => {
                let form = self.form;
                let rows = table.rows(&self.path, form)?;
                Ok(Box::new(rows.map(move |row| {
                    let (place, mut cells) = row?;
                    let time = table.time.and_then(|_| cells.pop());
                    let label = table.label.and_then(|_| cells.pop());
                    let instance = serde_json::value::to_raw_value(&table.columns.instance(cells, form));
                    Ok(Row { place, instance: instance.map_err(SetupError::internal)?, label, time })
                })))
            }
        }
    }

    /// An error about a row.
    pub(super) fn wrong(&self, place: &Place, problem: &str) -> SetupError {
        SetupError::Repository(match place {
            Place::File(path) => format!("{}: {problem}", path.display()),
            place => format!("{}: {place}: {problem}", self.path.display()),
        })
    }
}

/// Runs the pipeline on a row.
fn try_row(row: &Row, opened: &OpenedVersion, session: &mut dyn Session) -> std::result::Result<(), String> {
    let instances = vec![&row.instance; opened.fewest_rows()];
    let request = serde_json::value::to_raw_value(&instances).map_err(|error| error.to_string())?;
    opened.predict_request(session, &request).map(drop)
}

// ===== impl Table =====

impl Table {
    fn open(
        file: TableFile,
        data: &DataFile,
        label: Option<LabelColumn<'_>>,
        opened: &OpenedVersion,
    ) -> Result<Table, SetupError> {
        let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", data.path.display()));
        let header = file.header(&data.path)?;
        let place_of = |name: &str| header.iter().position(|column| column.name == *name);
        let absent =
            |name: &str, of: &str| wrong(format!("there is no column {name:?} {of}; there are: {}", names(&header)));
        if let Some(unknown) = data.ignored_columns.iter().find(|name| place_of(name).is_none()) {
            return Err(absent(unknown, "to ignore"));
        }
        let (name, label_place) = match label {
            Some(LabelColumn::Read(name)) => {
                (Some(name), Some(place_of(name).ok_or_else(|| absent(name, "with labels"))?))
            }
            Some(LabelColumn::LeftOut(name)) => (Some(name), None),
            None => (None, None),
        };
        let time = data.times.as_ref().and_then(|times| times.column.as_deref());
        let time_place = match (time.map(|name| (name, place_of(name))), label) {
            (Some((_, Some(place))), _) => Some(place),
            // Labelled rows need no times.
            (None, _) | (Some(_), Some(LabelColumn::Read(_))) => None,
            (Some((name, None)), _) => return Err(absent(name, "with times")),
        };
        let not_features = [name, time].into_iter().flatten().map(str::to_owned);
        let not_features: Vec<String> = data.ignored_columns.iter().cloned().chain(not_features).collect();
        let columns = Columns::choose(&header, &not_features, opened.signature(), opened.table().as_ref());
        Ok(Table { file, columns: columns.map_err(wrong)?, label: label_place, time: time_place })
    }

    /// Returns the cells of the features, and at last those of the label and of the time.
    fn rows(&self, path: &Path, form: RowForm) -> Result<CellRows, SetupError> {
        let mut columns = self.columns.to_read(form);
        let others = [self.label, self.time].into_iter().flatten();
        columns.extend(others.map(|place| ColumnToRead { place, cells: Cells::Texts }));
        match self.file {
            TableFile::Delimited(delimiter) => delimited_table::rows(path, delimiter, columns),
            TableFile::Parquet => parquet_file::rows(path, &columns),
            TableFile::Arrow => arrow_file::rows(path, &columns),
        }
    }
}

impl TableFile {
    fn header(self, path: &Path) -> Result<Vec<HeaderColumn>, SetupError> {
        match self {
            TableFile::Delimited(delimiter) => delimited_table::header(path, delimiter),
            TableFile::Parquet => parquet_file::header(path),
            TableFile::Arrow => arrow_file::header(path),
        }
    }
}
