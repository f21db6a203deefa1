//! The fitted function.

use crate::error::StageError;
use crate::job::Loss;
use crate::targets::TargetCode;
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::solve::eigenpro::center_blocks;
use nystream_kernels::tile::{CenterBlocks, Entry, SimdPath};
use std::sync::Arc;

/// Kernel, centers and coefficients, and what their values mean.
#[derive(Clone, Debug)]
pub struct Function {
    /// Kernel.
    pub kernel: Kernel,
    /// Centers, m encoded rows.
    pub centers: RowBuf,
    /// Coefficients, m x t row-major, in units of the scaled targets.
    pub coefficients: Vec<f64>,
    /// What the columns mean.
    pub code: TargetCode,
    /// Loss they were fitted with.
    pub loss: Loss,
    /// Precision of kernel entries.
    pub precision: Precision,
    /// SIMD path.
    pub simd: SimdPath,
    /// What predictive variances need.
    pub variance: Option<VarianceFactor>,
}

/// What predictive variances need: var_k(x) = noise_k + signal_k (k(x, x) - sum_j W[j, k] (F^T k(Z, x))_j^2), raw units squared.
#[derive(Clone, Debug, PartialEq)]
pub struct VarianceFactor {
    /// F and W, which may be large.
    pub basis: Arc<VarianceBasis>,
    /// Variance of the noise of each target.
    pub noise: Vec<f64>,
    /// Prior variance of the function of each target, for k(x, x) = 1.
    pub signal: Vec<f64>,
}

/// One basis for all targets, and what their ridges make of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VarianceBasis {
    /// F, m x `rank`, row-major.
    pub factor: Vec<f64>,
    /// W, `rank` x t, row-major: s / (s + ridge) of each direction.
    pub weights: Vec<f64>,
    /// Columns of F.
    pub rank: usize,
}

impl Function {
    /// Number of centers.
    pub fn centers(&self) -> usize {
        self.centers.len()
    }

    /// Values predicted per row: one per numeric target, one per class.
    pub fn outputs(&self) -> usize {
        if self.code.is_classification() { self.code.classes.len() } else { self.code.width() }
    }

    /// The centers, packed in the blocks by which predictions are summed.
    ///
    /// # Errors
    /// [`StageError::Numeric`] when kernel and centers do not fit together.
    pub fn blocks<T: Entry>(&self) -> Result<CenterBlocks<T>, StageError> {
        let blocks: Vec<_> = center_blocks(self.centers.len()).collect();
        CenterBlocks::new(&self.kernel, self.centers.view(), &blocks, self.simd)
            .map_err(|e| StageError::Numeric(e.to_string()))
    }

    /// From the t sums k(x, Z) alpha to what is predicted, [`Function::outputs`] values: numbers in raw units, or one score (squared loss) or
    /// probability (logistic loss) per class.
    ///
    /// ```
    /// use nystream_dataflows::{job::Loss, predict::Function, targets::TargetCode};
    /// use nystream_kernels::{gram::Precision, kernel::{Family, Kernel}, rows::RowBuf, tile::SimdPath};
    /// let classes = vec!["no".into(), "yes".into()];
    /// let function = Function {
    ///     kernel: Kernel::new(Family::Gaussian, 1.0),
    ///     centers: RowBuf::new(1, 0),
    ///     coefficients: vec![],
    ///     // A quarter of the rows were "yes".
    ///     code: TargetCode { names: vec!["y".into()], classes, centres: vec![0.25], exponents: vec![0] },
    ///     loss: Loss::Logistic,
    ///     precision: Precision::Single,
    ///     simd: SimdPath::detect(),
    ///     variance: None,
    /// };
    /// // Two classes share a sum. Far from all centers it is 0, and each class has its share.
    /// let mut out = [0.0; 2];
    /// function.outputs_of(&[0.0], &mut out);
    /// assert!((out[0] - 0.75).abs() < 1e-12 && (out[1] - 0.25).abs() < 1e-12);
    /// function.outputs_of(&[3f64.ln()], &mut out);
    /// assert!((out[1] - 0.5).abs() < 1e-12);
    /// ```
    pub fn outputs_of(&self, sums: &[f64], out: &mut [f64]) {
        let code = &self.code;
        match (code.classes.len(), self.loss) {
            (0, _) => (0..out.len()).for_each(|k| out[k] = code.decode(k, sums[k])),
            (2, Loss::Squared) => {
                out[1] = code.decode(0, sums[0]);
                out[0] = 1.0 - out[1];
            }
            (_, Loss::Squared) => (0..out.len()).for_each(|k| out[k] = code.decode(k, sums[k])),
            (2, Loss::Logistic) => {
                let margin = sums[0] + prior_margin(code, 1) - prior_margin(code, 0);
                out[1] = 1.0 / (1.0 + (-margin).exp());
                out[0] = 1.0 / (1.0 + margin.exp());
            }
            (_, Loss::Logistic) => {
                for k in 0..out.len() {
                    out[k] = sums[k] + prior_margin(code, k);
                }
                let largest = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                out.iter_mut().for_each(|v| *v = (*v - largest).exp());
                let total: f64 = out.iter().sum();
                out.iter_mut().for_each(|v| *v /= total);
            }
        }
    }
}

/// The fixed offset of class k's margin: the logarithm of its share.
pub fn prior_margin(code: &TargetCode, k: usize) -> f64 {
    let share = match (code.classes.len(), k) {
        (2, 1) => code.centres[0],
        (2, _) => 1.0 - code.centres[0],
        _ => code.centres[k],
    };
    share.max(1e-12).ln()
}
