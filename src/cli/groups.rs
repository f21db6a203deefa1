//! Groups of options shared by several commands.

use super::values::{
    AllOr, AutoOr, Bandwidth, ByteSize, ClassWeight, Count, DataLayout, DictionaryMode, Interval, KernelName, Loss,
    MetricsAddr, Positive, Precision, Preconditioner, ProductMode, Ridge, Scale, Seconds, Select, ShareCenters, Simd,
    Solver, SplitSpec, Task, Transport,
};
use crate::exit::Failure;
use clap::Args;
use nystream_dataflows::matvec::products::{self, ProductLimit};
use std::path::PathBuf;

/// Data, and what its columns mean.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct InputArgs {
    /// Parquet files: a file, a folder, a glob (quoted), an address in a store (s3://, gs://, az://, https://), or synth:NAME?rows=..&d=..&seed=..; repeatable
    #[arg(long, value_name = "PATH", required = true)]
    pub data: Vec<String>,
    /// Column to predict; repeatable for several targets
    #[arg(long, value_name = "COLUMN")]
    pub target: Vec<String>,
    /// Column to leave out; repeatable
    #[arg(long, value_name = "COLUMN")]
    pub drop: Vec<String>,
    /// Column to treat as categorical although it holds numbers; repeatable
    #[arg(long, value_name = "COLUMN")]
    pub categorical: Vec<String>,
    /// Column of row weights, not negative. They weigh what is minimised; errors on held-out rows and of
    /// `evaluate` count every row once [default: 1 for every row]
    #[arg(long, value_name = "COLUMN")]
    pub weight: Option<String>,
    /// Class weights: `balanced`, or LABEL=WEIGHT,... (1 where not named) [default: 1 for every class]
    #[arg(long, value_name = "WEIGHTS")]
    pub class_weight: Option<ClassWeight>,
    /// Column that identifies rows, unique [default: file and position]
    #[arg(long, value_name = "COLUMN")]
    pub id_column: Option<String>,
    /// Timestamp column to encode as hour, weekday and day of year too; repeatable
    #[arg(long, value_name = "COLUMN")]
    pub cyclic: Vec<String>,
    /// How numeric columns are scaled; the result has unit spread ("encoded units")
    #[arg(long, value_name = "SCALE", default_value = "standard")]
    pub scale: Scale,
    /// What is predicted
    #[arg(long, value_name = "TASK", default_value = "auto")]
    pub task: Task,
    /// Bad rows (NaN or infinite values, values out of range) tolerated before failing
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_bad_rows: u64,
}

/// Rows kept from the fit to measure its error.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Held-out rows")]
pub struct HoldoutArgs {
    /// hash:FRACTION, hash:FRACTION:COLUMN (equal values stay together), time:COLUMN:FRACTION, or none
    /// [default: hash:0.1, or none with --validation]
    #[arg(long, value_name = "SPLIT", verbatim_doc_comment)]
    pub split: Option<SplitSpec>,
    /// Parquet files to measure on instead; repeatable
    #[arg(long, value_name = "PATH")]
    pub validation: Vec<String>,
}

/// Where held-out rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SplitSource<'a> {
    /// Out of the data itself.
    Split(SplitSpec),
    /// Other files.
    Files(&'a [String]),
}

impl HoldoutArgs {
    /// What applies: the given files, else the given split, else `hash:0.1`.
    pub fn source(&self) -> SplitSource<'_> {
        if !self.validation.is_empty() {
            return SplitSource::Files(&self.validation);
        }
        SplitSource::Split(self.split.clone().unwrap_or(SplitSpec::Hash { fraction: 0.1, column: None }))
    }
}

const KERNEL_HELP: &str = "Kernel: gaussian, laplace, matern12, matern32, matern52, cauchy, \
wendland2[:DIMENSION], wendland4[:DIMENSION], polynomial[:DEGREE[:OFFSET]], arccosine[:DEPTH], ntk[:DEPTH], or auto";

/// Kernel, bandwidth, metric, ridge.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kernel")]
pub struct KernelArgs {
    /// Kernel family, or auto; the grammar is that of [`KernelName`].
    #[arg(long, value_name = "KERNEL", default_value = "auto", help = KERNEL_HELP)]
    pub kernel: AutoOr<KernelName>,
    /// Bandwidth: a number in encoded units, a multiple of the sample's median distance such as 2.0x, or auto
    #[arg(long, value_name = "SIGMA", default_value = "auto", allow_negative_numbers = true)]
    pub bandwidth: Bandwidth,
    /// Per-sample regularisation lambda, as in (1/n) sum (y - f)^2 + lambda |f|^2 or, with --loss logistic, (1/n) sum loss + (lambda / 2) |f|^2; or auto
    #[arg(long, value_name = "LAMBDA", default_value = "auto", allow_negative_numbers = true)]
    pub ridge: AutoOr<Ridge>,
    /// JSON file of per-feature length scales (list, or object by column), or of a linear map A (list of rows, any but zeros): r = |A (x - z)|
    /// [default: r = |x - z|, encoded units]
    #[arg(long, value_name = "FILE")]
    pub metric: Option<PathBuf>,
}

