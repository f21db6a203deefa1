//! A preconditioner as a checkpoint holds it.
//!
//! The eigensystem of K_SS is some 9 s^3 flops, seconds for 3,000 rows; what is kept of it is 8 s (q + 1) bytes, 3.6 MB at most with q = s / 20. Every number is kept as it is, gains too, so that
//! a walk that takes it up has the same bits.

use super::preconditioner::{Measured, SubsamplePreconditioner};
use faer::MatRef;

/// The top eigenpairs of a subsample, and what was measured of the kernel that they flatten.
///
/// ```
/// use faer::mat;
/// use nystream_kernels::archive::{decode, encode};
/// use nystream_kernels::solve::eigenpro::{StoredPreconditioner, SubsamplePreconditioner};
/// let k = mat![[2.0, 0.0], [0.0, 1.0]];
/// let made = SubsamplePreconditioner::new(k.as_ref(), 1, 1.0).unwrap();
/// let measured = made.measure(k.as_ref(), k.as_ref(), &[1.0, 1.0]);
/// let bytes = encode(&StoredPreconditioner::of(&made, &measured));
/// let stored: StoredPreconditioner = decode(&bytes).unwrap();
/// let (again, _) = stored.restored(2, 1).unwrap();
/// assert_eq!(again.vectors(), made.vectors());
/// // It is none of three rows.
/// assert!(stored.restored(3, 1).is_none());
/// ```
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StoredPreconditioner {
    /// E, s x q, column by column.
    vectors: Vec<f64>,
    values: Vec<f64>,
    gains: Vec<f64>,
    tail: f64,
    top_eigenvalue: f64,
    diagonal: f64,
    kernel_diagonal: f64,
}

impl StoredPreconditioner {
    /// Of these.
    pub fn of(preconditioner: &SubsamplePreconditioner, measured: &Measured) -> Self {
        let vectors = preconditioner.vectors();
        StoredPreconditioner {
            vectors: (0..vectors.ncols()).flat_map(|j| vectors.col(j).iter().copied()).collect(),
            values: preconditioner.values().to_vec(),
            gains: preconditioner.gains().to_vec(),
            tail: preconditioner.tail(),
            top_eigenvalue: measured.top_eigenvalue,
            diagonal: measured.diagonal,
            kernel_diagonal: measured.kernel_diagonal,
        }
    }

    /// What it was made of; `None` where it is not one of `sample` rows and at most `most` directions: it may have been read from a file.
    pub fn restored(&self, sample: usize, most: usize) -> Option<(SubsamplePreconditioner, Measured)> {
        let q = self.values.len();
        let shaped = q <= most && self.gains.len() == q && sample.checked_mul(q) == Some(self.vectors.len());
        let measured = [self.tail, self.top_eigenvalue, self.diagonal, self.kernel_diagonal];
        let mut numbers = self.vectors.iter().chain(&self.values).chain(&self.gains).chain(&measured);
        if !shaped || !numbers.all(|number| number.is_finite()) {
            return None;
        }
        let vectors = MatRef::from_column_major_slice(&self.vectors, sample, q).to_owned();
        let parts = (vectors, self.values.clone(), self.gains.clone(), self.tail);
        let measured = Measured {
            top_eigenvalue: self.top_eigenvalue,
            diagonal: self.diagonal,
            kernel_diagonal: self.kernel_diagonal,
        };
        Some((SubsamplePreconditioner::from_parts(parts), measured))
    }
}
