//! Synthetic sources: data sets made row by row from a seed, without a disk.
//!
//! `synth:NAME?rows=..&d=..&seed=..&noise=..&categories=..&levels=..`, where NAME is
//!
//! * `friedman1`: x uniform on the unit cube, d >= 5,
//!   `y = 10 sin(pi x0 x1) + 20 (x2 - 1/2)^2 + 10 x3 + 5 x4 + noise N(0,1)` (Friedman, "Multivariate adaptive
//!   regression splines", Annals of Statistics 19, 1991); noise 1 unless given;
//! * `sines`: x uniform on [-1, 1]^d, `y = sqrt(2/32) sum_j sin(w_j x + b_j) + noise N(0,1)`: 32 waves in hashed directions,
//!   |w_j| uniform up to 6, so band-limited with unit variance; noise 0.1;
//! * `mixtures`: 16 Gaussian clusters of standard deviation 1/2 around hashed points of [-4, 4]^d, each with its own linear
//!   function; noise 0.1;
//! * `twoclass`: x standard normal, label 1 with probability 1/(1 + exp(-3 s / noise)), where
//!   `s = sin(2 x0) + x1 x2 + (x3^2 - 1)/2` (absent features are left out); noise 1; at noise 0 the label is s > 0.
//!
//! Columns: `x0 ..` (float), `c0 ..` (text levels `a0 ..`, uniform, each level adding a hashed N(0,1) effect
//! over sqrt(categories)), target `y` (float, int32 for `twoclass`). Every value is a function of (seed, column,
//! row ordinal): the first k rows do not depend on `rows`, and any range can be made anywhere.
//!
//! Cost: about 15 ns a value.

use crate::{ColumnInfo, ColumnKind, DataError};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Float32Array, Int32Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use nystream_hashing::{RowId, StreamKey};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Which function generates the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SynthName {
    /// Friedman's first benchmark.
    Friedman1,
    /// A band-limited sum of sines.
    Sines,
    /// Clustered mixtures with a linear function each.
    Mixtures,
    /// A two-class problem.
    Twoclass,
}

impl SynthName {
    /// All names, in the order they are listed to users.
    pub const ALL: [(SynthName, &'static str); 4] = [
        (SynthName::Friedman1, "friedman1"),
        (SynthName::Sines, "sines"),
        (SynthName::Mixtures, "mixtures"),
        (SynthName::Twoclass, "twoclass"),
    ];

    fn text(self) -> &'static str {
        Self::ALL.iter().find(|(name, _)| *name == self).map_or("", |(_, text)| text)
    }
}

/// A parsed `synth:` source.
///
/// ```
/// use nystream_datasets::SynthSpec;
/// let spec: SynthSpec = "synth:sines?rows=1e6&d=3".parse()?;
/// assert_eq!((spec.rows, spec.d, spec.seed), (1_000_000, 3, 0));
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SynthSpec {
    /// The generator.
    pub name: SynthName,
    /// Rows.
    pub rows: u64,
    /// Numeric features.
    pub d: usize,
    /// Seed of all values.
    pub seed: u64,
    /// Noise level; see the module.
    pub noise: f64,
    /// Categorical features.
    pub categories: usize,
    /// Levels of each categorical feature.
    pub levels: usize,
}

