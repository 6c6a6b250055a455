//! Stages of texts: tokens, and the embeddings and entities that models derive from them.

pub(crate) mod embedding;
pub(crate) mod hard_texts;
pub(crate) mod preprocess;
pub(crate) mod token_classifier;
pub(crate) mod tokenizing;
