//! Sources that are taken up again, cut off, hostile and half-written.

use super::*;
use crate::events::{Cell, Reads, StreamColumn, StreamSchema};
use crate::stream::{folder::Folder, ipc::Ipc, jsonl::JsonLines, made::Made};
use crate::{ColumnKind, sink::PredictionWriter};
use arrow_array::{Float64Array, RecordBatch, StringArray};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

fn schema() -> StreamSchema {
    let column =
        |name: &str, target| StreamColumn { name: name.into(), reads: Reads::Value(ColumnKind::Numeric), target };
    StreamSchema::from_columns(vec![column("x0", false), column("y", true)])
}

fn batch(first: usize, rows: usize) -> RecordBatch {
    let keys = StringArray::from_iter_values((first..first + rows).map(|i| format!("k{i}")));
    let x = Float64Array::from_iter_values((first..first + rows).map(|i| i as f64));
    RecordBatch::try_from_iter([
        ("key", Arc::new(keys) as _),
        ("x0", Arc::new(x.clone()) as _),
        ("y", Arc::new(x) as _),
    ])
    .unwrap()
}

/// Everything that a source gives before it has nothing more, and where it is then.
fn all(source: &mut dyn EventSource) -> (Vec<Item>, Position) {
    let mut items = Vec::new();
    let mut idle = 0;
    while idle < 30 {
        match source.next(&mut items).unwrap() {
            More::End => break,
            More::NotNow => idle += 1,
            More::Yes => idle = 0,
        }
    }
    let position = source.position();
    (items, position)
}

fn keys(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .filter_map(|item| if let Item::Event(event, _) = item { Some(event.key.clone()) } else { None })
        .collect()
}

fn reasons(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .filter_map(|item| if let Item::Rejected(rejected) = item { Some(rejected.reason.clone()) } else { None })
        .collect()
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("k{i}")).collect()
}

#[test]
fn lines_go_on_where_they_were_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let line = |i: usize| format!("{{\"key\":\"k{i}\",\"row\":{{\"x0\":{i}}}}}\n");
    let text: String = (0..3000).map(line).collect();
    std::fs::write(&path, &text).unwrap();
    let open = || JsonLines::open("jsonl:a", path.to_str().unwrap(), schema()).unwrap();
    let mut source = open();
    let mut items = Vec::new();
    source.next(&mut items).unwrap();
    let position = source.position();
    assert_eq!(items.len(), PIECE_EVENTS);
    let mut again = open();
    again.resume(&position).unwrap();
    let (rest, end) = all(&mut again);
    assert_eq!(keys(&rest), numbered(PIECE_EVENTS..3000));
    // What is added later follows; what is not an event is told with its line, a blank line is nothing.
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    write!(file, "\n{{\"key\":\"k3000\",\"row\":{{\"x0\":\"much\"}}}}\nnot json\n{}", line(3001)).unwrap();
    let mut more = open();
    more.resume(&end).unwrap();
    let (items, _) = all(&mut more);
    assert_eq!((keys(&items), reasons(&items).len()), (numbered(3001..3002), 2));
    let Item::Rejected(rejected) = &items[0] else { panic!("{items:?}") };
    assert_eq!((rejected.key.as_deref(), rejected.place.as_deref()), (Some("k3000"), Some("line 3002")));
    // Another file under the name.
    std::fs::write(&path, text.replace("k0", "j0")).unwrap();
    assert!(matches!(open().resume(&position), Err(SourceError::Another { .. })));
    std::fs::write(&path, "short\n").unwrap();
    assert!(matches!(open().resume(&position), Err(SourceError::Another { .. })));
}

/// What was read last is known again, not the beginning alone.
#[test]
fn files_that_only_begin_alike_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let line = |i: usize| format!("{{\"key\":\"k{i}\",\"row\":{{\"x0\":{i}}}}}\n");
    let text: String = (0..1000).map(line).collect();
    std::fs::write(&path, &text).unwrap();
    let open = || JsonLines::open("jsonl:a", path.to_str().unwrap(), schema()).unwrap();
    let (_, end) = all(&mut open());
    assert!(open().resume(&end).is_ok());
    std::fs::write(&path, text.replace("k999", "j999")).unwrap();
    assert!(matches!(open().resume(&end), Err(SourceError::Another { .. })));
}

