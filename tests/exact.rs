//! The exact mode against its law: after any history the published model is, bit for bit, what `fit --config-from` makes of the rows that are left.

mod common;

use arrow_array::{ArrayRef, Float64Array, RecordBatch};
use clap::Parser;
use common::*;
use nystream::cli::{Cli, Command as Line};
use nystream::fitted::model_of;
use nystream::jobs::{fit_config, split};
use nystream::model::Model;
use nystream::repeat::{resources_of, take_over};
use nystream_dataflows::engine::SilentProgress;
use nystream_dataflows::job::FitConfig;
use nystream_dataflows::online::exact::{ExactEngine, ExactSetup, Threads};
use nystream_dataflows::online::learner::{Batch, Learner};
use nystream_dataflows::{StageError, online::exact::Work};
use nystream_datasets::{Chunk, Encoder, RawBatch, Role, SlotLayout};
use nystream_hashing::{FileId, RowId, StreamKey};
use nystream_kernels::rows::Rows;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows with these (key, version): numbers `a`, `b` with nulls, levels `c`, targets `y`, `z`, classes `k`, a weight `w`. A row of version 0 mod 5 has the features of key 7.
fn rows(list: &[(usize, usize)]) -> RecordBatch {
    let place = |(key, version): (usize, usize)| key * 1000 + version;
    let features = |row: (usize, usize)| if row.1 % 5 == 4 { place((7, 1)) } else { place(row) };
    let number = |stream: &'static str| list.iter().map(move |row| uniform(stream, features(*row)));
    let b = list.iter().map(|row| {
        let value = uniform("b", features(*row));
        (value > 0.1).then_some(3.0 * value)
    });
    let y = |row: (usize, usize)| {
        let at = features(row);
        (6.0 * uniform("a", at)).sin() + uniform("b", at) + 0.1 * uniform("noise", place(row))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a", numbers(number("a"))),
        ("b", Arc::new(Float64Array::from_iter(b))),
        ("c", texts(list.iter().map(|row| format!("level {}", (uniform("c", features(*row)) * 6.0) as u32)))),
        ("y", numbers(list.iter().map(|row| y(*row)))),
        ("z", numbers(list.iter().map(|row| 40.0 * uniform("z", place(*row)) + y(*row)))),
        ("k", texts(list.iter().map(|row| format!("class {}", (y(*row) + 1.0) as u32)))),
        ("w", numbers(list.iter().map(|row| 0.1 + 3.0 * uniform("w", place(*row))))),
        ("key", texts(list.iter().map(|row| format!("key {}", row.0)))),
    ];
    batch(columns)
}

/// A model of `base` rows by `options`, and what an engine and a fit take over of it.
struct Configured {
    place: Place,
    config: FitConfig,
    split: String,
    setup: Box<dyn Fn(usize) -> ExactSetup>,
}

const AGAIN: &str = "fit --config-from m.nys --id-column key --out again.nys --data";

fn configured(options: &str, base: usize) -> Configured {
    let place = Place::new();
    write(&place.path("d.parquet"), &rows(&(0..base).map(|i| (100_000 + i, 1)).collect::<Vec<_>>()));
    place.solved(&format!("fit --data d.parquet --out m.nys --solver gram {options} --id-column key"));
    let model = Model::load(&place.path("m.nys")).unwrap();
    let line = "nystream fit --data d.parquet --config-from m.nys --id-column key";
    let Line::Fit(args) = Cli::parse_from(line.split_whitespace()).command else { panic!("no fit") };
    let resources = resources_of(&model, &args).unwrap();
    let none = split(&args.holdout).1;
    let mut config =
        fit_config(&args.input, none, &args.kernel, &args.dictionary, Some(&args.solve), &args.sample, &resources)
            .unwrap();
    let frozen = take_over(&model, &args, &mut config).unwrap();
    config.temp_dir = place.path("");
    let (split, made) = (model.config.split.clone(), config.clone());
    let setup = move |workers| ExactSetup {
        config: made.clone(),
        frozen: frozen.clone(),
        threads: Threads::Own(workers),
        folder: None,
        progress: Box::new(SilentProgress),
    };
    Configured { place, config, split, setup: Box::new(setup) }
}

