//! Logistic and softmax loss by Newton's method over streamed passes (the Falkon scheme): gradient and Hessian products are
//! [`row_sums`] passes, each kernel entry evaluated once; the small algebra is replicated on every worker.
//!
//! Margins are K alpha plus the logarithms of the classes' shares. `--ridge` is lambda of (1/sum w) sum w l + (lambda/2) ||f||^2;
//! `--ridge auto` takes a quarter of the squared-loss ridge, which has the same curvature at p = 1/2.

use crate::dictionary::pool::Pool;
use crate::engine::checkpoint::recall;
use crate::engine::exchange::Audience;
use crate::engine::feed::RowStore;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::matvec::{Reads, RowView, Widths, row_sums};
use crate::nystrom::{Basis, MassLayout, StratifiedSample, center_masses, from_row_major, row_major};
use crate::plan::{PRECONDITIONER_ROWS, Shape, plural};
use crate::predict::prior_margin;
use crate::solve::pcg::{over_time, solve_error};
use crate::solve::{Solved, estimated_on};
use crate::targets::TargetCode;
use faer::{Mat, MatRef};
use nystream_datasets::Role;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::Rows;
use nystream_kernels::solve::Whitening;
use nystream_kernels::solve::logistic::{
    LogisticLoss, LogisticOperator, LogisticParams, LogisticState, SampleCurvature, logistic, ridge_path,
};
use nystream_kernels::tile::{Entry, SimdPath, Tiles};
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use tape::Tape;

mod tape;

pub(crate) use tape::MOST_BYTES;
#[cfg(test)]
mod tests;

/// Classes up to which the preconditioner follows the iterate's curvature.
pub(crate) const LOCAL_CLASSES: usize = 10;

/// What a logistic solve is given.
pub struct LogisticJob<'a, T: Entry> {
    /// Packed centers.
    pub tiles: &'a Arc<Tiles<T>>,
    /// The centers.
    pub centers: Rows<'a>,
    /// Kernel.
    pub kernel: &'a Kernel,
    /// SIMD path.
    pub simd: SimdPath,
    /// Targets: classes.
    pub code: &'a TargetCode,
    /// Per-sample ridge lambda of the logistic objective.
    pub ridge: f64,
    /// By what the rows' weights are multiplied, a power of two; 1 but for extreme ones.
    pub weight_scale: f64,
    /// Training rows.
    pub rows: u64,
    /// Sum of the weights of all training rows, times the scale.
    pub weight_sum: f64,
    /// The hashed sample with its weights, from which the preconditioner is made.
    pub sample: &'a Arc<Pool>,
    /// Bound on the gradient norm in whitened coordinates, relative to that at f = 0.
    pub tolerance: f64,
    /// Newton steps at most at `ridge`; those on the path to it come before.
    pub iterations: Option<usize>,
    /// Coefficients to start from, m x t row-major.
    pub warm_start: Option<Vec<f64>>,
    /// Seconds of the process after which to stop.
    pub time_limit: Option<f64>,
}

/// The loss of the classes of `code`, and the fixed offset of each of its margins.
pub(crate) fn margins_of(code: &TargetCode) -> (LogisticLoss, Vec<f64>) {
    match code.classes.len() {
        2 => (LogisticLoss::Binary, vec![prior_margin(code, 1) - prior_margin(code, 0)]),
        classes => (LogisticLoss::Softmax { classes }, (0..classes).map(|k| prior_margin(code, k)).collect()),
    }
}

struct Passes<'s, 'w, 'a, T: Entry> {
    session: &'s mut Session<'w>,
    store: &'a RowStore,
    tiles: &'a Arc<Tiles<T>>,
    loss: LogisticLoss,
    offset: Vec<f64>,
    weight_scale: f64,
    time_limit: Option<f64>,
    passes: u64,
    tape: Rc<RefCell<Tape>>,
}

