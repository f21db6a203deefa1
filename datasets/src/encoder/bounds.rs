//! Declared bounds of what a model learns from.
//!
//! An exact Gram holds targets and weights in fixed point, whose range is fixed with the model: rows that come later
//! (`--config-from`) and lie beyond it cannot be held. They are bad rows, whatever the solver, so that one configuration means one
//! set of rows. Rows that are only measured (held out, evaluated) need no bound.
//!
//! What bounds the features of a row is the kernel's business, which this crate knows nothing of: whoever uses the encoder may set a [`RowTest`].

use super::{Encoder, TargetKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What the targets and weights of rows that are learned from may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The range of each numeric target; empty for classes.
    pub targets: Vec<TargetRange>,
    /// Largest value of the weight column, before class weights.
    pub weight: f64,
}

/// Values within `reach` of `centre`, target units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetRange {
    /// The middle.
    pub centre: f64,
    /// Largest distance from it.
    pub reach: f64,
}

impl TargetRange {
    /// Whether the range holds `y`; NaN (null) asks for nothing.
    pub fn holds(&self, y: f64) -> bool {
        y.is_nan() || (y - self.centre).abs() <= self.reach
    }
}

/// A test of whole encoded rows: those that fail it are bad, unless they are only measured.
pub trait RowTest: fmt::Debug + Send + Sync {
    /// Whether the row with these numbers and codes (encoded units) may be learned from. Must be a function of them alone.
    fn holds(&self, numeric: &[f32], codes: &[u16]) -> bool;
}

/// The test of an encoder; follows from the rest of the configuration, so no part of the encoder's value.
#[derive(Clone, Debug, Default)]
pub(super) struct Test(pub Option<Arc<dyn RowTest>>);

impl PartialEq for Test {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Bounds {
    /// What is wrong with bounds that were read from a file.
    pub(super) fn fault(&self, encoder: &Encoder) -> Option<String> {
        let numbers = match encoder.target_kind {
            TargetKind::Regression => encoder.targets.len(),
            TargetKind::Classes(_) => 0,
        };
        if self.targets.len() != numbers {
            return Some(format!("it has ranges for {} of {numbers} numeric targets", self.targets.len()));
        }
        let sound = |range: &TargetRange| range.centre.is_finite() && range.reach.is_finite() && range.reach > 0.0;
        let sound = self.targets.iter().all(sound) && self.weight.is_finite() && self.weight > 0.0;
        if !sound {
            return Some("its bounds on targets and weights are not positive numbers".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BadReason, Chunk, ColumnInfo, ColumnKind, ColumnSummary, EncoderOptions, RawBatch, Role, Split, SplitRule,
    };
    use arrow_array::{ArrayRef, Float64Array, RecordBatch};
    use nystream_hashing::FileId;
    use std::sync::Arc;

    /// Features x, targets y within 10 of 1, weights w up to 4; rows from time 5 on are held out.
    fn encoder() -> Encoder {
        let summary = |name: &str| {
            let info = ColumnInfo {
                name: name.into(),
                kind: ColumnKind::Numeric,
                integer: false,
                data_type: "Float64".into(),
            };
            let quantiles = vec![0.0, 5.0, 10.0];
            let cut = (name == "t").then_some(5.0);
            ColumnSummary { count: 9, sd: 1.0, max: 10.0, quantiles, cut, ..ColumnSummary::empty(&info) }
        };
        let options = EncoderOptions {
            targets: vec!["y".into()],
            weight: Some("w".into()),
            split: Split::Time { column: "t".into(), fraction: 0.5 },
            ..Default::default()
        };
        let mut encoder = Encoder::fit(&["x", "y", "w", "t"].map(summary), &options).unwrap();
        assert!(matches!(encoder.split, SplitRule::Time { cut, .. } if cut == 5.0));
        encoder.bounds = Some(Bounds { targets: vec![TargetRange { centre: 1.0, reach: 10.0 }], weight: 4.0 });
        encoder
    }

    #[test]
    fn rows_beyond_are_bad_unless_they_are_only_measured() {
        let encoder = encoder();
        encoder.validate().unwrap();
        let column = |values: &[f64]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
        let batch = RecordBatch::try_from_iter([
            ("x", column(&[0.0; 6])),
            ("y", column(&[11.0, 11.5, -9.0, 0.0, 50.0, 0.0])),
            ("w", column(&[4.0, 1.0, 1.0, 4.5, 1.0, 9.0])),
            ("t", column(&[0.0, 0.0, 0.0, 0.0, 7.0, 7.0])),
        ])
        .unwrap();
        let raw = RawBatch { file: 0, file_id: FileId::from_relative_path("a"), first_ordinal: 0, batch };
        let mut chunk = Chunk::new();
        for (role, kept) in [
            (Role::All, vec![0, 2, 4, 5]),
            (Role::Training, vec![0, 2]),
            (Role::HeldOut, vec![4, 5]),
            (Role::Evaluation, vec![0, 1, 2, 3, 4, 5]),
        ] {
            encoder.encode(&raw, role, &mut chunk).unwrap();
            assert_eq!(chunk.ordinals, kept, "{role:?}");
            let bad: Vec<_> = chunk.bad.iter().map(|bad| (bad.ordinal, bad.column.as_str(), bad.reason)).collect();
            match role {
                Role::Evaluation => assert!(bad.is_empty()),
                _ => assert_eq!(bad, [(1, "y", BadReason::TargetOutOfRange), (3, "w", BadReason::WeightOutOfRange)]),
            }
        }
    }

    #[test]
    fn bounds_of_another_encoder_are_refused() {
        let sound = encoder().bounds.unwrap();
        for bounds in [
            Bounds { targets: Vec::new(), ..sound.clone() },
            Bounds { weight: 0.0, ..sound.clone() },
            Bounds { targets: vec![TargetRange { centre: 0.0, reach: -1.0 }], ..sound },
        ] {
            let broken = Encoder { bounds: Some(bounds), ..encoder() };
            assert!(broken.validate().is_err(), "{broken:?}");
        }
    }
}
