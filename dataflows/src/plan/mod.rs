//! The plan of a fit, and the memory of prediction and evaluation ([`ApplyPlan`]): predicted flops, memory and passes, made before the first solve pass over the rows.
//!
//! A plan sees n, d, t, the hashed sample's estimates, explicit budgets and flop constants, and its `auto` decisions are those for one worker in
//! one process (law 1): never a clock, a core count or the host's memory. Memory is then checked for what really runs
//! ([`MemoryPlan::check`]), and a job that does not fit is refused before it starts, naming the largest consumers; what cannot
//! fit whatever the rows hold is refused from the footers alone ([`preflight`]).
//!
//! Flop counts: a kernel entry costs `2 d + e` with e = [`ENTRY_FLOPS`] for the
//! exponential, a categorical column [`CODE_FLOPS`].

mod chosen;
mod cost;
mod decoding;
mod dictionary;
mod fit;
mod flops;
mod held;
mod memory;
mod predict;
mod preflight;
mod selection;
mod size;

pub use chosen::ChosenRows;
pub use cost::{
    CODE_FLOPS, EIGEN_ALGEBRA, EIGENPRO_PASSES, ENTRY_FLOPS, GRAM_ALGEBRA, PRECONDITIONER_ROWS, Preconditioning,
    SHRINK_ALGEBRA, Shape, SolverCost, block_algebra, preconditioner_rows,
};
pub use decoding::Decoding;
pub(crate) use decoding::{ProfilePlan, profiled_bytes};
pub use dictionary::DictionaryWork;
pub use fit::{Considered, EXPECTED_ITERATIONS, FitPlan, PlanRequest, SELECT_SHARE};
pub(crate) use flops::certified;
pub(crate) use memory::program_bytes;
pub use memory::{Consumer, MemoryPlan, human, plural};
pub use predict::ApplyPlan;
pub use preflight::preflight;
pub use selection::Selection;
pub use size::{ModelSize, Reading, Room, Writing};
