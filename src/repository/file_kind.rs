//! Recognises files that stand in the place of another: what a failed download or a clone without Git LFS leaves, and
//! models and data in other formats. Looked at only where a file is not what it should be, so that no good file is
//! refused by its first bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Number of bytes at the start of a file that are enough to recognise it.
pub const START_BYTES: usize = 512;

/// Advice for what a failed download leaves.
const AGAIN: &str = "download or copy it again";

/// A kind of file, recognised by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The text that Git keeps in the place of a file that is stored elsewhere.
    LfsPointer,
    Empty,
    Html,
    Xml,
    Json,
    Utf16,
    Gzip,
    Tar,
    Zip,
    PyTorch,
    Safetensors,
    Pickle,
    Hdf5,
    TfLite,
    SavedModel,
    Parquet,
    Arrow,
    NumPy,
}

impl FileKind {
    /// Recognises a file by its first bytes.
    pub fn of(start: &[u8]) -> Option<FileKind> {
        if start.is_empty() {
            return Some(FileKind::Empty);
        }
        let by_magic = MAGIC.iter().find(|(at, magic, _)| start.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
        match by_magic {
            Some((_, _, FileKind::Zip)) if first_entry(start).ends_with(b"/data.pkl") => Some(FileKind::PyTorch),
            Some((_, _, kind)) => Some(*kind),
            None if is_safetensors(start) => Some(FileKind::Safetensors),
            None => of_text(start),
        }
    }

    /// Recognises a file on disk.
    pub fn of_file(path: &Path) -> io::Result<Option<FileKind>> {
        let mut start = Vec::with_capacity(START_BYTES);
        File::open(path)?.take(START_BYTES as u64).read_to_end(&mut start)?;
        Ok(FileKind::of(&start))
    }

    /// Returns the name of the kind, with its article.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::LfsPointer => "a Git LFS pointer",
            FileKind::Empty => "an empty file",
            FileKind::Html => "an HTML page",
            FileKind::Xml => "an XML document",
            FileKind::Json => "JSON",
            FileKind::Utf16 => "text in UTF-16",
            FileKind::Gzip => "a gzip archive",
            FileKind::Tar => "a tar archive",
            FileKind::Zip => "a zip archive",
            FileKind::PyTorch => "a PyTorch file",
            FileKind::Safetensors => "a safetensors file",
            FileKind::Pickle => "a Python pickle",
            FileKind::Hdf5 => "an HDF5 file (Keras)",
            FileKind::TfLite => "a TensorFlow Lite model",
            FileKind::SavedModel => "a TensorFlow SavedModel",
            FileKind::Parquet => "a Parquet file",
            FileKind::Arrow => "an Arrow file",
            FileKind::NumPy => "a NumPy file",
        }
    }

    /// Returns the problem with this file in the place of any other, where nothing is known about that one.
    pub fn problem_as_any_file(self) -> Option<String> {
        let advice = "not the file itself; run `git lfs pull` where the file comes from";
        (self == FileKind::LfsPointer).then(|| format!("{}, {advice}", self.name()))
    }

    /// Returns the problem with this file in the place of JSON.
    pub(super) fn problem_as_json(self) -> Option<String> {
        match self {
            FileKind::Empty | FileKind::Html | FileKind::Xml => Some(format!("{}, not JSON; {AGAIN}", self.name())),
            _ => self.problem_as_any_file(),
        }
    }

    /// Returns the problem with this file in the place of weights, whose bytes could be taken for numbers. `None` for the
    /// kinds with short marks: weights may begin with the same bytes.
    pub(super) fn problem_as_weights(self) -> Option<String> {
        match self {
            FileKind::Html | FileKind::Xml => Some(format!("{}, not weights; {AGAIN}", self.name())),
            _ => self.problem_as_any_file(),
        }
    }

    /// Returns the problem with this file in the place of a model.
    pub fn problem_as_model(self) -> String {
        if let Some(problem) = self.problem_as_any_file() {
            return problem;
        }
        let remedy = match self {
            FileKind::Empty | FileKind::Html | FileKind::Xml => AGAIN,
            FileKind::Gzip | FileKind::Tar => "unpack it first",
            FileKind::Zip => "unpack it first, or export the model as ONNX if this is another framework's format",
            FileKind::PyTorch => "export the model with torch.onnx.export",
            FileKind::Safetensors => "it has weights without a graph; export the model from its framework as ONNX",
            FileKind::Pickle => "export the model as ONNX, a scikit-learn model with skl2onnx",
            FileKind::Hdf5 | FileKind::TfLite | FileKind::SavedModel => "export the model as ONNX with tf2onnx",
            _ => "export the model as ONNX",
        };
        format!("not an ONNX file, but {}; {remedy}", self.name())
    }
}

