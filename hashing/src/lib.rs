//! Counter-based randomness and row identities.
//!
//! Nothing in nystream draws random numbers: every random quantity is a hash of
//! *what it is about* (a seed, a stage, a row id). No generator state travels, so
//! the answer cannot depend on workers, chunks or arrival order.
//!
//! * [`philox4x32`]: the Philox4x32-10 bijection (Salmon, Moraes, Dror and Shaw,
//!   "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//! * [`StreamKey`]: a key derived as the leading bits of BLAKE3(seed, stage, copy); the counter
//!   is the 128-bit [`RowId`].
//! * [`FileId`] and [`RowId`]: identities that survive adding files and moving folders.
//!
//! Cost: about 10 ns a call. The outputs are pinned by value-stability tests: changing them
//! changes every model ever fitted.

mod philox;
mod row_id;

pub use philox::{StreamKey, philox4x32};
pub use row_id::{FileId, RowId};
