//! From target columns to what solvers fit: centred, scaled by a power of two, one-hot for classes.
//!
//! y' = (y - c) / 2^e with c the weighted mean and e the least exponent for which all training targets lie in [-1, 1], so that exact
//! sums have a fixed range: 2^[`HEADROOM_LOG2`] times that, so that a configuration that is taken over serves rows of a wider spread; rows
//! beyond are bad rows ([`TargetCode::bounds`]). Two classes need one column (the share of class 1), K > 2 classes need K. The intercept
//! of the model is c. Powers of two lose no bits on the way back.

use crate::error::StageError;
use crate::profile::Profile;
use nystream_datasets::{Bounds, Encoder, TargetRange};
use serde::{Deserialize, Serialize};

/// *Fixed point.* Exact sums hold |y'| up to 2 to this power: what the targets of later rows may grow by. It costs the sums as many of their 43 bits.
pub const HEADROOM_LOG2: i32 = 10;

/// The targets of a solve.
///
/// ```
/// use nystream_dataflows::targets::TargetCode;
/// // y' = (y - 3) / 2^4
/// let code = TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![3.0], exponents: vec![4] };
/// let mut out = [0.0];
/// code.encode(&[11.0], &mut out);
/// assert_eq!((out, code.decode(0, 0.5)), ([0.5], 11.0));
///
/// // Three classes are three columns, each less the share of its class; the raw target is the index of the class.
/// let classes = vec!["a".into(), "b".into(), "c".into()];
/// let code = TargetCode { names: vec!["y".into()], classes, centres: vec![0.5, 0.25, 0.25], exponents: vec![0; 3] };
/// let mut out = [0.0; 3];
/// code.encode(&[2.0], &mut out);
/// assert_eq!(out, [-0.5, -0.25, 0.75]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetCode {
    /// Names of the target columns in the data.
    pub names: Vec<String>,
    /// Class labels, in order; empty for regression.
    pub classes: Vec<String>,
    /// c of each solver column, in raw units.
    pub centres: Vec<f64>,
    /// e of each solver column.
    pub exponents: Vec<i32>,
}

impl TargetCode {
    /// The code of a training set: regression from the profile, classes from their weighted shares.
    ///
    /// # Errors
    /// [`StageError::Data`] when a target has no spread.
    pub fn new(encoder: &Encoder, profile: &Profile) -> Result<Self, StageError> {
        if let Some(classes) = encoder.classes() {
            let name = &encoder.targets[0];
            let weight = |k: usize| encoder.class_weights.get(k).copied().unwrap_or(1.0);
            let mass = |(k, class): (usize, &String)| weight(k) * profile.class_mass(name, class);
            let masses: Vec<f64> = classes.iter().enumerate().map(mass).collect();
            let total: f64 = masses.iter().sum();
            let shares: Vec<f64> = masses.iter().map(|m| if total > 0.0 { m / total } else { 0.0 }).collect();
            let centres = if classes.len() == 2 { vec![shares[1]] } else { shares };
            let exponents = vec![0; centres.len()];
            return Ok(TargetCode { names: encoder.targets.clone(), classes: classes.to_vec(), centres, exponents });
        }
        let mut centres = Vec::new();
        let mut exponents = Vec::new();
        for (name, target) in encoder.targets.iter().zip(&profile.targets) {
            let centre = target.mean.clamp(target.min, target.max);
            let spread = (target.max - centre).max(centre - target.min);
            if !(spread > 0.0 && spread.is_finite()) {
                return Err(StageError::Data(format!("target '{name}' has no usable spread ({spread})")));
            }
            centres.push(centre);
            exponents.push(least_exponent(spread));
        }
        Ok(TargetCode { names: encoder.targets.clone(), classes: Vec::new(), centres, exponents })
    }

    /// Columns that solvers fit (t).
    pub fn width(&self) -> usize {
        self.centres.len()
    }

    /// What each column is called: its target, or the class of more than two that it tells from the others.
    pub fn column_names(&self) -> Vec<String> {
        match self.classes.len() {
            0..=2 => self.names.iter().map(|name| format!("target '{name}'")).collect(),
            _ => self.classes.iter().map(|class| format!("class '{class}'")).collect(),
        }
    }

    /// Whether the targets are classes.
    pub fn is_classification(&self) -> bool {
        !self.classes.is_empty()
    }

