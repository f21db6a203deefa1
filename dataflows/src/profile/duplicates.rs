//! Row keys that occur twice: an error that names one of them, found exactly and in bounded memory.
//!
//! Ids are 128-bit hashes of the keys, so they are spread evenly: the ids are cut into ranges that fit a share of the
//! memory budget, one pass over the key column a range. Within a pass each id has one owner among the workers, who sorts what it
//! gets and looks for equal neighbours. The key of the least repeated id is then read once more for the message, so that it is
//! the same for any number of workers and any budget.
//!
//! Cost: about 400 bytes x rows / memory passes over one column, at least one; 16 bytes a row over the network.

use crate::engine::exchange::{Audience, Gather, Outgoing, Reducer, Scan, Step, pass};
use crate::engine::feed::blocks_of;
use crate::engine::session::{Process, Session};
use crate::error::StageError;
use nystream_datasets::{BlockReader, Catalog, ReadOptions, TextColumn, shown};
use nystream_hashing::RowId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Memory an id of the current range may take on its way: where it was read, in fragments twice, and with its owner, twice while a vector grows.
const BYTES_PER_ID: u64 = 16 * 6;

/// What a pass does with the keys.
enum Look {
    /// Sends the ids of range `range` of `ranges` to their owners.
    Spread { range: u64, ranges: u64, ids: Vec<Vec<u8>> },
    /// Sends the places of one id.
    Find { id: RowId, places: Vec<String> },
}

struct KeyScan {
    reader: BlockReader,
    catalog: Catalog,
    column: String,
    look: Look,
    process: Arc<Process>,
    counted: u64,
}

/// Range of `id` among `ranges` equal ones, by its leading bits.
fn range_of(id: RowId, ranges: u64) -> u64 {
    ((u128::from((id.0 >> 64) as u64) * u128::from(ranges)) >> 64) as u64
}

impl Scan for KeyScan {
    fn step(&mut self) -> Result<Step, StageError> {
        let Some(raw) = self.reader.next().transpose()? else { return Ok(Step::Done) };
        let read = self.reader.bytes_read();
        self.process.bytes_read.fetch_add(read - self.counted, Ordering::Relaxed);
        self.counted = read;
        let text = TextColumn::new(&self.column, raw.batch.column(0).as_ref())?;
        for i in 0..text.len() {
            // Null keys are bad rows: the profile counts them.
            let Some(key) = text.get(i) else { continue };
            let id = RowId::from_key(key);
            match &mut self.look {
                Look::Spread { range, ranges, ids } => {
                    if range_of(id, *ranges) == *range {
                        let owner = id.0 as u64 % ids.len() as u64;
                        ids[owner as usize].extend_from_slice(&id.0.to_le_bytes());
                    }
                }
                Look::Find { id: wanted, places } => {
                    if id == *wanted && places.len() < 2 {
                        let file = self.catalog.shown(raw.file);
                        let key = shown(key);
                        places.push(format!("'{key}' in row {} of '{file}'", raw.first_ordinal + i as u64));
                    }
                }
            }
        }
        Ok(Step::More { rows: text.len() as u64 })
    }

    fn finish(self) -> Result<Vec<Outgoing>, StageError> {
        Ok(match self.look {
            Look::Spread { ids, .. } => (0..).zip(ids).map(|(key, bytes)| Outgoing { key, bytes }).collect(),
            Look::Find { places, .. } => {
                places.into_iter().map(|place| Outgoing { key: 0, bytes: place.into_bytes() }).collect()
            }
        })
    }
}

/// The least repeated id among those a worker owns.
#[derive(Default)]
struct Repeated(Vec<u128>);

