//! What `nystream online` says at its end, and what is in a state.

use super::Report;
use super::text::{Pairs, bytes, count, number};
use serde::{Deserialize, Serialize};

/// Losses of predictions that were made before their targets were seen. Numbers are standardised: of squared loss, 1 is about what the mean predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prequential {
    /// Rows predicted and then learned.
    pub rows: u64,
    /// Mean loss of all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_loss: Option<f64>,
    /// Mean loss of the last `--loss-window` rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_loss: Option<f64>,
}

/// Regret against the best ridge comparator in hindsight; sums over all rows, estimated on `--hindsight` of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegretReport {
    /// The learner's loss less the comparator's.
    pub measured: f64,
    /// One standard error of `measured`; 0 where all rows were measured.
    pub error: f64,
    /// What theory allows it to be; absent where it needs a clip range and there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// The bound's terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<BoundTerms>,
    /// The published worst-case bound, as an order of magnitude.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_bound: Option<f64>,
    /// The comparator: `whole` (the minimiser over all rows), `own` (the learner's last function), `halves` (fitted to either half of the sample, measured on the other).
    pub comparator: String,
    /// Its loss.
    pub comparator_loss: f64,
    /// Its norm.
    pub comparator_norm: f64,
    /// Sampled rows on which it leaves the clip range: of such comparators theory says nothing.
    pub infeasible: u64,
    /// Rows it was measured on.
    pub rows: u64,
}

/// What the bound is the sum of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoundTerms {
    /// Starts times alpha / 2 times the comparator's squared norm.
    pub ridge: f64,
    /// What the steps cost, sum g^T A^-1 g / 2.
    pub newton: f64,
    /// Curvature beyond what is valid: of Huber's tails.
    pub excess: f64,
    /// What the dictionary does not span of the rows, as much as the comparator could make of it.
    pub outside: f64,
}

/// An alarm of drift.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AlarmReport {
    /// `mass` (what the dictionary does not span of the rows) or `loss`.
    pub by: String,
    /// Events that had been accepted with the row that raised it, as `export --as-of` counts.
    pub changes: u64,
    /// The row's key.
    pub key: String,
    /// When the row happened, where the stream says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The detector's value: of the mass a cumulative sum, of the loss by how much its mean has risen.
    pub value: f64,
    /// What that had to exceed.
    pub threshold: f64,
}

impl AlarmReport {
    /// As a sentence.
    pub fn sentence(&self) -> String {
        let (value, threshold) = (number(self.value), number(self.threshold));
        let what = match self.by.as_str() {
            "mass" => format!(
                "rows come from elsewhere (the sum of what the dictionary does not span of them is {value}, more than {threshold})"
            ),
            _ => format!("the mean loss has risen by {value}, more than {threshold}"),
        };
        let time = self.time.as_ref().map(|time| format!(" of {time}")).unwrap_or_default();
        format!("drift, at event {} (key '{}'{time}): {what}", count(self.changes), self.key)
    }
}

/// The largest shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Its value.
    pub shard: String,
    /// Rows that it was given.
    pub rows: u64,
    /// Its atoms or centers.
    pub dictionary: u64,
}

/// The independent learners of `--shard-by`; `dictionary` and losses beside it are of all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardsReport {
    /// How many there are.
    pub count: u64,
    /// How many there may be.
    pub max: u64,
    /// That with the most rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest: Option<ShardReport>,
}

impl ShardsReport {
    fn text(&self) -> String {
        let largest = self.largest.as_ref().map(|largest| {
            format!(
                ", the largest '{}' ({} rows, dictionary {})",
                largest.shard,
                count(largest.rows),
                count(largest.dictionary)
            )
        });
        format!("{} of at most {}{}", count(self.count), count(self.max), largest.unwrap_or_default())
    }
}

/// Time from the reading of an event to its acknowledgement, of this process: milliseconds, to 4 % above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// Half of the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// 99 of 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
}

/// The summary of a run. Counters are of the state, restarts included; speed and latency are of this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OnlineReport {
    /// The learner.
    pub mode: String,
    /// Rows inserted.
    pub rows_inserted: u64,
    /// Rows deleted.
    pub rows_deleted: u64,
    /// Rows corrected.
    pub rows_updated: u64,
    /// Labels that came after their rows.
    pub rows_labelled: u64,
    /// Events refused.
    pub rows_rejected: u64,
    /// Rows that left the window of `--window`, or that the encoder of `--refit-encoder` refused; they are not among the deleted ones.
    #[serde(default)]
    pub rows_expired: u64,
    /// Rows inserted, and neither deleted nor expired.
    pub rows_surviving: u64,
    /// Rows that wait for their label.
    pub rows_waiting: u64,
    /// Atoms or centers.
    pub dictionary: u64,
    /// The online effective dimension of the rows in the dictionary's span, at ridge alpha (squared loss: alpha / 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online_dimension: Option<f64>,
    /// Losses.
    pub prequential: Prequential,
    /// Shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardsReport>,
    /// Regret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regret: Option<RegretReport>,
    /// Alarms of drift.
    pub drift_alarms: u64,
    /// The last 100 of them, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<AlarmReport>,
    /// Times that the learner began anew.
    pub restarts: u64,
    /// Answers given.
    pub predictions: u64,
    /// Models published.
    pub publications: u64,
    /// Records that the start took from the log.
    pub records_replayed: u64,
    /// Events a second, of this process.
    pub rows_per_second: f64,
    /// Latency.
    pub latency_ms: LatencyReport,
    /// Seconds of this process.
    pub seconds: f64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Largest resident memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// Digest of the present model; absent before a row was learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<String>,
    /// Folder of the state.
    pub state: String,
}

