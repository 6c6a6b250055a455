//! Finds the ONNX file in a folder of Hugging Face, MLflow or Ultralytics, and the files beside it.

use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;

use super::hugging_face::HuggingFaceFiles;
use super::mlflow::MlflowModel;
use crate::error::{Result, SetupError};
use crate::identity::ModelName;
use crate::repository::CONFIG_FILE;

/// Maximum size of a file of settings beside a model, in bytes.
const MAX_SETTINGS_BYTES: u64 = 1 << 24;

/// Maximum number of files that a message lists.
const MAX_LISTED: usize = 10;

/// Usual places of the ONNX file in a folder.
const USUAL: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// An ONNX file, and the files beside it that show how it is used.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ModelFiles {
    pub(super) onnx: PathBuf,
    /// Text that a name for the model is made of.
    stem: String,
    /// `tokenizer.json`.
    pub(super) tokenizer: Option<PathBuf>,
    /// `config.json`.
    pub(super) config: Option<PathBuf>,
    pub(super) hugging_face: HuggingFaceFiles,
    pub(super) mlflow: Option<MlflowModel>,
}

impl ModelFiles {
    /// Finds the files of the model that is given as its ONNX file, or as the folder of an export.
    pub(super) fn find(given: &Path) -> Result<ModelFiles, SetupError> {
        let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", given.display()));
        if !given.exists() {
            return Err(wrong("there is no such file or folder".to_owned()));
        }
        // The name of "." is that of the folder.
        let named = given.canonicalize().map_err(|error| wrong(error.to_string()))?;
        if !given.is_dir() {
            let stem = named_as_given(given, &named).file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return ModelFiles { onnx: given.to_owned(), stem, ..ModelFiles::default() }.with_settings(None);
        }
        let stem = named_as_given(given, &named).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mlflow = match given.join("MLmodel") {
            file if file.is_file() => Some(MlflowModel::read(&read_text(&file)?)),
            _ => None,
        };
        let onnx = match &mlflow {
            Some(mlflow) => of_mlflow(given, mlflow)?,
            None => in_folder(given)?,
        };
        ModelFiles { onnx, stem, mlflow, ..ModelFiles::default() }.with_settings(Some(given))
    }

    /// Returns a name for the model, made of that of its file or folder.
    pub(super) fn name(&self) -> Result<ModelName, SetupError> {
        let nameless = || format!("{:?} cannot become the name of a model; give one with --name", self.stem);
        name_of(&self.stem).ok_or_else(|| SetupError::Repository(nameless()))
    }

    /// Reads the files of settings in these folders: the one that was given, that of the ONNX file, and the one above it
    /// if that is called `onnx`.
    fn with_settings(mut self, given: Option<&Path>) -> Result<ModelFiles, SetupError> {
        let own = self.onnx.parent().unwrap_or(Path::new("")).to_owned();
        let above = own.parent().filter(|_| own.file_name().is_some_and(|name| name == "onnx"));
        let mut folders: Vec<&Path> = [Some(&*own), above, given].into_iter().flatten().collect();
        folders.dedup();
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        self.tokenizer = find("tokenizer.json");
        self.config = find("config.json");
        self.hugging_face = HuggingFaceFiles {
            config: read_json(self.config.as_deref())?,
            tokenizer_config: read_json(find("tokenizer_config.json").as_deref())?,
            sentence_config: read_json(find("sentence_bert_config.json").as_deref())?,
            prompts: read_json(find("config_sentence_transformers.json").as_deref())?,
            pooling: read_json(find("1_Pooling/config.json").as_deref())?,
            modules: read_json(find("modules.json").as_deref())?,
            image_processor: read_json(find("preprocessor_config.json").as_deref())?,
        };
        Ok(self)
    }
}

/// Returns the path with the name that the user gave, unless that has none, as in `.` or `..`.
fn named_as_given<'a>(given: &'a Path, resolved: &'a Path) -> &'a Path {
    match given.components().next_back() {
        Some(Component::Normal(_)) => given,
        _ => resolved,
    }
}

/// Returns a valid name that resembles this text.
fn name_of(text: &str) -> Option<ModelName> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' };
    let name: String = text.chars().map(allowed).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).trim_end_matches('-');
    let short: String = name.chars().take(64).collect();
    short.parse().ok()
}

/// Returns the ONNX file of a folder that MLflow saved.
fn of_mlflow(folder: &Path, mlflow: &MlflowModel) -> Result<PathBuf, SetupError> {
    let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", folder.join("MLmodel").display()));
    let Some(onnx) = &mlflow.onnx else {
        return Err(wrong(format!(
            "the model has no flavor onnx, but {}; convert it to ONNX (skl2onnx, onnxmltools or torch.onnx.export), and \
             save it with mlflow.onnx.save_model, or give the ONNX file",
            mlflow.flavors.join(", ")
        )));
    };
    let path = Path::new(onnx);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(wrong(format!("flavors.onnx.data: {onnx:?} is not a file in this folder")));
    }
    let path = folder.join(path);
    if path.is_dir() { in_folder(&path) } else { Ok(path) }
}

