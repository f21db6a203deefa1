//! Canonical bytes of a Gram matrix, in pieces small enough for a channel.
//!
//! A piece is a run of at most [`PIECE_VALUES`] integers of one buffer: a header (shape and piece number, so that pieces of
//! different fits are never mixed), the width of the widest integer in bytes, and the integers in that width, two's complement,
//! little-endian. The width is a function of the values: equal states have equal bytes.

use super::{ExactGram, GramError, Precision, buffer_lengths, lock};

/// Integers per piece: at most 2^19 bytes and a header.
const PIECE_VALUES: usize = 1 << 15;
pub(super) const HEADER: usize = 8 + 8 + 1 + 4 + 8 + 1;

impl ExactGram {
    /// Number of pieces.
    pub fn pieces(&self) -> usize {
        buffer_lengths(self.shape).map(|length| length.div_ceil(PIECE_VALUES)).sum()
    }

    /// The canonical bytes of a piece, at most 1 MB.
    ///
    /// # Errors
    /// [`GramError::NoSuchPiece`].
    ///
    /// ```
    /// use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, Precision};
    /// let shape = GramShape { centers: 1, targets: 1, precision: Precision::Double, scale_log2: 0 };
    /// let (here, there) = (ExactGram::new(shape), ExactGram::new(shape));
    /// there.add(&mut GramScratch::default(), &[0.5f64], 1, 1, None, &[1.0]).unwrap();
    /// // A worker sends its pieces, another adds them up.
    /// for piece in 0..there.pieces() {
    ///     here.import_add(piece, &there.export(piece).unwrap()).unwrap();
    /// }
    /// assert_eq!(here.finish(), there.finish());
    /// ```
    pub fn export(&self, piece: usize) -> Result<Vec<u8>, GramError> {
        let (buffer, first) = self.locate(piece)?;
        let buffer = lock(&self.buffers[buffer]);
        let values = &buffer[first..buffer.len().min(first + PIECE_VALUES)];
        let width = values.iter().map(|&value| bytes_of(value)).max().unwrap_or(1);
        let mut bytes = self.header(piece);
        bytes.reserve(1 + width * values.len());
        bytes.push(width as u8);
        for value in values {
            bytes.extend_from_slice(&value.to_le_bytes()[..width]);
        }
        Ok(bytes)
    }

