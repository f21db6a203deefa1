//! One worker's pass: decode and encode on a prefetch thread, then tiles, columns, and the worker's own row groups.

use super::applied::{Applied, AppliedScratch};
use super::columns::Columns;
use super::function::Function;
use super::layout::Layout;
use super::variance::{VarianceScratch, latent};
use crate::engine::bytes::Writer;
use crate::engine::exchange::{Outgoing, Scan, Step};
use crate::engine::feed::{AHEAD, drawn, view};
use crate::engine::session::Process;
use crate::engine::watch::Ahead;
use crate::error::StageError;
use crate::matvec::grid::Dealt;
use crate::matvec::products::Ledger;
use arrow_array::ArrayRef;
use nystream_datasets::table::{Part, PartWriter, TableWriter};
use nystream_datasets::{BLOCK_ROWS, BlockReader, Catalog, Chunk, DataError, Encoder, RawBatch, Role};
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::Entry;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Bad rows named in a message, as in the profile's.
pub(super) const NAMED_BAD_ROWS: usize = 20;

/// What the workers of the process write, before and after the pass.
#[derive(Default)]
pub(super) struct Outputs {
    /// The output, with the row groups of the first worker.
    pub table: Option<TableWriter>,
    /// Row groups of the others, by worker.
    pub parts: BTreeMap<usize, Part>,
}

/// What all workers of the pass read.
#[derive(Clone)]
pub(super) struct Shared {
    pub catalog: Catalog,
    pub function: Arc<Function>,
    pub layout: Arc<Layout>,
    pub decode: Decode,
    pub outputs: Arc<Mutex<Outputs>>,
    pub out: PathBuf,
}

/// What the prefetch threads need. Not the outputs: a thread that ends late must not keep an unfinished file in place.
#[derive(Clone)]
pub(super) struct Decode {
    pub encoder: Arc<Encoder>,
    pub columns: Arc<Columns>,
    /// Positions in a batch of the kept columns.
    pub kept_at: Arc<[usize]>,
}

/// A batch, encoded, with its kept columns in their output types.
struct Piece {
    file: usize,
    first_ordinal: u64,
    rows: usize,
    kept: Vec<ArrayRef>,
    chunk: Chunk,
}

/// Where a worker writes.
enum Target {
    Table(TableWriter),
    Part(PartWriter),
}

/// Pieces that come from the reading thread, and where their chunks go back for reuse.
type Pieces = (Receiver<(Result<Piece, StageError>, Ahead)>, Sender<Chunk>);

/// The pass of one worker.
pub(super) struct PredictScan<T: Entry> {
    shared: Shared,
    applied: Arc<Applied<T>>,
    scratch: AppliedScratch<T>,
    /// What sparse products left out, when the pass is over.
    ledger: Rc<RefCell<Ledger>>,
    variance_scratch: VarianceScratch,
    variance: bool,
    process: Arc<Process>,
    worker: usize,
    reader: Option<BlockReader>,
    pieces: Option<Pieces>,
    target: Option<Target>,
    places: Vec<usize>,
    scores: Vec<f64>,
    outputs: Vec<f64>,
    variances: Vec<f64>,
    rows: u64,
    bad: u64,
    /// The first bad rows: file, ordinal, and what is wrong.
    named: Vec<(u64, u64, String)>,
    /// The piece in hand, and whether all have been taken, where centers are shared.
    piece: Option<Piece>,
    done: bool,
}

impl<T: Entry> PredictScan<T> {
    /// The pass of worker number `worker` over what `reader` reads.
    pub fn new(
        shared: Shared,
        applied: Arc<Applied<T>>,
        ledger: Rc<RefCell<Ledger>>,
        variance: bool,
        process: Arc<Process>,
        worker: usize,
        reader: BlockReader,
    ) -> Self {
        PredictScan {
            shared,
            applied,
            scratch: AppliedScratch::default(),
            ledger,
            variance_scratch: VarianceScratch::default(),
            variance,
            process,
            worker,
            reader: Some(reader),
            pieces: None,
            target: None,
            places: Vec::new(),
            scores: Vec::new(),
            outputs: Vec::new(),
            variances: Vec::new(),
            rows: 0,
            bad: 0,
            named: Vec::new(),
            piece: None,
            done: false,
        }
    }

