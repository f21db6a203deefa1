//! What a fit is asked to do.

use crate::dictionary::SelectionRule;
use crate::error::StageError;
use crate::matvec::products::ProductLimit;
use crate::plan::Preconditioning;
use crate::targets::TargetCode;
use nystream_datasets::{Catalog, Encoder, EncoderOptions};
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::{Family, Kernel, Metric};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::tile::SimdPath;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What the target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Numbers.
    Regression,
    /// Classes.
    Classification,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Squared error (classes as one-hot targets).
    #[default]
    Squared,
    /// Logistic loss, with probabilities.
    Logistic,
}

/// How the bandwidth is given.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Bandwidth {
    /// Chosen on the sample.
    #[default]
    Auto,
    /// In encoded units.
    Absolute(f64),
    /// Times the median distance of the sample.
    TimesMedian(f64),
}

/// A metric for the columns of an encoder.
pub type ResolveMetric = dyn Fn(&Encoder) -> Result<Metric, StageError> + Send + Sync;

/// How the metric is given. Encoded columns are known only after the profile, so one that names them waits for the encoder.
#[derive(Clone)]
pub enum MetricRequest {
    /// As it is.
    Given(Metric),
    /// Made for the encoder once that is fixed; must be a function of the encoder alone.
    Resolve(Arc<ResolveMetric>),
}

impl MetricRequest {
    /// The metric for `encoder`.
    ///
    /// # Errors
    /// Columns or sizes that do not match.
    pub fn resolve(&self, encoder: &Encoder) -> Result<Metric, StageError> {
        match self {
            MetricRequest::Given(metric) => Ok(metric.clone()),
            MetricRequest::Resolve(resolve) => resolve(encoder),
        }
    }
}

impl Default for MetricRequest {
    fn default() -> Self {
        MetricRequest::Given(Metric::Isotropic)
    }
}

impl fmt::Debug for MetricRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricRequest::Given(metric) => f.debug_tuple("Given").field(metric).finish(),
            MetricRequest::Resolve(_) => f.write_str("Resolve(..)"),
        }
    }
}

/// How centers are chosen.
#[derive(Clone, Debug, Default)]
pub enum Select {
    /// SQUEAK when it is cheap enough, otherwise RPCholesky on a pool.
    #[default]
    Auto,
    /// SQUEAK, DISQUEAK and refinement.
    Squeak,
    /// Accelerated randomly pivoted Cholesky.
    RpCholesky,
    /// Uniform by hash.
    Uniform,
    /// The rows of a data set with the same columns.
    File(Catalog),
    /// These, encoded.
    Rows(RowBuf),
    /// As an earlier model settled it.
    Settled(SelectionRule),
}

/// How the model is solved for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// By the cost model.
    #[default]
    Auto,
    /// One pass of exact Gram.
    Gram,
    /// Preconditioned conjugate gradients.
    Pcg,
    /// Preconditioned stochastic gradient.
    #[serde(rename = "eigenpro")]
    EigenPro,
    /// Full kernel ridge regression by block coordinate descent.
    #[serde(rename = "blockcd")]
    BlockCd,
}

impl Solver {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Solver::Auto => "auto",
            Solver::Gram => "gram",
            Solver::Pcg => "pcg",
            Solver::EigenPro => "eigenpro",
            Solver::BlockCd => "blockcd",
        }
    }
}

/// Whether several processes share the centers of `eigenpro`, and of predictions: each then has some blocks of them. No choice changes a bit of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// In a fit where K_mm is not factored; in predictions where the model does not fit the memory of a process.
    #[default]
    Auto,
    /// Wherever there is more than one block of 4,096.
    Always,
    /// Every process has all.
    Never,
}

/// How inclusion probabilities of the dictionary are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DictionaryRule {
    /// Bernoulli with oversampling beta.
    Bernoulli {
        /// Oversampling.
        beta: f64,
    },
    /// Binomial with the constants of the theorem.
    Theorem {
        /// Accuracy.
        epsilon: f64,
        /// Failure probability.
        delta: f64,
    },
}

impl Default for DictionaryRule {
    fn default() -> Self {
        DictionaryRule::Bernoulli { beta: 8.0 }
    }
}

