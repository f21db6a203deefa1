//! With which entries products are formed: all of them, or those above a cutoff (`kernels::tile::SparseTiles`).
//!
//! **The choice** is a function of kernel, centers, rows to judge by, number of rows and tolerance alone (law 1): sparse where the judges keep at most
//! [`SPARSE_GAIN`] of the entries. The cutoff is that of [`norm_cutoff`]: |K V - Y|_F <= tolerance |V|_F over all rows, and column by column, whatever V is. Kernels of
//! compact support are chosen for without being asked, at cutoff 0: nothing but zeros is left out.
//!
//! **In sampled mode** ([`ProductMode::Sampled`]) rows have budgets beside the cutoff (`kernels::tile::Budget`): of a function whose coefficients are known they leave out and draw blocks, by their
//! identity, so that the same holds with probability 1 - [`DRAW_FAILURE`]; for the vectors of iterations, which come of the products themselves, they only leave out, and it holds for certain.
//! Kernels of compact support stay certified: their zeros cost nothing already.
//!
//! **The certificate** of a pass is what its rows were told: entries formed, the largest bound of a row, and the norm of all bounds. Maxima and exact
//! sums, so that it is the same for any number of workers.

use crate::engine::Outgoing;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::exchange::{Audience, Gather, pass};
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::constants::{DRAW_FAILURE, SPARSE_GAIN};
use nystream_kernels::exact_sum::ExactSum;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::tile::{
    Budget, DrawnRows, Entry, SimdPath, SparseScratch, SparseTiles, Spread, Tiles, norm_cutoff,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Rows that judge how many entries are kept, at most.
pub const PRODUCT_JUDGES: usize = 2048;

/// How a tolerance is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProductMode {
    /// For certain, by one cutoff.
    #[default]
    Certified,
    /// By budgets of rows, which may draw blocks: with a probability that is stated.
    Sampled,
}

/// What products may be off by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProductLimit {
    /// |K V - Y| <= this times |V| may be off over all rows; none: nothing.
    pub tolerance: Option<f64>,
    /// How that is kept.
    pub mode: ProductMode,
}

/// A [`ProductLimit`] for some rows and centers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductTerms {
    /// What was asked for; certified for a kernel of compact support.
    pub limit: ProductLimit,
    /// Entries of at most this may be left out, whatever the budgets.
    pub cutoff: f64,
    /// Rows, all together.
    pub rows: u64,
}

/// What the report says of the products of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductReport {
    /// What was chosen and why.
    pub choice: ProductChoice,
    /// What sparse ones left out.
    pub certificate: Option<ProductCertificate>,
}

/// A kernel with its centers, packed for products with all entries or with some.
#[derive(Clone, Debug)]
pub enum Products<T: Entry> {
    /// All entries.
    Dense(Arc<Tiles<T>>),
    /// Those above a cutoff.
    Sparse(Arc<SparseTiles<T>>),
}

/// Why products are formed as they are, where sparse ones were considered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductChoice {
    /// The tolerance asked for, none for a kernel of compact support, which needs none; and how it is kept.
    pub limit: ProductLimit,
    /// Entries of at most this may be left out.
    pub cutoff: f64,
    /// Share of the entries that the judges keep.
    pub expected_share: f64,
    /// Whether products are sparse.
    pub sparse: bool,
}

impl ProductChoice {
    /// One sentence for people.
    pub fn sentence(&self) -> String {
        let mode = if self.limit.mode == ProductMode::Sampled { "sampled, " } else { "" };
        let why = match self.limit.tolerance {
            Some(tolerance) => format!("at the tolerance {tolerance:e} ({mode}cutoff {:.1e})", self.cutoff),
            None => "since the kernel has compact support".to_owned(),
        };
        let share = 100.0 * self.expected_share;
        match self.sparse {
            true => format!("products: sparse {why}, about {share:.2} % of the entries"),
            false => format!(
                "products: dense; sparse ones would keep about {share:.0} % of the entries {why}, which gains nothing"
            ),
        }
    }
}

