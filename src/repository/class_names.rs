//! Finds the class names in a model's file.
//!
//! Converters write the names where the model itself needs them: in the attributes `classlabels_*` of classifier nodes
//! of `ai.onnx.ml`, in the keys of a ZipMap, or in a constant that maps class indices to names. Trainers write them
//! into the metadata. The search goes backwards from the outputs, so that the names of an inner classifier (a member of
//! an ensemble, or of one-versus-rest) are not mistaken for those of the prediction.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::onnx_file::{AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};
use crate::pipeline::{Label, LabelColumns, ModelClasses, NamedClasses, OutputClasses};

/// Maximum number of nodes to follow backwards from an output.
const DEPTH: usize = 32;

/// Metadata keys that hold class names.
const METADATA_KEYS: [&str; 6] = ["names", "labels", "classes", "class_names", "class_labels", "id2label"];

/// Maximum number of outputs that are searched.
const MAX_OUTPUTS: usize = 64;

/// Reads the class names from a model's file.
pub(super) fn read(model: &ModelProto) -> ModelClasses {
    let mut found = ModelClasses { of_metadata: of_metadata(&model.metadata_props), ..ModelClasses::default() };
    let Some(graph) = &model.graph else { return found };
    let graph = Graph::new(graph);
    let names: Vec<&str> = graph.proto.output.iter().map(|output| output.name.as_str()).take(MAX_OUTPUTS).collect();
    let labels: Vec<(&str, Choice<'_>)> =
        names.iter().filter_map(|name| Some((*name, graph.choice(name, 0)?))).collect();
    // The output with a name that converters use for labels, if no label output can be followed.
    let unread = names.iter().find(|name| labels.is_empty() && ["label", "output_label"].contains(*name));
    for &scores in &names {
        let ancestors = graph.ancestors(scores);
        // The label outputs that are chosen from these scores, and not from the scores of another head.
        let own: Vec<&(&str, Choice<'_>)> = labels
            .iter()
            .filter(|(name, choice)| *name != scores && graph.is_chosen_by(choice, scores, &ancestors))
            .collect();
        let mut classes = OutputClasses { label_output: unread.map(|name| (*name).to_owned()), names: Vec::new() };
        if let [(name, Choice { names: Some(names), .. }), others @ ..] = &*own
            && others.iter().all(|(_, other)| other.names.as_ref().is_none_or(|other| other.labels == names.labels))
        {
            // These names come before those of the scores, which may be an inner classifier's, as in a stacked model.
            classes.label_output = Some((*name).to_owned());
            classes.names.push(names.clone());
        }
        classes.names.extend(graph.of_scores(scores).or_else(|| graph.of_zip_map(scores)));
        found.of_scores.insert(scores.to_owned(), classes);
    }
    found.label_columns = names.iter().find_map(|name| graph.label_columns(name));
    found
}

/// The choice of a class for each row, which a tensor of labels or class indices holds.
#[derive(Debug)]
struct Choice<'a> {
    /// The class names; `None` if the tensor holds class indices.
    names: Option<NamedClasses>,
    /// The tensors that the choice is made from.
    by: Vec<&'a str>,
}

/// The nodes of a graph by their outputs, and its constants.
struct Graph<'a> {
    proto: &'a GraphProto,
    makers: HashMap<&'a str, (&'a NodeProto, usize)>,
    constants: HashMap<&'a str, &'a TensorProto>,
}

