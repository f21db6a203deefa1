//! Outputs that would replace an input: refused before any work, since an output appears by taking the place of what was there.
//!
//! Paths are compared by what they lead to: other spellings, links and files found by a glob or in a folder are found too.

use crate::exit::Failure;
use crate::jobs::Data;
use nystream_datasets::atomic::place;
use std::path::{Path, PathBuf};

/// The files that a command reads, each with the option that names it.
#[derive(Clone, Debug, Default)]
pub struct Inputs(Vec<(&'static str, PathBuf)>);

impl Inputs {
    /// One file, where it is given.
    #[must_use]
    pub fn file(mut self, option: &'static str, path: Option<&Path>) -> Self {
        self.0.extend(path.map(|path| (option, path.to_owned())));
        self
    }

    /// The files that this process sees of `data`, given with `option`.
    #[must_use]
    pub fn files_of(mut self, option: &'static str, data: &Data) -> Self {
        self.0.extend(data.paths().into_iter().map(|path| (option, path)));
        self
    }

    /// Refuses outputs that would replace one of these files, or each other.
    ///
    /// # Errors
    /// A usage failure (2) that names both options and the file.
    ///
    /// ```
    /// use nystream::overwrite::Inputs;
    /// let inputs = Inputs::default().file("--model", Some("Cargo.toml".as_ref()));
    /// assert!(inputs.spared_by(&[("--out", Some("src/../Cargo.toml".as_ref()))]).is_err());
    /// assert!(inputs.spared_by(&[("--out", Some("a".as_ref())), ("--report", Some("./a".as_ref()))]).is_err());
    /// assert!(inputs.spared_by(&[("--out", Some("a".as_ref())), ("--report", None)]).is_ok());
    /// ```
    pub fn spared_by(&self, outputs: &[(&str, Option<&Path>)]) -> Result<(), Failure> {
        let given: Vec<(&str, PathBuf)> =
            outputs.iter().filter_map(|(option, path)| path.map(|path| (*option, place(path)))).collect();
        for (at, (option, output)) in given.iter().enumerate() {
            if let Some((other, _)) = given[..at].iter().find(|(_, earlier)| earlier == output) {
                return Err(Failure::usage(format!("{other} and {option} both name {}", output.display())));
            }
            if let Some((input, path)) = self.0.iter().find(|(_, path)| place(path) == *output) {
                let path = path.display();
                return Err(Failure::usage(format!(
                    "{option} would overwrite {path}, which {input} reads: name another file"
                )));
            }
        }
        Ok(())
    }
}
