//! The workhorse: one pass over the rows that forms kernel tiles and uses each entry at once.
//!
//! [`row_sums`] computes, over all training (or held-out) rows x,
//!
//! ```text
//!   sum_x k(x, Z)^T u(x)   (m x s)      and      sum_x e(x)   (extras)
//! ```
//!
//! where u and e are functions of the row and of K(x, Z) V (t values) or its nearest center ([`Reads`]). K^T (K V), K^T Y, residuals, gradients
//! and Hessian products of every loss are this one loop with different u; an entry is evaluated once a pass.
//! Where some entries suffice ([`products`]), K is the matrix K~ of those in both products; rows draw none of them here.
//! Sums run in f64, inside a sum block in row order and across blocks over the fixed tree.
//! Cost: n m entries, 2 n m (t + s) flops, (m s + extras) log(blocks) values exchanged by each worker.

pub mod blocks;
pub mod grid;
pub mod products;

use crate::engine::Outgoing;
use crate::engine::checkpoint::{Parts, begin_parts, digest, float_bytes, over};
use crate::engine::exchange::{Scan, Step};
use crate::engine::feed::{Feed, view};
use crate::engine::leases::Leased;
use crate::engine::session::Session;
use crate::engine::sums::{node_frame, node_from, node_parcels, summed};
use crate::error::StageError;
use nystream_datasets::Chunk;
use nystream_kernels::tile::{Entry, Nearest, SparseScratch, SparseVectors, TileScratch};
use nystream_kernels::tree::SumTree;
use products::{Ledger, Products};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// One row as [`row_sums`] shows it to its function.
pub struct RowView<'a> {
    /// The chunk that holds the row.
    pub chunk: &'a Chunk,
    /// Index of the row within the chunk.
    pub row: usize,
    /// K(x, Z) V: t values, in the units of V ([`Reads::Product`]).
    pub values: &'a [f64],
    /// Its nearest center ([`Reads::Nearest`]).
    pub nearest: Nearest,
}

/// What a [`row_sums`] pass shows of a row's kernel entries.
#[derive(Clone, Debug)]
pub enum Reads {
    /// Products with V, m x t row-major; nothing where t = 0.
    Product(Arc<Vec<f64>>),
    /// The nearest center, for which every entry is formed.
    Nearest,
}

/// Shape of a [`row_sums`] pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Columns of V: 0 for [`Reads::Nearest`].
    pub input: usize,
    /// Values of u.
    pub output: usize,
    /// Extra sums.
    pub extras: usize,
}

struct RowSums<T: Entry, F> {
    feed: Feed,
    chunk: Chunk,
    products: Products<T>,
    /// V in the order of sparse products.
    vectors: Option<Arc<SparseVectors>>,
    reads: Reads,
    widths: Widths,
    scratch: TileScratch<T>,
    sparse_scratch: SparseScratch<T>,
    /// What sparse products left out.
    ledger: Rc<RefCell<Ledger>>,
    tree: SumTree,
    function: F,
    process: Arc<crate::engine::Process>,
    /// What is stored of a pass that goes on for long.
    parts: Option<Parts>,
}

/// Nodes of the sum of a contiguous run of blocks, about.
const STORED_NODES: u64 = 32;

impl<T: Entry, F> RowSums<T, F> {
    /// Stores what there is, when that is due.
    fn store(&mut self) {
        let length = self.products.centers() * self.widths.output + self.widths.extras;
        let blocks = self.feed.blocks(&self.chunk);
        let Some(parts) = &mut self.parts else { return };
        parts.done(blocks);
        if parts.due(STORED_NODES * 8 * length as u64) {
            let nodes = self.tree.nodes();
            parts.save(nodes.len() as u32, &mut nodes.iter().map(node_frame));
        }
    }
}

