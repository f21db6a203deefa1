//! The index: where each key's row lies, and in which order rows leave a window.
//!
//! Everything that is known from the log to some record is in one transaction with the number of that record. Transactions are not durable until
//! [`Index::flush`]: a crash takes the index back to the last of those, and the log has the rest.
//!
//! The store checks no page that it reads, and takes damage for a bug of its own. So all of the file is checked when it is opened, as all of the log is, and what is not sound is made anew; a panic of the store is an error all the same.

use super::change::Change;
use super::window::Rank;
use super::{Order, Place, RowsError};
use crate::scan::guarded;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTableMetadata, StorageError, TableDefinition,
    WriteTransaction,
};
use std::fmt::Display;
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// Key to (record, offset).
const PLACES: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("places");
/// (Time or 0, arrival) to key.
const ORDER: TableDefinition<'_, Rank, &str> = TableDefinition::new("order");
/// Key to what it has in [`ORDER`]: a change does not say what its row had there before.
const RANKS: TableDefinition<'_, &str, Rank> = TableDefinition::new("ranks");
/// Numbers by name.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// The last record that the index holds.
const APPLIED: &str = "applied";
/// Which store it belongs to, and how it is made.
const STAMP: [&str; 3] = ["identity_high", "identity_low", "order"];

/// What the index learns of one record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edit {
    key: String,
    /// The record, and the row that it brings.
    number: u64,
    brings: bool,
    offset: u64,
    old: Option<u64>,
    /// Time and arrival of the row that it brings.
    after: (Option<i64>, u64),
}

impl Edit {
    /// That of `change`, which lies at `place`.
    pub(super) fn of(change: &Change, place: Place) -> Self {
        let arrival = change.arrival.unwrap_or(place.number);
        Edit {
            key: change.event.key.clone(),
            number: place.number,
            brings: change.brings(),
            offset: place.offset,
            old: change.old.map(|old| old.number()),
            after: (change.event.time, arrival),
        }
    }

    /// Its record lies `by` bytes further on.
    pub(super) fn shift(&mut self, by: u64) {
        self.offset += by;
    }

    /// Which records are rows that are there, after it.
    pub(super) fn marks(&self, mut mark: impl FnMut(u64, bool)) {
        if let Some(old) = self.old {
            mark(old, false);
        }
        mark(self.number, self.brings);
    }
}

/// Key to place, on disk.
pub(super) struct Index {
    database: Database,
    path: PathBuf,
    order: Option<Order>,
    stamp: [u64; 3],
    /// Why what was there was of no use.
    unsound: Option<String>,
}

