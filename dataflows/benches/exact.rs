//! The exact mode: rows a second that come and go, in batches and one at a time, and what a publication takes beside a fit from scratch.
//!
//! `cargo bench --workspace --bench exact -- [ROWS [CENTERS [COLUMNS [WORKERS]]]]`; 200,000 rows, 512 centers, 10 columns and one worker where nothing is said. Rows are encoded before the clock runs, as the runtime
//! that feeds the engine does it. The last model is compared with that of the fit, bit for bit.

#![allow(clippy::print_stdout)]

use nystream_dataflows::StageError;
use nystream_dataflows::engine::feed::RowStore;
use nystream_dataflows::engine::{Process, SilentProgress, run};
use nystream_dataflows::job::{Bandwidth, FitConfig, FitInputs, FitOutcome, Frozen, Select, Solver, fit};
use nystream_dataflows::online::exact::{ExactEngine, ExactSetup, Threads};
use nystream_dataflows::online::learner::{Batch, Learner};
use nystream_datasets::{Catalog, Chunk, EncoderOptions, Role, Sources, Split};
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::kernel::Family;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Rows of a batch.
const BATCH: usize = 1000;

fn main() -> Result<(), StageError> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let given = |at: usize, default: usize| numbers.get(at).copied().unwrap_or(default);
    let (rows, m, d, workers) = (given(0, 200_000), given(1, 512), given(2, 10), given(3, 1));
    let catalog = Catalog::open(&Sources::parse(&[&format!("synth:friedman1?rows={rows}&d={d}")])?)?;
    let first = fitted(&catalog, config(m), None, workers)?.0;
    let (config, frozen) = frozen(config(m), &first);
    let (fit, (fit_seconds, fit_cpu)) = fitted(&catalog, config.clone(), Some(frozen.clone()), workers)?;
    println!(
        "fit --config-from of {rows} rows, {m} centers, {d} columns, {workers} workers: {fit_seconds:.2} s, {fit_cpu:.2} s of processor time, by stage {:.2?}",
        fit.processor
    );
    let chunks = chunks(&catalog, &fit)?;
    let pool = match &config.select {
        Select::Settled(rule) => Some(rule.pool_bits),
        _ => None,
    };
    let setup =
        ExactSetup { config, frozen, threads: Threads::Own(workers), folder: None, progress: Box::new(SilentProgress) };
    let mut engine = ExactEngine::new(setup)?;
    let nothing = Chunk::new();
    // Most rows before there are centers, so that the first publication makes the Gram.
    let (last, before) = chunks.split_at(chunks.len() / 10);
    for chunk in before {
        learn(&mut engine, &nothing, chunk)?;
    }
    publish(&mut engine, "the first publication")?;
    let start = Clock::start();
    last.iter().try_for_each(|chunk| learn(&mut engine, &nothing, chunk))?;
    engine.complete()?;
    let inserted: usize = last.iter().map(Chunk::rows).sum();
    rate("inserts, batches of 1,000", inserted, start);
    let start = Clock::start();
    last.iter().try_for_each(|chunk| learn(&mut engine, chunk, &nothing))?;
    engine.complete()?;
    rate("deletes, batches of 1,000", inserted, start);
    last.iter().try_for_each(|chunk| learn(&mut engine, &nothing, chunk))?;
    publish(&mut engine, "with the rows of the fit")?;
    let same = engine.outcome().is_some_and(|outcome| equal(outcome, &fit));
    println!("the model is that of the fit, bit for bit: {same}");
    let singles: Vec<Chunk> =
        last.iter().flat_map(|chunk| (0..chunk.rows()).map(|i| single(chunk, i))).take(5000).collect();
    let start = Clock::start();
    singles.iter().try_for_each(|row| learn(&mut engine, row, &nothing))?;
    engine.complete()?;
    rate("deletes one at a time", singles.len(), start);
    let start = Clock::start();
    singles.iter().try_for_each(|row| learn(&mut engine, &nothing, row))?;
    engine.complete()?;
    rate("inserts one at a time", singles.len(), start);
    publish(&mut engine, "all rows back, the pool has changed in between")?;
    publish(&mut engine, "nothing has changed")?;
    // A thousandth of the rows is corrected: first such that are no centers, then the same with some centers among them, then without a row that centers are chosen from.
    let centers = ids_of_centers(&engine);
    let (removed, added) = corrections(&chunks, rows / 1000, 7, |id| !centers.contains(&id));
    learn(&mut engine, &removed, &added)?;
    publish(&mut engine, "0.1 % of the rows were corrected, no center among them")?;
    for lost in [1, 5] {
        let centers = ids_of_centers(&engine);
        let mut left = lost;
        let (removed, added) = corrections(&chunks, rows / 1000, 11 * lost, |id| {
            let center = centers.contains(&id);
            left -= usize::from(center && left > 0);
            !center || left > 0
        });
        learn(&mut engine, &removed, &added)?;
        let (removed, added) = corrections(&chunks, lost, 1, |id| centers.contains(&id));
        learn(&mut engine, &removed, &added)?;
        publish(&mut engine, &format!("0.1 % of the rows were corrected, {lost} centers among them"))?;
    }
    let pool = pool.map(|rule| (StreamKey::new(0, "pool", 0), rule));
    let outside = |id: RowId| pool.is_none_or(|(key, bits)| key.u128(id).leading_zeros() < bits);
    let (removed, added) = corrections(&chunks, rows / 1000, 13, outside);
    learn(&mut engine, &removed, &added)?;
    publish(&mut engine, "0.1 % of the rows were corrected, none of the pool among them")?;
    let start = Clock::start();
    println!("made from scratch it is the same: {} ({:.2} s)", engine.verify()?, start.seconds().0);
    println!("a fit takes {fit_seconds:.2} s, {fit_cpu:.2} s of processor time");
    Ok(())
}

