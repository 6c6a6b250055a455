//! The messages, generated from the files in `/proto`. A test checks that they are current, and can write them anew.

#[rustfmt::skip]
pub mod health;
#[rustfmt::skip]
pub mod inference;

/// The encoded description of all messages and services, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");
