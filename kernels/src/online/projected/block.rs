//! Rows that wait for their block, and what is known of a block before its rows are taken one by one.

use super::super::entries::Batch;
use crate::rows::RowBuf;
use crate::sampling::leverage::dot;
use faer::Mat;
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub rows: RowBuf,
    pub ids: Vec<RowId>,
    pub targets: Vec<f64>,
    pub weights: Vec<f64>,
}

impl Waiting {
    pub fn new(numeric_width: usize, code_width: usize) -> Self {
        let rows = RowBuf::new(numeric_width, code_width);
        Waiting { rows, ids: Vec::new(), targets: Vec::new(), weights: Vec::new() }
    }

    pub fn push(&mut self, batch: &Batch<'_>, i: usize) {
        self.rows.push(batch.rows, i);
        self.ids.push(batch.ids[i]);
        self.targets.push(batch.targets[i]);
        self.weights.push(batch.weight(i));
    }
}

/// What is known of a block's rows before they are taken one by one.
pub(super) struct Block {
    /// Of the dictionary's thresholds.
    pub key: StreamKey,
    /// L^-1 k of both factors as of the block's start, atoms x rows.
    pub phi: Mat<f64>,
    pub scored: Mat<f64>,
    /// L_A^-1 of phi, and the Gram of that; none where the rows are taken one by one.
    pub half: Option<(Mat<f64>, Mat<f64>)>,
    /// Entries between the block's rows; none where no atom can be new.
    pub between: Option<Mat<f64>>,
    /// Rows of the block that became atoms.
    pub accepted: Vec<Added>,
}

/// A row of the block that became an atom: its rows in both factors, and their pivots; none of the basis's where that spans it.
pub(super) struct Added {
    pub row: usize,
    pub phi: Option<(Vec<f64>, f64)>,
    pub scored: (Vec<f64>, f64),
}

/// Coordinates of row `i` by the atoms that the block has added.
pub(super) fn add_coordinates(block: &Block, i: usize, phi: &mut Vec<f64>, scored: &mut Vec<f64>) {
    let Some(between) = &block.between else { return };
    for atom in &block.accepted {
        let entry = between[(atom.row, i)];
        let coordinate = |(left, pivot): &(Vec<f64>, f64), row: &[f64]| (entry - dot(left, row)) / pivot;
        if let Some(factor) = &atom.phi {
            phi.push(coordinate(factor, phi));
        }
        scored.push(coordinate(&atom.scored, scored));
    }
}
