//! From the sums of one exact pass ([`exact_gram`](crate::nystrom::exact_gram)) to coefficients: the regularisation path, and the ridge.
//!
//! Cost: 9 m^3 for the whitening by eigenvectors and the path, 2 m^2 for each ridge, and 2 B m^2 for B rows that judge it.

use crate::error::StageError;
use crate::nystrom::row_major;
use crate::predict::VarianceBasis;
use crate::solve::{Scales, Solved, Variances, estimated_on};
use faer::{Mat, MatRef};
use nystream_kernels::dense::{fixed_parallelism, gemm};
use nystream_kernels::gram::GramSums;
use nystream_kernels::nystrom::{
    ApproximateTrace, Block, LeftOutRows, RidgePath, WhitenMethod, Whitener, normal_residual,
};
use nystream_kernels::solve::{Stopped, sampled_dimension};
use std::ops::Range;
use std::sync::Arc;

/// Ridges per row that the path offers to `--ridge auto`: quarter decades from 1e-11 to 10.
fn ridge_grid() -> Vec<f64> {
    (0..GRID_RIDGES as i32).map(|k| 10f64.powf(f64::from(k - 44) / 4.0)).collect()
}

/// How many there are.
pub(crate) const GRID_RIDGES: usize = 49;

/// Share of the root mean squared error that the rounding of entries may add before the report says so.
pub(crate) const ROUNDING_MOVES: f64 = 0.005;

/// Share of the degrees of freedom that rounding may add before they are estimated from sampled rows. (protein, m = 400, four times the median distance,
/// ridge 1e-7: 73.4 by numpy from rows and K_mm; the eigenvalues of the whitened Gram give 143 with f64 entries and 239 with f32.)
const DIMENSION_MOVES: f64 = 0.01;

/// How many times the mean squared residual that the sums promise sampled rows may have, beside a share of the target's variance that is nothing to speak
/// of; and how many times that of no model at all.
const CONTRADICTION: f64 = 2.0;
const NOTHING: f64 = 1e-4;
const SOUND: f64 = 1.1;
/// Standard errors by which sampled errors must pass either: one row of a target with heavy tails proves nothing.
const SURE: f64 = 3.0;

/// Relative residual above which a direct solve has failed: with a ridge above rounding it is 1e-6 at most, and at 1e-3 predictions may be far off (protein,
/// m = 400, four times the median distance: 8e-5 and sound at ridge 1e-7, 8e-3 and eight times the spread of the target at 1e-9).
const DIRECT_RESIDUAL: f64 = 1e-3;

/// Whether residuals are those of a direct solve that failed, or no numbers.
///
/// ```
/// use nystream_dataflows::solve::gram::unsolved;
/// assert!(unsolved(&[1e-7, 0.01]) && unsolved(&[f64::NAN]) && !unsolved(&[1e-7, 1e-5]));
/// ```
pub fn unsolved(residuals: &[f64]) -> bool {
    !residuals.iter().all(|residual| *residual <= DIRECT_RESIDUAL)
}

/// Mean square of what rounding errors of size `entry_error` in the entries of a row do to its prediction.
fn rounding_error(entry_error: f64, alpha: impl Iterator<Item = f64>) -> f64 {
    alpha.map(|a| (entry_error * a).powi(2)).sum()
}

/// *Shape.* Judges whose kernel entries are held at once.
pub(crate) const JUDGE_BLOCK: usize = 512;

/// Training rows that judge the ridge.
pub struct Judges {
    /// Kernel entries with the centers, B x m.
    pub entries: Mat<f64>,
    /// Scaled targets, B x t.
    pub targets: Mat<f64>,
    /// Roots of the weights relative to the largest; `None` when all are one.
    pub sqrt_weights: Option<Vec<f64>>,
    /// The center that a judge is, where it is one.
    pub own: Vec<Option<usize>>,
    /// k(x, x), B.
    pub diagonal: Vec<f64>,
}

