//! The objects that a source names: one, those under a prefix, or those that match a glob.
//!
//! The rules are those of files (`crate::source`): a name that exists is taken literally; folders are searched for `*.parquet` and `*.pq`, leaving out what
//! begins with `.` or `_`; a glob may match folders too, which are then searched.

use super::address::Address;
use super::client::{Client, block_on, client, persist};
use super::object::{Object, size};
use super::trouble::Trouble;
use crate::DataError;
use futures_util::TryStreamExt;
use glob::{MatchOptions, Pattern};
use std::sync::Arc;

const WILDCARDS: [char; 3] = ['*', '?', '['];
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The parts of the base of `address`, bucket first, and the objects it names.
///
/// # Errors
/// An address without objects, or a store that does not answer.
pub(crate) fn expand(address: &Address) -> Result<(Vec<String>, Vec<Object>), DataError> {
    let about = |trouble: Trouble| trouble.about(address);
    let client = client(address).map_err(about)?;
    let literal = !address.key.is_empty() && !address.key.ends_with('/');
    // What is not named as a file is a folder first: some stores answer for a folder as for an object, one that nobody can read.
    let folder = address.scheme.lists() && !is_parquet(&address.key) && !address.key.contains(WILDCARDS);
    if literal && folder {
        let mut found = list(&client, address).map_err(about)?;
        found.retain(|object| searched(&object.address.key[address.key.len()..]));
        if !found.is_empty() {
            return Ok((address.parts(), found));
        }
    }
    if literal {
        match block_on(size(&client, address)) {
            Ok(size) => {
                let mut base = address.parts();
                base.pop();
                return Ok((base, vec![Object { address: address.clone(), size }]));
            }
            Err(Trouble::Missing) if address.scheme.lists() => {}
            Err(trouble) => return Err(about(trouble)),
        }
    }
    let parts = address.parts();
    let wild = parts.iter().position(|part| part.contains(WILDCARDS));
    let base = parts[..wild.unwrap_or(parts.len())].to_vec();
    let prefix = base[1..].join("/");
    let mut found = list(&client, &address.sibling(&prefix)).map_err(about)?;
    match wild {
        None => found.retain(|object| searched(&object.address.key[prefix.len()..])),
        Some(wild) => {
            let pattern = parts[wild..].join("/");
            let pattern = Pattern::new(&pattern)
                .map_err(|e| DataError::BadPattern { spec: address.to_string(), reason: e.to_string() })?;
            found.retain(|object| matches(&pattern, object.address.key[prefix.len()..].trim_start_matches('/')));
        }
    }
    match (found.is_empty(), wild.is_none() && !address.key.is_empty() && !address.key.ends_with('/')) {
        (false, _) => Ok((base, found)),
        (true, true) => Err(DataError::NotFound { path: address.shown() }),
        (true, false) => Err(DataError::NoMatch { spec: address.to_string() }),
    }
}

/// Whether a search of a folder finds `path`, relative to it.
fn searched(path: &str) -> bool {
    let hidden = path.split('/').any(|part| part.starts_with(['.', '_']));
    !hidden && is_parquet(path)
}

/// Whether a name is that of a Parquet file.
fn is_parquet(name: &str) -> bool {
    name.ends_with(".parquet") || name.ends_with(".pq")
}

/// Whether `pattern` matches `path` or a folder in which a search finds it.
fn matches(pattern: &Pattern, path: &str) -> bool {
    let folders = path.match_indices('/').map(|(at, _)| at);
    pattern.matches_with(path, MATCHING)
        || folders.into_iter().any(|at| pattern.matches_with(&path[..at], MATCHING) && searched(&path[at + 1..]))
}

fn list(client: &Arc<Client>, folder: &Address) -> Result<Vec<Object>, Trouble> {
    let prefix = folder.path().map_err(|_| Trouble::Missing)?;
    let listed = block_on(persist(client, folder, || async {
        let all = client.store.list((!folder.key.is_empty()).then_some(&prefix));
        all.try_collect::<Vec<_>>().await.map_err(|error| Trouble::of(&error, folder))
    }))?;
    let mut objects: Vec<Object> = listed
        .into_iter()
        // Some stores list by the text of the prefix: `ab/c` under `a`.
        .filter(|meta| {
            let rest = meta.location.as_ref().strip_prefix(folder.key.as_str());
            rest.is_some_and(|rest| folder.key.is_empty() || rest.starts_with('/'))
        })
        .map(|meta| Object { address: folder.sibling(meta.location.as_ref()), size: meta.size })
        .collect();
    objects.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_globs_follow_the_rules_of_files() {
        for (path, found) in
            [("a.parquet", true), ("x/b.pq", true), ("_a.parquet", false), ("x/.t/a.parquet", false), ("a.csv", false)]
        {
            assert_eq!(searched(path), found, "{path}");
        }
        let cases = [
            ("*.parquet", "a.parquet", true),
            ("*.parquet", "x/a.parquet", false),
            ("**/*.parquet", "x/y/a.parquet", true),
            ("**/*.parquet", "a.parquet", true),
            ("*.parquet", "_a.parquet", true),
            ("*.parquet", ".a.parquet", false),
            // A folder that matches is searched.
            ("y=?", "y=1/a.parquet", true),
            ("y=?", "y=1/a.csv", false),
            ("y=?", "y=1/_a.parquet", false),
            ("a*", "a.csv", true),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(matches(&Pattern::new(pattern).unwrap(), path), expected, "{pattern} {path}");
        }
    }
}
