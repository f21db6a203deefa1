//! `nystream online`: learning from a stream.

use super::checks::Check;
use super::groups::{KernelArgs, ResourceArgs, SampleArgs};
use super::values::online::{
    Absent, Clip, CurvatureName, DriftName, Endpoint, Mode, OnlineLoss, Publish, Sink, WindowSpec,
};
use super::values::{AutoOr, Count, DataLayout, MetricsAddr, Positive, Seconds};
use crate::exit::Failure;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

const SOURCES: &str = "Where events come from: jsonl:PATH (- is standard input), ipc:PATH (an Arrow IPC stream; - is standard input), tcp:HOST:PORT or unix:PATH \
(connections that send Arrow IPC streams), watch:FOLDER (Parquet files that appear there), or synth:NAME?.. (with drift=abrupt:ROW or drift=rotating:PERIOD)";

/// `nystream online`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct OnlineArgs {
    /// What to do with a state, instead of learning.
    #[command(subcommand)]
    pub action: Option<OnlineCommand>,
    /// Stream, state and answers.
    #[command(flatten)]
    pub stream: StreamArgs,
    /// The learner.
    #[command(flatten)]
    pub learner: LearnerArgs,
    /// What is tuned by --init-rows.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Seed and precision of what --init-rows begins with.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Machine.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Names of the flags that stand on the command line, as opposed to defaults and lower layers of settings.
    #[arg(skip)]
    pub given: Vec<String>,
}

/// The commands under `nystream online`.
#[derive(Clone, Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value per process, moved once")]
pub enum OnlineCommand {
    /// Say what is in a state
    Inspect(OnlineStateArgs),
    /// Write the present model of a state to a file that `predict` takes
    Export(OnlineExportArgs),
    /// Make a state that begins with the function of a fitted model
    Import(OnlineImportArgs),
    /// Check everything that a state keeps; what is damaged is named with what to do, and the code is 1
    Verify(OnlineStateArgs),
}

/// A state.
#[derive(Clone, Debug, Args)]
pub struct OnlineStateArgs {
    /// Folder of the state
    #[arg(value_name = "STATE", required = true)]
    pub state: PathBuf,
}

/// `nystream online export`.
#[derive(Clone, Debug, Args)]
pub struct OnlineExportArgs {
    /// Folder of the state
    #[arg(value_name = "STATE", required = true)]
    pub state: PathBuf,
    /// Model file to write
    #[arg(long, value_name = "FILE", required = true)]
    pub out: PathBuf,
    /// Take the newest model that was published when the stream had brought so many changes, or before; `inspect` lists those that are kept [default: the model as of now]
    #[arg(long, value_name = "CHANGES")]
    pub as_of: Option<u64>,
    /// The model of this shard, of a state that was begun with --shard-by
    #[arg(long, value_name = "VALUE")]
    pub shard: Option<String>,
}

/// `nystream online import`.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("config_from", |arg| arg.hide(true)), mut_arg("init_rows", |arg| arg.hide(true)))]
pub struct OnlineImportArgs {
    /// Folder of the state, which must not be there or be empty
    #[arg(value_name = "STATE", required = true)]
    pub state: PathBuf,
    /// Model whose configuration and function the state begins with
    #[arg(long, value_name = "MODEL", required = true)]
    pub from: PathBuf,
    /// The learner.
    #[command(flatten)]
    pub learner: LearnerArgs,
}

