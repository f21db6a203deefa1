//! Pages that carry checksums are verified as they are read. The library's writer makes none, so the files here are made from its pages, with the
//! checksums put into their headers.

mod common;

use bytes::Bytes;
use common::*;
use nystream_datasets::DataError;
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use std::path::Path;
use std::sync::Arc;

const ROWS: usize = 4000;
const GROUPS: usize = 2;

/// CRC-32 (ISO-HDLC), as in gzip.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// The end of the varint that starts at `at`.
fn after_varint(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1
}

fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The single page of a column chunk with its checksum. A header is, in Thrift's compact protocol: type, size and compressed size, three i32 fields;
/// then the checksum, field 4; then field 5, what is particular to data pages.
fn with_checksum(chunk: &[u8], size: usize) -> Vec<u8> {
    let mut at = 0;
    for _ in 0..3 {
        assert_eq!(chunk[at], 0x15, "an i32 field, the next in number");
        at = after_varint(chunk, at + 1);
    }
    assert_eq!(chunk[at], 0x2C, "a structure, the one after the next in number");
    let crc = crc32(&chunk[chunk.len() - size..]) as i32;
    let zigzag = ((crc << 1) ^ (crc >> 31)) as u32;
    [&chunk[..at], &[0x15], &varint(zigzag), &[0x1C], &chunk[at + 1..]].concat()
}

/// Writes numbers in [`GROUPS`] row groups of one page each, with checksums.
fn write_checked(path: &Path, plain: &Path) {
    let properties = || {
        WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_max_row_group_row_count(Some(ROWS / GROUPS))
    };
    write_with(plain, &batch(vec![("x", numbers((0..ROWS).map(|i| uniform("x", i))))]), properties());
    let bytes = Bytes::from(std::fs::read(plain).unwrap());
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
    let out = std::fs::File::create(path).unwrap();
    let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
    let mut writer = SerializedFileWriter::new(out, schema, Arc::new(properties().build())).unwrap();
    for group in metadata.row_groups() {
        let column = group.column(0);
        let (start, length) = column.byte_range();
        let chunk = &bytes[start as usize..(start + length) as usize];
        // Uncompressed values behind the levels: all but the header.
        let size = {
            let at = after_varint(chunk, after_varint(chunk, 1) + 1) + 1;
            let end = after_varint(chunk, at);
            let zigzag = chunk[at..end].iter().rev().fold(0usize, |value, byte| value << 7 | usize::from(byte & 0x7F));
            zigzag / 2
        };
        let checked = Bytes::from(with_checksum(chunk, size));
        let metadata = column
            .clone()
            .into_builder()
            .set_data_page_offset(0)
            .set_total_compressed_size(checked.len() as i64)
            .set_total_uncompressed_size(checked.len() as i64)
            .set_offset_index_offset(None)
            .set_offset_index_length(None)
            .build()
            .unwrap();
        let mut rows = writer.next_row_group().unwrap();
        let close = ColumnCloseResult {
            bytes_written: checked.len() as u64,
            rows_written: group.num_rows() as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        rows.append_column(&checked, close).unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn a_flipped_byte_is_found_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plain) = (folder.path().join("d.parquet"), folder.path().join("plain.parquet"));
    write_checked(&path, &plain);
    let whole = scan(&open(&path).unwrap()).unwrap();
    assert_eq!(whole.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), ROWS);
    let catalog = open(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(good.clone())).unwrap();
    for group in 0..GROUPS {
        let (start, length) = metadata.row_group(group).column(0).byte_range();
        // The last byte of a page is one of a number: without a checksum it would be another number.
        for back in [1, 8, 4001] {
            let mut bad = good.clone();
            bad[(start + length - back) as usize] ^= 1;
            std::fs::write(&path, bad).unwrap();
            let error = scan(&catalog).unwrap_err();
            let found = matches!(&error, DataError::Decode { row_group, column: Some(column), .. }
                if *row_group == group && column == "x");
            let text = error.to_string();
            assert!(found && text.contains("d.parquet") && text.contains("CRC"), "{text}");
        }
    }
    // The same flip in a file without checksums is another number, and nobody can tell.
    let mut bytes = std::fs::read(&plain).unwrap();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(bytes.clone())).unwrap();
    let (start, length) = metadata.row_group(0).column(0).byte_range();
    bytes[(start + length - 1) as usize] ^= 1;
    std::fs::write(&plain, bytes).unwrap();
    assert!(scan(&open(&plain).unwrap()).is_ok());
}
