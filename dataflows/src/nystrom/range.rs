//! The range of a kernel whose k(x, x) is not 1: what an exact Gram can hold of it.
//!
//! Entries are scaled by a power of two that is fixed with the model. |k(x, z)| <= sqrt(k(x, x) k(z, z)), so the diagonal bounds every entry and
//! whether a row fits is decided by the row alone, whatever the centers. When a model is made, the range has room for four times the largest
//! diagonal of the sample and for that of every row; under `--config-from` rows beyond it are bad rows ([`RowTest`]), in every pass alike.
//!
//! Cost: one pass over the rows where the sample is not all of them, d flops a row.

use crate::engine::checkpoint::remember;
use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
use crate::engine::feed::{Feed, view};
use crate::engine::leases::Leased;
use crate::engine::session::Session;
use crate::error::StageError;
use nystream_datasets::{Chunk, RowTest};
use nystream_kernels::gram::Precision;
use nystream_kernels::kernel::Kernel;
use nystream_kernels::rows::Rows;

/// Share of the range that a diagonal may take: the rest is for the rounding of entries in f32.
const FILLED: f64 = 1.0 - 1.0 / 256.0;

/// Room for rows that are not in the sample.
const HEADROOM: f64 = 4.0;

/// Times the median of the diagonal up to which the largest may reach: beyond, the grid would be too coarse for most entries.
const SPREAD: f64 = 64.0;

/// Rows whose k(x, x) an exact Gram over 2^`log2` can hold.
#[derive(Clone, Debug)]
pub(crate) struct KernelRange {
    pub kernel: Kernel,
    pub log2: i32,
}

impl RowTest for KernelRange {
    fn holds(&self, numeric: &[f32], codes: &[u16]) -> bool {
        self.kernel.diagonal(Rows::new(numeric, numeric.len(), codes, codes.len()), 0) <= limit(self.log2)
    }
}

/// Largest diagonal in the range 2^`log2`.
fn limit(log2: i32) -> f64 {
    2f64.powi(log2) * FILLED
}

/// Least power of two whose range holds a diagonal of `largest`.
pub(crate) fn least_log2(largest: f64) -> Result<i32, String> {
    if !largest.is_finite() {
        return Err("an exact Gram cannot hold this kernel: k(x, x) overflows".into());
    }
    let mut log2 = largest.max(f64::MIN_POSITIVE).log2().ceil() as i32;
    if largest > limit(log2) {
        log2 += 1;
    }
    Ok(log2)
}

/// Largest k(x, x) of `rows`.
pub(crate) fn largest_of(kernel: &Kernel, rows: Rows<'_>) -> f64 {
    // Not f64::max, which would lose a NaN.
    (0..rows.len()).map(|i| kernel.diagonal(rows, i)).fold(0.0, |a, b| if b <= a { a } else { b })
}

/// Whether entries of `precision` can hold the kernel's values on the `sample`, and f64 their products.
///
/// # Errors
/// [`StageError::Usage`] with what to change.
pub(crate) fn expressible(kernel: &Kernel, sample: Rows<'_>, precision: Precision) -> Result<(), StageError> {
    if kernel.family.is_radial() {
        return Ok(());
    }
    let (limit, name, more) = match precision {
        Precision::Single => (1e38, "f32", ", or --precision f64"),
        Precision::Double => (1e150, "f64", ""),
    };
    let largest = largest_of(kernel, sample);
    if largest <= limit {
        return Ok(());
    }
    let reaches = if largest.is_finite() { format!("reaches {largest:.1e}") } else { "overflows".into() };
    Err(StageError::Usage(format!(
        "--kernel: k(x, x) {reaches} at bandwidth {}, and {name} entries hold no more than {limit:e}: give a smaller degree or offset, a larger \
         --bandwidth{more}",
        kernel.bandwidth
    )))
}

