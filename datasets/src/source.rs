//! Sources: what `--data` names, resolved to an ordered list of files with stable identities.
//!
//! A source is a file, a folder (searched recursively for `*.parquet` and `*.pq`), a glob, each on a disk or in an object store (`crate::store`), or
//! `synth:NAME?rows=..&d=..&seed=..`. Several may be given, files of one store or of the disk. Each has a base: the directory before the
//! first wildcard of a glob, the folder itself, the parent of a file. The *root* is the deepest common
//! ancestor of the bases, and a file's [`FileId`] hashes its path relative to the root, `/` between the
//! parts: moving the data or adding a file renumbers nothing, and a folder, the glob over it and the
//! list of its files give the same ids; so does the same tree in a bucket.
//!
//! Files are ordered by relative path, bytewise. Names that begin with `.` or `_` are not data when a
//! folder is searched (unfinished outputs, markers of other programs); naming one explicitly reads it. The
//! wildcards of a glob match a leading `_`, but no leading `.`.
//! Listing one file twice, also through a link, is an error.

use crate::store::{Address, Object, Scheme, expand as expand_address};
use crate::{DataError, synth::SynthSpec};
use nystream_hashing::FileId;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Where the rows of one file come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A Parquet file at this path.
    Parquet(PathBuf),
    /// A Parquet file in an object store.
    Object(Object),
    /// Rows made by row ordinal.
    Synth(SynthSpec),
}

/// One file of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceFile {
    /// Path relative to the root, or the canonical text of a synthetic source; what is hashed to [`FileId`].
    pub name: String,
    /// Identity of the file.
    pub id: FileId,
    /// Where its rows come from.
    pub origin: Origin,
}

impl SourceFile {
    /// The path to show in messages.
    pub fn path(&self) -> PathBuf {
        match &self.origin {
            Origin::Parquet(path) => path.clone(),
            Origin::Object(object) => object.address.shown(),
            Origin::Synth(_) => PathBuf::from(&self.name),
        }
    }
}

/// The ordered files of a data set.
///
/// ```
/// use nystream_datasets::Sources;
/// let sources = Sources::parse(&["synth:friedman1?rows=1000&seed=7"])?;
/// assert_eq!(sources.files[0].name, "synth:friedman1?rows=1000&d=10&seed=7&noise=1&categories=0&levels=8");
/// # Ok::<(), nystream_datasets::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    /// The files, by relative path, bytewise.
    pub files: Vec<SourceFile>,
    /// The common root the names are relative to (absolute, lexically normal, or an address); `None` for synthetic sources alone.
    pub root: Option<PathBuf>,
}

impl Sources {
    /// Resolves what the user wrote. Touches the file system, or asks a store, only to list names.
    ///
    /// ```
    /// use nystream_datasets::{DataError, Sources};
    /// let root = tempfile::tempdir().unwrap();
    /// std::fs::create_dir(root.path().join("2024")).unwrap();
    /// for name in ["b.parquet", "2024/a.parquet", "_unfinished.parquet"] {
    ///     std::fs::write(root.path().join(name), "").unwrap();
    /// }
    /// let folder = root.path().to_str().unwrap();
    /// let sources = Sources::parse(&[folder])?;
    /// let names: Vec<&str> = sources.files.iter().map(|file| file.name.as_str()).collect();
    /// assert_eq!(names, ["2024/a.parquet", "b.parquet"]);
    /// // A glob over the folder gives the same names, so the same identities. But `*` stands for what begins with `_`, too.
    /// let glob = Sources::parse(&[format!("{folder}/**/*.parquet")])?;
    /// assert_eq!((glob.files.len(), glob.files[2].id), (3, sources.files[1].id));
    /// assert!(matches!(Sources::parse(&["ftp://host/b.parquet"]), Err(DataError::UnsupportedScheme { .. })));
    /// # Ok::<(), DataError>(())
    /// ```
    ///
    /// # Errors
    /// When a source matches nothing, does not exist, is malformed, or a file is reached twice.
    pub fn parse<S: AsRef<str>>(specs: &[S]) -> Result<Sources, DataError> {
        Self::resolve(specs, false)
    }

    /// [`Sources::parse`] where folders and globs may be empty: other hosts have files.
    ///
    /// # Errors
    /// As there, but for a source that matches nothing.
    pub fn parse_any<S: AsRef<str>>(specs: &[S]) -> Result<Sources, DataError> {
        Self::resolve(specs, true)
    }