/// The terms of sparse products over `rows` rows, where they are asked for or cost no accuracy; `draws` where the vectors are known, so that rows may draw.
///
/// ```
/// use nystream_dataflows::{StageError, matvec::products::{ProductLimit, ProductMode, product_terms}};
/// use nystream_kernels::kernel::{Family, Kernel};
/// let cutoff = |family, tolerance, mode| {
///     let terms = product_terms(&Kernel::new(family, 1.0), ProductLimit { tolerance, mode }, (10_000, 100), true);
///     terms.map(|terms| terms.map(|terms| terms.cutoff))
/// };
/// let (compact, certified) = (Family::Wendland { smoothness: 2, dimension: 3 }, ProductMode::Certified);
/// assert_eq!((cutoff(Family::Gaussian, None, certified), cutoff(compact, None, certified)), (Ok(None), Ok(Some(0.0))));
/// assert_eq!(cutoff(Family::Gaussian, Some(1e-3), certified), Ok(Some(1e-6)));
/// assert!(cutoff(Family::Gaussian, Some(1e-3), ProductMode::Sampled).is_ok_and(|cutoff| cutoff < Some(1e-6)));
/// assert!(matches!(cutoff(Family::Ntk { depth: 1 }, Some(1e-3), certified), Err(StageError::Usage(_))));
/// ```
///
/// # Errors
/// [`StageError::Usage`] for a kernel that is no function of the distance, a tolerance that everything is within, and samples without a tolerance.
pub fn product_terms(
    kernel: &Kernel,
    mut limit: ProductLimit,
    (rows, centers): (u64, usize),
    draws: bool,
) -> Result<Option<ProductTerms>, StageError> {
    if kernel.family.is_compact() {
        limit.mode = ProductMode::Certified;
    }
    let Some(tolerance) = limit.tolerance else {
        return match limit.mode {
            ProductMode::Certified => {
                Ok(kernel.family.is_compact().then_some(ProductTerms { limit, cutoff: 0.0, rows }))
            }
            ProductMode::Sampled => {
                Err(StageError::Usage("--product-mode sampled needs a tolerance: give --product-tolerance".into()))
            }
        };
    };
    if !kernel.family.is_radial() {
        return Err(StageError::Usage(
            "--product-tolerance leaves out centers that are far from a row, and this kernel (polynomial, arccosine or ntk) is no function of the distance: \
             leave the option out"
                .into(),
        ));
    }
    let margin = if draws && limit.mode == ProductMode::Sampled { Budget::margin(rows) } else { 1.0 };
    match norm_cutoff(margin * tolerance, rows, centers) {
        cutoff if cutoff < 1.0 => Ok(Some(ProductTerms { limit, cutoff, rows })),
        _ => Err(StageError::Usage(format!(
            "--product-tolerance {tolerance} lets every entry of {rows} rows and {centers} centers be left out: give less than {:.3}",
            (rows.max(1) as f64 * centers.max(1) as f64).sqrt()
        ))),
    }
}

/// Every so many of `rows` that [`PRODUCT_JUDGES`] of them remain at most.
pub fn product_judges(rows: Rows<'_>) -> RowBuf {
    let step = rows.len().div_ceil(PRODUCT_JUDGES).max(1);
    RowBuf::gather(rows, &(0..rows.len()).step_by(step).collect::<Vec<_>>())
}

impl<T: Entry> From<&Arc<Tiles<T>>> for Products<T> {
    fn from(tiles: &Arc<Tiles<T>>) -> Self {
        Products::Dense(Arc::clone(tiles))
    }
}

/// Sparse products that all workers of a process share.
type Sparse<T> = Arc<SparseTiles<T>>;

