//! Streamed Newton against a dense one over stored rows, for any number of workers; early ends and warm starts.

use super::*;
use crate::dictionary::pool::{Columns, PoolRule, gather_pool};
use crate::engine::{Process, SilentProgress, run};
use crate::profile::profile;
use nystream_datasets::{Catalog, Encoder, EncoderOptions, Sources, Task};
use nystream_hashing::StreamKey;
use nystream_kernels::kernel::Family;
use nystream_kernels::rows::RowBuf;
use nystream_kernels::solve::Stopped;
use nystream_kernels::tile::kernel_matrix;

const BINARY: (&str, &str) = ("synth:twoclass?rows=3000&d=4&seed=6", "y");
/// The level of c0 shifts y: four classes that x and y tell apart in part.
const FOUR: (&str, &str) = ("synth:sines?rows=3000&d=3&seed=6&categories=1&levels=4", "c0");
const CENTERS: usize = 60;
const RIDGE: f64 = 1e-4;

/// How a solve begins and ends.
#[derive(Clone, Default)]
struct Ends {
    warm_start: Option<Vec<f64>>,
    time_limit: Option<f64>,
}

/// What a solve on `workers` workers found, the same on each of them.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    coefficients: Vec<f64>,
    margins: Vec<f64>,
    dense: Vec<f64>,
    stopped: Stopped,
    iterations: Option<usize>,
}

fn solved((source, target): (&'static str, &'static str), workers: usize, ends: Ends) -> Found {
    let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
    let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
    let results = run(&process, communication, move |session| {
        let catalog = Catalog::open(&Sources::parse(&[source])?)?;
        let options = EncoderOptions { targets: vec![target.into()], task: Task::Classification, ..Default::default() };
        let plan = options.plan(&catalog.columns)?;
        let profile = profile(session, &catalog, &plan, &options, 0, 1 << 30)?;
        let encoder = Arc::new(Encoder::fit(&profile.columns, &options)?);
        let code = TargetCode::new(&encoder, &profile)?;
        let store = RowStore::new(&catalog, encoder, session.peers(), session.index(), Arc::clone(&session.process));
        let all = gather_pool(
            session,
            "all",
            store.feed(Role::Training),
            PoolRule::all(StreamKey::new(7, "test", 0), 0),
            Columns::All,
        )?;
        let centers = RowBuf::gather(all.rows.view(), &(0..CENTERS).collect::<Vec<_>>());
        let (kernel, simd) = (Kernel::new(Family::Gaussian, 2.0), SimdPath::detect());
        let tiles = Arc::new(Tiles::<f64>::new(&kernel, centers.view(), &[], simd).map_err(numeric)?);
        let job = LogisticJob {
            tiles: &tiles,
            centers: centers.view(),
            kernel: &kernel,
            simd,
            code: &code,
            ridge: RIDGE,
            weight_scale: 1.0,
            rows: profile.rows,
            weight_sum: profile.weight_sum,
            sample: &all,
            tolerance: 1e-9,
            iterations: Some(50),
            warm_start: ends.warm_start.clone(),
            time_limit: ends.time_limit,
        };
        let solved = solve(session, &store, &job)?;
        let stored = Stored::new(&kernel, simd, &all, &centers, &code)?;
        let alpha = from_row_major(&solved.coefficients, CENTERS, code.width());
        Ok::<_, StageError>(Found {
            margins: row_major((&stored.k * &alpha).as_ref()),
            dense: row_major((&stored.k * stored.newton()).as_ref()),
            coefficients: solved.coefficients,
            stopped: solved.stopped,
            iterations: solved.iterations,
        })
    });
    let results: Vec<Found> = results.unwrap().into_iter().map(|result| result.unwrap()).collect();
    assert!(results.iter().all(|result| *result == results[0]), "workers disagree");
    results[0].clone()
}

fn numeric(error: impl std::fmt::Display) -> StageError {
    StageError::Numeric(error.to_string())
}

/// All rows in memory: the slow reference.
struct Stored {
    k: Mat<f64>,
    kmm: Mat<f64>,
    labels: Vec<usize>,
    loss: LogisticLoss,
    offset: Vec<f64>,
}