fn learn(engine: &mut ExactEngine, removed: &Chunk, added: &Chunk) -> Result<(), StageError> {
    engine.learn(&Batch { changes: &[], removed, added }).map(|_| ())
}

fn ids_of_centers(engine: &ExactEngine) -> BTreeSet<RowId> {
    engine.outcome().iter().flat_map(|outcome| outcome.centers.ids.iter().copied()).collect()
}

/// Corrections of `count` rows that are `wanted`, spread over all rows: each gets the numbers of another.
fn corrections(chunks: &[Chunk], count: usize, shift: usize, mut wanted: impl FnMut(RowId) -> bool) -> (Chunk, Chunk) {
    let (mut removed, mut added) = (Chunk::new(), Chunk::new());
    // Every row is looked at, in steps that share no factor with any number of rows of a million.
    let all: Vec<(usize, usize)> =
        chunks.iter().enumerate().flat_map(|(c, chunk)| (0..chunk.rows()).map(move |i| (c, i))).collect();
    for step in 0..all.len() {
        if removed.rows() == count {
            break;
        }
        let (c, i) = all[(step * 7919 + shift) % all.len()];
        let id = chunks[c].ids[i];
        if wanted(id) {
            let (other, j) = all[(step * 7919 + shift + all.len() / 2) % all.len()];
            removed.push(&chunks[c], i);
            added.push(&chunks[other], j);
            let at = added.rows() - 1;
            (added.ids[at], added.ordinals[at]) = (id, at as u64);
            removed.ordinals[at] = at as u64;
        }
    }
    (removed, added)
}

fn rate(what: &str, rows: usize, start: Clock) {
    let (wall, cpu) = start.seconds();
    println!("{what}: {:.0} rows/s, {:.0} a second of processor time", rows as f64 / wall, rows as f64 / cpu);
}

/// Wall time, and the processor time of all threads, which a busy machine does not stretch (Linux; in hundredths of a second).
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Self {
        Clock(Instant::now(), processor())
    }

    fn seconds(&self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), processor() - self.1)
    }
}

/// Seconds of processor time of this process so far; NaN where the system does not say.
fn processor() -> f64 {
    nystream_dataflows::job::processor_seconds().unwrap_or(f64::NAN)
}

