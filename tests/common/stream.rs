//! Streams of events, and runs of `nystream online` on them.

use super::{Place, batch, finish, numbers, text, texts, uniform, write};
use serde_json::{Value, json};
use std::process::{Child, Output};

/// What row `i` of the stream holds: numbers a and b, a level c.
pub fn row(i: usize) -> Value {
    json!({ "a": uniform("a", i), "b": uniform("b", i), "c": format!("level {}", (uniform("c", i) * 5.0) as u32) })
}

/// Its target: a function of the row and some noise.
pub fn target(i: usize) -> f64 {
    (6.0 * uniform("a", i)).sin() + uniform("b", i) + (uniform("c", i) * 5.0).floor() / 5.0 + 0.1 * uniform("noise", i)
}

/// The row with its target.
pub fn labelled(i: usize) -> Value {
    let mut row = row(i);
    row["y"] = target(i).into();
    row
}

/// Rows `list` as the file `left.parquet`, as `labelled` has them.
pub fn left(place: &Place, list: &[usize]) {
    let level = |i: &usize| row(*i)["c"].as_str().unwrap().to_owned();
    write(
        &place.path("left.parquet"),
        &batch(vec![
            ("a", numbers(list.iter().map(|i| uniform("a", *i)))),
            ("b", numbers(list.iter().map(|i| uniform("b", *i)))),
            ("c", texts(list.iter().map(level))),
            ("y", numbers(list.iter().map(|i| target(*i)))),
            ("key", texts(list.iter().map(|i| format!("k{i}")))),
        ]),
    );
}

/// An insert of row `i`.
pub fn insert(i: usize) -> String {
    json!({ "key": format!("k{i}"), "row": labelled(i) }).to_string()
}

/// A stream in which every seventh row comes without its label, which follows eleven rows later; some rows without one are corrected or taken back.
pub fn mixed(rows: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for i in 0..rows {
        if i % 7 == 3 {
            lines.push(json!({ "op": "insert", "key": format!("k{i}"), "row": row(i) }).to_string());
        } else {
            lines.push(insert(i));
        }
        if i % 7 == 0 && i >= 11 && (i - 11) % 7 == 3 {
            let late = i - 11;
            lines.push(match late % 5 {
                0 => json!({ "op": "delete", "key": format!("k{late}") }).to_string(),
                1 => json!({ "op": "update", "key": format!("k{late}"), "row": labelled(late + 1) }).to_string(),
                _ => json!({ "op": "label", "key": format!("k{late}"), "row": { "y": target(late) } }).to_string(),
            });
        }
        if i % 97 == 50 {
            lines.push(format!("{{\"key\": \"bad{i}\", \"row\": {{\"a\": \"much\", \"y\": 1}}}}"));
        }
    }
    lines
}

impl Place {
    /// A model of the table's first rows, whose configuration streams take.
    pub fn model(&self, name: &str) {
        super::write(&self.path("train.parquet"), &super::batch(super::table(1_000_000, 2000)));
        let line = format!(
            "fit --data train.parquet --target y --out {name} --kernel gaussian --bandwidth 1x --ridge 1e-4 --centers 100 --split none"
        );
        self.json(&line);
    }

    /// Writes lines to a file.
    pub fn lines(&self, name: &str, lines: &[String]) {
        std::fs::write(self.path(name), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    /// The lines of a file as JSON.
    pub fn read_lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {line}: {e}"))).collect()
    }

    /// Runs `online` with `line`; the summary.
    pub fn online(&self, line: &str) -> Value {
        let line = format!("online {line} --format json");
        summary(&self.run(&line), &line)
    }

    /// Starts `online` with `line`.
    pub fn start_online(&self, line: &str) -> Child {
        self.command(&format!("online {line} --format json")).spawn().unwrap()
    }
}

/// The summary of a run, which must have succeeded: the last line of its standard output.
pub fn summary(output: &Output, line: &str) -> Value {
    assert_eq!(output.status.code(), Some(0), "{line}\n{}", text(&output.stderr));
    let out = text(&output.stdout);
    // One document, or lines of which the summary is the last.
    serde_json::from_str(&out).unwrap_or_else(|_| {
        let last = out.lines().last().unwrap_or_else(|| panic!("{line}: nothing on standard output"));
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{line}: {e}: {last}"))
    })
}

/// Ends a process that this test has started, at once.
pub fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Asks a process to end.
#[cfg(unix)]
pub fn interrupt(child: Child, line: &str) -> Output {
    let id = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    finish(child, line)
}
