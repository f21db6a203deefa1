//! The timely and differential operators: one folder per stage, named for it.
//!
//! A job is one program that every worker runs in step (see [`engine`]); a stage is a dataflow in a folder of its own;
//! the mathematics a stage calls is in `nystream-kernels`.

pub mod dictionary;
pub mod engine;
pub mod error;
pub mod plan;
pub mod profile;
pub mod targets;

pub use error::StageError;