impl Judges {
    fn block(&self) -> Block<'_> {
        let (entries, targets) = (self.entries.as_ref(), self.targets.as_ref());
        Block { entries, targets, sqrt_weights: self.sqrt_weights.as_deref(), own: &self.own }
    }
}

/// How the ridge is chosen.
pub struct RidgeChoice<'a> {
    /// The ridge per row, when given: one, or one for each target.
    pub given: Option<Vec<f64>>,
    /// Whether all columns take one ridge, that of the least sum of their errors: the columns of classes are one target.
    pub shared: bool,
    /// How many rows judge it otherwise.
    pub count: usize,
    /// How many rows say whether the solution does what its sums promise: 0 where the sums are not of all rows.
    pub checked: usize,
    /// How many rows calibrate the predictive variances; `None` where there are to be none.
    pub calibrating: Option<usize>,
    /// The judges of a range of 0..`count` or 0..`calibrating`, at most 512 at a time.
    pub judges: &'a dyn Fn(Range<usize>) -> Result<Judges, StageError>,
    /// Rounding error of a kernel entry, absolute.
    pub entry_error: f64,
    /// Whether entries are in double precision already.
    pub full_precision: bool,
    /// What each column is called in notes; columns beyond them by their number.
    pub names: &'a [String],
}

/// What the trace error is measured against.
pub struct KernelTrace<'a> {
    /// sum_i w_i k(x_i, x_i) over all rows, with the weights of the sums.
    pub total: f64,
    /// Sampled training rows that stand for all where the sums cannot be trusted.
    pub count: usize,
    /// Some of them.
    pub rows: &'a dyn Fn(Range<usize>) -> Result<TraceRows, StageError>,
}

/// Sampled training rows, with the roots of their relative weights in the entries.
pub struct TraceRows {
    /// Entries as the Gram summed them, B x m.
    pub rounded: Mat<f64>,
    /// Entries in f64, B x m.
    pub exact: Mat<f64>,
    /// sum_i w_i k(x_i, x_i) over these rows.
    pub total: f64,
}

impl KernelTrace<'_> {
    /// Relative trace error over all rows ([`ApproximateTrace`]).
    fn error(&self, whitener: &Whitener, path: &RidgePath) -> Result<f64, StageError> {
        let mut trace = ApproximateTrace::new(whitener, path).map_err(numeric)?;
        for start in (0..self.count).step_by(JUDGE_BLOCK) {
            let block = (self.rows)(start..(start + JUDGE_BLOCK).min(self.count))?;
            trace.sample(whitener, block.rounded.as_ref(), block.exact.as_ref(), block.total).map_err(numeric)?;
        }
        Ok(trace.error(self.total).relative)
    }

    /// Degrees of freedom at every one of `ridges` (per sample), from the features of the sampled rows.
    fn dimensions(&self, whitener: &Whitener, weight_sum: f64, ridges: &[f64]) -> Result<Vec<f64>, StageError> {
        let mut features = Mat::zeros(self.count, whitener.rank());
        let mut total = 0.0;
        for start in (0..self.count).step_by(JUDGE_BLOCK) {
            let end = (start + JUDGE_BLOCK).min(self.count);
            let block = (self.rows)(start..end)?;
            let own = whitener.features(block.exact.as_ref()).map_err(numeric)?;
            features.as_mut().subrows_mut(start, end - start).copy_from(own.transpose());
            total += block.total;
        }
        let at = |ridge: &f64| {
            sampled_dimension(features.as_ref(), ridge * weight_sum, (total / self.total).min(1.0))
                .map_err(|e| StageError::Numeric(e.to_string()))
        };
        // Ridges of several targets are often the same.
        let mut found: Vec<f64> = Vec::new();
        for (j, ridge) in ridges.iter().enumerate() {
            let known = ridges[..j].iter().position(|other| other == ridge);
            found.push(known.map_or_else(|| at(ridge), |known| Ok(found[known]))?);
        }
        Ok(found)
    }
}

