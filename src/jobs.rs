//! From parsed options to jobs: what the stages are asked, and the workers that run them.

use crate::cli::groups::{
    DictionaryArgs, HoldoutArgs, InputArgs, KernelArgs, ResourceArgs, SampleArgs, SolveArgs, SplitSource,
};
use crate::cli::values::{self, AllOr, AutoOr, SplitSpec};
use crate::exit::{self, ExitCode, Failure, lock, peer_lost};
use crate::joining;
use crate::metrics::Metrics;
use crate::model::metric_file::{MetricError, MetricFile};
use crate::progress::Progress;
use crate::watcher::Watcher;
use nystream_cluster::checkpoint::JobKey;
use nystream_cluster::launch::{JOINED, LAUNCHED};
use nystream_cluster::{
    Communication, Hosts, JobIdentity, JoinError, JoinOptions, JoinStop, Network, PeerLost, Transport, join,
    single_process,
};
use nystream_dataflows::StageError;
use nystream_dataflows::engine::{self, Process, Session, agree};
use nystream_dataflows::job::{
    Bandwidth, DictionaryRule, FitConfig, Loss, MetricRequest, Select, Sharding, Solver, Task,
};
use nystream_dataflows::matvec::grid::Shard;
use nystream_dataflows::matvec::products::ProductLimit;
use nystream_dataflows::plan::{ModelSize, Preconditioning};
use nystream_datasets::{Catalog, ClassWeight, Encoder, EncoderOptions, HostFiles, Part, Scale, Sources, Split};
use nystream_kernels::gram::Precision;
use nystream_kernels::tile::SimdPath;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Opens the data set that `paths` name.
///
/// ```
/// use nystream::{exit::ExitCode, jobs::open};
/// assert_eq!(open(&["synth:sines?rows=5000".into()])?.total_rows, 5000);
/// assert_eq!(open(&["absent.parquet".into()]).unwrap_err().code, ExitCode::Data);
/// assert_eq!(open(&["synth:cosines".into()]).unwrap_err().code, ExitCode::Usage);
/// # Ok::<(), nystream::exit::Failure>(())
/// ```
///
/// # Errors
/// Files that are missing, unreadable or disagree (1); no source, or one that is malformed (2).
pub fn open(paths: &[String]) -> Result<Catalog, Failure> {
    Ok(Catalog::open(&Sources::parse(paths)?)?)
}

/// The data of a job, before its processes have met.
#[derive(Clone, Debug)]
pub enum Data {
    /// All of it: every process sees the same files.
    Shared(Catalog),
    /// What this host has (`--data-layout local`), and how messages name the processes.
    Spread(HostFiles, Arc<[String]>),
}

impl Data {
    /// Opens what `paths` name, in the layout of `resources`.
    ///
    /// # Errors
    /// As [`open`]; a host file that cannot be used (2).
    pub fn open(paths: &[String], resources: &ResourceArgs) -> Result<Self, Failure> {
        match Self::open_any(paths, resources)? {
            Data::Shared(catalog) => Ok(Data::Shared(catalog.with_rows()?)),
            spread => Ok(spread),
        }
    }

    /// [`Data::open`] for uses that make sense without rows, such as prediction; then comes [`Data::catalog_any`].
    ///
    /// # Errors
    /// As there, but for data without rows.
    pub fn open_any(paths: &[String], resources: &ResourceArgs) -> Result<Self, Failure> {
        if resources.data_layout == values::DataLayout::Shared {
            return Ok(Data::Shared(Catalog::open_any(&Sources::parse(paths)?)?));
        }
        let files = HostFiles::open(paths)?;
        let mut names = vec!["this host".to_owned()];
        if let Some(path) = &resources.hosts {
            let hosts = Hosts::read(path).map_err(|e| Failure::caused(ExitCode::Usage, e))?;
            let name = |index: usize| Some(format!("process {index} ({})", hosts.address(index).ok()?));
            names = (0..hosts.len()).filter_map(name).collect();
        }
        if files.is_empty() {
            tracing::warn!("no Parquet file matches {} on this host: others must have them", paths.join(" "));
        }
        Ok(Data::Spread(files, names.into()))
    }

