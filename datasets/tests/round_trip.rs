//! What is written is what is read: every physical type, any layout of pages and row groups, any ownership of blocks.

mod common;

use arrow_array::types::Int32Type;
use arrow_array::*;
use arrow_schema::DataType;
use common::*;
use nystream_datasets::{
    BLOCK_ROWS, BlockReader, Catalog, ColumnKind, NumericColumn, ReadOptions, Sources, TextColumn,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use std::io::Write as _;
use std::sync::Arc;

const ROWS: usize = 7001;

/// One column of every readable type, with nulls.
fn every_type() -> RecordBatch {
    let keep = |i: usize| i % 11 != 3;
    let value = |i: usize| (uniform("types", i) * 100.0).floor();
    let some = |i: usize| keep(i).then(|| value(i));
    macro_rules! column {
        ($array:ty, $native:ty) => {
            Arc::new(<$array>::from_iter((0..ROWS).map(|i| some(i).map(|v| v as $native)))) as ArrayRef
        };
    }
    let decimal = |array: Decimal128Array| Arc::new(array.with_precision_and_scale(20, 3).unwrap()) as ArrayRef;
    let text = |i: usize| some(i).map(|v| format!("level {v}"));
    let texts: Vec<Option<String>> = (0..ROWS).map(text).collect();
    batch(vec![
        ("i8", column!(Int8Array, i8)),
        ("i16", column!(Int16Array, i16)),
        ("i32", column!(Int32Array, i32)),
        ("i64", column!(Int64Array, i64)),
        ("u8", column!(UInt8Array, u8)),
        ("u16", column!(UInt16Array, u16)),
        ("u32", column!(UInt32Array, u32)),
        ("u64", column!(UInt64Array, u64)),
        ("f32", column!(Float32Array, f32)),
        ("f64", column!(Float64Array, f64)),
        ("decimal", decimal(Decimal128Array::from_iter((0..ROWS).map(|i| some(i).map(|v| v as i128 * 1000))))),
        ("date", column!(Date32Array, i32)),
        ("time", column!(Time64MicrosecondArray, i64)),
        ("ms", column!(TimestampMillisecondArray, i64)),
        ("us", column!(TimestampMicrosecondArray, i64)),
        ("ns", column!(TimestampNanosecondArray, i64)),
        ("bool", Arc::new(BooleanArray::from_iter((0..ROWS).map(|i| some(i).map(|v| v > 50.0))))),
        ("utf8", Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref)))),
        ("large", Arc::new(LargeStringArray::from_iter(texts.iter().map(Option::as_deref)))),
        ("view", Arc::new(StringViewArray::from_iter(texts.iter().map(Option::as_deref)))),
        ("dictionary", Arc::new(texts.iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())),
        ("unique", Arc::new(StringArray::from_iter_values((0..ROWS).map(|i| format!("row {i}"))))),
        ("row", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
    ])
}

/// Text of every cell: numbers by value, so that the storage type does not matter.
fn cells(array: &ArrayRef) -> Vec<Option<String>> {
    if ColumnKind::of(array.data_type()) == ColumnKind::Text {
        let column = TextColumn::new("c", array).unwrap();
        return (0..column.len()).map(|i| column.get(i).map(str::to_string)).collect();
    }
    NumericColumn::new("c", array).unwrap().iter().map(|v| v.map(|v| v.to_string())).collect()
}

fn layouts() -> Vec<(&'static str, WriterPropertiesBuilder)> {
    let base = WriterProperties::builder;
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
    vec![
        ("default", base()),
        (
            "one group, small zstd pages",
            base().set_compression(zstd).set_data_page_row_count_limit(100).set_write_batch_size(50),
        ),
        ("ragged groups", base().set_max_row_group_row_count(Some(1000)).set_compression(Compression::SNAPPY)),
        ("tiny groups", base().set_max_row_group_row_count(Some(37))),
        (
            "no dictionaries",
            base()
                .set_dictionary_enabled(false)
                .set_max_row_group_row_count(Some(2048))
                .set_compression(Compression::LZ4_RAW),
        ),
        (
            "dictionaries that overflow",
            base().set_dictionary_page_size_limit(200).set_data_page_row_count_limit(64).set_write_batch_size(64),
        ),
        (
            "version 2, byte stream split",
            base()
                .set_writer_version(WriterVersion::PARQUET_2_0)
                .set_column_encoding("f32".into(), Encoding::BYTE_STREAM_SPLIT)
                .set_column_dictionary_enabled("f32".into(), false)
                .set_compression(Compression::GZIP(Default::default())),
        ),
    ]
}

