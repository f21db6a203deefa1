//! The timely and differential operators: one folder per stage, named for it.
//!
//! A job ([`job`]) is one program that every worker runs in step (see [`engine`]); a stage is a dataflow in a folder of its own;
//! the mathematics a stage calls is in `nystream-kernels`.

pub mod certify;
pub mod dictionary;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod job;
pub mod matvec;
pub mod nystrom;
pub mod online;
pub mod plan;
pub mod predict;
pub mod profile;
pub mod solve;
pub mod targets;
pub mod tune;

pub use error::StageError;
