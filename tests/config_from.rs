//! `--config-from`: the same data give the same model, new rows give one that differs in its rows alone, and what the model fixes cannot be
//! overruled.

mod common;

use arrow_array::ArrayRef;
use common::*;
use nystream::model::Model;
use nystream_kernels::tile::SimdPath;
use serde_json::Value;

const FIT: &str = "fit --data d.parquet --out m.nys";
const AGAIN: &str = "fit --data d.parquet --out again.nys --config-from m.nys";

/// `table` with a weight `w` in (0.1, 3.1), a second target `z`, a group `g`, a time `when`, a key `id` and classes `k`, `two`.
fn rows(from: usize, count: usize) -> Vec<(&'static str, ArrayRef)> {
    let all = || from..from + count;
    let mut columns = table(from, count);
    columns.push(("w", numbers(all().map(|i| 0.1 + 3.0 * uniform("w", i)))));
    columns.push(("z", numbers(all().map(|i| 40.0 * uniform("b", i).powi(2) + 20.0 * uniform("noise", i)))));
    columns.push(("g", texts(all().map(|i| format!("g{}", i % 37)))));
    columns.push(("when", numbers(all().map(|i| 1e6 * uniform("when", i)))));
    columns.push(("id", texts(all().map(|i| format!("row {i}")))));
    columns.push(("k", texts(all().map(|i| format!("class {}", (uniform("a", i) * 2.0 + uniform("b", i)) as u32)))));
    columns.push(("two", texts(all().map(|i| if uniform("a", i) < 0.3 { "no".into() } else { "yes".to_owned() }))));
    columns
}

fn place(count: usize) -> Place {
    let place = Place::new();
    write(&place.path("d.parquet"), &batch(rows(0, count)));
    place
}

/// Fits with `options`, then again by `--config-from` alone: the digests must be equal.
fn same_again(place: &Place, options: &str) -> Value {
    let first = place.solved(&format!("{FIT} {options}"));
    let again = place.solved(AGAIN);
    assert_eq!(digest(&again), digest(&first), "{options}\n{first}\n{again}");
    assert_eq!(again["rows"], first["rows"], "{options}");
    assert_eq!(again["validation"], first["validation"], "{options}");
    again
}

const NUMBERS: &str = "--target y --drop z --drop k --drop two --drop id --drop g --drop when --drop w";
const SMALL: &str = "--kernel matern32 --bandwidth 1.1x --ridge 1e-5 --centers 60";

#[test]
fn the_same_rows_give_the_same_model_with_every_solver() {
    let place = place(6000);
    for solver in ["gram", "pcg --tolerance 1e-4 --iterations 7", "eigenpro --iterations 3"] {
        same_again(&place, &format!("{NUMBERS} {SMALL} --solver {solver} --seed 5 --split hash:0.2"));
    }
    let place = self::place(900);
    let report = same_again(
        &place,
        &format!("{NUMBERS} --kernel laplace --bandwidth 1.5x --ridge 1e-4 --solver blockcd --iterations 3"),
    );
    assert_eq!(report["centers"], report["rows"]);
}

#[test]
fn and_with_everything_on_auto() {
    let place = place(2500);
    let report = same_again(&place, &format!("{NUMBERS} --max-flops 3e10"));
    assert!(report["seconds"]["total"].as_f64().is_some());
    // Two targets of different ridges.
    let two = NUMBERS.replace("--drop z", "--target z");
    let report = same_again(&place, &format!("{two} --centers 80"));
    let ridges = report["ridge"].as_array().unwrap();
    assert!(
        ridges.len() == 2 && ridges[0] != ridges[1],
        "the ridges are equal: the test tests less than it says: {report}"
    );
    same_again(&place, &format!("{two} --centers 80 --variance"));
    assert!(Model::load(&place.path("again.nys")).unwrap().variance.is_some(), "--variance was not taken over");
}

#[test]
fn and_with_every_selection() {
    let place = place(9000);
    let kernel = "--kernel gaussian --bandwidth 1x --ridge 1e-5 --precision f64";
    for select in [
        "uniform --centers 70",
        "rpcholesky --centers 70",
        "rpcholesky --centers 70 --dictionary-rows 900",
        "rpcholesky:full --centers 30",
        "squeak --centers 40",
        "squeak --centers 40 --dictionary-rows 3000",
    ] {
        same_again(&place, &format!("{NUMBERS} {kernel} --select {select}"));
        let model = Model::load(&place.path("m.nys")).unwrap();
        // The name may end in the law of the pivots, which the sample tells.
        let method = model.config.selection.method.trim_end_matches(":tempered").to_owned();
        assert_eq!(method, select.split(' ').next().unwrap());
    }
    let file = format!("dictionary --data d.parquet {NUMBERS} {kernel} --centers 50 --select uniform --out z.parquet");
    place.json(&file);
    same_again(&place, &format!("{NUMBERS} {kernel} --select file:z.parquet"));
    // The centers are in the model: their file is not needed.
    std::fs::remove_file(place.path("z.parquet")).unwrap();
    place.json(AGAIN);
}

