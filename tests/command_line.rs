//! The built binary: exit codes, what goes to stdout and what to stderr, settings layers, models described.

use nystream::model::{FrozenConfig, Model};
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::rows::RowBuf;
use std::io::Read;
use std::path::{Path, PathBuf};
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

    /// The binary, in this folder, without the variables of whoever runs the tests.
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

    fn model(&self, name: &str) -> Model {
        let mut config = FrozenConfig::new(Kernel::new(Family::Laplace, 0.75), &["y"], 1, 0);
        config.rows = 12_345;
        let centers = RowBuf { numeric: vec![0.0, 1.0], numeric_width: 1, codes: vec![], code_width: 0 };
        let model = Model::new(config, centers, vec![0.5, -0.5], vec![3.0]);
        model.save(&self.path(name)).unwrap();
        model
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The failure's exit code, one message on stderr, nothing on stdout.
fn fails(output: &Output, expected: i32, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(code(output), expected, "{error}");
    assert!(output.stdout.is_empty(), "stdout holds {}", text(&output.stdout));
    assert!(error.starts_with("error: "), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part} is missing from {error}");
    }
}

#[test]
fn help_and_version_are_results() {
    let place = Place::new();
    for line in ["--help", "--version", "fit --help", "datasets make --help", "cluster run --help", "help predict"] {
        let output = place.run(line);
        assert_eq!(code(&output), 0, "{line}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{line}");
    }
    let help = text(&place.run("fit --help").stdout);
    for part in ["8GiB", "encoded units", "hash:FRACTION", "Machine:", "[default: 2e14]"] {
        assert!(help.contains(part), "{part} is missing from fit --help");
    }
    assert!(text(&place.run("--help").stdout).contains("Exit codes: 0 done"));
    let help = text(&place.run("datasets make --help").stdout);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in
        ["Rows in all [default: 10000]", "Feature columns [default: 10]", "[default: 1 for friedman1 and twoclass"]
    {
        assert!(help.contains(part), "{part} is missing from {help}");
    }
    let help = text(&place.run("cluster run --help").stdout);
    for part in ["--hosts <FILE>", "--launcher", "[default: 0]", "Examples:", "The exit code is the job's"] {
        assert!(help.contains(part), "{part} is missing from {help}");
    }
    // These are the defaults.
    let spec = |name: &str| format!("synth:{name}").parse::<nystream_datasets::SynthSpec>().unwrap();
    assert_eq!((spec("sines").rows, spec("sines").d, spec("sines").noise), (10_000, 10, 0.1));
    assert_eq!(["friedman1", "twoclass", "mixtures"].map(|name| spec(name).noise), [1.0, 1.0, 0.1]);
}

#[test]
fn wrong_lines_exit_with_2() {
    let place = Place::new();
    let cases = [
        ("fit --data d --target y", "--out"),
        ("fit --data d --out m", "--target"),
        ("fit --target y --out m", "--data"),
        ("fit --data d --target y --out m --bandwidth 0", "bandwidth must be positive"),
        ("fit --data d --target y --out m --ridge -1", "not negative"),
        ("fit --data d --target y --out m --bandwidth -1", "must be positive"),
        ("datasets make sines --out o --noise -1", "at least 0"),
        ("fit --data d --target y --out m --ridge=-1", "not negative"),
        ("fit --data d --target y --out m --ridge 0", "--ridge 0"),
        ("fit --data d --target y --out m --memory plenty", "8GiB"),
        ("fit --data d --target y --out m --centers 0", "at least 1"),
        ("fit --data d --target y --out m --solver magic", "eigenpro"),
        ("fit --data d --target y --out m --frobnicate", "--frobnicate"),
        ("fit --data d --target y --out m --hosts h", "--process"),
        ("clustre", "clustre"),
        ("cluster walk", "walk"),
        ("config show nonsense", "nonsense"),
        ("inspect x --config-file absent.toml", "absent.toml"),
    ];
    for (line, part) in cases {
        fails(&place.run(line), 2, &[part]);
    }
    assert_eq!(code(&place.run("")), 2);
    assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 0, "a refused line left files");
}

#[test]
fn unwritable_outputs_are_refused_first() {
    let place = Place::new();
    for line in [
        "fit --data d --target y --out absent/m.nys",
        "fit --data d --target y --out m --report absent/r.json",
        "tune --data d --target y --report absent/r.json",
        "dictionary --data d --target y --out absent/d.parquet",
    ] {
        fails(&place.run(line), 1, &["absent/", "folder that exists"]);
    }
    place.model("m.nys");
    fails(&place.run("predict --model m.nys --data d --out absent/p.parquet"), 1, &["absent/p.parquet"]);
    fails(&place.run("predict --model m.nys --data d --out p.parquet --variance"), 1, &["m.nys", "variance"]);
    assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 1, "a refused line left files");
}