/// The centers of the approximation.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Centers")]
pub struct DictionaryArgs {
    /// Number of centers m, or auto (from memory, flops and the effective dimension)
    #[arg(long, value_name = "M", default_value = "auto")]
    pub centers: AutoOr<Count>,
    /// How centers are chosen: auto, squeak, rpcholesky, rpcholesky:full, uniform, or file:PATH (rows of a Parquet file, as `dictionary --out` writes them)
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    pub select: Select,
    /// Rows whose leverage is scored: all, or N of them by hash. Given `all`, --select rpcholesky passes over all rows instead of a pool
    /// (rpcholesky:full) [default: squeak all, rpcholesky a pool]
    #[arg(long, value_name = "ROWS")]
    pub dictionary_rows: Option<AllOr>,
    /// Sampling of the dictionary; `theorem` takes the published constants and is refused where they do not fit
    #[arg(long, value_name = "MODE", default_value = "bernoulli")]
    pub dictionary_mode: DictionaryMode,
}

/// The solver and when it stops.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Solver")]
pub struct SolveArgs {
    /// Solver; auto decides by predicted flops, see --explain
    #[arg(long, value_name = "SOLVER", default_value = "auto")]
    pub solver: Solver,
    /// Loss to minimise; logistic is for classification
    #[arg(long, value_name = "LOSS", default_value = "squared")]
    pub loss: Loss,
    /// Relative residual at which an iterative solver has converged: of the normal equations (pcg; eigenpro, tested every fourth epoch), of
    /// (K + lambda n I) alpha = y (blockcd), of the whitened gradient (logistic loss) [default: 1e-5; eigenpro: none, it ends when its objective
    /// has settled, with --ridge 0 its held-out error]
    #[arg(long, value_name = "NUMBER")]
    pub tolerance: Option<Positive>,
    /// At most so many iterations (pcg), Newton steps at --ridge (logistic loss; one at each of a few larger ridges comes before and is not counted) or
    /// epochs (eigenpro, blockcd) [default: pcg 300; logistic loss 30; eigenpro 60, or up to 400 on few rows; blockcd 100]
    #[arg(long, value_name = "N")]
    pub iterations: Option<Count>,
    /// What stands for the rows in the preconditioner of pcg (squared loss): the centers, each for the rows around it, which takes a quarter of the algebra and about twice the
    /// iterations, or these and sampled rows, mixed, which also give the degrees of freedom; auto decides by the numbers of rows and centers
    #[arg(long, value_name = "ROWS", default_value = "auto")]
    pub preconditioner: Preconditioner,
    /// Stop the solve when the fit has run so long, save the model and exit with code 3: 90s, 10m, 1.5h. Iterations stop; gram takes no more rows and solves with those it has. What
    /// comes before the solve, and the algebra after a Gram, are not stopped [default: no limit]
    #[arg(long, value_name = "TIME")]
    pub time_limit: Option<Seconds>,
}

/// Which kernel entries are formed.
#[derive(Clone, Debug, Args)]
pub struct ProductArgs {
    /// Leave out centers too far from a row to matter: products Y of all rows keep |K V - Y| <= EPS |V|, V the coefficients, or the vectors of an iteration of pcg. The report says
    /// how much was left out. Where sampled rows say that nothing is gained, and by default, every entry is formed. For kernels that are functions of the distance
    #[arg(long, value_name = "EPS")]
    pub product_tolerance: Option<Positive>,
    /// How --product-tolerance is kept: certified, for certain by one cutoff; or sampled, with fewer entries: each row leaves out or draws what its own part of EPS allows, so that it holds
    /// with probability 0.999 (predict, evaluate) or for certain (fit, where nothing is drawn)
    #[arg(long, value_name = "MODE", default_value = "certified")]
    pub product_mode: ProductMode,
}

impl ProductArgs {
    /// What products may be off by.
    pub fn limit(&self) -> ProductLimit {
        let mode = match self.product_mode {
            ProductMode::Certified => products::ProductMode::Certified,
            ProductMode::Sampled => products::ProductMode::Sampled,
        };
        ProductLimit { tolerance: self.product_tolerance.map(|tolerance| tolerance.0), mode }
    }

    /// Refuses a mode without the tolerance that it keeps.
    pub fn check(&self) -> Result<(), Failure> {
        match (self.product_mode, &self.product_tolerance) {
            (ProductMode::Sampled, None) => {
                Err(Failure::usage("--product-mode sampled needs a tolerance: give --product-tolerance"))
            }
            _ => Ok(()),
        }
    }
}

