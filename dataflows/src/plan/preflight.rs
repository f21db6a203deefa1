//! What can be refused from the footers alone, before the first pass.
//!
//! With the number of centers given, the memory of a solver is known up to the widths of the encoded rows, and its flops up
//! to the rows that lack a target: both are taken at their least here. What passes may still be refused by the plan, which knows both.

use super::cost::Shape;
use super::decoding::Decoding;
use super::dictionary::Crew;
use super::fit::PlanRequest;
use super::memory::MemoryPlan;
use crate::error::StageError;
use crate::job::{FitConfig, Loss, Solver};
use crate::profile::SAMPLE_ROWS;
use nystream_datasets::Catalog;

/// Share of the rows that may turn out to have no target before a refusal for flops would have been wrong.
const ROWS_LEFT: f64 = 0.5;
/// Encoded columns that `--cyclic` makes of a time: sines and cosines of three periods.
const CYCLIC_PARTS: f64 = 6.0;

/// The memory of the cheapest of `solvers` with the widths that the columns may have once they are encoded, choosing the centers included: what is
/// refused for less names what will do. `None` where the columns cannot be what the options say, which is another message's business.
fn enough(catalog: &Catalog, config: &FitConfig, least: &PlanRequest, solvers: &[Solver]) -> Option<MemoryPlan> {
    let columns = config.encoder.plan(&catalog.columns).ok()?.columns;
    let features = || columns.iter().filter(|column| column.feature);
    let codes = features().filter(|column| column.categorical).count() as f64;
    // A number and whether it is null, or the parts of a time.
    let each = if config.encoder.cyclic.is_empty() { 2.0 } else { 2.0 + CYCLIC_PARTS };
    let numeric = each * (features().count() as f64 - codes);
    let rows = catalog.total_rows;
    let request = PlanRequest {
        shape: Shape { rows: rows as f64, numeric, codes, ..least.shape },
        sample_rows: (2 * SAMPLE_ROWS).min(rows),
        held_out: rows,
        ..least.clone()
    };
    let m = request.centers?;
    let plan = |solver: &Solver| {
        let flops = request.cost(*solver, m).flops;
        let (selection, _) = request.selection(m, flops, &mut Vec::new()).ok()?;
        let crew = Crew { workers: request.workers, processes: request.processes };
        let (_, choosing) = request.dictionary(&selection, m, &request.resident(request.workers), crew);
        Some(request.memory(*solver, m, request.workers).larger(choosing))
    };
    let plans = solvers.iter().filter_map(plan).filter(|plan| plan.total() > config.memory);
    plans.min_by_key(MemoryPlan::total)
}

