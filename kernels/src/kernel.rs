//! Kernel functions: what the user names, and the slow, obvious evaluation that every tile is tested against.
//!
//! With r the distance after the metric (encoded units; see [`Rows`]) and sigma the bandwidth:
//!
//! | name | k(x, z) |
//! |---|---|
//! | gaussian | exp(-r^2 / (2 sigma^2)) |
//! | laplace, matern12 | exp(-r / sigma) |
//! | matern32 | (1 + s) exp(-s), s = sqrt(3) r / sigma |
//! | matern52 | (1 + s + s^2/3) exp(-s), s = sqrt(5) r / sigma |
//! | cauchy | 1 / (1 + r^2 / sigma^2) |
//! | wendland2 | (1 - s)^(l + 1) (1 + (l + 1) s) for s < 1 and 0 beyond, s = r / sigma, l = floor(dimension / 2) + 2 |
//! | wendland4 | (1 - s)^(l + 2) (1 + (l + 2) s + (l + 1) (l + 3) s^2 / 3) for s < 1 and 0 beyond, l = floor(dimension / 2) + 3 |
//! | polynomial | (x.z / sigma^2 + offset)^degree |
//! | arccosine | order 1 arc-cosine kernel, composed `depth` times (Cho and Saul, NIPS 2009) |
//! | ntk | the tangent kernel of a ReLU network with `depth` hidden layers (Jacot et al., NeurIPS 2018) |
//!
//! The dot-product families use the inner product of encoded rows divided by sigma^2, one-hot columns included.

use crate::rows::Rows;
use serde::{Deserialize, Serialize};

/// The kernel's family and its shape parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Family {
    /// exp(-r^2 / (2 sigma^2)).
    Gaussian,
    /// exp(-r / sigma) with the Euclidean r.
    Laplace,
    /// The same function as [`Family::Laplace`], under its Matern name.
    Matern12,
    /// (1 + s) exp(-s), s = sqrt(3) r / sigma.
    Matern32,
    /// (1 + s + s^2 / 3) exp(-s), s = sqrt(5) r / sigma.
    Matern52,
    /// 1 / (1 + r^2 / sigma^2).
    Cauchy,
    /// Wendland's function of compact support (Advances in Computational Mathematics 4, 1995): a polynomial in s = r / sigma, and 0 from s = 1 on. It is positive
    /// definite for points of at most `dimension` dimensions, of which a categorical column of L levels takes L - 1.
    Wendland {
        /// Continuous derivatives: 2 or 4.
        smoothness: u32,
        /// Dimensions, from 1 to 1,000.
        dimension: u32,
    },
    /// (x.z / sigma^2 + offset)^degree.
    Polynomial {
        /// Power, at least 1.
        degree: u32,
        /// Added to the inner product before the power; not negative.
        offset: f64,
    },
    /// Order-1 arc-cosine kernel composed `depth` times; k(x, x) = |x|^2 / sigma^2.
    ArcCosine {
        /// Compositions, at least 1.
        depth: u32,
    },
    /// Neural tangent kernel of a ReLU network with `depth` hidden layers.
    Ntk {
        /// Hidden layers, at least 1.
        depth: u32,
    },
}

/// How encoded rows are measured before the bandwidth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Encoded units as they are.
    #[default]
    Isotropic,
    /// One length scale per encoded column: each difference is divided by it.
    PerFeature {
        /// Length scale of each numeric column (encoded units, positive).
        numeric: Vec<f64>,
        /// Length scale of each categorical column (positive): a level change has squared distance 1/scale^2.
        categorical: Vec<f64>,
    },
    /// A linear map A of the numeric part: r^2 = |A (x - z)|^2 + the categorical part.
    Full {
        /// Rows of A, row-major, `rows x numeric_width`.
        map: Vec<f64>,
        /// Rows of A.
        rows: usize,
        /// Length scale of each categorical column (positive).
        categorical: Vec<f64>,
    },
}

/// A kernel: family, bandwidth and metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Family.
    pub family: Family,
    /// Bandwidth sigma in encoded units (after the metric), positive and finite.
    pub bandwidth: f64,
    /// Metric.
    #[serde(default)]
    pub metric: Metric,
}