/// Returns the ONNX file of a folder: the one with a usual name, or the only one.
fn in_folder(folder: &Path) -> Result<PathBuf, SetupError> {
    if let Some(usual) = USUAL.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        return Ok(usual);
    }
    let wrong = |problem: String| Err(SetupError::Repository(format!("{}: {problem}", folder.display())));
    let mut found = onnx_files(folder)?;
    found.extend(onnx_files(&folder.join("onnx"))?);
    match &*found {
        [only] => Ok(only.clone()),
        [] if holds_models(folder) => wrong(format!(
            "this folder holds models: give the folder of one of them, or serve all with leeway serve --models {}",
            folder.display()
        )),
        [] => wrong(
            "there is no .onnx file in this folder; export the model to ONNX first (Hugging Face: optimum-cli export onnx)"
                .to_owned(),
        ),
        several => {
            let names: Vec<String> = several.iter().take(MAX_LISTED).map(|path| path.display().to_string()).collect();
            let more = several.len().saturating_sub(MAX_LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            wrong(format!("there are several .onnx files; give one of them: {}{more}", names.join(", ")))
        }
    }
}

/// Returns true if a folder in this one is that of a model, with its settings.
fn holds_models(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().join(CONFIG_FILE).is_file())
}

/// Returns the ONNX files in a folder, sorted; none if there is no such folder.
fn onnx_files(folder: &Path) -> Result<Vec<PathBuf>, SetupError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let wrong = |error: std::io::Error| SetupError::Repository(format!("{}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|extension| extension == "onnx") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_text(path: &Path) -> Result<String, SetupError> {
    let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > MAX_SETTINGS_BYTES {
        return Err(wrong(format!("{size} bytes are too many for a file of settings")));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}

fn read_json<T: DeserializeOwned>(path: Option<&Path>) -> Result<Option<T>, SetupError> {
    let Some(path) = path else { return Ok(None) };
    serde_json::from_str(&read_text(path)?).map(Some).map_err(|error| {
        SetupError::Repository(format!(
            "{}: {error}; this file of Hugging Face's format is read because it is beside the model: repair it, or move \
             it away",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    /// Returns the ONNX file that is found, as a path within the folder, or the problem.
    fn found(files: &[(&str, &str)]) -> std::result::Result<String, String> {
        let folder = folder(files);
        let found = ModelFiles::find(folder.path()).map_err(|error| error.to_string())?;
        Ok(found.onnx.strip_prefix(folder.path()).unwrap().display().to_string())
    }

    #[test]
    fn the_model_of_a_folder_is_found() {
        assert_eq!(found(&[("model.onnx", ""), ("model_int8.onnx", "")]).unwrap(), "model.onnx");
        assert_eq!(found(&[("onnx/model.onnx", ""), ("onnx/model_int8.onnx", "")]).unwrap(), "onnx/model.onnx");
        assert_eq!(found(&[("best.onnx", ""), ("best.pt", "")]).unwrap(), "best.onnx");
        let mlflow = "flavors:\n  onnx:\n    data: net.onnx\n";
        assert_eq!(found(&[("MLmodel", mlflow), ("net.onnx", ""), ("other.onnx", "")]).unwrap(), "net.onnx");
    }

    #[test]
    fn a_folder_without_one_model_says_why() {
        for (files, problem) in [
            (&[("model.safetensors", "")][..], "there is no .onnx file in this folder"),
            (
                &[("churn/model.toml", "")],
                "this folder holds models: give the folder of one of them, or serve all with leeway",
            ),
            (&[("a.onnx", ""), ("b.onnx", "")], "there are several .onnx files; give one of them: "),
            (&[("MLmodel", "flavors:\n  sklearn:\n    a: b\n")], "the model has no flavor onnx, but sklearn"),
            (&[("MLmodel", "flavors:\n  onnx:\n    data: ../../etc/passwd\n")], "is not a file in this folder"),
            (&[("model.onnx", ""), ("config.json", "{")], "repair it, or move it away"),
        ] {
            let found = found(files).unwrap_err();
            assert!(found.contains(problem), "{found}");
        }
        assert!(ModelFiles::find(Path::new("/nowhere")).unwrap_err().to_string().contains("no such file or folder"));
    }

    #[test]
    fn files_of_the_folder_above_onnx_belong_to_the_model() {
        let folder = folder(&[("onnx/model.onnx", ""), ("tokenizer.json", ""), ("1_Pooling/config.json", "{}")]);
        for given in [folder.path().to_owned(), folder.path().join("onnx/model.onnx")] {
            let found = ModelFiles::find(&given).unwrap();
            assert!(found.tokenizer.is_some() && found.hugging_face.pooling.is_some(), "{}", given.display());
        }
    }

    #[test]
    fn names_are_made_of_what_there_is() {
        let name = |text: &str| name_of(text).map(|name| name.to_string());
        for (text, expected) in
            [("churn", Some("churn")), ("my model (2)", Some("my-model--2")), ("_-é", None), ("", None)]
        {
            assert_eq!(name(text).as_deref(), expected, "{text:?}");
        }
        assert_eq!(name(&"x".repeat(100)).map(|name| name.len()), Some(64));
    }
}
