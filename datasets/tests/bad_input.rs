//! Bad input: every case gives one error that names what is wrong, or a counted bad row. Nothing panics.

mod common;

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::types::Int32Type;
use arrow_array::*;
use common::*;
use nystream_datasets::{
    BadReason, BlockReader, Catalog, Chunk, ColumnKind, DataError, Encoder, EncoderOptions, ReadOptions, Role, Scale,
    Sources, is_decoding,
};
use nystream_hashing::{FileId, StreamKey};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder with one good file of `rows` rows, columns a, b (numbers), c (text), y.
fn good(rows: usize) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("good.parquet");
    write_with(&path, &table(rows), layout());
    (folder, path)
}

fn layout() -> parquet::file::properties::WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(1500))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
}

fn table(rows: usize) -> RecordBatch {
    let text: StringArray = (0..rows).map(|i| Some(format!("level {}", (uniform("c", i) * 5.0) as u32))).collect();
    batch(vec![
        ("a", numbers((0..rows).map(|i| uniform("a", i)))),
        ("b", numbers((0..rows).map(|i| uniform("b", i)))),
        ("c", Arc::new(text)),
        ("y", numbers((0..rows).map(|i| uniform("y", i)))),
    ])
}

fn message(result: Result<impl Sized, DataError>) -> String {
    result.err().expect("an error").to_string()
}

/// The message of opening `path`, which must name the file.
fn refusal(path: &Path) -> String {
    let text = message(open(path));
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(name), "'{text}' does not name {name}");
    text
}

// ---- Files ----

#[test]
fn missing_files_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(&folder.path().join("none.parquet")).contains("does not exist"));
    assert!(message(open(&folder.path().join("*.parquet"))).contains("no Parquet file matches"));
    assert!(message(open(folder.path())).contains("no Parquet file matches"));
    assert!(message(Sources::parse::<&str>(&[])).contains("--data"));
}

#[test]
fn empty_and_foreign_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let refuse = |bytes: &[u8], part: &str| {
        std::fs::write(&path, bytes).unwrap();
        let text = refusal(&path);
        assert!(text.contains(part), "{text}");
    };
    refuse(b"", "empty");
    refuse(b"a,b\n1,2\n", "not a Parquet file");
    refuse(b"x", "not a Parquet file");
    refuse(b"\x89PNG\r\n\x1a\n and more bytes than twelve", "not a Parquet file");
    refuse(b"PAR1", "cut short");
    refuse(b"PA", "cut short");
    refuse(b"PAR1PAR1", "cut short");
    refuse(b"PAR1\xff\xff\xff\xffPAR1", "cut short");
    refuse(b"PAR1\x00\x00\x00\x00PAR1", "corrupt");
    refuse(b"PAR1garbagegarbage\x0e\x00\x00\x00PAR1", "corrupt");
    refuse(b"PARE and then something encrypted", "encrypted");
}

#[test]
fn a_folder_named_like_a_file_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    std::fs::create_dir(&path).unwrap();
    assert!(message(open(&path)).contains("no Parquet file matches"));
}

#[cfg(unix)]
#[test]
fn unreadable_files() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = good(10);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        let _ = writeln!(std::io::stderr(), "skipped: this user may read everything");
        return;
    }
    assert!(refusal(&path).contains("cannot read"));
}

#[test]
fn truncation_anywhere_is_an_error() {
    let (folder, path) = good(4000);
    let bytes = std::fs::read(&path).unwrap();
    let cut = folder.path().join("cut.parquet");
    let offsets = (0..64).chain((64..bytes.len()).step_by(97)).chain(bytes.len() - 64..bytes.len());
    for length in offsets {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        let text = refusal(&cut);
        assert!(text.contains("cut short") || text.contains("empty") || text.contains("corrupt"), "{length}: {text}");
    }
}

/// Flipped bits give an error that names the file, or (there being no checksum in the file) other values; never a panic.
#[test]
fn flipped_bits_never_panic() {
    let (folder, path) = good(4000);
    let bytes = std::fs::read(&path).unwrap();
    let (bad, mut errors) = (folder.path().join("flipped.parquet"), 0);
    let key = StreamKey::new(1, "flip", 0);
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    for trial in 0..600u128 {
        let bits = key.u64(nystream_hashing::RowId(trial));
        // Half of the flips in the footer, where they do the strangest things.
        let range = if trial % 2 == 0 { bytes.len() - 8 - footer..bytes.len() } else { 0..bytes.len() };
        let place = range.start + (bits >> 3) as usize % range.len();
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (bits & 7);
        std::fs::write(&bad, &damaged).unwrap();
        if let Err(error) = open(&bad).and_then(|catalog| scan(&catalog)) {
            errors += 1;
            let text = error.to_string();
            assert!(text.contains("flipped.parquet"), "byte {place}: {text}");
        }
        assert!(!is_decoding());
    }
    assert!(errors > 100, "only {errors} of 600 were noticed");
}

