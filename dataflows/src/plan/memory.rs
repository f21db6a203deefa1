//! Memory arithmetic.

use crate::error::StageError;
use serde::{Deserialize, Serialize};

/// The program itself.
const PROGRAM_BYTES: u64 = 48 << 20;
/// A worker: its threads, what it reads and decodes.
pub(super) const WORKER_BYTES: u64 = 12 << 20;

/// One named use of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// What it is, as the user reads it.
    pub name: String,
    /// Bytes, at its largest.
    pub bytes: u64,
}

/// The memory a process will need, by consumer.
///
/// ```
/// use nystream_dataflows::plan::MemoryPlan;
/// let mut sample = MemoryPlan::default();
/// sample.add("sample", 1 << 20);
/// let (mut dictionary, mut solve) = (sample.clone(), sample);
/// dictionary.add("pool", 3 << 20);
/// solve.add("Gram", 8 << 20);
/// // Consumers of one plan live together, stages one after the other: what a process needs is the larger plan.
/// assert_eq!(dictionary.larger(solve).total(), 9 << 20);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// All consumers that live at the same time, at the plan's peak.
    pub consumers: Vec<Consumer>,
}

impl MemoryPlan {
    /// Adds a consumer.
    pub fn add(&mut self, name: impl Into<String>, bytes: u64) {
        self.consumers.push(Consumer { name: name.into(), bytes });
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.consumers.iter().map(|c| c.bytes).fold(0, u64::saturating_add)
    }

    /// The one of two plans that needs more: of stages that follow each other, the one that decides.
    pub fn larger(self, other: MemoryPlan) -> MemoryPlan {
        if other.total() > self.total() { other } else { self }
    }

    /// Refuses the plan when it does not fit `budget` bytes.
    ///
    /// ```
    /// use nystream_dataflows::plan::MemoryPlan;
    /// let mut plan = MemoryPlan::default();
    /// plan.add("exact Gram of 100000 centers", 160 << 30);
    /// let message = plan.check(8 << 30).unwrap_err().to_string();
    /// assert!(message.contains("exact Gram") && message.contains("--memory"));
    /// ```
    ///
    /// # Errors
    /// [`StageError::Budget`] naming the three largest consumers and the remedies.
    pub fn check(&self, budget: u64) -> Result<(), StageError> {
        self.check_or(budget, "use fewer --centers, --dictionary-rows, --workers or another --solver")
    }

    /// [`MemoryPlan::check`] of a job with other remedies than those of a fit: `remedy` is what to do but to give more memory.
    ///
    /// # Errors
    /// As there.
    pub fn check_or(&self, budget: u64, remedy: &str) -> Result<(), StageError> {
        let total = self.total();
        if total <= budget {
            return Ok(());
        }
        let mut largest: Vec<&Consumer> = self.consumers.iter().collect();
        largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.name.cmp(&b.name)));
        let named: Vec<String> = largest.iter().take(3).map(|c| format!("{} ({})", c.name, human(c.bytes))).collect();
        Err(StageError::Budget(format!(
            "this job needs about {} of memory in each process and --memory allows {}. Largest: {}. \
             Give more with --memory, or {remedy}",
            human_up(total),
            human(budget),
            named.join(", ")
        )))
    }
}

/// The program, its threads, and a dozen columns of Parquet being decoded by each of `workers`.
pub(crate) fn program_bytes(workers: usize) -> u64 {
    PROGRAM_BYTES + workers as u64 * WORKER_BYTES
}

/// [`human`], never less than `bytes`: what is asked for must be enough.
pub(super) fn human_up(bytes: u64) -> String {
    let unit = (0..6).map(|k| 1u64 << (10 * k)).take_while(|unit| bytes >= *unit).last().unwrap_or(1);
    let tenth = (unit / 10).max(1);
    // A tenth of a unit is no whole number of bytes: one more byte each keeps the sum above.
    human(bytes.div_ceil(tenth).saturating_mul(tenth).saturating_add(10))
}

/// Bytes for people: binary units, one decimal.
///
/// ```
/// use nystream_dataflows::plan::human;
/// assert_eq!([1023, 1536, 3 << 30].map(human), ["1023 B", "1.5 KiB", "3.0 GiB"]);
/// ```
pub fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A number of things by the name of one of them.
///
/// ```
/// use nystream_dataflows::plan::plural;
/// assert_eq!([plural(1, "pass"), plural(2, "pass"), plural(0, "step")], ["1 pass", "2 passes", "0 steps"]);
/// ```
pub fn plural(number: u64, one: &str) -> String {
    let ending = match (number, one.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {one}{ending}")
}