/// A last line without its end counts where it is whole; otherwise it is read when the rest is there.
#[test]
fn lines_that_are_being_written_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let text = "{\"key\":\"k0\",\"row\":{\"x0\":0}}\n{\"key\":\"k1\",\"row\":{\"x0\":1}}";
    let whole = text.find('\n').unwrap() + 1;
    let open = || JsonLines::open("jsonl:a", path.to_str().unwrap(), schema()).unwrap();
    for end in 0..=text.len() {
        std::fs::write(&path, &text[..end]).unwrap();
        let mut source = open();
        let (items, position) = all(&mut source);
        let cut = end > 0 && end != whole && end != whole - 1 && end != text.len();
        assert_eq!((reasons(&items).len(), source.remark().is_some()), (0, cut), "{end}");
        // The rest comes, with its end.
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let mut more = open();
        more.resume(&position).unwrap();
        let (rest, _) = all(&mut more);
        assert_eq!(keys(&[items, rest].concat()), numbered(0..2), "{end}");
    }
    std::fs::write(&path, "no value").unwrap();
    assert_eq!(reasons(&all(&mut open()).0).len(), 1, "nothing makes that an event");
}

/// A file with two columns of one name is refused, row by row; one that the model does not read may be there twice.
#[test]
fn columns_that_are_there_twice_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = batch(0, 3);
    for (twice, refused) in [("x0", 3), ("key", 3), ("other", 0)] {
        let names: Vec<&str> =
            ["key", "x0", "y", twice, twice].into_iter().take(if twice == "other" { 5 } else { 4 }).collect();
        let fields: Vec<_> = names
            .iter()
            .map(|name| {
                arrow_schema::Field::new(
                    *name,
                    if *name == "key" { arrow_schema::DataType::Utf8 } else { arrow_schema::DataType::Float64 },
                    true,
                )
            })
            .collect();
        let columns = names.iter().map(|name| whole.column_by_name(name).unwrap_or(whole.column(1)).clone()).collect();
        let table = RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(fields)), columns).unwrap();
        let path = folder.path().join(format!("{twice}.arrows"));
        std::fs::write(&path, ipc::stream_of(&table).unwrap()).unwrap();
        let (items, _) = all(&mut Ipc::open("ipc:a", path.to_str().unwrap(), schema()).unwrap());
        let told = reasons(&items);
        assert_eq!((told.len(), keys(&items).len()), (refused, 3 - refused), "{twice}");
        assert!(told.iter().all(|reason| reason.contains(&format!("two columns '{twice}'"))), "{told:?}");
    }
}

#[test]
fn made_rows_go_on_where_they_were_left() {
    let mut made = Made::open("synth:sines?rows=1500&d=1", schema()).unwrap();
    let (items, _) = all(&mut made);
    let mut again = Made::open("synth:sines?rows=1500&d=1", schema()).unwrap();
    again.resume(&Position::Rows(1490)).unwrap();
    let (rest, end) = all(&mut again);
    assert_eq!((&items[1490..], end), (&rest[..], Position::Rows(1500)));
    let Item::Event(event, _) = &items[0] else { panic!() };
    assert!(matches!(event.cells[..], [Cell::Number(_), Cell::Number(_)]));
}

#[test]
fn ipc_files_are_read_and_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.arrows");
    let mut bytes = ipc::stream_of(&batch(0, 300)).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let open = |path: &Path| Ipc::open("ipc:a", path.to_str().unwrap(), schema()).unwrap();
    let (items, end) = all(&mut open(&path));
    assert_eq!(keys(&items), numbered(0..300));
    assert!(matches!(end, Position::Frames { rows: 300, bytes: 1.., .. }), "{end:?}");
    // As it was left, longer, and another one of the same length.
    let mut same = open(&path);
    same.resume(&end).unwrap();
    assert!(all(&mut same).0.is_empty());
    std::fs::write(&path, ipc::stream_of(&batch(7, 300)).unwrap()).unwrap();
    assert!(matches!(open(&path).resume(&end), Err(SourceError::Another { .. })));
    std::fs::write(&path, &bytes[..200]).unwrap();
    assert!(matches!(open(&path).resume(&end), Err(SourceError::Another { .. })));
    std::fs::write(&path, &bytes).unwrap();
    let mut again = open(&path);
    again.resume(&Position::Rows(120)).unwrap();
    assert_eq!(keys(&all(&mut again).0), numbered(120..300));
    // Cut anywhere it is whole batches and one rejection, or none where nothing of a frame came.
    for end in 0..bytes.len() {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let (items, _) = all(&mut open(&path));
        assert!(reasons(&items).len() <= 1 && [0, 300].contains(&keys(&items).len()), "{end}: {items:?}");
    }
    // Flipped anywhere, never a panic and never more rows than there were.
    for at in (0..bytes.len()).step_by(3) {
        bytes[at] ^= 0x55;
        std::fs::write(&path, &bytes).unwrap();
        assert!(keys(&all(&mut open(&path)).0).len() <= 300);
        bytes[at] ^= 0x55;
    }
}

