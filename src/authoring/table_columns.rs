//! Columns of a table with training data: their names, and whether they have missing values.

use super::columns::{Cells, ColumnToRead, HeaderColumn, names};
use super::data_file::{DataFile, DataFormat, data_format};
use super::row::CellRows;
use super::{arrow_file, delimited_table, parquet_file};
use crate::error::{Result, SetupError};

/// Maximum number of rows that are searched for missing values.
const MAX_ROWS: usize = 100_000;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableColumn {
    pub(super) name: String,
    /// True if one of the first rows has no value in this column.
    pub(super) has_missing: bool,
}

/// Returns the columns of a table, without those that are ignored; `None` for data of other forms.
pub(super) fn table_columns(data: &DataFile) -> Result<Option<Vec<TableColumn>>, SetupError> {
    let path = &data.path;
    let format = data_format(path, data.delimiter)?;
    let header: Vec<HeaderColumn> = match format {
        DataFormat::Delimited(delimiter) => delimited_table::header(path, delimiter)?,
        DataFormat::Parquet => parquet_file::header(path)?,
        DataFormat::Arrow => arrow_file::header(path)?,
        DataFormat::JsonLines | DataFormat::NumPy | DataFormat::NumPyArchive | DataFormat::ImageFolder => {
            return Ok(None);
        }
    };
    if let Some(unknown) = data.ignored_columns.iter().find(|name| header.iter().all(|column| column.name != **name)) {
        return Err(SetupError::Repository(format!(
            "{}: there is no column {unknown:?} to ignore; there are: {}",
            path.display(),
            names(&header)
        )));
    }
    let read: Vec<(usize, &HeaderColumn)> =
        header.iter().enumerate().filter(|(_, column)| !data.ignored_columns.contains(&column.name)).collect();
    let to_read: Vec<ColumnToRead> =
        read.iter().map(|(place, _)| ColumnToRead { place: *place, cells: Cells::TextsOrNothing }).collect();
    let rows: CellRows = match format {
        DataFormat::Parquet => parquet_file::rows(path, &to_read)?,
        DataFormat::Arrow => arrow_file::rows(path, &to_read)?,
        DataFormat::Delimited(delimiter) => delimited_table::rows(path, delimiter, to_read)?,
        _ => return Ok(None),
    };
    let mut missing = vec![false; read.len()];
    for row in rows.take(MAX_ROWS) {
        let (_, cells) = row?;
        missing.iter_mut().zip(&cells).for_each(|(missing, cell)| *missing |= cell.is_null());
    }
    let column = |((_, column), has_missing): (&(usize, &HeaderColumn), bool)| TableColumn {
        name: column.name.clone(),
        has_missing,
    };
    Ok(Some(read.iter().zip(missing).map(column).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authoring::logged_instances::LogWindow;

    fn columns(text: &str, ignored: &[&str]) -> Result<Option<Vec<TableColumn>>, SetupError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.csv");
        std::fs::write(&path, text).unwrap();
        let ignored_columns = ignored.iter().map(|name| (*name).to_owned()).collect();
        table_columns(&DataFile { path, delimiter: None, ignored_columns, window: LogWindow::default(), times: None })
    }

    #[test]
    fn missing_values_are_found() {
        let found = columns("age,plan,y\n3,a,0\n,b,1\n", &["y"]).unwrap().unwrap();
        let column = |name: &str, has_missing| TableColumn { name: name.to_owned(), has_missing };
        assert_eq!(found, [column("age", true), column("plan", false)]);
        let problem = columns("age\n3\n", &["id"]).unwrap_err().to_string();
        assert!(problem.contains("there is no column \"id\" to ignore; there are: age"), "{problem}");
    }
}
