//! Pure numerics of nystream: kernel functions and their SIMD tiles, exact sums, ridge leverage scores,
//! Nystrom factors, preconditioners and solvers' algebra, online learners.
//!
//! No files, no dataflow, no global threads: everything here is testable with arrays alone.
//! No unsafe code but the instruction sets' (`tile/x86.rs`).
#![deny(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

#[cfg(test)]
pub(crate) mod checks;
pub mod constants;
pub mod dense;
pub mod exact_sum;
pub mod gram;
pub mod kernel;
pub mod nystrom;
pub mod online;
pub mod rows;
pub mod sampling;
pub mod solve;
pub mod tile;
pub mod tree;

/// The example of the guide, run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../../docs/adding-a-kernel-family.md")]
mod adding_a_kernel_family {}