impl<T: Entry> LogisticOperator for Passes<'_, '_, '_, T> {
    type Error = StageError;

    fn centers(&self) -> usize {
        self.tiles.centers()
    }

    fn outputs(&self) -> usize {
        self.offset.len()
    }

    fn gradient(&mut self, alpha: MatRef<'_, f64>) -> Result<(f64, Mat<f64>), StageError> {
        let t = self.offset.len();
        let (loss, offset, scale) = (self.loss, self.offset.clone(), self.weight_scale);
        let mut margins = vec![0.0; t];
        self.passes += 1;
        let known = self.tape.borrow_mut().next();
        let sums = known.map_or_else(
            || {
                row_sums(
                    self.session,
                    "gradient",
                    self.store.feed(Role::Training),
                    self.tiles,
                    Reads::Product(Arc::new(row_major(alpha))),
                    Widths { input: t, output: t, extras: 1 },
                    move |row: RowView<'_>, u: &mut [f64], extra: &mut [f64]| {
                        margins.iter_mut().zip(row.values).zip(&offset).for_each(|((m, v), o)| *m = v + o);
                        let weight = scale * row.chunk.weights[row.row];
                        let label = row.chunk.targets[row.row] as usize;
                        extra[0] += weight * loss.gradient(&margins, label, u);
                        u.iter_mut().for_each(|u| *u *= weight);
                    },
                )
            },
            Ok,
        )?;
        self.tape.borrow_mut().record(&sums, true);
        let mut sums = sums;
        let total = sums.pop().unwrap_or_default();
        Ok((total, from_row_major(&sums, self.tiles.centers(), t)))
    }

    fn hessian(&mut self, alpha: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Result<Mat<f64>, StageError> {
        let t = self.offset.len();
        let (loss, offset, scale) = (self.loss, self.offset.clone(), self.weight_scale);
        let mut margins = vec![0.0; t];
        let both = Mat::from_fn(alpha.nrows(), 2 * t, |i, j| if j < t { alpha[(i, j)] } else { v[(i, j - t)] });
        self.passes += 1;
        let known = self.tape.borrow_mut().next();
        let sums = known.map_or_else(
            || {
                row_sums(
                    self.session,
                    "Newton step",
                    self.store.feed(Role::Training),
                    self.tiles,
                    Reads::Product(Arc::new(row_major(both.as_ref()))),
                    Widths { input: 2 * t, output: t, extras: 0 },
                    move |row: RowView<'_>, u: &mut [f64], _: &mut [f64]| {
                        margins.iter_mut().zip(row.values).zip(&offset).for_each(|((m, v), o)| *m = v + o);
                        loss.hessian_times(&margins, &row.values[t..], u);
                        let weight = scale * row.chunk.weights[row.row];
                        u.iter_mut().for_each(|u| *u *= weight);
                    },
                )
            },
            Ok,
        )?;
        self.tape.borrow_mut().record(&sums, false);
        Ok(from_row_major(&sums, self.tiles.centers(), t))
    }

    fn stop(&mut self) -> Result<bool, StageError> {
        over_time(self.session, self.time_limit)
    }
}