impl FromStr for SynthSpec {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let bad = |reason: String| DataError::BadSynth { spec: text.into(), reason };
        let body = text.strip_prefix("synth:").unwrap_or(text);
        let (name, query) = body.split_once('?').unwrap_or((body, ""));
        let Some(&(name, _)) = SynthName::ALL.iter().find(|(_, known)| *known == name) else {
            let known: Vec<&str> = SynthName::ALL.iter().map(|(_, text)| *text).collect();
            return Err(bad(format!("unknown name '{name}'; one of {}", known.join(", "))));
        };
        let noise = if matches!(name, SynthName::Friedman1 | SynthName::Twoclass) { 1.0 } else { 0.1 };
        let mut spec = SynthSpec { name, rows: 10_000, d: 10, seed: 0, noise, categories: 0, levels: 8 };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| bad(format!("'{pair}' is not key=value")))?;
            let count = || parse_count(value).ok_or_else(|| bad(format!("{key}={value} is not a whole number")));
            match key {
                "rows" => spec.rows = count()?,
                "d" => spec.d = count()? as usize,
                "seed" => spec.seed = count()?,
                "categories" => spec.categories = count()? as usize,
                "levels" => spec.levels = count()? as usize,
                "noise" => {
                    spec.noise = value
                        .parse()
                        .ok()
                        .filter(|noise: &f64| noise.is_finite() && *noise >= 0.0)
                        .ok_or_else(|| bad(format!("noise={value} is not a number of at least 0")))?;
                }
                _ => return Err(bad(format!("unknown key '{key}'; one of rows, d, seed, noise, categories, levels"))),
            }
        }
        let least = if name == SynthName::Friedman1 { 5 } else { 1 };
        if spec.d < least || spec.d > 100_000 {
            return Err(bad(format!("d={} is not between {least} and 100000", spec.d)));
        }
        if spec.categories > 10_000 || spec.levels == 0 || spec.levels > 10_000_000 {
            return Err(bad("categories may be up to 10000, levels from 1 to 10000000".into()));
        }
        if spec.rows > 1 << 48 {
            return Err(bad(format!("rows={} is more than 2^48", spec.rows)));
        }
        Ok(spec)
    }
}

/// A whole number, also written `1e6` or `1_000_000`.
fn parse_count(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    let (digits, exponent) = text.split_once(['e', 'E'])?;
    10u64.checked_pow(exponent.parse().ok()?)?.checked_mul(digits.parse().ok()?)
}

impl fmt::Display for SynthSpec {
    /// The canonical text: every key, in one order. It is what the file id hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SynthSpec { name, rows, d, seed, noise, categories, levels } = self;
        let name = name.text();
        write!(f, "synth:{name}?rows={rows}&d={d}&seed={seed}&noise={noise}&categories={categories}&levels={levels}")
    }
}

impl SynthSpec {
    /// The columns `x0 .. c0 .. y`.
    pub fn columns(&self) -> Vec<ColumnInfo> {
        self.schema()
            .fields()
            .iter()
            .map(|field| ColumnInfo {
                name: field.name().clone(),
                kind: ColumnKind::of(field.data_type()),
                integer: crate::column::is_integer(field.data_type()),
                data_type: field.data_type().to_string(),
            })
            .collect()
    }

    /// The Arrow schema of the generated batches.
    pub fn schema(&self) -> SchemaRef {
        let mut fields: Vec<Field> =
            (0..self.d).map(|j| Field::new(format!("x{j}"), DataType::Float32, false)).collect();
        let text = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        fields.extend((0..self.categories).map(|k| Field::new(format!("c{k}"), text.clone(), false)));
        let target = if self.name == SynthName::Twoclass { DataType::Int32 } else { DataType::Float32 };
        fields.push(Field::new("y", target, false));
        Arc::new(Schema::new(fields))
    }
}

/// A generator ready to make rows: the spec with its hashed parameters.
#[derive(Clone, Debug)]
pub struct Generator {
    spec: SynthSpec,
    schema: SchemaRef,
    /// One key for each four uniform features, or each two normal ones.
    features: Vec<StreamKey>,
    /// One key for each categorical feature.
    categories: Vec<StreamKey>,
    noise: StreamKey,
    choice: StreamKey,
    /// `sines`: 32 x d frequencies; `mixtures`: clusters x d centers.
    directions: Vec<f64>,
    /// `sines`: phases; `mixtures`: offsets.
    offsets: Vec<f64>,
    /// `mixtures`: clusters x d slopes.
    slopes: Vec<f64>,
    /// categories x levels.
    effects: Vec<f64>,
    level_names: Option<Arc<StringArray>>,
    drift: Option<Drift>,
}

