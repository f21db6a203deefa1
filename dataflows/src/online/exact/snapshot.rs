//! A publication as bytes: what a restarted engine predicts by until the next one; and which file has the sums (`sums`). Its rows it is given again, and all else is made of those.

use super::sums::Reference;
use crate::engine::bytes::{Reader, Writer};
use crate::error::StageError;
use crate::job::Loss;
use crate::predict::{Function, VarianceBasis, VarianceFactor};
use crate::targets::TargetCode;
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::tile::SimdPath;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Of this layout.
const VERSION: u64 = 1;
/// Of all that a snapshot has: a publication, and the file of the sums.
const WHOLE: u64 = 2;

/// What has no columns of its own.
#[derive(Serialize, Deserialize)]
struct Head {
    kernel: Kernel,
    code: TargetCode,
    loss: Loss,
    precision: Precision,
    simd: String,
    rank: Option<usize>,
}

fn damaged(what: impl std::fmt::Display) -> StageError {
    StageError::Data(format!("the stored publication is damaged: {what}"))
}

/// A snapshot: the bytes of the last publication, the changes since, and which file has the sums. Nothing of nothing.
pub(super) fn whole(last: Option<Vec<u8>>, changed: u64, sums: Option<Reference>) -> Vec<u8> {
    if last.is_none() && sums.is_none() {
        return Vec::new();
    }
    let (mut out, mut file) = (Writer::default(), Writer::default());
    sums.iter().for_each(|sums| sums.write(&mut file));
    out.u64(WHOLE);
    out.u64(changed);
    out.bytes(&file.0);
    out.bytes(&last.unwrap_or_default());
    out.0
}

/// What [`whole`] put together.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub last: Option<&'a [u8]>,
    pub changed: u64,
    pub sums: Option<Reference>,
}

/// Takes a snapshot apart; the bytes are not trusted.
///
/// # Errors
/// [`StageError::Data`] for bytes that [`whole`] did not write.
pub(super) fn split(bytes: &[u8]) -> Result<Parts<'_>, StageError> {
    if bytes.is_empty() {
        return Ok(Parts::default());
    }
    let mut from = Reader(bytes);
    if from.u64().map_err(damaged)? != WHOLE {
        return Ok(Parts { last: Some(bytes), ..Parts::default() });
    }
    let changed = from.u64().map_err(damaged)?;
    let (file, last) = (from.bytes().map_err(damaged)?, from.bytes().map_err(damaged)?);
    let sums = match file {
        [] => None,
        file => {
            let mut file = Reader(file);
            Some(Reference::read(&mut file).map_err(damaged)?).filter(|_| file.is_empty())
        }
    };
    if !from.is_empty() {
        return Err(damaged("there is more behind it"));
    }
    Ok(Parts { last: Some(last).filter(|last| !last.is_empty()), changed, sums })
}

/// `function` of `rows` rows as bytes: equal bytes are equal functions, to the bit.
///
/// # Errors
/// [`StageError::Internal`] for numbers that cannot be written.
pub(super) fn bytes(function: &Function, rows: u64, sum_weights: f64) -> Result<Vec<u8>, StageError> {
    let Function { kernel, code, loss, precision, simd, variance, .. } = function;
    let (kernel, code, rank) = (kernel.clone(), code.clone(), variance.as_ref().map(|v| v.basis.rank));
    let head = Head { kernel, code, loss: *loss, precision: *precision, simd: simd.to_string(), rank };
    let head = serde_json::to_vec(&head).map_err(|e| StageError::Internal(e.to_string()))?;
    let mut out = Writer::default();
    out.u64(VERSION);
    out.bytes(&head);
    out.u64(rows);
    out.f64s(&[sum_weights]);
    out.rows(&function.centers);
    out.f64s(&function.coefficients);
    if let Some(variance) = variance {
        [&variance.basis.factor, &variance.basis.weights, &variance.noise, &variance.signal]
            .into_iter()
            .for_each(|values| out.f64s(values));
    }
    Ok(out.0)
}

/// What [`bytes`] wrote; the bytes are not trusted.
///
/// # Errors
/// [`StageError::Data`] for any others.
pub(super) fn read(bytes: &[u8]) -> Result<(Function, u64, f64), StageError> {
    let mut from = Reader(bytes);
    if from.u64().map_err(damaged)? != VERSION {
        return Err(damaged("it is of another version"));
    }
    let head: Head = serde_json::from_slice(from.bytes().map_err(damaged)?).map_err(damaged)?;
    let simd: SimdPath = head.simd.parse().map_err(|_| damaged("an unknown instruction set"))?;
    let rows = from.u64().map_err(damaged)?;
    let sums = from.f64s().map_err(damaged)?;
    let centers = from.rows().map_err(damaged)?;
    let coefficients = from.f64s().map_err(damaged)?;
    let variance = match head.rank {
        None => None,
        Some(rank) => {
            let mut next = || from.f64s().map_err(damaged);
            let (factor, weights, noise, signal) = (next()?, next()?, next()?, next()?);
            Some(VarianceFactor { basis: Arc::new(VarianceBasis { factor, weights, rank }), noise, signal })
        }
    };
    let (m, t) = (centers.len(), head.code.width());
    let whole = centers.numeric.len() == m * centers.numeric_width
        && centers.codes.len() == m * centers.code_width
        && coefficients.len() == m * t
        && sums.len() == 1
        && from.is_empty()
        && variance.as_ref().is_none_or(|v| {
            v.basis.factor.len() == m * v.basis.rank
                && v.basis.weights.len() == v.basis.rank * t
                && v.noise.len() == t
                && v.signal.len() == t
        });
    if !whole {
        return Err(damaged("its parts do not fit together"));
    }
    let Head { kernel, code, loss, precision, .. } = head;
    let function = Function { kernel, centers, coefficients, code, loss, precision, simd, variance };
    Ok((function, rows, sums[0]))
}
