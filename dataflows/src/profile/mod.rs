//! One pass over the raw rows: counts, exact moments, nulls, levels, target moments, quantiles of a hashed sample.
//!
//! What is measured is measured over the *training* rows: those with a target, nothing wrong with them, and not held out. Where a time
//! split cuts is found first, by passes over its column alone. Sums are exact ([`nystream_kernels::exact_sum`]),
//! counts are integers, samples are chosen by hash: the profile is a function of the set of rows.
//!
//! Cost: one decoding pass, a few nanoseconds a value; memory is the batch, the levels of text columns (at most 65,536 and 16 MiB of text a column, and what the
//! budget leaves) and the sample. Of features only the levels that keep a code of their own outlive the pass.

mod accumulate;
pub mod census;
mod classes;
pub mod duplicates;
mod split;

pub use accumulate::{ColumnTotals, ProfileTotals};

use crate::engine::checkpoint::{Parts, begin_parts, discard, over, remember};
use crate::engine::exchange::{Audience, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::blocks_of;
use crate::engine::leases::Leased;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::plan::{MemoryPlan, ProfilePlan, profiled_bytes};
use accumulate::Accumulator;
use nystream_datasets::{
    BLOCK_ROWS, BadReason, BadRow, BlockReader, BlockRun, Catalog, ColumnPlan, ColumnSummary, EncoderOptions,
    LevelCount, ReadOptions, Unread,
};
use std::sync::atomic::Ordering;

/// Rows in the hashed sample that `auto` decisions see.
pub const SAMPLE_ROWS: u64 = 20_000;

/// Bad rows that are named in messages.
pub(crate) const NAMED_BAD_ROWS: usize = 20;

/// What the profile pass found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Training rows n.
    pub rows: u64,
    /// Rows held out.
    pub held_out: u64,
    /// Rows without any target.
    pub skipped_null_target: u64,
    /// Rows with something wrong.
    pub bad: u64,
    /// The first bad rows, in file order.
    pub bad_rows: Vec<BadRow>,
    /// One summary per planned column, in the plan's order.
    pub columns: Vec<ColumnSummary>,
    /// One per target, in the order given.
    pub targets: Vec<TargetSummary>,
    /// Sum of the training rows' weights (before class weights).
    pub weight_sum: f64,
    /// Largest weight (before class weights).
    pub weight_max: f64,
    /// Sum of the rows' weights (before class weights) by class, bytewise, where the rows are weighted and the target is classes; see
    /// [`Profile::class_mass`].
    pub class_weight_sums: Vec<(String, f64)>,
    /// Passes it took.
    pub passes: u64,
    /// Memory of a process at its largest, as planned.
    pub memory: MemoryPlan,
}

impl Profile {
    /// Sum of the weights (before class weights) of the rows of `class` of the target column `target`; their number where rows carry none.
    pub fn class_mass(&self, target: &str, class: &str) -> f64 {
        if !self.class_weight_sums.is_empty() {
            let found = self.class_weight_sums.iter().find(|(name, _)| name == class);
            return found.map_or(0.0, |(_, sum)| *sum);
        }
        let levels = self.columns.iter().find(|c| c.name == target).and_then(|c| c.levels.as_ref());
        levels.and_then(|l| l.iter().find(|(name, _)| name == class)).map_or(0.0, |(_, n)| *n as f64)
    }
}

/// A numeric target over the training rows where it is not null.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TargetSummary {
    /// Rows that have it.
    pub count: u64,
    /// Sum of their weights.
    pub weight_sum: f64,
    /// Weighted mean.
    pub mean: f64,
    /// Standard deviation, unweighted, ddof 0.
    pub sd: f64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
}

struct ProfileScan {
    reader: BlockReader,
    accumulator: Accumulator,
    process: std::sync::Arc<crate::engine::Process>,
    counted: u64,
    catalog: Catalog,
    parts: Option<Parts>,
    unread: Unread,
    /// Blocks read, and whether all are.
    handed: u64,
    over: bool,
    /// Whether other workers may read some of the blocks.
    lends: bool,
}

