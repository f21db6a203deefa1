//! The plain view of encoded rows that every kernel routine takes.

use serde::{Deserialize, Serialize};

/// `len` encoded rows: a dense numeric part and a categorical part.
///
/// * `numeric`: `len x numeric_width`, row-major, encoded units (centred and scaled), finite;
/// * `codes`: `len x code_width`, row-major, the level of each categorical column. A categorical
///   column stands for its one-hot encoding over sqrt 2: two rows with different codes are at squared distance 1
///   in that column, and rows with equal codes have inner product 1/2 there. Codes are opaque: only equality counts.
///
/// ```
/// use nystream_kernels::rows::Rows;
/// let rows = Rows::new(&[0.0, 1.0, 2.0, 3.0], 2, &[], 0);
/// assert_eq!(rows.len(), 2);
/// assert_eq!(rows.numeric(1), &[2.0, 3.0]);
/// assert_eq!(rows.slice(1, 2).numeric(0), &[2.0, 3.0]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    numeric: &'a [f32],
    numeric_width: usize,
    codes: &'a [u16],
    code_width: usize,
    len: usize,
}

impl<'a> Rows<'a> {
    /// A view of `numeric` and `codes`, both row-major with the given widths.
    ///
    /// # Panics
    /// If the lengths are not the same whole number of rows, or both widths are zero.
    pub fn new(numeric: &'a [f32], numeric_width: usize, codes: &'a [u16], code_width: usize) -> Self {
        assert!(numeric_width + code_width > 0, "rows need at least one column");
        let len = numeric.len().checked_div(numeric_width).unwrap_or_else(|| codes.len() / code_width);
        assert_eq!(numeric.len(), len * numeric_width, "numeric part is not whole rows");
        assert_eq!(codes.len(), len * code_width, "categorical part is not whole rows");
        Rows { numeric, numeric_width, codes, code_width, len }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Numeric columns.
    pub fn numeric_width(&self) -> usize {
        self.numeric_width
    }

    /// Categorical columns.
    pub fn code_width(&self) -> usize {
        self.code_width
    }

    /// The numeric part of row `i`.
    pub fn numeric(&self, i: usize) -> &'a [f32] {
        &self.numeric[i * self.numeric_width..(i + 1) * self.numeric_width]
    }

    /// The codes of row `i`.
    pub fn codes(&self, i: usize) -> &'a [u16] {
        &self.codes[i * self.code_width..(i + 1) * self.code_width]
    }

    /// All numeric values, row-major.
    pub fn all_numeric(&self) -> &'a [f32] {
        self.numeric
    }

    /// All codes, row-major.
    pub fn all_codes(&self) -> &'a [u16] {
        self.codes
    }

    /// Rows `start..end`.
    ///
    /// # Panics
    /// If the range is not within the rows.
    pub fn slice(&self, start: usize, end: usize) -> Rows<'a> {
        Rows {
            numeric: &self.numeric[start * self.numeric_width..end * self.numeric_width],
            numeric_width: self.numeric_width,
            codes: &self.codes[start * self.code_width..end * self.code_width],
            code_width: self.code_width,
            len: end - start,
        }
    }
}

/// Owned rows: dictionaries, centers, samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowBuf {
    /// `len x numeric_width`, row-major.
    pub numeric: Vec<f32>,
    /// Numeric columns.
    pub numeric_width: usize,
    /// `len x code_width`, row-major.
    pub codes: Vec<u16>,
    /// Categorical columns.
    pub code_width: usize,
}

impl RowBuf {
    /// No rows yet, of the given widths.
    pub fn new(numeric_width: usize, code_width: usize) -> Self {
        RowBuf { numeric: Vec::new(), numeric_width, codes: Vec::new(), code_width }
    }

    /// A view of all rows.
    pub fn view(&self) -> Rows<'_> {
        Rows::new(&self.numeric, self.numeric_width, &self.codes, self.code_width)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.numeric.len().checked_div(self.numeric_width).unwrap_or_else(|| self.codes.len() / self.code_width.max(1))
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends row `i` of `rows`.
    pub fn push(&mut self, rows: Rows<'_>, i: usize) {
        self.numeric.extend_from_slice(rows.numeric(i));
        self.codes.extend_from_slice(rows.codes(i));
    }

    /// The rows at `indices`, in that order.
    pub fn gather(rows: Rows<'_>, indices: &[usize]) -> Self {
        let mut out = RowBuf::new(rows.numeric_width(), rows.code_width());
        for &i in indices {
            out.push(rows, i);
        }
        out
    }
}
