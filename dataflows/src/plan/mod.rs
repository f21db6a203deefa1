//! The plan of a fit: predicted flops, memory and passes, made before the first pass over the rows.
//!
//! A plan sees n, d, t, the hashed sample's estimates, explicit budgets and flop constants, and plans for one worker in
//! one process (law 1): never a clock, a core count or the host's memory. Memory is then checked for what really runs
//! ([`memory`]), and a job that does not fit is refused before it starts, naming the largest consumers.
//!
//! Flop counts follow solvers.md section 7 of the design notes: a kernel entry costs `2 d + e` with e = [`ENTRY_FLOPS`] for the
//! exponential, a categorical column [`CODE_FLOPS`].

mod cost;
mod memory;

pub use cost::{CODE_FLOPS, ENTRY_FLOPS, Shape, SolverCost};
pub use memory::{Consumer, MemoryPlan};