impl ProfileScan {
    /// Stores what there is, when that is due: the batch of these blocks is done.
    fn store(&mut self, file: usize, blocks: std::ops::Range<u64>) {
        let Some(parts) = &mut self.parts else { return };
        parts.done(self.catalog.global_block(file, blocks.start)..self.catalog.global_block(file, blocks.end));
        if parts.due(self.accumulator.stored_bytes()) {
            let bytes = self.accumulator.so_far().into_bytes();
            parts.save(1, &mut std::iter::once(Outgoing { key: 1, bytes }));
        }
    }
}

impl Scan for ProfileScan {
    fn step(&mut self) -> Result<Step, StageError> {
        let step = match self.reader.next() {
            None => {
                self.over = true;
                Step::Done
            }
            Some(batch) => {
                let batch = batch?;
                self.accumulator.add(&batch)?;
                let end = batch.first_ordinal + batch.batch.num_rows() as u64;
                let blocks = batch.first_ordinal / BLOCK_ROWS..end.div_ceil(BLOCK_ROWS);
                self.handed += blocks.end - blocks.start;
                self.store(batch.file, blocks);
                Step::More { rows: batch.batch.num_rows() as u64 }
            }
        };
        let read = self.reader.bytes_read();
        self.process.bytes_read.fetch_add(read - self.counted, Ordering::Relaxed);
        self.counted = read;
        Ok(step)
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(vec![Outgoing { key: 0, bytes: self.accumulator.finish().into_bytes() }])
    }

    fn leased(&mut self) -> Option<&mut dyn Leased> {
        self.lends.then_some(self as &mut dyn Leased)
    }
}

impl Leased for ProfileScan {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn unread(&self) -> u64 {
        self.unread.blocks()
    }

    fn handed(&self) -> u64 {
        self.handed
    }

    fn over(&self) -> bool {
        self.over
    }

    fn decoding(&self) -> u64 {
        0
    }

    fn give_up(&mut self, blocks: u64, process: usize) -> Vec<BlockRun> {
        self.unread.give_up(blocks, &|file| self.catalog.sees(process, file))
    }

    fn take_over(&mut self, runs: Vec<BlockRun>) {
        runs.into_iter().for_each(|run| self.unread.add(run));
        self.over = false;
    }
}

struct Merge {
    totals: ProfileTotals,
    plan: ColumnPlan,
    room: u64,
}

impl Reducer for Merge {
    fn absorb(&mut self, _: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        self.totals.merge(ProfileTotals::from_bytes(&bytes)?)?;
        self.totals.check_levels(&self.plan, self.room)
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let totals = std::mem::take(&mut self.totals);
        Ok(if totals.columns.is_empty() { Vec::new() } else { vec![Outgoing { key: 0, bytes: totals.into_bytes() }] })
    }
}

