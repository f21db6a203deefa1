//! The store against a map in memory.

use super::*;
use crate::events::{Cell, Reads, StreamColumn};
use proptest::prelude::*;
use std::collections::BTreeMap;

const IDENTITY: [u8; 16] = [3; 16];

fn schema() -> StreamSchema {
    let column = |name: &str, target| StreamColumn {
        name: name.into(),
        reads: Reads::Value(crate::ColumnKind::Numeric),
        target,
    };
    StreamSchema::from_columns(vec![column("x", false), column("y", true)])
}

fn options(order: Option<Order>) -> RowsOptions {
    let journal = JournalOptions { segment_bytes: 2_000, sync: crate::journal::SyncPolicy::System };
    RowsOptions { journal, cache_bytes: 1 << 20, order }
}

fn open(folder: &Path, order: Option<Order>) -> KeyedRows {
    let (rows, damage) = KeyedRows::open(folder, IDENTITY, &schema(), options(order)).unwrap();
    assert_eq!(damage, None);
    rows
}

fn event(op: Op, key: u8, x: f64, y: Option<f64>, time: Option<i64>) -> Event {
    let cells = vec![Cell::Number(x), y.map_or(Cell::Null, Cell::Number)];
    Event { op, key: format!("key {key}"), time, weight: None, cells: if op == Op::Delete { vec![] } else { cells } }
}

#[derive(Clone, Debug)]
enum Step {
    Change(Op, u8, f64, bool, Option<i64>),
    /// The first row leaves, if there is one.
    Expire,
    Note(Vec<u8>),
    Commit,
    Clean,
    /// Opened again, with the index as it was last made durable or without any.
    Restart {
        without_index: bool,
    },
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![3 => Just(Op::Insert), 2 => Just(Op::Update), 2 => Just(Op::Delete), 1 => Just(Op::Label)];
    prop_oneof![
        12 => (op, 0u8..12, -1e3f64..1e3, any::<bool>(), prop::option::of(0i64..50))
            .prop_map(|(op, key, x, label, time)| Step::Change(op, key, x, label, time)),
        4 => Just(Step::Expire),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Step::Note),
        5 => Just(Step::Commit),
        1 => Just(Step::Clean),
        1 => any::<bool>().prop_map(|without_index| Step::Restart { without_index }),
        1 => Just(Step::Flush),
    ]
}

/// What the store should hold.
#[derive(Clone, Default)]
struct Model {
    rows: BTreeMap<String, StoredRow>,
    /// Changes and notes, carried rows left out.
    history: Vec<Replayed>,
}

impl Model {
    fn apply(&mut self, event: Event, number: u64) -> Result<Applied, Refusal> {
        let found = self.rows.get(&event.key).cloned();
        let added = match (event.op, &found) {
            (Op::Insert, Some(_)) => return Err(Refusal::Twice),
            (Op::Insert, None) => Some(StoredRow { event: event.clone(), arrival: number }),
            (_, None) => return Err(Refusal::Unknown),
            (Op::Delete, Some(_)) => None,
            (Op::Update, Some(_)) => Some(StoredRow { event: event.clone(), arrival: number }),
            (Op::Label, Some(old)) if old.event.cells[1] != Cell::Null => return Err(Refusal::Labelled),
            (Op::Label, Some(old)) => {
                let cells = vec![old.event.cells[0].clone(), event.cells[1].clone()];
                Some(StoredRow { event: Event { op: Op::Label, cells, ..old.event.clone() }, arrival: old.arrival })
            }
        };
        match &added {
            Some(row) => self.rows.insert(event.key.clone(), row.clone()),
            None => self.rows.remove(&event.key),
        };
        let applied = Applied { number, removed: found.map(Arc::new), added: added.map(Arc::new), expired: false };
        self.history.push(Replayed::Change(applied.clone()));
        Ok(applied)
    }

