//! Object stores: `s3://`, `gs://`, `az://` and `http(s)://` sources.
//!
//! The problem: files are read by position, with small reads (a page header, a page); a store answers a request in milliseconds, and may answer that it
//! is busy, stop in the middle of a body, or serve another object than before. So
//!
//! * an [`Address`] says where an object is, and [`expand`] lists folders and globs, with the names that the same tree has on a disk;
//! * [`object`] reads ranges, again with growing pauses while a failure may pass, for [`patience`] at most;
//! * the [`Version`] of an object (ETag, size) is noted when its footer is read. Every later answer must be of that version: what changed is
//!   refused, never mixed;
//! * [`ahead`] fetches the column chunks of a scan in large ranges, the next while the current is decoded.
//!
//! `object_store` is asynchronous, this crate is not: one runtime of two threads belongs to the process ([`client`]), starts with the first store and
//! stays inside this folder. Requests run there; readers wait on channels. Two threads decrypt more than a network brings, and are none of the workers'.
//!
//! Credentials and endpoints are those of the usual environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`). Messages are made here, of statuses and codes: what
//! stores answer, and addresses as they were requested, may hold secrets and are never shown.

mod address;
pub(crate) mod ahead;
mod client;
mod listing;
mod object;
mod trouble;

pub use address::{Address, Scheme};
pub use client::{patience, set_patience};
pub(crate) use listing::expand;
pub use object::Object;
pub(crate) use object::{TAIL_BYTES, Version, read};
pub(crate) use trouble::Trouble;

pub(crate) use client::block_on as wait;
