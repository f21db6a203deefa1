//! The Nystrom approximation of all rows over the centers, K ~ K_nm K_mm^-1 K_mn.
//!
//! What of it is a sum over rows is one dataflow: the exact Gram K_nm^T W K_nm with K_nm^T W y ([`exact_gram`]), the same bits for any workers,
//! processes and order of arrival. What is m x m is replicated: K_mm and its whitening, from which every solver
//! works. Solvers that never form the Gram stream its products instead ([`crate::matvec`]).

mod basis;
pub mod gram;
mod masses;
pub(crate) mod range;

pub(crate) use basis::{Basis, StratifiedSample, from_row_major, numeric, row_major};
pub use gram::{GramJob, exact_gram};
pub(crate) use masses::{MassLayout, Masses, center_masses, owned, weight_scale};