/// Everything a fit is asked to do. `None` stands for `auto`, for a default or for no limit, as the field has it. [`fit`](crate::job::fit) has an example.
#[derive(Clone, Debug)]
pub struct FitConfig {
    /// Columns, scaling, weights, split.
    pub encoder: EncoderOptions,
    /// Regression or classification.
    pub task: Option<Task>,
    /// What is minimised.
    pub loss: Loss,
    /// Kernel family.
    pub family: Option<Family>,
    /// Bandwidth, in encoded units or medians.
    pub bandwidth: Bandwidth,
    /// Metric on encoded columns.
    pub metric: MetricRequest,
    /// Per-sample ridge lambda: one for all solver columns, or one for each.
    pub ridges: Option<Vec<f64>>,
    /// Number of centers.
    pub centers: Option<usize>,
    /// How centers are chosen.
    pub select: Select,
    /// Rows scored by `--select squeak` or `rpcholesky`; `Some(u64::MAX)` is all.
    pub dictionary_rows: Option<u64>,
    /// Inclusion probabilities.
    pub dictionary_rule: DictionaryRule,
    /// Solver.
    pub solver: Solver,
    /// Precision of kernel entries.
    pub precision: Precision,
    /// Seed of every hash.
    pub seed: u64,
    /// SIMD path.
    pub simd: SimdPath,
    /// Memory of one process in bytes.
    pub memory: u64,
    /// Disk for caches in bytes.
    pub disk_limit: u64,
    /// Folder of caches.
    pub temp_dir: PathBuf,
    /// Flops that may be planned: `auto` stays within them, and a fit that is asked for more is refused.
    pub max_flops: f64,
    /// Relative residual at which iterative solvers stop; none: 1e-5, and for eigenpro when its objective has settled.
    pub tolerance: Option<f64>,
    /// What may be off in the products of conjugate gradients, where that saves kernel entries.
    pub products: ProductLimit,
    /// Most iterations (pcg), Newton steps at the ridge (logistic loss) or epochs (eigenpro, blockcd).
    pub iterations: Option<usize>,
    /// What stands for the rows in the preconditioner of conjugate gradients (squared loss).
    pub preconditioning: Preconditioning,
    /// Seconds since the start of the process after which a solve ends early.
    pub time_limit: Option<f64>,
    /// Bad rows that are tolerated.
    pub max_bad_rows: u64,
    /// End once the centers are chosen and certified.
    pub dictionary_only: bool,
    /// Keep what predictive variances need.
    pub variance: bool,
    /// Kernel and coefficients of an earlier model, to start from.
    pub warm_start: Option<WarmStart>,
    /// Whether several processes share the centers of eigenpro.
    pub sharding: Sharding,
}

impl FitConfig {
    /// A fit of which nothing is asked but its columns: all else is `auto`, a default or without a limit; 8 GiB of memory, 2e14 flops, the best SIMD path of this machine and its folder for temporary files.
    ///
    /// ```
    /// use nystream_dataflows::job::{FitConfig, Solver};
    /// let encoder = nystream_datasets::EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    /// let config = FitConfig { solver: Solver::Gram, ..FitConfig::of_columns(encoder) };
    /// assert_eq!((config.memory, config.centers), (8 << 30, None));
    /// ```
    pub fn of_columns(encoder: EncoderOptions) -> Self {
        FitConfig {
            encoder,
            task: None,
            loss: Loss::Squared,
            family: None,
            bandwidth: Bandwidth::Auto,
            metric: MetricRequest::default(),
            ridges: None,
            centers: None,
            select: Select::Auto,
            dictionary_rows: None,
            dictionary_rule: DictionaryRule::default(),
            solver: Solver::Auto,
            precision: Precision::Single,
            seed: 0,
            simd: SimdPath::detect(),
            memory: 8 << 30,
            disk_limit: u64::MAX,
            temp_dir: std::env::temp_dir(),
            max_flops: 2e14,
            tolerance: None,
            products: ProductLimit::default(),
            iterations: None,
            preconditioning: Preconditioning::default(),
            time_limit: None,
            max_bad_rows: 0,
            dictionary_only: false,
            variance: false,
            warm_start: None,
            sharding: Sharding::default(),
        }
    }

    /// The bound on the residual of pcg, blockcd and logistic loss.
    pub fn tolerance(&self) -> f64 {
        self.tolerance.unwrap_or(DEFAULT_TOLERANCE)
    }

    /// The ridge that serves all solver columns: the first, when any is given.
    pub fn ridge(&self) -> Option<f64> {
        self.ridges.as_ref().and_then(|ridges| ridges.first().copied())
    }
}

/// Relative residual at which pcg, blockcd and logistic loss stop where nothing else is asked for.
pub const DEFAULT_TOLERANCE: f64 = 1e-5;

/// An earlier model's function.
#[derive(Clone, Debug)]
pub struct WarmStart {
    /// Its encoder, which says what its centers mean.
    pub encoder: Encoder,
    /// Its targets, which say in what units its coefficients are.
    pub code: TargetCode,
    /// Kernel of the earlier model.
    pub kernel: Kernel,
    /// Its centers.
    pub centers: RowBuf,
    /// Its coefficients, m x t row-major, in units of the scaled target.
    pub coefficients: Vec<f64>,
}
