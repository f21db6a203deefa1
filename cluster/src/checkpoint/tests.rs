//! Folders of checkpoints: generations, damage, locks, and whose they are.

use super::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NOW: Duration = Duration::ZERO;

fn key(seed: u8) -> JobKey {
    JobKey { version: "1.2.3".into(), parts: vec![("--seed".into(), [seed; 32]), ("--data".into(), [7; 32])] }
}

fn lead(folder: &Path, seed: u8, resume: bool) -> Result<(Store, Found), CheckpointError> {
    Store::lead(folder, &key(seed), resume, NOW, Box::new(|_| {}))
}

fn frames(text: &str) -> Vec<Frame> {
    text.bytes().map(|byte| Frame { key: u64::from(byte), bytes: vec![byte; 3] }).collect()
}

fn save(store: &Store, name: (&str, &str), generations: usize, text: &str) {
    let frames = frames(text);
    store.save(name, generations, frames.len() as u32, &mut frames.into_iter()).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_newest_sound_generation_is_read() {
    let place = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let say = Box::new(move |line: &str| heard.lock().unwrap().push(line.to_owned()));
    let (store, found) = Store::lead(place.path(), &key(1), true, NOW, say).unwrap();
    assert!(!found.checkpoint);
    let name = ("pcg", "state");
    let before = files(place.path());
    for text in ["one", "two", "three"] {
        save(&store, name, 2, text);
    }
    let new: Vec<PathBuf> = files(place.path()).into_iter().filter(|file| !before.contains(file)).collect();
    assert_eq!(new.len(), 2);
    assert_eq!(store.load(name), Some(frames("three")));
    assert_eq!(store.names(), [("pcg".to_owned(), "state".to_owned())]);
    // The newest is damaged.
    let mut bytes = fs::read(&new[1]).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&new[1], &bytes).unwrap();
    assert_eq!(store.load(name), Some(frames("two")));
    assert_eq!(store.sound(name), [new[0].clone()]);
    assert!(told.lock().unwrap().iter().all(|line| line.contains("checksum")) && told.lock().unwrap().len() == 2);
    // Both are.
    fs::write(&new[0], &fs::read(&new[0]).unwrap()[..100]).unwrap();
    assert_eq!(store.load(name), None);
    // One that is read in another's place is not taken for it.
    save(&store, name, 1, "four");
    let four = files(place.path()).into_iter().find(|file| !before.contains(file)).unwrap();
    let other = new[0]
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .replace(&four.file_name().unwrap().to_str().unwrap()[17..33], "0000000000000000");
    fs::copy(&four, place.path().join(other)).unwrap();
    assert_eq!(store.load(name), Some(frames("four")));
    store.forget("pcg");
    assert_eq!(store.load(name), None);
    store.clear();
    assert!(files(place.path()).iter().all(|file| !file.to_str().unwrap().ends_with("lock")));
}

#[test]
fn a_folder_is_one_jobs_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let (store, _) = lead(place.path(), 1, false).unwrap();
    let error = lead(place.path(), 1, true).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, CheckpointError::Locked { .. }) && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    // The others of its processes write beside it.
    let other = Store::follow(place.path(), &key(1), Box::new(|_| {})).unwrap();
    assert_eq!((other.attempt(), other.nonce()), (store.attempt(), store.nonce()));
    save(&other, ("pass", "1-0"), 1, "part");
    assert_eq!(store.load(("pass", "1-0")), Some(frames("part")));
    drop(store);
    // A checkpoint of this job needs a word, and one of another is refused in any case.
    assert!(matches!(lead(place.path(), 1, false).map(|_| ()), Err(CheckpointError::Exists { .. })));
    for resume in [false, true] {
        let text = lead(place.path(), 2, resume).map(|_| ()).unwrap_err().to_string();
        let digests = [key(1), key(2)].map(|key| super::identity::short(&key.digest()));
        assert!(digests.iter().all(|digest| text.contains(digest)) && text.contains("--seed differ"), "{text}");
        let newer = JobKey { version: "1.2.4".into(), ..key(1) };
        let error = Store::lead(place.path(), &newer, resume, NOW, Box::new(|_| {})).map(|_| ()).unwrap_err();
        assert!(matches!(&error, CheckpointError::OtherVersion { .. }), "{error}");
    }
    let (store, found) = lead(place.path(), 1, true).unwrap();
    assert!(found.checkpoint && store.attempt() == 2);
    assert_eq!(store.load(("pass", "1-0")), Some(frames("part")));
    store.clear();
    assert!(files(place.path()).is_empty(), "{:?}", files(place.path()));
    assert!(!lead(place.path(), 2, true).unwrap().1.checkpoint);
}

#[test]
fn folders_that_cannot_be_used_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(lead(&file, 1, false).map(|_| ()), Err(CheckpointError::Unusable { .. })));
    let folder = place.path().join("new/deep");
    let follow = || Store::follow(&folder, &key(1), Box::new(|_| {})).map(|_| ());
    assert!(matches!(follow(), Err(CheckpointError::NotShared { .. } | CheckpointError::Unusable { .. })));
    let (store, _) = lead(&folder, 1, false).unwrap();
    assert!(follow().is_ok());
    save(&store, ("a", "b"), 1, "c");
    drop(store);
    // Who it is of can no longer be told.
    for file in files(&folder) {
        let text = file.to_str().unwrap().to_owned();
        if text.ends_with(".nyc") {
            fs::write(&file, b"nyst-ckp").unwrap();
        }
    }
    for resume in [false, true] {
        assert!(matches!(lead(&folder, 1, resume).map(|_| ()), Err(CheckpointError::Nameless { .. })));
    }
}