/// Refuses a fit that cannot fit `--memory` (bytes of a process with `workers` threads) or `--max-flops` whatever its rows hold. Where the number of centers
/// is left open nothing is refused.
///
/// ```
/// use nystream_dataflows::{StageError, plan::preflight};
/// # use nystream_dataflows::job::{Bandwidth, DictionaryRule, FitConfig, Loss, MetricRequest, Select, Solver};
/// # use nystream_datasets::{Catalog, EncoderOptions, Sources, Split};
/// # use nystream_kernels::{gram::Precision, kernel::Family, tile::SimdPath};
/// # let split = Split::None;
/// # let config = FitConfig {
/// #     encoder: EncoderOptions { targets: vec!["y".into()], split, ..Default::default() },
/// #     task: None,
/// #     loss: Loss::Squared,
/// #     family: Some(Family::Gaussian),
/// #     bandwidth: Bandwidth::TimesMedian(1.0),
/// #     metric: MetricRequest::default(),
/// #     ridges: Some(vec![1e-6]),
/// #     centers: Some(200),
/// #     select: Select::Auto,
/// #     dictionary_rows: None,
/// #     dictionary_rule: DictionaryRule::default(),
/// #     solver: Solver::Auto,
/// #     precision: Precision::Single,
/// #     seed: 0,
/// #     simd: SimdPath::detect(),
/// #     memory: 1 << 30,
/// #     disk_limit: 1 << 30,
/// #     temp_dir: std::env::temp_dir(),
/// #     max_flops: 1e12,
/// #     tolerance: None,
/// #     products: Default::default(),
/// #     iterations: None,
/// #     preconditioning: Default::default(),
/// #     time_limit: None,
/// #     max_bad_rows: 0,
/// #     dictionary_only: false,
/// #     variance: false,
/// #     warm_start: None,
/// #     sharding: Default::default(),
/// # };
/// // `config` is that of the example of `fit`. A footer is all that is read: nobody makes these rows.
/// let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=1e9&d=5"])?)?;
/// let small = FitConfig { memory: 1 << 30, max_flops: 1e15, ..config };
/// assert_eq!(preflight(&catalog, &small, 2, 1), Ok(()));
/// // 50,000 x 50,000 numbers are 20 GB.
/// let large = FitConfig { centers: Some(50_000), solver: Solver::Gram, max_flops: 1e20, ..small };
/// let Err(StageError::Budget(why)) = preflight(&catalog, &large, 2, 1) else { panic!("it does not fit") };
/// assert!(why.contains("--memory allows 1.0 GiB"), "{why}");
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Budget`] with the arithmetic of the cheapest solver that may be used.
pub fn preflight(catalog: &Catalog, config: &FitConfig, workers: usize, processes: usize) -> Result<(), StageError> {
    let Some(centers) = config.centers else { return Ok(()) };
    let rows = catalog.total_rows;
    let m = (centers as u64).min(rows).max(1) as usize;
    let solvers: &[Solver] = match config.solver {
        // Every row is a center there, and how many have a target is not known yet.
        Solver::BlockCd => return Ok(()),
        Solver::Auto if config.loss == Loss::Logistic => &[Solver::Pcg],
        Solver::Auto => &[Solver::Gram, Solver::Pcg, Solver::EigenPro],
        Solver::Gram => &[Solver::Gram],
        Solver::Pcg => &[Solver::Pcg],
        Solver::EigenPro => &[Solver::EigenPro],
    };
    let request = PlanRequest {
        text: Decoding::default(),
        before: MemoryPlan::default(),
        chosen: None,
        label_bytes: 0,
        shape: Shape {
            rows: rows as f64 * ROWS_LEFT,
            numeric: 0.0,
            codes: 0.0,
            targets: config.encoder.targets.len().max(1) as f64,
        },
        centers: Some(m),
        solver: config.solver,
        from_model: false,
        select: config.select.clone(),
        dictionary_rows: config.dictionary_rows,
        precision: config.precision,
        // Not known yet: the cheaper of the solvers is what `auto` takes at least.
        effective_dimension: f64::INFINITY,
        max_flops: config.max_flops,
        memory: config.memory,
        workers,
        processes,
        // Little beside what is told apart here, and counted by the plan.
        checkpoints: false,
        sharding: config.sharding,
        iterations: config.iterations,
        preconditioning: config.preconditioning,
        residual_tests: config.tolerance.is_some(),
        product_share: None,
        one_gram: true,
        nulls_differ: false,
        no_gram_reason: String::new(),
        logistic: config.loss == Loss::Logistic,
        variance: config.variance,
        sample_rows: 0,
        bytes_per_pass: 0,
        kept_bytes: 0,
        theorem: false,
        classes: 0,
        held_out: 0,
        evaluated: false,
        tuning: 0.0,
        tuning_reserve: 0.0,
        judges_reserve: 0,
        dictionary_only: config.dictionary_only,
        passes_made: 0,
        judges: 0,
        // The least passes of logistic loss.
        ridge: 1e-2,
        ridge_given: config.ridges.is_some(),
    };
    let plans = solvers.iter().map(|solver| request.memory(*solver, m, workers));
    if let Some(least) = plans.min_by_key(|plan| plan.total()).filter(|least| least.total() > config.memory) {
        enough(catalog, config, &request, solvers).unwrap_or(least).check(config.memory)?;
    }
    let least = solvers.iter().map(|solver| request.at_most(*solver, &request.flops(*solver, m, 0.0), m));
    let total = |flops: &Vec<(String, f64)>| flops.iter().map(|(_, f)| f).sum::<f64>();
    match least.min_by(|a, b| total(a).total_cmp(&total(b))) {
        Some(flops) => request.check_flops(&flops, m),
        None => Ok(()),
    }
}
