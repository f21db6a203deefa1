//! Learning from a stream: rows that are inserted, labelled later, corrected and deleted; a model that is current at stated points of it.
//!
//! The problem: a program that is told rows one after the other, in bounded memory, predicts each before it learns it, and may be killed at any instant without losing a row that it has
//! acknowledged or changing a bit of what it finds later.
//!
//! * [`learner`]: what a learner is to the runtime. Engines stand behind it: second-order learners of one target (`second`, with `units` and `settings`), least squares of many (`recursive`), either of them by the value of a column (`sharded`), and the exact mode.
//! * [`encoding`]: from events to encoded rows; [`store`]: the rows that are kept, and their log.
//! * [`window`]: rows that leave because others came; `watch`: how far the learner is from what was published.
//! * [`session`]: what events do, as a function of the log; [`state`]: the folder of a run, with its snapshots; [`drive`]: the loop that reads, takes, makes durable and answers; [`sink`] and [`answers`]: where answers go;
//!   [`latency`], [`meter`]: what is measured.
//!
//! Invariants: state, predictions and models are a function of the events in their order, the configuration and the SIMD path; not of how the source cut them into reads, when commits and
//! snapshots came, or of restarts.

pub mod answers;
pub mod demand;
pub mod drive;
pub mod encoding;
pub mod exact;
pub mod latency;
pub mod learner;
pub mod meter;
mod noise;
mod packed;
pub mod recursive;
pub mod second;
pub mod serving;
pub mod session;
pub mod settings;
mod settle;
pub mod sharded;
pub mod sink;
pub mod state;
pub mod store;
pub mod tally;
pub mod units;
mod watch;
pub mod window;
