//! Reports of what stages measured.

use crate::report::{Metrics, PerTarget};
use nystream_dataflows::evaluate::Evaluation;

/// The metrics of an evaluation; `deviations` are the standard deviations of the training targets.
pub(super) fn metrics(evaluation: &Evaluation, deviations: &[Option<f64>]) -> Metrics {
    match evaluation {
        Evaluation::Regression(targets) => {
            let each = |f: &dyn Fn(usize) -> f64| PerTarget::from((0..targets.len()).map(f).collect::<Vec<_>>());
            let known: Option<Vec<f64>> = deviations.iter().copied().collect();
            Metrics {
                rmse: Some(each(&|k| targets[k].rmse)),
                mae: Some(each(&|k| targets[k].mae)),
                r2: Some(each(&|k| targets[k].r2)),
                standardized_rmse: known
                    .filter(|sd| sd.len() == targets.len())
                    .map(|sd| each(&|k| targets[k].rmse / sd[k])),
                ..Metrics::default()
            }
        }
        Evaluation::Classification(classes) => Metrics {
            accuracy: Some(classes.accuracy),
            auc: classes.auc,
            log_loss: Some(classes.log_loss),
            ..Metrics::default()
        },
    }
}