    /// Opens the output and starts the prefetch thread.
    fn start(&mut self, reader: BlockReader) -> Result<(), StageError> {
        self.target = Some(match self.worker {
            0 => {
                let table = self.shared.outputs.lock().unwrap_or_else(PoisonError::into_inner).table.take();
                Target::Table(table.ok_or_else(|| StageError::Internal("the output is not open".into()))?)
            }
            _ => Target::Part(PartWriter::create(&self.shared.out, self.shared.decode.columns.schema())?),
        });
        let (send, ready) = sync_channel(AHEAD);
        let (back, used) = channel();
        let (decode, process) = (self.shared.decode.clone(), Arc::clone(&self.process));
        std::thread::Builder::new()
            .name("prefetch".into())
            .spawn(move || prefetch(reader, &decode, &process, &send, &used))
            .map_err(|e| StageError::Internal(format!("cannot start a prefetch thread: {e}")))?;
        self.pieces = Some((ready, back));
        Ok(())
    }

    /// The next piece, where there is one.
    fn next(&mut self) -> Result<Option<Piece>, StageError> {
        if let Some(reader) = self.reader.take() {
            self.start(reader)?;
        }
        let Some((ready, _)) = &self.pieces else { return Ok(None) };
        // The prefetch thread hangs up when it is done.
        let Ok((piece, _)) = ready.recv() else { return Ok(None) };
        let piece = piece?;
        self.note_bad(&piece);
        Ok(Some(piece))
    }

    /// Writes a piece by the sums of its rows, for which `entries` were formed here, and gives its buffers back.
    fn write(&mut self, mut piece: Piece, entries: u64) -> Result<(), StageError> {
        let function = Arc::clone(&self.shared.function);
        let chunk = &piece.chunk;
        let (n, t, width) = (chunk.rows(), function.code.width(), function.outputs());
        self.outputs.resize(n * width, 0.0);
        for i in 0..n {
            function.outputs_of(&self.scores[i * t..(i + 1) * t], &mut self.outputs[i * width..(i + 1) * width]);
        }
        let mut flops = 2 * entries * t as u64;
        if let Some(factor) = function.variance.as_ref().filter(|_| self.variance) {
            let tiles = self.applied.dense();
            let tiles = tiles.ok_or_else(|| StageError::Internal("variances need every entry".into()))?;
            let (basis, scratch) = (&*factor.basis, &mut self.variance_scratch);
            self.variances.resize(n * t, 0.0);
            let tiles = (&function.kernel, tiles);
            latent(tiles, view(chunk), basis, &mut self.scratch.dense, scratch, &mut self.variances);
            for row in self.variances.chunks_exact_mut(t) {
                let scales = factor.noise.iter().zip(&factor.signal);
                row.iter_mut().zip(scales).for_each(|(v, (noise, signal))| *v = noise + signal * *v);
            }
            flops += 2 * n as u64 * (tiles.1.centers() + t) as u64 * basis.rank as u64;
        }
        self.process.count(entries, flops);
        self.places.clear();
        self.places.extend(chunk.ordinals.iter().map(|ordinal| (ordinal - piece.first_ordinal) as usize));
        let batch = self.shared.decode.columns.batch(
            piece.rows,
            std::mem::take(&mut piece.kept),
            &self.places,
            &self.outputs,
            width,
            &self.variances,
        )?;
        let begins =
            self.shared.layout.begins(self.shared.catalog.global_block(piece.file, piece.first_ordinal / BLOCK_ROWS));
        match &mut self.target {
            Some(Target::Table(table)) => {
                if begins {
                    table.end_group()?;
                }
                table.write(&batch)?;
            }
            Some(Target::Part(part)) => {
                if begins {
                    part.end_group()?;
                }
                part.write(&batch)?;
            }
            None => return Err(StageError::Internal("the output is not open".into())),
        }
        self.rows += piece.rows as u64;
        if let Some((_, back)) = &self.pieces {
            // It may be done; then the buffer is simply freed.
            let _ = back.send(piece.chunk);
        }
        Ok(())
    }

