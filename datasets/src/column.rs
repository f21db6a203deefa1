//! Typed access to Arrow columns: every usable type as `f64` values or as text levels.
//!
//! The rest of the crate sees two views only: [`NumericColumn`] and [`TextColumn`]. Conversions
//! are fixed here, once, because they are part of the model:
//!
//! * integers beyond 2^53 round to the nearest `f64`; decimals are their unscaled integer rounded to `f64`, over 10^scale;
//! * booleans are 0 and 1;
//! * dates, timestamps, times and durations are seconds (since 1970-01-01 UTC; since midnight; of length), so
//!   that the unit a file happens to store does not matter.

use crate::DataError;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType, PrimitiveArray};
use arrow_buffer::{ArrowNativeType, NullBuffer};
use arrow_schema::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// What a column can be used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Integers, floats and decimals.
    Numeric,
    /// True and false.
    Boolean,
    /// UTF-8 text, also behind an Arrow dictionary.
    Text,
    /// An instant.
    Timestamp,
    /// A calendar day.
    Date,
    /// A time of day.
    Time,
    /// A length of time.
    Duration,
    /// A column whose type says that it is always null.
    Null,
    /// Lists, structs, maps, unions: refused.
    Nested,
    /// Bytes: refused.
    Binary,
    /// Anything else (intervals, dictionaries of numbers): refused.
    Other,
}

impl ColumnKind {
    /// The kind of an Arrow type.
    pub fn of(data_type: &DataType) -> Self {
        use DataType as D;
        match data_type {
            D::Null => ColumnKind::Null,
            D::Boolean => ColumnKind::Boolean,
            D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => {
                ColumnKind::Numeric
            }
            D::Float16 | D::Float32 | D::Float64 => ColumnKind::Numeric,
            D::Decimal32(..) | D::Decimal64(..) | D::Decimal128(..) | D::Decimal256(..) => ColumnKind::Numeric,
            D::Time32(_) | D::Time64(_) => ColumnKind::Time,
            D::Duration(_) => ColumnKind::Duration,
            D::Timestamp(..) => ColumnKind::Timestamp,
            D::Date32 | D::Date64 => ColumnKind::Date,
            D::Utf8 | D::LargeUtf8 | D::Utf8View => ColumnKind::Text,
            D::Dictionary(_, value) if matches!(**value, D::Utf8 | D::LargeUtf8 | D::Utf8View) => ColumnKind::Text,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => ColumnKind::Binary,
            data_type if data_type.is_nested() => ColumnKind::Nested,
            _ => ColumnKind::Other,
        }
    }

    /// Whether the column reads as numbers.
    pub fn is_number(self) -> bool {
        use ColumnKind as K;
        matches!(self, K::Numeric | K::Boolean | K::Timestamp | K::Date | K::Time | K::Duration | K::Null)
    }

    /// A value of such a column as people read it: instants, which are seconds since 1970 here, in ISO 8601.
    ///
    /// ```
    /// use nystream_datasets::ColumnKind;
    /// assert_eq!(ColumnKind::Timestamp.shown(86_400.5), "1970-01-02T00:00:00.5Z");
    /// assert_eq!(ColumnKind::Numeric.shown(86_400.5), "86400.5");
    /// ```
    pub fn shown(self, value: f64) -> String {
        match self {
            ColumnKind::Timestamp | ColumnKind::Date => crate::encoder::instant(value),
            _ => value.to_string(),
        }
    }

    /// Whether the column can be a feature at all.
    pub fn is_usable(self) -> bool {
        self.is_number() || self == ColumnKind::Text
    }
}

impl fmt::Display for ColumnKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ColumnKind::Numeric => "numeric",
            ColumnKind::Boolean => "boolean",
            ColumnKind::Text => "text",
            ColumnKind::Timestamp => "timestamp",
            ColumnKind::Date => "date",
            ColumnKind::Time => "time of day",
            ColumnKind::Duration => "duration",
            ColumnKind::Null => "null",
            ColumnKind::Nested => "nested",
            ColumnKind::Binary => "binary",
            ColumnKind::Other => "unsupported",
        })
    }
}

/// A column of a data set, by schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnInfo {
    /// Name, unique in the data set.
    pub name: String,
    /// What it can be used as.
    pub kind: ColumnKind,
    /// Whether all its values are integers by type.
    pub integer: bool,
    /// Arrow type in the first file that has values, for messages.
    pub data_type: String,
}

