//! Plans, tuning tables, dictionaries, sources.

use super::text::{Pairs, bytes, count, number, plural, seconds, table};
use super::{Certificate, PerTarget, Report};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `--dry-run`: what a fit would do and what it would take. `--explain` adds why: the solvers considered, and the reasons.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// Rows.
    pub rows: u64,
    /// Encoded columns, where the profile is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features_encoded: Option<u64>,
    /// Centers m.
    pub centers: u64,
    /// Solver.
    pub solver: String,
    /// Selection.
    pub select: String,
    /// Why, in sentences with the numbers compared (`--explain`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Every solver on the same centers (`--explain`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub considered: Vec<ConsideredSolver>,
    /// Flops by stage.
    pub flops: BTreeMap<String, f64>,
    /// `--max-flops`.
    pub max_flops: f64,
    /// Passes over the data.
    pub passes: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// `--memory`.
    pub memory_limit: u64,
    /// What takes memory, largest first.
    pub memory: Vec<Consumer>,
    /// Seconds at this machine's stated speed, a guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// A solver that was considered, and what it would take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConsideredSolver {
    /// Solver.
    pub solver: String,
    /// Flops of the solve.
    pub flops: f64,
    /// Passes of the solve.
    pub passes: u64,
    /// Memory of a process.
    pub memory_bytes: u64,
    /// Why it was chosen or not.
    pub verdict: String,
}

/// A consumer of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Consumer {
    /// What.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

impl PlanReport {
    /// Bytes of all consumers.
    pub fn memory_total(&self) -> u64 {
        self.memory.iter().map(|c| c.bytes).sum()
    }

    /// A refusal (exit 4) that names the largest consumers, where the plan exceeds `--memory` or `--max-flops`.
    ///
    /// # Errors
    /// The refusal.
    pub fn within_budget(&self) -> Result<(), crate::exit::Failure> {
        let total = self.memory_total();
        if total > self.memory_limit {
            let mut consumers = self.memory.clone();
            consumers.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.name.cmp(&b.name)));
            let named: Vec<String> =
                consumers.iter().take(3).map(|c| format!("{} {}", c.name, bytes(c.bytes))).collect();
            return Err(crate::exit::Failure::budget(format!(
                "the plan needs {} of memory, --memory allows {}; largest: {}. Use fewer --centers or more --memory",
                bytes(total),
                bytes(self.memory_limit),
                named.join(", ")
            )));
        }
        let flops: f64 = self.flops.values().sum();
        if flops > self.max_flops {
            let largest = self.flops.iter().max_by(|a, b| a.1.total_cmp(b.1));
            let named =
                largest.map(|(stage, f)| format!(" (most of it in {stage}: {})", number(*f))).unwrap_or_default();
            return Err(crate::exit::Failure::budget(format!(
                "the plan needs {} flops{named}, --max-flops allows {}. Use fewer --centers or raise --max-flops",
                number(flops),
                number(self.max_flops)
            )));
        }
        Ok(())
    }
}

impl Report for PlanReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs
            .add("rows", count(self.rows))
            .maybe("encoded features", self.features_encoded.map(count))
            .add("centers", format!("{} by {}", count(self.centers), self.select))
            .add("solver", &self.solver)
            .add("passes", format!("{}, {} to read", self.passes, bytes(self.bytes_read)));
        for (stage, flops) in &self.flops {
            pairs.add(&format!("flops of {stage}"), number(*flops));
        }
        let total: f64 = self.flops.values().sum();
        pairs.add("flops", format!("{} of {} allowed", number(total), number(self.max_flops)));
        for consumer in &self.memory {
            pairs.add(&format!("memory of {}", consumer.name), bytes(consumer.bytes));
        }
        pairs.add("memory", format!("{} of {} allowed", bytes(self.memory_total()), bytes(self.memory_limit)));
        pairs.maybe("time", self.seconds.map(|s| format!("about {}", seconds(s))));
        for solver in &self.considered {
            let cost = format!(
                "{} flops, {}, {}",
                number(solver.flops),
                plural(solver.passes, "pass"),
                bytes(solver.memory_bytes)
            );
            pairs.add(&solver.solver, format!("{cost}: {}", solver.verdict));
        }
        for reason in &self.reasons {
            pairs.add("because", reason);
        }
        pairs.render()
    }
}