/// Encodes rows as the runtime does: ordinals are the places of their changes.
fn encoded(encoder: &Encoder, list: &[(usize, (usize, usize))]) -> Chunk {
    let mut chunk = Chunk::new();
    if list.is_empty() {
        return chunk;
    }
    let batch = rows(&list.iter().map(|(_, row)| *row).collect::<Vec<_>>());
    let raw = RawBatch { file: 0, file_id: FileId::from_relative_path("stream"), first_ordinal: 0, batch };
    encoder.encode(&raw, Role::Training, &mut chunk).unwrap();
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    chunk.ordinals.iter_mut().for_each(|at| *at = list[*at as usize].0 as u64);
    chunk
}

/// An engine, the rows that it should have, and what comes next by chance.
struct History<'a> {
    world: &'a Configured,
    engine: ExactEngine,
    held: BTreeMap<usize, usize>,
    versions: BTreeMap<usize, usize>,
    key: StreamKey,
    step: u128,
}

impl<'a> History<'a> {
    fn new(world: &'a Configured, workers: usize, seed: u64) -> Self {
        let engine = ExactEngine::new((world.setup)(workers)).unwrap();
        let key = StreamKey::new(seed, "history", 0);
        History { world, engine, held: BTreeMap::new(), versions: BTreeMap::new(), key, step: 0 }
    }

    fn below(&mut self, most: usize) -> usize {
        self.step += 1;
        (self.key.uniform(RowId(self.step)) * most as f64) as usize
    }

    /// Brings, corrects or takes away each of these keys in turn, in one batch.
    fn apply(&mut self, changes: &[(usize, bool)]) {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for (at, (key, brings)) in changes.iter().enumerate() {
            if let Some(version) = self.held.remove(key) {
                removed.push((at, (*key, version)));
            }
            if *brings {
                let version = self.versions.entry(*key).or_default();
                *version += 1;
                added.push((at, (*key, *version)));
                self.held.insert(*key, *version);
            }
        }
        let encoder = Arc::clone(self.engine.encoder());
        let (removed, added) = (encoded(&encoder, &removed), encoded(&encoder, &added));
        self.engine.learn(&Batch { changes: &[], removed: &removed, added: &added }).unwrap();
    }

    /// Some random changes among `keys` keys, of which about `share` in 10 bring a row.
    fn change(&mut self, count: usize, keys: usize, share: usize) {
        let changes: Vec<_> = (0..count).map(|_| (self.below(keys), self.below(10) < share)).collect();
        self.apply(&changes);
    }

    /// Publishes, and compares with the fit of the rows that are left, in another order and in several files.
    fn publish(&mut self) -> Work {
        let published = self.engine.publish().unwrap();
        let outcome = self.engine.outcome().unwrap();
        let model = model_of(outcome, &self.world.config, &self.world.split).unwrap();
        assert_eq!((published.rows, published.sum_weights), (outcome.rows, outcome.weight_sum));
        let mut left: Vec<(u64, (usize, usize))> = self
            .held
            .iter()
            .map(|(key, version)| (self.key.u64(RowId(*key as u128 | 1 << 80)), (*key, *version)))
            .collect();
        left.sort_unstable();
        let left: Vec<(usize, usize)> = left.into_iter().map(|(_, row)| row).collect();
        let files = 1 + self.below(3).min(left.len() - 1);
        let place = &self.world.place;
        let paths: Vec<String> = (0..files)
            .map(|file| {
                let path = format!("left.{file}.parquet");
                let (from, to) = (left.len() * file / files, left.len() * (file + 1) / files);
                write_grouped(&place.path(&path), &rows(&left[from..to]), 700);
                path
            })
            .collect();
        let workers = 1 + self.below(2);
        let report = place.solved(&format!("{AGAIN} {} --workers {workers}", paths.join(" --data ")));
        let fitted = Model::load(&place.path("again.nys")).unwrap();
        assert!(model.centers == fitted.centers, "the centers differ: {report}");
        assert!(model.coefficients == fitted.coefficients, "the coefficients differ: {report}");
        assert_eq!(model.variance.is_some(), fitted.variance.is_some());
        assert!(model.variance == fitted.variance && model.intercepts == fitted.intercepts);
        assert_eq!(model.config, fitted.config);
        assert_eq!(model.digest().unwrap(), digest(&report));
        self.engine.work()
    }

