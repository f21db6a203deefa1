//! The log on a disk that fails, fills up and forgets what was not synced.

use super::storage::{Storage, Tape};
use super::*;
use proptest::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard};

const IDENTITY: [u8; 16] = *b"an identity of 1";

/// A file: what a crash keeps, and what is there now.
#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    now: Vec<u8>,
}

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<String, File>,
    /// Names as of the last sync of the folder.
    durable_names: Vec<String>,
    /// What was removed since.
    removed: BTreeMap<String, File>,
    /// The operation from now that fails, if any.
    fail_in: Option<u32>,
    /// Bytes that all files may have.
    room: Option<usize>,
}

/// A disk that forgets.
#[derive(Clone, Default)]
struct Forgetful(Arc<Mutex<State>>);

struct Handle(Forgetful, String);

impl Forgetful {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Counts an operation that changes something.
    fn operation(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match &mut state.fail_in {
            Some(0) => {
                state.fail_in = None;
                return Err(io::Error::other("the disk failed"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(state)
    }

    /// What a crash leaves: of what was not synced, `pick` decides byte counts and whether names are there.
    fn crash(&self, pick: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.state();
        let durable_names = std::mem::take(&mut state.durable_names);
        let mut files = BTreeMap::new();
        let mut before = std::mem::take(&mut state.files);
        for (name, file) in std::mem::take(&mut state.removed) {
            if pick(2) == 0 {
                before.entry(name).or_insert(file);
            }
        }
        for (name, file) in before {
            if !durable_names.contains(&name) && pick(2) == 0 {
                continue;
            }
            let mut left = file.durable.clone();
            // The file's length may be that of before or after, and any of its new bytes may be missing.
            if file.now.len() > left.len() {
                let grown = left.len() + pick(file.now.len() - left.len() + 1);
                let written = left.len() + pick(grown - left.len() + 1);
                left.extend_from_slice(&file.now[left.len()..written]);
                left.resize(grown, 0);
            } else if pick(2) == 0 {
                left.truncate(file.now.len());
            }
            files.insert(name, File { durable: left.clone(), now: left });
        }
        state.durable_names = files.keys().cloned().collect();
        state.files = files;
        (state.fail_in, state.room) = (None, None);
    }
}

impl Storage for Forgetful {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Tape>> {
        let mut state = self.operation()?;
        let file = state.files.entry(name.into()).or_default();
        file.now.clear();
        drop(state);
        Ok(Box::new(Handle(self.clone(), name.into())))
    }
    fn open(&mut self, name: &str) -> io::Result<Box<dyn Tape>> {
        let found = self.state().files.contains_key(name);
        if !found {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(Handle(self.clone(), name.into())))
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.operation()?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.into(), file);
        Ok(())
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.operation()?;
        let file = state.files.remove(name);
        state.removed.extend(file.map(|file| (name.to_string(), file)));
        Ok(())
    }
    fn sync_folder(&mut self) -> io::Result<()> {
        let mut state = self.operation()?;
        state.durable_names = state.files.keys().cloned().collect();
        state.removed.clear();
        Ok(())
    }
    fn path(&self, name: &str) -> PathBuf {
        Path::new("log").join(name)
    }
    fn again(&self) -> Box<dyn Storage> {
        Box::new(self.clone())
    }
}

impl Tape for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().files[&self.1].now.len() as u64)
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.0.state();
        let from = offset as usize;
        let found = state.files[&self.1].now.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.operation()?;
        let used: usize = state.files.values().map(|file| file.now.len()).sum();
        let room = state.room.map_or(usize::MAX, |room| room.saturating_sub(used));
        let now = &mut state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?.now;
        let end = offset as usize + bytes.len();
        // A full disk takes what fits.
        let fits = bytes.len().min(now.len().saturating_add(room).saturating_sub(offset as usize));
        if now.len() < offset as usize + fits {
            now.resize(offset as usize + fits, 0);
        }
        now[offset as usize..end.min(offset as usize + fits)].copy_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        let mut state = self.0.operation()?;
        state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?.now.resize(bytes as usize, 0);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.operation()?;
        let file = state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
        file.durable = file.now.clone();
        Ok(())
    }
}

type Records = Vec<(u64, Vec<u8>)>;

fn open(disk: &Forgetful, applied: u64) -> Result<(Journal, Recovered, Records), JournalError> {
    let options = JournalOptions { segment_bytes: 200, sync: SyncPolicy::Disk };
    let mut seen = Records::new();
    let (journal, recovered) =
        Journal::open_in(Box::new(disk.clone()), IDENTITY, Start::After(applied), options, |record| {
            seen.push((record.number, record.payload.to_vec()));
            Ok(())
        })?;
    Ok((journal, recovered, seen))
}

