//! The hashed order against a sorted pool, and walks with exact and inexact projections against the normal equations.

use super::order::{HashedOrder, Place};
use super::*;
use crate::dictionary::pool::{Columns, PoolRule, gather_pool};
use crate::engine::{Process, SilentProgress, run};
use crate::profile::profile;
use nystream_datasets::{Catalog, Encoder, EncoderOptions, Sources};
use nystream_kernels::kernel::Family;

/// Runs `work` on `workers` workers over 3,000 rows and gives the first worker's result; all must agree.
fn on<R, F>(workers: usize, work: F) -> R
where
    R: Clone + PartialEq + Send + std::fmt::Debug + 'static,
    F: Fn(&mut Session<'_>, &RowStore, &TargetCode) -> Result<R, StageError> + Send + Sync + 'static,
{
    let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
    let communication = timely::CommunicationConfig::Process(workers).try_build().unwrap();
    let results = run(&process, communication, move |session| {
        let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=3000&d=5&seed=4"])?)?;
        let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
        let plan = options.plan(&catalog.columns)?;
        let profile = profile(session, &catalog, &plan, &options, 0, 1 << 30)?;
        let encoder = Arc::new(Encoder::fit(&profile.columns, &options)?);
        let code = TargetCode::new(&encoder, &profile)?;
        let store = RowStore::new(&catalog, encoder, session.peers(), session.index(), Arc::clone(&session.process));
        work(session, &store, &code)
    });
    let results: Vec<R> = results.unwrap().into_iter().map(|result| result.unwrap()).collect();
    assert!(results.iter().all(|result| *result == results[0]), "workers disagree");
    results[0].clone()
}

#[test]
fn positions_are_those_of_the_sorted_rows_wherever_the_rows_are() {
    let key = StreamKey::new(7, "test order", 0);
    let folder = tempfile::tempdir().unwrap();
    // Rows said to be wide make many buckets; positions do not depend on how many.
    for (row_bytes, place) in [
        (100, Place::Memory(1 << 30)),
        (100_000, Place::Memory(1 << 30)),
        (100_000, Place::Disk(folder.path().to_path_buf(), 1 << 30)),
    ] {
        for workers in [1, 2, 3] {
            let place = place.clone();
            on(workers, move |session, store, _| {
                let all = gather_pool(session, "all", store.feed(Role::Training), PoolRule::all(key, 0), Columns::All)?;
                let feed = store.feed(Role::Training);
                let mut order = HashedOrder::new(session, feed, key, 3000, row_bytes, place.clone())?;
                assert_eq!(order.len(), 3000);
                for range in [0..3000, 0..1, 2999..3000, 1000..1500, 17..18, 5..5] {
                    let rows = order.rows(session, range.clone())?;
                    assert_eq!(rows.ids, all.ids[range.clone()]);
                    assert_eq!(rows.targets, all.targets[range.clone()]);
                    assert_eq!(rows.weights, all.weights[range.clone()]);
                    let d = all.rows.numeric_width;
                    assert_eq!(rows.rows.numeric, all.rows.numeric[range.start * d..range.end * d]);
                }
                Ok(())
            });
        }
    }
}

#[test]
fn a_full_cache_is_one_error_everywhere() {
    let process = Process::new(2, 1, 0, Box::new(SilentProgress));
    let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
    let results = run(&process, communication, |session| {
        let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=3000&d=5&seed=4"])?)?;
        let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
        let plan = options.plan(&catalog.columns)?;
        let profile = profile(session, &catalog, &plan, &options, 0, 1 << 30)?;
        let encoder = Arc::new(Encoder::fit(&profile.columns, &options)?);
        let store = RowStore::new(&catalog, encoder, session.peers(), session.index(), Arc::clone(&session.process));
        let key = StreamKey::new(7, "test order", 0);
        HashedOrder::new(session, store.feed(Role::Training), key, 3000, 100, Place::Memory(1000))
            .map(|order| order.len())
    });
    for result in results.unwrap() {
        assert!(matches!(result, Err(StageError::Budget(_))), "{result:?}");
    }
}

/// Coefficients of a solve with 400 centers, and its error over that of the normal equations' solution.
fn walk_of(
    exact: bool,
    epochs: usize,
) -> impl Fn(&mut Session<'_>, &RowStore, &TargetCode) -> Result<(Vec<f64>, f64), StageError> {
    move |session, store, code| {
        let key = StreamKey::new(7, "test sample", 0);
        let sample = gather_pool(session, "all", store.feed(Role::Training), PoolRule::all(key, 0), Columns::All)?;
        let centers = RowBuf::gather(sample.rows.view(), &(2000..2400).collect::<Vec<_>>());
        let kernel = Kernel::new(Family::Gaussian, 2.0);
        let simd = SimdPath::detect();
        let tiles = Arc::new(Tiles::<f64>::new(&kernel, centers.view(), &[], simd).map_err(numeric)?);
        let job = EigenProJob {
            tiles: &tiles,
            centers: &centers,
            kernel: &kernel,
            simd,
            code,
            ridge: 1e-3,
            weight_sum: 3000.0,
            target_weights: &[3000.0],
            rows: 3000,
            held_out: 0,
            sample: &sample,
            seed: 5,
            tolerance: None,
            epochs: Some(epochs),
            warm_start: None,
            time_limit: None,
            row_bytes: 100,
            place: Place::Memory(1 << 30),
            exact,
        };
        let solved = solve(session, store, &job)?;
        let k = matrix(&kernel, sample.rows.view(), centers.view(), simd)?;
        let kmm = matrix(&kernel, centers.view(), centers.view(), simd)?;
        let mut y = Mat::<f64>::zeros(3000, 1);
        for i in 0..3000 {
            let mut row = [0.0];
            code.encode(&sample.targets[i..=i], &mut row);
            y[(i, 0)] = row[0];
        }
        // (K_nm^T K_nm + n lambda K_mm) alpha = K_nm^T y, by elimination through faer.
        let normal = k.transpose() * &k + faer::Scale(3000.0 * 1e-3) * &kmm;
        let direct = faer::linalg::solvers::Solve::solve(&normal.partial_piv_lu(), &(k.transpose() * &y));
        let error = |alpha: &Mat<f64>| (&k * alpha - &y).squared_norm_l2().sqrt();
        let found = from_row_major(&solved.coefficients, 400, 1);
        Ok((solved.coefficients, error(&found) / error(&direct)))
    }
}

#[test]
fn exact_and_inexact_projections_approach_the_normal_equations() {
    // solvers.md section 8, EigenPro oracle 8: within 5 % of the direct error.
    let (exact, ratio) = on(1, walk_of(true, 20));
    assert!(ratio < 1.05, "{ratio}");
    for workers in [2, 3] {
        assert_eq!(on(workers, walk_of(true, 20)).0, exact, "{workers} workers");
    }
    let (inexact, rough) = on(1, walk_of(false, 20));
    assert!(rough < 1.05, "{rough}");
    assert_eq!(on(2, walk_of(false, 20)).0, inexact);
    assert_ne!(inexact, exact);
}