#[test]
fn damaged_models_exit_with_1_and_say_what_is_wrong() {
    let place = Place::new();
    place.model("good.nys");
    let bytes = std::fs::read(place.path("good.nys")).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(place.path("flipped.nys"), &flipped).unwrap();
    std::fs::write(place.path("short.nys"), &bytes[..bytes.len() - 9]).unwrap();
    std::fs::write(place.path("empty.nys"), b"").unwrap();
    std::fs::write(place.path("data.nys"), b"PAR1....PAR1").unwrap();
    let cases = [
        ("absent.nys", "cannot read"),
        ("flipped.nys", "damaged"),
        ("short.nys", "cut short"),
        ("empty.nys", "empty"),
        ("data.nys", "Parquet"),
    ];
    for (file, part) in cases {
        fails(&place.run(&format!("inspect {file}")), 1, &[file, part]);
        fails(&place.run(&format!("evaluate --model {file} --data d")), 1, &[file, part]);
        fails(&place.run(&format!("predict --model {file} --data d --out p")), 1, &[file, part]);
        fails(&place.run(&format!("fit --data d --target y --out m --from {file}")), 1, &[file, part]);
    }
}

#[test]
fn inspect_describes_a_model() {
    let place = Place::new();
    let model = place.model("m.nys");
    let output = place.run("inspect m.nys");
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for part in ["12,345 rows", "laplace, bandwidth 0.7500", &model.digest().unwrap()] {
        assert!(shown.contains(part), "{part} is missing from {shown}");
    }
    let output = place.run("--format json inspect m.nys");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["schema_version"], &json["kind"]), (&1.into(), &"model".into()));
    assert_eq!(json["model_digest"], model.digest().unwrap());
    assert_eq!(json["ridge"], 0.0);
    let two = place.run("inspect m.nys m.nys --format json");
    let two: serde_json::Value = serde_json::from_slice(&two.stdout).unwrap();
    assert_eq!((two["documents"].as_array().unwrap().len(), &two["schema_version"]), (2, &1.into()));
    assert_eq!(two["documents"][1], json, "a file is described as it is alone");
    // What the file holds of how it was made.
    for (key, value) in [("metric", "isotropic"), ("split", "none")] {
        assert_eq!(json[key], value, "{key}: {json}");
        assert!(shown.lines().any(|line| line.split_whitespace().eq([key, value])), "{key} {value}\n{shown}");
    }
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["seed", "0"])), "{shown}");
    assert!(json.get("validation").is_none() && !shown.contains("held-out"), "{json}");
}

#[test]
fn config_show_names_origins() {
    let place = Place::new();
    std::fs::write(place.path("nystream.toml"), "seed = 5\n[predict]\nvariance = true\n").unwrap();
    let output = place.command("config show fit --centers 7").env("NYSTREAM_MEMORY", "3GiB").output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let line =
        |option: &str| shown.lines().find(|l| l.starts_with(&format!("--{option} "))).unwrap_or_default().to_string();
    for (option, value, origin) in [
        ("centers", "7", "flag"),
        ("memory", "3GiB", "NYSTREAM_MEMORY"),
        ("seed", "5", "nystream.toml (seed)"),
        ("bandwidth", "auto", "default"),
        ("split", "hash:0.1, or none with --validation", "default"),
        ("id-column", "file and position", "default"),
        ("target", "none", "default"),
    ] {
        let line = line(option);
        assert!(line.contains(value) && line.ends_with(origin), "{option}: `{line}` in\n{shown}");
    }
    // No cell is left open.
    let cells = |line: &str| line.split("  ").filter(|cell| !cell.trim().is_empty()).count();
    assert!(shown.lines().skip(1).all(|line| cells(line) == 3), "{shown}");
    let json = place.run("config show predict --format json");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let variance = json["settings"].as_array().unwrap().iter().find(|s| s["name"] == "variance").unwrap();
    assert_eq!((&variance["values"], &variance["default"]), (&serde_json::json!(["true"]), &"false".into()));
    assert!(variance["origin"].as_str().unwrap().contains("predict.variance"));
    let wrong = place.command("config show").env("NYSTREAM_MEMORY", "lots").output().unwrap();
    fails(&wrong, 2, &["NYSTREAM_MEMORY"]);
}

#[test]
fn completions_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = place.run(&format!("completions {shell}"));
        assert_eq!(code(&output), 0);
        for word in ["dictionary-rows", "cluster", "restarts"] {
            assert!(text(&output.stdout).contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_closed_pipe_is_success() {
    let place = Place::new();
    let mut child = place.command("completions zsh").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_a_failure() {
    let place = Place::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command("completions zsh").stdout(full).output().unwrap();
    fails(&output, 1, &["standard output"]);
}

#[test]
fn wrong_log_filters_are_usage_errors() {
    let place = Place::new();
    place.model("m.nys");
    let output = place.command("inspect m.nys").env("RUST_LOG", "=,=x").output().unwrap();
    fails(&output, 2, &["RUST_LOG"]);
    assert!(Path::new(&place.path("m.nys")).exists());
}