impl<'a> Graph<'a> {
    fn new(proto: &'a GraphProto) -> Graph<'a> {
        let mut makers = HashMap::new();
        let mut constants: HashMap<&str, &TensorProto> =
            proto.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for node in &proto.node {
            makers.extend(node.output.iter().enumerate().map(|(place, name)| (name.as_str(), (node, place))));
            if node.op_type == "Constant"
                && let (Some(name), Some(value)) = (node.output.first(), attribute(node, "value"))
                && let Some(tensor) = &value.t
            {
                constants.insert(name, tensor);
            }
        }
        Graph { proto, makers, constants }
    }

    /// Returns the class names of the classifier that a tensor of scores comes from.
    fn of_scores(&self, tensor: &str) -> Option<NamedClasses> {
        let mut tensor = tensor;
        for _ in 0..DEPTH {
            let (node, place) = *self.makers.get(tensor)?;
            match node.op_type.as_str() {
                "LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier" if place == 1 => return of_node(node),
                "ZipMap" => return of_node(node),
                "Normalizer" | "Softmax" | "Cast" | "Identity" | "Reshape" | "Squeeze" | "Flatten" | "Clip" => {
                    tensor = node.input.first()?;
                }
                _ => return None,
            }
        }
        None
    }

    /// Returns the keys of the ZipMap that reads this tensor or a copy of it.
    fn of_zip_map(&self, tensor: &str) -> Option<NamedClasses> {
        let (name, _) = self.makers.get_key_value(tensor)?;
        let maps = self.proto.node.iter().filter(|node| node.op_type == "ZipMap");
        maps.filter(|map| map.input.first().is_some_and(|input| self.source(input) == self.source(name)))
            .find_map(of_node)
    }

    /// Follows a tensor back to the node that chooses a class for each row, and returns the choice.
    fn choice(&self, tensor: &str, depth: usize) -> Option<Choice<'a>> {
        let (node, place) = *self.makers.get(tensor).filter(|_| depth < DEPTH)?;
        let input = |index: usize| node.input.get(index).map(String::as_str);
        match (node.op_type.as_str(), place) {
            ("LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier", 0) => {
                let by = node.output.iter().map(String::as_str).collect();
                match labels_are_positions(node) {
                    true => Some(Choice { names: None, by }),
                    false => of_node(node).map(|names| Choice { names: Some(names), by }),
                }
            }
            ("Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten", _) => {
                self.choice(input(0)?, depth + 1)
            }
            ("ArgMax", _) => Some(Choice { names: None, by: vec![self.unscaled(input(0)?)] }),
            ("ArrayFeatureExtractor" | "Gather", _) => {
                let labels = labels_of(self.constants.get(input(0)?)?)?;
                let Choice { names: None, by } = self.choice(input(1)?, depth + 1)? else { return None };
                let source = format!("the constant {:?}, in which the label is looked up", input(0)?);
                Some(Choice { names: Some(NamedClasses { labels, source }), by })
            }
            ("LabelEncoder", _) => {
                let (keys, values) = encoder(node)?;
                let renamed = |label: &Label| {
                    keys.iter().position(|key| key == label).and_then(|place| values.get(place)).cloned()
                };
                let Choice { names, by } = self.choice(input(0)?, depth + 1)?;
                let labels: Option<Vec<Label>> = match names {
                    None => (0..keys.len() as i64).map(|place| renamed(&Label::Number(place))).collect(),
                    Some(inner) => inner.labels.iter().map(renamed).collect(),
                };
                let source = "the node LabelEncoder".to_owned();
                Some(Choice { names: Some(NamedClasses { labels: labels?, source }), by })
            }
            _ => None,
        }
    }

    /// Follows an output with a column of labels for each target. Returns the class names of each target.
    fn label_columns(&self, output: &'a str) -> Option<LabelColumns> {
        let (node, 0) = *self.makers.get(self.source(output))? else { return None };
        if node.op_type != "Concat" {
            return None;
        }
        let names: Vec<_> = node.input.iter().map(|column| self.choice(column, 0)?.names).collect();
        names.iter().any(Option::is_some).then(|| LabelColumns { output: output.to_owned(), names })
    }