    /// Time and key of the row that leaves first.
    fn first(&self, by_time: bool) -> Option<(Option<i64>, String)> {
        let rank = |row: &StoredRow| (row.event.time.filter(|_| by_time), row.arrival, row.event.key.clone());
        self.rows.values().map(rank).min().map(|(time, _, key)| (time, key))
    }

    fn expire(&mut self, key: &str, number: u64) -> Applied {
        let applied = Applied { number, removed: self.rows.remove(key).map(Arc::new), added: None, expired: true };
        self.history.push(Replayed::Change(applied.clone()));
        applied
    }
}

fn all(rows: &mut KeyedRows) -> BTreeMap<String, StoredRow> {
    let mut found = BTreeMap::new();
    rows.for_each::<RowsError>(|row| {
        assert!(found.insert(row.event.key.clone(), row).is_none(), "a row is there twice");
        Ok(())
    })
    .unwrap();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any history, with restarts that forget what was not committed, leaves what a map would hold.
    #[test]
    fn the_store_holds_what_a_map_would(steps in prop::collection::vec(step(), 1..150), by_time in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let order = Some(if by_time { Order::Time } else { Order::Arrival });
        let mut rows = open(folder.path(), order);
        let (mut model, mut committed) = (Model::default(), Model::default());
        // Where replays may begin, that of the older of two snapshots and that of the newer: cleaning leaves both what they read.
        let (mut older, mut held) = (0, 0);
        for step in steps {
            match step {
                Step::Change(op, key, x, label, time) => {
                    let event = event(op, key, x, label.then_some(x + 1.0), time);
                    // The number is told by the store; all else by the model.
                    let applied = rows.apply(event.clone()).unwrap();
                    let number = applied.as_ref().map_or(0, |applied| applied.number);
                    prop_assert_eq!(applied, model.apply(event, number));
                }
                Step::Expire => {
                    let first = rows.first().unwrap();
                    prop_assert_eq!(&first, &model.first(by_time));
                    if let Some((_, key)) = first {
                        let applied = rows.expire(&key).unwrap();
                        let number = applied.number;
                        prop_assert_eq!(applied, model.expire(&key, number));
                    }
                }
                Step::Note(bytes) => {
                    let number = rows.note(&bytes).unwrap();
                    model.history.push(Replayed::Note { number, bytes });
                }
                Step::Commit => {
                    rows.commit().unwrap();
                    committed = model.clone();
                }
                Step::Clean => {
                    (older, held) = (held, rows.commit().unwrap());
                    committed = model.clone();
                    rows.clean(1.5, older).unwrap();
                }
                Step::Flush => {
                    rows.flush().unwrap();
                }
                Step::Restart { without_index } => {
                    drop(rows);
                    if without_index {
                        std::fs::remove_file(folder.path().join("index.redb")).unwrap();
                    }
                    rows = open(folder.path(), order);
                    model = committed.clone();
                    prop_assert_eq!(&all(&mut rows), &model.rows);
                    // An index that is gone is made anew, and told where there was anything to lose.
                    let wrong = rows.check().unwrap();
                    prop_assert_eq!(wrong.is_some(), without_index && rows.durable() > 0, "{:?}", wrong);
                    for begin in [older, held] {
                        let mut replayed = Vec::new();
                        rows.replay::<RowsError>(begin, |entry| { replayed.push(entry); Ok(()) }).unwrap();
                        let after = |entry: &&Replayed| match entry {
                            Replayed::Change(applied) => applied.number > begin,
                            Replayed::Note { number, .. } => *number > begin,
                        };
                        let expected: Vec<Replayed> = model.history.iter().filter(after).cloned().collect();
                        prop_assert_eq!(replayed, expected);
                    }
                }
            }
            prop_assert_eq!(rows.rows(), model.rows.len() as u64);
        }
        rows.commit().unwrap();
        prop_assert_eq!(&all(&mut rows), &model.rows);
        for key in 0..12u8 {
            let key = format!("key {key}");
            let found = rows.get(&key).unwrap();
            prop_assert_eq!(found.as_deref(), model.rows.get(&key));
        }
        while let Some(first) = model.first(by_time) {
            let found = rows.first().unwrap();
            prop_assert_eq!(found.as_ref(), Some(&first));
            let applied = rows.expire(&first.1).unwrap();
            let number = applied.number;
            prop_assert_eq!(applied, model.expire(&first.1, number));
        }
        prop_assert_eq!((rows.first().unwrap(), rows.rows()), (None, 0));
    }
}

