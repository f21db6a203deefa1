//! The encoder against a slow reference, and its identities.

use super::*;
use crate::{
    BLOCK_ROWS, BadReason, Chunk, ClassWeight, ColumnInfo, ColumnSummary, DataError, EncoderOptions, LevelCounter,
    NumericColumn, RawBatch, Role, Split, Task, TextColumn,
};
use arrow_array::types::Int32Type;
use arrow_array::*;
use nystream_hashing::{FileId, RowId, StreamKey};
use std::sync::Arc;

const FILE: &str = "frame.parquet";

/// A hashed frame with every kind of column and nulls in most.
fn frame(rows: usize) -> RecordBatch {
    let key = |name: &str| StreamKey::new(11, name, 0);
    let u = |name: &'static str| move |i: usize| key(name).uniform(RowId(i as u128));
    let null = |name: &'static str| move |i: usize| key(name).u64(RowId(i as u128 + (1 << 40))) % 9 == 0;
    let (a, b, t, w, y) = (u("a"), u("b"), u("t"), u("w"), u("y"));
    let city = |i: usize| ["york", "rome", "oslo", "lima"][(u("city")(i).powi(2) * 4.0) as usize];
    let when = move |i: usize| (t(i) * 1e9) as i64 - 300_000_000;
    RecordBatch::try_from_iter_with_nullable([
        (
            "a",
            Arc::new(Float64Array::from_iter((0..rows).map(|i| (!null("a")(i)).then(|| a(i) * 50.0)))) as ArrayRef,
            true,
        ),
        ("n", Arc::new(Int32Array::from_iter_values((0..rows).map(|i| (b(i) * 10.0) as i32))) as ArrayRef, true),
        (
            "flag",
            Arc::new(BooleanArray::from_iter((0..rows).map(|i| (!null("flag")(i)).then(|| b(i) < 0.3)))) as ArrayRef,
            true,
        ),
        (
            "city",
            Arc::new(StringArray::from_iter((0..rows).map(|i| (!null("city")(i)).then(|| city(i))))) as ArrayRef,
            true,
        ),
        ("code", Arc::new(Int64Array::from_iter_values((0..rows).map(|i| (w(i) * 5.0) as i64))) as ArrayRef, true),
        (
            "when",
            Arc::new(TimestampSecondArray::from_iter((0..rows).map(|i| (!null("t")(i)).then(|| when(i))))) as ArrayRef,
            true,
        ),
        ("w", Arc::new(Float32Array::from_iter_values((0..rows).map(|i| w(i) as f32))) as ArrayRef, true),
        ("y", Arc::new(Float64Array::from_iter((0..rows).map(|i| (!null("y")(i)).then(|| y(i))))) as ArrayRef, true),
        (
            "z",
            Arc::new(Float64Array::from_iter((0..rows).map(|i| (!null("z")(i)).then(|| y(i) - 0.5)))) as ArrayRef,
            true,
        ),
    ])
    .unwrap()
}

fn raw(batch: RecordBatch, first_ordinal: u64) -> RawBatch {
    RawBatch { file: 0, file_id: FileId::from_relative_path(FILE), first_ordinal, batch }
}

/// A plain two-pass profile of all rows.
pub(super) fn profile(batch: &RecordBatch) -> Vec<ColumnSummary> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    columns
        .map(|(field, array)| {
            let info = ColumnInfo {
                name: field.name().clone(),
                kind: ColumnKind::of(field.data_type()),
                integer: crate::column::is_integer(field.data_type()),
                data_type: field.data_type().to_string(),
            };
            let mut summary = ColumnSummary::empty(&info);
            summary.nulls = array.logical_nulls().map_or(0, |n| n.null_count()) as u64;
            summary.count = array.len() as u64 - summary.nulls;
            if info.kind.is_number() {
                let mut values: Vec<f64> = NumericColumn::new("c", array).unwrap().iter().flatten().collect();
                values.retain(|v| v.is_finite());
                values.sort_by(f64::total_cmp);
                let n = values.len().max(1) as f64;
                summary.mean = values.iter().sum::<f64>() / n;
                summary.sd = (values.iter().map(|v| (v - summary.mean).powi(2)).sum::<f64>() / n).sqrt();
                summary.min = values.first().copied().unwrap_or(0.0);
                summary.max = values.last().copied().unwrap_or(0.0);
                summary.quantiles =
                    (0..=20).filter_map(|i| values.get(i * (values.len().max(1) - 1) / 20).copied()).collect();
            }
            if TextColumn::accepts(info.kind) {
                let mut counter = LevelCounter::default();
                counter.add(&TextColumn::new("c", array).unwrap(), |_| true);
                summary.levels = counter.finish("c").ok();
            }
            summary
        })
        .collect()
}