#[test]
fn garbage_with_the_right_magic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.parquet");
    let key = StreamKey::new(2, "garbage", 0);
    for trial in 0..200u128 {
        let noise = |i: u128| (key.u64(nystream_hashing::RowId(trial << 32 | i)) & 0xFF) as u8;
        let body: Vec<u8> = (0..200).map(noise).collect();
        let bytes = [b"PAR1".as_slice(), &body, &200u32.to_le_bytes(), b"PAR1"].concat();
        std::fs::write(&path, bytes).unwrap();
        assert!(refusal(&path).contains("corrupt"));
    }
}

#[test]
fn damaged_pages_name_row_group_column_and_rows() {
    let (folder, path) = good(4000);
    let bytes = std::fs::read(&path).unwrap();
    let reader =
        parquet::file::serialized_reader::SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    use parquet::file::reader::FileReader;
    for (group, column, name) in [(0, 1, "b"), (1, 0, "a"), (2, 3, "y"), (1, 2, "c")] {
        let (start, length) = reader.metadata().row_group(group).column(column).byte_range();
        let mut damaged = bytes.clone();
        let (start, end) = (start as usize, (start + length) as usize);
        damaged[start + 30..end].fill(0xA5);
        let bad = folder.path().join("bad.parquet");
        std::fs::write(&bad, &damaged).unwrap();
        let catalog = open(&bad).unwrap();
        match scan(&catalog) {
            Err(DataError::Decode { path, row_group, column, first_row, end_row, .. }) => {
                assert_eq!((path, row_group, column.as_deref()), (bad.clone(), group, Some(name)));
                assert!(
                    first_row < end_row && first_row as usize >= group * 1500 && end_row as usize <= (group + 1) * 1500
                );
            }
            other => panic!("{:?}", other.err()),
        }
        // The other columns are unharmed.
        let others: Vec<usize> = (0..4).filter(|c| *c != column).collect();
        let mut reader = BlockReader::new(&catalog, catalog.partition(1, 0), &others, ReadOptions::default());
        assert!(reader.all(|raw| raw.is_ok()));
    }
}

#[test]
fn a_reader_ends_after_an_error() {
    let (folder, path) = good(10_000);
    let mut bytes = std::fs::read(&path).unwrap();
    // Page headers: damaged values alone would decode to other values.
    bytes[4..40].fill(0xFF);
    let bad = folder.path().join("bad.parquet");
    std::fs::write(&bad, bytes).unwrap();
    let catalog = open(&bad).unwrap();
    let mut reader = BlockReader::new(&catalog, catalog.partition(1, 0), &[0, 1, 2, 3], ReadOptions::default());
    while let Some(item) = reader.next() {
        if item.is_err() {
            assert!(reader.next().is_none());
            return;
        }
    }
    panic!("the damage was not noticed");
}

