//! Learning from a stream: rows that are inserted, labelled later, corrected and deleted; a model that is current at stated points of it.
//!
//! The problem: a program that is told rows one after the other, in bounded memory, predicts each before it learns it, and may be killed at any instant without losing a row that it has
//! acknowledged or changing a bit of what it finds later.
//!
//! * [`learner`]: what a learner is to the runtime. Engines stand behind it: second-order learners of one target, recursive least squares of many, and the exact mode.
//!
//! Invariants: state, predictions and models are a function of the events in their order, the configuration and the SIMD path; not of how the source cut them into reads, when commits and
//! snapshots came, or of restarts.

pub mod exact;
pub mod learner;