fn options() -> EncoderOptions {
    EncoderOptions {
        targets: vec!["y".into()],
        drop: vec!["z".into()],
        categorical: vec!["code".into()],
        weight: Some("w".into()),
        cyclic: vec!["*".into()],
        ..Default::default()
    }
}

fn encode(encoder: &Encoder, batch: &RecordBatch, role: Role, step: usize) -> Vec<Chunk> {
    (0..batch.num_rows())
        .step_by(step)
        .map(|start| {
            let mut chunk = Chunk::new();
            let part = batch.slice(start, step.min(batch.num_rows() - start));
            encoder.encode(&raw(part, start as u64), role, &mut chunk).unwrap();
            chunk
        })
        .collect()
}

/// Row by row, from the documentation.
#[test]
fn agrees_with_the_slow_reference() {
    let batch = frame(5000);
    let summaries = profile(&batch);
    let of = |name: &str| summaries.iter().find(|s| s.name == name).unwrap();
    let encoder = Encoder::fit(&summaries, &options()).unwrap();
    let parts: Vec<(String, Part)> = encoder.numeric_columns().iter().map(|(c, p)| (c.to_string(), *p)).collect();
    let chunk = encode(&encoder, &batch, Role::All, 8192).remove(0);
    let number = |name: &str| -> Vec<Option<f64>> {
        NumericColumn::new(name, batch.column_by_name(name).unwrap()).unwrap().iter().collect()
    };
    let text = |name: &str, i: usize| {
        let column = TextColumn::new(name, batch.column_by_name(name).unwrap()).unwrap();
        column.get(i).map(str::to_string)
    };
    let columns: HashMap<&str, Vec<Option<f64>>> =
        ["a", "n", "flag", "when", "w", "y"].into_iter().map(|name| (name, number(name))).collect();
    let mut row = 0;
    for (i, y) in columns["y"].iter().enumerate() {
        let Some(y) = *y else { continue };
        assert_eq!(chunk.ordinals[row], i as u64);
        assert_eq!(chunk.ids[row], FileId::from_relative_path(FILE).row(i as u64));
        assert_eq!((chunk.targets[row], chunk.weights[row]), (y, columns["w"][i].unwrap()));
        for (j, (name, part)) in parts.iter().enumerate() {
            let value = columns[name.as_str()][i];
            let summary = of(name);
            let want = match (part, value) {
                (Part::Null, value) => f64::from(u8::from(value.is_none())),
                (Part::Value, None) if name == "flag" => summary.mean,
                (_, None) => 0.0,
                (Part::Value, Some(x)) if name == "flag" => x,
                (Part::Value, Some(x)) => (x - summary.mean) / summary.sd,
                (Part::HourSin, Some(x)) => (x.rem_euclid(86400.0) / 86400.0 * std::f64::consts::TAU).sin(),
                (Part::HourCos, Some(x)) => (x.rem_euclid(86400.0) / 86400.0 * std::f64::consts::TAU).cos(),
                (_, Some(_)) => continue,
            };
            let got = f64::from(chunk.numeric[row * chunk.numeric_width + j]);
            assert!((got - want).abs() < 1e-6, "row {i} {name} {part}: {got} {want}");
        }
        for (j, feature) in encoder.categorical.iter().enumerate() {
            let want = match text(&feature.column, i) {
                None => feature.levels.len() + 1,
                Some(level) => feature.levels.iter().position(|l| *l == level).map_or(0, |p| p + 1),
            };
            assert_eq!(usize::from(chunk.codes[row * chunk.code_width + j]), want);
        }
        row += 1;
    }
    assert_eq!(row, chunk.rows());
    assert_eq!(chunk.skipped_null_target as usize, batch.num_rows() - row);
    let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "a", "n", "flag", "flag", "when", "when", "when", "when", "when", "when", "when", "when"]);
}