/// How the function of a stream changes with its rows: it sees other features than those that are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    /// From this row on it sees each feature in the place of the one before it, the first in that of the last.
    Abrupt(u64),
    /// It sees the first two features turned by 2 pi row / period.
    Rotating(u64),
}

impl Drift {
    /// The features that the function sees of row `ordinal`.
    fn seen(self, ordinal: u64, row: &mut [f32]) {
        match self {
            Drift::Abrupt(at) if ordinal >= at => row.rotate_left(1),
            Drift::Abrupt(_) => {}
            Drift::Rotating(period) => {
                let turn = 2.0 * PI * (ordinal % period.max(1)) as f64 / period.max(1) as f64;
                if let [x, y, ..] = row {
                    let (sin, cos) = turn.sin_cos();
                    let (a, b) = (f64::from(*x), f64::from(*y));
                    (*x, *y) = ((cos * a - sin * b) as f32, (sin * a + cos * b) as f32);
                }
            }
        }
    }
}

const WAVES: usize = 32;
const BAND: f64 = 6.0;
const CLUSTERS: usize = 16;

impl Generator {
    /// Prepares `spec`.
    pub fn new(spec: &SynthSpec) -> Self {
        let key = |what: &str, copy: usize| StreamKey::new(spec.seed, &format!("synth {what}"), copy as u64);
        let d = spec.d;
        let uniform = |key: StreamKey, i: usize| key.uniform(RowId(i as u128));
        let normal = |key: StreamKey, i: usize| key.normal_pair(RowId(i as u128)).0;
        let (mut directions, mut offsets, mut slopes) = (Vec::new(), Vec::new(), Vec::new());
        match spec.name {
            SynthName::Sines => {
                let (direction, band, phase) = (key("direction", 0), key("band", 0), key("phase", 0));
                for wave in 0..WAVES {
                    let w: Vec<f64> = (0..d).map(|j| normal(direction, wave * d + j)).collect();
                    let norm = w.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
                    let length = BAND * uniform(band, wave);
                    directions.extend(w.iter().map(|v| v / norm * length));
                    offsets.push(std::f64::consts::TAU * uniform(phase, wave));
                }
            }
            SynthName::Mixtures => {
                let (center, offset, slope) = (key("center", 0), key("offset", 0), key("slope", 0));
                directions.extend((0..CLUSTERS * d).map(|i| 8.0 * uniform(center, i) - 4.0));
                offsets.extend((0..CLUSTERS).map(|i| normal(offset, i)));
                let scale = 1.0 / (d as f64).sqrt();
                slopes.extend((0..CLUSTERS * d).map(|i| scale * normal(slope, i)));
            }
            SynthName::Friedman1 | SynthName::Twoclass => {}
        }
        let effect = key("effect", 0);
        let scale = 1.0 / (spec.categories.max(1) as f64).sqrt();
        let effects = (0..spec.categories * spec.levels).map(|i| scale * normal(effect, i)).collect();
        let level_names = (spec.categories > 0)
            .then(|| Arc::new(StringArray::from_iter_values((0..spec.levels).map(|l| format!("a{l}")))));
        Generator {
            schema: spec.schema(),
            features: (0..d).map(|j| key("x", j)).collect(),
            categories: (0..spec.categories).map(|k| key("c", k)).collect(),
            noise: key("noise", 0),
            choice: key("choice", 0),
            directions,
            offsets,
            slopes,
            effects,
            level_names,
            drift: None,
            spec: spec.clone(),
        }
    }

