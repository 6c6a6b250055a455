//! Shared parts of Leeway's tests and benches: places in the checkout, model repositories, the program as a process,
//! and load on it.
//!
//! A dev-dependency of Leeway, not a part of it. It is below `benches/`, so that images need only that folder.

mod floor;
mod load_generator;
mod measuring;
mod places;
mod postgres;
mod process;
mod python;
mod repository;
mod rollouts;
mod server;

pub use self::floor::Floor;
pub use self::load_generator::{Hit, Load, OHA, Question, Summary, fire, oha, summarize, together};
pub use self::measuring::{Spread, in_turn, meanwhile, median, number_from, quantile};
pub use self::places::{
    checkout, copy_folder, example, held_out, leeway_program, onnxruntime, shipped, test_model, workshop,
};
pub use self::postgres::Postgres;
pub use self::process::{KillOnDrop, leeway, run};
pub use self::python::{python, python_of_peers, succeed};
pub use self::repository::{PLAIN, Repository, TENSOR_STAGES, test_config};
pub use self::rollouts::{Rule, Scenario, rolled_back_at};
pub use self::server::Server;