#[test]
fn batches_do_not_shape_the_rows() {
    let batch = frame(9000);
    let options = EncoderOptions { split: "hash:0.3".parse().unwrap(), ..options() };
    let encoder = Encoder::fit(&profile(&batch), &options).unwrap();
    let whole = encode(&encoder, &batch, Role::All, 10_240).remove(0);
    let block = BLOCK_ROWS as usize;
    for (b, chunk) in encode(&encoder, &batch, Role::All, block).iter().enumerate() {
        let range = whole.block(b);
        assert_eq!(chunk.first_block, b as u64);
        assert_eq!(chunk.numeric, whole.numeric_of(range.clone()));
        assert_eq!(chunk.codes, whole.codes_of(range.clone()));
        assert_eq!(chunk.targets, whole.targets_of(range.clone()));
        assert_eq!(chunk.ids, whole.ids[range.clone()]);
        assert_eq!(chunk.held_out, whole.held_out[range]);
    }
    assert_eq!(whole.blocks(), 5);
}

#[test]
fn roles_partition_the_rows() {
    let batch = frame(4000);
    for split in ["hash:0.25", "hash:0.25:city", "hash:0.5:code", "time:when:0.25", "time:n:0.1"] {
        let options = EncoderOptions { split: split.parse().unwrap(), ..options() };
        let mut summaries = profile(&batch);
        if let Split::Time { column, fraction } = &options.split {
            let summary = summaries.iter_mut().find(|s| s.name == *column).unwrap();
            summary.cut = summary.quantile(1.0 - fraction);
        }
        let encoder = Encoder::fit(&summaries, &options).unwrap();
        let [all, training, held] =
            [Role::All, Role::Training, Role::HeldOut].map(|role| encode(&encoder, &batch, role, 4096).remove(0));
        assert_eq!(all.rows(), training.rows() + held.rows(), "{split}");
        assert!(training.rows() > 0 && held.rows() > 0, "{split}");
        assert!(training.held_out.iter().all(|h| !h) && held.held_out.iter().all(|h| *h));
        let flagged: Vec<RowId> = (0..all.rows()).filter(|i| all.held_out[*i]).map(|i| all.ids[i]).collect();
        assert_eq!(flagged, held.ids, "{split}");
        for chunk in [&training, &held] {
            assert_eq!(chunk.skipped_null_target, all.skipped_null_target);
        }
        if split == "hash:0.25" {
            let share = held.rows() as f64 / all.rows() as f64;
            // 5 standard errors of a fixed draw.
            assert!((share - 0.25).abs() < 5.0 * (0.25 * 0.75 / all.rows() as f64).sqrt(), "{share}");
        }
        if split == "hash:0.5:code" {
            let place = encoder.categorical.iter().position(|f| f.column == "code").unwrap();
            let codes = |chunk: &Chunk| -> std::collections::BTreeSet<u16> {
                (0..chunk.rows()).map(|i| chunk.codes[i * chunk.code_width + place]).collect()
            };
            assert!(codes(&training).is_disjoint(&codes(&held)));
        }
    }
}

#[test]
fn json_round_trip_encodes_the_same_bits() {
    let batch = frame(3000);
    for scale in [Scale::Standard, Scale::Robust, Scale::Quantile] {
        let encoder = Encoder::fit(&profile(&batch), &EncoderOptions { scale, ..options() }).unwrap();
        let text = serde_json::to_string(&encoder).unwrap();
        let back: Encoder = serde_json::from_str(&text).unwrap();
        back.validate().unwrap();
        assert_eq!(encoder, back);
        assert_eq!(encode(&encoder, &batch, Role::All, 4096), encode(&back, &batch, Role::All, 4096));
    }
}