#[derive(Clone, Debug)]
enum Action {
    Append(u8),
    Commit,
    /// A snapshot of all that is durable, less so many records; segments it holds are removed.
    Snapshot(u64),
    /// The operation so far from now fails.
    Fail(u32),
    /// The disk is full after so many bytes more, until the next one of these.
    Full(Option<u16>),
    Crash(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1u8..120).prop_map(Action::Append),
        4 => Just(Action::Commit),
        1 => (0u64..6).prop_map(Action::Snapshot),
        1 => (0u32..5).prop_map(Action::Fail),
        1 => prop::option::of(0u16..300).prop_map(Action::Full),
        2 => any::<u64>().prop_map(Action::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, what was acknowledged is there, and what is there is a prefix of what was appended.
    #[test]
    fn nothing_acknowledged_is_lost(actions in prop::collection::vec(action(), 1..80)) {
        let disk = Forgetful::default();
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let mut tickets: Vec<Ticket> = Vec::new();
        let (mut snapshot, mut acknowledged) = (0, 0);
        let (mut journal, ..) = open(&disk, 0).unwrap();
        for action in actions {
            match action {
                Action::Append(size) => {
                    let payload: Vec<u8> = (0..size).map(|i| i ^ payloads.len() as u8).collect();
                    let ticket = journal.append(&payload).unwrap();
                    prop_assert_eq!(ticket.number, payloads.len() as u64 + 1);
                    tickets.push(ticket);
                    payloads.push(payload);
                }
                Action::Commit => {
                    if let Ok(group) = journal.commit() {
                        prop_assert_eq!(group.last, payloads.len() as u64);
                        acknowledged = group.last;
                        let mut reader = journal.reader();
                        for ticket in tickets.drain(..) {
                            let segment = journal.segment_of(ticket.number).unwrap();
                            let found = reader.read(segment, ticket.number, group.offset + ticket.within).unwrap();
                            prop_assert_eq!(found, &payloads[ticket.number as usize - 1]);
                        }
                    }
                    prop_assert_eq!(journal.durable(), acknowledged);
                }
                Action::Snapshot(less) => {
                    snapshot = snapshot.max(acknowledged.saturating_sub(less));
                    let _ = journal.compact(snapshot);
                }
                Action::Fail(operations) => disk.state().fail_in = Some(operations),
                Action::Full(more) => {
                    let mut state = disk.state();
                    let used: usize = state.files.values().map(|file| file.now.len()).sum();
                    state.room = more.map(|more| used + more as usize);
                }
                Action::Crash(seed) => {
                    drop(journal);
                    let mut seed = seed;
                    disk.crash(&mut |below| {
                        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        (seed >> 33) as usize % below.max(1)
                    });
                    let (opened, recovered, seen) = open(&disk, snapshot).unwrap();
                    journal = opened;
                    prop_assert!(recovered.last >= acknowledged, "{recovered:?}, {acknowledged} acknowledged");
                    prop_assert!(recovered.last <= payloads.len() as u64);
                    payloads.truncate(recovered.last as usize);
                    tickets.clear();
                    acknowledged = recovered.last;
                    let expected: Records =
                        (snapshot + 1..=recovered.last).map(|i| (i, payloads[i as usize - 1].clone())).collect();
                    prop_assert_eq!(seen, expected);
                }
            }
        }
    }

    /// Bytes that are no log give an error or nothing, never a panic or a record.
    #[test]
    fn arbitrary_segments_hold_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300), whole_header in any::<bool>()) {
        let disk = Forgetful::default();
        let mut content = if whole_header { header(&IDENTITY, 1).to_vec() } else { Vec::new() };
        content.extend(bytes);
        disk.state().files.insert(segment_name(1), File { durable: content.clone(), now: content });
        if let Ok((_, recovered, seen)) = open(&disk, 0) {
            prop_assert!(seen.is_empty() && recovered.last == 0);
        }
    }
}

/// A log of 12 records in several segments.
fn twelve() -> (Forgetful, Records) {
    let disk = Forgetful::default();
    let (mut journal, ..) = open(&disk, 0).unwrap();
    let records: Records = (1..=12).map(|i| (i, vec![i as u8; 30 + i as usize])).collect();
    for (_, payload) in &records {
        journal.append(payload).unwrap();
        journal.commit().unwrap();
    }
    assert!(disk.state().files.len() >= 3);
    (disk, records)
}