impl<T: Entry> Products<T> {
    /// Sparse products by `terms` where `judges` keep few enough entries; otherwise dense ones, whose tiles `dense` makes. `vectors` are those of the products, with their columns,
    /// where they are known: rows then may draw.
    ///
    /// ```
    /// use nystream_dataflows::matvec::products::{ProductLimit, ProductTerms, Products};
    /// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows, tile::{SimdPath, Tiles}};
    /// use std::sync::Arc;
    /// let z: Vec<f32> = (0..1000).map(|j| j as f32 / 1000.0).collect();
    /// let (rows, simd) = (Rows::new(&z, 1, &[], 0), SimdPath::detect());
    /// let choose = |sigma| {
    ///     let kernel = Kernel::new(Family::Gaussian, sigma);
    ///     let dense = || Ok(Arc::new(Tiles::<f32>::new(&kernel, rows, &[], simd).unwrap()));
    ///     let terms = ProductTerms { limit: ProductLimit { tolerance: Some(1e-3), ..Default::default() }, cutoff: 1e-6, rows: 1000 };
    ///     Products::choose((&kernel, rows, simd), terms, None, rows, dense)
    /// };
    /// let [(_, narrow), (_, wide)] = [choose(0.01)?, choose(10.0)?];
    /// assert!(narrow.sparse && narrow.expected_share < 0.3 && !wide.sparse && wide.expected_share == 1.0);
    /// # Ok::<(), nystream_dataflows::StageError>(())
    /// ```
    ///
    /// # Errors
    /// [`StageError::Numeric`] when kernel and centers do not fit together.
    pub fn choose(
        (kernel, centers, simd): (&Kernel, Rows<'_>, SimdPath),
        terms: ProductTerms,
        vectors: Option<(&[f64], usize)>,
        judges: Rows<'_>,
        dense: impl FnOnce() -> Result<Arc<Tiles<T>>, StageError>,
    ) -> Result<(Self, ProductChoice), StageError> {
        let (sparse, choice) = Self::sparse((kernel, centers, simd), terms, vectors, judges)?;
        Ok((sparse.map_or_else(|| dense().map(Products::Dense), |sparse| Ok(Products::Sparse(sparse)))?, choice))
    }

    /// [`Products::choose`] where dense products are another's business: sparse ones, if they are chosen.
    ///
    /// # Errors
    /// As there.
    pub fn sparse(
        (kernel, centers, simd): (&Kernel, Rows<'_>, SimdPath),
        terms: ProductTerms,
        vectors: Option<(&[f64], usize)>,
        judges: Rows<'_>,
    ) -> Result<(Option<Sparse<T>>, ProductChoice), StageError> {
        let numeric = |e: nystream_kernels::tile::TileError| StageError::Numeric(e.to_string());
        let mut sparse = SparseTiles::new(kernel, centers, &[], simd, terms.cutoff).map_err(numeric)?;
        let mut expected_share;
        if let (ProductMode::Sampled, Some(tolerance)) = (terms.limit.mode, terms.limit.tolerance) {
            let vectors = vectors.map(|(v, t)| sparse.vectors(v, t));
            let budget = |tiles: &_, draws| Budget::new(tiles, (tolerance, terms.rows), vectors.as_ref(), draws);
            let leave_out = budget(&sparse, None);
            sparse = sparse.within(leave_out);
            expected_share = kept_share(&sparse, judges);
            if vectors.is_some() {
                // Of few rows, draws take more of the budget beforehand than they save.
                let draw = budget(&sparse, Some(StreamKey::new(0, "sparse products", 0)));
                sparse = sparse.within(draw);
                let share = kept_share(&sparse, judges);
                if share < expected_share {
                    expected_share = share;
                } else {
                    let leave_out = budget(&sparse, None);
                    sparse = sparse.within(leave_out);
                }
            }
        } else {
            expected_share = kept_share(&sparse, judges);
        }
        let (limit, cutoff) = (terms.limit, terms.cutoff);
        let choice = ProductChoice { limit, cutoff, expected_share, sparse: expected_share <= SPARSE_GAIN };
        Ok((choice.sparse.then(|| Arc::new(sparse)), choice))
    }

    /// Number of centers, m.
    pub fn centers(&self) -> usize {
        match self {
            Products::Dense(tiles) => tiles.centers(),
            Products::Sparse(tiles) => tiles.centers(),
        }
    }
}

/// Share of the entries that at most [`PRODUCT_JUDGES`] of `rows` keep.
fn kept_share<T: Entry>(tiles: &SparseTiles<T>, rows: Rows<'_>) -> f64 {
    let judges = product_judges(rows);
    // Any identities do: there are many judges.
    let ids: Vec<RowId> = (0..judges.len() as u128).map(RowId).collect();
    let kept = tiles.kept_entries(DrawnRows { rows: judges.view(), ids: &ids }, &mut SparseScratch::new());
    kept as f64 / (judges.len() as f64 * tiles.centers() as f64).max(1.0)
}

/// The share of the entries that sparse products with any vectors will keep by `terms` with `m` centers not chosen yet, for which rows of the sample stand: judged by
/// others where there are enough.
///
/// # Errors
/// [`StageError::Numeric`] when kernel and rows do not fit together.
pub fn sampled_share(
    kernel: &Kernel,
    sample: Rows<'_>,
    m: usize,
    simd: SimdPath,
    terms: ProductTerms,
) -> Result<f64, StageError> {
    let centers = m.min(sample.len());
    let judges = if sample.len() >= 2 * centers { sample.slice(centers, sample.len()) } else { sample };
    // Which entries are kept does not depend on their precision.
    let tiles = SparseTiles::<f32>::new(kernel, sample.slice(0, centers), &[], simd, terms.cutoff);
    let mut tiles = tiles.map_err(|e| StageError::Numeric(e.to_string()))?;
    if let (ProductMode::Sampled, Some(tolerance)) = (terms.limit.mode, terms.limit.tolerance) {
        // A row gives up the part of its budget that so many of the centers have.
        let part = tolerance * (centers as f64 / m.max(1) as f64).sqrt();
        let budget = Budget::new(&tiles, (part, terms.rows), None, None);
        tiles = tiles.within(budget);
    }
    Ok(kept_share(&tiles, judges))
}

/// What sparse products of some rows formed and left out.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    rows: u64,
    entries: u64,
    /// For each column the largest bound of a row.
    largest: Vec<f64>,
    /// Squares of all bounds.
    squares: ExactSum,
    /// Of rows that drew, relative to the vectors: variances, and mean fourth powers of errors.
    variances: ExactSum,
    fourths: ExactSum,
}

/// What the sparse products of a pass formed and left out, over all its rows: the same for any number of workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProductCertificate {
    /// Rows.
    pub rows: u64,
    /// Entries formed, of rows x centers.
    pub entries: u64,
    /// For each column the most by which any row's product is off, besides the rounding of entries.
    pub largest: Vec<f64>,
    /// At most |K V - Y|_F over all rows, relative to |V|_F.
    pub norm: f64,
    /// With what probability each of these bounds holds at least, where rows drew; for certain where none did.
    pub probability: Option<f64>,
}

