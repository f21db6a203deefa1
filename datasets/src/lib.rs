//! Arrow and Parquet in and out, encoding, blocks, row ids, cache, synthetic sources.