/// What rounding adds at most to the degrees of freedom at the matrix ridge `ridge`: the noise of every whitened coordinate j, |R e_j|^2 times that of
/// a coordinate of G (rounded entries of all rows, and products of f64), over the ridge.
fn rounding_dimensions(sums: &GramSums, whitener: &Whitener, entry_error: f64, ridge: f64) -> Result<f64, StageError> {
    let trace: f64 = (0..sums.gram.nrows()).map(|i| sums.gram[(i, i)]).sum();
    let noise = sums.weight_sum * entry_error * entry_error + f64::EPSILON * trace;
    let norms = whitener.squared_norms().map_err(numeric)?;
    Ok(norms.iter().map(|norm| (noise * norm / ridge).min(1.0)).sum())
}

fn numeric(error: nystream_kernels::nystrom::NystromError) -> StageError {
    StageError::Numeric(error.to_string())
}

/// From the sums to coefficients: whitening, the regularisation path, the ridge (given, or the one whose leave-one-out error on the `judges` is least, per
/// target, or one for all where they share it; generalised cross-validation would miss single rows of high leverage).
///
/// Rounding errors of size [`RidgeChoice::entry_error`] in the entries of a new row move its prediction by
/// about that times |alpha|: the square of that is added to each score, since cross-validation on the rounded
/// entries cannot see it and, where the model nearly interpolates, would follow rounding to enormous coefficients.
///
/// `weight_sum` in the sums is relative to the largest weight, which changes no ridge per sample.
///
/// `kmm` is K_mm, m x m; `kernel_trace` has tr K over the rows of the sums (their number for kernels with k(x, x) = 1) and sampled rows, where the relative
/// trace error is wanted. The coefficients alpha of a target solve (G + lambda W K_mm) alpha = b, where W is `weight_sum`, and are in units of the scaled
/// target.
///
/// ```
/// use nystream_dataflows::{StageError, solve::gram::{RidgeChoice, solve}};
/// use nystream_kernels::{gram::GramSums, nystrom::WhitenMethod};
/// // Two centers far from each other: K_mm is the identity, and each has a problem of its own.
/// let kmm = faer::Mat::<f64>::identity(2, 2);
/// let sums = GramSums {
///     gram: faer::mat![[10.0, 0.0], [0.0, 20.0]],
///     cross: faer::mat![[5.0], [5.0]],
///     target_squares: vec![5.0],
///     target_sums: vec![2.0],
///     weight_sum: 30.0,
///     rows: 30,
/// };
/// // A given ridge needs no judges.
/// let judges = |_| Err(StageError::Internal("nobody asks".into()));
/// let given = Some(vec![0.1]);
/// let choice = RidgeChoice {
///     given,
///     shared: false,
///     count: 0,
///     checked: 0,
///     calibrating: None,
///     judges: &judges,
///     entry_error: 0.0,
///     full_precision: true,
///     names: &[],
/// };
/// let solved = solve(&sums, kmm.as_ref(), WhitenMethod::Cholesky, &choice, None)?;
/// // The ridge is per row: 30 rows at 0.1 add 3.
/// let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
/// assert!(close(solved.coefficients[0], 5.0 / (10.0 + 3.0)) && close(solved.coefficients[1], 5.0 / (20.0 + 3.0)));
/// assert!(close(solved.effective_dimension.unwrap()[0], 10.0 / 13.0 + 20.0 / 23.0));
/// # Ok::<(), StageError>(())
/// ```
///
/// # Errors
/// [`StageError::Numeric`] for shapes that do not fit together or a factorisation that fails, and whatever `judges` reports.
pub fn solve(
    sums: &GramSums,
    kmm: MatRef<'_, f64>,
    method: WhitenMethod,
    choice: &RidgeChoice<'_>,
    kernel_trace: Option<&KernelTrace<'_>>,
) -> Result<Solved, StageError> {
    let whitener = Whitener::new(kmm, method).map_err(numeric)?;
    let path = RidgePath::new(sums, &whitener).map_err(numeric)?;
    let (m, t) = (kmm.nrows(), sums.target_squares.len());
    let grid = ridge_grid();
    let mut notes = Vec::new();
    let ridges: Vec<f64> = match &choice.given {
        Some(given) if given.len() == t => given.clone(),
        Some(given) => vec![given.first().copied().unwrap_or_default(); t],
        None => {
            let mut errors = Mat::zeros(grid.len(), t);
            let mut total = 0.0;
            for start in (0..choice.count).step_by(JUDGE_BLOCK) {
                let judges = (choice.judges)(start..(start + JUDGE_BLOCK).min(choice.count))?;
                let roots = judges.sqrt_weights.as_deref();
                let weight = roots.map_or(judges.targets.nrows() as f64, |r| r.iter().map(|r| r * r).sum());
                // Means of blocks; one of rows without weight is no number.
                if weight > 0.0 {
                    errors +=
                        faer::Scale(weight) * path.leave_one_out_errors(judges.block(), &grid).map_err(numeric)?;
                    total += weight;
                }
            }
            errors *= faer::Scale(1.0 / total);
            let squares = path.coefficient_squares(&grid).map_err(numeric)?;
            errors += faer::Scale(choice.entry_error.powi(2)) * squares;
            let best = |score: &dyn Fn(usize) -> f64| {
                let finite = (0..grid.len()).filter(|i| score(*i).is_finite());
                finite.min_by(|a, b| score(*a).total_cmp(&score(*b))).map_or(grid[grid.len() - 1], |i| grid[i])
            };
            notes.push(format!("ridge by leave-one-out error of {} sampled training rows", choice.count));
            match choice.shared {
                true => vec![best(&|i| (0..t).map(|j| errors[(i, j)]).sum()); t],
                false => (0..t).map(|j| best(&|i| errors[(i, j)])).collect(),
            }
        }
    };
    if whitener.rank() < m {
        notes.push(format!(
            "{} of {m} centers depend on the others to working precision and carry no weight",
            m - whitener.rank()
        ));
    }
    let mut coefficients = vec![0.0; m * t];
    let mut worst: f64 = 0.0;
    let (mut residuals, mut dimensions, mut squares) = (vec![0.0; t], vec![0.0; t], vec![0.0; t]);
    for j in 0..t {
        let alpha = path.coefficients(ridges[j]).map_err(numeric)?;
        (0..m).for_each(|i| coefficients[i * t + j] = alpha[(i, j)]);
        residuals[j] = normal_residual(sums, kmm, ridges[j], alpha.as_ref()).map_err(numeric)?[j];
        dimensions[j] = path.degrees_of_freedom(ridges[j]).map_err(numeric)?;
        let mean_squared_residual = path.rss(ridges[j]).map_err(numeric)?[j] / sums.weight_sum;
        squares[j] = mean_squared_residual;
        let rounding = rounding_error(choice.entry_error, alpha.col(j).iter().copied());
        let moved = (1.0 + rounding / mean_squared_residual.max(f64::MIN_POSITIVE)).sqrt() - 1.0;
        worst = worst.max(moved);
        if moved > ROUNDING_MOVES {
            let share = if moved < 1.0 { format!("about {:.1} %", 100.0 * moved) } else { "more than 100 %".into() };
            let name = choice.names.get(j).cloned().unwrap_or_else(|| format!("column {j}"));
            let remedy = match choice.full_precision {
                true => "a larger --ridge, or --solver pcg,",
                false => "a larger --ridge, or --solver pcg --precision f64,",
            };
            notes.push(format!(
                "the rounding of kernel entries adds {share} to the error of {name}: {remedy} avoids it"
            ));
        }
    }
    // A direct solve has no iterations to stop: what it leaves is what rounding leaves.
    let residual = residuals.iter().copied().fold(0.0, f64::max);
    let alpha = MatRef::from_row_major_slice(&coefficients, m, t);
    let spreads: Vec<f64> = sums.target_squares.iter().map(|square| square / sums.weight_sum).collect();
    let contradicted = contradicted(choice, alpha, &squares, &spreads)?;
    let solved = !unsolved(&residuals) && !contradicted;
    if !solved {
        let found = match contradicted {
            true => {
                format!("the model of gram errs more on {} sampled training rows than its sums say", choice.checked)
            }
            false => format!("gram solved the normal equations to a relative residual of {residual:.1e} only"),
        };
        notes.push(format!(
            "{found}: K_mm is nearly singular and the ridge too small beside rounding. The model may be worse than none: give a larger --ridge, a \
             smaller --bandwidth, fewer --centers, or --solver pcg{}",
            if choice.full_precision { "" } else { " --precision f64" }
        ));
    }
    let variance = match choice.calibrating {
        Some(count) => {
            let factor = path.variance_factor(&ridges).map_err(numeric)?;
            let (factor, weights) = (row_major(factor.basis), row_major(factor.weights.as_ref()));
            let basis = Arc::new(VarianceBasis { factor, weights, rank: whitener.rank() });
            let assumed = |j: usize| {
                let free = (1.0 - dimensions[j] / sums.rows as f64).max(1.0 / sums.rows as f64);
                let noise = squares[j] / free;
                Scales::Assumed { noise, signal: noise / (ridges[j] * sums.rows as f64) }
            };
            let calibrated = calibrate(sums, &path, &ridges, choice, count)?;
            let scales = calibrated.into_iter().enumerate().map(|(j, found)| found.unwrap_or_else(|| assumed(j)));
            Some(Variances { basis, scales: scales.collect() })
        }
        None => None,
    };
    if let Some(trace) = kernel_trace {
        let spoiled = |j: usize| -> Result<bool, StageError> {
            let added = rounding_dimensions(sums, &whitener, choice.entry_error, ridges[j] * sums.weight_sum)?;
            Ok(added > DIMENSION_MOVES * dimensions[j])
        };
        let spoiled = (0..t).map(spoiled).collect::<Result<Vec<_>, _>>()?;
        // Without a ridge every direction is one degree, noise or not.
        if spoiled.contains(&true) && trace.count > 0 && ridges.iter().all(|ridge| *ridge > 0.0) {
            dimensions = trace.dimensions(&whitener, sums.weight_sum, &ridges)?;
            notes.push(estimated_on(trace.count));
        }
    }
    Ok(Solved {
        coefficients,
        ridges,
        residuals,
        effective_dimension: Some(dimensions),
        trace_error: kernel_trace.map(|trace| trace.error(&whitener, &path)).transpose()?,
        variance,
        rounding: worst,
        iterations: None,
        stopped: if solved { Stopped::Converged } else { Stopped::Stagnated },
        passes: 1,
        products: None,
        notes,
    })
}

