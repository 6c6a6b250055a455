//! A prediction, whatever the protocol that it came by.
//!
//! A request is *admitted* from its head (`admit.rs`): the version that it asks, its latency budget, and whether it can be
//! answered in time. Then it is *inferred* (`infer.rs`): its body arrives, and the stages run. Read these two top to bottom.
//!
//! A protocol decodes a body to an [`Input`] and encodes an [`Output`]; both run within the stages beside them, on the same
//! thread, and count as parts of them. This room knows no wire format.

#![warn(missing_docs)]

mod admit;
mod infer;
mod input;
mod named_tensors;

pub use self::admit::{Admitted, Head, admit};
pub use self::infer::{Answer, Arriving};
pub use self::input::{EncodedRequest, Input, Output};