/// `nystream tune`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TuneReport {
    /// Rows in all.
    pub rows: u64,
    /// Rows of the sample.
    pub sample_rows: u64,
    /// Median distance of the sample, encoded units.
    pub median_distance: f64,
    /// What `score` is: `held_out_rmse`, `gcv`, ...; smaller is better.
    pub criterion: String,
    /// Every setting tried, in the order tried.
    pub table: Vec<TuneRow>,
    /// The best of them; `fit` with its kernel, bandwidth and ridge does what it would do with `auto`.
    pub chosen: TuneRow,
    /// What a fit would do otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Seconds by stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
}

/// One setting and its score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TuneRow {
    /// Kernel, as on the command line.
    pub kernel: String,
    /// sigma, encoded units.
    pub bandwidth: f64,
    /// lambda, per sample of all training rows.
    pub ridge: f64,
    /// Centers used for the score.
    pub centers: u64,
    /// The criterion.
    pub score: f64,
}

impl TuneRow {
    /// Whether both are one setting with one score; the ridge may have been given.
    fn is_setting(&self, other: &TuneRow) -> bool {
        let key = |row: &TuneRow| (row.bandwidth, row.centers, row.score);
        self.kernel == other.kernel && key(self) == key(other)
    }

    fn cells(&self, mark: &str) -> Vec<String> {
        let (bandwidth, ridge) = (number(self.bandwidth), number(self.ridge));
        vec![self.kernel.clone(), bandwidth, ridge, self.centers.to_string(), number(self.score), mark.into()]
    }
}

impl Report for TuneReport {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.table.iter().map(|row| row.cells(if row.is_setting(&self.chosen) { "chosen" } else { "" })).collect();
        let header = ["kernel", "bandwidth", "ridge", "centers", &self.criterion, ""];
        let mut pairs = Pairs::default();
        pairs
            .add("sample", format!("{} of {} rows", count(self.sample_rows), count(self.rows)))
            .add("median distance", number(self.median_distance))
            .maybe("time", self.seconds.get("total").map(|s| seconds(*s)));
        self.notes.iter().for_each(|note| {
            pairs.add("note", note);
        });
        let flags = format!(
            "--kernel {} --bandwidth {} --ridge {:e}",
            self.chosen.kernel, self.chosen.bandwidth, self.chosen.ridge
        );
        format!("{}{}chosen  {flags}\n", table(&header, &rows), pairs.render())
    }
}

/// `nystream dictionary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DictionaryStageReport {
    /// Rows.
    pub rows: u64,
    /// Rows whose leverage was scored.
    pub rows_scored: u64,
    /// Matrix ridge of the leverage scores.
    pub gamma: f64,
    /// Oversampling.
    pub beta: f64,
    /// Rows kept before the centers were picked.
    pub size: u64,
    /// Centers m.
    pub centers: u64,
    /// Selection used.
    pub select: String,
    /// Kernel, as on the command line.
    #[serde(default)]
    pub kernel: String,
    /// sigma, encoded units.
    #[serde(default)]
    pub bandwidth: f64,
    /// lambda, per sample, at which the centers were chosen.
    #[serde(default)]
    pub ridge: f64,
    /// What was decided on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Effective dimension at gamma.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_dimension: Option<PerTarget>,
    /// What was measured.
    pub certificate: Certificate,
    /// Seconds by stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
    /// File written.
    pub out: String,
}

impl Report for DictionaryStageReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs
            .add("rows", format!("{}, {} scored", count(self.rows), count(self.rows_scored)))
            .add("dictionary", format!("{} rows, gamma {}, beta {}", count(self.size), number(self.gamma), self.beta))
            .add("centers", format!("{} by {}", count(self.centers), self.select))
            .add("kernel", format!("{}, bandwidth {}", self.kernel, number(self.bandwidth)))
            .add("ridge", number(self.ridge))
            .maybe("effective dimension", self.effective_dimension.as_ref().map(super::text::per_target))
            .maybe("dictionary epsilon", self.certificate.epsilon.map(number))
            .maybe("dictionary pencil", self.certificate.pencil.as_ref().map(super::PencilReport::text))
            .maybe("trace error", self.certificate.trace_error.map(number))
            .maybe("time", self.seconds.get("total").map(|s| seconds(*s)));
        self.notes.iter().for_each(|note| {
            pairs.add("note", note);
        });
        pairs.add("wrote", &self.out);
        pairs.render()
    }
}