#[test]
fn every_type_in_every_layout() {
    let folder = tempfile::tempdir().unwrap();
    let batch = every_type();
    for (name, properties) in layouts() {
        let path = folder.path().join("a.parquet");
        write_with(&path, &batch, properties);
        let catalog = open(&path).unwrap();
        assert_eq!(catalog.total_rows, ROWS as u64);
        let all: Vec<usize> = (0..catalog.columns.len()).collect();
        for dictionary_text in [true, false] {
            let options = ReadOptions { blocks_per_batch: 1, dictionary_text };
            let mut got: Vec<Vec<Option<String>>> = vec![Vec::new(); all.len()];
            for raw in BlockReader::new(&catalog, catalog.partition(1, 0), &all, options) {
                let raw = raw.unwrap();
                for (cell, array) in got.iter_mut().zip(raw.batch.columns()) {
                    cell.extend(cells(array));
                }
                let text = raw.batch.column_by_name("utf8").unwrap().data_type().clone();
                assert_eq!(matches!(text, DataType::Dictionary(..)), dictionary_text);
            }
            for (c, field) in batch.schema().fields().iter().enumerate() {
                assert_eq!(got[c], cells(batch.column(c)), "{name}: {}", field.name());
            }
        }
    }
}

#[test]
fn any_ownership_reads_every_row_once() {
    let folder = tempfile::tempdir().unwrap();
    let batch = every_type();
    for (i, (_, properties)) in layouts().into_iter().take(4).enumerate() {
        write_with(&folder.path().join(format!("{i}.parquet")), &batch.slice(0, ROWS - 500 * i), properties);
    }
    let catalog = open(folder.path()).unwrap();
    let row = catalog.column("row", "test").unwrap();
    let want: Vec<(usize, i64)> =
        (0..4).flat_map(|file| (0..(ROWS - 500 * file) as i64).map(move |row| (file, row))).collect();
    for peers in [1, 2, 3, 16] {
        for blocks_per_batch in [1, 3, 4] {
            let mut got = Vec::new();
            for index in 0..peers {
                let options = ReadOptions { blocks_per_batch, ..Default::default() };
                for raw in BlockReader::new(&catalog, catalog.partition(peers, index), &[row], options) {
                    let raw = raw.unwrap();
                    assert_eq!(raw.first_ordinal % BLOCK_ROWS, 0);
                    let rows = raw.batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
                    assert_eq!(rows.value(0), raw.first_ordinal as i64);
                    got.extend(rows.values().iter().map(|row| (raw.file, *row)));
                }
            }
            assert_eq!(got, want, "{peers} peers, {blocks_per_batch} blocks");
        }
    }
}

#[test]
fn projections_keep_their_order_and_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &every_type());
    let catalog = open(&path).unwrap();
    let [utf8, row, i8] = ["utf8", "row", "i8"].map(|name| catalog.column(name, "test").unwrap());
    for projection in [vec![utf8, row, i8], vec![row, i8, row], vec![i8], vec![]] {
        let mut rows = 0;
        for raw in BlockReader::new(&catalog, catalog.partition(1, 0), &projection, ReadOptions::default()) {
            let raw = raw.unwrap();
            let names: Vec<String> = raw.batch.schema().fields().iter().map(|f| f.name().clone()).collect();
            let want: Vec<String> = projection.iter().map(|i| catalog.columns[*i].name.clone()).collect();
            assert_eq!(names, want);
            rows += raw.batch.num_rows();
        }
        assert_eq!(rows, ROWS);
    }
}

/// Two files with the same columns in another order, and with other storage types of the same kind.
#[test]
fn files_may_differ_in_column_order_and_width() {
    let folder = tempfile::tempdir().unwrap();
    let a = Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef;
    let b = Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef;
    write(&folder.path().join("1.parquet"), &batch(vec![("a", a), ("b", b)]));
    let a = Arc::new(Float64Array::from(vec![3.5])) as ArrayRef;
    let b = Arc::new(LargeStringArray::from(vec!["z"])) as ArrayRef;
    write(&folder.path().join("2.parquet"), &batch(vec![("b", b), ("a", a)]));
    let nothing = Arc::new(NullArray::new(1)) as ArrayRef;
    let b = Arc::new(StringArray::from(vec!["w"])) as ArrayRef;
    write(&folder.path().join("3.parquet"), &batch(vec![("b", b), ("a", nothing)]));
    let catalog = open(folder.path()).unwrap();
    assert!(!catalog.columns[0].integer);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for raw in scan(&catalog).unwrap() {
        a.extend(cells(raw.batch.column(0)));
        b.extend(cells(raw.batch.column(1)));
    }
    let some = |text: &str| Some(text.to_string());
    assert_eq!(a, [some("1"), some("2"), some("3.5"), None]);
    assert_eq!(b, [some("x"), some("y"), some("z"), some("w")]);
}

