//! Tuning constants: every number chosen by measurement, with the machine and date it was measured on.
//!
//! None may reorder a floating-point sum that another constant or host would order otherwise (law 1):
//! constants marked *shape* are part of the answer and must not be changed without saying so in CHANGELOG.md.

/// *Shape.* Rows of one sum block: consecutive row ordinals of one file (DESIGN law 1).
pub const SUM_BLOCK_ROWS: usize = 2048;

/// *Shape.* Logical parallelism of m x m algebra, whatever the thread pool holds.
pub const LOGICAL_PARALLELISM: usize = 8;