    /// The paths of the files that this process sees.
    pub fn paths(&self) -> Vec<PathBuf> {
        match self {
            Data::Shared(catalog) => catalog.files.iter().map(|file| file.path.clone()).collect(),
            Data::Spread(files, _) => files.paths().map(Path::to_path_buf).collect(),
        }
    }

    /// The catalog of all of it, which every worker calls for in step.
    ///
    /// # Errors
    /// Hosts whose files contradict each other or hold no row, the same everywhere.
    pub fn catalog(&self, session: &mut Session<'_>) -> Result<Catalog, StageError> {
        Ok(self.catalog_any(session)?.with_rows()?)
    }

    /// [`Data::catalog`] for uses that make sense without rows.
    ///
    /// # Errors
    /// As there, but for data without rows.
    pub fn catalog_any(&self, session: &mut Session<'_>) -> Result<Catalog, StageError> {
        match self {
            Data::Shared(catalog) => Ok(catalog.clone()),
            Data::Spread(files, hosts) => engine::unite(session, files, hosts),
        }
    }

    /// What all processes must see alike before they start: everything, or nothing.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        match self {
            Data::Shared(catalog) => Some(catalog.fingerprint),
            Data::Spread(..) => None,
        }
    }
}

/// The file of `--select file:PATH`.
pub fn select_file(dictionary: &DictionaryArgs) -> Option<&std::path::Path> {
    match &dictionary.select {
        crate::cli::values::Select::File(path) => Some(path),
        _ => None,
    }
}

/// The SIMD path of the options: `None` is auto.
///
/// # Errors
/// A path that this host does not have (2).
pub fn simd(resources: &ResourceArgs) -> Result<Option<SimdPath>, Failure> {
    let name = resources.simd.as_str();
    if name == "auto" {
        return Ok(None);
    }
    match name.parse::<SimdPath>() {
        Ok(path) if SimdPath::available().contains(&path) => Ok(Some(path)),
        _ => {
            let known: Vec<String> = SimdPath::available().iter().map(ToString::to_string).collect();
            Err(Failure::usage(format!("--simd {name} is not available on this host, which has {}", known.join(", "))))
        }
    }
}

/// What `--share-centers` says.
pub fn sharding(resources: &ResourceArgs) -> Sharding {
    match resources.share_centers {
        values::ShareCenters::Auto => Sharding::Auto,
        values::ShareCenters::Always => Sharding::Always,
        values::ShareCenters::Never => Sharding::Never,
    }
}

/// The centers of this process, where the processes of `resources` share those of a model of `size` to apply it; `fits` says whether the whole model fits one process.
///
/// # Errors
/// A host file that cannot be used (2).
pub fn share_of(resources: &ResourceArgs, size: &ModelSize, fits: bool) -> Result<Option<Shard>, Failure> {
    let Some(path) = &resources.hosts else { return Ok(None) };
    let hosts = Hosts::read(path).map_err(|e| Failure::caused(ExitCode::Usage, e))?;
    let shared = match sharding(resources) {
        Sharding::Auto => !fits,
        Sharding::Always => true,
        Sharding::Never => false,
    };
    let index = (resources.process.unwrap_or(0) as usize).min(hosts.len().saturating_sub(1));
    let shard = Shard::of(usize::try_from(size.centers).unwrap_or(usize::MAX), hosts.len(), index);
    Ok(Some(shard).filter(|shard| shared && shard.among().is_some()))
}

/// What `--split` means, as written and for the encoder.
pub fn split(holdout: &HoldoutArgs) -> (String, Split) {
    let spec = match holdout.source() {
        SplitSource::Files(_) => SplitSpec::None,
        SplitSource::Split(spec) => spec,
    };
    (spec.to_string(), split_of(&spec))
}