#[test]
fn a_chunk_is_reused_without_traces() {
    let batch = frame(4096);
    let encoder = Encoder::fit(&profile(&batch), &options()).unwrap();
    let mut reused = Chunk::new();
    encoder.encode(&raw(batch.clone(), 0), Role::All, &mut reused).unwrap();
    encoder.encode(&raw(batch.slice(2048, 100), 2048), Role::Features, &mut reused).unwrap();
    let mut fresh = Chunk::new();
    encoder.encode(&raw(batch.slice(2048, 100), 2048), Role::Features, &mut fresh).unwrap();
    assert_eq!(reused, fresh);
    assert_eq!((fresh.rows(), fresh.target_width, fresh.first_block), (100, 0, 1));
}

/// Prediction data: any column order, extra columns, no target, dictionary instead of plain text.
#[test]
fn features_encode_alike_from_another_layout() {
    let batch = frame(1000);
    let encoder = Encoder::fit(&profile(&batch), &options()).unwrap();
    let mut chunk = Chunk::new();
    encoder.encode_features(&raw(batch.clone(), 0), &mut chunk).unwrap();
    let city = batch.column_by_name("city").unwrap();
    let city: DictionaryArray<Int32Type> = city.as_any().downcast_ref::<StringArray>().unwrap().iter().collect();
    let mut columns: Vec<(&str, ArrayRef)> = vec![("extra", Arc::new(BinaryArray::from(vec![b"x".as_slice(); 1000])))];
    for name in ["when", "code", "flag", "n", "a"] {
        columns.push((name, batch.column_by_name(name).unwrap().clone()));
    }
    columns.push(("city", Arc::new(city)));
    let other = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let mut again = Chunk::new();
    encoder.encode_features(&raw(other, 0), &mut again).unwrap();
    assert_eq!((chunk.numeric, chunk.codes, chunk.ids), (again.numeric, again.codes, again.ids));
}

#[test]
fn unseen_and_rare_levels_are_pooled() {
    let mut levels = vec!["common"; 50];
    levels.extend(vec!["second"; 20]);
    levels.extend(vec!["rare"; 19]);
    let rows = levels.len();
    let batch = |levels: Vec<Option<&str>>| {
        let n = levels.len();
        RecordBatch::try_from_iter_with_nullable([
            ("c", Arc::new(StringArray::from(levels)) as ArrayRef, true),
            ("y", Arc::new(Float64Array::from_iter_values((0..n).map(|i| i as f64))) as ArrayRef, true),
        ])
        .unwrap()
    };
    let training = batch(levels.into_iter().map(Some).collect());
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let encoder = Encoder::fit(&profile(&training), &options).unwrap();
    assert_eq!(encoder.categorical[0].levels, ["common", "second"]);
    assert!(encoder.notes[0].contains("1 of 3 levels pooled"), "{:?}", encoder.notes);
    let test = batch(vec![Some("second"), Some("common"), Some("rare"), Some("new"), None]);
    let mut chunk = Chunk::new();
    encoder.encode_features(&raw(test, 0), &mut chunk).unwrap();
    assert_eq!(chunk.codes, [2, 1, 0, 0, 0]);
    assert_eq!(rows, 89);
    assert_eq!((encoder.one_hot_width(), encoder.code_width(), encoder.numeric_width()), (3, 1, 0));
}

#[test]
fn only_the_first_1024_levels_are_kept() {
    let mut summary = profile(&frame(100)).into_iter().find(|s| s.name == "city").unwrap();
    summary.levels = Some((0..2000).map(|i| (format!("{i:04}"), 20)).collect());
    let y = profile(&frame(100)).into_iter().find(|s| s.name == "y").unwrap();
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let encoder = Encoder::fit(&[summary, y], &options).unwrap();
    assert_eq!(encoder.categorical[0].levels.len(), 1024);
    assert_eq!(encoder.categorical[0].null_code(), 1025);
}

