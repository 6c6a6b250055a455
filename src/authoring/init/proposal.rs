//! A proposed `model.toml`: settings with the reason for each, written as a commented file.

use std::path::PathBuf;

use serde_json::Value;

use crate::identity::is_unprintable;

/// Maximum length of a comment's line.
const LINE: usize = 110;

/// Mark of the comments on settings that the user has to compare with the training.
const CHECK: &str = "CHECK: ";

/// A proposed `model.toml`, and the files that its version needs besides the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    pub(super) preprocess: Stage,
    /// `[model]`.
    pub(super) model: Vec<Setting>,
    /// `[budget]`.
    pub(super) budget: Vec<Setting>,
    pub(super) postprocess: Stage,
    /// Files of the version that the stages read.
    pub(super) files: Vec<PathBuf>,
    /// Remarks on the proposal as a whole.
    pub(super) remarks: Vec<String>,
}

/// A stage of a proposal.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    pub(super) kind: &'static str,
    pub(super) reason: String,
    pub(super) settings: Vec<Setting>,
    /// Other stages that may fit better.
    pub(super) hints: Vec<Hint>,
}

/// A key of `model.toml` with its value, and the reason for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    /// The key, as TOML.
    pub(super) key: String,
    /// The value. Its JSON is also TOML, except for objects.
    pub(super) value: Value,
    pub(super) reason: String,
    /// True if the user has to compare the value with the training.
    pub(super) is_guess: bool,
}

/// Lines of TOML that may fit the model better, as a comment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hint {
    pub(super) text: String,
    pub(super) lines: Vec<String>,
}

// ===== impl Stage =====

impl Stage {
    pub(super) fn new(kind: &'static str, reason: impl Into<String>) -> Stage {
        Stage { kind, reason: reason.into(), settings: Vec::new(), hints: Vec::new() }
    }

    /// Adds a setting that the files of the model determine.
    pub(super) fn with(mut self, key: &str, value: impl Into<Value>, reason: impl Into<String>) -> Stage {
        self.settings.push(Setting::known(key, value, reason));
        self
    }

    /// Adds a setting that the user has to compare with the training.
    pub(super) fn with_guess(mut self, key: &str, value: impl Into<Value>, reason: impl Into<String>) -> Stage {
        self.settings.push(Setting { is_guess: true, ..Setting::known(key, value, reason) });
        self
    }

    pub(super) fn with_hint(mut self, hint: Hint) -> Stage {
        self.hints.push(hint);
        self
    }

    /// Returns true if two stages have the same kind and settings.
    pub(super) fn is_same(&self, other: &Stage) -> bool {
        self.kind == other.kind && same(&self.settings, &other.settings)
    }
}

impl Setting {
    pub(super) fn known(key: &str, value: impl Into<Value>, reason: impl Into<String>) -> Setting {
        Setting { key: key.to_owned(), value: value.into(), reason: reason.into(), is_guess: false }
    }
}

/// Returns true if two lists have the same keys and values.
fn same(one: &[Setting], other: &[Setting]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| (&one.key, &one.value) == (&other.key, &other.value))
}

// ===== impl Proposal =====

impl Proposal {
    /// Returns a proposal of two stages.
    pub(super) fn of(preprocess: Stage, postprocess: Stage) -> Proposal {
        let (model, budget, files, remarks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Proposal { preprocess, model, budget, postprocess, files, remarks }
    }

    /// Returns true if both proposals mean the same.
    pub(super) fn is_same(&self, other: &Proposal) -> bool {
        self.preprocess.is_same(&other.preprocess)
            && self.postprocess.is_same(&other.postprocess)
            && same(&self.model, &other.model)
    }

    /// Returns the settings that the user has to compare with the training, as in `preprocess.columns`.
    pub(super) fn guesses(&self) -> Vec<String> {
        let sections = [
            ("preprocess", &self.preprocess.settings),
            ("model", &self.model),
            ("budget", &self.budget),
            ("postprocess", &self.postprocess.settings),
        ];
        let guesses = |(section, settings): (&str, &Vec<Setting>)| {
            let guesses = settings.iter().filter(|setting| setting.is_guess);
            guesses.map(|setting| format!("{section}.{}", setting.key)).collect::<Vec<_>>()
        };
        sections.into_iter().flat_map(guesses).collect()
    }

    /// Returns the sections below which other settings are proposed in a comment.
    pub(super) fn sections_with_hints(&self) -> Vec<&'static str> {
        let sections = [("preprocess", &self.preprocess), ("postprocess", &self.postprocess)];
        sections.into_iter().filter(|(_, stage)| !stage.hints.is_empty()).map(|(section, _)| section).collect()
    }