#[test]
fn files_that_change_after_the_catalog() {
    let (_folder, path) = good(5000);
    let catalog = open(&path).unwrap();
    write_with(&path, &table(5001), layout());
    assert!(matches!(scan(&catalog), Err(DataError::Changed { .. })));
    std::fs::write(&path, b"PAR1").unwrap();
    assert!(matches!(scan(&catalog), Err(DataError::Truncated { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(message(scan(&catalog)).contains("good.parquet"));
}

// ---- Schemas ----

fn pair(first: RecordBatch, second: RecordBatch) -> (tempfile::TempDir, Result<Catalog, DataError>) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("1.parquet"), &first);
    write(&folder.path().join("2.parquet"), &second);
    let catalog = open(folder.path());
    (folder, catalog)
}

#[test]
fn disagreeing_schemas_name_both_files_and_the_column() {
    let n = || numbers([1.0, 2.0]);
    let text = || Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef;
    for (first, second, column) in [
        (batch(vec![("a", n()), ("b", n())]), batch(vec![("a", n())]), "'b'"),
        (batch(vec![("a", n())]), batch(vec![("a", n()), ("extra", n())]), "'extra'"),
        (batch(vec![("a", n()), ("b", n())]), batch(vec![("a", n()), ("b", text())]), "'b'"),
        (batch(vec![("a", n())]), batch(vec![("A", n())]), "'a'"),
    ] {
        let (_folder, catalog) = pair(first, second);
        let text = message(catalog);
        for part in [column, "1.parquet", "2.parquet"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn two_columns_of_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("twice.parquet");
    let field = |name: &str| arrow_schema::Field::new(name, arrow_schema::DataType::Float64, true);
    let schema = Arc::new(arrow_schema::Schema::new(vec![field("a"), field("a")]));
    write(&path, &RecordBatch::try_new(schema, vec![numbers([1.0]), numbers([2.0])]).unwrap());
    assert!(refusal(&path).contains("two columns named 'a'"));
}

#[test]
fn absent_columns_are_named_with_what_is_near() {
    let (_folder, path) = good(10);
    let catalog = open(&path).unwrap();
    let plan = |options: EncoderOptions| message(options.plan(&catalog.columns));
    assert!(plan(EncoderOptions { targets: vec!["Y".into()], ..target_y() }).contains("did you mean 'y'"));
    assert!(plan(EncoderOptions { drop: vec!["q".into()], ..target_y() }).contains("--drop"));
    assert!(plan(EncoderOptions { weight: Some("w".into()), ..target_y() }).contains("--weight"));
    assert!(plan(EncoderOptions { id_column: Some("k".into()), ..target_y() }).contains("--id-column"));
    assert!(plan(EncoderOptions { split: "time:when:0.1".parse().unwrap(), ..target_y() }).contains("--split"));
}

#[test]
fn nested_and_binary_columns_are_refused_by_name() {
    let mut list = ListBuilder::new(Int32Builder::new());
    list.append_value([Some(1), Some(2)]);
    list.append_value([None]);
    let strukt = StructArray::from(vec![(
        Arc::new(arrow_schema::Field::new("inner", arrow_schema::DataType::Float64, true)),
        numbers([1.0, 2.0]),
    )]);
    let odd: Vec<(&str, ArrayRef, ColumnKind)> = vec![
        ("list", Arc::new(list.finish()), ColumnKind::Nested),
        ("struct", Arc::new(strukt), ColumnKind::Nested),
        ("binary", Arc::new(BinaryArray::from(vec![b"a".as_slice(), b"b"])), ColumnKind::Binary),
        (
            "fixed",
            Arc::new(FixedSizeBinaryArray::try_from_iter([b"ab", b"cd"].into_iter()).unwrap()),
            ColumnKind::Binary,
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, array, kind) in odd {
        let path = folder.path().join("odd.parquet");
        write(&path, &batch(vec![("x", numbers([1.0, 2.0])), (name, array), ("y", numbers([3.0, 4.0]))]));
        let catalog = open(&path).unwrap();
        assert_eq!(catalog.columns[1].kind, kind);
        let text = message(target_y().plan(&catalog.columns));
        assert!(text.contains(&format!("--drop '{name}'")), "{text}");
        let text = message(EncoderOptions { targets: vec![name.into()], ..Default::default() }.plan(&catalog.columns));
        assert!(text.contains(name), "{text}");
        // Left out, it does no harm.
        let (encoder, chunks) = pipeline(&path, &EncoderOptions { drop: vec![name.into()], ..target_y() }).unwrap();
        assert_eq!((encoder.numeric_width(), chunks[0].rows()), (1, 2));
    }
}

// ---- Rows ----

#[test]
fn zero_rows_and_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("few.parquet");
    write(&path, &table(0));
    let text = refusal(&path);
    assert!(text.contains("no rows"), "{text}");
    write(&path, &table(1));
    assert_eq!(scan(&open(&path).unwrap()).unwrap()[0].batch.num_rows(), 1);
    let text = message(pipeline(&path, &target_y()));
    assert!(text.contains("'y' is constant") && text.contains("1 row"), "{text}");
}

#[test]
fn empty_files_among_full_ones_are_fine() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("1.parquet"), &table(0));
    write(&folder.path().join("2.parquet"), &table(3000));
    write(&folder.path().join("3.parquet"), &table(0));
    let catalog = open(folder.path()).unwrap();
    assert_eq!((catalog.total_rows, catalog.blocks()), (3000, 2));
    assert_eq!(scan(&catalog).unwrap().len(), 1);
}

#[test]
fn hopeless_targets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let x = || ("x", numbers((0..50).map(f64::from)));
    let refuse = |y: ArrayRef, part: &str| {
        write(&path, &batch(vec![x(), ("y", y)]));
        let text = message(pipeline(&path, &target_y()));
        assert!(text.contains(part) && text.contains("'y'"), "{text}");
    };
    refuse(Arc::new(Float64Array::from(vec![None; 50])), "null in all 50 rows");
    refuse(Arc::new(NullArray::new(50)), "null in all 50 rows");
    refuse(numbers([7.0; 50]), "constant (7)");
    refuse(Arc::new(StringArray::from(vec!["same"; 50])), "constant (same)");
    refuse(Arc::new(BooleanArray::from(vec![true; 50])), "constant (true)");
    refuse(Arc::new(BinaryArray::from(vec![b"x".as_slice(); 50])), "binary");
}

#[test]
fn features_that_say_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.parquet");
    let y = || ("y", numbers((0..50).map(f64::from)));
    write(&path, &batch(vec![("x", Arc::new(Float64Array::from(vec![None; 50]))), ("k", numbers([1.0; 50])), y()]));
    let text = message(pipeline(&path, &target_y()));
    assert!(text.contains("no usable feature") && text.contains("'x'") && text.contains("'k'"), "{text}");
    write(&path, &batch(vec![y()]));
    assert!(message(pipeline(&path, &target_y())).contains("no usable feature"));
}

