//! Applying a fitted function.
//!
//! f(x) = c + 2^e k(x, Z) alpha for numbers; scores or probabilities for classes. Rows are independent: a row's prediction
//! has the same bits in any batch.

mod function;

pub use function::{Function, VarianceFactor};
