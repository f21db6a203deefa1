//! Tuning constants: every number chosen by measurement, with the machine and date it was measured on.
//!
//! None may reorder a floating-point sum that another constant or host would order otherwise (law 1):
//! constants marked *shape* are part of the answer and must not be changed without saying so in CHANGELOG.md.

/// *Shape.* Rows of one sum block: consecutive row ordinals of one file.
pub const SUM_BLOCK_ROWS: usize = 2048;

/// *Shape.* Logical parallelism of m x m algebra, whatever the thread pool holds.
pub const LOGICAL_PARALLELISM: usize = 8;

/// *Shape.* Up to this many coordinates, squared distances are summed from differences instead of the norm expansion
/// (equal cost at 4: two operations a feature against one and a fixed four; Zen 3, November 2026).
pub const DIRECT_WIDTH: usize = 4;

/// Bytes of kernel entries formed before they are used: half of a 512 KiB second-level cache (Zen 3, November 2026).
pub const TILE_BLOCK_BYTES: usize = 256 << 10;

/// Most rows of such a block (their packed features share the first-level cache with a panel of centers).
pub const TILE_BLOCK_ROWS: usize = 96;

/// Rows whose gradients are summed at once, at least: each such block reads m (d + 1) f64 (12 rows are 26 % slower at d = 90, m = 4,096; Xeon, AVX-512, November 2026).
pub const GRADIENT_ROWS: usize = 48;

/// *Shape.* Rows that a weighted Gram of whitened features takes at once: long enough for the products' rate, short beside the m rows
/// of a preconditioner (m = 4,096: 17 MB; Xeon, AVX-512, November 2026).
pub const GRAM_BLOCK: usize = 512;

/// *Shape.* Rows and columns of the tiles that threads take of a large product: the largest of which there are enough. Of 512 two threads reach 133 to 145 Gflop/s, of 256 119 to 136
/// (m = 4,000; Xeon, AVX-512, November 2026).
pub const PRODUCT_TILES: [usize; 3] = [512, 256, 128];

/// *Shape.* Tiles of a product that there should be, for a few threads to end together (2 cores; November 2026).
pub const ENOUGH_TILES: usize = 8;

/// *Shape.* Fewer columns than these make a product or a triangular solve one of memory, where faer's own division over threads is the better one (one column of m = 4,000: 8 ms for 12;
/// Xeon, two cores, November 2026).
pub const FEW_COLUMNS: usize = 8;

/// *Shape.* Order of the blocks of factors and triangular solves that are not halved any more.
pub const FACTOR_BLOCK: usize = 128;

/// *Shape.* Columns of a matrix that one task copies or solves for.
pub const TASK_COLUMNS: usize = 64;

/// Rows of kernel entries that the exact Gram asks for before it packs them (Xeon, November 2026).
pub const ROWS_AHEAD: usize = 6;

/// *Shape.* Weight of the centers' estimate in a preconditioner of centers and sampled rows, as many of each (0.5 to 0.9 differ by a sixth in iterations; kin40k and protein, m = 1,200,
/// November 2026).
pub const CENTER_SHARE: f64 = 0.7;

/// *Shape.* Order up to which the trace of an inverse is summed exactly, m^3 / 3 flops; beyond it is the mean over [`TRACE_PROBES`] probes (m = 4,000: 0.16 s for 0.03; Xeon, two cores, November 2026).
pub const EXACT_TRACE: usize = 1024;

/// *Shape.* Hashed probes of a trace: of 100 degrees of freedom the standard error is then at most 0.9, of 3,800 of 4,000 at most 1.3.
pub const TRACE_PROBES: usize = 256;

/// *Shape.* Centers of a block that a row keeps or leaves out as one: whole panels on every path (the widest has 64; 3-D points, November 2026).
pub const SPARSE_BLOCK: usize = 64;

/// *Shape.* Share of entries kept up to which sparse products are taken. They take as long as dense ones at shares of 0.45 (K v) and 0.26 (K^T(K v)) with one column, of 0.9 and 0.55 with eight (3-D points
/// and 10 columns of which three matter, 16,384 centers, f32; Xeon, AVX-512, November 2026; `benches/sparse.rs`): below this they always gain, at a tenth two to six times.
pub const SPARSE_GAIN: f64 = 0.25;

/// *Shape.* With what probability at most products with drawn blocks miss what they promise.
pub const DRAW_FAILURE: f64 = 1e-3;

/// Bytes of kept entries that a thread holds at most, for both products of one evaluation. Shapes no sum.
pub const SPARSE_BYTES: usize = 8 << 20;

/// Rows whose blocks are found together, at most: the more, the fuller the tiles of rows that share a block. Shapes no sum.
pub const SPARSE_ROWS: usize = 8192;

/// Centers whose entries are widened to f64 at once for products with several columns.
pub const WIDE_CHUNK: usize = 256;
