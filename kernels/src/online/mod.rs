//! Learning from streams: second-order online kernel learning, exact online references, drift, and recursive least squares of many targets.
//!
//! The problem: rows come one after the other, each is predicted before its target is seen and learned afterwards, in bounded time and memory, and what that cost
//! beside the best function in hindsight (regret) is known.
//!
//! | learner | a row costs | state | regret |
//! |---|---|---|---|
//! | [`Kons`], exact | O(t^2), t rows so far | O(t^2) | O(d_eff log T) |
//! | [`Kons`] sketched | O((gamma_s t)^2 + m^2) and t entries | O((gamma_s t)^2 + t d) | the same over gamma_s |
//! | [`ProjectedKons`], restarts (PROS-N-KONS) | O(m^2) | O(m^2) | O(J d_eff log T) |
//! | [`ProjectedKons`], carried over (CON-KONS) | O(m^2) | O(m^2) | [`Ledger::bound`] |
//! | [`Recursive`], frozen dictionary, t targets | O(m^2 + m t) | O(m^2 + m t) | none stated |
//!
//! Sources: Calandriello, Lazaric and Valko, "Second-order kernel online convex optimization with adaptive sketching" (ICML 2017) and "Efficient second-order online kernel
//! learning with adaptive
//! embedding" (NeurIPS 2017), as recalled in the project's notes; what was derived here says so.
//!
//! Invariants: everything is a function of rows, ids, order, configuration and SIMD path, not of how a stream is cut into calls; randomness is a hash of (seed, row id); no clock,
//! no thread, no file. All state
//! is plain numbers (`serde`) and, restored, goes on to the same bits. Input that is not finite is an error that names its row. Kernel entries are f32 or f64, all else f64.

mod comparator;
mod dictionary;
pub mod drift;
mod entries;
mod error;
mod factor;
mod kons;
mod loss;
mod pending;
mod projected;
mod recursive;
mod regret;
#[cfg(test)]
mod tests;

pub use comparator::{Comparator, Hindsight, HindsightSample};
pub use dictionary::DictionaryParams;
pub use entries::{Batch, EntryParams};
pub use error::OnlineError;
pub use kons::{Kons, KonsInfo, KonsParams, Sketch};
pub use loss::{Curvature, Loss};
pub use projected::{Expansion, Growth, Operation, Outcome, ProjectedInfo, ProjectedKons, ProjectedParams};
pub use recursive::{Answers, Recursive, RecursiveInfo, RecursiveParams};
pub use regret::{Bound, Ledger, PublishedBound, PublishedTerms, published_bound};