/// The theorem asks for thousands of copies a row: only where the effective dimension is far below 1 are its dictionaries small.
#[test]
fn and_with_the_theorem() {
    let place = Place::new();
    let source = "fit --data synth:sines?rows=6000&d=1&seed=2 --out";
    let options =
        "--target y --kernel gaussian --bandwidth 30 --ridge 10 --centers 20 --select squeak --dictionary-mode theorem";
    let first = place.solved(&format!("{source} m.nys {options}"));
    let again = place.solved(&format!("{source} again.nys --config-from m.nys"));
    assert_eq!(digest(&again), digest(&first));
    assert!(Model::load(&place.path("m.nys")).unwrap().config.selection.copies.is_some());
}

#[test]
fn and_with_weights_classes_keys_and_splits() {
    let place = place(6000);
    let rest = "--drop z --drop y --drop g --drop when";
    for options in [
        format!("--target k {rest} --drop two --drop id --weight w --class-weight balanced {SMALL} --solver gram"),
        format!(
            "--target k {rest} --drop two --drop id --drop w --class-weight balanced --ridge auto --centers 50 --solver gram"
        ),
        format!("--target two {rest} --drop k --id-column id --weight w --loss logistic {SMALL}"),
        format!("--target two {rest} --drop k --id-column id --drop w --class-weight yes=3 {SMALL} --solver pcg"),
    ] {
        let report = same_again(&place, &options);
        assert!(report["validation"]["accuracy"].as_f64().unwrap() > 0.7, "{report}");
    }
    let rest = "--target y --drop z --drop k --drop two --drop id --weight w --scale robust";
    for split in ["hash:0.25:g --drop when", "time:when:0.3 --drop g", "none --drop g --drop when"] {
        let report = same_again(&place, &format!("{rest} {SMALL} --split {split}"));
        let (fitted, held) =
            (number(&report, "/rows"), report.pointer("/validation/rows").map_or(0.0, |v| v.as_f64().unwrap()));
        assert_eq!(fitted + held, 6000.0, "rows are fitted to or held out: {report}");
    }
}

#[test]
fn new_rows_change_the_rows_alone() {
    let place = place(5000);
    place.json(&format!("{FIT} {NUMBERS} {SMALL} --select squeak --solver gram --seed 3 --split hash:0.3"));
    write(&place.path("d.parquet"), &batch(rows(40_000, 8000)));
    let report = place.json(AGAIN);
    let (old, mut new) = (Model::load(&place.path("m.nys")).unwrap(), Model::load(&place.path("again.nys")).unwrap());
    assert!(new.config.rows > old.config.rows && new.config.sum_weights > old.config.sum_weights);
    assert_eq!(number(&report, "/rows"), new.config.rows as f64);
    assert_ne!(old.coefficients, new.coefficients);
    assert_eq!(old.intercepts, new.intercepts);
    (new.config.rows, new.config.sum_weights) = (old.config.rows, old.config.sum_weights);
    assert_eq!(new.config, old.config);
    // And back again.
    write(&place.path("d.parquet"), &batch(rows(0, 5000)));
    place.json("fit --data d.parquet --out back.nys --config-from again.nys");
    assert_eq!(Model::load(&place.path("back.nys")).unwrap().digest().unwrap(), old.digest().unwrap());
}

/// `rows` with row 3's target and weight replaced.
fn with(count: usize, y: f64, w: f64, k: &str) -> arrow_array::RecordBatch {
    let columns = rows(0, count).into_iter().map(|(name, column)| {
        let values = |from: usize| {
            numbers((0..count).map(|i| match (i, name) {
                (3, "y") => y,
                (3, "w") => w,
                (_, "y") => (6.0 * uniform("a", from + i)).sin(),
                _ => 0.1 + 3.0 * uniform("w", i),
            }))
        };
        match name {
            "y" | "w" => (name, values(0)),
            "k" => (name, texts((0..count).map(|i| if i == 3 { k.to_owned() } else { "class 1".into() }))),
            _ => (name, column),
        }
    });
    batch(columns.collect())
}