#[test]
fn columns_that_say_nothing_are_left_out_with_a_note() {
    let n = 100;
    let numbers = |f: &dyn Fn(usize) -> Option<f64>| Arc::new(Float64Array::from_iter((0..n).map(f))) as ArrayRef;
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("good", numbers(&|i| Some(i as f64)), true),
        ("constant", numbers(&|_| Some(0.1)), true),
        ("empty", numbers(&|_| None), true),
        ("flagged", numbers(&|i| (i % 3 == 0).then_some(1.0)), true),
        ("tiny", numbers(&|i| Some(i as f64 * 1e-320)), true),
        ("void", Arc::new(NullArray::new(n)) as ArrayRef, true),
        ("word", Arc::new(StringArray::from(vec!["x"; n])) as ArrayRef, true),
        ("names", Arc::new(StringArray::from_iter_values((0..n).map(|i| i.to_string()))) as ArrayRef, true),
        ("copy", numbers(&|i| Some(i as f64)), true),
        ("y", numbers(&|i| Some((i * i) as f64)), true),
    ])
    .unwrap();
    let mut summaries = profile(&batch);
    for (name, print) in [("good", 7), ("constant", 8), ("flagged", 9), ("copy", 7)] {
        summaries.iter_mut().find(|s| s.name == name).unwrap().fingerprint = print;
    }
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let encoder = Encoder::fit(&summaries, &options).unwrap();
    assert_eq!(encoder.numeric_columns(), [("good", Part::Value), ("flagged", Part::Null)]);
    assert_eq!(encoder.code_width(), 0);
    for (name, part) in [
        ("constant", "is constant"),
        ("empty", "null in every row"),
        ("flagged", "only the null indicator"),
        ("tiny", "too little to be measured"),
        ("void", "null in every row"),
        ("word", "is constant"),
        ("names", "none with 20 rows"),
        ("copy", "equals 'good'"),
    ] {
        let note = encoder.notes.iter().find(|note| note.starts_with(&format!("column '{name}'")));
        assert!(note.is_some_and(|note| note.contains(part)), "{name}: {:?}", encoder.notes);
    }
    let chunk = encode(&encoder, &batch, Role::All, 2048).remove(0);
    assert_eq!(&chunk.numeric[..4], &[chunk.numeric[0], 0.0, chunk.numeric[2], 1.0]);
}

#[test]
fn bad_rows_go_down_the_second_stream() {
    let n = 10;
    let mut x: Vec<f64> = (0..n).map(|i| i as f64).collect();
    let mut y = x.clone();
    let mut w = vec![1.0; n];
    let clean = RecordBatch::try_from_iter([
        ("x", Arc::new(Float64Array::from(x.clone())) as ArrayRef),
        ("y", Arc::new(Float64Array::from(y.clone())) as ArrayRef),
        ("w", Arc::new(Float64Array::from(w.clone())) as ArrayRef),
    ])
    .unwrap();
    let options = EncoderOptions { targets: vec!["y".into()], weight: Some("w".into()), ..Default::default() };
    let encoder = Encoder::fit(&profile(&clean), &options).unwrap();
    (x[0], x[1], x[2], x[3]) = (f64::NAN, f64::NEG_INFINITY, 2f64.powi(500), 1e30);
    (y[4], y[5]) = (f64::INFINITY, f64::NAN);
    (w[6], w[7]) = (-1.0, f64::NAN);
    x[8] = 5e-324;
    let dirty = RecordBatch::try_from_iter([
        ("x", Arc::new(Float64Array::from(x)) as ArrayRef),
        ("y", Arc::new(Float64Array::from(y)) as ArrayRef),
        ("w", Arc::new(Float64Array::from(w)) as ArrayRef),
    ])
    .unwrap();
    let mut chunk = Chunk::new();
    encoder.encode(&raw(dirty, 2048), Role::All, &mut chunk).unwrap();
    let seen: Vec<(u64, &str, BadReason)> =
        chunk.bad.iter().map(|bad| (bad.ordinal - 2048, bad.column.as_str(), bad.reason)).collect();
    assert_eq!(
        seen,
        [
            (0, "x", BadReason::NotANumber),
            (1, "x", BadReason::Infinite),
            (2, "x", BadReason::TooLarge),
            (3, "x", BadReason::FarOut),
            (4, "y", BadReason::Infinite),
            (5, "y", BadReason::NotANumber),
            (6, "w", BadReason::NegativeWeight),
            (7, "w", BadReason::NotANumber),
        ]
    );
    assert_eq!(chunk.ordinals, [2056, 2057]);
    assert!(chunk.numeric.iter().all(|v| v.is_finite()));
    assert_eq!(chunk.bad[0].id, FileId::from_relative_path(FILE).row(2048));
}