/// Solves; the result is the same on every worker. The coefficients are m x t row-major, in units of the margins (t = 1 for two classes), and
/// [`Solved::residuals`] the norm of the plain gradient relative to that at f = 0. A limit of steps or time is no error: [`Solved::stopped`] tells.
///
/// ```
/// use nystream_dataflows::dictionary::pool::{Columns, PoolRule, gather_pool};
/// use nystream_dataflows::{solve::logistic::{LogisticJob, solve}, targets::TargetCode};
/// use nystream_datasets::Task;
/// use nystream_hashing::StreamKey;
/// use nystream_kernels::{kernel::{Family, Kernel}, rows::RowBuf, solve::Stopped, tile::{SimdPath, Tiles}};
/// # use nystream_dataflows::engine::{Process, SilentProgress, feed::RowStore, run};
/// # use nystream_datasets::{Catalog, ColumnSummary, Encoder, EncoderOptions, Role, Sources};
/// # use std::sync::Arc;
/// # let catalog = Catalog::open(&Sources::parse(&["synth:twoclass?rows=5000&d=1"])?)?;
/// # let levels = |info: &nystream_datasets::ColumnInfo| (info.name == "y").then(|| vec![("0".into(), 2500), ("1".into(), 2500)]);
/// # let summary = |info| ColumnSummary { count: 5000, sd: 1.0, min: -4.0, max: 4.0, levels: levels(info), ..ColumnSummary::empty(info) };
/// # let summaries: Vec<ColumnSummary> = catalog.columns.iter().map(summary).collect();
/// # let encoder = Arc::new(Encoder::fit(&summaries, &EncoderOptions { targets: vec!["y".into()], task: Task::Classification, ..Default::default() })?);
/// # let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// # let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// // As in the example of `RowStore`, with two classes, `0` and `1`.
/// let results = run(&process, communication, move |session| {
/// #   let (peers, index, process) = (session.peers(), session.index(), Arc::clone(&session.process));
/// #   let store = RowStore::new(&catalog, Arc::clone(&encoder), peers, index, process);
///     let grid = (-4..=4).map(|k| 0.6 * k as f32).collect();
///     let centers = RowBuf { numeric: grid, numeric_width: 1, codes: vec![], code_width: 0 };
///     let (simd, kernel) = (SimdPath::detect(), Kernel::new(Family::Gaussian, 1.0));
///     let tiles = session.once(|| Tiles::<f64>::new(&kernel, centers.view(), &[], simd).unwrap());
///     let rule = PoolRule::all(StreamKey::new(0, "sample", 0), 2);
///     let sample = gather_pool(session, "sample", store.feed(Role::Training), rule, Columns::All)?;
///     // About half of the rows are of class `1`.
///     let classes = vec!["0".into(), "1".into()];
///     solve(session, &store, &LogisticJob {
///         tiles: &tiles,
///         centers: centers.view(),
///         kernel: &kernel,
///         simd,
///         code: &TargetCode { names: vec!["y".into()], classes, centres: vec![0.5], exponents: vec![0] },
///         ridge: 1e-4,
///         weight_scale: 1.0,
///         rows: 5000,
///         weight_sum: 5000.0,
///         sample: &sample,
///         tolerance: 1e-6,
///         iterations: None,
///         warm_start: None,
///         time_limit: None,
///     })
/// }).unwrap();
/// let solved = results[0].clone().unwrap();
/// assert_eq!((solved.coefficients.len(), solved.stopped), (9, Stopped::Converged));
/// // The tolerance bounds the whitened gradient, not the plain one.
/// assert!(solved.residuals[0] < 1e-2, "{:?}", solved.residuals);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] for rows that cannot be read or encoded, [`StageError::Numeric`] for a factorisation that fails,
/// [`StageError::Internal`] for a damaged exchange; the same on every worker.
pub fn solve<T: Entry>(
    session: &mut Session<'_>,
    store: &RowStore,
    job: &LogisticJob<'_, T>,
) -> Result<Solved, StageError> {
    let classes = job.code.classes.len();
    let (loss, offset) = margins_of(job.code);
    let masses = center_masses(session, store, job.tiles, job.centers, job.weight_scale)?;
    session.step("preconditioner", job.tiles.centers());
    let basis = session.try_once(|| Basis::new(job.kernel, job.centers, job.simd))?;
    let curvature = session.try_once(|| {
        let parts = (&*basis, job.kernel, job.simd);
        let masses = MassLayout::new(job.tiles.centers(), 0).of(&masses, None);
        let weight = |i: usize| job.weight_scale * job.sample.weights[i];
        let sample = StratifiedSample::new(
            parts,
            job.centers,
            masses,
            job.sample,
            PRECONDITIONER_ROWS,
            (job.rows, job.weight_sum),
            weight,
        );
        let (mut features, mut weights) = (Mat::zeros(sample.len(), basis.rank()), Vec::with_capacity(sample.len()));
        sample.each_block(|block, more| {
            features.as_mut().submatrix_mut(weights.len(), 0, more.len(), block.ncols()).copy_from(block);
            weights.extend_from_slice(more);
        })?;
        let (offset, unmixed) = (offset.clone(), Some(sample.unmixed()));
        Ok(SampleCurvature { features, weights, offset, loss, local: classes <= LOCAL_CLASSES, unmixed })
    })?;
    let params = LogisticParams {
        tolerance: job.tolerance,
        max_newton: job.iterations.unwrap_or(30),
        path: ridge_path(job.ridge, 1e-2, 100.0),
        ..LogisticParams::default()
    };
    let t = job.code.width();
    let start = job
        .warm_start
        .as_ref()
        .map(|alpha| LogisticState::warm(&*basis, from_row_major(alpha, job.tiles.centers(), t).as_ref()));
    let (gradient, product) = (job.tiles.centers() * t + 1, job.tiles.centers() * t);
    let found = recall(session, tape::GROUP, Audience::Everyone)?;
    let (tape, kept) = Tape::new(session, found, [gradient, product]);
    // A state that does not fit is none.
    let kept = kept.filter(|state| state.fits(basis.rank(), t));
    let tape = Rc::new(RefCell::new(tape));
    let marks = Rc::clone(&tape);
    let start = kept.or(start);
    let passes = tape.borrow().before();
    let mut operator = Passes {
        session,
        store,
        tiles: job.tiles,
        loss,
        offset,
        weight_scale: job.weight_scale,
        time_limit: job.time_limit,
        passes,
        tape,
    };
    let (process, mut steps) = (Arc::clone(&operator.session.process), 0);
    let (alpha, info) =
        logistic(&mut operator, &*basis, &curvature, job.weight_sum, job.ridge, &params, start, |_, state| {
            marks.borrow_mut().mark(state);
            steps += 1;
            process.watch.iterated(steps, f64::NAN);
            ControlFlow::Continue(())
        })
        .map_err(solve_error)?;
    if operator.session.is_first() {
        let m = job.tiles.centers() as f64;
        let shape = Shape { rows: 0.0, numeric: 0.0, codes: 0.0, targets: t as f64 };
        let process = &operator.session.process;
        process.count_algebra(shape.logistic_algebra(m, info.steps.len() as f64));
        process.count((curvature.weights.len() as f64 * m - m * m) as u64, 0);
    }
    let at_ridge = info.steps_at(job.ridge);
    Ok(Solved {
        coefficients: row_major(alpha.as_ref()),
        ridges: vec![job.ridge; t],
        residuals: vec![info.residual; t],
        effective_dimension: Some(info.effective_dimension.clone()),
        trace_error: None,
        variance: None,
        rounding: 0.0,
        iterations: Some(at_ridge),
        stopped: info.stopped,
        passes: operator.passes,
        products: None,
        notes: vec![
            estimated_on(curvature.weights.len()),
            format!(
                "logistic: {}{}, {}, mean loss {:.6}, relative gradient {:.1e}",
                plural(at_ridge as u64, "Newton step"),
                match info.steps.len() - at_ridge {
                    0 => String::new(),
                    path => format!(" after {path} at larger ridges"),
                },
                plural(info.applications as u64, "pass"),
                info.loss,
                info.gradient
            ),
        ],
    })
}
