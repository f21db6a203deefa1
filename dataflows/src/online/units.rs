//! What a learner of one number sees of a target, and what its numbers mean.
//!
//! *Numbers* are standardised: y' = (y - c) / s, with c and s, the mean and the standard deviation, of the frozen configuration; losses are in these units, so that 1 is about what the mean predicts.
//! *Two classes* are -1 and 1 for logistic and hinge losses, whose value is a margin or a score; squared and Huber losses see 0 and 1 less the share of the second class.

use crate::error::StageError;
use crate::job::Loss as FitLoss;
use crate::predict::Function;
use crate::targets::TargetCode;
use nystream_kernels::online::{Expansion, Loss};
use nystream_kernels::rows::RowBuf;

/// The units of a learner.
#[derive(Clone, Debug)]
pub struct Units {
    /// Kernel, targets, precision and path; no centers.
    template: Function,
    labels: bool,
    centre: f64,
    scale: f64,
    /// From the learner's value to the sums of the function.
    factor: f64,
}

impl Units {
    /// For `loss`, of the targets of `function`; `deviation` is that of the target, where it is known.
    ///
    /// # Errors
    /// [`StageError::Usage`] for targets that a learner of one number does not take.
    pub fn new(function: &Function, deviation: Option<f64>, loss: Loss) -> Result<Self, StageError> {
        let code = &function.code;
        let margins = matches!(loss, Loss::Logistic | Loss::SquaredHinge);
        let usage = |text: String| Err(StageError::Usage(text));
        if code.width() != 1 {
            return usage(format!(
                "second-order learners take one target of numbers or of two classes, and the model has {}: use --mode exact",
                match code.classes.len() {
                    0 => format!("{} targets", code.width()),
                    classes => format!("{classes} classes"),
                }
            ));
        }
        if margins && !code.is_classification() {
            return usage("--loss logistic and squared-hinge are for two classes, and the model's target is a number: use squared or huber".into());
        }
        let mut template = Function {
            centers: RowBuf::new(function.centers.numeric_width, function.centers.code_width),
            coefficients: Vec::new(),
            variance: None,
            ..function.clone()
        };
        template.loss = if loss == Loss::Logistic { FitLoss::Logistic } else { FitLoss::Squared };
        if margins {
            template.code = TargetCode { centres: vec![0.5], exponents: vec![0], ..code.clone() };
        }
        let unit = code.scale(0);
        let scale = match deviation.filter(|sd| *sd > 0.0 && sd.is_finite() && !code.is_classification()) {
            Some(sd) => sd,
            None => unit,
        };
        let factor = match loss {
            Loss::SquaredHinge => 0.5,
            Loss::Logistic => 1.0,
            Loss::Squared | Loss::Huber { .. } => scale / unit,
        };
        Ok(Units { labels: margins, centre: code.centres[0], scale, factor, template })
    }

    /// A target as the learner sees it: a number, or the index of a class.
    pub fn target(&self, raw: f64) -> f64 {
        if self.labels { 2.0 * raw - 1.0 } else { (raw - self.centre) / self.scale }
    }

    /// The largest target that the configuration expects, in the learner's units.
    pub fn reach(&self) -> f64 {
        if self.labels { 1.0 } else { self.template.code.scale(0) / self.scale }
    }

    /// From the learner's value to the sums of the function.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// s, target units.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// c, target units.
    pub fn centre(&self) -> f64 {
        self.centre
    }

    /// Whether the target is a number.
    pub fn is_number(&self) -> bool {
        !self.template.code.is_classification()
    }

    /// What is predicted where the learner says `value`.
    pub fn values(&self, value: f64) -> Vec<f64> {
        let mut out = vec![0.0; self.template.outputs()];
        self.template.outputs_of(&[value * self.factor], &mut out);
        out
    }

    /// The kernel's function without centers.
    pub fn template(&self) -> &Function {
        &self.template
    }

    /// The function of an expansion. Its values are not clamped to the clip range.
    pub fn function(&self, expansion: Expansion) -> Function {
        let coefficients = expansion.coefficients.iter().map(|c| c * self.factor).collect();
        Function { centers: expansion.atoms, coefficients, ..self.template.clone() }
    }
}