#[test]
fn disk_is_bounded_by_the_rows_that_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = open(folder.path(), None);
    let mut most = 0;
    // A hundred rows, each corrected a hundred times.
    for round in 0..100 {
        for key in 0..100 {
            let op = if round == 0 { Op::Insert } else { Op::Update };
            rows.apply(event(op, key, f64::from(round), Some(1.0), None)).unwrap().unwrap();
        }
        let held = rows.commit().unwrap();
        rows.clean(3.0, held).unwrap();
        most = most.max(rows.log_bytes());
    }
    let one = rows.log_bytes() / 3 / 100;
    assert!(one < 400 && most < 2_000 + 5 * 100 * 400, "{most} bytes");
    assert_eq!(all(&mut rows).len(), 100);
    assert!(all(&mut rows).values().all(|row| row.event.cells[0] == Cell::Number(99.0)));
    // A learner that has not seen what was removed is told so.
    let gone = rows.replay::<RowsError>(0, |_| Ok(()));
    assert!(matches!(gone, Err(RowsError::Journal(JournalError::Missing { first: 1, .. }))), "{gone:?}");
    // Nothing is removed while a replay from an older snapshot still reads it, the rows that went since among it; and later it is.
    let older = rows.commit().unwrap();
    for key in 0..100 {
        rows.apply(event(Op::Delete, key, 0.0, None, None)).unwrap().unwrap();
    }
    let held = rows.commit().unwrap();
    let before = rows.log_bytes();
    for turn in 0..3 {
        rows.clean(1.0, older).unwrap();
        let mut gone = 0;
        rows.replay::<RowsError>(older, |entry| {
            let Replayed::Change(applied) = entry else { panic!("{entry:?}") };
            assert_eq!(applied.removed.unwrap().event.cells[0], Cell::Number(99.0));
            gone += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(gone, 100, "turn {turn}");
        if turn == 1 {
            // What is needed is known again.
            drop(rows);
            rows = open(folder.path(), None);
        }
    }
    assert!(rows.clean(1.0, held).unwrap() > 0 && rows.log_bytes() < before);
    assert_eq!((rows.rows(), all(&mut rows).len()), (0, 0));
    drop(rows);
    assert_eq!(open(folder.path(), None).rows(), 0);
}

/// By the older of two snapshots the disk is bounded too: what a segment had has been logged again, and two snapshots later it goes.
#[test]
fn disk_is_bounded_by_the_older_snapshot_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = open(folder.path(), None);
    let (mut older, mut held, mut most) = (0, 0, 0);
    for round in 0..200u32 {
        for i in 0..60u32 {
            // Any of a hundred and twenty rows, in no order.
            let key = (i * 7919 + round * 104_729) % 120;
            let op = if rows.get(&format!("key {key}")).unwrap().is_some() { Op::Update } else { Op::Insert };
            rows.apply(event(op, key as u8, f64::from(round), Some(1.0), None)).unwrap().unwrap();
        }
        (older, held) = (held, rows.commit().unwrap());
        rows.clean(3.0, older).unwrap();
        if round > 50 {
            most = most.max(rows.log_bytes());
        }
    }
    assert_eq!(rows.rows(), 120);
    // Three records a row, two snapshots of changes with the rows of whole pages beside them, and what is logged again.
    assert!(most < 400 * (3 * 120 + 4 * 60 + 512 + 120), "{most} bytes");
    rows.replay::<RowsError>(older, |_| Ok(())).unwrap();
}