/// Where events come from, and where answers go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Stream")]
pub struct StreamArgs {
    /// Where events come from; the grammar is that of [`Endpoint`].
    #[arg(long, value_name = "SOURCE", required = true, help = SOURCES)]
    pub input: Option<Endpoint>,
    /// Folder of the state, made if absent: what is acknowledged is in it, and a restart goes on from there
    #[arg(long, value_name = "FOLDER", required = true)]
    pub state: Option<PathBuf>,
    /// Column to predict; with --config-from the model has it. --mode recursive takes several: repeat it
    #[arg(long, value_name = "COLUMN")]
    pub target: Vec<String>,
    /// Where answers go: jsonl:PATH, ipc:PATH (an Arrow IPC stream; - is standard output), or parquet:FOLDER (a part for each snapshot). Files hold each answer once. The summary of --format json is the last line on standard output, behind the answers that go there [default: nowhere]
    #[arg(long, value_name = "SINK")]
    pub output: Option<Sink>,
    /// File for events that are refused, a line of JSON each: key, reason, place in the source, and text (of JSON lines the line itself) [default: they are counted, and not kept]
    #[arg(long, value_name = "FILE")]
    pub dead_letter: Option<PathBuf>,
    /// End with code 1 at the first event that is refused; nothing of the piece (up to 1,024 events) that holds it is acknowledged
    #[arg(long)]
    pub strict: bool,
    /// A row without a column that the model needs: reject (it may be misspelt; the nearest name that is there is told), or null, for producers that leave nulls out. A column that is there and null is null
    #[arg(long, value_name = "MEANING", default_value = "reject")]
    pub absent: Absent,
    /// Refuse rows whose time is further than this before the latest one [default: no limit]
    #[arg(long, value_name = "TIME")]
    pub lateness: Option<Seconds>,
    /// --mode exact: rows that stay, as if the others were deleted: rows:N, the N that arrived last (a correction arrives anew, a label does not), or time:TIME (12h, 30d), those whose time is no further before the
    /// latest one; rows that come older than that, or without a time, are refused. It goes by the events alone, never by a clock [default: all stay]
    #[arg(long, value_name = "WINDOW")]
    pub window: Option<WindowSpec>,
    /// Rows that may wait for their label; a row without one beyond that is refused
    #[arg(long, value_name = "N", default_value = "1000000")]
    pub max_waiting: Count,
    /// When a model is published to STATE/model.nys: end, every:ROWS (changes), every:TIME (every:60s), or drift:X, X up to 1: exact, when the rows that came or went since are X of those that it rests on;
    /// con-kons and pros-n-kons, when the function has moved by X of its norm (looked at after each --block of learned rows)
    #[arg(long, value_name = "WHEN", default_value = "end")]
    pub publish: Publish,
    /// Published models that are kept in STATE, the newest among them: `nystream online export --as-of` takes them by the number of changes that the stream had brought [default: as before; 1]
    #[arg(long, value_name = "N")]
    pub keep_published: Option<Count>,
    /// --mode exact, of a state with rows: fit encoder, target scale, kernel and ridge anew to the rows that are left, publish by them, and go on from there. --kernel, --bandwidth, --ridge, --metric, --seed and
    /// --precision may say how; the number of centers and how they are chosen stay
    #[arg(long)]
    pub refit_encoder: bool,
    /// End when nothing has come for so long; a file, or synth, is at its end before that [default: never]
    #[arg(long, value_name = "TIME")]
    pub idle_exit: Option<Seconds>,
    /// Changes between two snapshots of the state; one is written every minute too, or in 33 times what the last one took, if that is longer. A restart repeats what came after the last one
    #[arg(long, value_name = "N", default_value = "100000")]
    pub snapshot_every: Count,
    /// Answer predictions at http://HOST:PORT while learning (POST /predict, GET /health, GET /metrics), with a port alone on loopback; port 0 takes a free one, which stderr tells. Other addresses need --token-file [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<MetricsAddr>,
    /// File with the token that requests to --listen must bring (Authorization: Bearer ..), readable by its owner alone
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What learns, and with what it begins.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Learner")]
pub struct LearnerArgs {
    /// Learner: exact (rows are kept, and can be corrected and deleted; what is published is the model that fit --config-from makes of those that are left), con-kons (second-order steps in the span of a growing dictionary), pros-n-kons (beginning anew with each atom, as published), kons (every row kept; for short streams), sketched-kons, recursive (ridge regression of any number of targets on the centers of --config-from, --from or --init-rows, which stay)
    #[arg(long, value_name = "MODE", default_value = "con-kons")]
    pub mode: Mode,
    /// Take encoder, kernel, ridge, target scale, precision and seed from this model, and begin with nothing learned
    #[arg(long, value_name = "MODEL")]
    pub config_from: Option<PathBuf>,
    /// The same, beginning with the model's function
    #[arg(long, value_name = "MODEL")]
    pub from: Option<PathBuf>,
    /// Tune encoder, kernel and ridge on the first N rows with a target, as `fit` would; then learn these rows like all others. For sources that can be read twice
    #[arg(long, value_name = "N")]
    pub init_rows: Option<Count>,
    /// Loss: squared, huber or huber:DELTA, or for two classes logistic, squared-hinge
    #[arg(long, value_name = "LOSS", default_value = "squared")]
    pub loss: OnlineLoss,
    /// Curvature of the steps: adaptive (squared loss: exact ridge regression in the span), or fixed, under which old errors weigh less
    #[arg(long, value_name = "CURVATURE", default_value = "adaptive")]
    pub curvature: CurvatureName,
    /// Ridge alpha of the whole stream, as in the sum of losses + alpha / 2 |f|^2; or auto, by the ridge of the configuration and its rows
    #[arg(long, value_name = "NUMBER", default_value = "auto")]
    pub alpha: AutoOr<Positive>,
    /// Matrix ridge of the dictionary's leverage scores that decide which rows become atoms: smaller takes more; or auto: alpha / 2 at first, rising as the dictionary fills so that its atoms are spread over the stream
    #[arg(long, value_name = "NUMBER", default_value = "auto")]
    pub gamma: AutoOr<Positive>,
    /// How many times its estimated leverage score is the probability that a row becomes an atom of the dictionary
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    pub beta: Positive,
    /// Most atoms of the dictionary; with --mode recursive --init-rows the centers to choose [default there: as `fit` would]
    #[arg(long, value_name = "N", default_value = "1024")]
    pub cap: Count,
    /// Predictions are kept within this of 0, and targets beyond it are refused: a number (numbers: standard deviations), none, or auto (numbers: twice what the configuration's targets reach; classes: 4)
    #[arg(long, value_name = "C", default_value = "auto")]
    pub clip: Clip,
    /// Weight that a row keeps with each row after it: 1 never forgets, 0.9999 halves it in 6,931 rows
    #[arg(long, value_name = "RHO", default_value = "1")]
    pub forgetting: Positive,
    /// Rows that are learned at a time, and answered then; 1 answers each at once and is slower
    #[arg(long, value_name = "ROWS", default_value = "128")]
    pub block: Count,
    /// How many of the last rows `window_loss` of the summary is the mean of
    #[arg(long, value_name = "ROWS", default_value = "1000")]
    pub loss_window: Count,
    /// Rows of the stream, drawn by hash, that are kept to measure the regret on at the end
    #[arg(long, value_name = "ROWS", default_value = "1000")]
    pub hindsight: Count,
    /// What an alarm of drift does: none (nothing is watched), report, forget or forget:KEEP (old rows weigh KEEP of what they did, 0.1), reset (what was learned is dropped), adapt (reset, and where alarms come again within 50,000 rows old ones are forgotten as fast as their spacing says, until there is none for long)
    #[arg(long, value_name = "ACTION", default_value = "none")]
    pub drift: DriftName,
    /// Independent learners, one for each value of this column, or key for one a key: each has a dictionary of its own, and rows are learned and predicted by that of theirs. The column need not be
    /// one that the model reads [default: one learner for all]
    #[arg(long, value_name = "COLUMN")]
    pub shard_by: Option<String>,
    /// Shards that there may be; rows of further ones are refused; or auto: as many as fit two fifths of --memory with full dictionaries
    #[arg(long, value_name = "N", default_value = "auto")]
    pub max_shards: AutoOr<Count>,
    /// Least share of the rows that sketched-kons takes into its second-order term
    #[arg(long, value_name = "SHARE", default_value = "0.1")]
    pub sketch_share: Positive,
}

/// Why a learner does not run in several processes.
pub const ONE_PROCESS: &str = "--hosts: this learner takes rows one after the other, in one process: leave out --hosts, or use --mode exact, whose rows are dealt to all processes";

impl Check for OnlineArgs {
    fn check(&self) -> Result<(), Failure> {
        let usage = |text: &str| Err(Failure::usage(text));
        self.resources.check()?;
        if self.resources.hosts.is_some() && self.learner.init_rows.is_some() {
            return usage("--init-rows fits in one process: begin without --hosts, then go on in several");
        }
        if self.resources.hosts.is_some() && self.stream.refit_encoder {
            return usage("--refit-encoder fits in one process: run it without --hosts, then go on in several");
        }
        // What a state says of itself shows when it is opened.
        if self.resources.hosts.is_some() && self.learner.mode != Mode::Exact && self.names_mode() {
            return usage(ONE_PROCESS);
        }
        if self.resources.data_layout == DataLayout::Local {
            return usage("--data-layout local: the rows come as a stream, to the first process: leave it out");
        }
        if self.resources.metrics_addr.is_some() {
            return usage("online serves no metrics: leave out --metrics-addr (--listen has GET /metrics)");
        }
        self.recursive()?;
        self.exact()?;
        self.whole()?;
        if let Some(by) = &self.learner.shard_by {
            if by.is_empty() {
                return usage("--shard-by names no column: give one, or key");
            }
            if self.stream.keep_published.is_some() {
                return usage("models of shards are not published: leave out --keep-published");
            }
            if self.learner.mode == Mode::Exact {
                return usage("--shard-by is for learners that keep no rows: --mode exact has one model");
            }
            if self.stream.publish != Publish::End {
                return usage(
                    "models of shards are written on demand, by online export --shard VALUE: leave out --publish",
                );
            }
        }
        // Four matrices whose room doubles, and the entries among the rows of the hindsight sample.
        let room = self.learner.cap.0.checked_next_power_of_two().unwrap_or(u64::MAX);
        let sample = self.learner.hindsight.0;
        let matrices = room.saturating_mul(room).saturating_mul(32);
        let needed = matrices.saturating_add(sample.saturating_mul(sample).saturating_mul(16));
        // The exact mode has neither, nor has least squares on given centers: what they need is said elsewhere.
        if needed > self.resources.memory.0 && !matches!(self.learner.mode, Mode::Exact | Mode::Recursive) {
            return Err(Failure::budget(format!(
                "--cap {} and --hindsight {} may need {}, and --memory allows {}: lower them",
                self.learner.cap,
                self.learner.hindsight,
                crate::report::text::bytes(needed),
                self.resources.memory
            )));
        }
        if self.stream.token_file.is_some() && self.stream.listen.is_none() {
            return usage("--token-file guards --listen: give both, or neither");
        }
        let begins =
            [self.learner.config_from.is_some(), self.learner.from.is_some(), self.learner.init_rows.is_some()];
        if begins.iter().filter(|given| **given).count() > 1 {
            return usage("--config-from, --from and --init-rows all say what to begin with: give one of them");
        }
        if let (Some(output), Some(dead)) = (&self.stream.output, &self.stream.dead_letter)
            && Path::new(output.path()) == dead
        {
            return usage("--output and --dead-letter name one file: name two");
        }
        if let (Some(Endpoint::Lines(input)), Some(output)) = (&self.stream.input, &self.stream.output)
            && input == output.path()
            && input != "-"
        {
            return usage("--output would be written over --input: name another file");
        }
        Ok(())
    }
}

impl OnlineArgs {
    /// Whether the mode is given, and not the default or that of a state.
    fn names_mode(&self) -> bool {
        self.given.iter().any(|name| name == "mode")
    }

