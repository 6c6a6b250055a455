//! Facts in an ONNX file that show the purpose of a model: its exporter, its metadata, and the operators before each
//! output. `leeway init` reads them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::onnx_file::{self, ModelProto, NodeProto};
use super::refusal::Refusal;
use crate::error::{LoadFault, Result};

/// Maximum number of operators that are listed before an output.
const MAX_OPERATORS: usize = 8;

/// Maximum length of a value of the metadata, in bytes. Longer ones are left out.
const MAX_METADATA_BYTES: usize = 1 << 20;

/// Facts in an ONNX file besides its inputs and outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// The exporter and its version, as in `skl2onnx 1.20.0`.
    pub producer: Option<String>,
    /// The metadata that the exporter wrote.
    pub metadata: BTreeMap<String, String>,
    /// The operators that compute each output, by the name of the output, the last operator first. They are followed
    /// along the first input of each operator.
    pub before_output: BTreeMap<String, Vec<String>>,
    /// All operators of the main graph.
    pub operators: BTreeSet<String>,
}

impl ModelFacts {
    /// Reads the facts in the bytes of an ONNX file.
    pub fn read(model: &Arc<[u8]>) -> Result<ModelFacts, Refusal> {
        let model = onnx_file::parse(model)
            .map_err(|problem| Refusal::new(LoadFault::Model, format!("model.onnx: {problem}")))?;
        Ok(ModelFacts::of(&model))
    }

    fn of(model: &ModelProto) -> ModelFacts {
        let producer = format!("{} {}", model.producer_name, model.producer_version);
        let producer = Some(producer.trim().to_owned()).filter(|name| !name.is_empty() && name.len() <= 128);
        let short = model.metadata_props.iter().filter(|entry| entry.value.len() <= MAX_METADATA_BYTES);
        let metadata = short.map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        let Some(graph) = &model.graph else { return ModelFacts { producer, metadata, ..ModelFacts::default() } };
        let makers: HashMap<&str, &NodeProto> =
            graph.node.iter().flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node))).collect();
        let before = |output: &str| {
            let mut operators = Vec::new();
            let mut tensor = output;
            while let Some(node) = makers.get(tensor).filter(|_| operators.len() < MAX_OPERATORS) {
                operators.push(node.op_type.clone());
                let Some(input) = node.input.first() else { break };
                tensor = input;
            }
            operators
        };
        ModelFacts {
            producer,
            metadata,
            before_output: graph.output.iter().map(|output| (output.name.clone(), before(&output.name))).collect(),
            operators: graph.node.iter().map(|node| node.op_type.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::onnx_file::{GraphProto, StringStringEntryProto, ValueInfoProto};
    use super::*;

    #[test]
    fn the_operators_before_an_output_are_the_last_first() {
        let node = |input: &str, op_type: &str, output: &str| NodeProto {
            input: vec![input.to_owned()],
            op_type: op_type.to_owned(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        let graph = GraphProto {
            node: vec![node("x", "Gemm", "h"), node("h", "Softmax", "p"), node("loop", "Identity", "loop")],
            output: ["p", "loop", "x"]
                .map(|name| ValueInfoProto { name: name.to_owned(), ..ValueInfoProto::default() })
                .to_vec(),
            ..GraphProto::default()
        };
        let entry = StringStringEntryProto { key: "task".to_owned(), value: "detect".to_owned() };
        let model = ModelProto {
            producer_name: "pytorch".to_owned(),
            producer_version: "2.9".to_owned(),
            graph: Some(graph),
            metadata_props: vec![entry],
            ..ModelProto::default()
        };
        let facts = ModelFacts::of(&model);
        assert_eq!(facts.producer.as_deref(), Some("pytorch 2.9"));
        assert_eq!(facts.metadata["task"], "detect");
        assert_eq!(facts.before_output["p"], ["Softmax", "Gemm"]);
        assert_eq!(facts.before_output["loop"].len(), MAX_OPERATORS);
        assert!(facts.before_output["x"].is_empty() && facts.operators.contains("Gemm"));
        assert_eq!(ModelFacts::of(&ModelProto::default()), ModelFacts::default());
    }
}
