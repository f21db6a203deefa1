//! Predictions of a few rows at a time, without a pass: what a learner answers by its last model.
//!
//! A row has the bits that [`predict()`](super::predict()) gives it with every entry formed. Cost: m entries a row, and with variances 2 m rank flops more.

use super::applied::{Applied, AppliedScratch};
use super::function::Function;
use super::variance::{VarianceScratch, latent};
use crate::error::StageError;
use nystream_kernels::gram::Precision;
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::{DrawnRows, Entry};
use std::sync::Arc;

/// A function ready to predict rows, by any number of threads.
pub struct RowPredictor {
    function: Arc<Function>,
    form: Form,
}

enum Form {
    Single(Box<Packed<f32>>),
    Double(Box<Packed<f64>>),
}

struct Packed<T: Entry> {
    applied: Applied<T>,
}

/// What is predicted of rows, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predicted {
    /// [`Function::outputs`] values a row.
    pub values: Vec<f64>,
    /// A variance for each target, squared target units, where the function has them.
    pub variances: Option<Vec<f64>>,
}

impl RowPredictor {
    /// Packs the centers of `function`.
    ///
    /// # Errors
    /// [`StageError::Numeric`] when kernel and centers do not fit together.
    pub fn new(function: Arc<Function>) -> Result<Self, StageError> {
        let form = match function.precision {
            Precision::Single => Form::Single(Box::new(Packed::new(&function)?)),
            Precision::Double => Form::Double(Box::new(Packed::new(&function)?)),
        };
        Ok(RowPredictor { function, form })
    }

    /// The function.
    pub fn function(&self) -> &Arc<Function> {
        &self.function
    }

    /// Predicts `rows`.
    ///
    /// # Errors
    /// [`StageError::Internal`] where the function's tiles are not there.
    ///
    /// # Panics
    /// If the widths of `rows` are not those of the centers.
    pub fn predict(&self, rows: Rows<'_>) -> Result<Predicted, StageError> {
        match &self.form {
            Form::Single(packed) => packed.predict(&self.function, rows),
            Form::Double(packed) => packed.predict(&self.function, rows),
        }
    }
}

impl<T: Entry> Packed<T> {
    fn new(function: &Function) -> Result<Self, StageError> {
        Ok(Packed { applied: Applied::new(function, None)? })
    }

    fn predict(&self, function: &Function, rows: Rows<'_>) -> Result<Predicted, StageError> {
        let (n, t, width) = (rows.len(), function.code.width(), function.outputs());
        let mut sums = vec![0.0; n * t];
        let mut scratch = AppliedScratch::default();
        // Rows draw nothing: every entry is formed.
        self.applied.sums(DrawnRows { rows, ids: &[] }, function, &mut scratch, &mut sums);
        let mut values = vec![0.0; n * width];
        for i in 0..n {
            function.outputs_of(&sums[i * t..(i + 1) * t], &mut values[i * width..(i + 1) * width]);
        }
        let Some(factor) = &function.variance else { return Ok(Predicted { values, variances: None }) };
        let tiles = self.applied.dense().ok_or_else(|| StageError::Internal("variances need every entry".into()))?;
        let mut variances = vec![0.0; n * t];
        let mut latents = VarianceScratch::default();
        latent((&function.kernel, tiles), rows, &factor.basis, &mut scratch.dense, &mut latents, &mut variances);
        for row in variances.chunks_exact_mut(t) {
            for (k, variance) in row.iter_mut().enumerate() {
                *variance = factor.noise[k] + factor.signal[k] * *variance;
            }
        }
        Ok(Predicted { values, variances: Some(variances) })
    }
}
