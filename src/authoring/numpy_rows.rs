//! Rows of NumPy's files: of one array (`.npy`), or of one array for each input of the model (`.npz`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::numpy_array::{Header, NumpyArray, RowReader};
use super::row::{Place, Row, Rows};
use super::staging::at;
use crate::error::{Result, SetupError};
use crate::tensor::Signature;

/// Arrays whose rows together are the instances.
#[derive(Debug)]
pub(super) struct NumpyRows {
    file: PathBuf,
    /// The arrays, and the keys of their rows in an instance.
    arrays: Vec<(String, NumpyArray)>,
    rows: usize,
}

impl NumpyRows {
    /// Opens a file with one array.
    pub(super) fn open(path: &Path, signature: &Signature) -> Result<NumpyRows, SetupError> {
        let file = File::open(path).map_err(|error| at(path, &error))?;
        let length = file.metadata().map_err(|error| at(path, &error))?.len();
        let array = NumpyArray::open(Arc::new(file), 0, length).map_err(|problem| wrong(path, &problem))?;
        let input = signature.inputs.first().map_or_else(String::new, |input| input.name.to_string());
        Ok(NumpyRows { file: path.to_owned(), rows: array.header.rows, arrays: vec![(input, array)] })
    }

    /// Opens an archive with an array for each input of the model. The only array is that of the only input.
    pub(super) fn open_archive(path: &Path, signature: &Signature) -> Result<NumpyRows, SetupError> {
        let file = Arc::new(File::open(path).map_err(|error| at(path, &error))?);
        let mut archive = zip::ZipArchive::new(&*file).map_err(|error| wrong(path, &error.to_string()))?;
        let names = archive.file_names().filter_map(|name| Some(name.ok()?.strip_suffix(".npy")?.to_owned()));
        let stored: Vec<String> = names.collect();
        let mut arrays: Vec<(String, NumpyArray)> = Vec::new();
        for input in &signature.inputs {
            let name = match (&*stored, &*signature.inputs) {
                ([only], [_]) => only,
                _ => stored.iter().find(|name| **name == *input.name).ok_or_else(|| {
                    let (input, there) = (&input.name, stored.join(", "));
                    wrong(
                        path,
                        &format!("there is no array {input:?}, which is an input of the model; there are: {there}"),
                    )
                })?,
            };
            let array = open_entry(&file, &mut archive, &format!("{name}.npy"))
                .map_err(|problem| wrong(path, &format!("the array {name:?}: {problem}")))?;
            if let Some((other, first)) = arrays.first().filter(|(_, first)| first.header.rows != array.header.rows) {
                let (rows, of_other) = (array.header.rows, first.header.rows);
                return Err(wrong(path, &format!("the array {name:?} has {rows} rows, but {other:?} has {of_other}")));
            }
            arrays.push((input.name.to_string(), array));
        }
        let rows = arrays.first().map_or(0, |(_, array)| array.header.rows);
        Ok(NumpyRows { file: path.to_owned(), arrays, rows })
    }

    /// Returns true if an instance can be the row of the only array itself.
    pub(super) fn has_one_array(&self) -> bool {
        self.arrays.len() == 1
    }

    pub(super) fn count(&self) -> u64 {
        self.rows as u64
    }

    /// Returns the rows: objects with the inputs as keys, or else the rows of the only array.
    pub(super) fn rows(&self, are_objects: bool) -> Rows<'_> {
        let mut readers: Vec<(&str, RowReader<'_>)> =
            self.arrays.iter().map(|(key, array)| (&**key, array.reader())).collect();
        Box::new((0..self.rows).map(move |row| {
            let place = Place::Row(row as u64 + 1);
            let json = match (&mut *readers, are_objects) {
                ([(_, only)], false) => json_of(only, row),
                (several, _) => object_of(several, row),
            };
            let instance = json.and_then(|json| RawValue::from_string(json).map_err(|error| error.to_string()));
            let instance = instance.map_err(|problem| wrong(&self.file, &format!("{place}: {problem}")))?;
            Ok(Row::new(place, instance))
        }))
    }
}

/// Maximum size of a compressed array when it is unpacked, in bytes. A small file can claim any size.
const MAX_UNPACKED_BYTES: u64 = 8 << 30;

/// Opens an array in an archive. A compressed one is unpacked into a temporary file.
fn open_entry(file: &Arc<File>, archive: &mut zip::ZipArchive<&File>, name: &str) -> Result<NumpyArray, String> {
    let told = |error: std::io::Error| error.to_string();
    let entry = archive.by_name(name).map_err(|error| error.to_string())?;
    if entry.compression() == zip::CompressionMethod::Stored {
        let start = entry.data_start().unwrap_or_default();
        let left = file.metadata().map_err(told)?.len().saturating_sub(start);
        return NumpyArray::open(Arc::clone(file), start, entry.size().min(left));
    }
    let length = Header::read(entry)?.bytes().unwrap_or_default();
    if length > MAX_UNPACKED_BYTES {
        return Err(format!(
            "{name} has more than {} GB when it is unpacked; save it with numpy.savez, which does not compress",
            MAX_UNPACKED_BYTES >> 30
        ));
    }
    let entry = archive.by_name(name).map_err(|error| error.to_string())?;
    let mut unpacked = tempfile::tempfile().map_err(told)?;
    let written = std::io::copy(&mut entry.take(length), &mut unpacked).map_err(told)?;
    NumpyArray::open(Arc::new(unpacked), 0, written)
}

fn json_of(reader: &mut RowReader<'_>, row: usize) -> Result<String, String> {
    let mut json = String::new();
    reader.write_row(row, &mut json).map_err(|error| error.to_string())?;
    Ok(json)
}

fn object_of(readers: &mut [(&str, RowReader<'_>)], row: usize) -> Result<String, String> {
    let mut json = String::from("{");
    for (key, reader) in readers {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&serde_json::Value::from(*key).to_string());
        json.push(':');
        json.push_str(&json_of(reader, row)?);
    }
    json.push('}');
    Ok(json)
}

fn wrong(file: &Path, problem: &str) -> SetupError {
    SetupError::Repository(format!("{}: {problem}", file.display()))
}
