//! Kernel machines on data that does not fit in memory, on one machine or many, from Parquet to predictions.
//!
//! This package is the command line and what surrounds it; the mathematics is in `nystream-kernels`, files and
//! encoding in `nystream-datasets`, the dataflow stages in `nystream-dataflows`, processes in `nystream-cluster`.
//!
//! * [`cli`]: what the commands take; [`config`]: flag over variable over file over default;
//! * [`commands`]: what the commands do;
//! * [`model`]: the model file; [`report`]: what commands say;
//! * [`exit`]: exit codes, failures, panics, interrupts; [`atomic`]: outputs that appear whole or not at all;
//! * [`joining`]: what other processes are told of an early end; [`metrics`]: figures of a running process;
//! * [`serve`]: predictions over HTTP while learning;
//! * [`progress`], [`logging`], [`output`], [`resources`]: stderr, stdout, usage.

pub mod allocator;
pub mod atomic;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod exit;
pub mod fitted;
pub mod jobs;
pub mod joining;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod output;
pub mod overwrite;
pub mod progress;
pub mod repeat;
pub mod report;
pub mod resources;
pub mod serve;
pub mod watcher;
