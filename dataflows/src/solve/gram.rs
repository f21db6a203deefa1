//! One pass of the exact Gram: K_nm^T W K_nm and K_nm^T W y in integers, order-free (DESIGN section 6).
//!
//! The workers of a process add into one shared accumulator; processes then exchange its pieces: each piece is
//! summed by its owner and given to the first worker of every process. Cost: n m^2 flops, 16 m^2 / 2 bytes a process, and the same over the
//! network when there are several.

use crate::engine::exchange::{Audience, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::{Feed, view};
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use crate::predict::VarianceBasis;
use crate::solve::pcg::row_major;
use crate::solve::{FitQuality, Solved};
use crate::targets::TargetCode;
use faer::{Mat, MatRef};
use nystream_datasets::Chunk;
use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, GramSums};
use nystream_kernels::nystrom::{RidgePath, WhitenMethod, Whitener, normal_residual, trace_error};
use nystream_kernels::solve::Stopped;
use nystream_kernels::tile::{Entry, TileScratch, Tiles};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

struct GramScan<T: Entry> {
    feed: Feed,
    chunk: Chunk,
    tiles: Arc<Tiles<T>>,
    code: TargetCode,
    weight_max: f64,
    weighted: bool,
    gram: Arc<ExactGram>,
    tile_scratch: TileScratch<T>,
    gram_scratch: GramScratch,
    panel: Vec<T>,
    panel_rows: usize,
    targets: Vec<f64>,
    roots: Vec<f64>,
    process: Arc<Process>,
    /// Seconds of the process after which this worker reads no more.
    time_limit: Option<f64>,
    begun: bool,
}

impl<T: Entry + Into<f64> + Default> Scan for GramScan<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        // Some rows are always summed, so that there is a model to save.
        let late = self.begun && self.time_limit.is_some_and(|limit| self.process.elapsed() > limit);
        if late || !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        self.begun = true;
        let (stride, t) = (self.tiles.stride(), self.code.width());
        let rows = self.chunk.rows();
        let raw = self.chunk.target_width;
        for start in (0..rows).step_by(self.panel_rows) {
            let end = (start + self.panel_rows).min(rows);
            let count = end - start;
            self.panel.resize(count * stride, T::default());
            self.tiles.block(view(&self.chunk).slice(start, end), &mut self.tile_scratch, &mut self.panel);
            self.targets.resize(count * t, 0.0);
            for i in 0..count {
                let row = &self.chunk.targets[(start + i) * raw..(start + i + 1) * raw];
                self.code.encode(row, &mut self.targets[i * t..(i + 1) * t]);
            }
            // Into the fixed point's range, see `unscaled`.
            let headroom = 2f64.powi(-self.code.headroom_log2());
            self.targets.iter_mut().for_each(|y| *y *= headroom);
            let roots = self.weighted.then(|| {
                self.roots.clear();
                self.roots.extend(self.chunk.weights[start..end].iter().map(|w| (w / self.weight_max).sqrt()));
                self.roots.as_slice()
            });
            self.gram
                .add(&mut self.gram_scratch, &self.panel, stride, count, roots, &self.targets)
                .map_err(|e| StageError::Numeric(e.to_string()))?;
        }
        let m = self.tiles.centers();
        self.process.count((rows * m) as u64, (rows * m * (m + 2 * t)) as u64);
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(Vec::new())
    }
}

/// Sums the pieces of all processes.
#[derive(Default)]
struct PieceReducer {
    pieces: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Reducer for PieceReducer {
    fn absorb(&mut self, key: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        self.pieces.entry(key).or_default().push(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut out = Vec::new();
        for (key, parts) in std::mem::take(&mut self.pieces) {
            let sum = ExactGram::sum_pieces(key as usize, &parts).map_err(internal)?;
            out.push(Outgoing { key, bytes: sum });
        }
        Ok(out)
    }
}

fn internal(error: impl std::fmt::Display) -> StageError {
    StageError::Internal(error.to_string())
}

/// What a Gram pass is made of.
pub struct GramJob<'a, T: Entry> {
    /// Packed centers.
    pub tiles: &'a Arc<Tiles<T>>,
    /// Targets.
    pub code: &'a TargetCode,
    /// Shape of the accumulator.
    pub shape: GramShape,
    /// Largest weight; entries carry sqrt(w / w_max).
    pub weight_max: f64,
    /// Whether rows carry weights other than one.
    pub weighted: bool,
    /// Seconds of the process after which workers stop reading: the sums are then those of the rows they have seen.
    pub time_limit: Option<f64>,
}

/// Runs the pass over `feed`; the sums are on every worker (shared per process). Weights in the sums are relative to `weight_max`.
///
/// # Errors
/// Bad data, or a kernel entry or target beyond its declared range.
pub fn exact_gram<T: Entry + Into<f64> + Default>(
    session: &mut Session<'_>,
    name: &str,
    feed: Feed,
    job: &GramJob<'_, T>,
) -> Result<Arc<GramSums>, StageError> {
    let gram = session.once(|| ExactGram::new(job.shape));
    let scan = GramScan {
        feed,
        chunk: Chunk::default(),
        tiles: Arc::clone(job.tiles),
        code: job.code.clone(),
        weight_max: job.weight_max,
        weighted: job.weighted,
        gram: Arc::clone(&gram),
        tile_scratch: TileScratch::default(),
        gram_scratch: GramScratch::default(),
        panel: Vec::new(),
        panel_rows: panel_rows(job.tiles.stride()),
        targets: Vec::new(),
        roots: Vec::new(),
        process: Arc::clone(&session.process),
        time_limit: job.time_limit,
        begun: false,
    };
    pass(session, name, scan, crate::engine::exchange::Gather::default(), Audience::Everyone)?;
    if session.process.processes() > 1 {
        let outgoing = if session.is_leader() {
            (0..gram.pieces())
                .map(|piece| Ok(Outgoing { key: piece as u64, bytes: gram.export(piece).map_err(internal)? }))
                .collect::<Result<Vec<_>, StageError>>()?
        } else {
            Vec::new()
        };
        let reducer = PieceReducer::default();
        let sums = pass(session, "gram: exchange", outgoing, reducer, Audience::Leaders)?;
        let total = session.try_once(|| {
            let total = ExactGram::new(job.shape);
            for piece in &sums {
                total.import_add(piece.key as usize, &piece.bytes).map_err(internal)?;
            }
            Ok(total)
        })?;
        return Ok(session.once(|| unscaled(total.finish(), job.code)));
    }
    Ok(session.once(|| unscaled(gram.finish(), job.code)))
}

/// The sums of the scaled targets: the fixed point holds them divided by 2^headroom. Powers of two lose no bits.
fn unscaled(mut sums: GramSums, code: &TargetCode) -> GramSums {
    let scale = 2f64.powi(code.headroom_log2());
    sums.cross *= faer::Scale(scale);
    sums.target_sums.iter_mut().for_each(|sum| *sum *= scale);
    sums.target_squares.iter_mut().for_each(|sum| *sum *= scale * scale);
    sums
}

/// Ridges per row that the path offers to `--ridge auto`: quarter decades from 1e-11 to 10.
fn ridge_grid() -> Vec<f64> {
    (-44..=4).map(|k| 10f64.powf(f64::from(k) / 4.0)).collect()
}

/// Share of the root mean squared error that the rounding of entries may add before the report says so.
const ROUNDING_MOVES: f64 = 0.005;

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
}

