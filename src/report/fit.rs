//! The fit report.

use super::text::{Pairs, bytes, count, number, per_target, plural, seconds};
use super::{Metrics, PerTarget, ProcessReport, Products, Report, processes};
use crate::checkpoint::CheckpointReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `nystream fit`. The names are a contract that other programs rely on.
///
/// A quantity with one value per target is a number for one target and an array for several. Classes are one target, however many
/// columns the solver gives them: the columns share one ridge (`--ridge auto` takes the one with the least sum of their leave-one-out
/// errors) and with it one effective dimension; `residual` is the largest of theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// Target columns.
    #[serde(default)]
    pub targets: Vec<String>,
    /// `regression` or `classification`.
    #[serde(default)]
    pub task: String,
    /// `squared` or `logistic`.
    #[serde(default)]
    pub loss: String,
    /// Seed of every hashed choice.
    #[serde(default)]
    pub seed: u64,
    /// Rows fitted to: after `--time-limit` those that were read in time.
    pub rows: u64,
    /// Rows left out because their target is null.
    pub rows_skipped_null_target: u64,
    /// Rows left out as bad, at most `--max-bad-rows`.
    pub rows_bad: u64,
    /// Encoded columns: numeric ones and categorical ones.
    pub features_encoded: u64,
    /// Centers m.
    pub centers: u64,
    /// Kernel, as on the command line.
    pub kernel: String,
    /// sigma, encoded units.
    pub bandwidth: f64,
    /// Median distance of the sample, encoded units: what `--bandwidth 1x` is. Under `--config-from` the model's, where it states one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_distance: Option<f64>,
    /// lambda, per sample.
    pub ridge: PerTarget,
    /// lambda sum w.
    pub ridge_matrix: PerTarget,
    /// Solver used.
    pub solver: String,
    /// Selection used.
    pub select: String,
    /// The data set of `--select file:PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_file: Option<String>,
    /// The sampled dictionary, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<DictionaryReport>,
    /// tr(K~ (K~ + ridge_matrix I)^-1), the degrees of freedom of the model fitted, at most m: exact by `gram`, otherwise estimated on sampled rows (a note
    /// says on how many). For logistic loss K~ is weighted by the curvature at the solution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_dimension: Option<PerTarget>,
    /// What was proved or measured about the model.
    pub certificate: Certificate,
    /// Held-out error, where rows were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// How the products of conjugate gradients were formed, where that was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub products: Option<Products>,
    /// Passes over the data.
    pub passes: u64,
    /// Bytes read from files, caches included.
    pub bytes_read: u64,
    /// Kernel entries evaluated.
    pub kernel_entries: u64,
    /// Floating-point operations.
    pub flops: Flops,
    /// What the plan predicted; beside it stand `passes`, `bytes_read`, `peak_rss_bytes` and `seconds.total`.
    #[serde(default)]
    pub predicted: Predicted,
    /// Seconds by stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
    /// Peak resident memory of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What this process sent, received and waited for, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkReport>,
    /// What this run went on from last, where it resumed and found something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<String>,
    /// The checkpoints that this process wrote, with `--checkpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointReport>,
    /// Each process, in their order, where there are several: what it did, and its time by stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_process: Vec<ProcessReport>,
    /// For each stage, the work (time but for waiting) of the busiest process over that of all on the average: 1 where all worked alike. Where there are several, of stages that work
    /// for a hundredth of a second at least.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub imbalance: BTreeMap<String, f64>,
    /// Worker threads per process.
    pub workers: u64,
    /// Processes.
    pub processes: u64,
    /// Instruction set of the kernel tiles.
    pub simd: String,
    /// Digest of the model.
    pub model_digest: String,
    /// Steps of an iterative solver: what `--iterations` bounds (blockcd: its block steps, many an epoch).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// Why the solve ended before convergence (exit code 3); absent when it converged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// What was decided on the way: dropped columns, choices of `auto`, warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Files written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// The network as one process of several saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// Bytes sent to the other processes, heartbeats and what protects them included.
    pub bytes_sent: u64,
    /// Bytes received from them.
    pub bytes_received: u64,
    /// Seconds that a worker spent, on the average, between the end of its share of a pass and the end of the pass: waiting for other workers, their
    /// results and the network.
    pub seconds_waiting: f64,
}