/// Power of two that bounds the kernel's values on the `sample` with room to spare, and on all rows, whose largest diagonal is `largest` (0
/// where the sample is all of them); 0 for kernels with k(x, x) = 1.
///
/// # Errors
/// Why an exact Gram cannot hold the kernel.
pub(crate) fn kernel_log2(kernel: &Kernel, sample: Rows<'_>, largest: f64) -> Result<i32, String> {
    if kernel.family.is_radial() {
        return Ok(0);
    }
    let mut diagonal: Vec<f64> = (0..sample.len()).map(|i| kernel.diagonal(sample, i)).collect();
    diagonal.sort_by(f64::total_cmp);
    let (median, sampled) = (diagonal[diagonal.len() / 2], diagonal[diagonal.len() - 1]);
    let reached = if largest <= sampled { sampled } else { largest };
    if reached > SPREAD * median.max(f64::MIN_POSITIVE) {
        return Err(format!(
            "an exact Gram cannot hold this kernel: k(x, x) reaches {reached:.3e} where its median is {median:.3e}"
        ));
    }
    let room = (HEADROOM * sampled).max(f64::MIN_POSITIVE).log2().ceil() as i32;
    Ok(least_log2(reached)?.max(room))
}

/// Largest k(x, x) over the rows of `feed`.
///
/// # Errors
/// Unreadable data.
pub(crate) fn largest_diagonal(session: &mut Session<'_>, feed: Feed, kernel: &Kernel) -> Result<f64, StageError> {
    let scan = Diagonals { feed, chunk: Chunk::default(), kernel: kernel.clone(), largest: 0.0 };
    let parcels = remember(session, "range of the kernel", Audience::Everyone, |session| {
        pass(session, "range of the kernel", scan, Gather::default(), Audience::Everyone)
    })?;
    let mut largest = 0.0;
    for parcel in parcels {
        let bytes: [u8; 8] = parcel.bytes.as_slice().try_into().map_err(|_| {
            StageError::Internal(format!("the range of the kernel arrived in {} bytes", parcel.bytes.len()))
        })?;
        let value = f64::from_le_bytes(bytes);
        largest = if value <= largest { largest } else { value };
    }
    Ok(largest)
}

struct Diagonals {
    feed: Feed,
    chunk: Chunk,
    kernel: Kernel,
    largest: f64,
}

impl Scan for Diagonals {
    fn step(&mut self) -> Result<Step, StageError> {
        if !self.feed.next(&mut self.chunk)? {
            return Ok(Step::Done);
        }
        let largest = largest_of(&self.kernel, view(&self.chunk));
        self.largest = if largest <= self.largest { self.largest } else { largest };
        Ok(Step::More { rows: self.chunk.rows() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(vec![Outgoing { key: 0, bytes: self.largest.to_le_bytes().to_vec() }])
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        Some(&mut self.feed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_kernels::kernel::Family;

    #[test]
    fn ranges_hold_what_they_are_made_for_and_little_more() {
        for largest in [1e-300, 0.3, 1.0, 255.0 / 256.0, 4.0, 1023.9, 1e200] {
            let log2 = least_log2(largest).unwrap();
            assert!(largest <= limit(log2) && largest > limit(log2 - 1), "{largest}: 2^{log2}");
        }
        assert!(least_log2(f64::INFINITY).is_err() && least_log2(f64::NAN).is_err());
    }

    #[test]
    fn the_rows_of_a_fit_pass_its_test_whatever_the_sample_missed() {
        let values: Vec<f32> = (0..40).map(|i| 1.0 + i as f32 / 40.0).collect();
        let sample = Rows::new(&values, 1, &[], 0);
        let families =
            [Family::Polynomial { degree: 2, offset: 2.0 }, Family::ArcCosine { depth: 1 }, Family::Ntk { depth: 2 }];
        for family in families {
            let kernel = Kernel::new(family, 1.3);
            let far = Rows::new(&[6.0], 1, &[], 0);
            let largest = kernel.diagonal(far, 0);
            let sampled = KernelRange { log2: kernel_log2(&kernel, sample, 0.0).unwrap(), kernel: kernel.clone() };
            let whole = KernelRange { log2: kernel_log2(&kernel, sample, largest).unwrap(), kernel: kernel.clone() };
            assert!(!sampled.holds(&[6.0], &[]) && whole.holds(&[6.0], &[]), "{family:?}");
            assert!((0..40).all(|i| sampled.holds(sample.numeric(i), &[])), "{family:?}");
            assert!(!whole.holds(&[f32::MAX], &[]) && kernel_log2(&kernel, sample, 1e9).is_err(), "{family:?}");
            // The diagonal bounds every entry.
            let entry = kernel.evaluate(sample, 7, far, 0);
            assert!(entry.abs() <= (kernel.diagonal(sample, 7) * largest).sqrt() * (1.0 + 1e-12), "{family:?}");
        }
    }
}
