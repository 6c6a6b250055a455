//! What the tests and the benches of Leeway share: places in the checkout, model repositories, the program as a process, and
//! load on it.
//!
//! A dev-dependency of Leeway, and no part of it. It stands below `benches/`, which is all that an image needs of it.

mod floor;
mod load_generator;
mod measuring;
mod places;
mod process;
mod repository;
mod server;

pub use self::floor::Floor;
pub use self::load_generator::{Hit, Load, OHA, Question, Summary, fire, oha, summarize, together};
pub use self::measuring::{Spread, in_turn, meanwhile, median, number_from, quantile};
pub use self::places::{
    checkout, copy_folder, example, held_out, leeway_program, onnxruntime, shipped, test_model, workshop,
};
pub use self::process::{KillOnDrop, leeway, run};
pub use self::repository::{PLAIN, Repository, TENSOR_STAGES, test_config};
pub use self::server::Server;
