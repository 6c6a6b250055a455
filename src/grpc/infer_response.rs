//! The answer to an inference. The elements of the outputs are written once, directly into the encoded message.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::framing::encode_in;
use super::proto::inference::ModelInferResponse;
use super::proto::inference::model_infer_response::InferOutputTensor;
use crate::api::v2;
use crate::error::{Error, Result};
use crate::serve::NamedOutput;

/// Number of the field `raw_output_contents`.
const RAW_OUTPUT_CONTENTS: u32 = 6;
/// Number of the field `infer_response` of the answers in a stream.
const INFER_RESPONSE: u32 = 2;
/// Number of bytes that express the length of any message, 7 bits each.
const PADDED_LENGTH: usize = 5;
/// Bytes for the description of an output, so that the buffer seldom has to grow.
const BYTES_PER_OUTPUT: usize = 96;

/// The fields of an answer besides its outputs.
#[derive(Debug)]
pub struct AnswerHead<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Version that answered.
    pub version: String,
    /// Id that the request had.
    pub id: String,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForm {
    /// The answer of a call: a `ModelInferResponse`.
    Unary,
    /// One of the answers in a stream: a `ModelStreamInferResponse`.
    Streamed,
}

/// Returns an answer with these outputs, in its frame.
pub fn infer_response(form: AnswerForm, head: AnswerHead<'_>, outputs: &[NamedOutput]) -> Result<Vec<u8>> {
    let (mut frame, mut written) = (Vec::new(), Ok(()));
    encode_in(&mut frame, |buffer| {
        written = match form {
            AnswerForm::Unary => write(buffer, head, outputs),
            AnswerForm::Streamed => write_streamed(buffer, head, outputs),
        };
    });
    written.map(|()| frame)
}

/// Writes a `ModelInferResponse` with these outputs to the end of a buffer.
fn write(buffer: &mut Vec<u8>, head: AnswerHead<'_>, outputs: &[NamedOutput]) -> Result<()> {
    let AnswerHead { model, version, id } = head;
    let described = outputs.iter().map(described).collect::<Result<_>>()?;
    let contents: usize = outputs.iter().map(|output| output.data.raw_len() + BYTES_PER_OUTPUT).sum();
    buffer.reserve(contents + model.len() + id.len() + BYTES_PER_OUTPUT);
    let response = ModelInferResponse {
        model_name: model.to_owned(),
        model_version: version,
        id,
        outputs: described,
        ..ModelInferResponse::default()
    };
    response.encode(buffer).map_err(Error::internal)?;
    for output in outputs {
        encode_key(RAW_OUTPUT_CONTENTS, WireType::LengthDelimited, buffer);
        let length = output.data.raw_len();
        encode_varint(length as u64, buffer);
        let start = buffer.len();
        output.data.write_raw(buffer);
        if buffer.len() - start != length {
            return Err(Error::internal("an output is longer or shorter than its elements"));
        }
    }
    Ok(())
}

/// Writes a `ModelStreamInferResponse` with this answer to the end of a buffer.
fn write_streamed(buffer: &mut Vec<u8>, head: AnswerHead<'_>, outputs: &[NamedOutput]) -> Result<()> {
    encode_key(INFER_RESPONSE, WireType::LengthDelimited, buffer);
    let start = buffer.len();
    buffer.extend_from_slice(&[0; PADDED_LENGTH]);
    write(buffer, head, outputs)?;
    let length = buffer.len() - start - PADDED_LENGTH;
    // The length is known only now, and takes the same number of bytes whatever it is.
    for (index, byte) in buffer[start..start + PADDED_LENGTH].iter_mut().enumerate() {
        let more = if index + 1 < PADDED_LENGTH { 0x80 } else { 0 };
        *byte = more | ((length >> (7 * index)) & 0x7f) as u8;
    }
    Ok(())
}

fn described(output: &NamedOutput) -> Result<InferOutputTensor> {
    let NamedOutput { name, shape, data } = output;
    let datatype = v2::datatype(data.dtype()).ok_or_else(|| {
        let problem = "is a sequence of tensors, which this protocol does not have; ask for other outputs".to_owned();
        Error::UnusableOutput { output: name.to_string(), problem }
    })?;
    Ok(InferOutputTensor {
        name: name.to_string(),
        datatype: datatype.to_owned(),
        shape: shape.iter().map(|length| i64::try_from(*length).unwrap_or(i64::MAX)).collect(),
        ..InferOutputTensor::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::FRAME_HEAD;
    use crate::grpc::proto::inference::ModelStreamInferResponse;
    use crate::tensor::Data;

    fn frame(form: AnswerForm, elements: usize) -> Vec<u8> {
        let data = Data::F32(vec![0.5; elements]);
        let outputs = [
            NamedOutput { name: "y".into(), shape: vec![elements], data },
            NamedOutput { name: "t".into(), shape: vec![], data: Data::Text(vec!["ab".into()]) },
        ];
        infer_response(form, AnswerHead { model: "m", version: "2".into(), id: "7".into() }, &outputs).unwrap()
    }

    fn check(found: &ModelInferResponse, elements: usize) {
        assert_eq!((&*found.model_name, &*found.model_version, &*found.id), ("m", "2", "7"));
        let outputs: Vec<_> = found.outputs.iter().map(|output| (&*output.name, &*output.datatype)).collect();
        assert_eq!(outputs, [("y", "FP32"), ("t", "BYTES")]);
        assert_eq!(found.outputs[0].shape, [elements as i64]);
        assert_eq!(found.raw_output_contents[0], 0.5f32.to_le_bytes().repeat(elements));
        assert_eq!(found.raw_output_contents[1], &[2, 0, 0, 0, b'a', b'b'][..]);
    }

    #[test]
    fn the_answer_is_the_message_that_others_decode() {
        for elements in [0, 1, 100, 100_000] {
            let unary = frame(AnswerForm::Unary, elements);
            assert_eq!(unary[1..FRAME_HEAD], (unary.len() as u32 - 5).to_be_bytes());
            check(&ModelInferResponse::decode(&unary[FRAME_HEAD..]).unwrap(), elements);
            let streamed = frame(AnswerForm::Streamed, elements);
            let streamed = ModelStreamInferResponse::decode(&streamed[FRAME_HEAD..]).unwrap();
            check(&streamed.infer_response.unwrap(), elements);
        }
    }

    #[test]
    fn a_sequence_of_tensors_is_no_output() {
        let outputs = [NamedOutput { name: "s".into(), shape: vec![1], data: Data::Sequence(vec![Vec::new()]) }];
        let head = AnswerHead { model: "m", version: "2".into(), id: String::new() };
        let refused = infer_response(AnswerForm::Unary, head, &outputs).unwrap_err();
        assert!(refused.to_string().contains("sequence of tensors"), "{refused}");
    }
}
