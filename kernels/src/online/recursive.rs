//! Recursive least squares of thousands of targets over one frozen dictionary.
//!
//! **Problem.** Every target is ridge regression on the same features phi = L^-1 k_I(x): W = A^-1 S, A = alpha I + sum w phi phi^T (m x m, one for all targets), S = sum w phi y^T
//! (m x t). Rows are inserted and deleted in any order;
//! each is predicted before it is taken.
//!
//! **Blocks.** With half = L_A^-1 phi, G = half^T half, kappa_r = c_r / (1 + c_r n_rr) and the elimination n_rt of G (as in `pending.rs`; c = w to insert, -w to delete), M unit
//! lower triangular with M_tr = kappa_r n_rt:
//! errors E = M^-1 (Y - Phi^T W), those of one-row updates in order (to rounding), and W <- W + L_A^-T half M^-T diag(kappa) E. All are products and triangular solves of t columns.
//! Rows wait for their block as in [`ProjectedKons`](super::ProjectedKons): results do not depend on how the stream is cut into calls.
//!
//! **Deletion.** delta = 1 - w phi^T A^-1 phi > 0 is what the pivot keeps. A and S lose what they gained up to rounding of what they have been: after most of the rows are gone
//! their relative error is u times (most rows ever held /
//! rows left), and W's that times cond(A). The update of W itself loses log10(1 / delta) digits; where delta was below 1e-4, and after every `refresh` blocks, W is solved for
//! anew from A and S, which carry no such loss. A itself is factored anew at each block.
//! A deletion with delta <= 1e-10 is of a row that was never inserted with this weight: it is left out and named ([`Answers::rejected`]). Other rows never inserted cannot be
//! told: the caller keeps the keys.
//!
//! **Forgetting** (rho < 1): what a row has given to A - alpha I and S falls to rho of it with each row after it, A <- rho^b A + (1 - rho^b) alpha I at the end of a block of b rows, as of
//! [`ProjectedKons`](super::ProjectedKons). Within the block a common factor of A and S changes no W: row r weighs w rho^-(r + 1) there. W is solved for anew at each block, since
//! alpha I is put back. Nothing can be deleted then.
//!
//! **A function to begin with**, f_0 with W_0: S begins as alpha W_0, so that the ridge is on f - f_0 and no row leaves f_0. What is forgotten falls to 0, f_0 too.
//!
//! **Leverages**: q = phi^T A^-1 phi + (k(x, x) - |phi|^2) / alpha before the row is taken. With noise of variance v and the function a Gaussian process of covariance v k / alpha, a prediction has variance v (1 + q), the
//! second term for what the atoms do not span (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 8.3.4: the projected process).
//!
//! **Missing targets** are refused by row and column: one A serves all targets only if all see the same rows. Targets that are missing in different rows go to learners of their
//! own, one a pattern of missing values.
//!
//! **Atoms** that depend on those before them are refused; [`Recursive::independent`] says which do not.
//!
//! **Cost** a row: m entries, 6 m t flops (predict, W, S), 2 b t, and 5 m^2 + m^3 / 3 b for all targets together; a refresh 2 m^2 t. Memory: 2 m t + 2 m^2 + b (t + 2 m) f64.

use super::OnlineError;
use super::entries::{EntryParams, Packed, check_rows};
use super::factor::{DEPENDENT, Lower};
use crate::dense::{self, SEQUENTIAL};
use crate::rows::{RowBuf, Rows};
use crate::sampling::leverage::dot;
use faer::{Mat, MatMut, MatRef};
use nystream_hashing::RowId;
use serde::{Deserialize, Serialize};

/// A deletion that leaves less of its pivot is refused; one that leaves less than the second has W solved for anew.
const PIVOTS: (f64, f64) = (1e-10, 1e-4);

/// The configuration of a [`Recursive`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecursiveParams {
    /// Kernel entries.
    pub entries: EntryParams,
    /// alpha: the matrix ridge.
    pub alpha: f64,
    /// Targets t.
    pub targets: usize,
    /// Rows of a block.
    pub block: usize,
    /// Blocks after which W is solved for anew.
    pub refresh: usize,
    /// rho: what A - alpha I and S keep a row, in (0, 1]; 1 never forgets.
    pub forgetting: f64,
}

impl RecursiveParams {
    /// What a block's first row weighs of its last, at least: below that they have nothing to say to each other in f64.
    pub const LEAST_KEPT: f64 = 1e-8;

