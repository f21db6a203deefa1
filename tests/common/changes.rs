//! Streams of changes of keyed rows, and what they leave.

use super::{batch, numbers, texts, uniform};
use arrow_array::RecordBatch;
use std::collections::BTreeMap;

/// Columns a, b, c and y of a version of a key.
pub fn values(key: usize, version: usize) -> (f64, f64, String, f64) {
    let at = 1000 * key + version;
    let (a, b, c) = (uniform("a", at), uniform("b", at), uniform("c", at));
    (a, b, format!("level {}", (c * 5.0) as u32), (6.0 * a).sin() + b + 0.1 * uniform("noise", at))
}

/// Versions of keys as a table.
pub fn rows(list: &[(usize, usize)]) -> RecordBatch {
    let all: Vec<_> = list.iter().map(|(key, version)| values(*key, *version)).collect();
    batch(vec![
        ("a", numbers(all.iter().map(|row| row.0))),
        ("b", numbers(all.iter().map(|row| row.1))),
        ("c", texts(all.iter().map(|row| row.2.clone()))),
        ("y", numbers(all.iter().map(|row| row.3))),
        ("key", texts(list.iter().map(|(key, _)| format!("k{key}")))),
    ])
}

/// What is in `held`, as `rows` takes it; not in the order of keys.
pub fn left(held: &BTreeMap<usize, usize>) -> Vec<(usize, usize)> {
    held.iter().rev().map(|(key, version)| (*key, *version)).collect()
}

/// Events `from` and on, and what is left of them in `held`; `brings`: the rest of the event that brings a version of a key.
pub fn changes(
    from: usize,
    count: usize,
    keys: usize,
    held: &mut BTreeMap<usize, usize>,
    brings: impl Fn(usize, usize) -> String,
) -> String {
    let mut lines = String::new();
    for event in from..from + count {
        let key = (uniform("key", event) * keys as f64) as usize;
        let line = match held.get(&key).copied() {
            Some(_) if uniform("op", event) < 0.4 => {
                held.remove(&key);
                format!(r#"{{"op": "delete", "key": "k{key}"}}"#)
            }
            before => {
                let (op, version) = if before.is_some() { ("update", event) } else { ("insert", event) };
                held.insert(key, version);
                format!(r#"{{"op": "{op}", "key": "k{key}", {}}}"#, brings(key, version))
            }
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    lines
}

/// [`changes`] of the columns of [`rows`].
pub fn stream(from: usize, count: usize, keys: usize, held: &mut BTreeMap<usize, usize>) -> String {
    changes(from, count, keys, held, |key, version| {
        let (a, b, c, y) = values(key, version);
        format!(r#""row": {{"a": {a:?}, "b": {b:?}, "c": "{c}", "y": {y:?}}}"#)
    })
}
