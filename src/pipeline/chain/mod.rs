//! Chains of models: the instances of a step, made from the request and from earlier predictions, and the predictions of a
//! chain.
//!
//! - `instances.rs` makes the instances of a step, and `crops.rs` cuts boxes out of images. `instance_array.rs` is the text of
//!   the instances.
//! - `answer.rs` puts the predictions of the steps together.
//! - `fit.rs` compares the schema of a value with the schema that a step accepts.

mod answer;
mod crops;
mod fit;
mod instance_array;
mod instances;

pub use self::answer::{chain_predictions, crops_schema};
pub use self::fit::{member_of, misfit_of, takes_images};
pub use self::instance_array::ChainInstances;
pub use self::instances::{FinishedStep, MadeInstances, StepRow, count_of, has_instances, instances_of_step};