impl<T, F> Scan for RowSums<T, F>
where
    T: Entry,
    F: FnMut(RowView<'_>, &mut [f64], &mut [f64]),
{
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let m = self.products.centers();
        let Widths { input, output, extras } = self.widths;
        let rows = self.chunk.rows();
        let mut entries = 0;
        for block in 0..self.chunk.blocks() {
            let range = self.chunk.block(block);
            let index = self.feed.global_block(&self.chunk, block);
            if range.is_empty() {
                self.tree.insert_empty(0, index).map_err(internal)?;
                continue;
            }
            let mut sums = vec![0.0; m * output + extras];
            let (products, extra) = sums.split_at_mut(m * output);
            let (chunk, function, start) = (&self.chunk, &mut self.function, range.start);
            let (view, scratch) = (view(&self.chunk).slice(range.start, range.end), &mut self.scratch);
            let mut see = |i: usize, values: &[f64], u: &mut [f64]| {
                function(RowView { chunk, row: start + i, values, nearest: Nearest::default() }, u, extra);
            };
            match (&self.products, &self.reads) {
                (Products::Dense(tiles), Reads::Product(v)) => {
                    tiles.map_rows(view, v, input, output, scratch, products, see);
                    entries += (view.len() * m) as u64;
                }
                (Products::Dense(tiles), Reads::Nearest) => {
                    tiles.map_nearest(view, output, scratch, products, |i, nearest, u| {
                        function(RowView { chunk, row: start + i, values: &[], nearest }, u, extra);
                    });
                    entries += (view.len() * m) as u64;
                }
                (Products::Sparse(tiles), Reads::Product(_)) => {
                    let (vectors, mut ledger) = (self.vectors.as_deref(), self.ledger.borrow_mut());
                    let formed = tiles.map_rows(
                        view,
                        vectors,
                        output,
                        &mut self.sparse_scratch,
                        products,
                        |i, values, missing, u| {
                            ledger.add(0, missing.bounds, input);
                            see(i, values, u);
                        },
                    );
                    ledger.add(formed, &[], input);
                    entries += formed;
                }
                (Products::Sparse(_), Reads::Nearest) => {
                    return Err(internal("the nearest center needs every entry"));
                }
            }
            self.tree.insert(0, index, sums).map_err(internal)?;
        }
        self.process.count(entries, entries * 2 * (input + output) as u64);
        self.store();
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let length = self.products.centers() * self.widths.output + self.widths.extras;
        Ok(node_parcels(self.tree.into_nodes(), length))
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        Some(&mut self.feed)
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

/// Runs one pass; returns the m x s products (row-major) followed by the extra sums, on every worker.
///
/// `reads` says what is formed of a row's entries. `function` sees the rows of a block in their order; it must
/// write all s values of u, and adds to the extras, which start at zero in every block. t, s and the number of extras are [`Widths::input`],
/// [`Widths::output`] and [`Widths::extras`].
///
/// Panics where V or the rows do not fit the tiles.
///
/// ```
/// use nystream_dataflows::matvec::{Reads, RowView, Widths, row_sums};
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf, tile::{SimdPath, Tiles}};
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1"])?)?;
/// # let summary = |info| ColumnSummary { count: 5000, sd: 0.6, min: -1.0, max: 1.0, ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], ..Default::default() })?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// // `catalog`, `encoder` and `store` are those of the example of `RowStore`: 5,000 rows.
/// let results = run(&process, communication, move |session| {
/// #   let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #   let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     let centers = RowBuf { numeric: vec![-1.0, 0.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 };
///     let kernel = Kernel::new(Family::Gaussian, 0.5);
///     let tiles = session.once(|| Tiles::<f32>::new(&kernel, centers.view(), &[], SimdPath::detect()).unwrap());
///     // The sum of k(x, z) over the rows for each of three centers z, and then the number of rows.
///     let widths = Widths { input: 0, output: 1, extras: 1 };
///     let feed = store.feed(Role::Training);
///     row_sums(session, "density", feed, &tiles, Reads::Product(Arc::default()), widths, |_: RowView<'_>, u, extras| {
///         u[0] = 1.0;
///         extras[0] += 1.0;
///     })
/// }).unwrap();
/// let sums = results[0].clone().unwrap();
/// assert_eq!((sums.len(), sums[3]), (3 + 1, 5000.0));
/// assert!(sums[..3].iter().all(|sum| *sum > 0.0 && *sum < 5000.0));
/// assert_eq!(results[0], results[1]);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Internal`] for a damaged exchange; the same on every worker.
pub fn row_sums<T, F>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    products: impl Into<Products<T>>,
    reads: Reads,
    widths: Widths,
    function: F,
) -> Result<Vec<f64>, StageError>
where
    T: Entry,
    F: FnMut(RowView<'_>, &mut [f64], &mut [f64]) + 'static,
{
    sparse_row_sums(session, name, feed, products, reads, widths, function).map(|(sums, _)| sums)
}

/// [`row_sums`], and what this worker's sparse products left out: nothing where all entries are formed.
///
/// # Errors
/// As there; [`StageError::Internal`] for [`Reads::Nearest`] of sparse products.
pub fn sparse_row_sums<T, F>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    products: impl Into<Products<T>>,
    reads: Reads,
    widths: Widths,
    function: F,
) -> Result<(Vec<f64>, Ledger), StageError>
where
    T: Entry,
    F: FnMut(RowView<'_>, &mut [f64], &mut [f64]) + 'static,
{
    let products = products.into();
    let length = products.centers() * widths.output + widths.extras;
    let blocks = feed.total_blocks();
    let vectors = match (&products, &reads) {
        (Products::Sparse(tiles), Reads::Product(v)) if widths.input > 0 => {
            Some(session.once(|| tiles.vectors(v, widths.input)))
        }
        _ => None,
    };
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let mut tree = SumTree::new(blocks);
    let mut group = None;
    let (mut feed, mut parts) = (feed, None);
    // What sparse products left out is told by the rows themselves: such passes are repeated as a whole.
    if let Products::Dense(tiles) = &products {
        let inputs = match &reads {
            Reads::Product(v) => float_bytes(v),
            Reads::Nearest => Vec::new(),
        };
        let shape =
            [tiles.centers(), widths.input, widths.output, widths.extras].map(|n| n as u64).map(u64::to_le_bytes);
        let digest = digest(session, &[shape.as_flattened(), &inputs]);
        let begun = begin_parts(session, (name, &digest), feed.catalog(), false, &mut |frame| {
            let node = node_from(&frame.bytes, length)?;
            tree.insert_node(node).map_err(internal)
        })?;
        feed = begun.feed(feed);
        (group, parts) = (Some(begun.group), begun.parts);
    }
    let scan = RowSums {
        parts,
        chunk: Chunk::default(),
        scratch: TileScratch::default(),
        sparse_scratch: SparseScratch::default(),
        ledger: Rc::clone(&ledger),
        vectors,
        tree,
        process: Arc::clone(&session.process),
        products,
        feed,
        reads,
        widths,
        function,
    };
    let sums = summed(session, name, scan, blocks, length)?;
    if let Some(group) = group {
        over(session, group);
    }
    Ok((Arc::unwrap_or_clone(sums), ledger.take()))
}
