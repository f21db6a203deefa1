//! The built binary on data sets: list, make, info, inspect.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nystream"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NYSTREAM_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.args(line.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn json(&self, line: &str) -> serde_json::Value {
        let output = self.run(&format!("{line} --format json"));
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn fails(&self, line: &str, code: i32, parts: &[&str]) {
        let output = self.run(line);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {error}");
        assert!(output.stdout.is_empty(), "{line}: stdout holds {}", text(&output.stdout));
        let last = error.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && !error.contains("panicked"), "{line}: {error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{part} is missing from {error}"));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn list_names_what_make_and_info_take() {
    let place = Place::new();
    let list = place.json("datasets list");
    let entries = list["sources"].as_array().unwrap();
    assert!(entries.len() >= 10);
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        assert_eq!(place.json(&format!("datasets info {name}"))["name"], entry["name"]);
        if entry["kind"] == "synthetic" {
            let made = place.json(&format!("datasets make {name} --rows 10 --out {name}"));
            assert_eq!(made["rows"], 10);
            let stated = entry["source"].as_str().unwrap();
            assert_eq!(made["source"], stated.replace("rows=10000", "rows=10"));
        } else {
            place.fails(&format!("datasets make {name} --out x"), 2, &[name, "downloaded"]);
        }
    }
    let shown = text(&place.run("datasets list").stdout);
    assert!(shown.contains("friedman1") && shown.contains("beijing_air"), "{shown}");
}

#[test]
fn made_data_is_described_by_inspect_and_info() {
    let place = Place::new();
    let line = "datasets make synth:twoclass?categories=1 --rows 5e3 --features 3 --files 3 --row-group 1000 --out d/e";
    let output = place.run(line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("d/e/part-00002.parquet"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).starts_with("make: 5,000 rows in "), "{}", text(&output.stderr));
    let data = place.json("inspect d/e");
    assert_eq!(data, {
        let mut info = place.json("datasets info ./d/e");
        info["path"] = "d/e".into();
        info
    });
    assert_eq!((&data["kind"], &data["files"], &data["rows"]), (&"data".into(), &3.into(), &5000.into()));
    assert_eq!(data["row_groups"], 6);
    let bytes: u64 = (0..3).map(|i| place.path(&format!("d/e/part-{i:05}.parquet")).metadata().unwrap().len()).sum();
    assert_eq!(data["bytes"], bytes);
    let column = |name: &str| data["columns"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
    assert_eq!((&column("c0")["role"], &column("x0")["role"]), (&"categorical".into(), &"numeric".into()));
    assert_eq!(
        (&column("y")["min"], &column("y")["max"], &column("y")["nulls"]),
        (&"0".into(), &"1".into(), &0.into())
    );
    assert_eq!((&column("c0")["min"], &column("c0")["max"]), (&"a0".into(), &"a7".into()));
    let shown = text(&place.run("inspect d/e/*.parquet synth:sines?rows=77&d=1").stdout);
    assert!(shown.contains("5,000 in 6 row groups") && shown.contains("77 in 1 row group\n"), "{shown}");
    // The same line again: refused, unless it may replace.
    place.fails(line, 1, &["d/e", "part-00000.parquet", "--overwrite"]);
    assert_eq!(place.run(&format!("{line} --overwrite")).status.code(), Some(0));
    assert_eq!(place.json("inspect d/e"), data);
}

#[test]
fn refusals_leave_nothing() {
    let place = Place::new();
    place.fails("datasets make nonsense --out x", 2, &["nonsense", "friedman1"]);
    place.fails("datasets make friedman1 --features 2 --out x", 2, &["d=2"]);
    place.fails("datasets make sines --rows 1e9 --out x --disk-limit 1GiB", 4, &["44000000000", "--disk-limit"]);
    place.fails("datasets make sines --rows 1e4 --out x --disk-limit 441kB", 4, &["--disk-limit"]);
    // What is not there is a failure of the data, for every command.
    place.fails("inspect nonsense", 1, &["nonsense"]);
    place.fails("datasets info nonsense", 1, &["nonsense", "sines"]);
    place.fails("datasets info absent.parquet", 1, &["absent.parquet"]);
    place.fails("inspect synth:nonsense", 2, &["nonsense"]);
    assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 0);
    std::fs::write(place.path("file"), b"x").unwrap();
    place.fails("datasets make sines --out file", 1, &["'file'"]);
    place.fails("inspect file", 1, &["file", "not a Parquet file"]);
    place.fails("inspect *.parquet", 1, &["*.parquet"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_files() {
    let place = Place::new();
    let mut command =
        place.command("datasets make sines --rows 1e9 --features 20 --files 20000 --out d --disk-limit 1TB");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = std::time::Instant::now();
    // Until one file at least is complete and waits for the others.
    while std::fs::read_dir(place.path("d")).map_or(0, |entries| entries.count()) < 2 {
        assert!(begun.elapsed().as_secs() < 60 && child.try_wait().unwrap().is_none(), "it did not start");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    // The folder was made for them: it goes too.
    assert!(!place.path("d").exists());
}

/// A file that makes a decoder panic is an error, not a bug: the panic hook knows decoders.
#[test]
fn damaged_files_are_errors() {
    let place = Place::new();
    assert_eq!(place.run("datasets make sines --rows 3000 --features 2 --out d").status.code(), Some(0));
    let good = std::fs::read(place.path("d/part-00000.parquet")).unwrap();
    let footer = good.len() - 8 - u32::from_le_bytes(good[good.len() - 8..good.len() - 4].try_into().unwrap()) as usize;
    let path = place.path("bad.parquet");
    let mut refused = 0;
    for step in 0..24 {
        let mut bad = good.clone();
        let at = footer + step * (good.len() - 8 - footer) / 24;
        bad[at] ^= 0xff;
        std::fs::write(&path, &bad).unwrap();
        let output = place.run("inspect bad.parquet");
        let error = text(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(1) => {
                refused += 1;
                assert!(error.contains("bad.parquet") && error.lines().count() == 1, "{error}");
            }
            code => panic!("{code:?} at {at}: {error}"),
        }
    }
    assert!(refused >= 8, "{refused}");
}
