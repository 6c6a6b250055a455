//! Class names in the file of a model, and the check that `labels` in `model.toml` does not contradict them.

use std::collections::BTreeMap;

use crate::error::{Result, SetupError};
use crate::identity::shown;
use crate::pipeline::Label;

/// Names of classes, in the order of the scores, and their location in the model's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedClasses {
    /// The names.
    pub labels: Vec<Label>,
    /// Location of the names in the model's file, for messages.
    pub source: String,
}

/// Classes of one output with scores, according to the model's graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputClasses {
    /// Candidate lists of class names, the likeliest first. The list of a classifier that is a part of the model may be
    /// too short or too long.
    pub names: Vec<NamedClasses>,
    /// The output in which the model itself returns the class that it chose from these scores.
    pub label_output: Option<String>,
}

/// Classes of all outputs of a model, according to its file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelClasses {
    /// The classes of each output, by the name of the output.
    pub of_scores: BTreeMap<String, OutputClasses>,
    /// The lists of class names in the file's metadata. The first list of the right length is used.
    pub of_metadata: Vec<NamedClasses>,
    /// The output with the labels of several targets, if the model has one.
    pub label_columns: Option<LabelColumns>,
}

/// Output in which the model itself returns the classes of several targets, one column for each target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelColumns {
    /// Name of the output.
    pub output: String,
    /// Class names of each target; `None` if the column holds class indices.
    pub names: Vec<Option<NamedClasses>>,
}

/// Maximum length of a label, in bytes.
const MAX_LABEL: usize = 256;

/// Description of an output with scores, for the search for its labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scores<'a> {
    /// Name of the output.
    pub(crate) output: &'a str,
    /// Number of classes, if the model's shapes determine it.
    pub(crate) count: Option<usize>,
    /// Number of the first class with a label: 1 if class 0 is the background, which has no label.
    pub(crate) first_class: usize,
}

/// Labels that a postprocessor uses for its classes, and their source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChosenLabels {
    /// The labels in answers, in the order of the scores; `None` for "class 0", "class 1" and so on.
    pub(crate) labels: Option<Vec<Label>>,
    /// The names in the model's file, if it has any.
    pub(crate) in_file: Option<Vec<Label>>,
    /// A remark on the source of the labels, for the person who adds a version.
    pub(crate) remark: Option<String>,
}

impl ModelClasses {
    /// Returns the output in which the model itself returns the class that it chose from the scores in `output`.
    pub(crate) fn label_output(&self, output: &str) -> Option<&str> {
        self.of_scores.get(output)?.label_output.as_deref()
    }

    /// Returns the class names in the model's file for these scores, from the graph or from the metadata.
    fn of_output(&self, scores: Scores<'_>) -> Option<NamedClasses> {
        let fits = |classes: &NamedClasses| scores.count.is_none_or(|count| classes.labels.len() == count);
        let of_graph =
            self.of_scores.get(scores.output).and_then(|classes| classes.names.iter().find(|names| fits(names)));
        let of_metadata =
            self.of_metadata.iter().filter_map(|names| names.without_background(scores.first_class)).find(fits);
        match (of_graph.cloned(), of_metadata) {
            // Prefers the metadata if the graph has only the numbers 0, 1, 2 and so on, which are not names.
            (Some(graph), Some(metadata)) if is_numbering(&graph.labels) => Some(metadata),
            (graph, metadata) => graph.or(metadata),
        }
    }

    /// Returns the labels for these scores, from `model.toml` or else from the model's file. Fails if the two disagree.
    pub(crate) fn choose(
        &self,
        configured: Option<Vec<Label>>,
        scores: Scores<'_>,
    ) -> Result<ChosenLabels, SetupError> {
        choose_from(configured, self.of_output(scores))
    }

