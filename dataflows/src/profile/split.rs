//! Where `--split time:COLUMN:FRACTION` cuts: the exact order statistic of the column, before the profile.
//!
//! Of the N rows that have a target and a usable value of the column, the h = max(1, round(FRACTION N)) greatest values are held out,
//! and with them every row that ties with the least of these: the cut is that value, and held out is what reaches it. Rows without a value
//! are never held out. The cut depends on the set of rows alone, so it is the same for any number of workers.
//!
//! Finding it is counting: values become integers in their order, a pass counts them in [`CELLS`] equal cells of the range that holds
//! the h-th greatest and notes the least and greatest of each, and the next pass looks into one cell, until a cell holds one value.
//!
//! Cost: one to four passes over the column and the targets (two or three on real instants), 2 MB a worker.

use super::accumulate::TOO_LARGE;
use crate::engine::bytes::{Reader, Writer};
use crate::engine::checkpoint::remember;
use crate::engine::exchange::{Audience, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::blocks_of;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use arrow_array::Array;
use nystream_datasets::{
    BlockReader, Catalog, ColumnPlan, DataError, EncoderOptions, NumericColumn, ReadOptions, Split,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Cells of a range.
const CELLS: u32 = 1 << 16;

/// The cut of a time split, and the passes it took to find it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cut {
    /// Rows with at least this value are held out; `None` without a time split.
    pub value: Option<f64>,
    /// Passes.
    pub passes: u64,
}

/// Values of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    count: u64,
    least: u64,
    greatest: u64,
}

impl Cell {
    fn merge(&mut self, other: Cell) {
        self.count += other.count;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }
}

/// Cells that hold something, by their place in the range.
type Cells = BTreeMap<u32, Cell>;

/// An integer for a number: in the order of the numbers, equal for 0 and -0.
fn place(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The number of a place.
fn value_at(place: u64) -> f64 {
    f64::from_bits(if place >> 63 == 1 { place & !(1 << 63) } else { !place })
}

/// The range of places that is looked at, both ends included.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: u64,
    high: u64,
}

impl Range {
    const ALL: Range = Range { low: 0, high: u64::MAX };

    /// The cell of a place, if it is in the range.
    fn cell(self, place: u64) -> Option<u32> {
        let bits = 64 - (self.high - self.low).leading_zeros();
        let shift = bits.saturating_sub(CELLS.trailing_zeros());
        (self.low..=self.high).contains(&place).then(|| ((place - self.low) >> shift) as u32)
    }
}

struct CellScan {
    reader: BlockReader,
    name: String,
    /// Position of the column among those read; the others are targets, as it may be too.
    position: usize,
    targets: Vec<usize>,
    range: Range,
    cells: Vec<Option<Cell>>,
    process: Arc<Process>,
    counted: u64,
}