/// Whether rows of the sample contradict the sums in any target: a model that rounding has spoiled solves the rounded normal equations, and errs
/// on the rows themselves. (2,000 rows, gaussian at bandwidth 4, m = 1,000, ridge 1e-11 in f64: residual 5e-4, and errors of 56 deviations.)
///
/// `squares` are the mean squared residuals that the sums promise. No least-squares model errs more than none on its own rows.
fn contradicted(
    choice: &RidgeChoice<'_>,
    alpha: MatRef<'_, f64>,
    squares: &[f64],
    spreads: &[f64],
) -> Result<bool, StageError> {
    let t = alpha.ncols();
    let (mut errors, mut spread, mut targets, mut total) = (vec![0.0; t], vec![0.0; t], vec![0.0; t], 0.0);
    for start in (0..choice.checked).step_by(JUDGE_BLOCK) {
        let judges = (choice.judges)(start..(start + JUDGE_BLOCK).min(choice.checked))?;
        let mut f = Mat::zeros(judges.targets.nrows(), t);
        gemm(f.as_mut(), false, 1.0, judges.entries.as_ref(), alpha, fixed_parallelism());
        for i in 0..f.nrows() {
            let weight = judges.sqrt_weights.as_ref().map_or(1.0, |roots| roots[i] * roots[i]);
            total += weight;
            for j in 0..t {
                let y = judges.targets[(i, j)];
                let error = weight * (y - f[(i, j)]).powi(2);
                errors[j] += error;
                spread[j] += error * error;
                targets[j] += weight * y * y;
            }
        }
    }
    let sound = |j: usize| {
        // No number is not sound.
        let sure = errors[j] - SURE * spread[j].sqrt();
        sure <= SOUND * targets[j] && sure <= total * (CONTRADICTION * squares[j].max(0.0) + NOTHING * spreads[j])
    };
    Ok(total > 0.0 && !(0..t).all(sound))
}