#[test]
fn nulls_may_hide_nan_in_their_slots() {
    let nulls = arrow_buffer::NullBuffer::from(vec![true, false, true]);
    let x = Float64Array::new(vec![1.0, f64::NAN, 3.0].into(), Some(nulls));
    let y = Float64Array::from(vec![1.0, 2.0, 3.0]);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("x", Arc::new(x) as ArrayRef, true),
        ("y", Arc::new(y) as ArrayRef, true),
    ])
    .unwrap();
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let encoder = Encoder::fit(&profile(&batch), &options).unwrap();
    let chunk = encode(&encoder, &batch, Role::All, 2048).remove(0);
    assert_eq!(chunk.numeric, [-1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    assert!(chunk.bad.is_empty());
}

#[test]
fn several_targets_are_null_separately() {
    let batch = frame(2000);
    let options = EncoderOptions { targets: vec!["z".into(), "y".into()], drop: vec![], ..options() };
    let encoder = Encoder::fit(&profile(&batch), &options).unwrap();
    let chunk = encode(&encoder, &batch, Role::All, 2048).remove(0);
    let column = |name: &str| -> Vec<Option<f64>> {
        NumericColumn::new(name, batch.column_by_name(name).unwrap()).unwrap().iter().collect()
    };
    let (z, y) = (column("z"), column("y"));
    let want: Vec<[Option<f64>; 2]> =
        (0..2000).map(|i| [z[i], y[i]]).filter(|pair| pair.iter().any(Option::is_some)).collect();
    let got: Vec<[Option<f64>; 2]> =
        chunk.targets.chunks(2).map(|p| [0, 1].map(|j| (!p[j].is_nan()).then_some(p[j]))).collect();
    assert_eq!(got, want);
    assert_eq!(chunk.skipped_null_target as usize, 2000 - want.len());
}

fn labelled(labels: ArrayRef) -> RecordBatch {
    let n = labels.len();
    let x = Arc::new(Float64Array::from_iter_values((0..n).map(|i| i as f64))) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable([("x", x, true), ("y", labels, true)]).unwrap()
}

#[test]
fn labels_become_classes() {
    let fit = |labels: ArrayRef, task| {
        let batch = labelled(labels);
        let options = EncoderOptions { targets: vec!["y".into()], task, ..Default::default() };
        let encoder = Encoder::fit(&profile(&batch), &options).unwrap();
        let chunk = encode(&encoder, &batch, Role::All, 2048).remove(0);
        (encoder.target_kind, chunk.targets)
    };
    let classes = |names: &[&str]| TargetKind::Classes(names.iter().map(|n| n.to_string()).collect());
    let strings = Arc::new(StringArray::from(vec![Some("b"), None, Some("a"), Some("b")])) as ArrayRef;
    assert_eq!(fit(strings, Task::Auto), (classes(&["a", "b"]), vec![1.0, 0.0, 1.0]));
    let bools = Arc::new(BooleanArray::from(vec![true, false])) as ArrayRef;
    assert_eq!(fit(bools, Task::Auto), (classes(&["false", "true"]), vec![1.0, 0.0]));
    let two = Arc::new(Int32Array::from(vec![1, 0, 0])) as ArrayRef;
    assert_eq!(fit(two.clone(), Task::Auto), (classes(&["0", "1"]), vec![1.0, 0.0, 0.0]));
    assert_eq!(fit(two, Task::Regression), (TargetKind::Regression, vec![1.0, 0.0, 0.0]));
    let many = Arc::new(Int64Array::from(vec![10, 9, -1])) as ArrayRef;
    assert_eq!(fit(many.clone(), Task::Auto).0, TargetKind::Regression);
    assert_eq!(fit(many, Task::Classification), (classes(&["-1", "9", "10"]), vec![2.0, 1.0, 0.0]));
}

#[test]
fn class_weights() {
    let labels = |v: Vec<&'static str>| labelled(Arc::new(StringArray::from(v)) as ArrayRef);
    let batch = labels(vec!["a", "b", "b", "b"]);
    let fit = |class_weight| {
        let options = EncoderOptions { targets: vec!["y".into()], class_weight, ..Default::default() };
        Encoder::fit(&profile(&batch), &options)
    };
    let weights = |role| {
        let encoder = fit(ClassWeight::Balanced).unwrap();
        encode(&encoder, &batch, role, 2048).remove(0).weights
    };
    let third = 4.0 / (2.0 * 3.0);
    assert_eq!(weights(Role::Training), [2.0, third, third, third]);
    assert_eq!(weights(Role::Evaluation), [1.0; 4]);
    assert_eq!(fit(ClassWeight::Given(vec![("b".into(), 0.5)])).unwrap().class_weights, [1.0, 0.5]);
    assert!(matches!(fit(ClassWeight::Given(vec![("c".into(), 1.0)])), Err(DataError::ClassWeight { .. })));
    assert!(matches!(fit(ClassWeight::Given(vec![("b".into(), -1.0)])), Err(DataError::ClassWeight { .. })));
    let encoder = fit(ClassWeight::None).unwrap();
    let mut chunk = Chunk::new();
    encoder.encode(&raw(labels(vec!["a", "q"]), 0), Role::Evaluation, &mut chunk).unwrap();
    assert_eq!((chunk.rows(), chunk.bad[0].reason), (1, BadReason::UnknownLabel));
}

#[test]
fn id_columns_name_the_rows() {
    let batch = frame(50);
    let options = EncoderOptions { id_column: Some("n".into()), ..options() };
    let encoder = Encoder::fit(&profile(&batch), &options).unwrap();
    let chunk = encode(&encoder, &batch, Role::All, 2048).remove(0);
    let n = batch.column_by_name("n").unwrap().as_any().downcast_ref::<Int32Array>().unwrap().clone();
    for (id, ordinal) in chunk.ids.iter().zip(&chunk.ordinals) {
        assert_eq!(*id, RowId::from_key(&n.value(*ordinal as usize).to_string()));
    }
    assert!(encoder.numeric.iter().all(|f| f.column != "n"));
}

#[test]
fn scales() {
    let batch = frame(2000);
    let summaries = profile(&batch);
    let n = summaries.iter().find(|s| s.name == "n").unwrap();
    let fit = |scale| Encoder::fit(&summaries, &EncoderOptions { scale, ..options() }).unwrap();
    let transform =
        |encoder: &Encoder, name: &str| encoder.numeric.iter().find(|f| f.column == name).unwrap().transform.clone();
    let robust = transform(&fit(Scale::Robust), "n");
    let iqr = (n.quantile(0.75).unwrap() - n.quantile(0.25).unwrap()) / 1.349;
    assert_eq!(robust, Transform::Affine { center: n.quantile(0.5).unwrap(), scale: iqr });
    let Transform::Quantile { values, z } = transform(&fit(Scale::Quantile), "a") else { panic!("not a quantile map") };
    assert!(values.windows(2).all(|v| v[0] < v[1]) && z.windows(2).all(|v| v[0] < v[1]));
    // Monotone, through the knots, constant beyond the ends.
    let map = |x: f64| super::encode::apply(&Transform::Quantile { values: values.clone(), z: z.clone() }, x);
    for (value, z) in values.iter().zip(&z) {
        assert_eq!(map(*value), *z);
    }
    assert_eq!((map(-1e300), map(1e300)), (z[0], z[z.len() - 1]));
    let mut last = f64::NEG_INFINITY;
    for i in 0..1000 {
        let next = map(values[0] + (values[values.len() - 1] - values[0]) * i as f64 / 999.0);
        assert!(next >= last);
        last = next;
    }
}

#[test]
fn wrong_columns_are_named() {
    let batch = frame(100);
    let encoder = Encoder::fit(&profile(&batch), &options()).unwrap();
    let mut chunk = Chunk::new();
    let index = batch.schema().index_of("a").unwrap();
    let without: Vec<usize> = (0..batch.num_columns()).filter(|i| *i != index).collect();
    let error = encoder.encode_features(&raw(batch.project(&without).unwrap(), 0), &mut chunk).unwrap_err();
    assert!(matches!(&error, DataError::MissingColumn { column, .. } if column == "a"), "{error}");
    let city = batch.column_by_name("city").unwrap().clone();
    let swapped = RecordBatch::try_from_iter_with_nullable(
        batch
            .schema()
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(f, c)| (f.name().clone(), if f.name() == "a" { city.clone() } else { c.clone() }, true)),
    )
    .unwrap();
    let error = encoder.encode_features(&raw(swapped, 0), &mut chunk).unwrap_err().to_string();
    assert!(error.contains("'a'") && error.contains("text") && error.contains("number"), "{error}");
}