impl Kernel {
    /// A kernel with the isotropic metric.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
    /// let k = Kernel::new(Family::Gaussian, 1.0);
    /// let rows = Rows::new(&[0.0, 1.0], 1, &[], 0);
    /// assert!((k.evaluate(rows, 0, rows, 1) - (-0.5f64).exp()).abs() < 1e-15);
    /// ```
    pub fn new(family: Family, bandwidth: f64) -> Self {
        Kernel { family, bandwidth, metric: Metric::Isotropic }
    }

    /// k(x_i, z_j) in f64, by the definition: the reference for every fast path.
    pub fn evaluate(&self, x: Rows<'_>, i: usize, z: Rows<'_>, j: usize) -> f64 {
        if self.family.is_radial() {
            self.family.of_squared_distance(self.squared_distance(x, i, z, j), self.bandwidth)
        } else {
            let s2 = self.bandwidth * self.bandwidth;
            let (xx, zz) = (self.inner(x, i, x, i) / s2, self.inner(z, j, z, j) / s2);
            self.family.of_inner(self.inner(x, i, z, j) / s2, xx, zz)
        }
    }

    /// The gradient of k(x, z_j) in the numeric columns of x at x_i, in f64, by the definition: what gradients in tiles are tested against. Categorical columns are
    /// constants. 0 at x = z for the kernels with a cusp there (laplace, matern12), which have none.
    ///
    /// ```
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
    /// let k = Kernel::new(Family::Gaussian, 2.0);
    /// let rows = Rows::new(&[0.0, 1.0], 1, &[], 0);
    /// let slope = k.gradient(rows, 0, rows, 1).ok_or("no gradient")?[0];
    /// assert!((slope - 0.25 * (-0.125f64).exp()).abs() < 1e-15); // (z - x) / sigma^2 k
    /// # Ok::<(), &str>(())
    /// ```
    ///
    /// `None` for families without gradients here: arc-cosine and tangent kernels.
    pub fn gradient(&self, x: Rows<'_>, i: usize, z: Rows<'_>, j: usize) -> Option<Vec<f64>> {
        let s2 = self.bandwidth * self.bandwidth;
        let (slope, point): (f64, Vec<f64>) = match self.family {
            Family::ArcCosine { .. } | Family::Ntk { .. } => return None,
            Family::Polynomial { degree, offset } => {
                let base = self.inner(x, i, z, j) / s2 + offset;
                let slope = f64::from(degree) * base.powi(degree as i32 - 1) / s2;
                (slope, z.numeric(j).iter().map(|&z| f64::from(z)).collect())
            }
            radial => {
                let slope = 2.0 * radial.slope(self.squared_distance(x, i, z, j), self.bandwidth);
                let pairs = x.numeric(i).iter().zip(z.numeric(j));
                (slope, pairs.map(|(&x, &z)| f64::from(x) - f64::from(z)).collect())
            }
        };
        let d = x.numeric_width();
        Some(match &self.metric {
            Metric::Isotropic => point.iter().map(|p| slope * p).collect(),
            Metric::PerFeature { numeric, .. } => point.iter().zip(numeric).map(|(p, s)| slope * p / (s * s)).collect(),
            Metric::Full { map, .. } => {
                let mut out = vec![0.0; d];
                for row in map.chunks_exact(d.max(1)) {
                    let image: f64 = row.iter().zip(&point).map(|(a, p)| a * p).sum();
                    out.iter_mut().zip(row).for_each(|(out, a)| *out += slope * image * a);
                }
                out
            }
        })
    }

    /// k(x_i, x_i).
    pub fn diagonal(&self, x: Rows<'_>, i: usize) -> f64 {
        if self.family.is_radial() { 1.0 } else { self.evaluate(x, i, x, i) }
    }