/// Marks of binary files: their position, the bytes, and the kind.
const MAGIC: [(usize, &[u8], FileKind); 18] = [
    (0, b"version https://git-lfs", FileKind::LfsPointer),
    (0, b"\xff\xfe", FileKind::Utf16),
    (0, b"\xfe\xff", FileKind::Utf16),
    (0, b"\x1f\x8b", FileKind::Gzip),
    (257, b"ustar", FileKind::Tar),
    (0, b"PK\x03\x04", FileKind::Zip),
    (0, b"PK\x05\x06", FileKind::Zip),
    // Protocols 2 to 5.
    (0, b"\x80\x02", FileKind::Pickle),
    (0, b"\x80\x03", FileKind::Pickle),
    (0, b"\x80\x04", FileKind::Pickle),
    (0, b"\x80\x05", FileKind::Pickle),
    (0, b"\x89HDF\r\n\x1a\n", FileKind::Hdf5),
    (2, b"\0\0TFL3", FileKind::TfLite),
    // The version of the schema, 1, and the first graph. ONNX has the name of the producer there, but such a file has a
    // graph, and is not looked at.
    (0, b"\x08\x01\x12", FileKind::SavedModel),
    (0, b"PAR1\x15", FileKind::Parquet),
    (0, b"ARROW1\0\0", FileKind::Arrow),
    // The stream form of Arrow: a continuation mark, and a message of less than 64 KiB.
    (0, b"\xff\xff\xff\xff", FileKind::Arrow),
    (0, b"\x93NUMPY", FileKind::NumPy),
];

/// Returns the name of the first entry of a zip archive, as far as it is there.
fn first_entry(zip: &[u8]) -> &[u8] {
    let length = zip.get(26..28).map_or(0, |length| usize::from(length[0]) | usize::from(length[1]) << 8);
    let name = zip.get(30..).unwrap_or_default();
    name.get(..length).unwrap_or(name)
}

/// Returns true if the file has the length of a JSON object, and the object after it.
fn is_safetensors(start: &[u8]) -> bool {
    let Some((length, json)) = start.split_first_chunk::<8>() else { return false };
    (2..100_000_000).contains(&u64::from_le_bytes(*length)) && json.starts_with(b"{\"")
}

fn of_text(start: &[u8]) -> Option<FileKind> {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let starts_with = |word: &[u8]| text.get(..word.len()).is_some_and(|first| first.eq_ignore_ascii_case(word));
    if starts_with(b"<!doctype html") || starts_with(b"<html") {
        Some(FileKind::Html)
    } else if starts_with(b"<?xml") {
        Some(FileKind::Xml)
    } else if starts_with(b"{") || starts_with(b"[") {
        Some(FileKind::Json)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_their_first_bytes() {
        let torch = b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\x12\0archive/data.pklFB";
        let tar = [&[b'a'; 257][..], b"ustar\x0000"].concat();
        let table: [(&[u8], Option<FileKind>); 25] = [
            (b"", Some(FileKind::Empty)),
            (b"version https://git-lfs.example/spec/v1\noid sha256:4d", Some(FileKind::LfsPointer)),
            (b"version https://git", None),
            (b"<!DOCTYPE HTML PUBLIC", Some(FileKind::Html)),
            (b"\xef\xbb\xbf\r\n <html lang=\"en\">", Some(FileKind::Html)),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", Some(FileKind::Xml)),
            (b"\n{\"learner\": {", Some(FileKind::Json)),
            (b"\xff\xfea\0,\0", Some(FileKind::Utf16)),
            (b"\x1f\x8b\x08\0", Some(FileKind::Gzip)),
            (&tar, Some(FileKind::Tar)),
            (b"PK\x03\x04\x14\0", Some(FileKind::Zip)),
            (torch, Some(FileKind::PyTorch)),
            (b"\x40\0\0\0\0\0\0\0{\"weight\":{\"dtype\":\"F32\"", Some(FileKind::Safetensors)),
            (b"\x40\0\0\0\0\0\0\xff{\"weight\"", None),
            (b"\x80\x04\x95\x1e\0", Some(FileKind::Pickle)),
            (b"\x89HDF\r\n\x1a\n\0", Some(FileKind::Hdf5)),
            (b"\x1c\0\0\0TFL3\x14\0", Some(FileKind::TfLite)),
            (b"\x08\x01\x12\xf4\x9d\x01\x0a", Some(FileKind::SavedModel)),
            (b"PAR1\x15\x04", Some(FileKind::Parquet)),
            (b"ARROW1\0\0", Some(FileKind::Arrow)),
            (b"\x93NUMPY\x01\0", Some(FileKind::NumPy)),
            (b"age,country\n1,NL\n", None),
            (b"PAR1,ARROW1\n1,NL\n", None),
            // An ONNX file: the version of its format, and the name of its producer.
            (b"\x08\x0a\x12\x07pytorch", None),
            (b"\xc3\xc3\xc3\xc3", None),
        ];
        for (start, kind) in table {
            assert_eq!(FileKind::of(start), kind, "{:?}", String::from_utf8_lossy(start));
        }
    }

    #[test]
    fn the_problem_says_what_to_do() {
        let table = [
            (
                FileKind::LfsPointer,
                "a Git LFS pointer, not the file itself; run `git lfs pull` where the file comes from",
            ),
            (FileKind::Empty, "not an ONNX file, but an empty file; download or copy it again"),
            (FileKind::PyTorch, "not an ONNX file, but a PyTorch file; export the model with torch.onnx.export"),
            (FileKind::Json, "not an ONNX file, but JSON; export the model as ONNX"),
        ];
        for (kind, problem) in table {
            assert_eq!(kind.problem_as_model(), problem);
        }
        assert_eq!(
            FileKind::Html.problem_as_json().as_deref(),
            Some("an HTML page, not JSON; download or copy it again")
        );
        // Weights may begin with two bytes of any value.
        assert_eq!([FileKind::Gzip, FileKind::Utf16].map(FileKind::problem_as_weights), [None, None]);
        assert!([FileKind::Html, FileKind::LfsPointer].iter().all(|kind| kind.problem_as_weights().is_some()));
    }
}