    /// Blocks of 128 rows, a refresh every 32.
    pub fn new(entries: EntryParams, alpha: f64, targets: usize) -> Self {
        RecursiveParams { entries, alpha, targets, block: 128, refresh: 32, forgetting: 1.0 }
    }
}

/// A learner's state in figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecursiveInfo {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Deletions left out.
    pub rejected: u64,
    /// Times W was solved for anew.
    pub refreshes: u64,
    /// The least delta of a deletion; 1 before the first.
    pub least_delta: f64,
}

/// What complete blocks were answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Rows, in order.
    pub ids: Vec<RowId>,
    /// Predictions before each row was taken, rows x targets, row-major.
    pub predictions: Vec<f64>,
    /// Their targets, rows x targets, row-major.
    pub targets: Vec<f64>,
    /// q of each row before it was taken (module docs).
    pub leverages: Vec<f64>,
    /// Deletions that were left out, with their delta.
    pub rejected: Vec<(RowId, f64)>,
}

/// The learner; see the module docs.
///
/// ```
/// use nystream_hashing::RowId;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::Rows};
/// use nystream_kernels::online::{EntryParams, Recursive, RecursiveParams};
/// let entries = EntryParams::new(Kernel::new(Family::Gaussian, 1.0));
/// let atoms = Rows::new(&[0.0], 1, &[], 0);
/// let mut learner = Recursive::new(RecursiveParams::new(entries, 0.5, 2), atoms)?;
/// let rows = Rows::new(&[0.0, 0.0], 1, &[], 0);
/// learner.insert(rows, &[RowId(0), RowId(1)], &[1.0, 4.0, 1.0, 8.0], None)?;
/// learner.flush()?;
/// learner.delete(rows.slice(1, 2), &[RowId(1)], &[1.0, 8.0], None)?;
/// learner.flush()?;
/// let f = learner.predict(atoms)?; // 1 / (1 + 0.5) times each target
/// assert!((f[0] - 1.0 / 1.5).abs() < 1e-14 && (f[1] - 4.0 / 1.5).abs() < 1e-14);
/// # Ok::<(), nystream_kernels::online::OnlineError>(())
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct Recursive {
    params: RecursiveParams,
    atoms: RowBuf,
    /// K_II = L L^T.
    basis: Lower,
    a: Lower,
    l: Lower,
    /// W and S, one row a target.
    w: Vec<f64>,
    s: Vec<f64>,
    waiting: Waiting,
    blocks: usize,
    info: RecursiveInfo,
    /// sum w e^2 of each target's insertions, and sum w.
    squares: Vec<f64>,
    weight: f64,
    #[serde(skip)]
    packed: Packed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    rows: RowBuf,
    ids: Vec<RowId>,
    /// Rows x targets.
    targets: Vec<f64>,
    /// w, or -w of a deletion.
    signed: Vec<f64>,
}

impl Waiting {
    fn new(numeric_width: usize, code_width: usize) -> Self {
        let rows = RowBuf::new(numeric_width, code_width);
        Waiting { rows, ids: Vec::new(), targets: Vec::new(), signed: Vec::new() }
    }
}

/// b x t in column order of a row-major list.
fn transposed(list: &[f64], columns: usize) -> MatRef<'_, f64> {
    MatRef::from_column_major_slice(list, columns, list.len() / columns).transpose()
}

