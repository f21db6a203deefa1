//! When to write: so seldom that writing stays within 3 % of the run, and so often that little is lost.
//!
//! Two rules. What goes on for long (a pass, an iteration) is written at an interval of max(`every`, 33 times the last write). And all writes together, those of results that
//! would be repeated included, may take a 33rd of the time that has passed: a write is put off until there is room for what it is expected to take. Clocks decide only what is stored, never what is computed.
//! An interval of 0 asks for everything at every boundary, whatever that takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Times of a write that must pass before the next.
pub const SHARE: f64 = 33.0;
/// Bytes a second until something was written.
const EXPECTED_RATE: f64 = 100e6;

/// What one process writes, and when.
#[derive(Clone, Debug)]
pub struct Pace {
    begun: Instant,
    every: Duration,
    last: BTreeMap<String, (Instant, f64)>,
    /// Seconds that the smallest write takes.
    least: f64,
    rate: f64,
    /// What was written.
    pub total: Written,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Written {
    /// Entries.
    pub count: u64,
    /// Seconds.
    pub seconds: f64,
    /// Bytes.
    pub bytes: u64,
}

impl Pace {
    /// From now on; `least` is what a small write took.
    pub fn new(begun: Instant, every: Duration, least: Duration) -> Self {
        Pace {
            begun,
            every,
            last: BTreeMap::new(),
            least: least.as_secs_f64(),
            rate: EXPECTED_RATE,
            total: Written::default(),
        }
    }

    /// Seconds that a write of `bytes` is expected to take.
    pub fn expected(&self, bytes: u64) -> f64 {
        self.least + bytes as f64 / self.rate
    }

    /// Whether a write of `bytes` would stay within its share of the time that has passed.
    ///
    /// ```
    /// use nystream_cluster::checkpoint::Pace;
    /// use std::time::{Duration, Instant};
    /// let begun = Instant::now();
    /// let pace = Pace::new(begun, Duration::from_secs(60), Duration::from_millis(10));
    /// // 100 MB are expected to take a second.
    /// assert!(!pace.affords(100_000_000, begun + Duration::from_secs(30)));
    /// assert!(pace.affords(100_000_000, begun + Duration::from_secs(40)));
    /// ```
    pub fn affords(&self, bytes: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.begun).as_secs_f64();
        self.every.is_zero() || SHARE * (self.total.seconds + self.expected(bytes)) <= passed
    }

    /// Whether `what`, which has gone on since `since`, is to be written, in about `bytes`.
    pub fn due(&self, what: &str, since: Instant, bytes: u64, now: Instant) -> bool {
        let (last, seconds) = self.last.get(what).map_or((since, 0.0), |(at, seconds)| (since.max(*at), *seconds));
        let interval = self.every.as_secs_f64().max(SHARE * seconds);
        self.every.is_zero()
            || now.saturating_duration_since(last).as_secs_f64() >= interval && self.affords(bytes, now)
    }

    /// Whether a value of `bytes` that took so long is worth its write.
    pub fn worth(&self, bytes: u64, took: Duration) -> bool {
        self.every.is_zero() || SHARE * self.expected(bytes) <= took.as_secs_f64()
    }

    /// Writing `what` failed: it is not tried again before an interval has passed.
    pub fn failed(&mut self, what: &str, start: Instant, end: Instant) {
        let seconds = end.saturating_duration_since(start).as_secs_f64();
        self.last.insert(what.to_owned(), (end, seconds));
        self.total.seconds += seconds;
    }

    /// `what` was written from `start` to `end`.
    pub fn wrote(&mut self, what: &str, bytes: u64, start: Instant, end: Instant) {
        let seconds = end.saturating_duration_since(start).as_secs_f64();
        self.last.insert(what.to_owned(), (end, seconds));
        self.total.count += 1;
        self.total.seconds += seconds;
        self.total.bytes += bytes;
        if bytes > 1 << 20 && seconds > 0.0 {
            self.rate = bytes as f64 / seconds;
        } else {
            self.least = 0.5 * (self.least + seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever writes take, all of them stay within a 33rd of the run and intervals are kept.
    #[test]
    fn writes_stay_within_their_share() {
        let begun = Instant::now();
        for (milliseconds, every) in [(1, 1), (300, 1), (50, 2000), (5000, 60_000)] {
            let every = Duration::from_millis(every);
            let mut pace = Pace::new(begun, every, Duration::from_millis(1));
            let (mut now, mut last) = (begun, None);
            for step in 0..40_000u64 {
                now += Duration::from_millis(37);
                if !pace.due("state", begun, 1000, now) {
                    continue;
                }
                assert!(last.is_none_or(|last| now - last >= every), "step {step}");
                let end = now + Duration::from_millis(milliseconds);
                pace.wrote("state", 1000, now, end);
                (now, last) = (end, Some(end));
            }
            let share = pace.total.seconds / (now - begun).as_secs_f64();
            assert!(pace.total.count > 2 && share < 0.0304, "{milliseconds} ms: {:?}, {share}", pace.total);
        }
    }
}