/// The same, of what is written.
pub fn split_of(spec: &SplitSpec) -> Split {
    match spec.clone() {
        SplitSpec::None => Split::None,
        SplitSpec::Hash { fraction, column } => Split::Hash { fraction, column },
        SplitSpec::Time { column, fraction } => Split::Time { column, fraction },
    }
}

/// The encoder's part of the options.
pub fn encoder_options(input: &InputArgs, split: Split, seed: u64) -> EncoderOptions {
    EncoderOptions {
        targets: input.target.clone(),
        drop: input.drop.clone(),
        categorical: input.categorical.clone(),
        weight: input.weight.clone(),
        class_weight: match &input.class_weight {
            None => ClassWeight::None,
            Some(values::ClassWeight::Balanced) => ClassWeight::Balanced,
            Some(values::ClassWeight::Labels(given)) => ClassWeight::Given(given.clone()),
        },
        id_column: input.id_column.clone(),
        scale: match input.scale.as_str() {
            "robust" => Scale::Robust,
            "quantile" => Scale::Quantile,
            _ => Scale::Standard,
        },
        cyclic: input.cyclic.clone(),
        split,
        task: match input.task.as_str() {
            "regression" => nystream_datasets::Task::Regression,
            "classification" => nystream_datasets::Task::Classification,
            _ => nystream_datasets::Task::Auto,
        },
        seed,
    }
}

/// Everything a fit or tuning is asked.
///
/// # Errors
/// A SIMD path, a metric file or a file of centers that cannot be used.
pub fn fit_config(
    input: &InputArgs,
    split: Split,
    kernel: &KernelArgs,
    dictionary: &DictionaryArgs,
    solve: Option<&SolveArgs>,
    sample: &SampleArgs,
    resources: &ResourceArgs,
) -> Result<FitConfig, Failure> {
    let (select, full) = match &dictionary.select {
        values::Select::Auto => (Select::Auto, false),
        values::Select::Squeak => (Select::Squeak, false),
        values::Select::RpCholesky { full } => (Select::RpCholesky, *full),
        values::Select::Uniform => (Select::Uniform, false),
        values::Select::File(path) => (Select::File(open(&[path.to_string_lossy().into_owned()])?), false),
    };
    let name = |text: &str| text.to_owned();
    let solver = match solve.map_or("auto", |s| s.solver.as_str()) {
        "gram" => Solver::Gram,
        "pcg" => Solver::Pcg,
        "eigenpro" => Solver::EigenPro,
        "blockcd" => Solver::BlockCd,
        _ => Solver::Auto,
    };
    Ok(FitConfig {
        encoder: encoder_options(input, split, sample.seed),
        task: match name(input.task.as_str()).as_str() {
            "regression" => Some(Task::Regression),
            "classification" => Some(Task::Classification),
            _ => None,
        },
        loss: if solve.is_some_and(|s| s.loss.as_str() == "logistic") { Loss::Logistic } else { Loss::Squared },
        family: kernel.kernel.given().map(|k| k.0),
        bandwidth: match kernel.bandwidth {
            values::Bandwidth::Auto => Bandwidth::Auto,
            values::Bandwidth::Absolute(sigma) => Bandwidth::Absolute(sigma),
            values::Bandwidth::TimesMedian(times) => Bandwidth::TimesMedian(times),
        },
        metric: metric(kernel.metric.as_deref())?,
        ridges: kernel.ridge.given().map(|r| vec![r.0]),
        centers: match dictionary.centers {
            AutoOr::Auto => None,
            AutoOr::Given(count) => Some(count.0 as usize),
        },
        dictionary_rows: match (&dictionary.dictionary_rows, &select) {
            _ if full => Some(u64::MAX),
            (Some(AllOr::Count(rows)), _) => Some(*rows),
            // A pool of all rows would be held in memory: passes over them find the same law of pivots.
            (Some(AllOr::All), Select::RpCholesky) => Some(u64::MAX),
            (Some(AllOr::All) | None, _) => None,
        },
        select,
        dictionary_rule: match dictionary.dictionary_mode.as_str() {
            "theorem" => DictionaryRule::Theorem { epsilon: 0.5, delta: 0.1 },
            _ => DictionaryRule::default(),
        },
        solver,
        precision: if sample.precision.as_str() == "f64" { Precision::Double } else { Precision::Single },
        seed: sample.seed,
        simd: simd(resources)?.unwrap_or_else(SimdPath::detect),
        memory: resources.memory.0,
        disk_limit: resources.disk_limit.0,
        temp_dir: resources.temporary_folder(),
        max_flops: sample.max_flops.0,
        tolerance: solve.and_then(|s| s.tolerance).map(|t| t.0),
        products: ProductLimit::default(),
        iterations: solve.and_then(|s| s.iterations).map(|i| i.0 as usize),
        preconditioning: match solve.map(|s| s.preconditioner) {
            Some(values::Preconditioner::Centers) => Preconditioning::Centers,
            Some(values::Preconditioner::Mixed) => Preconditioning::Mixed,
            Some(values::Preconditioner::Auto) | None => Preconditioning::Auto,
        },
        time_limit: solve.and_then(|s| s.time_limit).map(|t| t.0),
        max_bad_rows: input.max_bad_rows,
        dictionary_only: false,
        variance: false,
        warm_start: None,
        sharding: sharding(resources),
    })
}

