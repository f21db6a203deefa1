//! Where settings come from: flag over `NYSTREAM_*` over `nystream.toml` over default.
//!
//! Variables and files become defaults of the parser, so every layer is read by the same value parsers and gives the
//! same errors; each value is tried on its own first, so that an error names its variable or its file and key.
//!
//! * Variable: `--max-bad-rows` is `NYSTREAM_MAX_BAD_ROWS`; empty counts as unset; repeatable options are separated
//!   by commas; switches take true/false, yes/no, on/off, 1/0.
//! * File: `nystream.toml` in the current folder, or `--config-file`; `--no-config` reads none. Keys are flag names,
//!   with `-` or `_`; a key under `[fit]` goes before the same key at the top. Keys that no command knows are errors.
//!   Relative paths are relative to the current folder.
//! * A switch that a layer below turned on stays on: flags can only turn on.

mod file;
mod layers;

pub use layers::{Environment, Origin, SECRET, Setting, parse, settings, unknown_variables};

use crate::exit::Failure;

/// Why a command line did not become a command.
#[derive(Debug)]
pub enum Refusal {
    /// clap's own answer: usage errors, and also `--help` and `--version`.
    Clap(clap::Error),
    /// A setting of another layer.
    Failure(Failure),
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Self {
        Refusal::Clap(error)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal::Failure(failure)
    }
}