    /// Returns the labels of one of several targets, like [`ModelClasses::choose`]. The target has an output with its
    /// scores alone, or a column of labels, or both.
    pub(crate) fn choose_of_target(
        &self,
        configured: Option<Vec<Label>>,
        output: Option<&str>,
        column: Option<usize>,
    ) -> Result<ChosenLabels, SetupError> {
        let of_scores = output.and_then(|output| self.of_scores.get(output)?.names.first());
        choose_from(configured, of_scores.or_else(|| self.column(column?)).cloned())
    }

    /// Returns the class names of a column of labels.
    pub(crate) fn column(&self, column: usize) -> Option<&NamedClasses> {
        self.label_columns.as_ref()?.names.get(column)?.as_ref()
    }
}

/// Returns the labels from `model.toml`, or else those that were found in the model's file. Fails if the two disagree.
fn choose_from(configured: Option<Vec<Label>>, found: Option<NamedClasses>) -> Result<ChosenLabels, SetupError> {
    let chosen = choose_any(configured, found)?;
    for label in chosen.labels.iter().flatten() {
        let text = label.to_string();
        // Labels are in every response and in metrics, so they are bounded.
        let is_unfit = |c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\n');
        if text.len() > MAX_LABEL || text.contains(is_unfit) {
            return Err(SetupError::Config(format!(
                "labels: \"{}\" is not a valid label: a label has at most {MAX_LABEL} bytes and no control characters",
                shown(&text)
            )));
        }
    }
    Ok(chosen)
}

fn choose_any(configured: Option<Vec<Label>>, found: Option<NamedClasses>) -> Result<ChosenLabels, SetupError> {
    let in_file = found.as_ref().map(|found| found.labels.clone());
    match (configured, found) {
        (Some(labels), Some(found)) if disagree(&labels, &found.labels) => Err(SetupError::Config(format!(
            "labels: model.toml says {}, but the model's file says {} ({}); leave labels out, give texts \
             where the file has only numbers, or export the model with the right labels",
            listed(&labels),
            listed(&found.labels),
            found.source
        ))),
        (Some(labels), _) => Ok(ChosenLabels { labels: Some(labels), in_file, remark: None }),
        (None, Some(found)) => {
            let remark =
                format!("labels are taken from the model's file: {} ({})", listed(&found.labels), found.source);
            Ok(ChosenLabels { labels: Some(found.labels), in_file, remark: Some(remark) })
        }
        (None, None) => {
            let remark = "neither model.toml nor the model's file names the classes, so they are answered as \
                          \"class 0\", \"class 1\" and so on; set labels in [postprocess]";
            Ok(ChosenLabels { labels: None, in_file, remark: Some(remark.to_owned()) })
        }
    }
}

impl NamedClasses {
    /// Returns the names without that of the background. `None` if class 0 is the background, but the first name is not
    /// a usual name of a background.
    fn without_background(&self, first_class: usize) -> Option<NamedClasses> {
        const BACKGROUND: [&str; 4] = ["__background__", "background", "bg", "n/a"];
        let is_background = |label: &Label| BACKGROUND.contains(&label.to_string().to_lowercase().as_str());
        let before = self.labels.get(..first_class)?;
        before
            .iter()
            .all(is_background)
            .then(|| NamedClasses { labels: self.labels[first_class..].to_vec(), source: self.source.clone() })
    }
}

impl ChosenLabels {
    /// Returns the label of a class; "class 0" and so on if the classes have no names.
    pub(crate) fn of(&self, class: usize) -> Label {
        match &self.labels {
            Some(labels) => labels.get(class).cloned().unwrap_or_else(|| unnamed(class)),
            None => unnamed(class),
        }
    }

    /// Number of classes, if they have names.
    pub(crate) fn count(&self) -> Option<usize> {
        self.labels.as_ref().map(Vec::len)
    }