impl Stored {
    fn new(
        kernel: &Kernel,
        simd: SimdPath,
        all: &Pool,
        centers: &RowBuf,
        code: &TargetCode,
    ) -> Result<Self, StageError> {
        let matrix = |x: Rows<'_>| {
            let k = kernel_matrix::<f64>(kernel, x, centers.view(), &[], simd).map_err(numeric)?;
            Ok::<_, StageError>(from_row_major(&k, x.len(), CENTERS))
        };
        let labels = all.targets.iter().map(|class| *class as usize).collect();
        let (loss, offset) = margins_of(code);
        Ok(Stored { k: matrix(all.rows.view())?, kmm: matrix(centers.view())?, labels, loss, offset })
    }

    /// Newton's method on (1/n) sum l + (lambda/2) alpha^T K_mm alpha with the whole Hessian, by elimination.
    fn newton(&self) -> Mat<f64> {
        let (n, m, t) = (self.k.nrows(), CENTERS, self.offset.len());
        let ridge = RIDGE * n as f64;
        let mut alpha = Mat::<f64>::zeros(m, t);
        for _ in 0..25 {
            let f = &self.k * &alpha;
            let smooth = faer::Scale(ridge) * &self.kmm * &alpha;
            let mut slope = Mat::<f64>::zeros(n, t);
            let mut curvature = vec![vec![0.0; n]; t * t];
            for i in 0..n {
                let margins: Vec<f64> = (0..t).map(|k| f[(i, k)] + self.offset[k]).collect();
                let mut out = vec![0.0; t];
                self.loss.gradient(&margins, self.labels[i], &mut out);
                (0..t).for_each(|k| slope[(i, k)] = out[k]);
                for j in 0..t {
                    let unit: Vec<f64> = (0..t).map(|k| f64::from(u8::from(j == k))).collect();
                    self.loss.hessian_times(&margins, &unit, &mut out);
                    (0..t).for_each(|k| curvature[k * t + j][i] = out[k]);
                }
            }
            let gradient = self.k.transpose() * &slope + smooth;
            let mut hessian = Mat::<f64>::zeros(m * t, m * t);
            for a in 0..t {
                for b in 0..t {
                    let scaled = Mat::from_fn(n, m, |i, j| curvature[a * t + b][i] * self.k[(i, j)]);
                    let mut block = self.k.transpose() * scaled;
                    if a == b {
                        block += faer::Scale(ridge) * &self.kmm;
                    }
                    (0..m * m).for_each(|p| hessian[(a * m + p / m, b * m + p % m)] = block[(p / m, p % m)]);
                }
            }
            let stacked = Mat::from_fn(m * t, 1, |i, _| gradient[(i % m, i / m)]);
            let step = faer::linalg::solvers::Solve::solve(&hessian.partial_piv_lu(), &stacked);
            alpha -= Mat::from_fn(m, t, |i, k| step[(k * m + i, 0)]);
        }
        alpha
    }
}

fn largest_gap(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn margins_are_those_of_the_dense_newton_with_any_number_of_workers() {
    for problem in [BINARY, FOUR] {
        let alone = solved(problem, 1, Ends::default());
        assert_eq!(alone.stopped, Stopped::Converged);
        let spread = alone.dense.iter().copied().fold(0.0, |a: f64, b| a.max(b.abs()));
        assert!(spread > 1.0, "the classes cannot be told apart: {spread}");
        let gap = largest_gap(&alone.margins, &alone.dense);
        assert!(gap < 1e-6, "{problem:?}: {gap:e}");
        for workers in [2, 3] {
            let found = solved(problem, workers, Ends::default());
            assert_eq!(found.coefficients, alone.coefficients, "{workers} workers");
        }
    }
}

#[test]
fn a_limit_that_has_passed_leaves_the_start() {
    let limit = Some(1e-9);
    for workers in [1, 2] {
        let cold = solved(BINARY, workers, Ends { time_limit: limit, ..Default::default() });
        assert_eq!((cold.stopped, cold.iterations), (Stopped::Asked, Some(0)));
        assert!(cold.coefficients.iter().all(|c| *c == 0.0));
    }
    let whole = solved(BINARY, 1, Ends::default());
    let half: Vec<f64> = whole.coefficients.iter().map(|c| c / 2.0).collect();
    let warm = solved(BINARY, 2, Ends { warm_start: Some(half), time_limit: limit });
    assert_eq!((warm.stopped, warm.iterations), (Stopped::Asked, Some(0)));
    let halved: Vec<f64> = whole.margins.iter().map(|m| m / 2.0).collect();
    assert!(largest_gap(&warm.margins, &halved) < 1e-6);
}

#[test]
fn a_warm_start_at_the_solution_is_done() {
    for problem in [BINARY, FOUR] {
        let whole = solved(problem, 1, Ends::default());
        let again = solved(problem, 2, Ends { warm_start: Some(whole.coefficients.clone()), ..Default::default() });
        assert_eq!(again.stopped, Stopped::Converged);
        assert!(again.iterations < Some(2) && whole.iterations > Some(3), "{again:?} after {whole:?}");
        assert!(largest_gap(&again.margins, &whole.margins) < 1e-6);
    }
}