    /// Options of other learners mean nothing to the exact mode, whose configuration is a model's.
    fn exact(&self) -> Result<(), Failure> {
        let other = [
            "loss",
            "curvature",
            "alpha",
            "gamma",
            "beta",
            "cap",
            "clip",
            "forgetting",
            "hindsight",
            "drift",
            "sketch-share",
        ];
        let flag = self.given.iter().find(|flag| other.contains(&flag.as_str()));
        match flag.filter(|_| self.learner.mode == Mode::Exact) {
            Some(flag) => Err(Failure::usage(format!("--{flag} means nothing to --mode exact: leave it out"))),
            None => Ok(()),
        }
    }

    /// Learners that keep every row neither forget nor begin anew.
    fn whole(&self) -> Result<(), Failure> {
        let flag = self.given.iter().find(|flag| ["forgetting", "drift"].contains(&flag.as_str()));
        match flag.filter(|_| matches!(self.learner.mode, Mode::Kons | Mode::SketchedKons)) {
            Some(flag) => Err(Failure::usage(format!(
                "--{flag} means nothing to --mode kons and sketched-kons, which forget nothing: leave it out, or use con-kons"
            ))),
            None => Ok(()),
        }
    }

    /// Options of other learners mean nothing to least squares on centers that stay.
    fn recursive(&self) -> Result<(), Failure> {
        if self.learner.mode != Mode::Recursive {
            return Ok(());
        }
        if self.learner.loss != OnlineLoss::Squared {
            return Err(Failure::usage("--mode recursive is least squares: leave out --loss"));
        }
        let other = ["curvature", "gamma", "beta", "clip", "hindsight", "drift", "sketch-share"];
        match self.given.iter().find(|flag| other.contains(&flag.as_str())) {
            Some(flag) => Err(Failure::usage(format!("--{flag} means nothing to --mode recursive: leave it out"))),
            None if self.learner.init_rows.is_none() && self.given.iter().any(|flag| flag == "cap") => {
                Err(Failure::usage(
                    "--mode recursive has the centers of its model: --cap chooses them with --init-rows alone",
                ))
            }
            None => Ok(()),
        }
    }
}
