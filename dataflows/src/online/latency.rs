//! Percentiles of durations, in fixed memory: counts by size, in steps of 4 %.

use std::time::Duration;

/// Steps between a microsecond and a day, and what is beyond.
const STEPS: usize = 660;
const RATIO: f64 = 1.04;

/// Durations seen.
#[derive(Clone, Debug)]
pub struct Latency {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { counts: vec![0; STEPS], total: 0 }
    }
}

impl Latency {
    /// `count` events took so long.
    pub fn add(&mut self, time: Duration, count: u64) {
        let micros = (time.as_secs_f64() * 1e6).max(1.0);
        let step = ((micros.ln() / RATIO.ln()).ceil() as usize).min(STEPS - 1);
        self.counts[step] += count;
        self.total += count;
    }

    /// The time in milliseconds within which the share `q` of all came, to 4 % above.
    ///
    /// ```
    /// use nystream_dataflows::online::latency::Latency;
    /// use std::time::Duration;
    /// let mut latency = Latency::default();
    /// latency.add(Duration::from_millis(1), 98);
    /// latency.add(Duration::from_millis(50), 2);
    /// let p = |q| latency.quantile(q).unwrap();
    /// assert!((1.0..1.05).contains(&p(0.5)) && (50.0..52.5).contains(&p(0.99)));
    /// ```
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let wanted = (q * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (step, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && self.total > 0 {
                return Some(RATIO.powi(step as i32) / 1e3);
            }
        }
        None
    }
}