    fn resolve<S: AsRef<str>>(specs: &[S], empty: bool) -> Result<Sources, DataError> {
        let mut files = Vec::new();
        let mut found: Vec<PathBuf> = Vec::new();
        let mut root: Option<PathBuf> = None;
        let mut remote = Remote::default();
        // The first source that is no synthetic one, and where it is.
        let mut first: Option<(&str, Option<Scheme>)> = None;
        for spec in specs {
            let spec = spec.as_ref();
            if spec.starts_with("synth:") {
                let synth: SynthSpec = spec.parse()?;
                let name = synth.to_string();
                files.push(SourceFile { id: FileId::from_relative_path(&name), name, origin: Origin::Synth(synth) });
                continue;
            }
            let address = Address::parse(spec)?;
            let place = address.as_ref().map(|address| address.scheme);
            match first {
                Some((first, other)) if other != place => {
                    return Err(DataError::MixedPlaces { first: first.into(), second: spec.into() });
                }
                Some(_) => {}
                None => first = Some((spec, place)),
            }
            if let Some(address) = address {
                match remote.add(&address) {
                    Err(DataError::NoMatch { .. }) if empty => {}
                    added => added?,
                }
                continue;
            }
            let (base, paths) = match expand(spec) {
                Err(DataError::NoMatch { .. }) if empty => (base_of(spec), Vec::new()),
                found => found?,
            };
            let base = normal(&base)?;
            root = Some(match root {
                None => base,
                Some(root) => common_ancestor(&root, &base),
            });
            found.extend(paths);
        }
        if let Some(root) = &root {
            refuse_duplicates(&found)?;
            for path in found {
                let name = relative_name(root, &path)?;
                files.push(SourceFile { id: FileId::from_relative_path(&name), name, origin: Origin::Parquet(path) });
            }
        }
        if let Some(parts) = &remote.root {
            root = Some(PathBuf::from(remote.place(parts)));
        }
        files.extend(remote.files()?);
        files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        if let Some(pair) = files.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(DataError::DuplicateFile { first: pair[0].path(), second: pair[1].path() });
        }
        if files.is_empty() && !empty {
            return Err(DataError::NoSources);
        }
        Ok(Sources { files, root })
    }
}

/// Objects found so far, all of one scheme.
#[derive(Default)]
struct Remote {
    scheme: Option<Scheme>,
    /// Bucket and parts of the keys that all bases have in common.
    root: Option<Vec<String>>,
    objects: Vec<Object>,
}

impl Remote {
    fn add(&mut self, address: &Address) -> Result<(), DataError> {
        let (base, objects) = expand_address(address)?;
        self.scheme = Some(address.scheme);
        self.root = Some(match self.root.take() {
            None => base,
            Some(root) => root.into_iter().zip(base).take_while(|(x, y)| x == y).map(|(x, _)| x).collect(),
        });
        self.objects.extend(objects);
        Ok(())
    }

    fn place(&self, parts: &[String]) -> String {
        let scheme = self.scheme.map(|scheme| scheme.to_string()).unwrap_or_default();
        format!("{scheme}://{}", parts.join("/"))
    }

    fn files(mut self) -> Result<Vec<SourceFile>, DataError> {
        self.objects.sort_by(|a, b| a.address.cmp(&b.address));
        if let Some(pair) = self.objects.windows(2).find(|pair| pair[0].address == pair[1].address) {
            return Err(DataError::DuplicateFile { first: pair[0].address.shown(), second: pair[1].address.shown() });
        }
        let above = self.root.map_or(0, |root| root.len());
        let file = |object: Object| {
            let name = object.address.parts()[above..].join("/");
            SourceFile { id: FileId::from_relative_path(&name), name, origin: Origin::Object(object) }
        };
        Ok(self.objects.into_iter().map(file).collect())
    }
}

/// The base of one source and the files it names.
fn expand(spec: &str) -> Result<(PathBuf, Vec<PathBuf>), DataError> {
    let path = Path::new(spec);
    // A name that exists is taken literally, whatever characters it has.
    if path.is_dir() {
        let mut found = Vec::new();
        walk(path, &mut found)?;
        return if found.is_empty() {
            Err(DataError::NoMatch { spec: spec.into() })
        } else {
            Ok((path.to_path_buf(), found))
        };
    }
    if path.exists() {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Ok((parent.to_path_buf(), vec![path.to_path_buf()]));
    }
    if !spec.contains(['*', '?', '[']) {
        return Err(DataError::NotFound { path: path.to_path_buf() });
    }
    let base = base_of(spec);
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let matches = glob::glob_with(spec, options)
        .map_err(|e| DataError::BadPattern { spec: spec.into(), reason: e.to_string() })?;
    let mut found = Vec::new();
    for entry in matches {
        let path = entry.map_err(|e| {
            let path = e.path().to_path_buf();
            DataError::read(&path, e.into())
        })?;
        if path.is_dir() {
            walk(&path, &mut found)?;
        } else {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(DataError::NoMatch { spec: spec.into() });
    }
    // `**` may reach a file both as a match and inside a matched folder: once is what was meant.
    found.sort();
    found.dedup();
    Ok((base, found))
}

/// The base of a folder or a glob: what stands before the first wildcard.
fn base_of(spec: &str) -> PathBuf {
    let path = Path::new(spec);
    if path.is_dir() {
        return path.to_path_buf();
    }
    let base: PathBuf =
        path.components().take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '['])).collect();
    if base.as_os_str().is_empty() { PathBuf::from(".") } else { base }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let entries = std::fs::read_dir(folder).map_err(|e| DataError::read(folder, e))?;
    for entry in entries {
        let path = entry.map_err(|e| DataError::read(folder, e))?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            walk(&path, found)?;
        } else if name.ends_with(".parquet") || name.ends_with(".pq") {
            found.push(path);
        }
    }
    Ok(())
}