impl Scan for CellScan {
    fn step(&mut self) -> Result<Step, StageError> {
        let Some(raw) = self.reader.next().transpose()? else { return Ok(Step::Done) };
        let read = self.reader.bytes_read();
        self.process.bytes_read.fetch_add(read - self.counted, Ordering::Relaxed);
        self.counted = read;
        let rows = raw.batch.num_rows();
        let column = NumericColumn::new(&self.name, raw.batch.column(self.position).as_ref())?;
        let targets: Vec<_> = self.targets.iter().map(|c| raw.batch.column(*c).logical_nulls()).collect();
        let has_target = |i: usize| targets.iter().any(|nulls| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(i)));
        for (i, value) in column.iter().enumerate() {
            // As in the profile: rows without any target are skipped, values beyond the bound (or no numbers) are bad.
            let Some(value) = value.filter(|value| value.abs() < TOO_LARGE && has_target(i)) else { continue };
            let place = place(value);
            let Some(cell) = self.range.cell(place) else { continue };
            let one = Cell { count: 1, least: place, greatest: place };
            match &mut self.cells[cell as usize] {
                Some(cell) => cell.merge(one),
                empty => *empty = Some(one),
            }
        }
        Ok(Step::More { rows: rows as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        let filled = (0..).zip(self.cells).filter_map(|(index, cell)| cell.map(|cell| (index, cell)));
        Ok(vec![Outgoing { key: 0, bytes: to_bytes(filled) }])
    }
}

fn to_bytes(cells: impl Iterator<Item = (u32, Cell)>) -> Vec<u8> {
    let mut out = Writer::default();
    for (index, cell) in cells {
        [u64::from(index), cell.count, cell.least, cell.greatest].into_iter().for_each(|word| out.u64(word));
    }
    out.0
}

fn add_bytes(cells: &mut Cells, bytes: &[u8]) -> Result<(), StageError> {
    let mut from = Reader(bytes);
    while !from.is_empty() {
        let index = from.u64()? as u32;
        let cell = Cell { count: from.u64()?, least: from.u64()?, greatest: from.u64()? };
        cells.entry(index).and_modify(|known| known.merge(cell)).or_insert(cell);
    }
    Ok(())
}

#[derive(Default)]
struct Merge(Cells);

impl Reducer for Merge {
    fn absorb(&mut self, _: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        add_bytes(&mut self.0, &bytes)
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let cells = std::mem::take(&mut self.0);
        Ok(if cells.is_empty() { Vec::new() } else { vec![Outgoing { key: 0, bytes: to_bytes(cells.into_iter()) }] })
    }
}

/// The cell that holds the `rank`-th greatest value (from 1), and its rank within the cell.
fn cell_of_rank(cells: &Cells, mut rank: u64) -> Option<(Cell, u64)> {
    for cell in cells.values().rev() {
        if rank <= cell.count {
            return Some((*cell, rank));
        }
        rank -= cell.count;
    }
    None
}

/// Finds the cut of the time split in `options`; nothing to do for any other.
///
/// # Errors
/// Unreadable data; [`DataError::BadSplit`] when no row has a value, or when the cut would hold out every row that has one.
pub(super) fn cut(
    session: &mut Session<'_>,
    catalog: &Catalog,
    plan: &ColumnPlan,
    options: &EncoderOptions,
) -> Result<Cut, StageError> {
    let Split::Time { column, fraction } = &options.split else { return Ok(Cut::default()) };
    let refuse = |reason: String| StageError::from(DataError::BadSplit { reason });
    let columns: Vec<_> = plan.columns.iter().filter(|c| c.split || c.target.is_some()).collect();
    let projection: Vec<usize> = columns.iter().map(|c| c.index).collect();
    let read = ReadOptions { blocks_per_batch: blocks_of(catalog, &projection, 0), ..ReadOptions::default() };
    let position = columns.iter().position(|c| c.split);
    let position = position.ok_or_else(|| StageError::Internal("the column of the split is not planned".into()))?;
    let targets: Vec<usize> = (0..columns.len()).filter(|c| columns[*c].target.is_some()).collect();

    let (mut range, mut rank, mut least, mut passes) = (Range::ALL, None, 0, 0);
    loop {
        let scan = CellScan {
            reader: BlockReader::new(
                catalog,
                catalog.partition(session.peers(), session.index()),
                &projection,
                read.clone(),
            ),
            name: column.clone(),
            position,
            targets: targets.clone(),
            range,
            cells: vec![None; CELLS as usize],
            process: Arc::clone(&session.process),
            counted: 0,
        };
        session.begin("split", catalog.total_rows);
        let parcels = remember(session, &format!("split {passes}"), Audience::Everyone, |session| {
            pass(session, "split", scan, Merge::default(), Audience::Everyone)
        })?;
        session.end();
        passes += 1;
        let mut cells = Cells::new();
        for parcel in parcels {
            add_bytes(&mut cells, &parcel.bytes)?;
        }
        let wanted = match rank {
            Some(rank) => rank,
            None => {
                let rows: u64 = cells.values().map(|cell| cell.count).sum();
                let Some(first) = cells.values().next() else {
                    return Err(refuse(format!(
                        "no row with a target has a value of column '{column}'; name another column"
                    )));
                };
                least = first.least;
                ((rows as f64 * fraction).round() as u64).clamp(1, rows)
            }
        };
        let (cell, within) = cell_of_rank(&cells, wanted)
            .ok_or_else(|| StageError::Internal("the rows changed between passes over them".into()))?;
        if cell.least < cell.greatest {
            (range, rank) = (Range { low: cell.least, high: cell.greatest }, Some(within));
            continue;
        }
        let value = value_at(cell.least);
        if cell.least == least {
            let shown = catalog.columns[projection[position]].kind.shown(value);
            return Err(refuse(format!(
                "holding out {fraction} of the rows by column '{column}' would reach down to its least value, {shown}, and leave none to fit; \
                 give a smaller fraction or another column"
            )));
        }
        return Ok(Cut { value: Some(value), passes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_the_order_of_the_numbers_and_come_back() {
        let values = [-1e100, -2.5, -1.0, -1e-300, 0.0, 5e-324, 1e-300, 1.0, 1.0 + f64::EPSILON, 1.7e9, 1e100];
        assert!(values.windows(2).all(|pair| place(pair[0]) < place(pair[1])));
        assert!(values.iter().all(|v| value_at(place(*v)) == *v));
        assert_eq!(place(-0.0), place(0.0));
    }

    /// Refines over stored values as the passes do; gives the value and how many looks it took.
    fn greatest(values: &[f64], rank: u64) -> (f64, u64) {
        let (mut range, mut rank, mut looks) = (Range::ALL, rank, 0);
        loop {
            let mut cells = Cells::new();
            for place in values.iter().map(|v| place(*v)) {
                if let Some(index) = range.cell(place) {
                    assert!(index < CELLS);
                    let one = Cell { count: 1, least: place, greatest: place };
                    cells.entry(index).and_modify(|known| known.merge(one)).or_insert(one);
                }
            }
            // What travels is what was counted.
            let mut copy = Cells::new();
            add_bytes(&mut copy, &to_bytes(cells.clone().into_iter())).unwrap();
            assert_eq!(copy, cells);
            looks += 1;
            let (cell, within) = cell_of_rank(&cells, rank).unwrap();
            if cell.least == cell.greatest {
                return (value_at(cell.least), looks);
            }
            (range, rank) = (Range { low: cell.least, high: cell.greatest }, within);
        }
    }

    #[test]
    fn refinement_finds_the_order_statistic_in_at_most_four_looks() {
        let hashed = |i: u64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1u64 << 53) as f64;
        let cases: [Vec<f64>; 4] = [
            (0..3000).map(|i| hashed(i) - 0.5).collect(),
            (0..3000).map(|i| 1.5e9 + (hashed(i) * 1e8).floor()).collect(),
            (0..3000).map(|i| (hashed(i) * 5.0).floor()).collect(),
            (0..3000).map(|i| f64::from_bits((hashed(i) * 4e18) as u64)).collect(),
        ];
        for values in cases {
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for rank in [1u64, 2, 300, 1500, 2999, 3000] {
                let (value, looks) = greatest(&values, rank);
                assert_eq!(value, sorted[rank as usize - 1]);
                assert!(looks <= 4, "{looks}");
            }
        }
    }
}