    /// The same rows with a function that changes.
    ///
    /// ```
    /// use nystream_datasets::{SynthSpec, synth::{Drift, Generator}};
    /// let generator = Generator::new(&"synth:friedman1?d=5&noise=0".parse::<SynthSpec>()?);
    /// let drifting = generator.clone().with_drift(Drift::Abrupt(10));
    /// let column = |generator: &Generator, first, j| generator.batch(first, 10, &[j]).unwrap();
    /// assert_eq!(column(&generator, 0, 5), column(&drifting, 0, 5));
    /// assert_ne!(column(&generator, 10, 5), column(&drifting, 10, 5));
    /// assert_eq!(column(&generator, 10, 0), column(&drifting, 10, 0));
    /// # Ok::<(), nystream_datasets::DataError>(())
    /// ```
    #[must_use]
    pub fn with_drift(self, drift: Drift) -> Self {
        Generator { drift: Some(drift), ..self }
    }

    /// The schema of all columns.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Rows `first .. first + len` with the columns of `projection` (indices into the schema), in that order. The rows of the spec are no bound.
    ///
    /// ```
    /// use nystream_datasets::{SynthSpec, synth::Generator};
    /// let spec: SynthSpec = "synth:friedman1?rows=1000&d=5&seed=1".parse()?;
    /// let generator = Generator::new(&spec);
    /// // Row 700 is the same wherever a batch begins; `y` is column 5, behind `x0 .. x4`.
    /// let (long, short) = (generator.batch(0, 1000, &[5, 0])?, generator.batch(700, 10, &[5, 0])?);
    /// assert_eq!(long.slice(700, 10), short);
    /// assert_eq!(short.schema().field(0).name(), "y");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When a projected index is not a column.
    pub fn batch(&self, first: u64, len: usize, projection: &[usize]) -> Result<RecordBatch, ArrowError> {
        let (d, c) = (self.spec.d, self.spec.categories);
        let mut x: Vec<Vec<f32>> = vec![Vec::with_capacity(len); d];
        let mut codes: Vec<Vec<i32>> = vec![Vec::with_capacity(len); c];
        let (mut y, mut labels) = (Vec::with_capacity(len), Vec::new());
        let mut row = vec![0.0f32; d];
        for ordinal in first..first + len as u64 {
            let id = RowId(u128::from(ordinal));
            let cluster = self.fill(id, &mut row);
            for (column, value) in x.iter_mut().zip(&row) {
                column.push(*value);
            }
            let mut effect = 0.0;
            for (k, column) in codes.iter_mut().enumerate() {
                let level = (self.categories[k].u64(id) % self.spec.levels as u64) as usize;
                effect += self.effects[k * self.spec.levels + level];
                column.push(level as i32);
            }
            if let Some(drift) = self.drift {
                drift.seen(ordinal, &mut row);
            }
            let clean = self.target(&row, cluster) + effect;
            if self.spec.name == SynthName::Twoclass {
                labels.push(self.label(id, clean));
            } else {
                y.push((clean + self.spec.noise * self.noise.normal_pair(id).0) as f32);
            }
        }
        let mut columns: Vec<ArrayRef> = x.into_iter().map(|v| Arc::new(Float32Array::from(v)) as ArrayRef).collect();
        if let Some(names) = &self.level_names {
            for keys in codes {
                columns.push(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(keys), names.clone())?));
            }
        }
        columns.push(match self.spec.name {
            SynthName::Twoclass => Arc::new(Int32Array::from(labels)),
            _ => Arc::new(Float32Array::from(y)),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(len));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?.project(projection)
    }

    /// The numeric features of row `id`, and its cluster for `mixtures`.
    fn fill(&self, id: RowId, row: &mut [f32]) -> usize {
        match self.spec.name {
            SynthName::Friedman1 | SynthName::Sines => {
                let (scale, shift) = if self.spec.name == SynthName::Sines { (2.0, -1.0) } else { (1.0, 0.0) };
                for (group, key) in row.chunks_mut(4).zip(&self.features) {
                    for (x, word) in group.iter_mut().zip(key.words(id)) {
                        // 24 bits: exact in f32, and in [0, 1).
                        *x = (word >> 8) as f32 * (1.0 / (1 << 24) as f32) * scale + shift;
                    }
                }
                0
            }
            SynthName::Mixtures => {
                let cluster = (self.choice.u64(id) % CLUSTERS as u64) as usize;
                let center = &self.directions[cluster * row.len()..(cluster + 1) * row.len()];
                self.normals(id, row);
                for (x, c) in row.iter_mut().zip(center) {
                    *x = (f64::from(*x) * 0.5 + c) as f32;
                }
                cluster
            }
            SynthName::Twoclass => {
                self.normals(id, row);
                0
            }
        }
    }

    fn normals(&self, id: RowId, row: &mut [f32]) {
        for (pair, key) in row.chunks_mut(2).zip(&self.features) {
            let (a, b) = key.normal_pair(id);
            pair[0] = a as f32;
            if let Some(x) = pair.get_mut(1) {
                *x = b as f32;
            }
        }
    }

    /// The noiseless target of a row.
    fn target(&self, row: &[f32], cluster: usize) -> f64 {
        let x = |j: usize| row.get(j).map_or(0.0, |v| f64::from(*v));
        let dot = |w: &[f64]| w.iter().zip(row).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
        let d = row.len();
        match self.spec.name {
            SynthName::Friedman1 => {
                10.0 * (PI * x(0) * x(1)).sin() + 20.0 * (x(2) - 0.5) * (x(2) - 0.5) + 10.0 * x(3) + 5.0 * x(4)
            }
            SynthName::Sines => {
                let waves = self.directions.chunks_exact(d).zip(&self.offsets);
                (2.0 / WAVES as f64).sqrt() * waves.map(|(w, b)| (dot(w) + b).sin()).sum::<f64>()
            }
            SynthName::Mixtures => {
                let range = cluster * d..(cluster + 1) * d;
                let slope = &self.slopes[range.clone()];
                self.offsets[cluster] + dot(slope)
                    - slope.iter().zip(&self.directions[range]).map(|(s, c)| s * c).sum::<f64>()
            }
            SynthName::Twoclass => {
                let curve = if d > 3 { 0.5 * (x(3) * x(3) - 1.0) } else { 0.0 };
                (2.0 * x(0)).sin() + x(1) * x(2) + curve
            }
        }
    }

    fn label(&self, id: RowId, score: f64) -> i32 {
        if self.spec.noise == 0.0 {
            return i32::from(score > 0.0);
        }
        let probability = 1.0 / (1.0 + (-3.0 * score / self.spec.noise).exp());
        i32::from(self.noise.uniform(id) < probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NumericColumn;
    use arrow_array::Array;

    fn column(spec: &str, first: u64, len: usize, name: &str) -> Vec<f64> {
        let generator = Generator::new(&spec.parse().unwrap());
        let all: Vec<usize> = (0..generator.schema().fields().len()).collect();
        let batch = generator.batch(first, len, &all).unwrap();
        NumericColumn::new(name, batch.column_by_name(name).unwrap().as_ref()).unwrap().iter().flatten().collect()
    }

    /// Law 1: the values are part of every model fitted on a synthetic source.
    #[test]
    fn value_stability() {
        let mut got = String::new();
        for (spec, name) in [
            ("synth:friedman1?seed=3", "x0"),
            ("synth:friedman1?seed=3", "y"),
            ("synth:sines?seed=3&d=4", "x3"),
            ("synth:sines?seed=3&d=4", "y"),
            ("synth:mixtures?seed=3&d=3", "x2"),
            ("synth:mixtures?seed=3&d=3", "y"),
            ("synth:twoclass?seed=3", "x1"),
            ("synth:twoclass?seed=3&categories=2", "y"),
        ] {
            let values: Vec<String> = column(spec, 5, 3, name).iter().map(|v| format!("{v:.5}")).collect();
            got += &format!("{spec} {name}: {}\n", values.join(" "));
        }
        assert_eq!(got, PINNED);
    }

    const PINNED: &str = "\
synth:friedman1?seed=3 x0: 0.43043 0.95869 0.19867
synth:friedman1?seed=3 y: 9.53114 17.96631 14.90222
synth:sines?seed=3&d=4 x3: -0.92964 0.40519 0.18165
synth:sines?seed=3&d=4 y: -1.70707 0.27490 0.20321
synth:mixtures?seed=3&d=3 x2: -2.64973 -4.15353 -2.32689
synth:mixtures?seed=3&d=3 y: -1.06820 -0.34519 -0.73488
synth:twoclass?seed=3 x1: 0.77429 0.27741 0.87090
synth:twoclass?seed=3&categories=2 y: 1.00000 1.00000 1.00000
";

    #[test]
    fn rows_do_not_depend_on_the_batch() {
        for (_, name) in SynthName::ALL {
            let spec = format!("synth:{name}?rows=100&d=7&categories=2");
            let whole = column(&spec, 0, 100, "y");
            assert_eq!(column(&spec, 40, 60, "y"), whole[40..]);
            assert_eq!(column(&format!("synth:{name}?rows=1000&d=7&categories=2"), 0, 100, "y"), whole);
            assert_ne!(column(&format!("synth:{name}?rows=100&d=7&categories=2&seed=1"), 0, 100, "y"), whole);
        }
    }

    #[test]
    fn friedman1_is_the_published_function() {
        let spec = "synth:friedman1?noise=0&d=6";
        let x: Vec<Vec<f64>> = (0..5).map(|j| column(spec, 0, 50, &format!("x{j}"))).collect();
        for (i, y) in column(spec, 0, 50, "y").into_iter().enumerate() {
            let want =
                10.0 * (PI * x[0][i] * x[1][i]).sin() + 20.0 * (x[2][i] - 0.5).powi(2) + 10.0 * x[3][i] + 5.0 * x[4][i];
            assert!((y - want).abs() < 1e-5);
        }
    }

    /// Five standard errors of fixed draws.
    #[test]
    fn moments_are_as_documented() {
        let n = 20_000usize;
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let x = column("synth:friedman1", 0, n, "x9");
        assert!((mean(&x) - 0.5).abs() < 5.0 * (1.0f64 / 12.0 / n as f64).sqrt());
        let x = column("synth:twoclass", 0, n, "x9");
        assert!(mean(&x).abs() < 5.0 / (n as f64).sqrt());
        let y = column("synth:sines?noise=0", 0, n, "y");
        let m = mean(&y);
        let var = mean(&y.iter().map(|v| (v - m) * (v - m)).collect::<Vec<_>>());
        assert!((0.3..2.0).contains(&var), "{var}");
        let share = mean(&column("synth:twoclass", 0, n, "y"));
        assert!((0.3..0.7).contains(&share), "{share}");
    }

    #[test]
    fn bad_specs_say_what_is_allowed() {
        for (spec, part) in [
            ("synth:nope", "friedman1"),
            ("synth:friedman1?d=4", "between 5"),
            ("synth:sines?rows=-1", "whole number"),
            ("synth:sines?rows", "key=value"),
            ("synth:sines?noise=nan", "noise"),
            ("synth:sines?color=red", "unknown key"),
        ] {
            let error = spec.parse::<SynthSpec>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(spec), "{error}");
        }
    }

    #[test]
    fn text_round_trips() {
        let spec: SynthSpec = "synth:mixtures?rows=2e3&noise=0.25&levels=3&categories=1".parse().unwrap();
        assert_eq!(spec.to_string().parse::<SynthSpec>().unwrap(), spec);
        assert_eq!(spec.rows, 2000);
        let batch = Generator::new(&spec).batch(0, 10, &[10]).unwrap();
        assert_eq!(batch.column(0).len(), 10);
    }
}
