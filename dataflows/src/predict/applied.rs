//! A function applied to rows: k(x, Z) alpha by all entries or by those above a cutoff, with what the latter leaves out.
//!
//! All entries are summed by blocks of 4,096 centers over one tree: a process may have some of the blocks ([`Applied::shared`]), and the bits are the same.

use super::function::Function;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::grid::{Shard, ShardBlocks};
use crate::matvec::products::{Ledger, ProductCertificate, ProductChoice, ProductTerms, Products};
use nystream_kernels::constants::DRAW_FAILURE;
use nystream_kernels::solve::eigenpro::center_blocks;
use nystream_kernels::tile::{BlockScratch, CenterBlocks, DrawnRows, Entry, SparseScratch, SparseTiles, SparseVectors};
use std::sync::Arc;

/// A function's centers and coefficients, packed. Shared between threads; each has its own [`AppliedScratch`].
#[derive(Clone, Debug)]
pub struct Applied<T: Entry> {
    form: Form<T>,
    /// Rows of the pass.
    rows: u64,
    /// Why products are what they are, where sparse ones were considered.
    pub choice: Option<ProductChoice>,
}

#[derive(Clone, Debug)]
enum Form<T: Entry> {
    Dense(Arc<CenterBlocks<T>>),
    /// Some blocks of all, and the coefficients of those.
    Shared(Arc<Shared<T>>),
    /// With the coefficients in the order of the blocks.
    Sparse(Arc<SparseTiles<T>>, Arc<SparseVectors>),
}

/// The blocks of one process, where several share the centers.
#[derive(Debug)]
pub(crate) struct Shared<T: Entry> {
    pub shard: Shard,
    pub blocks: CenterBlocks<T>,
    /// Those of the shard, m x t row-major.
    pub coefficients: Vec<f64>,
    pub columns: usize,
}

impl<T: Entry> ShardBlocks<T> for Shared<T> {
    fn parts(&self) -> (&CenterBlocks<T>, &[f64]) {
        (&self.blocks, &self.coefficients)
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

/// Working memory of one thread, and what it has counted.
#[derive(Default)]
pub struct AppliedScratch<T: Entry> {
    /// Also for whoever uses the tiles of [`Applied::dense`].
    pub dense: BlockScratch<T>,
    sparse: SparseScratch<T>,
    /// What sparse products left out.
    pub ledger: Ledger,
}

impl<T: Entry> Applied<T> {
    /// With all entries, or by `terms` where the centers, as rows, keep few enough of them ([`product_terms`](crate::matvec::products::product_terms)).
    ///
    /// # Errors
    /// [`StageError::Numeric`] when kernel and centers do not fit together.
    pub fn new(function: &Function, terms: Option<ProductTerms>) -> Result<Self, StageError> {
        let dense = || function.blocks().map(|blocks| Form::Dense(Arc::new(blocks)));
        let Some(terms) = terms else { return Ok(Applied { form: dense()?, rows: 0, choice: None }) };
        let centers = function.centers.view();
        let parts = (&function.kernel, centers, function.simd);
        let vectors = (&function.coefficients[..], function.code.width());
        let (sparse, choice) = Products::sparse(parts, terms, Some(vectors), centers)?;
        let form = match sparse {
            None => dense()?,
            Some(tiles) => {
                let vectors = tiles.vectors(&function.coefficients, function.code.width());
                Form::Sparse(tiles, Arc::new(vectors))
            }
        };
        Ok(Applied { form, rows: terms.rows, choice: Some(choice) })
    }

    /// Of a process that has the centers of `shard`, of which `function` holds these alone or all. Every entry is formed.
    ///
    /// # Errors
    /// As [`Applied::new`]; [`StageError::Internal`] for a function that holds neither.
    pub fn shared(function: &Function, shard: &Shard) -> Result<Self, StageError> {
        if shard.among().is_none() {
            return Self::new(function, None);
        }
        let (own, t) = (shard.centers(), function.code.width());
        let held = match function.centers.len() {
            all if all == shard.total() => own.clone(),
            mine if mine == own.len() => 0..mine,
            other => return Err(StageError::Internal(format!("{other} centers are no share of {}", shard.total()))),
        };
        let blocks: Vec<_> = center_blocks(own.len()).collect();
        let rows = function.centers.view().slice(held.start, held.end);
        let blocks = CenterBlocks::new(&function.kernel, rows, &blocks, function.simd);
        let blocks = blocks.map_err(|e| StageError::Numeric(e.to_string()))?;
        let coefficients = function.coefficients[held.start * t..held.end * t].to_vec();
        let shared = Shared { shard: shard.clone(), blocks, coefficients, columns: t };
        Ok(Applied { form: Form::Shared(Arc::new(shared)), rows: 0, choice: None })
    }

    /// Number of centers, m: of all processes.
    pub fn centers(&self) -> usize {
        match &self.form {
            Form::Dense(blocks) => blocks.centers(),
            Form::Shared(shared) => shared.shard.total(),
            Form::Sparse(tiles, _) => tiles.centers(),
        }
    }

    /// The blocks of this process, where several share the centers.
    pub(crate) fn share(&self) -> Option<&Arc<Shared<T>>> {
        match &self.form {
            Form::Shared(shared) => Some(shared),
            _ => None,
        }
    }

    /// The tiles of all entries, where products are formed with those.
    pub fn dense(&self) -> Option<&CenterBlocks<T>> {
        match &self.form {
            Form::Dense(blocks) => Some(blocks),
            _ => None,
        }
    }

    /// `out` (n x t) = K(rows, Z) alpha, with the coefficients of `function`, which this is of; gives the number of entries evaluated. Rows may draw by their identities.
    ///
    /// # Panics
    /// If `out` has another length, or the centers are shared: then the processes must sum together.
    pub fn sums(
        &self,
        rows: DrawnRows<'_>,
        function: &Function,
        scratch: &mut AppliedScratch<T>,
        out: &mut [f64],
    ) -> u64 {
        let t = function.code.width();
        match &self.form {
            Form::Dense(blocks) => {
                blocks.k_v(rows.rows, &function.coefficients, t, &mut scratch.dense, out);
                (rows.rows.len() * blocks.centers()) as u64
            }
            Form::Shared(_) => panic!("sums over shared centers are formed by all processes together"),
            Form::Sparse(tiles, vectors) => {
                let AppliedScratch { sparse, ledger, .. } = scratch;
                let exponent = (2.0 * self.rows.max(1) as f64 * t as f64 / DRAW_FAILURE).ln();
                let entries = tiles.map_rows(rows, Some(vectors), 0, sparse, &mut [], |i, values, missing, _| {
                    out[i * t..(i + 1) * t].copy_from_slice(values);
                    ledger.add(0, missing.bounds, t);
                    ledger.add_spread(&missing.spread, missing.bounds, vectors.norms(), exponent);
                });
                ledger.add(entries, &[], t);
                entries
            }
        }
    }

    /// What the products of a pass left out, over the rows of all workers: nothing to tell where all entries were formed. Every worker calls this in step.
    ///
    /// # Errors
    /// [`StageError::Internal`] for a damaged exchange.
    pub fn certificate(
        &self,
        session: &mut Session<'_>,
        function: &Function,
        ledger: &Ledger,
    ) -> Result<Option<ProductCertificate>, StageError> {
        match &self.form {
            Form::Dense(_) | Form::Shared(_) => Ok(None),
            Form::Sparse(..) => ledger.certificate(session, &function.coefficients).map(Some),
        }
    }
}
