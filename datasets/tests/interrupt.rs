//! An interrupt leaves no partial output. Alone in its process: it removes every unfinished output there is.

use nystream_datasets::atomic::{AtomicFile, remove_pending};
use std::io::Write;

#[test]
fn unfinished_outputs_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut done = AtomicFile::create(&folder.path().join("done.txt")).unwrap();
    done.write_all(b"done").unwrap();
    done.commit().unwrap();
    let mut files: Vec<AtomicFile> =
        (0..3).map(|i| AtomicFile::create(&folder.path().join(format!("{i}.txt"))).unwrap()).collect();
    files.iter_mut().for_each(|file| file.write_all(&[7; 100_000]).unwrap());
    assert!(entries() == 1 || entries() == 4, "without names, or with them");
    drop(remove_pending());
    assert_eq!(entries(), 1);
    // A commit that was overtaken fails and leaves nothing.
    assert!(files.into_iter().all(|file| file.commit().is_err()));
    assert_eq!(entries(), 1);
}