#[test]
fn impossible_values_are_bad_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.parquet");
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -f64::MAX, 2f64.powi(500)];
    let fine = [f64::MIN_POSITIVE, 5e-324, -0.0, 0.0, 1e-300, 2f64.powi(499)];
    let mut x: Vec<f64> = (0..3000).map(|i| uniform("v", i)).collect();
    for (i, value) in values.iter().chain(&fine).enumerate() {
        x[2040 + i] = *value;
    }
    write(&path, &batch(vec![("x", numbers(x)), ("y", numbers((0..3000).map(f64::from)))]));
    for scale in [Scale::Standard, Scale::Robust, Scale::Quantile] {
        let catalog = open(&path).unwrap();
        let options = EncoderOptions { scale, ..target_y() };
        let mut summaries = profile(&catalog, &options).unwrap();
        // As a profile without 2^499, which would be no outlier but the whole spread.
        (summaries[0].mean, summaries[0].sd) = (0.5, 0.3);
        let encoder = Encoder::fit(&summaries, &options).unwrap();
        let chunk = encode(&catalog, &encoder, Role::All).unwrap().remove(0);
        let bad: Vec<(u64, BadReason)> = chunk.bad.iter().map(|row| (row.ordinal - 2040, row.reason)).collect();
        let mut want = vec![
            (0, BadReason::NotANumber),
            (1, BadReason::Infinite),
            (2, BadReason::Infinite),
            (3, BadReason::TooLarge),
            (4, BadReason::TooLarge),
            (5, BadReason::TooLarge),
        ];
        if scale != Scale::Quantile {
            want.push((11, BadReason::FarOut));
        }
        assert_eq!(bad, want);
        assert!(chunk.bad.iter().all(|row| row.column == "x"));
        assert_eq!(chunk.bad[0].id, FileId::from_relative_path("v.parquet").row(2040));
        assert_eq!(chunk.rows() + bad.len(), 3000);
        assert!(chunk.numeric.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn impossible_targets_and_weights_are_bad_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.parquet");
    let y = vec![Some(f64::NAN), Some(f64::INFINITY), None, Some(1.0), Some(2.0), Some(3.0), Some(4.0)];
    let w = vec![Some(1.0), Some(1.0), Some(-1.0), Some(-1.0), None, Some(0.0), Some(f64::NAN)];
    let columns = vec![
        ("x", numbers((0..7).map(f64::from))),
        ("y", Arc::new(Float64Array::from(y)) as ArrayRef),
        ("w", Arc::new(Float64Array::from(w)) as ArrayRef),
    ];
    write(&path, &batch(columns));
    let options = EncoderOptions { weight: Some("w".into()), ..target_y() };
    let (_, chunks) = pipeline(&path, &options).unwrap();
    let bad: Vec<(u64, &str, BadReason)> =
        chunks[0].bad.iter().map(|row| (row.ordinal, row.column.as_str(), row.reason)).collect();
    assert_eq!(
        bad,
        [
            (0, "y", BadReason::NotANumber),
            (1, "y", BadReason::Infinite),
            (3, "w", BadReason::NegativeWeight),
            (4, "w", BadReason::NullWeight),
            (6, "w", BadReason::NotANumber),
        ]
    );
    assert_eq!((chunks[0].skipped_null_target, chunks[0].ordinals.as_slice()), (1, [5].as_slice()));
}

#[test]
fn ten_thousand_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.parquet");
    let names: Vec<String> = (0..10_000).map(|j| format!("x{j}")).collect();
    let mut columns: Vec<(&str, ArrayRef)> = names
        .iter()
        .enumerate()
        .map(|(j, name)| (name.as_str(), numbers((0..30).map(|i| uniform(name, i + j)))))
        .collect();
    columns.push(("y", numbers((0..30).map(f64::from))));
    write(&path, &batch(columns));
    let (encoder, chunks) = pipeline(&path, &target_y()).unwrap();
    assert_eq!((encoder.numeric_width(), chunks[0].rows(), chunks[0].numeric.len()), (10_000, 30, 300_000));
}