#[test]
fn damaged_encoders_are_refused() {
    let batch = frame(300);
    let good = Encoder::fit(&profile(&batch), &options()).unwrap();
    good.validate().unwrap();
    let damage = |change: &dyn Fn(&mut Encoder)| {
        let mut encoder = good.clone();
        change(&mut encoder);
        encoder.validate().is_err()
    };
    assert!(damage(&|e| e.numeric[0].transform = Transform::Affine { center: 0.0, scale: 0.0 }));
    assert!(damage(&|e| e.numeric[0].transform = Transform::Affine { center: f64::NAN, scale: 1.0 }));
    assert!(damage(&|e| e.numeric[0].transform = Transform::Quantile { values: vec![1.0, 1.0], z: vec![0.0, 1.0] }));
    assert!(damage(&|e| e.numeric[0].kind = ColumnKind::Text));
    assert!(damage(&|e| e.targets.clear()));
    assert!(damage(&|e| e.class_weights = vec![1.0]));
    assert!(damage(&|e| e.target_kind = TargetKind::Classes(vec!["a".into()])));
    assert!(damage(&|e| e.categorical[0].levels = vec!["x".into(); 2000]));
    assert!(damage(&|e| (e.numeric, e.categorical) = (vec![], vec![])));
}

#[test]
fn hopeless_targets_are_refused() {
    let batch = |y: Vec<Option<f64>>| labelled(Arc::new(Float64Array::from(y)) as ArrayRef);
    let fit =
        |y| Encoder::fit(&profile(&batch(y)), &EncoderOptions { targets: vec!["y".into()], ..Default::default() });
    assert!(matches!(fit(vec![None, None]), Err(DataError::TargetAllNull { rows: 2, .. })));
    assert!(matches!(fit(vec![Some(1.5), None, Some(1.5)]), Err(DataError::TargetConstant { rows: 2, .. })));
    assert!(matches!(fit(vec![Some(1.5)]), Err(DataError::TargetConstant { rows: 1, .. })));
    let text = labelled(Arc::new(StringArray::from(vec!["same", "same"])) as ArrayRef);
    let one = Encoder::fit(&profile(&text), &EncoderOptions { targets: vec!["y".into()], ..Default::default() });
    assert!(matches!(one, Err(DataError::TargetConstant { .. })));
    let split = Split::Time { column: "x".into(), fraction: 0.5 };
    let constant = labelled(Arc::new(Float64Array::from(vec![1.0, 2.0])) as ArrayRef);
    let mut summaries = profile(&constant);
    let options = EncoderOptions { targets: vec!["y".into()], split, ..Default::default() };
    assert!(matches!(Encoder::fit(&summaries, &options), Err(DataError::BadSplit { .. })));
    summaries.iter_mut().filter(|s| s.name == "x").for_each(|s| s.cut = Some(0.25));
    let encoder = Encoder::fit(&summaries, &options).unwrap();
    assert_eq!(encoder.split, SplitRule::Time { column: "x".into(), cut: 0.25 });
}