    fn note_bad(&mut self, piece: &Piece) {
        self.bad += piece.chunk.bad.len() as u64;
        let file = self.shared.catalog.shown(piece.file);
        for bad in piece.chunk.bad.iter().take(NAMED_BAD_ROWS.saturating_sub(self.named.len())) {
            let line = format!("  {file} row {}: column '{}' {}", bad.ordinal, bad.column, bad.reason);
            self.named.push((piece.file as u64, bad.ordinal, line));
        }
    }
}

impl<T: Entry> Dealt for PredictScan<T> {
    fn read(&mut self) -> Result<bool, StageError> {
        self.piece = if self.done { None } else { self.next()? };
        self.done = self.piece.is_none();
        Ok(!self.done)
    }

    fn rows(&self) -> Rows<'_> {
        self.piece.as_ref().map_or(Rows::new(&[], 1, &[], 0), |piece| view(&piece.chunk))
    }

    fn take(&mut self, sums: Vec<f64>) -> Result<(), StageError> {
        self.scores = sums;
        match self.piece.take() {
            Some(piece) => self.write(piece, 0),
            None => Err(StageError::Internal("sums came for no rows".into())),
        }
    }
}

impl<T: Entry> Scan for PredictScan<T> {
    fn step(&mut self) -> Result<Step, StageError> {
        if self.done {
            return Ok(Step::Done);
        }
        let Some(piece) = self.next()? else { return Ok(Step::Done) };
        let rows = piece.rows as u64;
        self.scores.resize(piece.chunk.rows() * self.shared.function.code.width(), 0.0);
        let (function, scratch) = (&self.shared.function, &mut self.scratch);
        let entries = self.applied.sums(drawn(&piece.chunk), function, scratch, &mut self.scores);
        self.write(piece, entries)?;
        Ok(Step::More { rows })
    }

    fn finish(mut self) -> Result<Vec<Outgoing>, StageError> {
        match self.target.take() {
            Some(Target::Table(table)) => {
                self.shared.outputs.lock().unwrap_or_else(PoisonError::into_inner).table = Some(table);
            }
            Some(Target::Part(part)) => {
                let part = part.finish()?;
                self.shared.outputs.lock().unwrap_or_else(PoisonError::into_inner).parts.insert(self.worker, part);
            }
            None => return Err(StageError::Internal("the output is not open".into())),
        }
        self.ledger.replace(self.scratch.ledger);
        let mut out = Writer::default();
        out.u64(self.rows);
        out.u64(self.bad);
        out.u64(self.named.len() as u64);
        for (file, ordinal, line) in &self.named {
            out.u64(*file);
            out.u64(*ordinal);
            out.bytes(line.as_bytes());
        }
        Ok(vec![Outgoing { key: 0, bytes: out.0 }])
    }
}

fn prefetch(
    mut reader: BlockReader,
    decode: &Decode,
    process: &Arc<Process>,
    send: &SyncSender<(Result<Piece, StageError>, Ahead)>,
    used: &Receiver<Chunk>,
) {
    let mut counted = 0;
    loop {
        let result = match reader.next() {
            None => break,
            Some(raw) => {
                raw.and_then(|raw| encode(&raw, decode, used.try_recv().unwrap_or_default())).map_err(StageError::from)
            }
        };
        let read = reader.bytes_read();
        process.bytes_read.fetch_add(read - counted, Ordering::Relaxed);
        counted = read;
        let failed = result.is_err();
        if send.send((result, Ahead::new(process))).is_err() || failed {
            break;
        }
    }
    process.bytes_read.fetch_add(reader.bytes_read() - counted, Ordering::Relaxed);
}

fn encode(raw: &RawBatch, decode: &Decode, mut chunk: Chunk) -> Result<Piece, DataError> {
    decode.encoder.encode(raw, Role::Features, &mut chunk)?;
    let convert = |(k, at): (usize, &usize)| decode.columns.kept.convert(k, raw.batch.column(*at));
    let kept = decode.kept_at.iter().enumerate().map(convert).collect::<Result<_, _>>()?;
    Ok(Piece { file: raw.file, first_ordinal: raw.first_ordinal, rows: raw.batch.num_rows(), kept, chunk })
}