    /// Adds an exported piece of another Gram matrix of the same shape. Importing all its pieces once is [`ExactGram::merge`].
    ///
    /// # Errors
    /// [`GramError::NoSuchPiece`], and [`GramError::BadPiece`] for bytes that are not this piece in canonical form; nothing is added then.
    pub fn import_add(&self, piece: usize, bytes: &[u8]) -> Result<(), GramError> {
        let (buffer, first) = self.locate(piece)?;
        let bad = |reason| GramError::BadPiece { piece, reason };
        if bytes.len() < HEADER {
            return Err(bad("shorter than a header"));
        }
        if bytes[..HEADER - 1] != self.header(piece) {
            return Err(bad("another shape or piece"));
        }
        let (width, payload) = (usize::from(bytes[HEADER - 1]), &bytes[HEADER..]);
        let mut buffer = lock(&self.buffers[buffer]);
        let end = buffer.len().min(first + PIECE_VALUES);
        let sums = &mut buffer[first..end];
        if !(1..=16).contains(&width) || payload.len() != width * sums.len() {
            return Err(bad("length does not fit"));
        }
        let values = payload.chunks_exact(width).map(decode);
        if values.clone().map(bytes_of).max() != Some(width) {
            return Err(bad("integers wider than needed"));
        }
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = sum.wrapping_add(value);
        }
        Ok(())
    }

    /// The sum of the same piece of several Gram matrices, in canonical bytes, without holding a whole matrix.
    ///
    /// # Errors
    /// [`GramError::BadPiece`] when there is none, or they are not the same piece of one shape.
    ///
    /// ```
    /// use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, Precision};
    /// let shape = GramShape { centers: 1, targets: 1, precision: Precision::Single, scale_log2: 0 };
    /// let part = ExactGram::new(shape);
    /// part.add(&mut GramScratch::default(), &[1.0f32], 1, 1, None, &[0.5]).unwrap();
    /// let piece = part.export(0).unwrap();
    /// let sum = ExactGram::sum_pieces(0, &[piece.clone(), piece]).unwrap();
    /// part.merge(&part).unwrap();
    /// assert_eq!(sum, part.export(0).unwrap());
    /// ```
    pub fn sum_pieces(piece: usize, parts: &[Vec<u8>]) -> Result<Vec<u8>, GramError> {
        let bad = |reason| GramError::BadPiece { piece, reason };
        let header =
            parts.first().and_then(|part| part.get(..HEADER - 1)).ok_or_else(|| bad("shorter than a header"))?;
        let mut sums: Vec<i128> = Vec::new();
        for part in parts {
            if part.len() < HEADER || part[..HEADER - 1] != *header {
                return Err(bad("another shape or piece"));
            }
            let (width, payload) = (usize::from(part[HEADER - 1]), &part[HEADER..]);
            if !(1..=16).contains(&width) || payload.len() % width != 0 {
                return Err(bad("length does not fit"));
            }
            let values = payload.chunks_exact(width).map(decode);
            if sums.is_empty() {
                sums = values.collect();
            } else if sums.len() != payload.len() / width {
                return Err(bad("length does not fit"));
            } else {
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
            }
        }
        let width = sums.iter().map(|&value| bytes_of(value)).max().unwrap_or(1);
        let mut bytes = header.to_vec();
        bytes.push(width as u8);
        sums.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()[..width]));
        Ok(bytes)
    }

    fn header(&self, piece: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&(self.shape.centers as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.shape.targets as u64).to_le_bytes());
        bytes.push(match self.shape.precision {
            Precision::Single => 0,
            Precision::Double => 1,
        });
        bytes.extend_from_slice(&self.shape.scale_log2.to_le_bytes());
        bytes.extend_from_slice(&(piece as u64).to_le_bytes());
        bytes
    }

    fn locate(&self, piece: usize) -> Result<(usize, usize), GramError> {
        let mut rest = piece;
        for (index, length) in buffer_lengths(self.shape).enumerate() {
            let pieces = length.div_ceil(PIECE_VALUES);
            if rest < pieces {
                return Ok((index, rest * PIECE_VALUES));
            }
            rest -= pieces;
        }
        Err(GramError::NoSuchPiece { piece, pieces: self.pieces() })
    }
}

/// Bytes of the shortest two's complement form.
fn bytes_of(value: i128) -> usize {
    let magnitude = if value < 0 { !value } else { value };
    (128 - magnitude.leading_zeros() as usize) / 8 + 1
}

fn decode(bytes: &[u8]) -> i128 {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut buffer = [if negative { 0xff } else { 0 }; 16];
    buffer[..bytes.len()].copy_from_slice(bytes);
    i128::from_le_bytes(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summed_pieces_are_those_of_the_merged_matrix() {
        let shape = crate::gram::GramShape { centers: 3, targets: 1, precision: Precision::Single, scale_log2: 0 };
        let whole = ExactGram::new(shape);
        let parts: Vec<ExactGram> = (0..3)
            .map(|p| {
                let part = ExactGram::new(shape);
                let k: Vec<f64> = (0..3 * 4).map(|i| ((i * (p + 2)) % 7) as f64 / 7.0).collect();
                let y = [0.5, -0.25, 1.0, -1.0];
                for gram in [&part, &whole] {
                    gram.add(&mut crate::gram::GramScratch::default(), &k, 3, 4, None, &y).unwrap();
                }
                part
            })
            .collect();
        for piece in 0..whole.pieces() {
            let exported: Vec<Vec<u8>> = parts.iter().map(|part| part.export(piece).unwrap()).collect();
            assert_eq!(ExactGram::sum_pieces(piece, &exported).unwrap(), whole.export(piece).unwrap());
        }
        assert!(ExactGram::sum_pieces(0, &[]).is_err());
        let odd = [whole.export(0).unwrap(), whole.export(1).unwrap()];
        assert!(ExactGram::sum_pieces(0, &odd).is_err());
    }

    #[test]
    fn shortest_forms_round_trip() {
        for value in [0, 1, -1, 127, 128, -128, -129, 32767, 32768, i128::from(i64::MIN), i128::MAX, i128::MIN] {
            let width = bytes_of(value);
            assert_eq!(decode(&value.to_le_bytes()[..width]), value);
            assert!(width == 1 || decode(&value.to_le_bytes()[..width - 1]) != value);
        }
    }
}