impl Recursive {
    /// A learner over these atoms, which must not depend on each other.
    ///
    /// # Errors
    /// [`OnlineError::Parameter`], [`OnlineError::Tile`], and [`OnlineError::Dense`] with the atom that depends on those before it.
    pub fn new(params: RecursiveParams, atoms: Rows<'_>) -> Result<Self, OnlineError> {
        OnlineError::positive("alpha", params.alpha)?;
        for (name, value) in
            [("targets", params.targets), ("block", params.block), ("refresh", params.refresh), ("atoms", atoms.len())]
        {
            if value == 0 {
                return Err(OnlineError::Parameter { name, value: 0.0, must: "at least 1" });
            }
        }
        let kept = params.forgetting.powf(params.block as f64);
        if !(params.forgetting > 0.0 && params.forgetting <= 1.0 && kept >= RecursiveParams::LEAST_KEPT) {
            let must = "in (0, 1], and its power over the rows of a block at least 1e-8";
            return Err(OnlineError::Parameter { name: "forgetting", value: params.forgetting, must });
        }
        let widths = (atoms.numeric_width(), atoms.code_width());
        check_rows(atoms, widths)?;
        let m = atoms.len();
        let mut k = Lower::scaled_identity(m, 0.0);
        params.entries.columns(atoms, atoms, k.view_mut())?;
        let mut basis = Lower::default();
        basis.factor(&k)?;
        let least = least_pivot(&params.entries, m);
        for i in 0..m {
            let pivot = basis.view()[(i, i)].powi(2);
            if pivot <= least * params.entries.kernel.diagonal(atoms, i) {
                return Err(dense::DenseError::NonPositivePivot { index: i, order: m }.into());
            }
        }
        let all: Vec<usize> = (0..m).collect();
        let info = RecursiveInfo { inserted: 0, deleted: 0, rejected: 0, refreshes: 0, least_delta: 1.0 };
        Ok(Recursive {
            atoms: RowBuf::gather(atoms, &all),
            basis,
            a: Lower::scaled_identity(m, params.alpha),
            l: Lower::scaled_identity(m, params.alpha.sqrt()),
            w: vec![0.0; m * params.targets],
            s: vec![0.0; m * params.targets],
            waiting: Waiting::new(widths.0, widths.1),
            blocks: 0,
            info,
            squares: vec![0.0; params.targets],
            weight: 0.0,
            packed: Packed::default(),
            params,
        })
    }

    /// The learner begins with sum_j c_j k(z_j, .) for each target, projected on the span of its atoms; `coefficients`: z x targets, row-major. Called before there are rows.
    ///
    /// # Errors
    /// Lengths that differ, and numbers that are not finite.
    pub fn begin_with(&mut self, centers: Rows<'_>, coefficients: &[f64]) -> Result<(), OnlineError> {
        let t = self.params.targets;
        OnlineError::check("coefficients", centers.len() * t, coefficients.len())?;
        check_rows(centers, (self.atoms.numeric_width, self.atoms.code_width))?;
        if let Some(at) = coefficients.iter().position(|c| !c.is_finite()) {
            let (row, column) = (at / t, at % t);
            return Err(OnlineError::NotFinite { what: "coefficient", row, column, value: coefficients[at] });
        }
        let phi = self.features(centers)?;
        let w = MatMut::from_column_major_slice_mut(&mut self.w, self.atoms.len(), t);
        dense::gemm(w, false, 1.0, phi.as_ref(), transposed(coefficients, t), SEQUENTIAL);
        self.s.iter_mut().zip(&self.w).for_each(|(s, w)| *s = self.params.alpha * w);
        Ok(())
    }

