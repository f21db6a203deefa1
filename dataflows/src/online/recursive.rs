//! Ridge regression of many targets on centers that stay, behind the runtime: `Recursive` of `nystream_kernels::online`.
//!
//! Every target is ridge regression on the centers of the configuration, with its intercept: after a row the function minimises sum w (y - c - f)^2 + alpha / 2 |f - f_0|^2 over what the centers span, c the
//! configuration's intercept and f_0 the function to begin with, or 0. One matrix serves all targets, so that a row's work is m^2 once and m for each target. Classes are targets of 0 and 1, as in a fit with
//! squared loss. Centers that depend on others, by the precision of kernel entries, are left out: what they span stays.
//!
//! *Variances* of numbers: v (1 + q), q the row's leverage ([`Inner`]) and v the noise of its target, estimated as the stream goes by from its own errors; one leverage serves all targets. They are of answers and
//! of rows without a target; a model that is published has none.
//!
//! *Bits.* Answers come by blocks, those of one-row updates in order; predictions of rows without a target are formed row by row.
//!
//! *Memory*: 2 m t + 4 m^2 + b (2 t + 2 m) numbers, t targets and b rows of a block ([`bytes`]).

use super::learner::{Answer, Batch, Info, Learner, Prediction, Published, Recovery, Traits};
use super::meter::Meter;
use super::noise::Noise;
use super::packed;
use super::settings::{Mode, Settings};
use crate::error::StageError;
use crate::job::Loss as FitLoss;
use crate::predict::Function;
use nystream_hashing::RowId;
use nystream_kernels::online::{Answers, EntryParams, Recursive as Inner, RecursiveParams};
use nystream_kernels::rows::{RowBuf, Rows};
use serde::{Deserialize, Serialize};

/// A learner of many targets.
#[derive(Debug)]
pub struct Recursive {
    inner: Inner,
    /// Kernel, targets, precision and path; no centers.
    template: Function,
    /// Standard deviation of each target, target units, where it is known.
    deviations: Vec<f64>,
    meter: Meter,
    /// The noise of each target, scaled units; none of classes.
    noise: Vec<Noise>,
    /// Whether it began with a function: then there is a model before there are rows.
    begun: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    inner: Inner,
    meter: Meter,
    /// States of before have none.
    #[serde(default)]
    noise: Vec<Noise>,
    begun: bool,
}

#[derive(Serialize)]
struct StoredRef<'a> {
    inner: &'a Inner,
    meter: &'a Meter,
    noise: &'a [Noise],
    begun: bool,
}

/// Bytes that a learner of `targets` on `centers` holds, with the model that is formed of it now and then.
pub fn bytes(centers: u64, targets: u64, block: u64) -> u64 {
    let (m, t, b) = (centers, targets, block);
    let numbers = m.saturating_mul(t).saturating_mul(4);
    let squares = m.saturating_mul(m).saturating_mul(4);
    let rows = b.saturating_mul(t.saturating_mul(3).saturating_add(m.saturating_mul(3)).saturating_add(b));
    numbers.saturating_add(squares).saturating_add(rows).saturating_mul(8)
}

impl Recursive {
    /// A learner on the centers of `function`; with `whole` it begins with the function too. `deviations`: those of the targets, target units, where they are known.
    ///
    /// # Errors
    /// [`StageError::Usage`] for a function of logistic loss, or without centers, and settings that the learner refuses.
    pub fn new(
        settings: &Settings,
        function: &Function,
        deviations: Vec<f64>,
        whole: bool,
    ) -> Result<Self, StageError> {
        if settings.mode != Mode::Recursive {
            return Err(StageError::Internal(format!("{} is not recursive least squares", settings.mode.name())));
        }
        if function.loss == FitLoss::Logistic {
            return Err(StageError::Usage(
                "--mode recursive is least squares, and the model's loss is logistic: give a model of squared loss"
                    .into(),
            ));
        }
        let entries = EntryParams {
            kernel: function.kernel.clone(),
            offset: Vec::new(),
            precision: function.precision,
            simd: function.simd,
        };
        let centers = function.centers.view();
        let kept = Inner::independent(&entries, centers)?;
        if kept.is_empty() {
            return Err(StageError::Usage("the model has no centers, on which --mode recursive rests".into()));
        }
        let atoms = RowBuf::gather(centers, &kept);
        let params = RecursiveParams {
            block: settings.block,
            forgetting: settings.forgetting,
            ..RecursiveParams::new(entries, 0.5 * settings.alpha, function.code.width())
        };
        let mut inner = Inner::new(params, atoms.view())?;
        if whole {
            inner.begin_with(centers, &function.coefficients)?;
        }
        let template = Function {
            centers: RowBuf::new(centers.numeric_width(), centers.code_width()),
            coefficients: Vec::new(),
            variance: None,
            ..function.clone()
        };
        let noise = Self::no_noise(&template);
        Ok(Recursive { inner, template, deviations, meter: Meter::new(settings.window), noise, begun: whole })
    }

    /// Nothing known of the noise.
    fn no_noise(template: &Function) -> Vec<Noise> {
        if template.code.is_classification() { Vec::new() } else { vec![Noise::default(); template.code.width()] }
    }

    /// Variances of a row of this leverage, target units squared.
    fn variances(&self, leverage: f64) -> Option<Vec<f64>> {
        let scaled = |(k, noise): (usize, &Noise)| {
            Some(noise.variance(leverage)? * self.template.code.scale(k) * self.template.code.scale(k))
        };
        if self.noise.is_empty() { None } else { self.noise.iter().enumerate().map(scaled).collect() }
    }

