//! The second-order learners behind the runtime: KONS, Sketched-KONS, PROS-N-KONS and CON-KONS of `nystream_kernels::online`.
//!
//! *Variances* of squared and Huber losses: with A = alpha I + 2 sum phi phi^T the function's variance is 2 v q, q the leverage and v that of the noise, and a prediction's v (1 + 2 q): a Gaussian
//! process whose noise over signal is alpha / 2; v is estimated as the stream goes by (`noise.rs`).
//!
//! *Bits.* Answers are those of the library's learner driven directly; predictions of rows without a target are formed row by row, so that they do not depend on what came with them.

use super::learner::{Answer, Batch, Info, Learner, Prediction, Published, Recovery, Regret, Traits};
use super::noise::Noise;
use super::packed;
use super::settings::{Mode, Settings};
use super::units::Units;
use crate::error::StageError;
use nystream_kernels::online::{
    self, Curvature, DictionaryParams, EntryParams, Growth, Kons, KonsParams, Loss, OnlineError, Outcome,
    ProjectedKons, ProjectedParams, PublishedBound, PublishedTerms, Sketch, published_bound,
};
use nystream_kernels::rows::{RowBuf, Rows};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
enum Inner {
    Projected(Box<ProjectedKons>),
    Whole(Box<Kons>),
}

/// What is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    inner: Inner,
    noise: Noise,
    weight: f64,
}

/// A second-order learner of one target.
pub struct SecondOrder {
    settings: Settings,
    units: Units,
    inner: Inner,
    noise: Noise,
    /// Sum of the weights of the rows learned.
    weight: f64,
}

impl From<OnlineError> for StageError {
    fn from(error: OnlineError) -> Self {
        match error {
            OnlineError::Parameter { .. } => StageError::Usage(error.to_string()),
            OnlineError::Breakdown { .. } => {
                StageError::Numeric(format!("{error} (--alpha in another --state, or --mode con-kons)"))
            }
            OnlineError::Diverged { .. } | OnlineError::Dense(_) | OnlineError::Tile(_) => {
                StageError::Numeric(error.to_string())
            }
            _ => StageError::Data(error.to_string()),
        }
    }
}

/// Atoms and coefficients to begin with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The atoms.
    pub atoms: RowBuf,
    /// Their coefficients, in the units of the function's sums.
    pub coefficients: Vec<f64>,
}

impl SecondOrder {
    /// A learner that has seen nothing, or that begins with the function of a fitted model (dictionary learners).
    ///
    /// # Errors
    /// [`StageError::Usage`] for settings that the learner refuses.
    pub fn new(settings: Settings, units: Units, beginning: Option<&Beginning>) -> Result<Self, StageError> {
        let template = units.template();
        let widths = (template.centers.numeric_width, template.centers.code_width);
        let entries = EntryParams {
            kernel: template.kernel.clone(),
            offset: Vec::new(),
            precision: template.precision,
            simd: template.simd,
        };
        let Settings { loss, curvature, clip, alpha, .. } = settings;
        let inner = match settings.mode {
            Mode::ConKons | Mode::ProsNKons => {
                let dictionary = DictionaryParams {
                    beta: settings.beta,
                    seed: settings.seed,
                    spread: settings.spread,
                    ..DictionaryParams::new(settings.gamma, settings.cap)
                };
                let params = ProjectedParams {
                    loss,
                    curvature,
                    clip,
                    forgetting: settings.forgetting,
                    growth: if settings.mode == Mode::ConKons { Growth::Carry } else { Growth::Restart },
                    block: settings.block,
                    window: settings.window,
                    hindsight: settings.hindsight,
                    drift: settings.drift,
                    ..ProjectedParams::new(entries, dictionary, alpha)
                };
                let learner = match beginning {
                    None => ProjectedKons::new(params, widths.0, widths.1)?,
                    Some(Beginning { atoms, coefficients }) => {
                        let ids: Vec<_> = (0..atoms.len()).map(|i| nystream_hashing::RowId(i as u128)).collect();
                        let own: Vec<f64> = coefficients.iter().map(|c| c / units.factor()).collect();
                        ProjectedKons::with_atoms(params, atoms.view(), &ids, Some(&own))?
                    }
                };
                Inner::Projected(Box::new(learner))
            }
            Mode::Kons | Mode::SketchedKons => {
                if beginning.is_some() {
                    return Err(StageError::Usage(
                        "--from is for con-kons and pros-n-kons, which have a dictionary".into(),
                    ));
                }
                let sketch = (settings.mode == Mode::SketchedKons).then_some(Sketch {
                    least: settings.least,
                    gamma: settings.gamma,
                    eps: 0.5,
                    beta: settings.beta,
                    seed: settings.seed,
                });
                let params = KonsParams {
                    loss,
                    curvature,
                    clip,
                    sketch,
                    window: settings.window,
                    hindsight: settings.hindsight,
                    ..KonsParams::new(entries, alpha)
                };
                Inner::Whole(Box::new(Kons::new(params, widths.0, widths.1)?))
            }
            Mode::Exact | Mode::Recursive => {
                return Err(StageError::Internal(format!("{} is no second-order learner", settings.mode.name())));
            }
        };
        Ok(SecondOrder { settings, units, inner, noise: Noise::default(), weight: 0.0 })
    }