#[test]
fn frames_that_announce_too_much_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.arrows");
    let frame = |metadata: u32, rest: &[u8]| [&u32::MAX.to_le_bytes()[..], &metadata.to_le_bytes(), rest].concat();
    let mut huge = ipc::stream_of(&batch(0, 10)).unwrap();
    // The body's length stands in the metadata as a little-endian number: make the second frame's 10 GB.
    let metadata = u32::from_le_bytes(huge[4..8].try_into().unwrap()) as usize;
    let second = 8 + metadata;
    let length = u32::from_le_bytes(huge[second + 4..second + 8].try_into().unwrap()) as usize;
    let root = arrow_ipc::root_as_message(&huge[second + 8..second + 8 + length]).unwrap();
    let body = root.bodyLength().to_le_bytes();
    let found = huge[second + 8..second + 8 + length].windows(8).position(|bytes| bytes == body).unwrap();
    huge[second + 8 + found..second + 16 + found].copy_from_slice(&10_000_000_000i64.to_le_bytes());
    for (bytes, part) in [
        (frame(u32::MAX, b""), "bytes of metadata"),
        (frame(1 << 30, b"x"), "bytes of metadata"),
        (huge, "announces 10000000000 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not begin like"),
        (frame(64, &[7; 64]), "damaged"),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let (items, _) = all(&mut Ipc::open("ipc:a", path.to_str().unwrap(), schema()).unwrap());
        let [reason] = &reasons(&items)[..] else { panic!("{part}: {items:?}") };
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

/// A connection that sends garbage, one that stops half-way, and good ones around them.
#[test]
fn connections_are_taken_one_after_the_other() {
    let (said, heard) = std::sync::mpsc::channel();
    let mut source = Ipc::tcp("tcp", "127.0.0.1:0", schema(), move |address| said.send(address).unwrap()).unwrap();
    let address = heard.recv().unwrap();
    let good = |first: usize| ipc::stream_of(&batch(first, 20)).unwrap();
    let sent = [good(0), b"garbage that is no frame at all".to_vec(), good(20)[..200].to_vec(), good(20)];
    let clients = std::thread::spawn(move || {
        for bytes in sent {
            let mut socket = std::net::TcpStream::connect(&address).unwrap();
            let _ = socket.write_all(&bytes);
        }
    });
    let mut items = Vec::new();
    let begun = std::time::Instant::now();
    while keys(&items).len() < 40 && begun.elapsed().as_secs() < 30 {
        source.next(&mut items).unwrap();
    }
    clients.join().unwrap();
    assert_eq!((keys(&items), reasons(&items).len()), (numbered(0..40), 2));
}

#[cfg(unix)]
#[test]
fn sockets_that_a_killed_process_left_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut source = Ipc::unix("unix", path.to_str().unwrap(), schema()).unwrap();
    assert!(Ipc::unix("unix", path.to_str().unwrap(), schema()).is_err(), "it is in use");
    std::os::unix::net::UnixStream::connect(&path).unwrap().write_all(&ipc::stream_of(&batch(0, 5)).unwrap()).unwrap();
    let mut items = Vec::new();
    while keys(&items).len() < 5 {
        source.next(&mut items).unwrap();
    }
    drop(source);
    assert!(!path.exists());
}

fn parquet(path: &Path, first: usize, rows: usize) {
    let mut writer = PredictionWriter::create(path).unwrap();
    writer.write(&batch(first, rows)).unwrap();
    writer.finish().unwrap();
}