#[test]
fn a_log_that_lost_its_end_takes_the_index_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = open(folder.path(), None);
    for key in 0..40 {
        rows.apply(event(Op::Insert, key, 1.0, Some(1.0), None)).unwrap().unwrap();
        rows.commit().unwrap();
    }
    rows.flush().unwrap();
    drop(rows);
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(folder.path().join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let last = segments.last().unwrap();
    let mut bytes = std::fs::read(last).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(last, bytes).unwrap();
    let (mut rows, damage) = KeyedRows::open(folder.path(), IDENTITY, &schema(), options(None)).unwrap();
    let damage = damage.expect("damage is told");
    assert_eq!(rows.rows(), damage.record - 1);
    assert_eq!(all(&mut rows).len() as u64, rows.rows());
    // What was lost can be inserted again.
    let lost = damage.record as u8 - 1;
    assert!(rows.get(&format!("key {lost}")).unwrap().is_none());
    rows.apply(event(Op::Insert, lost, 2.0, None, None)).unwrap().unwrap();
    rows.commit().unwrap();
    drop(rows);
    assert_eq!(open(folder.path(), None).rows(), damage.record);
}

#[test]
fn an_index_that_is_damaged_or_of_another_kind_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = open(folder.path(), None);
    for key in 0..20 {
        rows.apply(event(Op::Insert, key, 1.0, Some(1.0), Some(i64::from(100 - key)))).unwrap().unwrap();
    }
    rows.commit().unwrap();
    assert_eq!(rows.first().unwrap(), None);
    drop(rows);
    let mut rows = open(folder.path(), Some(Order::Time));
    assert_eq!(rows.first().unwrap(), Some((Some(81), "key 19".to_owned())));
    drop(rows);
    for bytes in [&b""[..], &b"this is no index"[..], &[0; 5000][..]] {
        std::fs::write(folder.path().join("index.redb"), bytes).unwrap();
        let mut rows = open(folder.path(), None);
        assert_eq!((rows.rows(), all(&mut rows).len()), (20, 20));
        assert!(rows.get("key 7").unwrap().is_some());
    }
    // Another store's log is not taken.
    assert!(matches!(
        KeyedRows::open(folder.path(), [4; 16], &schema(), options(None)),
        Err(RowsError::Journal(JournalError::Foreign { .. }))
    ));
}

#[test]
fn an_index_that_is_not_what_the_log_says_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = open(folder.path(), Some(Order::Arrival));
    for key in 0..5 {
        rows.apply(event(Op::Insert, key, 1.0, None, None)).unwrap().unwrap();
    }
    rows.apply(event(Op::Delete, 3, 0.0, None, None)).unwrap().unwrap();
    rows.commit().unwrap();
    assert_eq!(rows.check().unwrap(), None);
    // What is not durable is in neither.
    rows.apply(event(Op::Delete, 4, 0.0, None, None)).unwrap().unwrap();
    assert_eq!((rows.rows(), rows.check().unwrap()), (3, None));
    let edit = |key: u8, place: Place| {
        let event = event(Op::Insert, key, 1.0, None, None);
        Edit::of(&Change { event, old: None, arrival: None, carried: false, expired: false }, place)
    };
    let own = rows.index.place("key 1").unwrap().unwrap();
    rows.index.apply(&[edit(1, Place { offset: own.offset + 8, ..own })], 6).unwrap();
    assert!(rows.check().unwrap().unwrap().contains("'key 1'"));
    rows.index.apply(&[edit(1, own)], 6).unwrap();
    assert_eq!(rows.check().unwrap(), None);
    // One that is not there.
    rows.index.apply(&[edit(3, Place { number: 4, ..own })], 6).unwrap();
    assert!(rows.check().unwrap().unwrap().contains("[5, 5, 5] keys"));
}