impl Report for OnlineReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        let rows = format!(
            "{} inserted, {} deleted, {} updated, {} labelled, {} rejected",
            count(self.rows_inserted),
            count(self.rows_deleted),
            count(self.rows_updated),
            count(self.rows_labelled),
            count(self.rows_rejected)
        );
        pairs.add("mode", &self.mode).add("rows", rows);
        if self.rows_expired > 0 {
            pairs.add("expired", count(self.rows_expired));
        }
        pairs.add("surviving", count(self.rows_surviving));
        if self.rows_waiting > 0 {
            pairs.add("waiting", count(self.rows_waiting));
        }
        pairs.add("dictionary", count(self.dictionary)).maybe("shards", self.shards.as_ref().map(ShardsReport::text));
        let loss = |loss: Option<f64>| loss.map(number);
        pairs
            .maybe("mean loss", loss(self.prequential.mean_loss))
            .maybe("window loss", loss(self.prequential.window_loss));
        if let Some(regret) = &self.regret {
            let bound = regret.bound.map(|bound| format!(", bound {}", number(bound))).unwrap_or_default();
            pairs.add(
                "regret",
                format!(
                    "{} ± {}{bound} (comparator {}: {})",
                    number(regret.measured),
                    number(regret.error),
                    regret.comparator,
                    number(regret.comparator_loss)
                ),
            );
        }
        pairs
            .add("drift alarms", count(self.drift_alarms))
            .maybe("last alarm", self.alarms.last().map(AlarmReport::sentence))
            .add("predictions", count(self.predictions))
            .add("rows/s", number(self.rows_per_second));
        if let (Some(p50), Some(p99)) = (self.latency_ms.p50, self.latency_ms.p99) {
            pairs.add("latency", format!("{} ms, {} ms in 99 of 100", number(p50), number(p99)));
        }
        pairs.add("log", bytes(self.log_bytes)).maybe("peak memory", self.peak_rss_bytes.map(bytes));
        pairs.maybe("digest", self.model_digest.as_ref()).add("state", &self.state);
        pairs.render()
    }
}

/// A published model that is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PublishedReport {
    /// Events that had been accepted when it was published.
    pub changes: u64,
    /// Rows that it rests on.
    pub rows: u64,
    /// Its digest.
    pub model_digest: String,
}

/// What is in a state (`inspect`), and what `verify` found of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StateReport {
    /// The folder.
    pub state: String,
    /// The learner.
    pub mode: String,
    /// What the run was told, by option.
    pub options: std::collections::BTreeMap<String, String>,
    /// Records of its snapshots.
    pub snapshots: Vec<u64>,
    /// Rows inserted.
    pub rows_inserted: u64,
    /// Rows deleted.
    pub rows_deleted: u64,
    /// Rows corrected.
    pub rows_updated: u64,
    /// Events refused.
    pub rows_rejected: u64,
    /// Rows that left the window of `--window`; they are not among the deleted ones.
    #[serde(default)]
    pub rows_expired: u64,
    /// Rows inserted, and neither deleted nor expired.
    #[serde(default)]
    pub rows_surviving: u64,
    /// Events accepted: the point of the stream at which it is.
    #[serde(default)]
    pub changes: u64,
    /// Rows that wait for their label.
    pub rows_waiting: u64,
    /// Atoms or centers.
    pub dictionary: u64,
    /// Losses.
    pub prequential: Prequential,
    /// Shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardsReport>,
    /// Sources, and how far each is read, in words.
    pub sources: std::collections::BTreeMap<String, String>,
    /// Files that are written, and their bytes.
    pub files: std::collections::BTreeMap<String, u64>,
    /// Digest of the present model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<String>,
    /// Published models that are kept, oldest first; `export --as-of` takes each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedReport>,
    /// `verify`: whether everything is what it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// What was found, in sentences.
    pub notes: Vec<String>,
}

impl Report for StateReport {
    fn text(&self) -> String {
        let mut pairs = Pairs::default();
        pairs.add("state", &self.state).add("mode", &self.mode);
        pairs.add(
            "rows",
            format!(
                "{} inserted, {} deleted, {} expired, {} updated, {} rejected, {} waiting",
                count(self.rows_inserted),
                count(self.rows_deleted),
                count(self.rows_expired),
                count(self.rows_updated),
                count(self.rows_rejected),
                count(self.rows_waiting)
            ),
        );
        pairs.add("dictionary", count(self.dictionary)).maybe("mean loss", self.prequential.mean_loss.map(number));
        pairs.maybe("shards", self.shards.as_ref().map(ShardsReport::text));
        for kept in &self.published {
            pairs.add("published", format!("as of change {}: {}", count(kept.changes), kept.model_digest));
        }
        for (source, place) in &self.sources {
            pairs.add("source", format!("{source}: {place}"));
        }
        for (file, length) in &self.files {
            pairs.add("writes", format!("{file} ({})", bytes(*length)));
        }
        pairs.maybe("digest", self.model_digest.as_ref()).maybe("verified", self.verified);
        for note in &self.notes {
            pairs.add("note", note);
        }
        pairs.render()
    }
}