/// Whether a type holds integers only.
pub(crate) fn is_integer(data_type: &DataType) -> bool {
    use DataType as D;
    matches!(data_type, D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64)
}

/// A column read as `f64` values with a null mask.
///
/// ```
/// use arrow_array::Int32Array;
/// use nystream_datasets::NumericColumn;
/// let array = Int32Array::from(vec![Some(3), None]);
/// let column = NumericColumn::new("a", &array)?;
/// assert_eq!(column.iter().collect::<Vec<_>>(), [Some(3.0), None]);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub struct NumericColumn<'a> {
    array: &'a dyn Array,
    nulls: Option<NullBuffer>,
}

impl<'a> NumericColumn<'a> {
    /// A numeric view of `array`; `name` is for the message.
    ///
    /// # Errors
    /// [`DataError::ColumnType`] for text, binary and nested types.
    pub fn new(name: &str, array: &'a dyn Array) -> Result<Self, DataError> {
        if !ColumnKind::of(array.data_type()).is_number() {
            return Err(DataError::ColumnType {
                column: name.into(),
                found: array.data_type().to_string(),
                expected: "a number, boolean, date, time or duration",
                role: "numeric column",
            });
        }
        Ok(NumericColumn { array, nulls: array.logical_nulls().filter(|nulls| nulls.null_count() > 0) })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.array.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.array.is_empty()
    }

    /// Number of null rows.
    pub fn null_count(&self) -> usize {
        self.nulls.as_ref().map_or(0, NullBuffer::null_count)
    }

    /// Whether row `i` is null.
    #[inline]
    pub fn is_null(&self, i: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(i))
    }

    /// Writes the values of rows `start..start + out.len()`; null rows hold an unspecified finite or non-finite value.
    ///
    /// # Panics
    /// If the range is not within the column.
    pub fn copy(&self, start: usize, out: &mut [f64]) {
        use DataType as D;
        let array = self.array;
        match array.data_type() {
            D::Float32 => widen::<Float32Type>(array, start, out, f64::from),
            D::Float64 => widen::<Float64Type>(array, start, out, |v| v),
            D::Float16 => widen::<Float16Type>(array, start, out, |v| v.to_f64()),
            D::Int8 => widen::<Int8Type>(array, start, out, f64::from),
            D::Int16 => widen::<Int16Type>(array, start, out, f64::from),
            D::Int32 => widen::<Int32Type>(array, start, out, f64::from),
            D::Int64 => widen::<Int64Type>(array, start, out, |v| v as f64),
            D::UInt8 => widen::<UInt8Type>(array, start, out, f64::from),
            D::UInt16 => widen::<UInt16Type>(array, start, out, f64::from),
            D::UInt32 => widen::<UInt32Type>(array, start, out, f64::from),
            D::UInt64 => widen::<UInt64Type>(array, start, out, |v| v as f64),
            D::Decimal32(_, scale) => {
                let unit = 10f64.powi(i32::from(*scale));
                widen::<Decimal32Type>(array, start, out, |v| f64::from(v) / unit);
            }
            D::Decimal64(_, scale) => {
                let unit = 10f64.powi(i32::from(*scale));
                widen::<Decimal64Type>(array, start, out, |v| v as f64 / unit);
            }
            D::Decimal128(_, scale) => {
                let unit = 10f64.powi(i32::from(*scale));
                widen::<Decimal128Type>(array, start, out, |v| v as f64 / unit);
            }
            D::Decimal256(_, scale) => {
                let unit = 10f64.powi(i32::from(*scale));
                // Through text: the one correctly rounded conversion of 256 bits at hand; the type is rare.
                widen::<Decimal256Type>(array, start, out, |v| v.to_string().parse().unwrap_or(f64::NAN) / unit);
            }
            D::Date32 => widen::<Date32Type>(array, start, out, |v| f64::from(v) * 86_400.0),
            D::Date64 => widen::<Date64Type>(array, start, out, |v| v as f64 / 1e3),
            D::Timestamp(unit, _) => match unit {
                TimeUnit::Second => widen::<TimestampSecondType>(array, start, out, |v| v as f64),
                TimeUnit::Millisecond => widen::<TimestampMillisecondType>(array, start, out, |v| v as f64 / 1e3),
                TimeUnit::Microsecond => widen::<TimestampMicrosecondType>(array, start, out, |v| v as f64 / 1e6),
                TimeUnit::Nanosecond => widen::<TimestampNanosecondType>(array, start, out, |v| v as f64 / 1e9),
            },
            D::Time32(TimeUnit::Second) => widen::<Time32SecondType>(array, start, out, f64::from),
            D::Time32(_) => widen::<Time32MillisecondType>(array, start, out, |v| f64::from(v) / 1e3),
            D::Time64(TimeUnit::Microsecond) => {
                widen::<Time64MicrosecondType>(array, start, out, |v| v as f64 / 1e6);
            }
            D::Time64(_) => widen::<Time64NanosecondType>(array, start, out, |v| v as f64 / 1e9),
            D::Duration(unit) => match unit {
                TimeUnit::Second => widen::<DurationSecondType>(array, start, out, |v| v as f64),
                TimeUnit::Millisecond => widen::<DurationMillisecondType>(array, start, out, |v| v as f64 / 1e3),
                TimeUnit::Microsecond => widen::<DurationMicrosecondType>(array, start, out, |v| v as f64 / 1e6),
                TimeUnit::Nanosecond => widen::<DurationNanosecondType>(array, start, out, |v| v as f64 / 1e9),
            },
            D::Boolean => {
                let values = array.as_boolean().values();
                for (i, out) in out.iter_mut().enumerate() {
                    *out = f64::from(u8::from(values.value(start + i)));
                }
            }
            // Null, the only kind of number left.
            _ => out.fill(0.0),
        }
    }

    /// Row `i`, `None` when null.
    pub fn get(&self, i: usize) -> Option<f64> {
        if self.is_null(i) {
            return None;
        }
        let mut out = [0.0];
        self.copy(i, &mut out);
        Some(out[0])
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<f64>> + '_ {
        let mut values = vec![0.0; self.len()];
        self.copy(0, &mut values);
        values.into_iter().enumerate().map(|(i, value)| (!self.is_null(i)).then_some(value))
    }
}

