//! What each process of several did, and where they waited for each other.

use super::text::{bytes, table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One process of a fit of several. The names are a contract that other programs rely on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Its index.
    pub process: u64,
    /// Its address, as the host file has it.
    pub host: String,
    /// Time by stage: the stages of `seconds`.
    pub stages: BTreeMap<String, StageTime>,
    /// Rows that it handled, in all passes.
    pub rows: u64,
    /// Bytes that it read from files, caches included.
    pub bytes_read: u64,
    /// Kernel entries that it evaluated.
    pub kernel_entries: u64,
    /// Blocks of 2,048 rows that it took over from other workers, in all passes: those of other processes, and of its own where a worker of it was slower than another.
    #[serde(default)]
    pub blocks_taken: u64,
    /// Blocks that its workers gave up to others.
    #[serde(default)]
    pub blocks_given: u64,
    /// Bytes that it sent to the others.
    pub bytes_sent: u64,
    /// Bytes that it received from them.
    pub bytes_received: u64,
    /// Peak of its resident memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
}

/// Time of a process in a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// Wall time, nearly the same for all processes since stages end together.
    pub seconds: f64,
    /// Of it, what a worker spent on the average between the end of its share of a pass and the end of the pass.
    pub waiting: f64,
}

impl StageTime {
    fn busy(&self) -> f64 {
        (self.seconds - self.waiting).max(0.0)
    }
}

/// For each stage, how much longer the busiest process worked than all did on the average: 1 where all worked alike. Stages of less than a hundredth of a second of work have none.
pub(super) fn imbalance(processes: &[ProcessReport]) -> BTreeMap<String, f64> {
    let stages = processes.iter().flat_map(|process| process.stages.keys());
    let ratio = |stage: &String| {
        let busy: Vec<f64> =
            processes.iter().map(|process| process.stages.get(stage).map_or(0.0, StageTime::busy)).collect();
        let mean = busy.iter().sum::<f64>() / busy.len() as f64;
        (mean >= 0.01).then(|| (stage.clone(), busy.iter().copied().fold(0.0, f64::max) / mean))
    };
    stages.filter_map(ratio).collect()
}

/// The table for people: a line a process, a column a stage, each with the seconds of work and of waiting.
pub(super) fn text(processes: &[ProcessReport]) -> String {
    let imbalance = imbalance(processes);
    let mut stages: Vec<&String> = processes.iter().flat_map(|process| process.stages.keys()).collect();
    stages.sort();
    stages.dedup();
    let short = |value: f64| if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    let mut header = vec!["process", "host"];
    header.extend(stages.iter().map(|stage| stage.as_str()));
    header.extend(["blocks taken", "given", "sent", "received", "peak memory"]);
    let mut rows: Vec<Vec<String>> = (processes.iter())
        .map(|process| {
            let mut row = vec![process.process.to_string(), process.host.clone()];
            row.extend(stages.iter().map(|stage| {
                let time = process.stages.get(*stage).copied().unwrap_or_default();
                format!("{}+{}", short(time.busy()), short(time.waiting))
            }));
            row.extend([process.blocks_taken, process.blocks_given].map(|blocks| blocks.to_string()));
            row.extend([bytes(process.bytes_sent), bytes(process.bytes_received)]);
            row.push(process.peak_rss_bytes.map(bytes).unwrap_or_default());
            row
        })
        .collect();
    let mut last = vec!["largest/mean".to_owned(), String::new()];
    last.extend(stages.iter().map(|stage| imbalance.get(*stage).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))));
    last.extend(std::iter::repeat_n(String::new(), 5));
    rows.push(last);
    format!("\nSeconds of work + of waiting, by process and stage:\n{}", table(&header, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(index: u64, seconds: f64, waiting: f64) -> ProcessReport {
        let stages = [("profile", 0.001, 0.0), ("solve", seconds, waiting)];
        ProcessReport {
            process: index,
            host: format!("h:{index}"),
            stages: stages.map(|(stage, seconds, waiting)| (stage.to_owned(), StageTime { seconds, waiting })).into(),
            ..ProcessReport::default()
        }
    }

    #[test]
    fn imbalance_is_of_the_work() {
        let ratios = imbalance(&[process(0, 10.0, 0.0), process(1, 10.0, 8.0)]);
        assert_eq!(ratios.into_iter().collect::<Vec<_>>(), [("solve".to_owned(), 10.0 / 6.0)]);
    }

    #[test]
    fn the_table_has_a_line_for_each_process_and_one_for_the_ratio() {
        let text = text(&[process(0, 10.0, 0.0), process(1, 10.0, 8.0)]);
        let line =
            |with: &str| text.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("{with}: {text}"));
        assert!(line("h:0").contains("10+0.0") && line("h:1").contains("2.0+8.0"), "{text}");
        assert!(line("largest/mean").contains("1.67"), "{text}");
    }
}