/// How the dictionary was sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DictionaryReport {
    /// Rows whose leverage was scored.
    pub rows_scored: u64,
    /// Matrix ridge of the leverage scores.
    pub gamma: f64,
    /// Oversampling.
    pub beta: f64,
    /// Rows kept before the centers were picked.
    pub size: u64,
}

/// What a fit proved or measured about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Lower-side accuracy of the centers relative to gamma, estimated from held-out sample rows: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Two-sided accuracy of the sampled dictionary, where there was one (`squeak`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pencil: Option<PencilReport>,
    /// tr(K - K~) / tr K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_error: Option<f64>,
    /// True relative residual of the normal equations; for classes the largest of their columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<PerTarget>,
}

/// The pencil certificate of a dictionary: extreme eigenvalues of (G2 - G1, G1 + gamma I), G1 = sum f f^T over rows, G2 = sum w f f^T over the
/// atoms, f the features on the centers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PencilReport {
    /// The larger magnitude of the two sides.
    pub epsilon: f64,
    /// Least eigenvalue: mass that the dictionary misses.
    pub lowest: f64,
    /// Greatest eigenvalue: mass that it has too much.
    pub highest: f64,
    /// The matrix ridge it refers to.
    pub gamma: f64,
    /// Rows of G1.
    pub rows: u64,
    /// What these rows are: `training` (all of them: epsilon is then a lower bound on the dictionary's) or `sample` (rows of the hashed
    /// sample that are no atoms, which stand for all others: their noise is in the figure).
    pub measured_on: String,
}

impl From<nystream_dataflows::certify::PencilCertificate> for PencilReport {
    fn from(found: nystream_dataflows::certify::PencilCertificate) -> Self {
        PencilReport {
            epsilon: found.epsilon(),
            lowest: found.lowest,
            highest: found.highest,
            gamma: found.gamma,
            rows: found.rows,
            measured_on: if found.exact { "training" } else { "sample" }.into(),
        }
    }
}

impl PencilReport {
    /// One line for people.
    pub(super) fn text(&self) -> String {
        let rows = count(self.rows);
        format!("{} to {} on {rows} {} rows", number(self.lowest), number(self.highest), self.measured_on)
    }
}

/// Error on held-out rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Held-out rows.
    pub rows: u64,
    /// Errors on them.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// Floating-point operations, by the plan's cost model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flops {
    /// By the plan.
    pub predicted: f64,
    /// By what was done.
    pub achieved: f64,
}

/// The plan's prediction of one process's memory and of all processes' passes, bytes and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Passes over the data.
    pub passes: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Memory of a process.
    pub memory_bytes: u64,
    /// Seconds at the speed of the reference machine.
    pub seconds: f64,
}

impl FitReport {
    /// What each process did, and what follows from it.
    pub fn set_processes(&mut self, per_process: Vec<ProcessReport>) {
        self.imbalance = processes::imbalance(&per_process);
        self.per_process = per_process;
    }
}

