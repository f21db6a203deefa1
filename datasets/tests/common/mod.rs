//! Helpers of the integration tests: writing files, and a plain in-memory profile.
#![allow(dead_code)] // Each test binary uses its own part.

use arrow_array::{ArrayRef, Float64Array, RecordBatch};
use nystream_datasets::{
    BlockReader, Catalog, Chunk, ColumnSummary, DataError, Encoder, EncoderOptions, LevelCount, LevelCounter,
    NumericColumn, RawBatch, ReadOptions, Role, Sources, TextColumn,
};
use nystream_hashing::{RowId, StreamKey};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use std::path::Path;
use std::sync::Arc;

/// A uniform number for (stream, i).
pub fn uniform(stream: &str, i: usize) -> f64 {
    StreamKey::new(5, stream, 0).uniform(RowId(i as u128))
}

/// Writes `batch` with the given properties.
pub fn write_with(path: &Path, batch: &RecordBatch, properties: WriterPropertiesBuilder) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build())).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Writes `batch` with default properties.
pub fn write(path: &Path, batch: &RecordBatch) {
    write_with(path, batch, WriterProperties::builder());
}

/// A batch of nullable columns.
pub fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// A column of numbers.
pub fn numbers(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

/// A catalog of one source.
pub fn open(source: &Path) -> Result<Catalog, DataError> {
    Catalog::open(&Sources::parse(&[source.to_str().unwrap()])?)
}

/// All batches of all columns.
pub fn scan(catalog: &Catalog) -> Result<Vec<RawBatch>, DataError> {
    let all: Vec<usize> = (0..catalog.columns.len()).collect();
    BlockReader::new(catalog, catalog.partition(1, 0), &all, ReadOptions::default()).collect()
}

/// A profile of finite values, kept in memory.
pub fn profile(catalog: &Catalog, options: &EncoderOptions) -> Result<Vec<ColumnSummary>, DataError> {
    let plan = options.plan(&catalog.columns)?;
    let reader = BlockReader::new(catalog, catalog.partition(1, 0), &plan.projection(), ReadOptions::default());
    let batches: Vec<RawBatch> = reader.collect::<Result<_, _>>()?;
    let mut summaries = Vec::new();
    for (c, planned) in plan.columns.iter().enumerate() {
        let mut summary = ColumnSummary::empty(&planned.info);
        let (mut values, mut levels) = (Vec::new(), LevelCounter::default());
        for raw in &batches {
            let array = raw.batch.column(c);
            let nulls = array.logical_nulls().map_or(0, |nulls| nulls.null_count()) as u64;
            summary.nulls += nulls;
            summary.count += array.len() as u64 - nulls;
            if planned.numeric {
                values.extend(NumericColumn::new("c", array)?.iter().flatten().filter(|v| v.abs() < 1e150));
            }
            if planned.levels != LevelCount::None {
                levels.add(&TextColumn::new(&planned.info.name, array)?, |_| true);
            }
        }
        values.sort_by(f64::total_cmp);
        if let (Some(first), Some(last)) = (values.first(), values.last()) {
            let n = values.len() as f64;
            (summary.min, summary.max) = (*first, *last);
            summary.mean = values.iter().sum::<f64>() / n;
            summary.sd = (values.iter().map(|v| (v - summary.mean).powi(2)).sum::<f64>() / n).sqrt();
            summary.quantiles = (0..=100).map(|i| values[i * (values.len() - 1) / 100]).collect();
        }
        summary.levels = match planned.levels {
            LevelCount::None => None,
            LevelCount::Required => Some(levels.finish(&planned.info.name)?),
            LevelCount::Optional => levels.finish(&planned.info.name).ok(),
        };
        summaries.push(summary);
    }
    Ok(summaries)
}

/// Catalog, profile, encoder, and all encoded rows.
pub fn pipeline(source: &Path, options: &EncoderOptions) -> Result<(Encoder, Vec<Chunk>), DataError> {
    let catalog = open(source)?;
    let encoder = Encoder::fit(&profile(&catalog, options)?, options)?;
    let chunks = encode(&catalog, &encoder, Role::All)?;
    Ok((encoder, chunks))
}

/// All rows of `catalog` that play `role`.
pub fn encode(catalog: &Catalog, encoder: &Encoder, role: Role) -> Result<Vec<Chunk>, DataError> {
    let projection = encoder.projection(catalog, role)?;
    let mut chunks = Vec::new();
    for raw in BlockReader::new(catalog, catalog.partition(1, 0), &projection, ReadOptions::default()) {
        let mut chunk = Chunk::new();
        encoder.encode(&raw?, role, &mut chunk)?;
        chunks.push(chunk);
    }
    Ok(chunks)
}

/// Options with target `y`.
pub fn target_y() -> EncoderOptions {
    EncoderOptions { targets: vec!["y".into()], ..Default::default() }
}