    /// A random history with publications in between; how often centers were new.
    fn run(&mut self, publications: usize, keys: usize, batch: usize) -> usize {
        let mut changed = 0;
        for round in 0..publications {
            for _ in 0..1 + self.below(3) {
                let count = 1 + self.below(batch);
                // Now more, now fewer rows; single changes between them.
                self.change(count, keys, if round % 3 == 2 { 3 } else { 8 });
                self.change(1, keys, 5);
            }
            changed += usize::from(self.publish().new_centers > 0);
        }
        changed
    }
}

const NUMBERS: &str = "--target y --drop z --drop k --drop w";
const SMALL: &str = "--kernel gaussian --bandwidth 1x --ridge 1e-5";

#[test]
fn pools_are_chosen_from_again_where_they_have_changed() {
    let world = configured(&format!("{NUMBERS} {SMALL} --select rpcholesky --centers 50"), 1500);
    let mut changed = 0;
    for workers in 1..=3 {
        changed += History::new(&world, workers, workers as u64).run(5, 1200, 500);
    }
    assert!(changed >= 8, "centers changed in {changed} of 15 publications");
}

#[test]
fn centers_stay_where_their_pool_does() {
    // A quarter of the rows are in the pool.
    let options = format!("{NUMBERS} {SMALL} --select rpcholesky --centers 30 --dictionary-rows 300");
    let world = configured(&options, 3000);
    let mut history = History::new(&world, 2, 1);
    history.apply(&(0..2500).map(|key| (key, true)).collect::<Vec<_>>());
    assert!(history.publish().new_centers == 30);
    let (mut stayed, mut chosen) = (0, 0);
    for round in 0..8 {
        history.apply(&[(17 * round, round % 2 == 0), (40_000 + round, true)]);
        let work = history.publish();
        if work.chosen {
            chosen += 1;
        } else {
            stayed += 1;
            assert_eq!((work.new_centers, work.rows_read, work.pairs, work.kernel_entries), (0, 0, 0, 0));
        }
    }
    assert!(stayed >= 2 && chosen >= 2, "{stayed} stayed, {chosen} were chosen again");
}

#[test]
fn dictionaries_of_many_leaves() {
    let world = configured(&format!("{NUMBERS} {SMALL} --select squeak --centers 8"), 9000);
    let model = Model::load(&world.place.path("m.nys")).unwrap();
    let leaf = model.config.selection.leaf_rows.unwrap() as usize;
    let mut history = History::new(&world, 2, 3);
    history.apply(&(0..5600).map(|key| (key, true)).collect::<Vec<_>>());
    assert!(history.held.len() >= 16 * leaf, "{} rows, {leaf} a leaf", history.held.len());
    history.publish();
    let changed = history.run(4, 7000, 900);
    assert!(history.held.len() >= 16 * leaf, "{} rows, {leaf} a leaf", history.held.len());
    assert!(changed >= 2, "centers changed in {changed} of 4 publications");
}

#[test]
fn several_targets_weights_and_variances() {
    let options = format!(
        "--target y --target z --drop k --weight w {SMALL} --select uniform --centers 40 --variance --split hash:0.2"
    );
    let world = configured(&options, 1500);
    for workers in [1, 3] {
        History::new(&world, workers, 10 + workers as u64).run(4, 700, 300);
    }
}

#[test]
fn double_precision_classes_and_other_kernels() {
    for (seed, options) in [
        format!(
            "{NUMBERS} --kernel matern32 --bandwidth 1x --ridge 1e-7 --precision f64 --select rpcholesky --centers 30"
        ),
        format!("--target k --drop y --drop z --weight w --class-weight balanced {SMALL} --select squeak --centers 12"),
        format!("{NUMBERS} --kernel polynomial:2 --ridge 1e-5 --select uniform --centers 25"),
    ]
    .iter()
    .enumerate()
    {
        let world = configured(options, 1500);
        History::new(&world, 2, 20 + seed as u64).run(4, 600, 300);
    }
}