    pub(crate) fn squared_distance(&self, x: Rows<'_>, i: usize, z: Rows<'_>, j: usize) -> f64 {
        let difference = |k: usize| f64::from(x.numeric(i)[k]) - f64::from(z.numeric(j)[k]);
        let d = x.numeric_width();
        let numeric: f64 = match &self.metric {
            Metric::Isotropic => (0..d).map(|k| difference(k).powi(2)).sum(),
            Metric::PerFeature { numeric, .. } => (0..d).map(|k| (difference(k) / numeric[k]).powi(2)).sum(),
            Metric::Full { map, rows, .. } => {
                (0..*rows).map(|r| (0..d).map(|k| map[r * d + k] * difference(k)).sum::<f64>().powi(2)).sum()
            }
        };
        let codes = x.codes(i).iter().zip(z.codes(j)).enumerate();
        numeric + codes.map(|(c, (a, b))| if a == b { 0.0 } else { self.code_weight(c) }).sum::<f64>()
    }

    fn inner(&self, x: Rows<'_>, i: usize, z: Rows<'_>, j: usize) -> f64 {
        let (a, b) = (x.numeric(i), z.numeric(j));
        let d = x.numeric_width();
        let numeric: f64 = match &self.metric {
            Metric::Isotropic => (0..d).map(|k| f64::from(a[k]) * f64::from(b[k])).sum(),
            Metric::PerFeature { numeric, .. } => {
                (0..d).map(|k| f64::from(a[k]) / numeric[k] * (f64::from(b[k]) / numeric[k])).sum()
            }
            Metric::Full { map, rows, .. } => (0..*rows)
                .map(|r| {
                    let image = |v: &[f32]| (0..d).map(|k| map[r * d + k] * f64::from(v[k])).sum::<f64>();
                    image(a) * image(b)
                })
                .sum(),
        };
        let codes = x.codes(i).iter().zip(z.codes(j)).enumerate();
        numeric + codes.map(|(c, (p, q))| if p == q { 0.5 * self.code_weight(c) } else { 0.0 }).sum::<f64>()
    }

    /// Squared distance of a level change in categorical column `c` (before the bandwidth).
    pub fn code_weight(&self, c: usize) -> f64 {
        match &self.metric {
            Metric::Isotropic => 1.0,
            Metric::PerFeature { categorical, .. } | Metric::Full { categorical, .. } => categorical[c].powi(-2),
        }
    }
}

impl Family {
    /// Whether the kernel is a function of the distance alone (so k(x, x) = 1).
    pub fn is_radial(&self) -> bool {
        !matches!(self, Family::Polynomial { .. } | Family::ArcCosine { .. } | Family::Ntk { .. })
    }

    /// Whether the kernel is exactly 0 from some distance on.
    ///
    /// ```
    /// use nystream_kernels::kernel::Family;
    /// assert!(Family::Wendland { smoothness: 2, dimension: 3 }.is_compact() && !Family::Gaussian.is_compact());
    /// ```
    pub fn is_compact(&self) -> bool {
        match self {
            Family::Wendland { .. } => true,
            Family::Gaussian
            | Family::Laplace
            | Family::Matern12
            | Family::Matern32
            | Family::Matern52
            | Family::Cauchy
            | Family::Polynomial { .. }
            | Family::ArcCosine { .. }
            | Family::Ntk { .. } => false,
        }
    }

    /// The value at squared distance `r2` for bandwidth `sigma`.
    ///
    /// # Panics
    /// If the family is not radial.
    pub fn of_squared_distance(&self, r2: f64, sigma: f64) -> f64 {
        let r = r2.sqrt() / sigma;
        match self {
            Family::Gaussian => (-0.5 * r2 / (sigma * sigma)).exp(),
            Family::Laplace | Family::Matern12 => (-r).exp(),
            Family::Matern32 => {
                let s = 3f64.sqrt() * r;
                (1.0 + s) * (-s).exp()
            }
            Family::Matern52 => {
                let s = 5f64.sqrt() * r;
                (1.0 + s + s * s / 3.0) * (-s).exp()
            }
            Family::Cauchy => 1.0 / (1.0 + r * r),
            &Family::Wendland { smoothness, dimension } => {
                let (power, [first, second]) = wendland(smoothness, dimension);
                if r < 1.0 { (1.0 - r).powi(power as i32) * (1.0 + (first + second * r) * r) } else { 0.0 }
            }
            other => panic!("{other:?} is not a function of the distance"),
        }
    }

