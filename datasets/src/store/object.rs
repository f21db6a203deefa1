//! One object: which version of it is read, and its ranges.

use super::address::Address;
use super::client::{Client, client, persist};
use super::trouble::Trouble;
use bytes::Bytes;
use object_store::{GetOptions, GetRange, ObjectMeta};
use std::ops::Range;
use std::sync::Arc;

/// Bytes at the end of an object that are fetched with the first request: most footers, and small files whole.
pub(crate) const TAIL_BYTES: u64 = 64 << 10;

/// An object as it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it is.
    pub address: Address,
    /// Bytes.
    pub size: u64,
}

/// What tells one version of an object from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Bytes.
    pub size: u64,
    /// As the store gives it.
    pub etag: Option<String>,
    /// Seconds and nanoseconds; it only counts where there is no ETag.
    modified: (i64, u32),
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        let modified = (meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos());
        Version { size: meta.size, etag: meta.e_tag.clone(), modified }
    }

    fn same(&self, other: &Version) -> bool {
        let tags = match (&self.etag, &other.etag) {
            (Some(a), Some(b)) => a == b,
            _ => self.modified == other.modified,
        };
        tags && self.size == other.size
    }

    /// What the fingerprint of a data set holds of it.
    pub fn tag(&self) -> String {
        match &self.etag {
            Some(tag) => tag.clone(),
            None => format!("{}.{}", self.modified.0, self.modified.1),
        }
    }

    /// A condition that servers compare for us. Weak tags never match one, they are compared here alone.
    fn condition(&self) -> Option<String> {
        self.etag.clone().filter(|tag| !tag.starts_with("W/"))
    }
}

/// Bytes `range` of the object at `address`, which must be of the `expected` version, and the version that they are of.
///
/// # Errors
/// [`Trouble::Changed`] for another version; what did not pass in time.
pub(crate) async fn read(
    address: Address,
    range: Range<u64>,
    expected: Option<Version>,
) -> Result<(Bytes, Version), Trouble> {
    let client = client(&address)?;
    persist(&client, &address, || once(&client, &address, range.clone(), expected.as_ref())).await
}

async fn once(
    client: &Client,
    address: &Address,
    range: Range<u64>,
    expected: Option<&Version>,
) -> Result<(Bytes, Version), Trouble> {
    let path = address.path().map_err(|_| Trouble::Missing)?;
    let options = GetOptions {
        range: Some(GetRange::Bounded(range.clone())),
        if_match: expected.and_then(Version::condition),
        ..GetOptions::default()
    };
    let wrong = |error: object_store::Error| Trouble::of(&error, address);
    let answer = match client.store.get_opts(&path, options).await {
        // What was there when the footer was read.
        Err(error) => match Trouble::of(&error, address) {
            Trouble::Missing if expected.is_some() => return Err(Trouble::Changed),
            trouble => return Err(trouble),
        },
        Ok(answer) => answer,
    };
    let version = Version::of(&answer.meta);
    if expected.is_some_and(|expected| !expected.same(&version)) {
        return Err(Trouble::Changed);
    }
    let bytes = answer.bytes().await.map_err(wrong)?;
    match bytes.len() as u64 == range.end - range.start {
        true => Ok((bytes, version)),
        false => Err(Trouble::passing(format!("{} of {} bytes came", bytes.len(), range.end - range.start))),
    }
}

/// The size of the object at `address`.
pub(super) async fn size(client: &Arc<Client>, address: &Address) -> Result<u64, Trouble> {
    use object_store::ObjectStoreExt;
    let path = address.path().map_err(|_| Trouble::Missing)?;
    persist(client, address, || async {
        client.store.head(&path).await.map(|meta| meta.size).map_err(|error| Trouble::of(&error, address))
    })
    .await
}
