//! `nystream.toml`.

use crate::exit::Failure;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The name looked for in the current folder.
pub const FILE_NAME: &str = "nystream.toml";

/// A settings file, read.
#[derive(Debug)]
pub struct SettingsFile {
    /// Where it is.
    pub path: PathBuf,
    table: Table,
}

impl SettingsFile {
    /// Reads `explicit`, or `nystream.toml` in `folder` where there is one.
    pub fn find(explicit: Option<&Path>, folder: &Path) -> Result<Option<Self>, Failure> {
        let path = match explicit {
            Some(path) => path.to_path_buf(),
            None => {
                let path = folder.join(FILE_NAME);
                if !path.is_file() {
                    return Ok(None);
                }
                path
            }
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Failure::usage(format!("cannot read the settings file {}: {e}", path.display())))?;
        let table = text
            .parse::<Table>()
            .map_err(|e| Failure::usage(format!("the settings file {} is not TOML: {e}", path.display())))?;
        Ok(Some(SettingsFile { path, table }))
    }

    /// The value of a flag for a command: its key in the command's table, else at the top.
    pub fn value(&self, command: &str, flag: &str) -> Result<Option<(String, Vec<String>)>, Failure> {
        let inner = self.table.get(command).and_then(Value::as_table);
        let places = [(inner, format!("{command}.")), (Some(&self.table), String::new())];
        for (table, prefix) in places {
            let Some(table) = table else { continue };
            let spellings = [flag.to_string(), flag.replace('-', "_")];
            let mut found = spellings.iter().filter_map(|key| table.get_key_value(key.as_str()));
            let Some((key, value)) = found.next() else { continue };
            let key = format!("{prefix}{key}");
            if flag.contains('-') && found.next().is_some() {
                return Err(self.wrong(&key, "is given with `-` and with `_`"));
            }
            return match texts(value) {
                Some(values) => Ok(Some((key, values))),
                None => Err(self.wrong(&key, "must be text, a number, true or false, or a list of those")),
            };
        }
        Ok(None)
    }

    /// Refuses keys that nothing reads. `known` says whether a command (none: any) has a flag.
    pub fn check_keys(&self, commands: &[String], flags: &dyn Fn(Option<&str>) -> Vec<String>) -> Result<(), Failure> {
        for (key, value) in &self.table {
            if commands.contains(key) {
                let Some(table) = value.as_table() else {
                    return Err(self.wrong(key, "is a command: its settings go under [..] of that name"));
                };
                let known = flags(Some(key));
                for inner in table.keys() {
                    self.check_key(&format!("{key}.{inner}"), inner, &known)?;
                }
            } else {
                let mut known = flags(None);
                known.extend(commands.iter().cloned());
                self.check_key(key, key, &known)?;
            }
        }
        Ok(())
    }

    fn check_key(&self, shown: &str, key: &str, known: &[String]) -> Result<(), Failure> {
        let flag = key.replace('_', "-");
        if known.contains(&flag) {
            return Ok(());
        }
        let nearest = known.iter().min_by_key(|k| (distance(k, &flag), k.as_str().to_string()));
        let hint = match nearest {
            Some(nearest) if distance(nearest, &flag) <= 3 => format!("is not a setting; did you mean `{nearest}`?"),
            _ => "is not a setting; `nystream config show` lists them".to_string(),
        };
        Err(self.wrong(shown, &hint))
    }

    fn wrong(&self, key: &str, what: &str) -> Failure {
        Failure::usage(format!("{}: `{key}` {what}", self.path.display()))
    }
}

/// A TOML value as the texts of a flag.
fn texts(value: &Value) -> Option<Vec<String>> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    };
    match value {
        Value::Array(items) => items.iter().map(scalar).collect(),
        other => scalar(other).map(|text| vec![text]),
    }
}

/// Levenshtein distance in characters.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance() {
        for (a, b, d) in
            [("", "", 0), ("memory", "memory", 0), ("memroy", "memory", 2), ("abc", "", 3), ("ab", "xab", 1)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }
}