impl ProductCertificate {
    /// Makes this the certificate of several passes with vectors of their own: entries and rows of all of them, the worst norm, and nothing for single columns.
    pub fn worst(&mut self, other: &ProductCertificate) {
        self.rows += other.rows;
        self.entries += other.entries;
        self.norm = self.norm.max(other.norm);
        self.probability = self.probability.or(other.probability);
    }
}

impl Ledger {
    /// Adds rows whose products of `columns` columns have these bounds and took so many entries.
    pub fn add(&mut self, entries: u64, bounds: &[f64], columns: usize) {
        self.entries += entries;
        self.largest.resize(columns, 0.0);
        for row in bounds.chunks_exact(columns.max(1)) {
            self.rows += 1;
            for (largest, bound) in self.largest.iter_mut().zip(row) {
                *largest = largest.max(*bound);
                self.squares.add_product(*bound, *bound);
            }
        }
    }

    /// Adds what draws may add to the errors of a row that [`Ledger::add`] had with these `bounds`, for vectors of these `norms`. `exponent`: ln(2 n t / [`DRAW_FAILURE`]), by which the
    /// largest of n rows and t columns holds for all of them.
    pub fn add_spread(&mut self, spread: &Spread, bounds: &[f64], norms: &[f64], exponent: f64) {
        if spread.variance > 0.0 {
            let beyond = spread.beyond(exponent);
            for ((largest, bound), norm) in self.largest.iter_mut().zip(bounds).zip(norms) {
                *largest = largest.max(bound + norm * beyond);
            }
            self.variances.add_product(spread.variance, 1.0);
            self.fourths.add_product(spread.fourth(), 1.0);
        }
    }