#[test]
fn bytes_read_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let values = numbers((0..100_000).map(|i| uniform("bytes", i)));
    write_with(
        &path,
        &batch(vec![("a", values.clone()), ("b", values)]),
        WriterProperties::builder().set_dictionary_enabled(false),
    );
    let catalog = open(&path).unwrap();
    let mut both = BlockReader::new(&catalog, catalog.partition(1, 0), &[0, 1], ReadOptions::default());
    assert!(both.by_ref().all(|raw| raw.is_ok()));
    let mut one = BlockReader::new(&catalog, catalog.partition(1, 0), &[0], ReadOptions::default());
    assert!(one.by_ref().all(|raw| raw.is_ok()));
    let size = catalog.files[0].bytes as f64;
    let share = |reader: &BlockReader| reader.bytes_read() as f64 / size;
    assert!((0.95..1.1).contains(&share(&both)), "{}", share(&both));
    assert!((0.45..0.6).contains(&share(&one)), "{}", share(&one));
}

/// A row group of a million rows is decoded a batch at a time: no batch holds more than it should.
#[test]
fn huge_row_groups_come_in_batches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let rows = 300_000;
    write(&path, &batch(vec![("a", numbers((0..rows).map(|i| i as f64)))]));
    let catalog = open(&path).unwrap();
    assert_eq!(catalog.files[0].row_groups.len(), 2);
    for index in 0..3 {
        let mut reader = BlockReader::new(&catalog, catalog.partition(3, index), &[0], ReadOptions::default());
        let first = reader.next().unwrap().unwrap();
        assert_eq!(first.batch.num_rows(), 8192);
        let value = NumericColumn::new("a", first.batch.column(0)).unwrap().get(0);
        assert_eq!(value, Some(first.first_ordinal as f64));
        assert_eq!(first.first_ordinal, catalog.blocks() * index as u64 / 3 * BLOCK_ROWS);
    }
}

/// The real data, when it is there: row counts and nulls of its manifest.
#[test]
fn development_data_matches_its_manifest() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let root = std::env::var("NYSTREAM_SHARED_DATA").unwrap_or_else(|_| beside.into());
    if !std::path::Path::new(&root).is_dir() {
        let _ = writeln!(std::io::stderr(), "skipped: no development data at {root} (set NYSTREAM_SHARED_DATA)");
        return;
    }
    let rows =
        |source: &str| Catalog::open(&Sources::parse(&[format!("{root}/{source}")]).unwrap()).unwrap().total_rows;
    assert_eq!(rows("kin40k.train.parquet"), 36_000);
    assert_eq!(rows("kin40k.test.parquet"), 4_000);
    assert_eq!(rows("protein.*.parquet"), 45_730);
    assert_eq!(rows("keggdirected.train.parquet"), 43_945);
    assert_eq!(rows("acs_income.train.parquet"), 265_737);
    assert_eq!(rows("beijing_air/*/*.parquet"), 420_768);
    let catalog = Catalog::open(&Sources::parse(&[format!("{root}/beijing_air")]).unwrap()).unwrap();
    assert_eq!((catalog.files.len(), catalog.columns.len()), (24, 17));
    let mut nulls = [0u64; 17];
    for raw in scan(&catalog).unwrap() {
        for (total, column) in nulls.iter_mut().zip(raw.batch.columns()) {
            *total += column.logical_nulls().map_or(0, |n| n.null_count()) as u64;
        }
    }
    let of = |name: &str| nulls[catalog.column(name, "test").unwrap()];
    let want = [
        ("PM2.5", 8739),
        ("PM10", 6449),
        ("SO2", 9021),
        ("NO2", 12_116),
        ("CO", 20_701),
        ("O3", 13_277),
        ("TEMP", 398),
        ("PRES", 393),
        ("DEWP", 403),
        ("RAIN", 390),
        ("wd", 1822),
        ("WSPM", 318),
    ];
    assert_eq!(want.map(|(name, _)| (name, of(name))), want);
    let options = nystream_datasets::EncoderOptions { targets: vec!["PM2.5".into()], ..Default::default() };
    let (encoder, chunks) = pipeline(&std::path::Path::new(&root).join("beijing_air/train"), &options).unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.rows()).sum::<usize>(), 371_069);
    assert_eq!(encoder.code_width(), 2);
    assert!(chunks.iter().all(|chunk| chunk.bad.is_empty()));
}