/// Scales of the variances of every target, from the errors of the first `count` judges when they are left out; `None` where these tell nothing.
fn calibrate(
    sums: &GramSums,
    path: &RidgePath,
    ridges: &[f64],
    choice: &RidgeChoice<'_>,
    count: usize,
) -> Result<Vec<Option<Scales>>, StageError> {
    let mut rows = vec![LeftOutRows::default(); ridges.len()];
    let mut diagonal = 0.0;
    for start in (0..count).step_by(JUDGE_BLOCK) {
        let judges = (choice.judges)(start..(start + JUDGE_BLOCK).min(count))?;
        diagonal += judges.diagonal.iter().sum::<f64>();
        let left_out = path.left_out(judges.block(), &judges.diagonal, ridges).map_err(numeric)?;
        for (rows, left_out) in rows.iter_mut().zip(left_out) {
            for (i, (residual, latent)) in left_out.residuals.into_iter().zip(left_out.latents).enumerate() {
                let weight = judges.sqrt_weights.as_ref().map_or(1.0, |roots| roots[i] * roots[i]);
                rows.push(residual, latent, weight);
            }
        }
    }
    let spread = |j: usize| sums.target_squares[j] / sums.weight_sum;
    let diagonal = diagonal / count.max(1) as f64;
    Ok(rows.iter().enumerate().map(|(j, rows)| rows.calibrate(diagonal, spread(j)).map(Scales::Calibrated)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One center at which every k is 1: the model is a constant, here 0, on 200 rows of these targets.
    fn doubted(target: &dyn Fn(usize) -> f64, promised: f64) -> bool {
        let judges = |range: Range<usize>| {
            Ok(Judges {
                entries: Mat::from_fn(range.len(), 1, |_, _| 1.0),
                targets: Mat::from_fn(range.len(), 1, |i, _| target(range.start + i)),
                sqrt_weights: None,
                own: vec![None; range.len()],
                diagonal: vec![1.0; range.len()],
            })
        };
        let choice = RidgeChoice {
            given: None,
            shared: false,
            count: 0,
            checked: 200,
            calibrating: None,
            judges: &judges,
            entry_error: 0.0,
            full_precision: true,
            names: &[],
        };
        contradicted(&choice, Mat::zeros(1, 1).as_ref(), &[promised], &[promised]).unwrap()
    }

    #[test]
    fn many_rows_contradict_the_sums_and_one_does_not() {
        let alternating = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
        assert!(!doubted(&alternating, 1.0) && !doubted(&alternating, 0.8));
        // All rows err ten times as much (squared) as was promised.
        assert!(doubted(&alternating, 0.1));
        // So do they in the mean when one of them is far out; the sums of 100,000 rows knew of it.
        assert!(!doubted(&|i| if i == 70 { 40.0 } else { alternating(i) }, 1.0));
        assert!(doubted(&|i| if i == 70 { f64::NAN } else { alternating(i) }, 1.0));
    }
}