    /// Which of these atoms are no combination of those before them, by the precision of the entries: a learner takes them.
    ///
    /// # Errors
    /// [`OnlineError::Tile`], or features that are not finite.
    pub fn independent(entries: &EntryParams, atoms: Rows<'_>) -> Result<Vec<usize>, OnlineError> {
        check_rows(atoms, (atoms.numeric_width(), atoms.code_width()))?;
        let m = atoms.len();
        let mut k = Mat::zeros(m, m);
        entries.columns(atoms, atoms, k.as_mut())?;
        // Twice what `new` asks for: its factor is another sum.
        let least = 2.0 * least_pivot(entries, m);
        let (mut kept, mut rows): (Vec<usize>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
        for i in 0..m {
            let mut row: Vec<f64> = Vec::with_capacity(kept.len() + 1);
            for (&j, before) in kept.iter().zip(&rows) {
                let at = row.len();
                row.push((k[(j, i)] - dot(&before[..at], &row)) / before[at]);
            }
            let pivot = k[(i, i)] - dot(&row, &row);
            if pivot > least * entries.kernel.diagonal(atoms, i) {
                row.push(pivot.sqrt());
                rows.push(row);
                kept.push(i);
            }
        }
        Ok(kept)
    }

    /// Checks a state that was stored.
    ///
    /// # Errors
    /// [`OnlineError::State`].
    pub fn check(&self) -> Result<(), OnlineError> {
        let (m, t, n) = (self.atoms.len(), self.params.targets, self.waiting.ids.len());
        let sound = m > 0
            && t > 0
            && n < self.params.block
            && [self.basis.order(), self.a.order(), self.l.order()] == [m; 3]
            && [self.w.len(), self.s.len()] == [m * t; 2]
            && [self.waiting.rows.len(), self.waiting.signed.len()] == [n; 2]
            && self.waiting.targets.len() == n * t
            && self.squares.len() == t;
        if sound { Ok(()) } else { Err(OnlineError::State { what: "the parts differ in length" }) }
    }

    /// The configuration.
    pub fn params(&self) -> &RecursiveParams {
        &self.params
    }

    /// The atoms.
    pub fn atoms(&self) -> &RowBuf {
        &self.atoms
    }

    /// Sum of the weights of the rows that were inserted and no longer wait.
    pub fn sum_weights(&self) -> f64 {
        self.weight
    }

    /// Figures.
    pub fn info(&self) -> RecursiveInfo {
        self.info
    }

    /// Rows that wait for their block.
    pub fn waiting(&self) -> usize {
        self.waiting.ids.len()
    }

    /// Mean squared error of each target over the rows inserted, each predicted before it was taken; `None` before the first.
    pub fn mean_squared_errors(&self) -> Option<Vec<f64>> {
        (self.weight > 0.0).then(|| self.squares.iter().map(|s| s / self.weight).collect())
    }

    /// Inserts rows; `targets`: rows x t, row-major. Answers for rows whose block is complete.
    ///
    /// # Errors
    /// Lengths that differ, and features, targets or weights that are not finite (missing targets: see the module docs), by row and column: nothing was taken.
    /// [`OnlineError::Dense`] where A cannot be factored.
    pub fn insert(
        &mut self,
        rows: Rows<'_>,
        ids: &[RowId],
        targets: &[f64],
        weights: Option<&[f64]>,
    ) -> Result<Answers, OnlineError> {
        self.submit(rows, ids, targets, weights, 1.0)
    }

    /// Deletes rows that were inserted, with the same features, targets and weights.
    ///
    /// # Errors
    /// As [`Recursive::insert`].
    pub fn delete(
        &mut self,
        rows: Rows<'_>,
        ids: &[RowId],
        targets: &[f64],
        weights: Option<&[f64]>,
    ) -> Result<Answers, OnlineError> {
        self.submit(rows, ids, targets, weights, -1.0)
    }

    fn submit(
        &mut self,
        rows: Rows<'_>,
        ids: &[RowId],
        targets: &[f64],
        weights: Option<&[f64]>,
        sign: f64,
    ) -> Result<Answers, OnlineError> {
        let (n, t) = (rows.len(), self.params.targets);
        OnlineError::check("ids", n, ids.len())?;
        OnlineError::check("targets", n * t, targets.len())?;
        check_rows(rows, (self.atoms.numeric_width, self.atoms.code_width))?;
        if sign < 0.0 && self.params.forgetting < 1.0 {
            let must = "1 where rows are deleted";
            return Err(OnlineError::Parameter { name: "forgetting", value: self.params.forgetting, must });
        }
        if let Some(at) = targets.iter().position(|y| !y.is_finite()) {
            return Err(OnlineError::NotFinite { what: "target", row: at / t, column: at % t, value: targets[at] });
        }
        if let Some(weights) = weights {
            OnlineError::check("weights", n, weights.len())?;
            for (row, &weight) in weights.iter().enumerate() {
                if !weight.is_finite() {
                    return Err(OnlineError::NotFinite { what: "weight", row, column: 0, value: weight });
                }
                if weight < 0.0 {
                    return Err(OnlineError::Weight { row, weight });
                }
            }
        }
        let mut answers = Answers::default();
        for i in 0..n {
            self.waiting.rows.push(rows, i);
            self.waiting.ids.push(ids[i]);
            self.waiting.targets.extend_from_slice(&targets[i * t..(i + 1) * t]);
            self.waiting.signed.push(sign * weights.map_or(1.0, |w| w[i]));
            if self.waiting.ids.len() == self.params.block {
                self.take(&mut answers)?;
            }
        }
        Ok(answers)
    }

    /// Ends the block: takes the rows that wait.
    ///
    /// # Errors
    /// As [`Recursive::insert`].
    pub fn flush(&mut self) -> Result<Answers, OnlineError> {
        let mut answers = Answers::default();
        if !self.waiting.ids.is_empty() {
            self.take(&mut answers)?;
        }
        Ok(answers)
    }

    /// Features of rows, m x rows.
    fn features(&mut self, rows: Rows<'_>) -> Result<Mat<f64>, OnlineError> {
        let mut phi = Mat::zeros(self.atoms.len(), rows.len());
        self.packed.fill(&self.params.entries, self.atoms.view(), rows, phi.as_mut())?;
        self.basis.solve(phi.as_mut());
        Ok(phi)
    }

    fn weights(&self) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.w, self.atoms.len(), self.params.targets)
    }

    /// Predictions, rows x targets, row-major; rows that wait are left out.
    ///
    /// # Errors
    /// Widths that differ, or a feature that is not finite.
    pub fn predict(&mut self, rows: Rows<'_>) -> Result<Vec<f64>, OnlineError> {
        check_rows(rows, (self.atoms.numeric_width, self.atoms.code_width))?;
        let phi = self.features(rows)?;
        let mut out = vec![0.0; rows.len() * self.params.targets];
        let columns = MatMut::from_column_major_slice_mut(&mut out, self.params.targets, rows.len());
        dense::gemm(columns, false, 1.0, self.weights().transpose(), phi.as_ref(), SEQUENTIAL);
        Ok(out)
    }

    /// Leverages q of rows by what has been taken (module docs).
    ///
    /// # Errors
    /// As [`Recursive::predict`].
    pub fn leverages(&mut self, rows: Rows<'_>) -> Result<Vec<f64>, OnlineError> {
        check_rows(rows, (self.atoms.numeric_width, self.atoms.code_width))?;
        let phi = self.features(rows)?;
        let outside = self.outside(rows, &phi);
        let mut half = phi;
        self.l.solve(half.as_mut());
        let own = |(i, outside): (usize, f64)| dot(half.col_as_slice(i), half.col_as_slice(i)) + outside;
        Ok(outside.into_iter().enumerate().map(own).collect())
    }

    /// (k(x, x) - |phi|^2) / alpha of rows with features `phi`.
    fn outside(&self, rows: Rows<'_>, phi: &Mat<f64>) -> Vec<f64> {
        let of_row = |i: usize| {
            let diagonal = self.params.entries.kernel.diagonal(rows, i);
            let phi = phi.col_as_slice(i);
            (diagonal - dot(phi, phi)).max(0.0) / self.params.alpha
        };
        (0..rows.len()).map(of_row).collect()
    }

    /// Coefficients of the present functions over the atoms, L^-T W: one row a target.
    pub fn coefficients(&self) -> Vec<f64> {
        let mut out = self.w.clone();
        let columns = MatMut::from_column_major_slice_mut(&mut out, self.atoms.len(), self.params.targets);
        dense::solve_lower_transpose(self.basis.view(), columns, SEQUENTIAL);
        out
    }

    /// Takes the waiting rows (module docs).
    fn take(&mut self, answers: &mut Answers) -> Result<(), OnlineError> {
        let (m, t) = (self.atoms.len(), self.params.targets);
        let empty = Waiting::new(self.atoms.numeric_width, self.atoms.code_width);
        let Waiting { rows, ids, targets, mut signed } = std::mem::replace(&mut self.waiting, empty);
        let b = ids.len();
        let phi = self.features(rows.view())?;
        let mut half = phi.clone();
        self.l.solve(half.as_mut());
        let mut gram = Mat::zeros(b, b);
        dense::gemm_lower(gram.as_mut(), false, 1.0, half.transpose(), half.as_ref(), SEQUENTIAL);
        // Weights at the block's beginning (module docs).
        let rho = self.params.forgetting;
        let given = signed.clone();
        if rho < 1.0 {
            let mut kept = 1.0;
            for weight in &mut signed {
                kept *= rho;
                *weight /= kept;
            }
        }
        let before = answers.leverages.len();
        let (unit, kappa) = eliminate(gram, &mut signed, &ids, &mut self.info, answers);
        // What A has kept since the block's beginning.
        let mut kept = 1.0;
        for (leverage, outside) in answers.leverages[before..].iter_mut().zip(self.outside(rows.view(), &phi)) {
            *leverage = *leverage / kept + outside;
            kept *= rho;
        }
        // E = M^-1 (Y - Phi^T W); predictions are Y - E.
        let mut errors = transposed(&targets, t).to_owned();
        dense::gemm(errors.as_mut(), true, -1.0, phi.transpose(), self.weights(), SEQUENTIAL);
        dense::solve_lower(unit.as_ref(), errors.as_mut(), SEQUENTIAL);
        answers.ids.extend_from_slice(&ids);
        for r in 0..b {
            answers.predictions.extend((0..t).map(|j| targets[r * t + j] - errors[(r, j)]));
        }
        for (j, squares) in self.squares.iter_mut().enumerate() {
            *squares += given.iter().zip(errors.col_as_slice(j)).map(|(w, e)| w.max(0.0) * e * e).sum::<f64>();
        }
        self.weight += given.iter().map(|w| w.max(0.0)).sum::<f64>();
        // W += L_A^-T half M^-T diag(kappa) E.
        let mut gain = dense::weighted_rows(errors.as_ref(), &kappa);
        dense::solve_lower_transpose(unit.as_ref(), gain.as_mut(), SEQUENTIAL);
        let mut back = half;
        dense::solve_lower_transpose(self.l.view(), back.as_mut(), SEQUENTIAL);
        let w = MatMut::from_column_major_slice_mut(&mut self.w, m, t);
        dense::gemm(w, true, 1.0, back.as_ref(), gain.as_ref(), SEQUENTIAL);
        // S += Phi C Y and A += Phi C Phi^T.
        let weighted = Mat::from_fn(m, b, |i, r| signed[r] * phi[(i, r)]);
        let s = MatMut::from_column_major_slice_mut(&mut self.s, m, t);
        dense::gemm(s, true, 1.0, weighted.as_ref(), transposed(&targets, t), SEQUENTIAL);
        dense::gemm_lower(self.a.view_mut(), true, 1.0, weighted.as_ref(), phi.transpose(), SEQUENTIAL);
        if rho < 1.0 {
            let kept = rho.powi(b as i32);
            self.a.scale_and_add(kept, (1.0 - kept) * self.params.alpha);
            self.s.iter_mut().for_each(|s| *s *= kept);
        }
        self.l.factor(&self.a)?;
        self.blocks += 1;
        let worn = signed.iter().zip(&kappa).any(|(c, kappa)| *c < 0.0 && c / kappa < PIVOTS.1);
        answers.targets.extend_from_slice(&targets);
        if worn || rho < 1.0 || self.blocks >= self.params.refresh {
            self.refresh();
        }
        Ok(())
    }

    /// W = A^-1 S.
    pub fn refresh(&mut self) {
        self.w.copy_from_slice(&self.s);
        let mut w = MatMut::from_column_major_slice_mut(&mut self.w, self.atoms.len(), self.params.targets);
        dense::solve_lower(self.l.view(), w.as_mut(), SEQUENTIAL);
        dense::solve_lower_transpose(self.l.view(), w, SEQUENTIAL);
        self.blocks = 0;
        self.info.refreshes += 1;
    }
}