    /// Variance in target units; only squared errors have one.
    fn variance(&self, leverage: f64) -> Option<Vec<f64>> {
        let squares = matches!(self.settings.loss, Loss::Squared | Loss::Huber { .. })
            && self.settings.curvature == Curvature::Adaptive
            && self.units.is_number();
        let variance = self.noise.variance(2.0 * leverage).filter(|_| squares)?;
        Some(vec![variance * self.units.scale() * self.units.scale()])
    }

    fn answers(&mut self, outcomes: &[Outcome]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(outcomes.len());
        for &Outcome { id, prediction, loss, leverage, alarm, .. } in outcomes {
            let variances = self.variance(leverage);
            self.noise.add(loss, 2.0 * leverage);
            let prediction = Prediction { values: self.units.values(prediction), variances };
            answers.push(Answer { id, prediction, loss, queue: 0, alarm });
        }
        answers
    }

    fn ledger(&self) -> &online::Ledger {
        match &self.inner {
            Inner::Projected(learner) => learner.ledger(),
            Inner::Whole(learner) => learner.ledger(),
        }
    }
}

impl Learner for SecondOrder {
    fn traits(&self) -> Traits {
        Traits { unlearns: false, answers: true, recovery: Recovery::Changes }
    }

    fn learn(&mut self, batch: &Batch<'_>) -> Result<Vec<Answer>, StageError> {
        let chunk = batch.added;
        if chunk.rows() == 0 {
            return Ok(Vec::new());
        }
        let targets: Vec<f64> = chunk.targets.iter().map(|y| self.units.target(*y)).collect();
        let rows = super::encoding::rows_of(chunk);
        let batch = online::Batch { rows, ids: &chunk.ids, targets: &targets, weights: Some(&chunk.weights) };
        let outcomes = match &mut self.inner {
            Inner::Projected(learner) => learner.learn(&batch)?,
            Inner::Whole(learner) => learner.learn(&batch)?,
        };
        chunk.weights.iter().for_each(|weight| self.weight += weight);
        Ok(self.answers(&outcomes))
    }

    fn flush(&mut self) -> Result<Vec<Answer>, StageError> {
        let outcomes = match &mut self.inner {
            Inner::Projected(learner) => learner.flush()?,
            Inner::Whole(_) => Vec::new(),
        };
        Ok(self.answers(&outcomes))
    }

    fn predict(&mut self, rows: Rows<'_>) -> Result<Vec<Prediction>, StageError> {
        let mut predictions = Vec::with_capacity(rows.len());
        for i in 0..rows.len() {
            let row = rows.slice(i, i + 1);
            let (value, variances) = match &mut self.inner {
                Inner::Projected(learner) => {
                    let (value, leverage) = learner.predict_with_leverage(row)?[0];
                    (value, self.variance(leverage))
                }
                Inner::Whole(learner) => (learner.predict(row)?[0], None),
            };
            predictions.push(Prediction { values: self.units.values(value), variances });
        }
        Ok(predictions)
    }

    fn publish(&mut self) -> Result<Published, StageError> {
        let expansion = match &self.inner {
            Inner::Projected(learner) => learner.expansion(),
            Inner::Whole(learner) => learner.expansion(),
        };
        let (rows, sum_weights) = (self.ledger().rows, self.weight);
        // One that began with a model's function has that.
        if rows == 0 && expansion.ids.is_empty() {
            return Err(StageError::Data("no row has been learned yet".into()));
        }
        // The function 0 is a function of no centers.
        let notes = match expansion.ids.is_empty() {
            true => vec![format!(
                "the dictionary is empty, and the model is the mean of the target that the configuration knows: none of the {rows} rows learned says more than that beside alpha. More rows may; a smaller --alpha, or --gamma where that is given, in another --state does"
            )],
            false => Vec::new(),
        };
        let function = self.units.function(expansion);
        Ok(Published { function, rows, sum_weights, deviations: Vec::new(), notes })
    }