#[test]
fn files_are_taken_once_and_half_written_ones_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    parquet(&path("b.parquet"), 0, 2000);
    parquet(&path("c.parquet"), 2000, 10);
    parquet(&path("whole"), 2010, 5);
    std::fs::write(path("a.parquet"), &std::fs::read(path("whole")).unwrap()[..100]).unwrap();
    std::fs::write(path(".hidden.parquet"), b"x").unwrap();
    std::fs::write(path("d.parquet.part"), b"x").unwrap();
    let open = || Folder::open("watch", folder.path(), schema()).unwrap();
    let mut source = open();
    let mut items = Vec::new();
    source.next(&mut items).unwrap();
    let begun = source.position();
    assert_eq!(items.len(), PIECE_EVENTS);
    let (rest, _) = all(&mut source);
    assert_eq!(keys(&rest), numbered(PIECE_EVENTS..2010));
    // After a restart in the middle of a file.
    let mut again = open();
    again.resume(&begun).unwrap();
    let (rest, end) = all(&mut again);
    assert_eq!(keys(&rest), numbered(PIECE_EVENTS..2010));
    // The half-written one is whole now; one that was taken has changed.
    std::fs::rename(path("whole"), path("a.parquet")).unwrap();
    parquet(&path("c.parquet"), 5000, 700);
    let mut last = open();
    last.resume(&end).unwrap();
    let (items, end) = all(&mut last);
    assert_eq!((keys(&items), reasons(&items).len()), (numbered(2010..2015), 1));
    // What is gone is marked.
    std::fs::remove_file(path("b.parquet")).unwrap();
    let mut source = open();
    source.resume(&end).unwrap();
    let (items, Position::Folder(files)) = all(&mut source) else { panic!() };
    let there: Vec<bool> = files.values().map(|file| file.gone.is_none()).collect();
    assert!(items.is_empty() && there == [true, false, true], "{items:?} {files:?}");
}

/// A file is known by its name and what it holds, not by having been there all the time, nor by its size.
#[test]
fn files_are_known_by_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let open = || Folder::open("watch", folder.path(), schema()).unwrap();
    for (name, first) in [("a.parquet", 0), ("b.parquet", 10), ("c.parquet", 20)] {
        parquet(&path(name), first, 10);
    }
    let mut source = open();
    assert_eq!(keys(&all(&mut source).0), numbered(0..30));
    // One goes and comes back, while the run goes on and over a restart; a copy with the same bytes is the same file.
    let a = std::fs::read(path("a.parquet")).unwrap();
    std::fs::remove_file(path("a.parquet")).unwrap();
    let (items, end) = all(&mut source);
    assert!(items.is_empty(), "{items:?}");
    std::fs::write(path("a.parquet"), &a).unwrap();
    let mut again = open();
    again.resume(&end).unwrap();
    assert!(all(&mut source).0.is_empty() && all(&mut again).0.is_empty());
    // Others of the same size, one in the place of a file, one behind a pause without any: both are told once, neither is taken.
    let other = |name: &str| {
        let mut bytes = std::fs::read(path(name)).unwrap();
        // In the pages of the first column; its footer is the same.
        bytes[20] ^= 1;
        std::fs::write(path("new"), &bytes).unwrap();
        std::fs::rename(path("new"), path(name)).unwrap();
    };
    other("b.parquet");
    let (items, _) = all(&mut source);
    assert!(
        keys(&items).is_empty() && reasons(&items).len() == 1 && reasons(&items)[0].contains("another"),
        "{items:?}"
    );
    let c = std::fs::read(path("c.parquet")).unwrap();
    std::fs::remove_file(path("c.parquet")).unwrap();
    let (_, end) = all(&mut source);
    std::fs::write(path("c.parquet"), &c).unwrap();
    other("c.parquet");
    let mut later = open();
    later.resume(&end).unwrap();
    let (items, end) = all(&mut later);
    assert_eq!((keys(&items).len(), reasons(&items).len()), (0, 1), "{items:?}");
    assert!(all(&mut later).0.is_empty());
    // The same file of another name is another one; so is what states of before have, by its size.
    std::fs::write(path("d.parquet"), &a).unwrap();
    assert_eq!(keys(&all(&mut later).0), numbered(0..10));
    let Position::Folder(files) = end else { panic!() };
    let before = files.iter().map(|(name, file)| (name.clone(), (file.rows, file.bytes))).collect();
    let mut older = open();
    older.resume(&Position::Files(before)).unwrap();
    let (items, position) = all(&mut older);
    assert_eq!(keys(&items), numbered(0..10));
    let Position::Folder(files) = position else { panic!() };
    assert!(files.len() == 4 && files.values().all(|file| file.digest.is_some()), "{files:?}");
}