/// What fixes the bits of the answer beside the data, and the cap on what it may cost.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Answer")]
pub struct SampleArgs {
    /// Seed of every hashed choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Precision of kernel entries; sums are always f64
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    pub precision: Precision,
    /// Floating-point operations of all stages together, tuning included; a plan that takes more is refused
    #[arg(long, value_name = "NUMBER", default_value = "2e14", help_heading = "Machine")]
    pub max_flops: Positive,
}

/// Machine resources. None of them changes a fitted model once the number of centers is given.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct ResourceArgs {
    /// Worker threads per process, or auto (one per core)
    #[arg(long, value_name = "N", default_value = "auto")]
    pub workers: AutoOr<Count>,
    /// Memory of one process; what does not fit is refused
    #[arg(long, value_name = "SIZE", default_value = "8GiB")]
    pub memory: ByteSize,
    /// Folder for spilled chunks [default: the system's temporary folder]
    #[arg(long, value_name = "FOLDER")]
    pub temp_dir: Option<PathBuf>,
    /// Bytes spilled chunks may take
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    pub disk_limit: ByteSize,
    /// Instruction set of kernel tiles; models of different sets differ in their last bits. Auto is the best this machine has, with a model the model's
    /// own
    #[arg(long, value_name = "SET", default_value = "auto")]
    pub simd: Simd,
    /// File of host:port lines, one per process [default: one process]
    #[arg(long, value_name = "FILE")]
    pub hosts: Option<PathBuf>,
    /// Which line of --hosts this process is, from 0
    #[arg(long, value_name = "INDEX")]
    pub process: Option<u32>,
    /// Serve Prometheus metrics of this process at http://HOST:PORT/metrics, with a port alone on loopback; port 0 takes a free one, which stderr tells. Anybody who reaches the address
    /// can read them [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<MetricsAddr>,
    /// Where the data of --hosts is: shared (every process sees all files), or local (each host has files of its own under --data, named relative to its own root; a name is one file, and one
    /// that several have is read once; of predict each writes the rows that it reads). The model is the same
    #[arg(long, value_name = "LAYOUT", default_value = "shared")]
    pub data_layout: DataLayout,
    /// Whether the processes of --hosts share the centers of eigenpro (fit) and of a model (predict, evaluate), so that each holds some of them, packed, and what belongs to them: auto does
    /// beyond 20,000 centers in fit, and where the model does not fit --memory otherwise. Fits form entries twice then. Changes no bit of the result
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub share_centers: ShareCenters,
    /// How processes meet and what they do when one is lost.
    #[command(flatten)]
    pub join: JoinArgs,
}

/// How the processes of --hosts meet, and what they do when one is lost.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct JoinArgs {
    /// File with the secret that all processes of --hosts share: 16 bytes or more, readable by its owner alone. The variable NYSTREAM_SECRET may hold the secret itself instead [default: none;
    /// then --hosts may name loopback addresses only]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// What processes send each other: noise (encrypted), or plain (readable on the network; authenticated like noise)
    #[arg(long, value_name = "TRANSPORT", default_value = "noise")]
    pub transport: Transport,
    /// How long a process waits for the others of --hosts; then exit code 6
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub join_timeout: Seconds,
    /// A process of which nothing is heard for so long, or that takes nothing for so long, is lost: exit code 5. At least 1s
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub peer_timeout: Seconds,
}

/// What is kept to go on after an end.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointArgs {
    /// Folder for checkpoints, which a job that is killed or interrupted goes on from with --resume; emptied when the model is written. One for each job, shared by all processes [default:
    /// none]
    #[arg(long, value_name = "FOLDER")]
    pub checkpoint: Option<PathBuf>,
    /// Least time between two checkpoints of one thing; writing them takes at most 3 % of the run. 0: at every boundary, whatever that takes
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub checkpoint_every: Interval,
    /// Go on from the checkpoint in --checkpoint, with any number of processes and workers, to the same model; begin anew where there is none
    #[arg(long)]
    pub resume: bool,
}

impl CheckpointArgs {
    /// Refuses to resume from nowhere.
    pub fn check(&self) -> Result<(), Failure> {
        match &self.checkpoint {
            None if self.resume => {
                Err(Failure::usage("--resume goes on from a checkpoint: give its folder by --checkpoint"))
            }
            _ => Ok(()),
        }
    }
}

impl ResourceArgs {
    /// Worker threads: as given, else one per core of this host.
    pub fn worker_threads(&self) -> usize {
        match self.workers {
            AutoOr::Given(count) => count.0 as usize,
            AutoOr::Auto => std::thread::available_parallelism().map_or(1, |n| n.get()),
        }
    }

    /// Whether this process is the one that writes and prints: the only one, or the first of --hosts.
    pub fn is_first(&self) -> bool {
        self.process.unwrap_or(0) == 0
    }

    /// The folder for spilled chunks.
    pub fn temporary_folder(&self) -> PathBuf {
        self.temp_dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}
