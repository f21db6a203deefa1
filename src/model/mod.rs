//! The model file: everything prediction needs, readable without nystream.
//!
//! A model is a `safetensors` file with one metadata key, `nystream`, which holds canonical JSON (see [`json`]):
//! the frozen configuration, the digest, a note on how it was made, and a checksum. With K(x, z) the kernel of the
//! configuration on encoded rows, target k of a row x is predicted as
//!
//! > intercepts\[k\] + sum over j of K(x, centers\[j\]) coefficients\[j, k\]
//!
//! in the target's own units; for classification the columns are classes, in the order of `classes`.
//!
//! | tensor | type | shape | meaning |
//! |---|---|---|---|
//! | `centers` | f32 | m x d | numeric part of the centers, encoded units |
//! | `center_codes` | u16 | m x c | categorical codes of the centers; absent when c = 0 |
//! | `coefficients` | f64 | m x t | target units |
//! | `intercepts` | f64 | t | target units |
//! | `variance_factor` | f64 | m x r | F, with z = F' k_x; absent without `--variance`, as are the next two |
//! | `variance_weights` | f64 | r x t | W: the latent variance of target k is signal_k (K(x, x) - sum over j of W\[j, k\] z\[j\]^2) |
//! | `variance_scales` | f64 | 2 x t | noise and signal of each target, squared target units; a prediction's variance is noise plus latent variance |
//!
//! * **Digest**: BLAKE3 of the tensors and of the frozen configuration (with n and sum w), nothing else: two fits are
//!   equal exactly when their digests are. See [`digest`].
//! * **Damage** of any kind, down to a flipped bit, is found on reading; each kind has its own [`ModelError`].
//! * A round trip through a file changes no bit of any number.
//!
//! Cost: reading and writing hold the file once more in memory.

mod config;
pub mod digest;
mod file;
pub mod json;
pub mod metric_file;
mod outline;
mod share;

pub use config::{Exact, FrozenConfig, ModelInfo, Precision, Selection, Target};
pub use file::VERSION;

use nystream_kernels::rows::RowBuf;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A fitted model. See the [module](self) for what the numbers mean.
///
/// ```
/// use nystream::model::{FrozenConfig, Model};
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf};
/// let config = FrozenConfig::new(Kernel::new(Family::Gaussian, 1.0), &["y"], 1, 0);
/// let centers = RowBuf { numeric: vec![0.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 };
/// let model = Model::new(config, centers, vec![0.5, -0.5], vec![3.0]);
/// let bytes = model.to_bytes()?;
/// let again = Model::from_bytes(&bytes, "doc".as_ref())?;
/// assert_eq!(model, again);
/// assert_eq!(model.digest()?, again.digest()?);
/// # Ok::<(), nystream::model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// What the model is made of, frozen; part of the digest.
    pub config: FrozenConfig,
    /// m centers, encoded.
    pub centers: RowBuf,
    /// m x t, row-major, target units.
    pub coefficients: Vec<f64>,
    /// t values, target units.
    pub intercepts: Vec<f64>,
    /// For predictive variances.
    pub variance: Option<VarianceFactor>,
    /// How the model was made; not part of the digest.
    pub info: ModelInfo,
}

/// Predictive variances: target k has noise_k + signal_k (k(x, x) - sum_j W\[j, k\] (F' k_x)\[j\]^2), k_x the kernel values of x and the
/// centers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VarianceFactor {
    /// F, m x rank, row-major.
    pub values: Vec<f64>,
    /// Columns of F.
    pub rank: usize,
    /// W, rank x t, row-major.
    pub weights: Vec<f64>,
    /// Noise of each target, squared target units.
    pub noise: Vec<f64>,
    /// Prior variance of each target's function, squared target units.
    pub signal: Vec<f64>,
}

impl Model {
    /// A model without a variance factor, made by this version: `centers` are m encoded rows, `coefficients` m x t row-major and `intercepts` t values,
    /// both in target units. [`Model::validate`] tells whether they fit together.
    pub fn new(config: FrozenConfig, centers: RowBuf, coefficients: Vec<f64>, intercepts: Vec<f64>) -> Self {
        Model { config, centers, coefficients, intercepts, variance: None, info: ModelInfo::default() }
    }

    /// Output columns t: targets, or classes of a single target.
    pub fn outputs(&self) -> usize {
        self.config.outputs()
    }