/// Profiles the columns of `plan`, which `options` made of the catalog's; the profile is on every worker. Numbers are in the units of their columns, instants and
/// days in seconds. `memory` bytes is what a process may take: too little is refused, before the pass where the footers tell.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// use nystream_dataflows::profile::profile;
/// use nystream_datasets::{Catalog, Encoder, EncoderOptions, Sources};
///
/// let catalog = Catalog::open(&Sources::parse(&["synth:friedman1?rows=5000&d=5"])?)?;
/// let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
/// let plan = options.plan(&catalog.columns)?;
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let asked = options.clone();
/// let results = run(&process, communication, move |session| profile(session, &catalog, &plan, &asked, 0, 1 << 30)).unwrap();
/// assert_eq!(results[0], results[1]);
/// let found = results[0].clone().unwrap();
/// // x0 is uniform on [0, 1].
/// assert_eq!((found.rows, found.bad, found.columns[0].name.as_str()), (5000, 0, "x0"));
/// assert!((found.columns[0].mean - 0.5).abs() < 0.02 && (found.columns[0].sd - 12f64.sqrt().recip()).abs() < 0.02);
/// // It is what an encoder is made of.
/// assert_eq!(Encoder::fit(&found.columns, &options)?.numeric_width(), 5);
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Budget`] where `memory` does not hold a batch, or the levels of text columns, naming the column that takes most.
/// [`StageError::Data`], the same on every worker: unreadable data, a column with too many levels, a time split that cannot be made, more than
/// `max_bad_rows` bad rows, which are named.
pub fn profile(
    session: &mut Session<'_>,
    catalog: &Catalog,
    plan: &ColumnPlan,
    options: &EncoderOptions,
    max_bad_rows: u64,
    memory: u64,
) -> Result<Profile, StageError> {
    let planned = ProfilePlan::new(catalog, plan, session.process.workers());
    planned.check(memory)?;
    let cut = split::cut(session, catalog, plan, options)?;
    let projection = plan.projection();
    let blocks_per_batch = blocks_of(catalog, &projection, profiled_bytes(plan));
    let read = ReadOptions { blocks_per_batch, ..ReadOptions::default() };
    let room = planned.level_room(memory);
    let merge = Merge { totals: ProfileTotals::default(), plan: plan.clone(), room: room.process };
    // How many levels a worker meets depends on what it reads, and what they take is planned: such rows stay where they are.
    let lends = plan.columns.iter().all(|column| column.levels == LevelCount::None);
    session.begin("profile", catalog.total_rows);
    let parcels = remember(session, "profile", Audience::Leaders, |session| {
        let mut accumulator = Accumulator::new(plan, options, catalog.total_rows, cut, room.worker);
        let begun = begin_parts(session, ("profile", ""), catalog, false, &mut |frame| {
            accumulator.take_over(ProfileTotals::from_bytes(&frame.bytes)?)
        })?;
        let runs = match &begun.blocks {
            None => catalog.partition(session.peers(), session.index()),
            Some(blocks) => blocks.iter().flat_map(|range| catalog.runs(range.start, range.end)).collect(),
        };
        let reader = BlockReader::new(catalog, runs, &projection, read);
        let scan = ProfileScan {
            unread: reader.unread(),
            handed: 0,
            over: false,
            lends,
            reader,
            accumulator,
            process: std::sync::Arc::clone(&session.process),
            counted: 0,
            catalog: catalog.clone(),
            parts: begun.parts,
        };
        let parcels = pass(session, "profile", scan, merge, Audience::Leaders)?;
        over(session, begun.group);
        Ok(parcels)
    })?;
    session.end();
    let processes = session.process.processes() as u64;
    // Once a process: levels may be many.
    let profile = session.try_once(|| {
        let bytes = parcels.into_iter().next().map(|p| p.bytes).unwrap_or_default();
        let totals = ProfileTotals::from_bytes(&bytes)?;
        refuse_bad_rows(catalog, totals.bad, &totals.bad_rows, max_bad_rows, Some(plan))?;
        let memory = planned.with_levels(totals.counted / processes, totals.level_bytes());
        Ok(Profile { memory, ..totals.summarise(plan, options, cut)? })
    });
    // Data that must be mended is other data afterwards.
    let profile = profile.inspect_err(|_| discard(session, "profile"))?;
    Ok(Profile::clone(&profile))
}

/// Refuses more than `allowed` bad rows, naming the first of them, and says what to do: with the columns of `plan`, where they can still be chosen, and
/// with weights.
pub(crate) fn refuse_bad_rows(
    catalog: &Catalog,
    count: u64,
    rows: &[BadRow],
    allowed: u64,
    plan: Option<&ColumnPlan>,
) -> Result<(), StageError> {
    if count <= allowed {
        return Ok(());
    }
    let shown: Vec<String> = rows
        .iter()
        .map(|bad| {
            let file = catalog.file_index(bad.file).map_or_else(String::new, |i| catalog.shown(i));
            format!("  {file} {bad}")
        })
        .collect();
    let planned: Vec<_> = (plan.iter().flat_map(|plan| &plan.columns))
        .filter(|column| rows.iter().any(|bad| column.info.name == bad.column))
        .collect();
    let weights = planned.iter().any(|column| column.weight)
        || rows.iter().any(|bad| matches!(bad.reason, BadReason::NegativeWeight | BadReason::NullWeight));
    let zero = if weights { " (weights are numbers of at least 0, and 0 for rows that are not to count)" } else { "" };
    let or = if planned.iter().any(|column| column.feature) { ", drop their columns with --drop," } else { "" };
    Err(StageError::Data(format!(
        "{count} bad rows, and --max-bad-rows allows {allowed}:\n{}\nmend them{zero}{or} or allow them with --max-bad-rows {count}",
        shown.join("\n"),
    )))
}
