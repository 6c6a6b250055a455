//! Reflection: clients such as grpcurl ask for the services and messages.

use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha::{
    ServerReflection as ServerReflectionAlpha, ServerReflectionServer as ServerReflectionServerAlpha,
};

use super::proto::DESCRIPTORS;
use crate::error::SetupError;

/// Maximum size of a question, in bytes.
const MAX_QUESTION: usize = 16 << 10;

/// Returns the service of reflection.
pub fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>, SetupError> {
    let service = Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1();
    Ok(service.map_err(SetupError::internal)?.max_decoding_message_size(MAX_QUESTION))
}

/// Returns the service of reflection in its first form, which many clients still use.
pub fn reflection_alpha() -> Result<ServerReflectionServerAlpha<impl ServerReflectionAlpha>, SetupError> {
    let service = Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1alpha();
    Ok(service.map_err(SetupError::internal)?.max_decoding_message_size(MAX_QUESTION))
}
