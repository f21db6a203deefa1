//! Little-endian encoding of what parcels carry, with checked reading.
//!
//! ```
//! use nystream_dataflows::StageError;
//! use nystream_dataflows::engine::bytes::{Reader, Writer};
//! let mut out = Writer::default();
//! out.u64(3);
//! out.f64s(&[0.5, -2.0]);
//! // A number takes 8 bytes, and so does the length of what has one.
//! assert_eq!(out.0.len(), 8 + 8 + 16);
//! let mut from = Reader(&out.0);
//! assert_eq!((from.u64()?, from.f64s()?, from.is_empty()), (3, vec![0.5, -2.0], true));
//! assert!(matches!(Reader(&out.0[..20]).f64s(), Err(StageError::Internal(_))));
//! # Ok::<(), StageError>(())
//! ```
//!
//! Values carry no tags: they are read as they were written, in the same order.

use crate::error::StageError;
use nystream_hashing::RowId;
use nystream_kernels::rows::RowBuf;

/// Writes values one after the other.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// One integer.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A length and so many floats.
    pub fn f64s(&mut self, values: &[f64]) {
        self.u64(values.len() as u64);
        values.iter().for_each(|v| self.0.extend_from_slice(&v.to_le_bytes()));
    }

    /// A length and so many ids.
    pub fn ids(&mut self, ids: &[RowId]) {
        self.u64(ids.len() as u64);
        ids.iter().for_each(|id| self.0.extend_from_slice(&id.0.to_le_bytes()));
    }

    /// A length and so many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Encoded rows with their widths.
    pub fn rows(&mut self, rows: &RowBuf) {
        self.u64(rows.numeric_width as u64);
        self.u64(rows.code_width as u64);
        self.u64(rows.numeric.len() as u64);
        rows.numeric.iter().for_each(|v| self.0.extend_from_slice(&v.to_le_bytes()));
        self.u64(rows.codes.len() as u64);
        rows.codes.iter().for_each(|v| self.0.extend_from_slice(&v.to_le_bytes()));
    }
}

/// Reads what [`Writer`] wrote; every read is checked, and one that finds too few bytes is [`StageError::Internal`].
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], StageError> {
        if count > self.0.len() {
            return Err(StageError::Internal("a message arrived cut short".into()));
        }
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    fn length(&mut self, size: usize) -> Result<usize, StageError> {
        let count = self.u64()?;
        match usize::try_from(count).ok().and_then(|c| c.checked_mul(size)) {
            Some(bytes) if bytes <= self.0.len() => Ok(bytes),
            _ => Err(StageError::Internal("a message announces more than it holds".into())),
        }
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One integer.
    pub fn u64(&mut self) -> Result<u64, StageError> {
        let word = self.take(8)?;
        Ok(u64::from_le_bytes(std::array::from_fn(|k| word[k])))
    }

    /// Floats behind their length.
    pub fn f64s(&mut self) -> Result<Vec<f64>, StageError> {
        let bytes = self.length(8)?;
        Ok(self.take(bytes)?.chunks_exact(8).map(|w| f64::from_le_bytes(std::array::from_fn(|k| w[k]))).collect())
    }

    /// Ids behind their length.
    pub fn ids(&mut self) -> Result<Vec<RowId>, StageError> {
        let bytes = self.length(16)?;
        let words = self.take(bytes)?.chunks_exact(16);
        Ok(words.map(|w| RowId(u128::from_le_bytes(std::array::from_fn(|k| w[k])))).collect())
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], StageError> {
        let bytes = self.length(1)?;
        self.take(bytes)
    }

    /// Encoded rows.
    pub fn rows(&mut self) -> Result<RowBuf, StageError> {
        let numeric_width = self.u64()? as usize;
        let code_width = self.u64()? as usize;
        let bytes = self.length(4)?;
        let numeric =
            self.take(bytes)?.chunks_exact(4).map(|w| f32::from_le_bytes(std::array::from_fn(|k| w[k]))).collect();
        let bytes = self.length(2)?;
        let codes =
            self.take(bytes)?.chunks_exact(2).map(|w| u16::from_le_bytes(std::array::from_fn(|k| w[k]))).collect();
        Ok(RowBuf { numeric, numeric_width, codes, code_width })
    }
}
