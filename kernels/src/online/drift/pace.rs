//! Forgetting by the spacing of alarms: what [`DriftAction::Adapt`](super::DriftAction::Adapt) adds to a reset.
//!
//! **Problem.** A reset is the right answer to a change that comes once. A function that moves on all the time raises alarm after alarm, and each reset throws away what is still nearly right; forgetting follows it, at a price where it stands
//! still: A of M rows in memory, rho = 1 - 1 / M, loses d / (2 M) of the noise more than one of all rows, d the effective dimension.
//!
//! **Rule.** The alarms say how fast it moves. Exponential weights of memory M have a variance of d / M and a lag of v M, v the speed, so that the best M goes as v^(-2/3); the loss has risen noticeably after G rows, v G being a constant:
//!
//! ```text
//! M = 2 G^(2/3)      (at least 100 rows)
//! ```
//!
//! whose factor was measured (two rotating features, a turn in 100,000 and 1,000,000 rows: alarms every 5,000 and 25,000 rows, and of the memories that were tried 333 to 500 and 2,000 the best).
//! * An alarm within 1,000 rows of the last that was of a change of its own belongs to that. The first alarm, and one 50,000 rows or more after the change before it, is of a change that comes once. None of these sets a memory, or alters one.
//! * Any other sets it to 2 G^(2/3), or to half of what it is if that is less.
//! * After 50,000 rows without an alarm the memory doubles, until it is that of alarms 50,000 rows apart: then nothing is forgotten any more. Each time that a memory was set these rows double (at most 64 times), so that a stream that always moves
//!   is not tried again and again.
//!
//! **Invariants.** A function of the rows in their order: alarms are acted on at the ends of blocks, and the only clock is the count of rows.

use serde::{Deserialize, Serialize};

/// Alarms within so many rows are of one change.
const SAME: u64 = 1_000;
/// Alarms farther apart have nothing to do with each other.
const APART: u64 = 50_000;
/// The shortest memory.
const LEAST: f64 = 100.0;
/// Times that the rows of quiet may double.
const DOUBLINGS: u32 = 6;

/// M for alarms `gap` rows apart.
fn memory(gap: u64) -> f64 {
    2.0 * (gap as f64).cbrt().powi(2)
}

/// The memory as of now (module docs).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::online) struct Pace {
    /// M; none forgets nothing.
    memory: Option<f64>,
    /// Rows at the last alarm that counts for spacing.
    last: Option<u64>,
    /// Rows at the last alarm or change of the memory.
    since: u64,
    /// Times that a memory was set.
    set: u32,
}

impl Pace {
    /// rho.
    pub fn forgetting(&self) -> f64 {
        self.memory.map_or(1.0, |memory| 1.0 - 1.0 / memory)
    }

    /// An alarm, after so many rows.
    pub fn alarm(&mut self, rows: u64) {
        let gap = self.last.map_or(u64::MAX, |last| rows - last);
        self.since = rows;
        if gap <= SAME {
            return;
        }
        self.last = Some(rows);
        if gap >= APART {
            return;
        }
        let by_gap = memory(gap);
        let new = self.memory.map_or(by_gap, |now| by_gap.min(0.5 * now));
        self.memory = Some(new.max(LEAST));
        self.set += 1;
    }

    /// The end of a block, after so many rows, without an alarm.
    pub fn quiet(&mut self, rows: u64) {
        let Some(now) = self.memory else { return };
        let quiet = APART << (self.set - 1).min(DOUBLINGS);
        if rows - self.since >= quiet {
            self.since = rows;
            self.memory = Some(2.0 * now).filter(|twice| *twice < memory(APART));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forgetting after each of some alarms, and how long it takes to be lifted, by the rule read aloud.
    #[test]
    fn spacing_sets_the_memory() {
        let mut pace = Pace::default();
        let mut at = |rows: u64| {
            pace.alarm(rows);
            pace.clone()
        };
        // One change, told twice; a second one far off; a third within reach.
        assert!([at(20_000), at(20_900), at(90_000)].iter().all(|pace| pace.forgetting() == 1.0));
        let third = at(98_000);
        assert!((third.forgetting() - (1.0 - 1.0 / 800.0)).abs() < 1e-12, "{third:?}");
        // Within 1,000 rows: the same change. Later: the lesser of half and what the gap says.
        assert_eq!(at(98_500).forgetting(), third.forgetting());
        assert!((at(125_000).forgetting() - (1.0 - 1.0 / 400.0)).abs() < 1e-12);
        assert!((at(126_001).forgetting() - (1.0 - 1.0 / 200.0)).abs() < 1e-4);
        assert!((at(127_002).forgetting() - (1.0 - 1.0 / 100.0)).abs() < 1e-4);
        let last = at(128_003);
        assert!((last.forgetting() - 0.99).abs() < 1e-12, "the shortest memory");
        // Far off: a change of its own, which the memory that there is has nothing to do with.
        assert_eq!((at(190_000).forgetting(), at(190_000).set), (last.forgetting(), last.set));
    }

    #[test]
    fn quiet_lifts_it() {
        let mut pace = Pace::default();
        pace.alarm(10_000);
        pace.alarm(18_000);
        let (mut changes, mut before) = (Vec::new(), pace.forgetting());
        for rows in (18_000..400_000).step_by(128) {
            pace.quiet(rows);
            if pace.forgetting() != before {
                (before, _) = (pace.forgetting(), changes.push(rows));
            }
        }
        // 800, 1,600, and beyond 2,714 nothing is forgotten.
        assert_eq!((changes.len(), before), (2, 1.0), "{changes:?}");
        assert!(changes.iter().zip([68_000, 118_000]).all(|(at, due)| (due..due + 300).contains(at)), "{changes:?}");
        // Again: it is tried after twice as many rows.
        pace.alarm(400_000);
        assert_eq!(pace.forgetting(), 1.0);
        pace.alarm(408_000);
        pace.quiet(500_000);
        assert_eq!(pace.forgetting(), 1.0 - 1.0 / memory(8_000));
        pace.quiet(508_000);
        assert_eq!(pace.forgetting(), 1.0 - 0.5 / memory(8_000));
    }
}