fn publish(engine: &mut ExactEngine, what: &str) -> Result<(), StageError> {
    let start = Clock::start();
    let published = engine.publish()?;
    let (wall, cpu) = start.seconds();
    let stages = engine.outcome().map(|outcome| outcome.processor.clone()).unwrap_or_default();
    let beside = cpu - stages.get("solve").copied().unwrap_or(0.0);
    println!(
        "{what}: {wall:.3} s, {cpu:.2} s of processor time, {beside:.2} beside the solve, by stage {stages:.2?}; {}",
        published.notes[0]
    );
    Ok(())
}

fn equal(a: &FitOutcome, b: &FitOutcome) -> bool {
    let (Some(f), Some(g)) = (&a.function, &b.function) else { return false };
    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    bits(&f.coefficients) == bits(&g.coefficients)
        && f.centers == g.centers
        && (a.rows, a.weight_sum) == (b.rows, b.weight_sum)
}

fn single(chunk: &Chunk, i: usize) -> Chunk {
    let mut one = Chunk::new();
    one.push(chunk, i);
    one
}

/// The encoded rows, in batches.
fn chunks(catalog: &Catalog, fit: &FitOutcome) -> Result<Vec<Chunk>, StageError> {
    let process = Process::new(1, 1, 0, Box::new(SilentProgress));
    let store = RowStore::new(catalog, Arc::clone(&fit.encoder), 1, 0, process);
    let (mut feed, mut chunk, mut all) = (store.feed(Role::Training), Chunk::new(), Vec::new());
    while feed.next(&mut chunk)? {
        for start in (0..chunk.rows()).step_by(BATCH) {
            let mut part = Chunk::new();
            (start..(start + BATCH).min(chunk.rows())).for_each(|i| part.push(&chunk, i));
            all.push(part);
        }
    }
    Ok(all)
}

fn fitted(
    catalog: &Catalog,
    config: FitConfig,
    frozen: Option<Frozen>,
    workers: usize,
) -> Result<(FitOutcome, (f64, f64)), StageError> {
    let inputs = FitInputs { catalog: catalog.clone(), validation: None, config, frozen, plan_only: false };
    let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
    let failed = |e: String| StageError::Internal(e);
    let communication = timely::CommunicationConfig::Process(workers).try_build().map_err(failed)?;
    let kept = Arc::new(Mutex::new(None));
    let (keep, start) = (Arc::clone(&kept), Clock::start());
    let job = move |session: &mut nystream_dataflows::engine::Session<'_>| -> Result<(), StageError> {
        let outcome = fit(session, &inputs)?;
        if session.is_first() {
            *keep.lock().map_err(|e| StageError::Internal(e.to_string()))? = Some(outcome);
        }
        Ok(())
    };
    run(&process, communication, job).map_err(failed)?.into_iter().collect::<Result<(), _>>()?;
    let seconds = start.seconds();
    let found = kept.lock().map_err(|e| StageError::Internal(e.to_string()))?.take();
    Ok((found.ok_or_else(|| StageError::Internal("no worker ran".into()))?, seconds))
}

fn config(m: usize) -> FitConfig {
    let encoder = EncoderOptions { targets: vec!["y".into()], split: Split::None, ..Default::default() };
    FitConfig {
        family: Some(Family::Gaussian),
        bandwidth: Bandwidth::TimesMedian(1.0),
        ridges: Some(vec![1e-6]),
        centers: Some(m),
        select: Select::RpCholesky,
        solver: Solver::Gram,
        disk_limit: 8 << 30,
        ..FitConfig::of_columns(encoder)
    }
}

/// What `--config-from` takes over.
fn frozen(config: FitConfig, fit: &FitOutcome) -> (FitConfig, Frozen) {
    let config = FitConfig {
        family: Some(fit.kernel.family),
        bandwidth: Bandwidth::Absolute(fit.kernel.bandwidth),
        centers: Some(fit.plan.centers),
        select: Select::Settled(fit.centers.rule),
        ..config
    };
    let code = fit.function.as_ref().map(|f| f.code.clone());
    let frozen = Frozen {
        encoder: (*fit.encoder).clone(),
        code: code.unwrap_or_else(|| unreachable!("it was fitted")),
        deviations: fit.profile.targets.iter().map(|t| t.sd).collect(),
        kernel: fit.kernel.clone(),
        kernel_log2: Some(fit.kernel_log2),
    };
    (config, frozen)
}
