//! Files that appear whole or not at all: [`nystream_datasets::atomic`], whose unfinished files [`crate::exit`] removes
//! when the process ends early.

pub use nystream_datasets::atomic::{AtomicFile, OutputError, write};
