//! A function applied to rows: k(x, Z) alpha by all entries or by those above a cutoff, with what the latter leaves out.

use super::function::Function;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::products::{Ledger, ProductCertificate, ProductChoice, ProductTerms, Products};
use nystream_kernels::constants::DRAW_FAILURE;
use nystream_kernels::tile::{DrawnRows, Entry, SparseScratch, SparseTiles, SparseVectors, TileScratch, Tiles};
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
    Dense(Arc<Tiles<T>>),
    /// With the coefficients in the order of the blocks.
    Sparse(Arc<SparseTiles<T>>, Arc<SparseVectors>),
}

/// Working memory of one thread, and what it has counted.
#[derive(Default)]
pub struct AppliedScratch<T: Entry> {
    /// Also for whoever uses the tiles of [`Applied::dense`].
    pub dense: TileScratch<T>,
    sparse: SparseScratch<T>,
    /// What sparse products left out.
    pub ledger: Ledger,
}

impl<T: Entry> From<Arc<Tiles<T>>> for Applied<T> {
    /// With all entries.
    fn from(tiles: Arc<Tiles<T>>) -> Self {
        Applied { form: Form::Dense(tiles), rows: 0, choice: None }
    }
}

impl<T: Entry> Applied<T> {
    /// With all entries, or by `terms` where the centers, as rows, keep few enough of them ([`product_terms`](crate::matvec::products::product_terms)).
    ///
    /// # Errors
    /// [`StageError::Numeric`] when kernel and centers do not fit together.
    pub fn new(function: &Function, terms: Option<ProductTerms>) -> Result<Self, StageError> {
        let Some(terms) = terms else { return Ok(Self::from(Arc::new(function.tiles()?))) };
        let centers = function.centers.view();
        let parts = (&function.kernel, centers, function.simd);
        let dense = || function.tiles().map(Arc::new);
        let vectors = (&function.coefficients[..], function.code.width());
        let (products, choice) = Products::choose(parts, terms, Some(vectors), centers, dense)?;
        let form = match products {
            Products::Dense(tiles) => Form::Dense(tiles),
            Products::Sparse(tiles) => {
                let vectors = tiles.vectors(&function.coefficients, function.code.width());
                Form::Sparse(tiles, Arc::new(vectors))
            }
        };
        Ok(Applied { form, rows: terms.rows, choice: Some(choice) })
    }

    /// Number of centers, m.
    pub fn centers(&self) -> usize {
        match &self.form {
            Form::Dense(tiles) => tiles.centers(),
            Form::Sparse(tiles, _) => tiles.centers(),
        }
    }

    /// The tiles of all entries, where products are formed with those.
    pub fn dense(&self) -> Option<&Tiles<T>> {
        match &self.form {
            Form::Dense(tiles) => Some(tiles),
            Form::Sparse(..) => None,
        }
    }

    /// `out` (n x t) = K(rows, Z) alpha, with the coefficients of `function`, which this is of; gives the number of entries evaluated. Rows may draw by their identities.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn sums(
        &self,
        rows: DrawnRows<'_>,
        function: &Function,
        scratch: &mut AppliedScratch<T>,
        out: &mut [f64],
    ) -> u64 {
        let t = function.code.width();
        match &self.form {
            Form::Dense(tiles) => {
                tiles.k_v(rows.rows, &function.coefficients, t, &mut scratch.dense, out);
                (rows.rows.len() * tiles.centers()) as u64
            }
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
            Form::Dense(_) => Ok(None),
            Form::Sparse(..) => ledger.certificate(session, &function.coefficients).map(Some),
        }
    }
}
