//! The fields of an inference that decide about its admission. They are read before the tensors, which are large.

use std::time::Duration;

use bytes::Buf;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, skip_field};

use super::fields::{key, length, malformed};
use super::proto::inference::InferParameter;
use super::proto::inference::infer_parameter::ParameterChoice;
use crate::error::{Error, Result};
use crate::model::Priority;
use crate::serve::Content;

/// Maximum length of a name or an id, in bytes.
const MAX_TEXT: usize = 1024;
/// Maximum number of parameters, and maximum length of each, in bytes.
const MAX_PARAMETERS: usize = 64;
const MAX_PARAMETER: usize = 4096;
/// Maximum number of fields: more than there are names, parameters, inputs, outputs and raw contents at the most.
const MAX_FIELDS: usize = 4096;

/// The fields of an inference besides its tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InferHead {
    /// Name of the model; empty for the default model.
    pub model: String,
    /// Version; empty for the version that the traffic split picks.
    pub version: String,
    /// Id of the request, which the answer repeats.
    pub id: String,
    /// Parameter `timeout`.
    pub timeout: Option<Duration>,
    /// Parameter `priority`.
    pub priority: Option<Priority>,
    /// Parameter `content`.
    pub content: Content,
}

/// An entry of a map of parameters.
#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<InferParameter>,
}

impl InferHead {
    /// Reads the head of an encoded `ModelInferRequest`.
    pub fn read(mut message: impl Buf) -> Result<InferHead> {
        let (mut head, mut parameters, mut fields) = (InferHead::default(), 0, 0);
        while message.has_remaining() {
            fields += 1;
            if fields > MAX_FIELDS {
                return Err(Error::InvalidInput(format!("the message has more than {MAX_FIELDS} fields")));
            }
            let (number, wire_type) = key(&mut message)?;
            match (number, wire_type) {
                (1, WireType::LengthDelimited) => head.model = text(&mut message, "model_name")?,
                (2, WireType::LengthDelimited) => head.version = text(&mut message, "model_version")?,
                (3, WireType::LengthDelimited) => head.id = text(&mut message, "id")?,
                (4, WireType::LengthDelimited) => {
                    parameters += 1;
                    let length = length(&mut message)?;
                    if parameters > MAX_PARAMETERS || length > MAX_PARAMETER {
                        return Err(Error::InvalidInput(format!(
                            "parameters: found more than {MAX_PARAMETERS}, or one of more than {MAX_PARAMETER} bytes"
                        )));
                    }
                    let parameter = Parameter::decode(message.copy_to_bytes(length)).map_err(malformed)?;
                    head.take(&parameter)?;
                }
                (1..=4, _) => return Err(malformed("another type of field")),
                (_, WireType::LengthDelimited) => {
                    let length = length(&mut message)?;
                    message.advance(length);
                }
                // A group has fields without a bound.
                (_, WireType::StartGroup | WireType::EndGroup) => return Err(malformed("a group")),
                _ => skip_field(wire_type, number, &mut message, DecodeContext::default()).map_err(malformed)?,
            }
        }
        Ok(head)
    }

    /// Takes in a parameter. Unknown parameters are ignored, as the protocol asks, except those that change the meaning of
    /// the answer.
    fn take(&mut self, Parameter { name, value }: &Parameter) -> Result<()> {
        let choice = value.as_ref().and_then(|value| value.parameter_choice.as_ref());
        match &**name {
            "timeout" => match whole(choice) {
                Some(0) => {}
                Some(micros) => self.timeout = Some(Duration::from_micros(micros)),
                None => return Err(wrong("timeout", "a whole number of microseconds, at least 0")),
            },
            "priority" => self.priority = priority(choice)?,
            "content" => self.content = content(choice)?,
            "sequence_id" | "sequence_start" | "sequence_end" if !is_off(choice) => {
                return Err(Error::InvalidInput(format!(
                    "parameters.{name}: the server keeps no state between requests; send the state as inputs"
                )));
            }
            _ => {}
        }
        Ok(())
    }
}

fn text(message: &mut impl Buf, name: &str) -> Result<String> {
    let length = length(message)?;
    if length > MAX_TEXT {
        return Err(Error::InvalidInput(format!("{name}: found {length} bytes, expected at most {MAX_TEXT}")));
    }
    String::from_utf8(message.copy_to_bytes(length).into()).map_err(malformed)
}

/// Returns a whole number that is not negative.
fn whole(choice: Option<&ParameterChoice>) -> Option<u64> {
    match choice? {
        ParameterChoice::Int64Param(number) => u64::try_from(*number).ok(),
        ParameterChoice::Uint64Param(number) => Some(*number),
        _ => None,
    }
}

/// Returns true for the values that stand for an absent parameter.
fn is_off(choice: Option<&ParameterChoice>) -> bool {
    match choice {
        None | Some(ParameterChoice::BoolParam(false)) => true,
        Some(ParameterChoice::StringParam(text)) => text.is_empty(),
        choice => whole(choice) == Some(0),
    }
}

const PRIORITIES: &str = "0 (that of the metadata), 1 (high), 2 (normal) or 3 (low)";