#[test]
fn few_rows_none_and_back_again() {
    let world = configured(&format!("{NUMBERS} {SMALL} --select rpcholesky --centers 20"), 800);
    let mut history = History::new(&world, 2, 5);
    let nothing = |engine: &mut ExactEngine| {
        let error = engine.publish().unwrap_err();
        assert!(matches!(&error, StageError::Data(text) if text.contains("no training rows")), "{error}");
    };
    nothing(&mut history.engine);
    history.apply(&[(3, true)]);
    history.publish();
    history.apply(&(0..300).map(|key| (key, true)).collect::<Vec<_>>());
    history.publish();
    let before = history.engine.outcome().unwrap().function.clone().unwrap();
    history.apply(&(0..300).map(|key| (key, false)).collect::<Vec<_>>());
    nothing(&mut history.engine);
    assert_eq!(history.engine.info().rows, 0);
    // The same rows in another order, one by one.
    history.versions.values_mut().for_each(|version| *version = 0);
    for key in (0..300).rev() {
        // Key 3 was corrected once.
        if key == 3 {
            history.apply(&[(key, true)]);
        }
        history.apply(&[(key, true)]);
    }
    history.publish();
    let after = history.engine.outcome().unwrap().function.clone().unwrap();
    assert!(before.coefficients == after.coefficients && before.centers == after.centers);
    assert!(history.engine.verify().unwrap());
    // Taking away what is not there, and what comes twice.
    history.apply(&[(5000, false), (9, false), (9, true), (9, false)]);
    assert!(history.engine.verify().is_err(), "there is no publication of these rows");
    history.publish();
}

#[test]
fn targets_that_are_null_in_different_rows_wait() {
    let world = configured(&format!("--target y --target z --drop k --drop w {SMALL} --centers 20 --split none"), 800);
    let mut history = History::new(&world, 2, 6);
    history.apply(&(0..200).map(|key| (key, true)).collect::<Vec<_>>());
    history.publish();
    let encoder = Arc::clone(history.engine.encoder());
    let mut half = encoded(&encoder, &[(0, (900, 1))]);
    half.targets[1] = f64::NAN;
    let nothing = Chunk::new();
    history.engine.learn(&Batch { changes: &[], removed: &nothing, added: &half }).unwrap();
    let error = history.engine.publish().unwrap_err().to_string();
    assert!(error.contains("null in different rows") && error.contains("1 of 201"), "{error}");
    history.engine.learn(&Batch { changes: &[], removed: &half, added: &nothing }).unwrap();
    history.publish();
}

#[test]
fn predictions_are_of_the_last_publication_and_survive_a_restart() {
    let world = configured(&format!("{NUMBERS} {SMALL} --select rpcholesky --centers 20 --variance"), 800);
    let mut history = History::new(&world, 2, 7);
    let encoder = Arc::clone(history.engine.encoder());
    let asked = encoded(&encoder, &(0..40).map(|i| (i, (i, 9))).collect::<Vec<_>>());
    let view = Rows::new(&asked.numeric, asked.numeric_width, &asked.codes, asked.code_width);
    assert!(history.engine.predict(view).unwrap().iter().all(|p| p.values.is_empty()));
    history.change(400, 300, 9);
    history.publish();
    let before = history.engine.predict(view).unwrap();
    assert!(before.iter().all(|p| p.values.len() == 1 && p.variances.as_ref().unwrap()[0] > 0.0));
    history.change(200, 300, 5);
    assert_eq!(history.engine.predict(view).unwrap(), before);
    // As `predict` has it.
    write(&world.place.path("asked.parquet"), &rows(&(0..40).map(|i| (i, 9)).collect::<Vec<_>>()));
    let model = model_of(history.engine.outcome().unwrap(), &world.config, &world.split).unwrap();
    model.save(&world.place.path("published.nys")).unwrap();
    world.place.json("predict --model published.nys --data asked.parquet --out p.parquet --variance");
    let predicted = predictions(&world.place.path("p.parquet"));
    assert!(predicted.iter().zip(&before).all(|(a, b)| *a == b.values[0]), "{predicted:?}");
    // A restart: the snapshot, and every row again, in any order.
    let bytes = history.engine.snapshot().unwrap();
    let mut other = History::new(&world, 3, 7);
    other.engine.restore(&bytes).unwrap();
    assert_eq!(other.engine.predict(view).unwrap(), before);
    let rows: Vec<_> = history.held.iter().rev().enumerate().map(|(at, (k, v))| (at, (*k, *v))).collect();
    let (nothing, added) = (Chunk::new(), encoded(&encoder, &rows));
    other.engine.learn(&Batch { changes: &[], removed: &nothing, added: &added }).unwrap();
    (other.held, other.versions) = (history.held.clone(), history.versions.clone());
    history.publish();
    other.publish();
    for cut in [0, 1, 8, 60, bytes.len() / 2, bytes.len() - 1] {
        let mut fresh = ExactEngine::new((world.setup)(1)).unwrap();
        assert_eq!(fresh.restore(&bytes[..cut]).is_ok(), cut == 0, "cut at {cut}");
    }
}