/// How the ridge is chosen.
pub struct RidgeChoice<'a> {
    /// The ridge per row, when given: one, or one for each target.
    pub given: Option<Vec<f64>>,
    /// Whether all columns take one ridge, that of the least sum of their errors: the columns of classes are one target.
    pub shared: bool,
    /// How many rows judge it otherwise.
    pub count: usize,
    /// Some of them.
    pub judges: &'a dyn Fn(Range<usize>) -> Result<Judges, StageError>,
    /// Rounding error of a kernel entry.
    pub entry_error: f64,
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
/// # Errors
/// A factorisation that fails.
pub fn solve(
    sums: &GramSums,
    kmm: MatRef<'_, f64>,
    method: WhitenMethod,
    choice: &RidgeChoice<'_>,
    kernel_trace: Option<f64>,
    variance: bool,
) -> Result<Solved, StageError> {
    let numeric = |e: nystream_kernels::nystrom::NystromError| StageError::Numeric(e.to_string());
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
                    let (entries, targets) = (judges.entries.as_ref(), judges.targets.as_ref());
                    errors += faer::Scale(weight)
                        * path.leave_one_out_errors(entries, targets, roots, &judges.own, &grid).map_err(numeric)?;
                    total += weight;
                }
            }
            errors *= faer::Scale(1.0 / total);
            for (i, lambda) in grid.iter().enumerate() {
                let alpha = path.coefficients(*lambda).map_err(numeric)?;
                for j in 0..t {
                    errors[(i, j)] += rounding_error(choice.entry_error, alpha.col(j).iter().copied());
                }
            }
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
    let (mut residuals, mut dimensions, mut quality) = (vec![0.0; t], vec![0.0; t], Vec::with_capacity(t));
    for j in 0..t {
        let alpha = path.coefficients(ridges[j]).map_err(numeric)?;
        (0..m).for_each(|i| coefficients[i * t + j] = alpha[(i, j)]);
        residuals[j] = normal_residual(sums, kmm, ridges[j], alpha.as_ref()).map_err(numeric)?[j];
        dimensions[j] = path.degrees_of_freedom(ridges[j]).map_err(numeric)?;
        let mean_squared_residual = path.rss(ridges[j]).map_err(numeric)?[j] / sums.weight_sum;
        quality.push(FitQuality { mean_squared_residual, degrees_of_freedom: dimensions[j] });
        let rounding = rounding_error(choice.entry_error, alpha.col(j).iter().copied());
        let moved = (1.0 + rounding / mean_squared_residual.max(f64::MIN_POSITIVE)).sqrt() - 1.0;
        if moved > ROUNDING_MOVES {
            notes.push(format!(
                "the rounding of kernel entries adds about {:.1} % to the error of output {j}: --precision f64 avoids it",
                100.0 * moved
            ));
        }
    }
    let variance = match variance {
        true => {
            let factor = path.variance_factor(&ridges).map_err(numeric)?;
            let basis = row_major(factor.basis);
            Some(Arc::new(VarianceBasis {
                factor: basis,
                weights: row_major(factor.weights.as_ref()),
                rank: whitener.rank(),
            }))
        }
        false => None,
    };
    Ok(Solved {
        coefficients,
        ridges,
        residuals,
        effective_dimension: Some(dimensions),
        trace_error: kernel_trace.map(|trace| trace_error(trace, path.trace()).relative),
        fit_quality: Some(quality),
        variance,
        iterations: None,
        stopped: Stopped::Converged,
        passes: 1,
        notes,
    })
}

/// Rows of a kernel panel: as many as fit in 32 MB of f32, between 512 and 2,048, in whole exact panels. Sums are exact, so this shapes nothing.
pub fn panel_rows(stride: usize) -> usize {
    let fit = (32 << 20) / (4 * stride.max(1));
    (fit / 512 * 512).clamp(512, 2048)
}
