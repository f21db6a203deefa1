//! Kernel entries of atoms that change, by the tiles, as columns in f64; and the checks of what comes in.

use super::OnlineError;
use crate::gram::Precision;
use crate::kernel::Kernel;
use crate::rows::Rows;
use crate::tile::{Entry, SimdPath, TileScratch, Tiles};
use faer::MatMut;
use nystream_hashing::RowId;
use serde::{Deserialize, Serialize};

/// What forms kernel entries: part of the configuration, since it is part of what determines the bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryParams {
    /// The kernel.
    pub kernel: Kernel,
    /// Subtracted before distances are expanded ([`Tiles::new`]): a constant of the encoder, or empty.
    pub offset: Vec<f32>,
    /// Precision of the entries; everything after them is f64.
    pub precision: Precision,
    /// Dispatch path.
    pub simd: SimdPath,
}

impl EntryParams {
    /// f64 entries on the fastest path of this processor.
    pub fn new(kernel: Kernel) -> Self {
        EntryParams { kernel, offset: Vec::new(), precision: Precision::Double, simd: SimdPath::detect() }
    }

    /// Entries of `rows` with `atoms` into `out`, atoms x rows, packing the atoms for this one call.
    pub(super) fn columns(&self, atoms: Rows<'_>, rows: Rows<'_>, out: MatMut<'_, f64>) -> Result<(), OnlineError> {
        let mut packed = Packed::default();
        packed.fill(self, atoms, rows, out)
    }

    /// The share of k(x, x) below which a pivot is rounding alone, beside what f64 algebra adds.
    pub(super) fn rounding(&self) -> f64 {
        match self.precision {
            Precision::Single => 2f64.powi(-20),
            Precision::Double => 0.0,
        }
    }
}

/// Packed atoms, and room for entries; made anew when the atoms have changed. No part of any state.
#[derive(Debug, Default)]
pub(super) struct Packed {
    atoms: Option<usize>,
    narrow: Option<(Tiles<f32>, TileScratch<f32>, Vec<f32>)>,
    wide: Option<(Tiles<f64>, TileScratch<f64>, Vec<f64>)>,
}

impl Packed {
    /// Forgets the atoms; they are packed again when entries are asked for.
    pub fn forget(&mut self) {
        *self = Packed::default();
    }

    /// Entries of `rows` with the atoms: column j of `out` are those of row j. Atoms are only ever added: their number tells whether they have changed.
    pub fn fill(
        &mut self,
        params: &EntryParams,
        atoms: Rows<'_>,
        rows: Rows<'_>,
        out: MatMut<'_, f64>,
    ) -> Result<(), OnlineError> {
        if atoms.is_empty() || rows.is_empty() {
            return Ok(());
        }
        if self.atoms != Some(atoms.len()) {
            self.forget();
            match params.precision {
                Precision::Single => self.narrow = Some(pack(params, atoms)?),
                Precision::Double => self.wide = Some(pack(params, atoms)?),
            }
            self.atoms = Some(atoms.len());
        }
        if let Some((tiles, scratch, block)) = &mut self.narrow {
            entries(tiles, scratch, block, rows, out);
        } else if let Some((tiles, scratch, block)) = &mut self.wide {
            entries(tiles, scratch, block, rows, out);
        }
        Ok(())
    }
}

type Set<T> = (Tiles<T>, TileScratch<T>, Vec<T>);

fn pack<T: Entry>(params: &EntryParams, atoms: Rows<'_>) -> Result<Set<T>, OnlineError> {
    let tiles = Tiles::new(&params.kernel, atoms, &params.offset, params.simd)?;
    Ok((tiles, TileScratch::new(), Vec::new()))
}

fn entries<T: Entry>(
    tiles: &Tiles<T>,
    scratch: &mut TileScratch<T>,
    block: &mut Vec<T>,
    rows: Rows<'_>,
    mut out: MatMut<'_, f64>,
) {
    block.resize(rows.len() * tiles.stride(), T::ZERO);
    tiles.block(rows, scratch, block);
    for (j, row) in block.chunks_exact(tiles.stride()).enumerate() {
        out.as_mut().col_mut(j).iter_mut().zip(row).for_each(|(out, &entry)| *out = entry.to_f64());
    }
}

/// Rows with their ids, targets and weights: what a learner takes at a time.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The rows, finite.
    pub rows: Rows<'a>,
    /// One id a row; a stream does not repeat ids but for rows that are the same.
    pub ids: &'a [RowId],
    /// One target a row; 1 or -1 for logistic and hinge losses.
    pub targets: &'a [f64],
    /// One weight a row, at least 0; all 1 when not given. A row of weight 0 is predicted and not learned.
    pub weights: Option<&'a [f64]>,
}

impl<'a> Batch<'a> {
    /// Rows of weight 1.
    pub fn new(rows: Rows<'a>, ids: &'a [RowId], targets: &'a [f64]) -> Self {
        Batch { rows, ids, targets, weights: None }
    }

    /// The weight of row `i`.
    pub fn weight(&self, i: usize) -> f64 {
        self.weights.map_or(1.0, |w| w[i])
    }

    /// Checks lengths and that all is finite. Targets are the loss's to check.
    pub(super) fn check(&self, params: &EntryParams, widths: (usize, usize)) -> Result<(), OnlineError> {
        OnlineError::check("ids", self.rows.len(), self.ids.len())?;
        OnlineError::check("targets", self.rows.len(), self.targets.len())?;
        check_rows(self.rows, widths)?;
        if let Some(weights) = self.weights {
            OnlineError::check("weights", self.rows.len(), weights.len())?;
            for (row, &weight) in weights.iter().enumerate() {
                if !weight.is_finite() {
                    return Err(OnlineError::NotFinite { what: "weight", row, column: 0, value: weight });
                }
                if weight < 0.0 {
                    return Err(OnlineError::Weight { row, weight });
                }
            }
        }
        if !params.kernel.family.is_radial() {
            for (row, &id) in self.ids.iter().enumerate() {
                let value = params.kernel.diagonal(self.rows, row);
                if !(value >= 0.0 && value.is_finite()) {
                    return Err(OnlineError::Diagonal { row, id, value });
                }
            }
        }
        Ok(())
    }
}

/// Checks the widths of rows and that their features are finite.
pub(super) fn check_rows(rows: Rows<'_>, (numeric, codes): (usize, usize)) -> Result<(), OnlineError> {
    OnlineError::check("numeric columns", numeric, rows.numeric_width())?;
    OnlineError::check("categorical columns", codes, rows.code_width())?;
    if let Some(at) = rows.all_numeric().iter().position(|x| !x.is_finite()) {
        let (row, column) = (at / numeric, at % numeric);
        return Err(OnlineError::NotFinite { what: "feature", row, column, value: f64::from(rows.all_numeric()[at]) });
    }
    Ok(())
}