#[test]
fn rows_beyond_the_declared_bounds_are_bad_rows() {
    let place = place(3000);
    let weighted = format!("{} --weight w", NUMBERS.strip_suffix(" --drop w").unwrap());
    for solver in ["gram", "pcg"] {
        place.json(&format!("{FIT} {weighted} {SMALL} --solver {solver} --split none"));
        // The target's range grows by 2^10, the weights' up to the next power of two.
        write(&place.path("d.parquet"), &with(3000, 900.0, 3.9, "class 0"));
        assert_eq!(number(&place.json(AGAIN), "/rows"), 3000.0);
        for (y, w, parts) in [(1e5, 1.0, ["'y'", "beyond the range"]), (0.0, 4.1, ["'w'", "above the bound"])] {
            write(&place.path("d.parquet"), &with(3000, y, w, "class 0"));
            let line = format!("{AGAIN} --out other.nys").replace("--out again.nys ", "");
            place.fails(&line, 1, &["d.parquet row 3", parts[0], parts[1], "--max-bad-rows 1"]);
            let report = place.json(&format!("{AGAIN} --max-bad-rows 1"));
            assert_eq!((&report["rows"], &report["rows_bad"]), (&2999.into(), &1.into()));
        }
        write(&place.path("d.parquet"), &batch(rows(0, 3000)));
    }
    place.json(&format!(
        "{FIT} --target k --drop y --drop z --drop two --drop id --drop g --drop when --drop w {SMALL}"
    ));
    write(&place.path("d.parquet"), &with(3000, 0.0, 1.0, "class 9"));
    place.fails(&AGAIN.replace("again", "other"), 1, &["row 3", "'k'", "label that no training row had"]);
}

/// `rows` with `a` of row `at` replaced.
fn with_a(count: usize, at: usize, a: f64) -> Vec<(&'static str, ArrayRef)> {
    let mut columns = rows(0, count);
    columns[0].1 = numbers((0..count).map(|i| if i == at { a } else { uniform("a", i) }));
    columns
}

/// A kernel without a bound: what its exact Gram can hold is fixed with the model.
#[test]
fn rows_beyond_the_range_of_the_kernel_are_bad_rows() {
    let place = place(3000);
    std::fs::create_dir(place.path("parts")).unwrap();
    for (kernel, split) in [("polynomial:2", "none"), ("arccosine", "hash:0.2"), ("ntk:2", "none")] {
        let kernel = format!("--kernel {kernel} --bandwidth 2 --ridge 1e-4 --centers 40 --solver gram");
        write(&place.path("d.parquet"), &batch(rows(0, 3000)));
        place.json(&format!("{FIT} {NUMBERS} {kernel} --split {split} --id-column id"));
        let (mut held_out, mut bad) = (0, 0);
        for at in 2..8 {
            let far = batch(with_a(3000, at, 400.0));
            write(&place.path("d.parquet"), &far);
            let report = place.json(&format!("{AGAIN} --max-bad-rows 1"));
            if report["rows_bad"] == 0 {
                // Held-out rows are only measured.
                held_out += 1;
                continue;
            }
            assert_eq!(report["rows_bad"], 1, "{report}");
            let line = AGAIN.replace("again.nys", "other.nys");
            let named = format!("d.parquet row {at} has");
            place.fails(&line, 1, &[&named, "k(x, x) beyond the range", "--max-bad-rows 1"]);
            write(&place.path("parts/1.parquet"), &far.slice(0, at));
            write(&place.path("parts/2.parquet"), &far.slice(at + 1, 2999 - at));
            let without = place.json("fit --data parts --out w.nys --config-from m.nys --workers 2");
            assert_eq!(digest(&without), digest(&report), "{kernel} {at}");
            bad += 1;
            if bad == 2 {
                break;
            }
        }
        assert!(bad > 0 && (split != "none" || held_out == 0), "{kernel}: {bad} bad, {held_out} held out");
    }
}

/// The sample from which the range of a kernel is taken is half of these rows: a row far out may not be in it.
#[test]
fn the_range_of_the_kernel_holds_rows_that_the_sample_missed() {
    let place = place(10);
    let options =
        "--kernel arccosine --bandwidth 2 --ridge 1e-4 --centers 20 --select uniform --solver gram --split none";
    for at in [7, 70, 700, 7000] {
        write(&place.path("d.parquet"), &batch(with_a(41_000, at, 3.0)));
        same_again(&place, &format!("{NUMBERS} {options}"));
    }
    // So far out that the grid would be too coarse for the rest, wherever it is.
    write(&place.path("d.parquet"), &batch(with_a(41_000, 7, 50.0)));
    place.fails(&format!("{} {NUMBERS} {options}", FIT.replace("m.nys", "n.nys")), 2, &["--solver gram", "k(x, x)"]);
}