    /// The certificate of the rows of all workers, with products of `vectors`; on every worker, each calls this in step.
    ///
    /// # Errors
    /// [`StageError::Internal`] for a damaged exchange.
    pub fn certificate(&self, session: &mut Session<'_>, vectors: &[f64]) -> Result<ProductCertificate, StageError> {
        let mut bytes = Writer::default();
        bytes.u64(self.rows);
        bytes.u64(self.entries);
        bytes.f64s(&self.largest);
        for sum in [&self.squares, &self.variances, &self.fourths] {
            bytes.bytes(&sum.to_bytes());
        }
        let outgoing = vec![Outgoing { key: 0, bytes: bytes.0 }];
        let mut all = ProductCertificate::default();
        let [mut squares, mut variances, mut fourths] = [ExactSum::new(), ExactSum::new(), ExactSum::new()];
        for parcel in pass(session, "products", outgoing, Gather::default(), Audience::Everyone)? {
            let mut bytes = Reader(&parcel.bytes);
            all.rows += bytes.u64()?;
            all.entries += bytes.u64()?;
            let largest = bytes.f64s()?;
            all.largest.resize(all.largest.len().max(largest.len()), 0.0);
            all.largest.iter_mut().zip(largest).for_each(|(all, own)| *all = all.max(own));
            for sum in [&mut squares, &mut variances, &mut fourths] {
                let own = ExactSum::from_bytes(bytes.bytes()?).map_err(|e| StageError::Internal(e.to_string()))?;
                sum.merge(&own);
            }
        }
        let size = vectors.iter().map(|v| v * v).sum::<f64>().sqrt();
        // More than the roundings of this sum.
        all.norm = if size > 0.0 { squares.round().sqrt() / size * (1.0 + 1e-9) } else { 0.0 };
        let (variance, fourth) = (variances.round(), fourths.round());
        if variance > 0.0 {
            // Cantelli's inequality for the sum of the rows' squared errors, which are independent.
            let mean = all.norm * all.norm + variance;
            all.norm = (mean + (fourth / DRAW_FAILURE).sqrt()).sqrt() * (1.0 + 1e-9);
            all.probability = Some(1.0 - DRAW_FAILURE);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Process, SilentProgress, run};
    use nystream_kernels::kernel::Family;

    /// Rows and their bounds, two columns.
    fn bound(i: usize) -> [f64; 2] {
        [1e-3 / (1.0 + i as f64), 1e-6 * ((i * 37) % 101) as f64]
    }

    /// Certificates of 1,000 rows shared out among workers, in calls of any size.
    fn certificates(workers: usize, step: usize) -> Vec<ProductCertificate> {
        let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
        let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
        let results = run(&process, communication, move |session| {
            let mut ledger = Ledger::default();
            let own: Vec<usize> = (0..1000).filter(|i| i % session.peers() == session.index()).collect();
            // Backwards, for the order not to matter.
            for rows in own.rchunks(step) {
                let bounds: Vec<f64> = rows.iter().flat_map(|i| bound(*i)).collect();
                ledger.add(10 * rows.len() as u64, &bounds, 2);
            }
            ledger.certificate(session, &[3.0, -4.0])
        });
        results.unwrap().into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn certificates_are_the_same_for_any_workers() {
        let one = certificates(1, 1000).remove(0);
        assert_eq!((one.rows, one.entries, one.largest.clone()), (1000, 10_000, vec![1e-3, 1e-6 * 100.0]));
        let square: f64 = (0..1000).flat_map(bound).map(|bound| bound * bound).sum();
        assert!(one.norm >= square.sqrt() / 5.0 && one.norm < square.sqrt() / 5.0 * (1.0 + 1e-8), "{one:?}");
        for (workers, step) in [(1, 7), (2, 100), (3, 1)] {
            assert!(certificates(workers, step).iter().all(|found| *found == one), "{workers} {step}");
        }
        // A worker, or all of them, may have no rows.
        let process = Process::new(2, 1, 0, Box::new(SilentProgress));
        let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
        let none = run(&process, communication, |session| Ledger::default().certificate(session, &[])).unwrap();
        assert_eq!(none[0], Ok(ProductCertificate::default()));
    }

    #[test]
    fn judges_are_spread_over_the_rows() {
        let values: Vec<f32> = (0..5000).map(|i| i as f32).collect();
        let rows = Rows::new(&values, 1, &[], 0);
        let judges = product_judges(rows);
        assert!((PRODUCT_JUDGES / 2..=PRODUCT_JUDGES).contains(&judges.len()));
        assert!(judges.numeric[0] == 0.0 && judges.numeric.last().is_some_and(|last| *last > 4990.0));
        assert_eq!(product_judges(rows.slice(0, 100)).len(), 100);
        assert!(product_judges(rows.slice(0, 0)).is_empty());
    }

    #[test]
    fn tolerances_that_mean_nothing_are_refused() {
        let terms = |kernel: &Kernel, tolerance, sizes, mode| {
            product_terms(kernel, ProductLimit { tolerance, mode }, sizes, true).map(|terms| terms.map(|t| t.cutoff))
        };
        let (certified, sampled) = (ProductMode::Certified, ProductMode::Sampled);
        let gaussian = Kernel::new(Family::Gaussian, 1.0);
        assert!(matches!(terms(&gaussian, Some(100.0), (100, 100), certified), Err(StageError::Usage(_))));
        assert_eq!(terms(&gaussian, Some(50.0), (100, 100), certified), Ok(Some(0.5)));
        assert_eq!(terms(&gaussian, Some(0.5), (0, 0), certified), Ok(Some(0.5)));
        let compact = Kernel::new(Family::Wendland { smoothness: 4, dimension: 3 }, 1.0);
        assert_eq!(terms(&compact, Some(50.0), (100, 100), certified), Ok(Some(0.5)));
        // Samples need a tolerance, and kernels of compact support none of them.
        assert!(matches!(terms(&gaussian, None, (100, 100), sampled), Err(StageError::Usage(_))));
        assert_eq!(terms(&compact, None, (100, 100), sampled), Ok(Some(0.0)));
        assert_eq!(terms(&gaussian, Some(50.0), (100, 100), sampled), Ok(Some(0.5 * Budget::margin(100))));
    }
}