    /// Describes the contradiction between these labels and `said`, a class that the model itself returned.
    pub(crate) fn contradiction(&self, said: &Label, output: &str) -> Option<String> {
        let known = match (&self.in_file, &self.labels) {
            (Some(known), _) => known,
            // Without names in the file, the meaning of a number is unknown: it may be a position or an id.
            (None, _) if matches!(said, Label::Number(_)) => return None,
            (None, Some(labels)) => labels,
            (None, None) => {
                return Some(format!(
                    "labels: the model has names for its classes that cannot be read from its file: its output {output:?} says \
                     {}; set labels in [postprocess], in the order of the scores",
                    listed(std::slice::from_ref(said))
                ));
            }
        };
        (!known.contains(said)).then(|| {
            format!(
                "labels: the model's own output {output:?} says {}, which is none of {}; set the right labels in \
                 [postprocess], in the order of the scores",
                listed(std::slice::from_ref(said)),
                listed(known)
            )
        })
    }
}

/// Returns the label of a class without a name, as in "class 0".
pub(crate) fn unnamed(class: usize) -> Label {
    Label::Text(format!("class {class}").into())
}

/// Returns true if the labels are the numbers 0, 1, 2 and so on. These are only positions, so texts may replace them.
fn is_numbering(labels: &[Label]) -> bool {
    labels.iter().zip(0..).all(|(label, place)| *label == Label::Number(place))
}

/// Returns true if the configured labels differ from those in the file. Texts may replace numbers in the file.
fn disagree(configured: &[Label], in_file: &[Label]) -> bool {
    let are_numbers = in_file.iter().all(|label| matches!(label, Label::Number(_)));
    let only_names_them = are_texts(configured) && are_numbers && configured.len() == in_file.len();
    configured != in_file && !only_names_them
}

fn are_texts(labels: &[Label]) -> bool {
    labels.iter().all(|label| matches!(label, Label::Text(_)))
}