/// Returns the priority for a number, or for a name.
fn priority(choice: Option<&ParameterChoice>) -> Result<Option<Priority>> {
    if let Some(ParameterChoice::StringParam(name)) = choice {
        let named = Priority::ALL.into_iter().find(|priority| priority.name().eq_ignore_ascii_case(name));
        return named.map(Some).ok_or_else(|| wrong("priority", PRIORITIES));
    }
    match whole(choice) {
        Some(0) => Ok(None),
        Some(1) => Ok(Some(Priority::High)),
        Some(2) => Ok(Some(Priority::Normal)),
        Some(3) => Ok(Some(Priority::Low)),
        Some(_) | None => Err(wrong("priority", PRIORITIES)),
    }
}

fn content(choice: Option<&ParameterChoice>) -> Result<Content> {
    match choice {
        Some(ParameterChoice::StringParam(text)) if text == "model" => Ok(Content::Model),
        Some(ParameterChoice::StringParam(text)) if text == "pipeline" => Ok(Content::Pipeline),
        _ => Err(wrong("content", "\"model\" or \"pipeline\"")),
    }
}

fn wrong(name: &str, expected: &str) -> Error {
    Error::InvalidInput(format!("parameters: {name}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::proto::inference::ModelInferRequest;
    use crate::grpc::proto::inference::model_infer_request::InferInputTensor;

    fn with(parameters: &[(&str, ParameterChoice)]) -> Result<InferHead> {
        let parameter = |(name, choice): &(&str, ParameterChoice)| {
            ((*name).to_owned(), InferParameter { parameter_choice: Some(choice.clone()) })
        };
        let request = ModelInferRequest {
            model_name: "digits".into(),
            model_version: "2".into(),
            id: "7".into(),
            parameters: parameters.iter().map(parameter).collect(),
            inputs: vec![InferInputTensor { name: "x".into(), ..InferInputTensor::default() }],
            raw_input_contents: vec![vec![8; 100].into()],
            ..ModelInferRequest::default()
        };
        InferHead::read(&*request.encode_to_vec())
    }

    #[test]
    fn the_head_is_found_beside_the_tensors() {
        let head = InferHead { model: "digits".into(), version: "2".into(), id: "7".into(), ..InferHead::default() };
        assert_eq!(with(&[]), Ok(head.clone()));
        let parameters = [
            ("timeout", ParameterChoice::Int64Param(2_000)),
            ("priority", ParameterChoice::Uint64Param(1)),
            ("content", ParameterChoice::StringParam("pipeline".into())),
            ("sequence_id", ParameterChoice::Int64Param(0)),
            ("other", ParameterChoice::DoubleParam(0.5)),
        ];
        let (timeout, priority) = (Some(Duration::from_millis(2)), Some(Priority::High));
        assert_eq!(with(&parameters), Ok(InferHead { timeout, priority, content: Content::Pipeline, ..head.clone() }));
        assert_eq!(with(&[("timeout", ParameterChoice::Int64Param(0))]), Ok(head));
        for (name, choice, problem) in [
            ("timeout", ParameterChoice::Int64Param(-1), "parameters: timeout: expected a whole number"),
            ("priority", ParameterChoice::StringParam("top".into()), "parameters: priority: expected 0"),
            ("content", ParameterChoice::BoolParam(true), "parameters: content: expected \"model\""),
            ("sequence_start", ParameterChoice::BoolParam(true), "parameters.sequence_start: "),
        ] {
            assert!(with(&[(name, choice)]).unwrap_err().to_string().starts_with(problem));
        }
    }

    #[test]
    fn texts_and_parameters_are_bounded() {
        let request = ModelInferRequest { id: "i".repeat(2_000), ..ModelInferRequest::default() };
        let problem = "id: found 2000 bytes, expected at most 1024".to_owned();
        assert_eq!(InferHead::read(&*request.encode_to_vec()), Err(Error::InvalidInput(problem)));
        let none = || InferParameter { parameter_choice: None };
        let parameters = (0..100).map(|index| (index.to_string(), none())).collect();
        let request = ModelInferRequest { parameters, ..ModelInferRequest::default() };
        assert!(InferHead::read(&*request.encode_to_vec()).is_err());
    }

    #[test]
    fn fields_are_bounded() {
        // Fields of the unknown number 15.
        let unknown = |count: usize| [0x78, 0].repeat(count);
        assert_eq!(InferHead::read(&*unknown(MAX_FIELDS)), Ok(InferHead::default()));
        let problem = "the message has more than 4096 fields".to_owned();
        assert_eq!(InferHead::read(&*unknown(MAX_FIELDS + 1)), Err(Error::InvalidInput(problem)));
        // Within a group, too.
        let group = [&[0x7b][..], &unknown(MAX_FIELDS + 1), &[0x7c]].concat();
        assert!(InferHead::read(&*group).is_err());
        let most = ModelInferRequest {
            inputs: vec![InferInputTensor::default(); 1024],
            outputs: vec![Default::default(); 1024],
            raw_input_contents: vec![Default::default(); 1024],
            ..ModelInferRequest::default()
        };
        assert_eq!(InferHead::read(&*most.encode_to_vec()), Ok(InferHead::default()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..100) {
            let whole = InferHead::read(&*bytes);
            let (first, rest) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(InferHead::read(first.chain(rest)), whole);
        }
    }
}