/// The first file of a name stays the one of that name, whatever had the name in between, and over restarts.
#[test]
fn what_comes_back_after_another_is_known_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let open = || Folder::open("watch", folder.path(), schema()).unwrap();
    parquet(&path, 0, 3000);
    let original = std::fs::read(&path).unwrap();
    let mut source = open();
    let mut items = Vec::new();
    source.next(&mut items).unwrap();
    let begun = source.position();
    for others in [&[][..], &[5][..], &[5, 6, 5][..]] {
        let mut position = begun.clone();
        let mut told = 0;
        for first in others {
            std::fs::remove_file(&path).unwrap();
            parquet(&path, 10_000 * first, 20);
            let mut source = open();
            source.resume(&position).unwrap();
            let (items, end) = all(&mut source);
            assert!(keys(&items).is_empty(), "{items:?}");
            told += reasons(&items).len();
            position = end;
        }
        // Each once.
        assert_eq!(told, others.iter().collect::<std::collections::BTreeSet<_>>().len());
        std::fs::write(&path, &original).unwrap();
        let mut source = open();
        source.resume(&position).unwrap();
        let (items, end) = all(&mut source);
        assert_eq!((keys(&items), reasons(&items).len()), (numbered(PIECE_EVENTS..3000), 0));
        let mut source = open();
        source.resume(&end).unwrap();
        assert!(all(&mut source).0.is_empty());
    }
}

/// What is logged with a piece does not grow with the files of the folder, and adds up to where the source is.
#[test]
fn what_moved_adds_up_to_the_position() {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..60 {
        parquet(&folder.path().join(format!("{file:03}.parquet")), 10 * file, 10);
    }
    let mut source = Folder::open("watch", folder.path(), schema()).unwrap();
    let mut known = source.position();
    let (mut taken, mut idle, mut most) = (0, 0, 0);
    while idle < 40 {
        let mut items = Vec::new();
        let more = source.next(&mut items).unwrap();
        idle = if more == More::NotNow { idle + 1 } else { 0 };
        taken += items.len();
        let moved = source.moved();
        most = most.max(serde_json::to_vec(&moved).unwrap().len());
        let before = known.clone();
        known.advance(moved.clone());
        assert_eq!((&known, moved.is_new(&before)), (&source.position(), known != before));
        if taken == 300 {
            std::fs::remove_file(folder.path().join("001.parquet")).unwrap();
        }
    }
    assert_eq!(taken, 600);
    assert!(most < 400, "{most} bytes");
    let Position::Folder(files) = &known else { panic!() };
    assert!(files.len() == 60 && files["001.parquet"].gone.is_some());
    let mut again = Folder::open("watch", folder.path(), schema()).unwrap();
    again.resume(&known).unwrap();
    assert!(all(&mut again).0.is_empty());
}

/// What no more writing would make a Parquet file is told at once, what is cut short when the run ends, or after a while.
#[test]
fn broken_files_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    parquet(&path("whole"), 0, 10);
    let whole = std::fs::read(path("whole")).unwrap();
    let mut flipped = whole.clone();
    let at = flipped.len() - 30;
    flipped[at..at + 20].fill(0xff);
    std::fs::write(path("flipped.parquet"), &flipped).unwrap();
    std::fs::write(path("text.parquet"), b"this is no Parquet file at all").unwrap();
    std::fs::write(path("cut.parquet"), &whole[..whole.len() / 2]).unwrap();
    let mut source = Folder::open("watch", folder.path(), schema()).unwrap();
    let (items, _) = all(&mut source);
    let places: Vec<Option<&str>> = items
        .iter()
        .map(|item| if let Item::Rejected(rejected) = item { rejected.place.as_deref() } else { None })
        .collect();
    assert_eq!(places, [Some("flipped.parquet"), Some("text.parquet")], "{items:?}");
    let remark = source.remark().unwrap();
    assert!(remark.contains("cut.parquet") && !remark.contains("text.parquet"), "{remark}");
    let begun = std::time::Instant::now();
    let mut told = Vec::new();
    while told.is_empty() && begun.elapsed() < std::time::Duration::from_secs(60) {
        source.next(&mut told).unwrap();
    }
    assert!(reasons(&told).len() == 1 && source.remark().is_none(), "{told:?}");
    // Each is told once, and taken when it is whole.
    std::fs::rename(path("whole"), path("cut.parquet")).unwrap();
    assert_eq!(keys(&all(&mut source).0), numbered(0..10));
}