    /// Writes the solver's targets of one row, [`TargetCode::width`] values: y' in [-1, 1] on training rows, NaN where null. `raw` holds a row of
    /// [`Chunk::targets`](nystream_datasets::Chunk): numbers, or the index of the class.
    pub fn encode(&self, raw: &[f64], out: &mut [f64]) {
        for (k, out) in out.iter_mut().enumerate() {
            let value = match self.classes.len() {
                0 => raw[k],
                2 => raw[0],
                _ => f64::from(u8::from(raw[0] == k as f64)),
            };
            *out = (value - self.centres[k]) * 2f64.powi(-self.exponents[k]);
        }
    }

    /// Bits of headroom in fixed point: classes are 0 or 1 for ever.
    pub fn headroom_log2(&self) -> i32 {
        if self.is_classification() { 0 } else { HEADROOM_LOG2 }
    }

    /// What targets and weights may be when rows are learned from: within the headroom, and up to the least power of two that is not
    /// below `weight_max`, the largest weight of the rows that the code was made from.
    pub fn bounds(&self, weight_max: f64) -> Bounds {
        let range =
            |k: usize| TargetRange { centre: self.centres[k], reach: 2f64.powi(self.exponents[k] + HEADROOM_LOG2) };
        let targets = if self.is_classification() { 0 } else { self.width() };
        Bounds {
            targets: (0..targets).map(range).collect(),
            weight: if weight_max > 0.0 { 2f64.powi(least_exponent(weight_max)) } else { 1.0 },
        }
    }

    /// Solver column k's value in raw units: c + 2^e f.
    pub fn decode(&self, k: usize, value: f64) -> f64 {
        self.centres[k] + value * 2f64.powi(self.exponents[k])
    }

    /// The scale 2^e of column k.
    pub fn scale(&self, k: usize) -> f64 {
        2f64.powi(self.exponents[k])
    }
}

/// Least e with spread <= 2^e.
fn least_exponent(spread: f64) -> i32 {
    let mut exponent = spread.log2().ceil() as i32;
    while 2f64.powi(exponent) < spread {
        exponent += 1;
    }
    while 2f64.powi(exponent - 1) >= spread {
        exponent -= 1;
    }
    exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lie_in_the_unit_interval_and_come_back() {
        for spread in [1.0, 0.75, 1.5, 1e-300, 1e140, 2.0, f64::MIN_POSITIVE * 8.0] {
            let e = least_exponent(spread);
            assert!(spread <= 2f64.powi(e) && spread > 2f64.powi(e - 1), "{spread} {e}");
        }
        let code = TargetCode { names: vec!["y".into()], classes: vec![], centres: vec![3.0], exponents: vec![4] };
        let mut out = [0.0];
        code.encode(&[11.0], &mut out);
        assert_eq!(out, [0.5]);
        assert_eq!(code.decode(0, 0.5), 11.0);
    }

    #[test]
    fn bounds_leave_headroom() {
        let code = |classes: &[&str]| TargetCode {
            names: vec!["y".into()],
            classes: classes.iter().map(|c| c.to_string()).collect(),
            centres: vec![3.0],
            exponents: vec![4],
        };
        let bounds = code(&[]).bounds(5.0);
        assert_eq!((bounds.targets[0].centre, bounds.targets[0].reach, bounds.weight), (3.0, 16384.0, 8.0));
        assert!(bounds.targets[0].holds(16387.0) && !bounds.targets[0].holds(16387.5));
        assert!(bounds.targets[0].holds(f64::NAN), "a null asks for nothing");
        let bounds = code(&["a", "b"]).bounds(0.0);
        assert_eq!((bounds.targets.len(), bounds.weight), (0, 1.0));
    }

    #[test]
    fn classes_are_one_hot_and_two_share_a_column() {
        let labels = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        let three =
            TargetCode { names: vec!["y".into()], classes: labels(3), centres: vec![0.25; 3], exponents: vec![0; 3] };
        let mut out = [0.0; 3];
        assert_eq!(three.column_names()[2], "class '2'");
        three.encode(&[2.0], &mut out);
        assert_eq!(out, [-0.25, -0.25, 0.75]);
        let two = TargetCode { names: vec!["y".into()], classes: labels(2), centres: vec![0.5], exponents: vec![0] };
        let mut out = [0.0];
        two.encode(&[0.0], &mut out);
        assert_eq!(out, [-0.5]);
    }
}