    /// The coordinates of the function in the span of the dictionary, in which its norm is theirs.
    fn mark(&self) -> Option<Vec<f64>> {
        match &self.inner {
            Inner::Projected(learner) => Some(learner.weights()),
            Inner::Whole(_) => None,
        }
    }

    /// Coordinates that one of them does not have are 0: atoms are added behind the others. After a reset that emptied the dictionary it is about 1.
    fn drift(&self, mark: &[f64]) -> Option<f64> {
        let now = self.mark()?;
        let at = |values: &[f64], i: usize| values.get(i).copied().unwrap_or(0.0);
        let moved: f64 = (0..now.len().max(mark.len())).map(|i| (at(&now, i) - at(mark, i)).powi(2)).sum();
        let norm: f64 = mark.iter().map(|w| w * w).sum();
        // Nothing published yet: any function is infinitely far from it.
        Some(match (moved > 0.0, norm > 0.0) {
            (false, _) => 0.0,
            (true, true) => (moved / norm).sqrt(),
            (true, false) => f64::INFINITY,
        })
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        packed::bytes_of(&StoredRef { inner: &self.inner, noise: &self.noise, weight: self.weight })
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let stored: Stored = packed::read(bytes)?;
        let fits = match (&stored.inner, &self.inner) {
            (Inner::Projected(stored), Inner::Projected(own)) => {
                stored.check()?;
                stored.params() == own.params()
            }
            (Inner::Whole(stored), Inner::Whole(own)) => {
                stored.check()?;
                stored.params() == own.params()
            }
            _ => false,
        };
        if !fits {
            return Err(packed::damaged("it is that of another configuration"));
        }
        (self.inner, self.noise, self.weight) = (stored.inner, stored.noise, stored.weight);
        Ok(())
    }

    fn info(&self) -> Info {
        match &self.inner {
            Inner::Projected(learner) => {
                let info = learner.info();
                let (order, width) = (info.dictionary as u64, info.width as u64);
                Info {
                    rows: info.rows,
                    dictionary: order,
                    online_dimension: Some(info.online_dimension),
                    refused: Some(info.refused),
                    mean_loss: info.mean_loss,
                    window_loss: info.window_loss,
                    mass_alarms: info.mass_alarms,
                    loss_alarms: info.loss_alarms,
                    restarts: info.starts - 1,
                    // Four triangles, whose room doubles, and the features of a block.
                    bytes: 8 * (2 * order * order + 2 * width * width + 2 * width * self.settings.block as u64),
                    waiting: info.waiting as u64,
                }
            }
            Inner::Whole(learner) => {
                let info = learner.info();
                Info {
                    rows: info.rows as u64,
                    dictionary: info.sketch as u64,
                    online_dimension: Some(learner.ledger().dimension),
                    mean_loss: info.mean_loss,
                    window_loss: info.window_loss,
                    bytes: 8 * (info.sketch * info.sketch) as u64,
                    ..Info::default()
                }
            }
        }
    }

    fn regret(&self) -> Result<Option<Regret>, StageError> {
        let Settings { loss, clip, alpha, .. } = self.settings;
        let found = match &self.inner {
            Inner::Projected(learner) => learner.regret()?,
            Inner::Whole(learner) => learner.regret()?,
        };
        let Some(found) = found else { return Ok(None) };
        let ledger = self.ledger();
        let (which, eps, least) = match &self.inner {
            Inner::Projected(learner) => (PublishedBound::Pros, learner.params().dictionary.eps, 1.0),
            Inner::Whole(learner) => (PublishedBound::Kons, 0.0, learner.params().sketch.map_or(1.0, |s| s.least)),
        };
        let published_bound = clip.zip(clip.and_then(|c| loss.sigma(c))).map(|(clip, sigma)| {
            let terms = PublishedTerms {
                alpha,
                norm2: found.norm2,
                sigma,
                lipschitz: loss.lipschitz(clip),
                clip,
                // States of before did not look.
                weight: if ledger.heaviest > 0.0 { ledger.heaviest } else { 1.0 },
                rows: ledger.rows as f64,
                effective_dimension: ledger.dimension,
                starts: ledger.starts as f64,
                gamma: self.settings.gamma,
                eps,
                least_probability: least,
            };
            published_bound(which, &terms)
        });
        Ok(Some(Regret { found, bound: ledger.bound(alpha, &found, loss, clip), published_bound }))
    }
}

#[derive(Serialize)]
struct StoredRef<'a> {
    inner: &'a Inner,
    noise: &'a Noise,
    weight: f64,
}