/// `nystream datasets make`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MakeReport {
    /// The source, whole.
    pub source: String,
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Files written.
    pub files: Vec<String>,
    /// Seconds by stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
}

impl Report for MakeReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs
            .add("source", &self.source)
            .add("rows", format!("{} ({})", count(self.rows), bytes(self.bytes)))
            .maybe("time", self.seconds.get("total").map(|s| seconds(*s)));
        let shown = 8;
        for file in self.files.iter().take(shown) {
            pairs.add("wrote", file);
        }
        if self.files.len() > shown {
            pairs.add("wrote", format!("... {} more", self.files.len() - shown));
        }
        pairs.render()
    }
}

/// `nystream datasets list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourcesReport {
    /// Everything known by name.
    pub sources: Vec<SourceEntry>,
}

/// A synthetic source or a public data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// Name.
    pub name: String,
    /// `synthetic` or `public`.
    pub kind: String,
    /// `regression` or `classification`.
    pub task: String,
    /// Target column.
    pub target: String,
    /// What it is and where it comes from.
    pub description: String,
    /// Source to give to `--data`, with every parameter; of synthetic sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Rows, rounded where copies differ; of public data sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Features; of public data sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<u64>,
    /// What is known about the licence; of public data sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

impl Report for SourcesReport {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = (self.sources.iter())
            .map(|s| vec![s.name.clone(), s.kind.clone(), s.task.clone(), s.target.clone(), s.description.clone()])
            .collect();
        table(&["name", "kind", "task", "target", "description"], &rows)
    }
}

impl Report for SourceEntry {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs
            .add("name", format!("{} ({})", self.name, self.kind))
            .add("task", &self.task)
            .add("target", &self.target)
            .maybe("rows", self.rows.map(count))
            .maybe("features", self.features.map(count))
            .add("description", &self.description)
            .maybe("licence", self.licence.as_ref())
            .maybe("source", self.source.as_ref());
        pairs.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;

    #[test]
    fn plans_over_budget_name_the_largest_consumers() {
        let consumer = |name: &str, bytes| Consumer { name: name.into(), bytes };
        let mut plan = PlanReport {
            memory_limit: 1000,
            memory: vec![consumer("chunks", 300), consumer("gram", 600), consumer("centers", 100)],
            flops: BTreeMap::from([("solve".into(), 6e9), ("profile".into(), 1e9)]),
            max_flops: 7e9,
            ..PlanReport::default()
        };
        plan.within_budget().expect("exactly at both limits");
        plan.memory[0].bytes += 1;
        let failure = plan.within_budget().expect_err("one byte over");
        assert_eq!(failure.code, ExitCode::Budget);
        let text = failure.to_string();
        assert!(text.find("gram").unwrap() < text.find("chunks").unwrap(), "{text}");
        plan.memory[0].bytes = 0;
        plan.max_flops = 6.9e9;
        let failure = plan.within_budget().expect_err("flops over");
        assert_eq!(failure.code, ExitCode::Budget);
        assert!(failure.to_string().contains("solve"), "{failure}");
    }

    #[test]
    fn tuning_marks_the_choice_and_gives_it_as_flags() {
        let row = |bandwidth, score| TuneRow {
            kernel: "gaussian".into(),
            bandwidth,
            ridge: 1e-6,
            score,
            ..TuneRow::default()
        };
        let report = TuneReport {
            criterion: "gcv".into(),
            table: vec![row(1.0, 0.5), row(2.0, 0.25)],
            chosen: row(2.0, 0.25),
            ..TuneReport::default()
        };
        let text = report.text();
        let marked: Vec<&str> = text.lines().filter(|l| l.ends_with("chosen")).collect();
        assert_eq!(marked.len(), 1, "{text}");
        assert!(marked[0].contains("2.000"), "{text}");
        assert!(text.contains("--kernel gaussian --bandwidth 2 --ridge 1e-6"), "{text}");
    }
}