#[test]
fn flags_that_would_change_what_is_fixed_are_refused_by_name() {
    let place = place(2000);
    place.json(&format!("{FIT} {NUMBERS} {SMALL} --select uniform --solver pcg --seed 4 --split hash:0.2"));
    let simd = Model::load(&place.path("m.nys")).unwrap().config.simd;
    for flags in [
        "--target z",
        "--drop a",
        "--categorical b",
        "--weight w",
        "--class-weight balanced",
        "--id-column c",
        "--scale quantile",
        "--task classification",
        "--split none",
        "--kernel laplace",
        "--bandwidth 1.2x",
        "--simd portable",
        "--bandwidth 3",
        "--ridge 1e-4",
        "--centers 61",
        "--select squeak",
        "--select file:d.parquet",
        "--dictionary-rows 100",
        "--dictionary-mode theorem",
        "--solver gram",
        "--loss logistic --task classification",
        "--tolerance 1e-3",
        "--iterations 9",
        "--seed 0",
        "--precision f64",
        "--variance",
    ] {
        let name = flags.split(' ').next().unwrap();
        if name == "--simd" && simd == "portable" {
            continue;
        }
        let line = AGAIN.replace("again.nys", "other.nys");
        place.fails(&format!("{line} {flags}"), 2, &["--config-from", name]);
    }
    // All of them at once, and what says the same or asks for nothing.
    place.fails(
        &format!("{} --seed 1 --centers 9", AGAIN.replace("again", "other")),
        2,
        &["--seed", "--centers", "4", "60"],
    );
    let same = "--target y --drop z --seed 4 --centers 60 --kernel matern32 --bandwidth 1.1x --ridge 1e-5 --select uniform --solver pcg --split hash:0.2 \
                --scale standard --precision f32 --task regression --workers 1 --memory 2GiB --simd";
    let same = format!("{same} {simd}");
    place.json(AGAIN);
    let plain = Model::load(&place.path("again.nys")).unwrap().digest().unwrap();
    assert_eq!(digest(&place.json(&format!("{AGAIN} {same}"))), plain);
}

/// What made the model is what the model has: giving it again changes nothing.
#[test]
fn the_options_that_made_the_model_are_accepted() {
    let place = place(4000);
    let kernel = "--kernel gaussian --bandwidth 1.3 --ridge 1e-5 --precision f64 --seed 2";
    let few = "--kernel gaussian --bandwidth 1.3 --ridge 1e-3 --precision f64 --split hash:0.9";
    let others = "--drop z --drop k --drop two --drop id --drop w";
    place
        .json(&format!("dictionary --data d.parquet {NUMBERS} {kernel} --centers 50 --select uniform --out z.parquet"));
    let classes = "--target two --drop y --drop z --drop k --drop id --drop g --drop when --drop w";
    for options in [
        format!("{NUMBERS} {kernel} --centers 40 --select squeak"),
        format!("{NUMBERS} {kernel} --centers 40 --select squeak --dictionary-rows all"),
        format!("{NUMBERS} {kernel} --centers 40 --select squeak --dictionary-rows 1500"),
        format!("{NUMBERS} {kernel} --centers 40 --select rpcholesky"),
        format!("{NUMBERS} {kernel} --centers 40 --select rpcholesky --dictionary-rows 900"),
        format!("{NUMBERS} {kernel} --centers 30 --select rpcholesky:full"),
        format!("{NUMBERS} {kernel} --centers 30 --select rpcholesky --dictionary-rows all"),
        format!("{NUMBERS} {kernel} --select file:z.parquet"),
        // More centers than rows, and rows scored where none are or the choice is open.
        format!("{NUMBERS} {few} --centers 9000 --select squeak"),
        format!("{NUMBERS} {few} --centers 9000 --dictionary-rows 100"),
        format!("{NUMBERS} {kernel} --centers 40 --dictionary-rows all"),
        format!("{NUMBERS} {kernel} --centers 40 --select uniform --dictionary-rows all"),
        // In units of the median distance, and on another path than the machine's best.
        format!("{NUMBERS} --kernel gaussian --bandwidth 0.7x --ridge 1e-5 --centers 40 --simd portable"),
        format!("--target y {others} --drop g --drop when {kernel} --centers 40 --split time:when:0.2"),
        format!("--target y {others} --drop when --drop g {kernel} --centers 40 --split hash:0.2:g"),
        format!("{classes} --class-weight balanced {kernel} --centers 40"),
        format!("{classes} --class-weight balanced --loss logistic {kernel} --centers 40 --iterations 4"),
    ] {
        let first = place.solved(&format!("{FIT} {options}"));
        let again = place.solved(&format!("{AGAIN} {options}"));
        assert_eq!(digest(&again), digest(&first), "{options}");
        let notes = again["notes"].to_string();
        assert!(!notes.contains("as asked"), "{options}: {notes}");
        assert!(notes.contains("from the model"), "{options}: {notes}");
    }
    // What differs is refused all the same: other rows of a file, weights that were not balanced, the pool of another size.
    let other = AGAIN.replace("again", "other");
    place.json(&format!("{FIT} {NUMBERS} {kernel} --select file:z.parquet"));
    place
        .json(&format!("dictionary --data d.parquet {NUMBERS} {kernel} --centers 51 --select uniform --out z.parquet"));
    place.fails(&format!("{other} --select file:z.parquet"), 2, &["--select", "other centers"]);
    place.solved(&format!("{FIT} {classes} --class-weight yes=0.5 {kernel} --centers 40"));
    place.fails(&format!("{other} --class-weight balanced"), 2, &["--class-weight"]);
    place.json(&format!("{FIT} {NUMBERS} {kernel} --centers 40 --select rpcholesky --dictionary-rows 900"));
    place.fails(&format!("{other} --dictionary-rows 901"), 2, &["--dictionary-rows"]);
    place.fails(&format!("{other} --drop a"), 2, &["--drop", "'a'"]);
}