impl Index {
    /// Opens the index at `path`; one of another store, of another order, or that cannot be read is made anew, which the log allows.
    pub(super) fn open(
        path: &Path,
        identity: [u8; 16],
        order: Option<Order>,
        cache_bytes: usize,
    ) -> Result<Self, RowsError> {
        let half =
            |range: std::ops::Range<usize>| identity[range].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let stamp = [half(0..8), half(8..16), order.map_or(0, |order| 1 + order as u64)];
        let create = || Database::builder().set_cache_size(cache_bytes).create(path);
        let empty = std::fs::metadata(path).map_or(true, |file| file.len() == 0);
        let sound = || -> Result<Database, DatabaseError> {
            let mut database = create()?;
            // What it repairs goes back to an older transaction, which the log goes on from.
            database.check_integrity()?;
            Ok(database)
        };
        let anew = |reason: String| -> Result<_, RowsError> {
            std::fs::remove_file(path).map_err(|error| failed(path, error))?;
            Ok((create().map_err(|error| failed(path, error))?, Some(reason)))
        };
        let (database, unsound) = match guarded(sound) {
            Ok(Ok(database)) => (database, empty.then(|| "it was not there, or empty".to_owned())),
            Ok(Err(error)) if is_damage(&error) => anew(error.to_string())?,
            Ok(Err(error)) => return Err(failed(path, error)),
            Err(panic) => anew(panic)?,
        };
        let mut index = Index { database, path: path.to_path_buf(), order, stamp, unsound };
        if index.stored()? != Some(stamp) {
            index.clear()?;
        }
        Ok(index)
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Why what was there before it was opened was of no use, where that is so: it is made anew then.
    pub(super) fn unsound(&self) -> Option<&str> {
        self.unsound.as_deref()
    }

    fn stored(&self) -> Result<Option<[u64; 3]>, RowsError> {
        let read = || -> Result<Option<[u64; 3]>, redb::Error> {
            let table = match self.database.begin_read()?.open_table(NUMBERS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            let mut found = [0; 3];
            for (slot, name) in found.iter_mut().zip(STAMP) {
                match table.get(name)? {
                    Some(value) => *slot = value.value(),
                    None => return Ok(None),
                }
            }
            Ok(Some(found))
        };
        self.told(guarded(read))
    }

    /// Empties it.
    pub(super) fn clear(&mut self) -> Result<(), RowsError> {
        let stamp = self.stamp;
        self.write(Durability::Immediate, |transaction| {
            transaction.delete_table(PLACES)?;
            transaction.delete_table(ORDER)?;
            transaction.delete_table(RANKS)?;
            transaction.delete_table(NUMBERS)?;
            transaction.open_table(PLACES)?;
            transaction.open_table(ORDER)?;
            transaction.open_table(RANKS)?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            for (name, value) in STAMP.into_iter().zip(stamp) {
                numbers.insert(name, value)?;
            }
            numbers.insert(APPLIED, 0)?;
            Ok(())
        })
    }

    fn write(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), RowsError> {
        let run = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            work(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        self.told(guarded(run))
    }

    fn told<T>(&self, done: Result<Result<T, redb::Error>, String>) -> Result<T, RowsError> {
        match done {
            Ok(done) => done.map_err(|error| failed(&self.path, error)),
            Err(panic) => Err(failed(&self.path, panic)),
        }
    }

    fn read<T>(&self, work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T, RowsError> {
        let run = || work(&self.database.begin_read()?);
        self.told(guarded(run))
    }

    /// The last record that it holds.
    pub(super) fn applied(&self) -> Result<u64, RowsError> {
        self.read(|transaction| Ok(transaction.open_table(NUMBERS)?.get(APPLIED)?.map_or(0, |number| number.value())))
    }

    /// Where the row of `key` lies.
    pub(super) fn place(&self, key: &str) -> Result<Option<Place>, RowsError> {
        self.read(|transaction| {
            let found = transaction.open_table(PLACES)?.get(key)?.map(|found| found.value());
            Ok(found.map(|(number, offset)| Place { number, offset }))
        })
    }

    /// How many keys it has, and in how many of its places in the order, where it keeps one.
    pub(super) fn keys(&self) -> Result<[u64; 3], RowsError> {
        let keys = |transaction: &redb::ReadTransaction| {
            let places = transaction.open_table(PLACES)?.len()?;
            Ok(match self.order {
                None => [places; 3],
                Some(_) => [places, transaction.open_table(ORDER)?.len()?, transaction.open_table(RANKS)?.len()?],
            })
        };
        self.read(keys)
    }

    /// Learns `edits`, the last of which is record `applied` or before.
    pub(super) fn apply(&mut self, edits: &[Edit], applied: u64) -> Result<(), RowsError> {
        let order = self.order;
        self.write(Durability::None, |transaction| {
            let mut places = transaction.open_table(PLACES)?;
            let mut ordered = transaction.open_table(ORDER)?;
            let mut ranks = transaction.open_table(RANKS)?;
            for edit in edits {
                match edit.brings {
                    true => places.insert(edit.key.as_str(), (edit.number, edit.offset))?,
                    false => places.remove(edit.key.as_str())?,
                };
                let Some(order) = order else { continue };
                let rank = order.rank(edit.after.0, edit.after.1);
                let before = match edit.brings {
                    true => ranks.insert(edit.key.as_str(), rank)?.map(|found| found.value()),
                    false => ranks.remove(edit.key.as_str())?.map(|found| found.value()),
                };
                if let Some(before) = before {
                    ordered.remove(before)?;
                }
                if edit.brings {
                    ordered.insert(rank, edit.key.as_str())?;
                }
            }
            transaction.open_table(NUMBERS)?.insert(APPLIED, applied)?;
            Ok(())
        })
    }

    /// Makes what it holds durable.
    pub(super) fn flush(&mut self) -> Result<(), RowsError> {
        self.write(Durability::Immediate, |_| Ok(()))
    }

    /// The first keys behind `after` by the order that it was opened with.
    pub(super) fn ranked(&self, after: Option<Rank>, count: usize) -> Result<Vec<(Rank, String)>, RowsError> {
        self.read(|transaction| {
            let table = transaction.open_table(ORDER)?;
            let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let mut keys = Vec::new();
            for entry in table.range::<Rank>(behind)?.take(count) {
                let (rank, key) = entry?;
                keys.push((rank.value(), key.value().to_owned()));
            }
            Ok(keys)
        })
    }
}

/// Whether a file is no index or a damaged one, and not one that is in use or that the system refuses.
fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => true,
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

fn failed(path: &Path, error: impl Display) -> RowsError {
    RowsError::Index { path: path.to_path_buf(), reason: error.to_string() }
}