#[test]
fn a_million_levels_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("levels.parquet");
    let rows = 1_000_000;
    let zip = Arc::new(StringArray::from_iter_values((0..rows).map(|i| i.to_string()))) as ArrayRef;
    let y = Arc::new(Int32Array::from_iter_values(0..rows)) as ArrayRef;
    write(&path, &batch(vec![("zip", zip), ("x", y.clone()), ("y", y)]));
    let text = message(pipeline(&path, &target_y()));
    assert!(text.contains("'zip'") && text.contains("65536") && text.contains("--drop"), "{text}");
    // As an id it is welcome, and an integer target with many values is a number.
    let options = EncoderOptions { id_column: Some("zip".into()), ..target_y() };
    let (encoder, _) = pipeline(&path, &options).unwrap();
    assert_eq!(encoder.classes(), None);
    let labels = EncoderOptions { task: nystream_datasets::Task::Classification, ..options };
    assert!(message(pipeline(&path, &labels)).contains("'y' has more than 65536"));
}

#[test]
fn duplicate_rows_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("same.parquet");
    write(&path, &batch(vec![("x", numbers([1.0; 5000])), ("y", numbers([2.0; 5000]))]));
    assert!(message(pipeline(&path, &target_y())).contains("constant"));
}

// ---- Prediction data ----

#[test]
fn prediction_data_lacking_a_column_or_with_another_type() {
    let (folder, path) = good(500);
    let (encoder, _) = pipeline(&path, &target_y()).unwrap();
    let other = folder.path().join("new.parquet");
    let rows = 20;
    let text = || Arc::new(StringArray::from(vec!["level 1"; rows])) as ArrayRef;
    let n = || numbers((0..rows).map(|i| i as f64));
    let refuse = |columns: Vec<(&str, ArrayRef)>, parts: &[&str]| {
        write(&other, &batch(columns));
        let catalog = open(&other).unwrap();
        let message = message(encoder.projection(&catalog, Role::Features));
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        // The encoder itself says the same.
        for raw in scan(&catalog).unwrap() {
            assert!(encoder.encode_features(&raw, &mut Chunk::new()).is_err());
        }
    };
    refuse(vec![("a", n()), ("c", text())], &["'b'", "the model needs it"]);
    refuse(vec![("a", n()), ("b", text()), ("c", text())], &["'b'", "text", "a number"]);
    refuse(vec![("a", n()), ("b", n()), ("c", n())], &["'c'", "numeric", "text"]);
    // No target, other order, more columns, unseen levels, null for everything: all fine.
    let odd = Arc::new(StringArray::from([None, Some("unheard of")].repeat(10))) as ArrayRef;
    let nothing = Arc::new(NullArray::new(rows)) as ArrayRef;
    write(&other, &batch(vec![("more", text()), ("c", odd), ("b", nothing), ("a", n())]));
    let chunks = encode(&open(&other).unwrap(), &encoder, Role::Features).unwrap();
    assert_eq!((chunks[0].rows(), chunks[0].codes.iter().max()), (rows, Some(&0)));
}

#[test]
fn dictionary_columns_with_damaged_text() {
    // Text that is not UTF-8 behind a string annotation.
    let (folder, path) = good(100);
    let mut bytes = std::fs::read(&path).unwrap();
    let plain = folder.path().join("plain.parquet");
    let text: DictionaryArray<Int32Type> = vec!["MARKER"; 100].into_iter().collect();
    write(&plain, &batch(vec![("c", Arc::new(text)), ("y", numbers((0..100).map(f64::from)))]));
    bytes.clear();
    bytes.extend(std::fs::read(&plain).unwrap());
    let place = bytes.windows(6).position(|window| window == b"MARKER").unwrap();
    bytes[place] = 0xFF;
    let bad = folder.path().join("utf8.parquet");
    std::fs::write(&bad, &bytes).unwrap();
    let text = message(open(&bad).and_then(|catalog| scan(&catalog)));
    assert!(text.contains("utf8.parquet") && text.contains("column 'c'"), "{text}");
}