/// Absolute and without `.` and `..`, by text alone: names must not depend on this host's links.
fn normal(path: &Path) -> Result<PathBuf, DataError> {
    let absolute = std::path::absolute(path).map_err(|e| DataError::read(path, e))?;
    let mut out = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    Ok(out)
}

fn common_ancestor(a: &Path, b: &Path) -> PathBuf {
    a.components().zip(b.components()).take_while(|(x, y)| x == y).map(|(x, _)| x).collect()
}

fn relative_name(root: &Path, path: &Path) -> Result<String, DataError> {
    let full = normal(path)?;
    let relative = full.strip_prefix(root).unwrap_or(&full);
    let mut parts = Vec::new();
    for part in relative.components() {
        let part = part.as_os_str().to_str().ok_or_else(|| DataError::PathNotUtf8 { path: path.to_path_buf() })?;
        parts.push(part);
    }
    Ok(parts.join("/"))
}

fn refuse_duplicates(paths: &[PathBuf]) -> Result<(), DataError> {
    let mut seen: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    for path in paths {
        let real = std::fs::canonicalize(path).map_err(|e| DataError::read(path, e))?;
        if let Some(first) = seen.insert(real, path) {
            return Err(DataError::DuplicateFile { first: first.to_path_buf(), second: path.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
    }

    fn names(sources: &Sources) -> Vec<&str> {
        sources.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn folder_glob_and_list_agree() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["b.parquet", "a.parquet", "Z.parquet"]);
        let text = dir.path().to_str().unwrap();
        let folder = Sources::parse(&[text]).unwrap();
        let glob = Sources::parse(&[format!("{text}/*.parquet")]).unwrap();
        let list: Vec<String> =
            ["b", "Z", "a"].iter().map(|name| format!("{text}/../{}/{name}.parquet", name_of(dir.path()))).collect();
        let list = Sources::parse(&list).unwrap();
        assert_eq!(names(&folder), ["Z.parquet", "a.parquet", "b.parquet"]);
        for other in [&glob, &list] {
            let ids: Vec<FileId> = other.files.iter().map(|file| file.id).collect();
            assert_eq!(ids, folder.files.iter().map(|file| file.id).collect::<Vec<_>>());
        }
    }

    fn name_of(path: &Path) -> String {
        path.file_name().unwrap().to_str().unwrap().to_string()
    }

    #[test]
    fn recursion_hidden_names_and_wildcards() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["y=1/a.parquet", "y=2/b.pq", ".tmp.parquet", "_temporary/c.parquet", "note.txt"]);
        let text = dir.path().to_str().unwrap();
        assert_eq!(names(&Sources::parse(&[text]).unwrap()), ["y=1/a.parquet", "y=2/b.pq"]);
        assert_eq!(
            names(&Sources::parse(&[format!("{text}/**/*.parquet")]).unwrap()),
            ["_temporary/c.parquet", "y=1/a.parquet"]
        );
        assert_eq!(names(&Sources::parse(&[format!("{text}/y=?")]).unwrap()), ["y=1/a.parquet", "y=2/b.pq"]);
    }

    #[test]
    fn list_over_folders_is_named_from_the_common_parent() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["train/a.parquet", "test/a.parquet"]);
        let text = dir.path().to_str().unwrap();
        let list = Sources::parse(&[format!("{text}/train/a.parquet"), format!("{text}/test")]).unwrap();
        assert_eq!(names(&list), ["test/a.parquet", "train/a.parquet"]);
        assert_eq!(list.root.as_deref(), Some(normal(dir.path()).unwrap().as_path()));
    }

    #[test]
    fn refusals_name_the_source() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["a.parquet"]);
        let text = dir.path().to_str().unwrap();
        let twice = Sources::parse(&[format!("{text}/a.parquet"), format!("{text}/*.parquet")]);
        assert!(matches!(twice, Err(DataError::DuplicateFile { .. })));
        assert!(matches!(Sources::parse(&[format!("{text}/*.csv")]), Err(DataError::NoMatch { .. })));
        assert!(matches!(Sources::parse(&[format!("{text}/b.parquet")]), Err(DataError::NotFound { .. })));
        assert!(matches!(Sources::parse(&["ftp://host/x"]), Err(DataError::UnsupportedScheme { .. })));
        assert!(matches!(Sources::parse(&[format!("{text}/[a.parquet")]), Err(DataError::BadPattern { .. })));
        assert!(matches!(Sources::parse::<&str>(&[]), Err(DataError::NoSources)));
        let synth = "synth:sines?rows=10";
        assert!(matches!(Sources::parse(&[synth, synth]), Err(DataError::DuplicateFile { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_listed_file_is_a_duplicate() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["a.parquet"]);
        std::os::unix::fs::symlink(dir.path().join("a.parquet"), dir.path().join("b.parquet")).unwrap();
        assert!(matches!(Sources::parse(&[dir.path().to_str().unwrap()]), Err(DataError::DuplicateFile { .. })));
    }
}
