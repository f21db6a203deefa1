//! Reports of what stages measured.

use crate::report::text::number;
use crate::report::{Metrics, PerTarget, Products};
use nystream_dataflows::evaluate::Evaluation;
use nystream_dataflows::matvec::products::{ProductMode, ProductReport};
use nystream_dataflows::targets::TargetCode;

/// How the products of a function of `centers` centers were formed, with errors in the units of its predictions.
pub(super) fn products(made: &ProductReport, code: &TargetCode, centers: usize) -> Products {
    let choice = &made.choice;
    let certificate = made.certificate.as_ref();
    let all = |rows: u64| (rows as f64 * centers as f64).max(1.0);
    Products {
        kind: if choice.sparse { "sparse" } else { "dense" }.into(),
        tolerance: choice.limit.tolerance,
        mode: (choice.limit.mode == ProductMode::Sampled).then(|| "sampled".into()),
        probability: certificate.and_then(|found| found.probability),
        cutoff: choice.cutoff,
        expected_share: choice.expected_share,
        entries_share: certificate.map(|found| found.entries as f64 / all(found.rows)),
        relative_bound: certificate.map(|found| found.norm),
        // The passes of a solve have vectors of their own.
        error_bound: certificate.filter(|found| !found.largest.is_empty()).map(|found| {
            let bounds = found.largest.iter().enumerate().map(|(k, largest)| largest * code.scale(k));
            PerTarget::from(bounds.collect::<Vec<_>>())
        }),
    }
}

/// Share of a target's standard deviation above which what a prediction may lack is worth a word.
const MUCH: f64 = 0.1;

/// A warning where `made` may have left out much of a prediction: a tolerance is relative to coefficients, which a small ridge makes large. `deviations` are the standard deviations of the
/// training targets.
pub(super) fn warn_of_much_left_out(made: &Products, deviations: &[Option<f64>]) {
    let bounds = made.error_bound.as_ref().map_or(&[][..], PerTarget::values);
    let known = bounds.iter().zip(deviations).filter_map(|(bound, deviation)| Some((*bound, (*deviation)?)));
    if let Some((bound, deviation)) = known.into_iter().find(|(bound, deviation)| *bound > MUCH * deviation) {
        tracing::warn!(
            "up to {} may be left out of a prediction, where the training target has a standard deviation of {}: give a smaller --product-tolerance for more",
            number(bound),
            number(deviation)
        );
    }
}

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