    /// Writes the `model.toml`. `about` is a text about the model for its header.
    pub(super) fn to_toml(&self, about: &[String]) -> String {
        let mut text = String::new();
        about.iter().chain(&self.remarks).for_each(|line| comment(&mut text, line));
        text.push('\n');
        write_stage(&mut text, "preprocess", &self.preprocess);
        if !self.model.is_empty() {
            text.push_str("\n[model]\n");
            self.model.iter().for_each(|setting| write_setting(&mut text, setting));
        }
        if !self.budget.is_empty() {
            text.push_str("\n[budget]\n");
            self.budget.iter().for_each(|setting| write_setting(&mut text, setting));
        }
        text.push('\n');
        write_stage(&mut text, "postprocess", &self.postprocess);
        text
    }
}

fn write_stage(text: &mut String, section: &str, stage: &Stage) {
    comment(text, &stage.reason);
    text.push_str(&format!("[{section}]\nkind = \"{}\"\n", stage.kind));
    stage.settings.iter().for_each(|setting| write_setting(text, setting));
    for hint in &stage.hints {
        text.push('\n');
        comment(text, &hint.text);
        hint.lines.iter().for_each(|line| text.push_str(&format!("#     {line}\n")));
    }
}

fn write_setting(text: &mut String, setting: &Setting) {
    comment(text, &format!("{}{}", if setting.is_guess { CHECK } else { "" }, setting.reason));
    text.push_str(&format!("{} = {}\n", setting.key, shown(&setting.value, true)));
}

/// Writes a text as lines of comments.
fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    // A line break in a name must not end the comment.
    let clean = words.replace(is_unprintable, " ");
    for word in clean.split(' ').filter(|word| !word.is_empty()) {
        if line.len() > 1 && line.len() + 1 + word.len() > LINE {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

/// Returns a value as TOML. `is_top` is true for the value of a key, which may have several lines.
fn shown(value: &Value, is_top: bool) -> String {
    match value {
        Value::Array(items) if is_top && items.iter().any(Value::is_object) => {
            let lines: Vec<String> = items.iter().map(|item| format!("    {},\n", shown(item, false))).collect();
            format!("[\n{}]", lines.concat())
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(item, false)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{} = {}", key(name), shown(value, false))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        // TOML has no character U+007F in a string, which JSON does not escape.
        Value::String(_) => value.to_string().replace('\u{7f}', "\\u007F"),
        other => other.to_string(),
    }
}

/// Returns a name as a key of TOML.
pub(super) fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(is_bare) {
        true => name.to_owned(),
        false => Value::from(name).to_string().replace('\u{7f}', "\\u007F"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_proposal_is_a_commented_model_toml() {
        let columns = json!([{ "name": "age", "missing": "nan" }, { "name": "a \"b\"\n" }]);
        let preprocess =
            Stage::new("tabular", "It has columns.").with_guess("columns", columns, "The order is that of the file.");
        let postprocess = Stage::new("classifier", "It has scores.")
            .with("scores", "probabilities", "Softmax is last.")
            .with_hint(Hint { text: "Or:".to_owned(), lines: vec!["[postprocess]".to_owned()] });
        let mut proposal = Proposal::of(preprocess, postprocess);
        proposal.model.push(Setting::known("rows", "none", "No rows."));
        let text = proposal.to_toml(&["Of\n[preprocess] x.onnx.".to_owned()]);
        let expected = "# Of [preprocess] x.onnx.\n\n# It has columns.\n[preprocess]\nkind = \"tabular\"\n\
            # CHECK: The order is that of the file.\ncolumns = [\n    { missing = \"nan\", name = \"age\" },\n    \
            { name = \"a \\\"b\\\"\\n\" },\n]\n\n[model]\n# No rows.\nrows = \"none\"\n\n# It has scores.\n[postprocess]\n\
            kind = \"classifier\"\n# Softmax is last.\nscores = \"probabilities\"\n\n# Or:\n#     [postprocess]\n";
        assert_eq!(text, expected);
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(parsed["preprocess"]["columns"][1]["name"].as_str(), Some("a \"b\"\n"));
        assert_eq!(proposal.guesses(), ["preprocess.columns"]);
        assert_eq!(proposal.sections_with_hints(), ["postprocess"]);
    }

    #[test]
    fn every_value_is_toml() {
        let value = json!({ "a": [1, -0.5, 1e-7, 1e300], "b.c": "\u{7f}\u{1b}\\ü", "": { "d": true } });
        let text = format!("x = {}\n", shown(&value, true));
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(parsed["x"]["a"][2].as_float(), Some(1e-7));
        assert_eq!(parsed["x"][""]["d"].as_bool(), Some(true));
    }

    #[test]
    fn long_comments_are_folded() {
        let mut text = String::new();
        comment(&mut text, &"word ".repeat(100));
        assert!(text.lines().all(|line| line.len() <= LINE && line.starts_with("# word")), "{text}");
    }
}