/// The column of predictions of a file.
fn predictions(path: &std::path::Path) -> Vec<f64> {
    use arrow_array::cast::AsArray;
    let file = std::fs::File::open(path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    reader
        .flat_map(|batch| {
            let batch = batch.unwrap();
            let column = batch.schema().fields().iter().position(|f| f.name().contains("prediction")).unwrap();
            batch.column(column).as_primitive::<arrow_array::types::Float64Type>().values().to_vec()
        })
        .collect()
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let world = configured(&format!("{NUMBERS} {SMALL} --centers 20"), 800);
    let refused = |change: &dyn Fn(&mut FitConfig)| {
        let mut setup = (world.setup)(1);
        change(&mut setup.config);
        ExactEngine::new(setup).err().unwrap()
    };
    let error = refused(&|config| config.solver = nystream_dataflows::job::Solver::Pcg);
    assert!(matches!(&error, StageError::Usage(text) if text.contains("--solver gram")), "{error}");
    let error = refused(&|config| config.memory = 1 << 20);
    assert!(matches!(&error, StageError::Budget(text) if text.contains("--memory")), "{error}");
    let full = configured(&format!("{NUMBERS} {SMALL} --select rpcholesky:full --centers 10"), 800);
    let error = ExactEngine::new((full.setup)(1)).err().unwrap();
    assert!(matches!(&error, StageError::Usage(text) if text.contains("rpcholesky:full")), "{error}");
    // The slots' disk.
    let mut setup = (world.setup)(1);
    setup.config.disk_limit = 1000;
    let mut engine = ExactEngine::new(setup).unwrap();
    let encoder = Arc::clone(engine.encoder());
    let (nothing, many) = (Chunk::new(), encoded(&encoder, &(0..100).map(|i| (i, (i, 1))).collect::<Vec<_>>()));
    let batch = Batch { changes: &[], removed: &nothing, added: &many };
    let error = engine.learn(&batch).and_then(|_| engine.complete()).unwrap_err();
    assert!(error.to_string().contains("--disk-limit"), "{error}");
    // Nothing comes of it any more.
    for again in [engine.learn(&batch).map(drop), engine.publish().map(drop), engine.snapshot().map(drop)] {
        assert_eq!(again.unwrap_err().to_string(), error.to_string());
    }
    // Rows that are corrected again and again have a slot each, and one more while a batch is at hand: how far the workers are behind decides nothing.
    let layout =
        SlotLayout { numeric: encoder.numeric_width(), codes: encoder.code_width(), targets: encoder.target_width() };
    let two = 2 * many.rows() as u64;
    for (room, waits) in [(two, true), (two, false), (two - 1, true), (two - 1, false)] {
        let mut setup = (world.setup)(1);
        setup.config.disk_limit = room * layout.bytes() as u64;
        let mut engine = ExactEngine::new(setup).unwrap();
        let correct = |engine: &mut ExactEngine, version: usize| {
            let rows = encoded(&encoder, &(0..100).map(|i| (i, (i, version))).collect::<Vec<_>>());
            engine.learn(&Batch { changes: &[], removed: &nothing, added: &rows })?;
            if waits { engine.complete() } else { Ok(()) }
        };
        let done = (0..30).try_for_each(|version| correct(&mut engine, version)).and_then(|()| engine.complete());
        assert_eq!(done.is_ok(), room == two, "{room} {waits}: {done:?}");
    }
    // Batches that are told before the first has met it end with it as well.
    let mut setup = (world.setup)(2);
    setup.config.disk_limit = 1000;
    let mut engine = ExactEngine::new(setup).unwrap();
    let told = (0..30).position(|_| engine.learn(&batch).is_err());
    assert!(told.is_some_and(|told| told < 20), "{told:?}");
}

/// The row that a key had, and the one that it has.
type Change = (Option<(usize, usize)>, Option<(usize, usize)>);

/// A snapshot, changes after it, and a restart: the rows of then, and the changes again, by which the stored sums go on.
#[test]
fn restarts_sum_what_came_since_and_no_more() {
    // A quarter of the rows are in the pool.
    let pool = format!("{NUMBERS} {SMALL} --select rpcholesky --centers 30 --dictionary-rows 300");
    let weighted = format!("--target y --target z --drop k --weight w {SMALL} --select squeak --centers 10");
    for (options, base) in [(&pool, 3000), (&weighted, 1500)] {
        let world = configured(options, base);
        let folder = world.place.path("sums");
        let engine = |workers| {
            let setup = ExactSetup { folder: Some(folder.clone()), ..(world.setup)(workers) };
            ExactEngine::new(setup).unwrap()
        };
        let mut history = History::new(&world, 2, 30);
        history.engine = engine(2);
        history.apply(&(0..2500).map(|key| (key, true)).collect::<Vec<_>>());
        history.publish();
        let (mut went_on, mut damaged) = (0, 0);
        for round in 0..6usize {
            history.change(40, 3000, 6);
            let snapshot = history.engine.snapshot().unwrap();
            assert_eq!(history.engine.snapshot().unwrap(), snapshot, "nothing has happened in between");
            let then: Vec<_> = history.held.iter().map(|(key, version)| (*key, *version)).collect();
            // What the log has after the snapshot.
            let mut tail: Vec<Change> = Vec::new();
            for _ in 0..60 {
                let (key, brings) = (history.below(3000), history.below(10) < 6);
                let before = history.held.get(&key).map(|version| (key, *version));
                history.apply(&[(key, brings)]);
                tail.push((before, history.held.get(&key).map(|version| (key, *version))));
            }
            if round % 3 == 2 {
                for entry in std::fs::read_dir(&folder).unwrap() {
                    let path = entry.unwrap().path();
                    let mut bytes = std::fs::read(&path).unwrap();
                    let at = history.below(bytes.len());
                    bytes[at] ^= 1;
                    std::fs::write(path, bytes).unwrap();
                }
            }
            let mut again = engine(1 + round % 3);
            again.restore(&snapshot).unwrap();
            let told = again.notes().join(" ");
            assert_eq!(told.contains("cannot be used"), round % 3 == 2, "{told}");
            let encoder = Arc::clone(again.encoder());
            let nothing = Chunk::new();
            let rows: Vec<_> = then.into_iter().rev().enumerate().collect();
            for part in rows.chunks(700) {
                let added = encoded(&encoder, part);
                again.load(&Batch { changes: &[], removed: &nothing, added: &added }).unwrap();
            }
            for part in tail.chunks(25) {
                let side = |of: &dyn Fn(&Change) -> Option<(usize, usize)>| {
                    let rows = part.iter().enumerate().filter_map(|(at, change)| Some((at, of(change)?)));
                    encoded(&encoder, &rows.collect::<Vec<_>>())
                };
                let (removed, added) = (side(&|change| change.0), side(&|change| change.1));
                again.learn(&Batch { changes: &[], removed: &removed, added: &added }).unwrap();
            }
            again.complete().unwrap();
            history.engine.complete().unwrap();
            assert_eq!(again.info().rows, history.engine.info().rows);
            history.engine = again;
            let work = history.publish();
            if round % 3 == 2 {
                damaged += 1;
                assert_eq!(work.new_centers, work.centers);
            } else {
                // Columns of new centers are summed; never the whole.
                assert!(work.new_centers < work.centers / 2 || work.centers < 12, "{work:?}");
                went_on += usize::from(work.rows_read == 0);
            }
            assert!(history.engine.verify().unwrap());
        }
        assert!(damaged == 2 && went_on > 0, "{went_on} of 4 went on without a pass over the rows");
    }
}

/// 200 histories, as the long form asks for.
#[test]
fn two_hundred_histories() {
    if !long_tests() {
        return;
    }
    let worlds = [
        configured(&format!("{NUMBERS} {SMALL} --select rpcholesky --centers 40"), 1500),
        configured(&format!("{NUMBERS} {SMALL} --select squeak --centers 8"), 9000),
        configured(&format!("--target y --target z --drop k --weight w {SMALL} --select uniform --centers 30"), 1500),
        configured(&format!("{NUMBERS} {SMALL} --select rpcholesky --centers 30 --precision f64 --variance"), 1500),
    ];
    let (mut changed, mut published) = (0, 0);
    for seed in 0..200 {
        let world = &worlds[seed % 4];
        let mut history = History::new(world, 1 + seed % 3, 1000 + seed as u64);
        let keys = if seed % 4 == 1 { 7000 } else { 900 };
        history.apply(&(0..keys * 3 / 4).map(|key| (key, true)).collect::<Vec<_>>());
        changed += history.run(3, keys, keys / 3);
        published += 3;
    }
    assert!(2 * changed >= published, "centers changed in {changed} of {published} publications");
}
