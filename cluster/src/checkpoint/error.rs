//! Why a folder cannot be used for checkpoints.

use super::format::FORMAT;
use thiserror::Error;

/// Why a folder cannot be used for checkpoints. Messages name the folder and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It cannot be made, read or written.
    #[error(
        "cannot keep checkpoints in {folder}: {reason}: name a folder with room that this user can write by --checkpoint"
    )]
    Unusable {
        /// The folder.
        folder: String,
        /// What the system says.
        reason: String,
    },
    /// Another job has it.
    #[error("the checkpoint folder {folder} is in use by {holder}: give each job a folder of its own")]
    Locked {
        /// The folder.
        folder: String,
        /// Who holds it.
        holder: String,
    },
    /// It holds the checkpoint of another job.
    #[error(
        "the checkpoint in {folder} is of another job: its digest is {found}, this job's {own}; {differences} differ. Give the options it was begun with, \
         or another folder, or empty this one to begin anew"
    )]
    OtherJob {
        /// The folder.
        folder: String,
        /// Digest of the job in the folder.
        found: String,
        /// Digest of this job.
        own: String,
        /// What differs.
        differences: String,
    },
    /// It holds the checkpoint of another version.
    #[error(
        "the checkpoint in {folder} was written by nystream {found}, and this is {own}: resume with that version, or empty the folder"
    )]
    OtherVersion {
        /// The folder.
        folder: String,
        /// Version that wrote it.
        found: String,
        /// This version.
        own: String,
    },
    /// It is of another version of the format.
    #[error(
        "the checkpoint in {folder} has version {found} of the format, and this nystream reads {FORMAT}: resume with the version that wrote it, or empty the folder"
    )]
    OtherFormat {
        /// The folder.
        folder: String,
        /// Its version.
        found: u32,
    },
    /// It holds a checkpoint of this job, and nobody asked for it.
    #[error("{folder} holds a checkpoint of this job: --resume goes on from it, emptying the folder begins anew")]
    Exists {
        /// The folder.
        folder: String,
    },
    /// What says which job it is of is damaged.
    #[error("the checkpoint in {folder} does not say which job it is of ({reason}): empty the folder to begin anew")]
    Nameless {
        /// The folder.
        folder: String,
        /// What is wrong.
        reason: String,
    },
    /// A process sees another folder than the first.
    #[error(
        "{folder} does not hold the checkpoint of process 0 ({reason}): --checkpoint must be on a file system that all processes share"
    )]
    NotShared {
        /// The folder.
        folder: String,
        /// What was found.
        reason: String,
    },
}