/// Lists the first labels, for a message.
pub(crate) fn listed(labels: &[Label]) -> String {
    const SHOWN: usize = 10;
    let shown = labels.iter().take(SHOWN).map(|label| match label {
        Label::Number(number) => number.to_string(),
        Label::Text(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
    });
    let more = if labels.len() > SHOWN { format!(" and {} more", labels.len() - SHOWN) } else { String::new() };
    format!("[{}{more}]", shown.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(json: &str) -> Vec<Label> {
        serde_json::from_str(json).unwrap()
    }

    fn scores(count: Option<usize>) -> Scores<'static> {
        Scores { output: "p", count, first_class: 0 }
    }

    fn check(configured: Option<&str>, in_file: &str, expected: std::result::Result<&str, &str>) {
        let named = NamedClasses { labels: labels(in_file), source: "classlabels".to_owned() };
        let of_output = OutputClasses { names: vec![named], label_output: None };
        let classes = ModelClasses { of_scores: [("p".to_owned(), of_output)].into(), ..ModelClasses::default() };
        let chosen = classes.choose(configured.map(labels), scores(Some(3)));
        match expected {
            Ok(expected) => assert_eq!(chosen.unwrap().labels, Some(labels(expected))),
            Err(expected) => {
                let message = chosen.unwrap_err().to_string();
                assert!(message.contains(expected), "{message}");
            }
        }
    }

    /// Labels are bounded, because they are in every response and in metrics.
    #[test]
    fn labels_are_bounded_wherever_they_come_from() {
        let long = format!(r#"["a", "b", "{}"]"#, "c".repeat(1_000_000));
        for wrong in [long.as_str(), r#"["a", "b", "\u001b[31m"]"#, r#"["a", "\u0000", "c"]"#] {
            check(None, wrong, Err("is not a valid label"));
            check(Some(wrong), wrong, Err("is not a valid label"));
        }
        let longest = format!(r#"["a", "b", "{}"]"#, "c".repeat(MAX_LABEL));
        check(None, &longest, Ok(&longest));
    }

    #[test]
    fn the_file_names_the_classes_and_model_toml_may_not_disagree() {
        let (texts, numbers) = (r#"["a", "b", "c"]"#, "[1, 2, 3]");
        check(None, texts, Ok(texts));
        check(None, numbers, Ok(numbers));
        check(Some(texts), texts, Ok(texts));
        // Texts in `model.toml` may replace numbers in a file ...
        check(Some(texts), numbers, Ok(texts));
        check(Some(texts), "[0, 1, 2]", Ok(texts));
        // ... but texts in a file cannot be replaced by other names, another order or numbers.
        check(
            Some(r#"["c", "b", "a"]"#),
            texts,
            Err(r#"model.toml says ["c", "b", "a"], but the model's file says ["a", "b", "c"]"#),
        );
        check(Some("[0, 1, 2]"), texts, Err(r#"says [0, 1, 2], but"#));
        check(Some("[0, 1, 2]"), numbers, Err("says [1, 2, 3] (classlabels)"));
    }

    #[test]
    fn classes_that_nobody_names_have_names_that_look_like_none() {
        let chosen = ModelClasses::default().choose(None, scores(Some(3))).unwrap();
        assert_eq!((chosen.labels, unnamed(2).to_string()), (None, "class 2".to_owned()));
        assert!(chosen.remark.unwrap().contains("set labels"));
    }

    /// If the model's outputs are names, the labels must be names too, even if the file does not list them.
    #[test]
    fn what_the_model_itself_says_may_not_contradict_the_labels() {
        let chosen = |labels: Option<&str>| ChosenLabels {
            labels: labels.map(|labels| serde_json::from_str(labels).unwrap()),
            in_file: None,
            remark: None,
        };
        let said = |labels: Option<&str>, said: Label| chosen(labels).contradiction(&said, "label");
        let (text, number) = (|text: &str| Label::Text(text.into()), Label::Number);
        assert!(said(None, text("setosa")).unwrap().contains("its output \"label\" says [\"setosa\"]; set labels"));
        assert!(said(None, number(3)).is_none());
        assert!(said(None, number(2)).is_none());
        assert!(said(Some("[0, 1, 2]"), text("setosa")).unwrap().contains("which is none of [0, 1, 2]"));
        assert!(said(Some("[0, 1, 2]"), number(3)).is_none());
        assert!(said(Some(r#"["a", "b", "c"]"#), number(3)).is_none());
        assert!(said(Some(r#"["a", "b", "c"]"#), text("b")).is_none());
    }

    #[test]
    fn names_in_the_metadata_are_those_of_numbered_classes() {
        let named = |json: &str| NamedClasses { labels: labels(json), source: String::new() };
        let numbered = OutputClasses { names: vec![named("[0, 1, 2]")], label_output: None };
        let texts = r#"["a", "b", "c"]"#;
        let classes = ModelClasses {
            of_scores: [("p".to_owned(), numbered)].into(),
            of_metadata: vec![named(texts)],
            ..ModelClasses::default()
        };
        assert_eq!(classes.choose(None, scores(Some(3))).unwrap().labels, Some(labels(texts)));
        // The file has a list of names, but not for this number of scores.
        assert_eq!(classes.choose(None, scores(Some(2))).unwrap().labels, None);
        // If the shapes do not determine the number of scores, a different number of labels is a contradiction.
        let error = classes.choose(Some(labels(r#"["a", "b"]"#)), scores(None)).unwrap_err().to_string();
        assert!(error.contains(r#"says ["a", "b"], but the model's file says ["a", "b", "c"]"#), "{error}");
    }

    /// A list of names may begin with the background or with the first class. Only the names show which.
    #[test]
    fn the_background_is_no_class() {
        let chosen = |json: &str| {
            let of_metadata = vec![NamedClasses { labels: labels(json), source: String::new() }];
            let classes = ModelClasses { of_metadata, ..ModelClasses::default() };
            classes.choose(None, Scores { first_class: 1, ..scores(None) }).unwrap().labels
        };
        assert_eq!(chosen(r#"["__background__", "cat", "dog"]"#), Some(labels(r#"["cat", "dog"]"#)));
        assert_eq!(chosen(r#"["cat", "dog"]"#), None);
    }
}