/// The metric of a file names encoded columns, which are known once the data is profiled: here the file is read, there it is
/// matched with the columns.
fn metric(path: Option<&Path>) -> Result<MetricRequest, Failure> {
    let Some(path) = path else { return Ok(MetricRequest::default()) };
    let file = MetricFile::read(path).map_err(|e| {
        let code = if matches!(e, MetricError::Read { .. }) { ExitCode::Data } else { ExitCode::Usage };
        Failure::caused(code, e)
    })?;
    let name = path.display().to_string();
    Ok(MetricRequest::Resolve(Arc::new(move |encoder| {
        let (numeric, categorical) = encoded_columns(encoder);
        file.resolve(&numeric, &categorical).map_err(|e| StageError::Usage(format!("--metric {name}: {e}")))
    })))
}

/// The names that metric files use: a column's own for its value or its level, `column:part` for what else is made of it
/// (`:is null`, `:hour sin`, ...).
fn encoded_columns(encoder: &Encoder) -> (Vec<String>, Vec<String>) {
    let numeric = encoder.numeric_columns().into_iter().map(|(column, part)| match part {
        Part::Value => column.to_owned(),
        part => format!("{column}:{part}"),
    });
    (numeric.collect(), encoder.categorical.iter().map(|feature| feature.column.clone()).collect())
}

/// What all processes of a job must have been told alike, by the names of the options.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    parts: Vec<(&'static str, String)>,
}

impl Identity {
    /// Of `command`, and of no options yet.
    pub fn new(command: &str) -> Self {
        Identity::default().with("the version or the command", &(env!("CARGO_PKG_VERSION"), command))
    }

    /// And of `told`, which `name` names in a message when it differs.
    pub fn with(mut self, name: &'static str, told: &dyn Debug) -> Self {
        self.parts.push((name, format!("{told:?}")));
        self
    }