    /// What is predicted where the sums are `sums`.
    fn values(&self, sums: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.template.outputs()];
        self.template.outputs_of(sums, &mut out);
        out
    }

    /// Mean squared error of standardised targets; of classes (1 - p)^2, p that of the class.
    fn loss(&self, values: &[f64], sums: &[f64], targets: &[f64]) -> f64 {
        let code = &self.template.code;
        if code.is_classification() {
            // The scaled target of a class is largest in its own column; two classes share one.
            let own = match targets {
                [one] => usize::from(code.decode(0, *one) > 0.5),
                all => (0..all.len())
                    .fold(0, |best, k| if code.decode(k, all[k]) > code.decode(best, all[best]) { k } else { best }),
            };
            return values.get(own).map_or(1.0, |p| (1.0 - p) * (1.0 - p));
        }
        let square = |k: usize| {
            let unit = code.scale(k);
            let scale = self.deviations.get(k).copied().filter(|sd| *sd > 0.0).unwrap_or(unit);
            ((sums[k] - targets[k]) * (unit / scale)).powi(2)
        };
        (0..targets.len()).map(square).sum::<f64>() / targets.len() as f64
    }

    fn answers(&mut self, found: Answers) -> Vec<Answer> {
        let t = self.template.code.width();
        let rows = found.predictions.chunks_exact(t).zip(found.targets.chunks_exact(t)).zip(&found.leverages);
        let mut answers = Vec::with_capacity(found.ids.len());
        for (&id, ((sums, targets), &leverage)) in found.ids.iter().zip(rows) {
            let values = self.values(sums);
            let loss = self.loss(&values, sums, targets);
            self.meter.add(loss);
            let variances = self.variances(leverage);
            for ((noise, f), y) in self.noise.iter_mut().zip(sums).zip(targets) {
                noise.add((f - y) * (f - y), leverage);
            }
            answers.push(Answer { id, prediction: Prediction { values, variances }, loss, queue: 0, alarm: None });
        }
        answers
    }
}

impl Learner for Recursive {
    fn traits(&self) -> Traits {
        Traits { unlearns: false, answers: true, recovery: Recovery::Changes }
    }

    fn learn(&mut self, batch: &Batch<'_>) -> Result<Vec<Answer>, StageError> {
        let chunk = batch.added;
        if chunk.rows() == 0 {
            return Ok(Vec::new());
        }
        let t = self.template.code.width();
        let mut targets = vec![0.0; chunk.rows() * t];
        for (i, row) in targets.chunks_exact_mut(t).enumerate() {
            self.template.code.encode(chunk.targets_of(i..i + 1), row);
        }
        let ids: &[RowId] = &chunk.ids;
        let found = self.inner.insert(super::encoding::rows_of(chunk), ids, &targets, Some(&chunk.weights))?;
        Ok(self.answers(found))
    }

    fn flush(&mut self) -> Result<Vec<Answer>, StageError> {
        let found = self.inner.flush()?;
        Ok(self.answers(found))
    }

    fn predict(&mut self, rows: Rows<'_>) -> Result<Vec<Prediction>, StageError> {
        (0..rows.len())
            .map(|i| {
                let row = rows.slice(i, i + 1);
                let sums = self.inner.predict(row)?;
                let leverage = self.inner.leverages(row)?[0];
                Ok(Prediction { values: self.values(&sums), variances: self.variances(leverage) })
            })
            .collect()
    }

    fn publish(&mut self) -> Result<Published, StageError> {
        let rows = self.inner.info().inserted;
        if rows == 0 && !self.begun {
            return Err(StageError::Data("no row has been learned yet".into()));
        }
        let (m, t) = (self.inner.atoms().len(), self.template.code.width());
        let by_target = self.inner.coefficients();
        let coefficients = (0..m * t).map(|at| by_target[at % t * m + at / t]).collect();
        let function = Function { centers: self.inner.atoms().clone(), coefficients, ..self.template.clone() };
        let sum_weights = self.inner.sum_weights();
        Ok(Published { function, rows, sum_weights, deviations: Vec::new(), notes: Vec::new() })
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        let (inner, meter, noise) = (&self.inner, &self.meter, &self.noise[..]);
        packed::bytes_of(&StoredRef { inner, meter, noise, begun: self.begun })
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let stored: Stored = packed::read(bytes)?;
        stored.inner.check()?;
        if stored.inner.params() != self.inner.params() || stored.inner.atoms() != self.inner.atoms() {
            return Err(packed::damaged("it is that of another configuration"));
        }
        self.noise = if stored.noise.len() == self.noise.len() { stored.noise } else { Self::no_noise(&self.template) };
        (self.inner, self.meter, self.begun) = (stored.inner, stored.meter, stored.begun);
        Ok(())
    }

    fn info(&self) -> Info {
        let (info, m) = (self.inner.info(), self.inner.atoms().len() as u64);
        let block = self.inner.params().block as u64;
        Info {
            rows: info.inserted,
            dictionary: m,
            mean_loss: self.meter.mean(),
            window_loss: self.meter.window(),
            bytes: bytes(m, self.inner.params().targets as u64, block),
            waiting: self.inner.waiting() as u64,
            ..Info::default()
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