    /// Returns the original of a tensor that is only a copy in another shape or type; otherwise the tensor itself.
    fn source(&self, tensor: &'a str) -> &'a str {
        let mut tensor = tensor;
        for _ in 0..DEPTH {
            match self.makers.get(tensor) {
                Some((node, 0))
                    if matches!(node.op_type.as_str(), "Cast" | "Identity" | "Reshape" | "Squeeze" | "Flatten") =>
                {
                    match node.input.first() {
                        Some(input) => tensor = input,
                        None => break,
                    }
                }
                _ => break,
            }
        }
        tensor
    }

    /// Returns the tensor that this one is computed from by elementwise operations with constants.
    fn unscaled(&self, tensor: &'a str) -> &'a str {
        const ELEMENTWISE: [&str; 10] =
            ["Add", "Sub", "Mul", "Div", "Neg", "Exp", "Log", "Sigmoid", "Softmax", "LogSoftmax"];
        let mut tensor = self.source(tensor);
        for _ in 0..DEPTH {
            let Some((node, 0)) = self.makers.get(tensor) else { break };
            let mut made_of = node.input.iter().filter(|input| !self.constants.contains_key(input.as_str()));
            match (made_of.next(), made_of.next()) {
                (Some(only), None) if ELEMENTWISE.contains(&node.op_type.as_str()) => tensor = self.source(only),
                _ => break,
            }
        }
        tensor
    }

    /// Returns this tensor and every tensor that it is computed from.
    fn ancestors(&self, tensor: &'a str) -> HashSet<&'a str> {
        let mut found = HashSet::from([tensor]);
        let mut open = vec![tensor];
        while let Some(tensor) = open.pop() {
            let inputs = self.makers.get(tensor).map(|(node, _)| node.input.as_slice()).unwrap_or_default();
            open.extend(inputs.iter().map(String::as_str).filter(|input| found.insert(input)));
        }
        found
    }

    /// Returns true if a choice is made from these scores, or if these scores are computed from a tensor that the
    /// choice is made from.
    fn is_chosen_by(&self, choice: &Choice<'a>, scores: &'a str, ancestors: &HashSet<&'a str>) -> bool {
        let scores = self.source(scores);
        choice.by.iter().any(|by| ancestors.contains(by) || self.ancestors(by).contains(scores))
    }
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// Returns the class names in the attributes `classlabels_*` of a node.
fn of_node(node: &NodeProto) -> Option<NamedClasses> {
    let named = |attribute: &AttributeProto| {
        let labels: Vec<Label> = values_of(attribute)?;
        let source = format!("{} of the node {}", attribute.name, node.op_type);
        (!labels.is_empty()).then_some(NamedClasses { labels, source })
    };
    ["classlabels_strings", "classlabels_int64s", "classlabels_ints"]
        .into_iter()
        .filter_map(|name| attribute(node, name))
        .find_map(named)
}

/// Returns true if ONNX Runtime (1.31) answers 0 and 1 as labels, which are the positions of the classes: it does for
/// trees with scores for both of two classes that are other numbers, as CatBoost exports them.
fn labels_are_positions(node: &NodeProto) -> bool {
    let ints = |name: &str| attribute(node, name).map(|attribute| attribute.ints.as_slice()).unwrap_or_default();
    let (labels, scored) = (ints("classlabels_int64s"), ints("class_ids"));
    node.op_type == "TreeEnsembleClassifier"
        && labels.len() == 2
        && labels != [0, 1]
        && [0, 1].iter().all(|class| scored.contains(class))
}

/// Returns the keys and values of a LabelEncoder.
fn encoder(node: &NodeProto) -> Option<(Vec<Label>, Vec<Label>)> {
    let of = |names: [&str; 3]| names.into_iter().filter_map(|name| attribute(node, name)).find_map(values_of);
    // The first version of the operator maps indices to texts.
    if let Some(classes) = attribute(node, "classes_strings") {
        let values = values_of(classes)?;
        return Some(((0..values.len() as i64).map(Label::Number).collect(), values));
    }
    let keys = of(["keys_int64s", "keys_strings", "keys_tensor"])?;
    let values = of(["values_strings", "values_int64s", "values_tensor"])?;
    (keys.len() == values.len()).then_some((keys, values))
}

fn values_of(attribute: &AttributeProto) -> Option<Vec<Label>> {
    if let Some(tensor) = &attribute.t {
        return labels_of(tensor);
    }
    match attribute.strings.is_empty() {
        true if attribute.ints.is_empty() => None,
        true => Some(attribute.ints.iter().copied().map(Label::Number).collect()),
        false => texts(&attribute.strings),
    }
}

fn texts(strings: &[bytes::Bytes]) -> Option<Vec<Label>> {
    strings.iter().map(|text| Some(Label::Text(std::str::from_utf8(text).ok()?.into()))).collect()
}

/// Returns the elements of a constant: texts or whole numbers.
fn labels_of(tensor: &TensorProto) -> Option<Vec<Label>> {
    const INT32: i32 = 6;
    const INT64: i32 = 7;
    const STRING: i32 = 8;
    // Class names have one dimension. A constant with more dimensions is another table.
    if tensor.dims.iter().filter(|length| **length > 1).count() > 1 {
        return None;
    }
    let numbers = |numbers: Vec<i64>| Some(numbers.into_iter().map(Label::Number).collect());
    match tensor.data_type {
        STRING => texts(&tensor.string_data),
        INT64 if tensor.raw_data.is_empty() => numbers(tensor.int64_data.clone()),
        INT64 => numbers(tensor.raw_data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
        INT32 if tensor.raw_data.is_empty() => numbers(tensor.int32_data.iter().copied().map(i64::from).collect()),
        INT32 => numbers(tensor.raw_data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect()),
        _ => None,
    }
}

// ===== metadata =====

/// Returns the class names in the metadata, from JSON or a Python literal. Ultralytics writes
/// `{0: 'person', 1: 'bicycle'}`.
fn of_metadata(metadata: &[StringStringEntryProto]) -> Vec<NamedClasses> {
    let of_key = |key: &str| {
        let entry = metadata.iter().find(|entry| entry.key == key)?;
        let labels = Literal::parse(&entry.value).and_then(Literal::into_labels)?;
        (!labels.is_empty()).then(|| NamedClasses { labels, source: format!("{key:?} in the file's metadata") })
    };
    METADATA_KEYS.into_iter().filter_map(of_key).collect()
}

/// A list or a dictionary of class names, as read from metadata.
#[derive(Debug)]
enum Literal {
    List(Vec<Label>),
    Map(BTreeMap<i64, Label>),
}

impl Literal {
    fn parse(text: &str) -> Option<Literal> {
        let mut reader = LiteralReader { rest: text.trim() };
        let literal = reader.literal()?;
        reader.rest.trim().is_empty().then_some(literal)
    }

    /// Returns the names by index, if every index has one.
    fn into_labels(self) -> Option<Vec<Label>> {
        match self {
            Literal::List(labels) => Some(labels),
            Literal::Map(map) => {
                map.into_iter().zip(0..).map(|((key, label), place)| (key == place).then_some(label)).collect()
            }
        }
    }
}

/// Reads the subset that JSON and Python literals share: lists and dictionaries of strings and whole numbers.
struct LiteralReader<'a> {
    rest: &'a str,
}

impl LiteralReader<'_> {
    fn literal(&mut self) -> Option<Literal> {
        if self.takes('[') || self.takes('(') {
            let mut labels = Vec::new();
            while !(self.takes(']') || self.takes(')')) {
                labels.push(self.value()?);
                self.takes(',');
            }
            return Some(Literal::List(labels));
        }
        if !self.takes('{') {
            return None;
        }
        let mut map = BTreeMap::new();
        while !self.takes('}') {
            let key = match self.value()? {
                Label::Number(key) => key,
                Label::Text(key) => key.parse().ok()?,
            };
            if !self.takes(':') {
                return None;
            }
            if map.insert(key, self.value()?).is_some() {
                return None;
            }
            self.takes(',');
        }
        Some(Literal::Map(map))
    }

    fn takes(&mut self, character: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Option<Label> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next()?;
        if quote != '\'' && quote != '"' {
            let end = self.rest.find(|c: char| !(c.is_ascii_digit() || c == '-')).unwrap_or(self.rest.len());
            let (number, rest) = self.rest.split_at(end);
            self.rest = rest;
            return number.parse().ok().map(Label::Number);
        }
        let mut text = String::new();
        let mut characters = self.rest[1..].char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'u' => {
                        let digits: String = (0..4).map_while(|_| characters.next()).map(|(_, digit)| digit).collect();
                        text.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                    }
                    other @ ('\\' | '\'' | '"' | '/') => text.push(other),
                    _ => return None,
                },
                character if character == quote => {
                    self.rest = &self.rest[1 + at + character.len_utf8()..];
                    return Some(Label::Text(text.into()));
                }
                other => text.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_metadata_are_read_as_trainers_write_them() {
        let read = |value: &str| {
            let entry = StringStringEntryProto { key: "names".to_owned(), value: value.to_owned() };
            of_metadata(&[entry]).first().map(|classes| classes.labels.iter().map(Label::to_string).collect::<Vec<_>>())
        };
        let expected = Some(vec!["cat".to_owned(), "dog's".to_owned()]);
        for text in [
            r#"{0: 'cat', 1: "dog's"}"#,
            r#"{"1": "dog's", "0": "cat"}"#,
            r#"["cat", "dog's"]"#,
            r"['cat', 'dog\'s']",
            r#" {0: 'cat', 1: "dog\u0027s",} "#,
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in
            ["", "cat,dog", "{0: 'cat', 2: 'dog'}", "{0: 'cat', 0: 'dog'}", "['cat'", "[1.5]", "{'a': 'cat'}", "[]"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