impl Report for FitReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs
            .add("targets", self.targets.join(", "))
            .add("task", format!("{}, {} loss", self.task, self.loss))
            .add("rows", count(self.rows));
        if self.rows_skipped_null_target > 0 {
            pairs.add("rows without a target", count(self.rows_skipped_null_target));
        }
        if self.rows_bad > 0 {
            pairs.add("bad rows", count(self.rows_bad));
        }
        pairs
            .add("encoded features", count(self.features_encoded))
            .add(
                "centers",
                match &self.select_file {
                    Some(file) => format!("{} from {file}", count(self.centers)),
                    None => format!("{} by {}", count(self.centers), self.select),
                },
            )
            .add("kernel", format!("{}, bandwidth {}", self.kernel, number(self.bandwidth)))
            .add("ridge", format!("{} (matrix ridge {})", per_target(&self.ridge), per_target(&self.ridge_matrix)));
        match self.iterations {
            Some(iterations) => pairs.add("solver", format!("{}, {}", self.solver, plural(iterations, "iteration"))),
            None => pairs.add("solver", &self.solver),
        };
        if let Some(d) = &self.dictionary {
            let scored = count(d.rows_scored);
            // Only leverage scores have a ridge.
            let scores = match d.gamma > 0.0 {
                true => format!(", gamma {}, beta {}", number(d.gamma), number(d.beta)),
                false => String::new(),
            };
            pairs.add("dictionary", format!("{} of {scored} rows{scores}", count(d.size)));
        }
        pairs
            .maybe("effective dimension", self.effective_dimension.as_ref().map(per_target))
            .maybe("dictionary epsilon", self.certificate.epsilon.map(number))
            .maybe("dictionary pencil", self.certificate.pencil.as_ref().map(PencilReport::text))
            .maybe("trace error", self.certificate.trace_error.map(number))
            .maybe("residual", self.certificate.residual.as_ref().map(per_target));
        pairs.maybe("products", self.products.as_ref().map(Products::text));
        if let Some(validation) = &self.validation {
            pairs.add("held-out rows", count(validation.rows));
            validation.metrics.pairs(&mut pairs);
        }
        pairs
            .add(
                "passes",
                format!(
                    "{} ({} predicted), {} read ({} predicted)",
                    self.passes,
                    self.predicted.passes,
                    bytes(self.bytes_read),
                    bytes(self.predicted.bytes_read)
                ),
            )
            .add("kernel entries", number(self.kernel_entries as f64))
            .add("flops", format!("{} predicted, {} done", number(self.flops.predicted), number(self.flops.achieved)));
        let stages: Vec<String> = (self.seconds.iter().filter(|(stage, _)| *stage != "total"))
            .map(|(stage, time)| format!("{stage} {}", seconds(*time)))
            .collect();
        let total = self.seconds.get("total").map(|time| seconds(*time)).unwrap_or_default();
        pairs.add("time", format!("{total} ({})", stages.join(", ")));
        pairs.add("predicted time", format!("{} (without tuning and certificates)", seconds(self.predicted.seconds)));
        pairs.maybe(
            "peak memory",
            self.peak_rss_bytes
                .map(|peak| format!("{} ({} predicted)", bytes(peak), bytes(self.predicted.memory_bytes))),
        );
        pairs.maybe(
            "network",
            self.network.map(|network| {
                format!(
                    "{} sent, {} received, {} waited",
                    bytes(network.bytes_sent),
                    bytes(network.bytes_received),
                    seconds(network.seconds_waiting)
                )
            }),
        );
        pairs.maybe("resumed from", self.resumed_from.as_ref());
        pairs.maybe(
            "checkpoints",
            self.checkpoints.as_ref().map(|all| {
                let failed = all.failed.as_ref().map(|why| format!("; the last failed: {why}")).unwrap_or_default();
                format!("{} in {}, {}{failed}", count(all.count), seconds(all.seconds), bytes(all.bytes))
            }),
        );
        pairs
            .add(
                "machine",
                format!("{} x {}, {}", plural(self.workers, "worker"), plural(self.processes, "process"), self.simd),
            )
            .add("seed", self.seed)
            .add("model digest", &self.model_digest)
            .maybe("stopped early", self.stopped.as_ref());
        self.notes.iter().for_each(|note| {
            pairs.add("note", note);
        });
        self.files.iter().for_each(|file| {
            pairs.add("wrote", file);
        });
        let table = if self.per_process.is_empty() { String::new() } else { processes::text(&self.per_process) };
        pairs.render() + &table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn example() -> FitReport {
        FitReport {
            targets: vec!["pm".into()],
            task: "regression".into(),
            loss: "squared".into(),
            seed: 7,
            rows: 1_000_000,
            rows_skipped_null_target: 0,
            rows_bad: 0,
            features_encoded: 10,
            centers: 1000,
            kernel: "gaussian".into(),
            bandwidth: 2.5,
            median_distance: Some(1.25),
            ridge: 1e-6.into(),
            ridge_matrix: 1.0.into(),
            solver: "gram".into(),
            select: "squeak".into(),
            select_file: None,
            dictionary: Some(DictionaryReport { rows_scored: 1_000_000, gamma: 1.0, beta: 8.0, size: 4000 }),
            effective_dimension: Some(321.5.into()),
            certificate: Certificate {
                epsilon: Some(0.4),
                pencil: None,
                trace_error: Some(1e-4),
                residual: Some(1e-9.into()),
            },
            validation: Some(Validation {
                rows: 100_000,
                metrics: Metrics { rmse: Some(0.5.into()), standardized_rmse: Some(0.1.into()), ..Metrics::default() },
            }),
            products: None,
            passes: 4,
            bytes_read: 1 << 30,
            kernel_entries: 4_000_000_000,
            flops: Flops { predicted: 1e12, achieved: 1.1e12 },
            predicted: Predicted { passes: 5, bytes_read: 40_000_000, memory_bytes: 200 << 20, seconds: 9.0 },
            seconds: BTreeMap::from([("profile".into(), 1.0), ("solve".into(), 9.0), ("total".into(), 10.5)]),
            peak_rss_bytes: Some(1 << 29),
            network: Some(NetworkReport { bytes_sent: 3 << 20, bytes_received: 5 << 20, seconds_waiting: 1.5 }),
            resumed_from: Some("conjugate gradients".into()),
            checkpoints: Some(CheckpointReport { count: 3, seconds: 0.25, bytes: 5 << 20, failed: None }),
            per_process: Vec::new(),
            imbalance: BTreeMap::new(),
            workers: 2,
            processes: 1,
            simd: "avx2".into(),
            model_digest: "ab".repeat(32),
            iterations: None,
            stopped: None,
            notes: vec!["dropped constant column `c`".into()],
            files: vec!["air.nys".into()],
        }
    }

    /// The contract, field by field.
    #[test]
    fn json_has_the_contracted_names() {
        let json = example().json();
        for name in "schema_version targets task loss seed rows rows_skipped_null_target rows_bad features_encoded centers kernel bandwidth ridge \
                     ridge_matrix solver select dictionary effective_dimension certificate validation passes bytes_read \
                     kernel_entries flops seconds peak_rss_bytes workers processes simd model_digest"
            .split_whitespace()
        {
            assert!(json.get(name).is_some(), "{name} is missing from {json}");
        }
        for pointer in [
            "/dictionary/rows_scored",
            "/dictionary/gamma",
            "/dictionary/beta",
            "/dictionary/size",
            "/certificate/epsilon",
            "/certificate/trace_error",
            "/certificate/residual",
            "/validation/rows",
            "/validation/rmse",
            "/validation/standardized_rmse",
            "/flops/predicted",
            "/flops/achieved",
            "/seconds/total",
            "/network/bytes_sent",
            "/network/bytes_received",
            "/network/seconds_waiting",
            "/checkpoints/count",
            "/checkpoints/seconds",
            "/checkpoints/bytes",
        ] {
            assert!(json.pointer(pointer).is_some_and(|v| v.is_number()), "{pointer}");
        }
        for absent in ["/validation/accuracy", "/validation/auc", "/stopped", "/iterations"] {
            assert!(json.pointer(absent).is_none(), "{absent}");
        }
        assert_eq!(json["schema_version"], 1);
    }

    #[test]
    fn reads_back() {
        let report = example();
        let again: FitReport = serde_json::from_value(report.json()).unwrap();
        assert_eq!(again, report);
    }

    #[test]
    fn text_ends_with_error_and_files() {
        let text = example().text();
        for line in
            ["targets              pm", "task                 regression, squared loss", "seed                 7"]
        {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing from\n{text}");
        }
        for part in [
            "1,000,000",
            "held-out rows",
            "standardized rmse",
            "wrote",
            "air.nys",
            "10.5 s (profile 1.0 s",
            "received, 1.5 s waited",
        ] {
            assert!(text.contains(part), "{part} is missing from\n{text}");
        }
        assert!(!text.contains("accuracy"), "{text}");
        let given = FitReport { select_file: Some("c.parquet".into()), dictionary: None, ..example() }.text();
        assert!(given.contains("1,000 from c.parquet") && !given.contains("dictionary  "), "{given}");
    }
}