fn widen<T: ArrowPrimitiveType>(array: &dyn Array, start: usize, out: &mut [f64], f: impl Fn(T::Native) -> f64) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    let values = &array.values()[start..start + out.len()];
    for (out, value) in out.iter_mut().zip(values) {
        *out = f(*value);
    }
}

/// A column read as text levels.
///
/// Rows point at *levels*: an Arrow dictionary keeps its own (so that a lookup is done once a level
/// and batch), any other column has one level a row. Two levels may be equal text.
///
/// ```
/// use arrow_array::StringArray;
/// use nystream_datasets::TextColumn;
/// let array = StringArray::from(vec![Some("a"), None]);
/// let column = TextColumn::new("c", &array)?;
/// assert_eq!((column.get(0), column.get(1)), (Some("a"), None));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
pub struct TextColumn<'a> {
    levels: Vec<Cow<'a, str>>,
    keys: Vec<u32>,
}

/// The key of a null row.
const NULL_KEY: u32 = u32::MAX;

impl<'a> TextColumn<'a> {
    /// A text view of `array`: text types as they are, booleans as `true` and `false`, integers in
    /// decimal, floats in their shortest decimal form that reads back the same.
    ///
    /// # Errors
    /// [`DataError::ColumnType`] for other types.
    pub fn new(name: &str, array: &'a dyn Array) -> Result<Self, DataError> {
        use DataType as D;
        Ok(match array.data_type() {
            D::Utf8 => Self::rows(array.as_string::<i32>().iter().map(|v| v.map(Cow::Borrowed))),
            D::LargeUtf8 => Self::rows(array.as_string::<i64>().iter().map(|v| v.map(Cow::Borrowed))),
            D::Utf8View => Self::rows(array.as_string_view().iter().map(|v| v.map(Cow::Borrowed))),
            D::Dictionary(_, value) if ColumnKind::of(value) == ColumnKind::Text => {
                let dictionary = array.as_any_dictionary();
                let values = TextColumn::new(name, dictionary.values().as_ref())?;
                if values.levels.is_empty() {
                    return Ok(TextColumn { levels: Vec::new(), keys: vec![NULL_KEY; array.len()] });
                }
                let nulls = dictionary.keys().logical_nulls();
                let is_null = |i: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(i));
                let level = |(i, key): (usize, usize)| if is_null(i) { NULL_KEY } else { values.keys[key] };
                let keys = match array.as_dictionary_opt::<Int32Type>() {
                    // What the block reader makes: one pass over the keys.
                    Some(own) if nulls.is_none() => {
                        own.keys().values().iter().map(|key| values.keys[*key as usize]).collect()
                    }
                    _ => dictionary.normalized_keys().into_iter().enumerate().map(level).collect(),
                };
                TextColumn { levels: values.levels, keys }
            }
            D::Boolean => {
                let text = |v: bool| Cow::Borrowed(if v { "true" } else { "false" });
                Self::rows(array.as_boolean().iter().map(|v| v.map(text)))
            }
            D::Int8 => Self::display::<Int8Type>(array),
            D::Int16 => Self::display::<Int16Type>(array),
            D::Int32 => Self::display::<Int32Type>(array),
            D::Int64 => Self::display::<Int64Type>(array),
            D::UInt8 => Self::display::<UInt8Type>(array),
            D::UInt16 => Self::display::<UInt16Type>(array),
            D::UInt32 => Self::display::<UInt32Type>(array),
            D::UInt64 => Self::display::<UInt64Type>(array),
            D::Float32 => Self::display::<Float32Type>(array),
            D::Float64 => Self::display::<Float64Type>(array),
            D::Null => TextColumn { levels: Vec::new(), keys: vec![NULL_KEY; array.len()] },
            other => {
                return Err(DataError::ColumnType {
                    column: name.into(),
                    found: other.to_string(),
                    expected: "text, a boolean or an integer",
                    role: "categorical column",
                });
            }
        })
    }

    /// Whether [`TextColumn::new`] accepts the type with this kind (numbers of every width, not dates).
    pub fn accepts(kind: ColumnKind) -> bool {
        matches!(kind, ColumnKind::Text | ColumnKind::Boolean | ColumnKind::Numeric | ColumnKind::Null)
    }

    fn rows(values: impl Iterator<Item = Option<Cow<'a, str>>>) -> Self {
        let mut out = TextColumn { levels: Vec::new(), keys: Vec::new() };
        for value in values {
            match value {
                None => out.keys.push(NULL_KEY),
                Some(text) => {
                    out.keys.push(out.levels.len() as u32);
                    out.levels.push(text);
                }
            }
        }
        out
    }

    fn display<T: ArrowPrimitiveType>(array: &'a dyn Array) -> Self
    where
        T::Native: fmt::Display + ArrowNativeType,
    {
        Self::rows(array.as_primitive::<T>().iter().map(|v| v.map(|v| Cow::Owned(v.to_string()))))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The levels the keys point at; some may be unused, some may be equal.
    pub fn levels(&self) -> &[Cow<'a, str>] {
        &self.levels
    }

    /// The level index of row `i`, `None` when null.
    #[inline]
    pub fn key(&self, i: usize) -> Option<usize> {
        let key = self.keys[i];
        (key != NULL_KEY).then_some(key as usize)
    }

    /// The text of row `i`, `None` when null.
    #[inline]
    pub fn get(&self, i: usize) -> Option<&str> {
        self.key(i).map(|key| self.levels[key].as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::*;
    use std::sync::Arc;

    fn numbers(array: &dyn Array) -> Vec<Option<f64>> {
        NumericColumn::new("c", array).unwrap().iter().collect()
    }

    #[test]
    fn numbers_of_every_type() {
        let one_and_null = [Some(1.0), None];
        assert_eq!(numbers(&Int8Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&Int16Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&Int32Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&Int64Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&UInt8Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&UInt16Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&UInt32Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&UInt64Array::from(vec![Some(1), None])), one_and_null);
        assert_eq!(numbers(&Float32Array::from(vec![Some(1.0), None])), one_and_null);
        assert_eq!(numbers(&Float64Array::from(vec![Some(1.0), None])), one_and_null);
        assert_eq!(numbers(&BooleanArray::from(vec![Some(true), None])), one_and_null);
        assert_eq!(numbers(&NullArray::new(1)), [None]);
        assert_eq!(numbers(&Date32Array::from(vec![1])), [Some(86_400.0)]);
        assert_eq!(numbers(&Date64Array::from(vec![86_400_000])), [Some(86_400.0)]);
        assert_eq!(numbers(&TimestampSecondArray::from(vec![90])), [Some(90.0)]);
        assert_eq!(numbers(&TimestampMillisecondArray::from(vec![90_500])), [Some(90.5)]);
        assert_eq!(numbers(&TimestampMicrosecondArray::from(vec![90_500_000])), [Some(90.5)]);
        assert_eq!(numbers(&TimestampNanosecondArray::from(vec![90_500_000_000])), [Some(90.5)]);
        assert_eq!(numbers(&Time32SecondArray::from(vec![7])), [Some(7.0)]);
        assert_eq!(numbers(&Time32MillisecondArray::from(vec![7_500])), [Some(7.5)]);
        assert_eq!(numbers(&Time64MicrosecondArray::from(vec![7_500_000])), [Some(7.5)]);
        assert_eq!(numbers(&Time64NanosecondArray::from(vec![7_500_000_000])), [Some(7.5)]);
        assert_eq!(numbers(&DurationMillisecondArray::from(vec![7_500])), [Some(7.5)]);
        let decimal = Decimal128Array::from(vec![-12345]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(numbers(&decimal), [Some(-123.45)]);
        let decimal = Decimal32Array::from(vec![-12345]).with_precision_and_scale(9, 2).unwrap();
        assert_eq!(numbers(&decimal), [Some(-123.45)]);
        let decimal = Decimal64Array::from(vec![5]).with_precision_and_scale(9, -2).unwrap();
        assert_eq!(numbers(&decimal), [Some(500.0)]);
        let decimal = Decimal256Array::from(vec![arrow_buffer::i256::from_i128(-12345)]);
        assert_eq!(numbers(&decimal.with_precision_and_scale(40, 2).unwrap()), [Some(-123.45)]);
        assert_eq!(numbers(&Int64Array::from(vec![(1 << 53) + 1])), [Some((1u64 << 53) as f64)]);
    }

    #[test]
    fn slices_keep_their_offset() {
        let array = Float32Array::from(vec![Some(1.0), Some(2.0), None, Some(4.0)]).slice(1, 3);
        assert_eq!(numbers(&array), [Some(2.0), None, Some(4.0)]);
        let array = BooleanArray::from(vec![true, false, true]).slice(1, 2);
        assert_eq!(numbers(&array), [Some(0.0), Some(1.0)]);
        let array = StringArray::from(vec!["a", "b", "c"]).slice(1, 2);
        assert_eq!(texts(&array), [Some("b".into()), Some("c".into())]);
    }

    fn texts(array: &dyn Array) -> Vec<Option<String>> {
        let column = TextColumn::new("c", array).unwrap();
        (0..column.len()).map(|i| column.get(i).map(str::to_string)).collect()
    }

    #[test]
    fn text_of_every_type() {
        let want = [Some("b".to_string()), None, Some("a".to_string())];
        let values = vec![Some("b"), None, Some("a")];
        assert_eq!(texts(&StringArray::from(values.clone())), want);
        assert_eq!(texts(&LargeStringArray::from(values.clone())), want);
        assert_eq!(texts(&StringViewArray::from(values.clone())), want);
        assert_eq!(texts(&values.iter().copied().collect::<DictionaryArray<Int8Type>>()), want);
        let nulls_inside = DictionaryArray::<UInt16Type>::new(
            UInt16Array::from(vec![0, 1, 2]),
            Arc::new(LargeStringArray::from(values)),
        );
        assert_eq!(texts(&nulls_inside), want);
        assert_eq!(texts(&BooleanArray::from(vec![Some(true), None])), [Some("true".into()), None]);
        assert_eq!(texts(&Int64Array::from(vec![-7])), [Some("-7".into())]);
        assert_eq!(texts(&UInt64Array::from(vec![u64::MAX])), [Some(u64::MAX.to_string())]);
        let empty = DictionaryArray::<Int32Type>::new(
            Int32Array::from(vec![None, None]),
            Arc::new(StringArray::from(Vec::<&str>::new())),
        );
        assert_eq!(texts(&empty), [None, None]);
    }

    #[test]
    fn unusable_types_are_refused_by_name() {
        let binary = BinaryArray::from(vec![b"x".as_slice()]);
        let error = NumericColumn::new("blob", &binary).err().unwrap().to_string();
        assert!(error.contains("'blob'") && error.contains("Binary"), "{error}");
        assert!(TextColumn::new("blob", &binary).is_err());
        assert!(NumericColumn::new("name", &StringArray::from(vec!["1"])).is_err());
    }
}