/// The share of k(x, x) that the pivot of an atom must exceed, of m.
fn least_pivot(entries: &EntryParams, m: usize) -> f64 {
    (DEPENDENT * m as f64).max(entries.rounding())
}

/// M and kappa from the lower triangle of the Gram of half; deletions that cannot be get weight 0.
fn eliminate(
    gram: Mat<f64>,
    signed: &mut [f64],
    ids: &[RowId],
    info: &mut RecursiveInfo,
    answers: &mut Answers,
) -> (Mat<f64>, Vec<f64>) {
    let b = ids.len();
    let mut unit = Mat::<f64>::identity(b, b);
    // n_rt for r < t, row t after row t - 1.
    let (mut eliminated, mut kappa) = (Vec::with_capacity(b * b / 2), Vec::with_capacity(b));
    for t in 0..b {
        let mut kn: Vec<f64> = Vec::with_capacity(t);
        let (start, mut at) = (eliminated.len(), 0);
        for r in 0..t {
            let n = gram[(t, r)] - dot(&eliminated[at..at + r], &kn);
            at += r;
            let scaled = kappa[r] * n;
            kn.push(scaled);
            unit[(t, r)] = scaled;
            eliminated.push(n);
        }
        let leverage = gram[(t, t)] - dot(&eliminated[start..], &kn);
        answers.leverages.push(leverage.max(0.0));
        let delta = 1.0 + signed[t] * leverage;
        if signed[t] < 0.0 {
            if delta > PIVOTS.0 {
                info.deleted += 1;
                info.least_delta = info.least_delta.min(delta);
            } else {
                answers.rejected.push((ids[t], delta));
                info.rejected += 1;
                signed[t] = 0.0;
            }
        } else {
            info.inserted += 1;
        }
        kappa.push(if signed[t] == 0.0 { 0.0 } else { signed[t] / delta });
    }
    (unit, kappa)
}