/// The instruction set decides last bits: it is the model's, and where the machine lacks it nothing is fitted.
#[test]
fn the_instruction_set_is_the_models() {
    let place = place(2000);
    let first = place.json(&format!("{FIT} {NUMBERS} {SMALL} --simd portable"));
    let again = place.json(AGAIN);
    assert_eq!((&again["simd"], digest(&again)), (&"portable".into(), digest(&first)));
    assert_eq!(place.json(&format!("{AGAIN} --simd portable"))["simd"], "portable");
    let other = AGAIN.replace("again", "other");
    if let Some(best) = SimdPath::available().pop().filter(|path| *path != SimdPath::Portable) {
        place.fails(&format!("{other} --simd {best}"), 2, &["--simd", "the model has portable"]);
    }
    let mut model = Model::load(&place.path("m.nys")).unwrap();
    let lacking = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    model.config.simd = lacking.into();
    model.save(&place.path("m.nys")).unwrap();
    place.fails(&other, 2, &["--config-from fixes --simd", lacking, "this machine has portable"]);
}

/// A multiple of the median distance is one of that of the model, whatever the rows are now.
#[test]
fn a_multiple_of_the_median_is_that_of_the_model() {
    let place = place(3000);
    let first = place.json(&format!("{FIT} {NUMBERS} {SMALL}"));
    assert_eq!(number(&first, "/bandwidth"), 1.1 * number(&first, "/median_distance"));
    write(&place.path("d.parquet"), &batch(rows(40_000, 5000)));
    let again = place.json(&format!("{AGAIN} --bandwidth 1.1x"));
    assert_eq!(again["bandwidth"], first["bandwidth"]);
    // And the next model's: its median is not that of its own rows.
    assert_eq!(again["median_distance"], first["median_distance"]);
    place.json("fit --data d.parquet --out third.nys --config-from again.nys --bandwidth 1.1x");
    place.fails(
        &format!("{} --bandwidth 1.11x", AGAIN.replace("again", "other")),
        2,
        &["--bandwidth", "1.100x the median"],
    );
}

/// Rows may get a key that the model's rows had not: the law of online learning needs it.
#[test]
fn a_key_may_be_added() {
    let place = place(3000);
    place.json(&format!("{FIT} {NUMBERS} {SMALL} --solver gram"));
    let keyed = place.json(&format!("{AGAIN} --id-column id"));
    // The same rows under the same keys in another order of files are the same rows.
    std::fs::create_dir(place.path("parts")).unwrap();
    write(&place.path("parts/a.parquet"), &batch(rows(1200, 1800)));
    write(&place.path("parts/b.parquet"), &batch(rows(0, 1200)));
    let parts = place.json("fit --data parts --out parts.nys --config-from m.nys --id-column id");
    assert_eq!(digest(&parts), digest(&keyed));
}

#[test]
fn processes_repeat_alike() {
    let place = place(4000);
    let first = place.json(&format!("{FIT} {NUMBERS} {SMALL} --select rpcholesky --solver gram"));
    assert_eq!(digest(&place.cluster(&format!("{AGAIN} --workers 1"), 2)), digest(&first));
}