    /// As checkpoints know it.
    pub fn job_key(&self) -> JobKey {
        let part =
            |(name, told): &(&'static str, String)| (name.to_string(), *blake3::hash(told.as_bytes()).as_bytes());
        JobKey { version: env!("CARGO_PKG_VERSION").to_owned(), parts: self.parts.iter().map(part).collect() }
    }

    /// For the greeting of the processes of `workers` threads.
    fn digests(&self, workers: usize) -> JobIdentity {
        let parts: Vec<_> = (self.parts.iter())
            .map(|(name, told)| {
                let digest = blake3::hash(told.as_bytes());
                (*name, std::array::from_fn(|k| digest.as_bytes()[k]))
            })
            .collect();
        JobIdentity::new(workers, &parts)
    }
}

/// What all processes of a fit, a tuning or a selection must have been told alike: the options in `parts`, the data, budgets and SIMD path. Two
/// processes that decide differently would wait for each other for ever. Paths may differ from host to host.
///
/// # Errors
/// A SIMD path that this host does not have (2).
pub fn identity(
    command: &str,
    data: &[&Data],
    input: &InputArgs,
    resources: &ResourceArgs,
    parts: &[(&'static str, &dyn Debug)],
) -> Result<Identity, Failure> {
    let input = InputArgs { data: Vec::new(), ..input.clone() };
    let simd = simd(resources)?.unwrap_or_else(SimdPath::detect);
    let fingerprints: Vec<_> = data.iter().map(|data| data.fingerprint()).collect();
    let budgets = (resources.memory, resources.disk_limit);
    let identity = Identity::new(command)
        .with("--data-layout", &resources.data_layout)
        .with("what the files of --data or --validation hold", &fingerprints)
        .with("--target, --drop or another option of the columns", &input)
        .with("--simd, or the SIMD path of the machine", &simd)
        .with("--memory or --disk-limit", &budgets)
        .with("--share-centers", &resources.share_centers);
    Ok(parts.iter().fold(identity, |identity, (name, told)| identity.with(name, told)))
}

/// The workers of a job, ready to run.
pub struct Workers {
    /// What they share in this process.
    pub process: Arc<Process>,
    /// The connections to other processes, where there are any.
    pub network: Option<Network>,
    communication: Communication,
}

impl Workers {
    /// Joins the processes of `resources` (one, without `--hosts`). `identity` is what all must agree on.
    ///
    /// # Errors
    /// A host file that cannot be used (2), processes that do not come together (6).
    pub fn start(resources: &ResourceArgs, progress: &Progress, identity: &Identity) -> Result<Self, Failure> {
        let threads = resources.worker_threads();
        // The algebra between passes takes as many threads as the passes; a pool that stands already serves as well.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        joining::before(resources);
        let metrics = resources.metrics_addr.as_ref().map(|address| Metrics::serve(&address.0)).transpose()?;
        if let Some(metrics) = &metrics {
            // Whoever asked for a port of the system's choice has to hear of it.
            progress.aside(|| exit::say(&format!("metrics: {}", metrics.url())));
        }
        let ready = |process: Arc<Process>, network: Option<Network>, communication| {
            metrics.iter().for_each(|metrics| metrics.watch(&process, network.as_ref()));
            Workers { process, network, communication }
        };
        let Some(path) = &resources.hosts else {
            let communication = single_process(threads).map_err(|e| refused(&e))?;
            return Ok(ready(Process::new(threads, 1, 0, Watcher::new(progress, 1)), None, communication));
        };
        let hosts = Hosts::read(path).map_err(|e| Failure::caused(ExitCode::Usage, e))?;
        let index = resources.process.unwrap_or(0) as usize;
        hosts.address(index).map_err(|e| Failure::caused(ExitCode::Usage, e))?;
        let processes = hosts.len();
        let meeting = &resources.join;
        let secret = joining::secret(meeting)?;
        let (communication, network) = if processes == 1 {
            joining::alone();
            (single_process(threads).map_err(|e| refused(&e))?, None)
        } else {
            let identity = identity.digests(threads);
            let begun = Instant::now();
            let waiting = |peer: usize, address: &str| {
                let waited = begun.elapsed().as_secs();
                let patience = meeting.join_timeout.0;
                progress.say(&format!("waiting for process {peer} ({address}), {waited} of {patience} s"));
            };
            let stop = JoinStop::default();
            joining::joining(stop.clone());
            let options = JoinOptions {
                secret,
                transport: match meeting.transport {
                    values::Transport::Noise => Transport::Noise,
                    values::Transport::Plain => Transport::Plain,
                },
                join_timeout: Duration::from_secs_f64(meeting.join_timeout.0),
                peer_timeout: Duration::from_secs_f64(meeting.peer_timeout.0),
                waiting: &waiting,
                // First what is wrong, then the time it takes to tell the others.
                failing: &|error| {
                    exit::report(&refused(error));
                },
                stop: stop.clone(),
                lost: Arc::new(|lost: PeerLost| peer_lost(&lost)),
            };
            let joined = join(&hosts, index, threads, &identity, &options).map_err(|error| {
                if matches!(error, JoinError::Stopped { .. }) {
                    // The thread that stopped it ends the process.
                    loop {
                        std::thread::park();
                    }
                }
                joining::alone();
                let printed = !matches!(error, JoinError::Start(_));
                let failure = refused(&error);
                if printed { Failure::new(failure.code, "") } else { failure }
            })?;
            joining::joined(joined.network.clone(), index);
            if std::env::var_os(LAUNCHED).is_some() {
                exit::say(JOINED);
            }
            (joined.communication, Some(joined.network))
        };
        let watcher = Watcher::new(progress, processes);
        Ok(ready(Process::new(threads, processes, index, watcher), network, communication))
    }

    /// What they share, and how they are connected, for whoever runs them.
    pub fn into_parts(self) -> (Arc<Process>, Communication) {
        (self.process, self.communication)
    }

    /// Runs `job` on every worker; gives the result of the first one of this process.
    ///
    /// # Errors
    /// The job's error, the same on every worker; a bug when a worker panicked.
    pub fn run<T, F>(self, job: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Fn(&mut Session<'_>) -> Result<T, StageError> + Send + Sync + 'static,
    {
        let results =
            engine::run(&self.process, self.communication, job).map_err(|e| Failure::new(ExitCode::Bug, e))?;
        match results.into_iter().next() {
            Some(result) => Ok(result?),
            None => Err(Failure::new(ExitCode::Bug, "no worker ran")),
        }
    }

    /// [`Workers::run`], and then `save` once in each process, while the processes are still together: where one cannot save what the job found, all end with its reason. Gives what both
    /// gave.
    ///
    /// # Errors
    /// The job's error, or that of the first process whose `save` failed, the same in every process; a bug when a worker panicked.
    pub fn run_and_save<T, S, F, G>(self, job: F, save: G) -> Result<(T, S), Failure>
    where
        T: Send + 'static,
        S: Send + 'static,
        F: Fn(&mut Session<'_>) -> Result<T, StageError> + Send + Sync + 'static,
        G: FnOnce(&T) -> Result<S, Failure> + Send + 'static,
    {
        let saved = Arc::new(Mutex::new(None));
        let (save, keep) = (Mutex::new(Some(save)), Arc::clone(&saved));
        let found = self.run(move |session| {
            let found = job(session)?;
            let done = session.try_once(|| {
                // Once in a process: no other worker takes it.
                let save = lock(&save).take().ok_or_else(|| StageError::Internal("saved twice".into()))?;
                *lock(&keep) = Some(save(&found).map_err(stage_error)?);
                Ok(())
            });
            agree(session, done)?;
            Ok(found)
        })?;
        let saved = lock(&saved).take().ok_or_else(|| Failure::new(ExitCode::Bug, "nothing was saved"))?;
        Ok((found, saved))
    }
}

/// As the stages have it, so that it can travel.
pub(crate) fn stage_error(failure: Failure) -> StageError {
    let message = failure.to_string();
    match failure.code {
        ExitCode::Data => StageError::Data(message),
        ExitCode::Usage => StageError::Usage(message),
        ExitCode::Budget => StageError::Budget(message),
        _ => StageError::Internal(message),
    }
}

fn refused(error: &JoinError) -> Failure {
    let code = match error {
        JoinError::Hosts(_) => ExitCode::Usage,
        JoinError::Start(_) => ExitCode::Bug,
        // What kept another process from joining is its own affair, with its own code.
        _ => ExitCode::JoinRefused,
    };
    Failure::new(code, error.to_string())
}