    /// dk / d(r^2) at squared distance `r2` for bandwidth `sigma`: never positive. 0 at r = 0 for laplace and matern12, which have no derivative there.
    ///
    /// # Panics
    /// If the family is not radial.
    pub fn slope(&self, r2: f64, sigma: f64) -> f64 {
        let (r, s2) = (r2.sqrt() / sigma, sigma * sigma);
        match self {
            Family::Gaussian => -0.5 / s2 * (-0.5 * r2 / s2).exp(),
            Family::Laplace | Family::Matern12 => {
                if r > 0.0 {
                    -0.5 / s2 * (-r).exp() / r
                } else {
                    0.0
                }
            }
            Family::Matern32 => -1.5 / s2 * (-3f64.sqrt() * r).exp(),
            Family::Matern52 => {
                let s = 5f64.sqrt() * r;
                -5.0 / 6.0 / s2 * (1.0 + s) * (-s).exp()
            }
            Family::Cauchy => -1.0 / (s2 * (1.0 + r * r).powi(2)),
            &Family::Wendland { smoothness, dimension } => {
                let (power, [first, second]) = wendland(smoothness, dimension);
                if r >= 1.0 {
                    return 0.0;
                }
                // (1 - r)^p q with q = 1 + b r + c r^2, by the product rule; the part that is a cusp at 0, b - p, is 0.
                let p = f64::from(power);
                let inner = -p * first - first + 2.0 * second - (p + 2.0) * second * r;
                0.5 / s2 * (1.0 - r).powi(power as i32 - 1) * inner
            }
            other => panic!("{other:?} is not a function of the distance"),
        }
    }

    /// Dimensions of points up to which the family is positive definite, where there is such a limit.
    ///
    /// ```
    /// use nystream_kernels::kernel::Family;
    /// assert_eq!(Family::Wendland { smoothness: 2, dimension: 3 }.most_dimensions(), Some(3));
    /// assert_eq!(Family::Gaussian.most_dimensions(), None);
    /// ```
    pub fn most_dimensions(&self) -> Option<u32> {
        match self {
            Family::Wendland { dimension, .. } => Some(*dimension),
            _ => None,
        }
    }

    /// The value at inner product `xz` given the squared norms `xx` and `zz` (all over sigma^2).
    ///
    /// # Panics
    /// If the family is radial.
    pub fn of_inner(&self, xz: f64, xx: f64, zz: f64) -> f64 {
        match *self {
            Family::Polynomial { degree, offset } => (xz + offset).powi(degree as i32),
            Family::ArcCosine { depth } => {
                let norms = (xx * zz).sqrt();
                let c = (0..depth).fold(cosine(xz, norms), |c, _| kappa1(c));
                norms * c
            }
            Family::Ntk { depth } => {
                let norms = (xx * zz).sqrt();
                let c = cosine(xz, norms);
                let (_, theta) = (0..depth).fold((c, c), |(c, theta), _| {
                    let next = kappa1(c);
                    (next, next + theta * kappa0(c))
                });
                norms * theta
            }
            other => panic!("{other:?} is a function of the distance"),
        }
    }
}

/// Wendland's function of 2 or 4 continuous derivatives as (1 - s)^power (1 + first s + second s^2).
pub(crate) fn wendland(smoothness: u32, dimension: u32) -> (u32, [f64; 2]) {
    let l = dimension / 2 + smoothness / 2 + 1;
    let real = f64::from(l);
    match smoothness {
        2 => (l + 1, [real + 1.0, 0.0]),
        _ => (l + 2, [real + 2.0, (real + 1.0) * (real + 3.0) / 3.0]),
    }
}

fn cosine(xz: f64, norms: f64) -> f64 {
    if norms > 0.0 { (xz / norms).clamp(-1.0, 1.0) } else { 0.0 }
}

/// Arc-cosine function of order 0 on unit vectors, (pi - acos c) / pi.
fn kappa0(c: f64) -> f64 {
    (std::f64::consts::PI - c.clamp(-1.0, 1.0).acos()) / std::f64::consts::PI
}

/// Arc-cosine function of order 1 on unit vectors, (c (pi - acos c) + sqrt(1 - c^2)) / pi.
fn kappa1(c: f64) -> f64 {
    let c = c.clamp(-1.0, 1.0);
    (c * (std::f64::consts::PI - c.acos()) + (1.0 - c * c).max(0.0).sqrt()) / std::f64::consts::PI
}