    /// The digest, 64 hexadecimal digits: equal for equal models.
    ///
    /// ```
    /// use nystream::model::{FrozenConfig, Model};
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf};
    /// let config = FrozenConfig::new(Kernel::new(Family::Gaussian, 1.0), &["y"], 1, 0);
    /// let centers = RowBuf { numeric: vec![0.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 };
    /// let mut model = Model::new(config, centers, vec![0.5, -0.5], vec![3.0]);
    /// let before = model.digest()?;
    /// // When and by whom it was made is no part of a model; its last bit is.
    /// model.info.created_unix += 1;
    /// assert_eq!(model.digest()?, before);
    /// model.coefficients[0] = model.coefficients[0].next_up();
    /// assert_ne!(model.digest()?, before);
    /// # Ok::<(), nystream::model::ModelError>(())
    /// ```
    ///
    /// # Errors
    /// A configuration that cannot be written: a value that is not finite.
    pub fn digest(&self) -> Result<String, ModelError> {
        file::digest(self)
    }

    /// The bytes of the model file.
    ///
    /// # Errors
    /// Shapes that do not fit together, and values that are not finite.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        file::to_bytes(self)
    }

    /// Reads the bytes of a model file; `path` is for messages.
    ///
    /// # Errors
    /// Every kind of damage, as its own variant.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        file::from_bytes(bytes, path)
    }

    /// Writes the file, whole or not at all, and gives the digest.
    ///
    /// ```
    /// use nystream::model::{FrozenConfig, Model, ModelError};
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf};
    /// let config = FrozenConfig::new(Kernel::new(Family::Gaussian, 1.0), &["y"], 1, 0);
    /// let centers = RowBuf { numeric: vec![0.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 };
    /// let model = Model::new(config, centers, vec![0.5, -0.5], vec![3.0]);
    /// let folder = tempfile::tempdir().unwrap();
    /// let path = folder.path().join("m.nys");
    /// let digest = model.save(&path)?;
    /// assert!(Model::is_model_file(&path));
    /// let loaded = Model::load(&path)?;
    /// assert_eq!((&loaded, loaded.digest()?), (&model, digest));
    /// // A file that ends early is told from one that is damaged.
    /// let bytes = std::fs::read(&path).unwrap();
    /// std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    /// assert!(matches!(Model::load(&path), Err(ModelError::CutShort { .. })));
    /// # Ok::<(), ModelError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::to_bytes`], and where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<String, ModelError> {
        let bytes = self.to_bytes()?;
        crate::atomic::write(path, &bytes)?;
        self.digest()
    }

    /// Writes the file into an output that was opened before the work began, and gives the digest.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_into(&self, mut output: crate::atomic::AtomicFile) -> Result<String, ModelError> {
        use std::io::Write;
        let bytes = self.to_bytes()?;
        let path = output.destination().to_path_buf();
        output.write_all(&bytes).map_err(|source| crate::atomic::OutputError::Write { path, source })?;
        output.commit()?;
        self.digest()
    }

    /// The sizes of a model file by its header, which nothing has checked yet: for a plan of its memory before it is loaded. All are 0 for
    /// another kind of file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn outline(path: &Path) -> Result<nystream_dataflows::plan::ModelSize, ModelError> {
        outline::outline(path)
    }

    /// The report in the header of a model file, which nothing has checked yet; `None` where the file has none, or is no model.
    pub fn report_of(path: &Path) -> Option<serde_json::Value> {
        outline::report(path)
    }

    /// Reads a model file. [`Model::save`] has an example.
    ///
    /// # Errors
    /// [`ModelError::Read`] for a file that cannot be read, and every kind of damage as its own variant.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let bytes = file::read(path).map_err(|source| ModelError::Read { path: path.to_path_buf(), source })?;
        Model::from_bytes(&bytes, path)
    }

    /// Reads the part of a model file that has some of the centers: these with their coefficients, and what all have; and the digest of the whole file. The whole is read once, piece
    /// by piece, to check the digest, and never held; nothing of variances is.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_share(path: &Path, centers: std::ops::Range<usize>) -> Result<(Self, String), ModelError> {
        // Another kind of file is told as there.
        if !file::looks_like_model(path) {
            Model::load(path)?;
        }
        share::load(path, centers)
    }

    /// Whether the file starts like a model, so that `inspect` can tell models from data.
    pub fn is_model_file(path: &Path) -> bool {
        file::looks_like_model(path)
    }

    /// Checks shapes and values.
    ///
    /// # Errors
    /// The first tensor that does not fit the configuration, or holds a value that is not finite.
    pub fn validate(&self) -> Result<(), ModelError> {
        file::validate(self, Path::new("model"))
    }
}

/// Why a model could not be written or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file cannot be read.
    #[error("cannot read the model {}: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] crate::atomic::OutputError),
    /// The file ends early.
    #[error("{} is cut short: {found} bytes of {expected}; copy it again or fit again", path.display())]
    CutShort {
        /// File.
        path: PathBuf,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The file is something else.
    #[error("{} is not a nystream model: {reason}", path.display())]
    NotAModel {
        /// File.
        path: PathBuf,
        /// What shows it.
        reason: String,
    },
    /// The file's format version is not this program's.
    #[error(
        "{} has model format {found}, this nystream reads format {supported}: use the nystream that wrote it \
         ({written_by}), or fit again", path.display()
    )]
    OtherVersion {
        /// File.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version this program reads.
        supported: u64,
        /// The program that wrote it.
        written_by: String,
    },
    /// The file's content is not what was written.
    #[error("{} is damaged ({what}); copy it again or fit again", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A tensor's shape does not fit the configuration.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the configuration needs {expected:?}", path.display())]
    Shape {
        /// File.
        path: PathBuf,
        /// Tensor.
        tensor: &'static str,
        /// Shape needed.
        expected: Vec<usize>,
        /// Shape found.
        found: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("{}: tensor `{tensor}` holds {value} at position {position}", path.display())]
    NotFinite {
        /// File.
        path: PathBuf,
        /// Tensor.
        tensor: &'static str,
        /// Row-major position.
        position: usize,
        /// The value.
        value: f64,
    },
    /// The configuration cannot be represented: a number that is not finite.
    #[error("the model's configuration cannot be written: {reason}")]
    Configuration {
        /// What is wrong.
        reason: String,
    },
}
