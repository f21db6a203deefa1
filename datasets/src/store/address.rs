//! Where an object is.
//!
//! `s3://BUCKET/KEY`, `gs://BUCKET/KEY` and `az://CONTAINER/KEY` take keys as they are: nothing in them is decoded, and `*`, `?` and `[` are wildcards where no
//! object has that very name. `http(s)://HOST/PATH` is an address of the web, whose path is decoded, so that its names are those of
//! the files. It has no query and no password: either would be a secret on the command line, in reports and in messages.

use crate::DataError;
use object_store::path::Path;
use std::fmt;
use std::path::PathBuf;

/// The kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// Files of a web server, in the clear.
    Http,
    /// Files of a web server.
    Https,
}

impl Scheme {
    const ALL: [(Scheme, &'static str); 5] =
        [(Scheme::S3, "s3"), (Scheme::Gs, "gs"), (Scheme::Az, "az"), (Scheme::Http, "http"), (Scheme::Https, "https")];

    /// Whether names can be listed.
    pub fn lists(self) -> bool {
        !matches!(self, Scheme::Http | Scheme::Https)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Scheme::ALL.iter().find(|(scheme, _)| scheme == self).map_or("", |(_, name)| name))
    }
}

/// An object, or a prefix of the names of objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The kind of store.
    pub scheme: Scheme,
    /// Bucket, container, or host and port.
    pub authority: String,
    /// The rest, without a slash in front.
    pub key: String,
}

impl Address {
    /// The address in `spec`; `None` when it is none, but a path or a synthetic source.
    ///
    /// ```
    /// use nystream_datasets::{Address, DataError};
    /// let address = Address::parse("s3://bucket/year=2024/a b.parquet")?.unwrap();
    /// assert_eq!((address.authority.as_str(), address.key.as_str()), ("bucket", "year=2024/a b.parquet"));
    /// assert_eq!(Address::parse("http://host:8080/a%20b.parquet")?.unwrap().key, "a b.parquet");
    /// assert_eq!(Address::parse("folder/a.parquet")?, None);
    /// assert!(matches!(Address::parse("ftp://host/a.parquet"), Err(DataError::UnsupportedScheme { .. })));
    /// assert!(matches!(Address::parse("s3:///a.parquet"), Err(DataError::BadAddress { .. })));
    /// # Ok::<(), DataError>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::UnsupportedScheme`] for another scheme, [`DataError::BadAddress`] for what no store has. Neither shows what may be a secret.
    pub fn parse(spec: &str) -> Result<Option<Address>, DataError> {
        let Some((prefix, rest)) = spec.split_once("://") else { return Ok(None) };
        let known = Scheme::ALL.iter().find(|(_, name)| prefix.eq_ignore_ascii_case(name));
        let Some((scheme, _)) = known.copied() else {
            return Err(DataError::UnsupportedScheme { spec: open_part(spec).into() });
        };
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        let refuse = |reason: &str| DataError::BadAddress { spec: open_part(spec).into(), reason: reason.into() };
        if authority.contains('@') {
            return Err(refuse(
                "it holds an account or a password, which does not belong on a command line: give it by the environment",
            ));
        }
        if authority.is_empty() {
            return Err(refuse(match scheme.lists() {
                true => "it names no bucket",
                false => "it names no host",
            }));
        }
        if authority.contains(['*', '?', '[', '#']) {
            return Err(refuse("a bucket or host is named in full, without wildcards"));
        }
        let address = |key: String| Ok(Some(Address { scheme, authority: authority.into(), key }));
        if scheme.lists() {
            // A slash at the end asks for the folder.
            let path = key.strip_suffix('/').unwrap_or(key);
            Path::parse(path).map_err(|_| refuse(PARTS))?;
            if path.starts_with('/') {
                return Err(refuse(PARTS));
            }
            return address(key.into());
        }
        if key.contains(['?', '#']) {
            return Err(refuse(
                "addresses with a query (what follows '?') cannot be read: it may hold a secret; copy the file, or read it from its bucket",
            ));
        }
        let path = Path::from_url_path(key).map_err(|_| refuse(PARTS))?;
        match path.as_ref().is_empty() || key.ends_with('/') {
            true => Err(refuse("it names no file, and web servers cannot be listed: name each file")),
            false => address(path.as_ref().into()),
        }
    }

    /// The address of `key` in the same store.
    pub fn sibling(&self, key: &str) -> Address {
        Address { key: key.into(), ..self.clone() }
    }

    /// Bucket or host, then the parts of the key.
    pub fn parts(&self) -> Vec<String> {
        let key = self.key.split('/').filter(|part| !part.is_empty());
        std::iter::once(self.authority.as_str()).chain(key).map(str::to_owned).collect()
    }

    /// What messages and [`crate::CatalogFile::path`] show.
    pub fn shown(&self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    /// The key as `object_store` takes it.
    pub(super) fn path(&self) -> Result<Path, DataError> {
        Path::parse(&self.key).map_err(|_| DataError::BadAddress { spec: self.to_string(), reason: PARTS.into() })
    }
}

const PARTS: &str = "a name with an empty part, '.', '..' or a control character cannot be read: rename the object";

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme, self.authority, self.key)
    }
}

/// The part of `spec` that is no secret: without what stands before an `@`, and after a `?` or `#` of addresses of the web.
fn open_part(spec: &str) -> &str {
    let Some((prefix, rest)) = spec.split_once("://") else { return spec };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return prefix;
    }
    match prefix.to_ascii_lowercase().as_str() {
        "s3" | "gs" | "az" => spec,
        _ => spec.split(['?', '#']).next().unwrap_or(spec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &str) -> String {
        Address::parse(spec).unwrap_err().to_string()
    }

    #[test]
    fn keys_are_taken_as_they_are_and_paths_of_the_web_decoded() {
        let key = |spec: &str| Address::parse(spec).unwrap().unwrap().key;
        assert_eq!(key("s3://b/a%20b?.parquet"), "a%20b?.parquet");
        assert_eq!(key("S3://b/dir/"), "dir/");
        assert_eq!(key("gs://b"), "");
        assert_eq!(key("https://h/%C3%A4%25/a.parquet"), "\u{e4}%/a.parquet");
        assert_eq!(Address::parse("az://c/d/e").unwrap().unwrap().parts(), ["c", "d", "e"]);
    }

    #[test]
    fn what_no_store_has_is_refused_without_its_secrets() {
        assert!(refused("s3://").contains("no bucket"));
        assert!(refused("s3://b*/x").contains("without wildcards"));
        assert!(refused("s3://b/a//c").contains("empty part"));
        assert!(refused("s3://b/../c").contains("'..'"));
        assert!(refused("http://h/folder/").contains("cannot be listed"));
        for secret in ["https://h/a.parquet?sig=hunter2", "https://me:hunter2@h/a.parquet", "ftp://me:hunter2@h/a"] {
            let message = refused(secret);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
