//! Checkpoints: a folder in which a job keeps what it would otherwise compute again.
//!
//! The problem: a job of hours is killed, by whomever, at any moment, and is to go on where it was, in as many processes as there are then, to the same bits. This module knows nothing of what is
//! stored: entries have names and bytes. It sees to it that what is read back is what was written ([`format`](mod@format)), by this job ([`JobKey`]), by one job at a time, that a damaged entry gives way to the one
//! before it ([`Store`]), and that writing stays a small share of the run ([`Pace`]).

mod error;
pub mod format;
mod identity;
mod pace;
mod store;
#[cfg(test)]
mod tests;

pub use error::CheckpointError;
pub use format::{Damage, Frame};
pub use identity::JobKey;
pub use pace::{Pace, SHARE, Written};
pub use store::{Found, Store};