impl Reducer for Repeated {
    fn absorb(&mut self, _: u64, bytes: Vec<u8>) -> Result<(), StageError> {
        self.0.extend(bytes.chunks_exact(16).map(|w| u128::from_le_bytes(std::array::from_fn(|k| w[k]))));
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Outgoing>, StageError> {
        let mut ids = std::mem::take(&mut self.0);
        ids.sort_unstable();
        let found = ids.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        Ok(found.map(|id| Outgoing { key: 0, bytes: id.to_be_bytes().to_vec() }).into_iter().collect())
    }
}

/// Checks that no two rows of `catalog` have the same key in `column`, within a quarter of `memory` bytes a process. Returns the passes it took.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// use nystream_dataflows::{StageError, profile::duplicates::check};
/// use nystream_datasets::{Catalog, Sources};
/// // 5,000 rows with one of eight levels each.
/// let catalog = Catalog::open(&Sources::parse(&["synth:sines?rows=5000&d=1&categories=1"])?)?;
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let results = run(&process, communication, move |session| check(session, &catalog, "c0", 1 << 30)).unwrap();
/// let Err(StageError::Data(why)) = &results[0] else { panic!("{results:?}") };
/// assert!(why.contains("c0"), "{why}");
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
///
/// # Errors
/// [`StageError::Data`] naming the key of the least repeated id and two of its rows; unreadable data.
pub fn check(session: &mut Session<'_>, catalog: &Catalog, column: &str, memory: u64) -> Result<u64, StageError> {
    let index = catalog.column(column, "row key")?;
    // Of what one process reads and owns: its share of the rows, spread evenly.
    let rows = catalog.total_rows.div_ceil(session.process.processes() as u64);
    let ranges = (rows.saturating_mul(BYTES_PER_ID)).div_ceil((memory / 4).max(1 << 16)).max(1);
    for range in 0..ranges {
        let ids = vec![Vec::new(); session.peers()];
        let scan = scan(session, catalog, column, index, Look::Spread { range, ranges, ids });
        let parcels = run(session, catalog, "row keys", scan, Repeated::default())?;
        let ids = parcels.iter().filter_map(|p| p.bytes.as_slice().try_into().ok().map(u128::from_be_bytes));
        let Some(id) = ids.min().map(RowId) else { continue };
        let scan = scan_for(session, catalog, column, index, id);
        let places = run(session, catalog, "repeated row key", scan, Gather::default())?;
        let places: Vec<String> =
            places.iter().take(2).map(|p| String::from_utf8_lossy(&p.bytes).into_owned()).collect();
        return Err(StageError::Data(format!(
            "--id-column '{column}' does not identify rows: {}. Mend the data, or leave --id-column out",
            places.join(" and ")
        )));
    }
    Ok(ranges)
}

fn scan_for(session: &Session<'_>, catalog: &Catalog, column: &str, index: usize, id: RowId) -> KeyScan {
    scan(session, catalog, column, index, Look::Find { id, places: Vec::new() })
}

fn scan(session: &Session<'_>, catalog: &Catalog, column: &str, index: usize, look: Look) -> KeyScan {
    let runs = catalog.partition(session.peers(), session.index());
    let read = ReadOptions { blocks_per_batch: blocks_of(catalog, &[index], 0), ..ReadOptions::default() };
    KeyScan {
        reader: BlockReader::new(catalog, runs, &[index], read),
        catalog: catalog.clone(),
        column: column.to_owned(),
        look,
        process: Arc::clone(&session.process),
        counted: 0,
    }
}

fn run<R: Reducer + 'static>(
    session: &mut Session<'_>,
    catalog: &Catalog,
    name: &str,
    scan: KeyScan,
    reducer: R,
) -> Result<Vec<Outgoing>, StageError> {
    session.begin(name, catalog.total_rows);
    let parcels = pass(session, name, scan, reducer, Audience::Everyone)?;
    session.end();
    Ok(parcels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_the_order_of_ids_and_cover_them() {
        for ranges in [1u64, 2, 3, 7, 1000] {
            let ids: Vec<RowId> = (0..2000u32).map(|i| RowId::from_key(&i.to_string())).collect();
            let mut sorted = ids.clone();
            sorted.sort();
            let found: Vec<u64> = sorted.iter().map(|id| range_of(*id, ranges)).collect();
            assert!(found.is_sorted() && *found.last().unwrap() < ranges);
            assert_eq!(range_of(RowId(0), ranges), 0);
            assert_eq!(range_of(RowId(u128::MAX), ranges), ranges - 1);
        }
    }
}