#[test]
fn every_flipped_bit_is_found() {
    let (disk, records) = twelve();
    let sound = disk.state().clone();
    let mut cuts = 0;
    for name in sound.files.keys() {
        for byte in 0..sound.files[name].now.len() {
            let mut flipped = sound.clone();
            flipped.files.get_mut(name).unwrap().now[byte] ^= 1 << (byte % 8);
            let disk = Forgetful(Arc::new(Mutex::new(flipped)));
            match open(&disk, 0) {
                Ok((mut journal, recovered, seen)) => {
                    let damage = recovered.damage.expect("damage is told");
                    assert!(seen.len() < records.len() && seen[..] == records[..seen.len()], "{damage:?}");
                    assert_eq!((damage.record, recovered.last), (seen.len() as u64 + 1, seen.len() as u64));
                    assert!(!damage.kept.is_empty() && damage.bytes > 0);
                    assert!(!damage.torn, "a length that is too large, too: {damage:?}");
                    // It goes on from there, and the cut is not found again.
                    journal.append(b"next").unwrap();
                    journal.commit().unwrap();
                    let (_, recovered, again) = open(&disk, 0).unwrap();
                    assert_eq!((recovered.damage, again.len()), (None, seen.len() + 1));
                    assert_eq!(again.last().unwrap().1, b"next");
                    cuts += 1;
                }
                // Magic, identity or number: somebody else's file, which is not touched.
                Err(JournalError::Foreign { .. }) => assert!(byte < 32),
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(cuts > 500);
}

/// What a kill leaves of the last record is told from damage.
#[test]
fn a_record_cut_short_is_torn() {
    let (disk, records) = twelve();
    let sound = disk.state().clone();
    let name = sound.files.keys().last().unwrap();
    let whole = sound.files[name].now.len();
    for left in whole - records[11].1.len() - RECORD_HEADER + 1..whole {
        let mut cut = sound.clone();
        cut.files.get_mut(name).unwrap().now.truncate(left);
        let (_, recovered, seen) = open(&Forgetful(Arc::new(Mutex::new(cut))), 0).unwrap();
        assert_eq!((recovered.damage.map(|damage| damage.torn), seen.len()), (Some(true), 11), "{left}");
    }
}

#[test]
fn a_gap_between_segments_is_an_error_unless_the_snapshot_has_it() {
    let (disk, records) = twelve();
    let second = *disk.state().files.keys().map(|name| first_of(name).unwrap()).collect::<Vec<_>>().get(1).unwrap();
    let third = *disk.state().files.keys().map(|name| first_of(name).unwrap()).collect::<Vec<_>>().get(2).unwrap();
    disk.state().files.remove(&segment_name(second));
    // The first segment reads on to its own end, and record `second` is nowhere.
    assert!(
        matches!(open(&disk, 0), Err(JournalError::Missing { first, last, .. }) if (first, last) == (second, third - 1))
    );
    let (_, recovered, seen) = open(&disk, third - 1).unwrap();
    assert_eq!((recovered.last, seen), (12, records[third as usize - 1..].to_vec()));
}

#[test]
fn a_renamed_segment_is_refused_and_other_files_are_left_alone() {
    let (disk, _) = twelve();
    disk.state().files.insert("notes.txt".into(), File::default());
    assert!(open(&disk, 0).is_ok() && disk.state().files.contains_key("notes.txt"));
    let first = disk.state().files.remove(&segment_name(1)).unwrap();
    disk.state().files.insert(segment_name(13), first);
    assert!(matches!(open(&disk, 5), Err(JournalError::Foreign { .. })));
}

#[test]
fn what_replay_refuses_is_told_with_its_number() {
    let (disk, _) = twelve();
    let result = Journal::open_in(Box::new(disk), IDENTITY, Start::After(2), JournalOptions::default(), |record| {
        if record.number == 4 { Err("no such column".into()) } else { Ok(()) }
    });
    assert!(matches!(result, Err(JournalError::Refused { number: 4, reason, .. }) if reason == "no such column"));
}

#[test]
fn a_real_folder_fills_in_segments_and_shrinks() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("a/log");
    let options = JournalOptions { segment_bytes: 10_000, sync: SyncPolicy::System };
    let (mut journal, _) = Journal::open(&log, IDENTITY, Start::Oldest, options, |_| Ok(())).unwrap();
    for i in 0..1000u32 {
        journal.append(&i.to_le_bytes().repeat(20)).unwrap();
        if i % 10 == 9 {
            journal.commit().unwrap();
        }
    }
    assert_eq!(journal.durable(), 1000);
    // Every record stands where the scan says.
    let (mut places, mut reader) = (Vec::new(), journal.reader());
    for segment in journal.segments() {
        reader
            .scan(segment, |record| {
                places.push((record.number, record.offset));
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(places.len(), 1000);
    for (number, offset) in places.iter().step_by(37) {
        let segment = journal.segment_of(*number).unwrap();
        let payload = reader.read(segment, *number, *offset).unwrap();
        assert_eq!(payload, (*number as u32 - 1).to_le_bytes().repeat(20));
        // Elsewhere there is none.
        for wrong in [offset + 1, offset + 80, 1 << 40] {
            assert!(matches!(reader.read(segment, *number, wrong), Err(JournalError::Unreadable { .. })));
        }
    }
    assert!(journal.segment_of(1001).is_none());
    let files = || std::fs::read_dir(&log).unwrap().count();
    assert!((9..=11).contains(&files()), "{}", files());
    let freed = journal.compact(700).unwrap();
    assert!(freed > 50_000 && (3..=5).contains(&files()), "{freed} {}", files());
    drop(journal);
    let mut sum = 0u64;
    let (mut journal, recovered) = Journal::open(&log, IDENTITY, Start::After(700), options, |record| {
        sum += record.number;
        assert_eq!(record.payload, (record.number as u32 - 1).to_le_bytes().repeat(20));
        Ok(())
    })
    .unwrap();
    assert_eq!((recovered.records, recovered.last, sum), (300, 1000, (701..=1000).sum()));
    // Without a snapshot it begins where it begins.
    drop(journal);
    let mut first = 0;
    (journal, _) = Journal::open(&log, IDENTITY, Start::Oldest, options, |record| {
        first = if first == 0 { record.number } else { first };
        Ok(())
    })
    .unwrap();
    assert!((600..=701).contains(&first) && journal.segments()[0].first == first, "{first}");
    journal.compact(1000).unwrap();
    assert_eq!((files(), journal.bytes()), (0, 0));
    // Numbers go on.
    assert_eq!(journal.append(b"x").unwrap().number, 1001);
    assert!(matches!(journal.append(b""), Err(JournalError::RecordSize { bytes: 0 })));
}

/// The file of a segment whose writer ended before its first record has the name of the next segment: compaction once took one for the other.
#[test]
fn a_segment_without_records_does_not_take_the_next_one_along() {
    let disk = Forgetful::default();
    let (mut journal, ..) = open(&disk, 0).unwrap();
    journal.append(b"never durable").unwrap();
    // Creating, writing and syncing the header succeed; syncing the folder does not.
    disk.state().fail_in = Some(3);
    assert!(journal.commit().is_err());
    let (mut journal, recovered, _) = open(&disk, 0).unwrap();
    assert_eq!((recovered.last, recovered.damage), (0, None));
    journal.append(b"durable").unwrap();
    assert_eq!(journal.commit().unwrap().last, 1);
    assert_eq!(journal.compact(0).unwrap(), 0);
    assert_eq!(open(&disk, 0).unwrap().2, [(1, b"durable".to_vec())]);
}

/// A disk that filled up leaves the beginning of the records that it refused behind the last good one, and then the empty file of the segment that was to
/// have them. Recovery removed the second alone, and the next one counted records that the first had not.
#[test]
fn what_one_recovery_does_not_count_no_later_one_does() {
    let refused: Records = (2..=4).map(|i| (i, vec![i as u8; 40])).collect();
    // With a snapshot of the first record, its segment is not read at all.
    for (applied, then) in [(0, 0), (1, 1), (1, 0)] {
        let disk = Forgetful::default();
        let (mut journal, ..) = open(&disk, 0).unwrap();
        journal.append(b"1").unwrap();
        journal.commit().unwrap();
        refused.iter().for_each(|(_, payload)| {
            journal.append(payload).unwrap();
        });
        {
            // Room for two of them, and none to take them back.
            let mut state = disk.state();
            state.room = Some(state.files.values().map(|file| file.now.len()).sum::<usize>() + 120);
            state.fail_in = Some(1);
        }
        assert!(journal.commit().is_err() && journal.commit().is_err());
        drop(journal);
        let mut seed = 0;
        // All that was written is there after the crash.
        disk.crash(&mut |below| {
            seed += 1;
            if below == 2 { 1 } else { below - 1 }
        });
        assert!(seed > 0 && disk.state().files.len() == 2);
        assert!(disk.state().files[&segment_name(1)].now.len() > 53 + 100);
        let (journal, recovered, _) = open(&disk, applied).unwrap();
        assert_eq!((recovered.last, journal.bytes()), (1, 53));
        drop(journal);
        let (_, recovered, seen) = open(&disk, then).unwrap();
        assert_eq!((recovered.last, recovered.damage), (1, None));
        assert_eq!(seen.len(), 1 - then as usize);
    }
}
