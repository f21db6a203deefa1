//! Applying a fitted function.
//!
//! f(x) = c + 2^e k(x, Z) alpha for numbers; scores or probabilities for classes. Rows are independent: a row's prediction
//! has the same bits in any batch.
//!
//! [`predict()`] is the stage: Parquet in, Parquet out, in the order of the input, with memory that does not grow with the rows. Its parts:
//! `layout` (which worker writes which row groups), `columns` (what is written), `scan` (one worker's pass), `applied` (which entries it forms), `variance`. Where
//! processes share the centers the rows of all are dealt to all, and their sums come back (`matvec::grid`).

mod applied;
mod columns;
mod function;
mod layout;
mod rows;
mod scan;
mod stage;
#[cfg(test)]
mod tests;
mod variance;

pub use applied::{Applied, AppliedScratch};
pub use function::{Function, VarianceBasis, VarianceFactor, prior_margin};
pub use rows::{Predicted, RowPredictor};
pub use stage::{NO_SHARED_VARIANCE, PredictOptions, Predictions, part_name, part_path, predict};
pub(crate) use variance::PANEL;
