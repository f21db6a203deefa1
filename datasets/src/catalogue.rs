//! Data sets known by name (`nystream datasets list`): synthetic sources, and public data sets with where to get them.
//!
//! Nothing is downloaded here. Licences change and differ by copy: the notes say what the origin states, if anything.

use crate::Task;
use crate::synth::SynthName;

/// A synthetic source; see [`crate::synth`] for the formulas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SyntheticSource {
    /// Short name.
    pub name: &'static str,
    /// What is learned.
    pub task: Task,
    /// Target column.
    pub target: &'static str,
    /// What the rows are.
    pub description: &'static str,
}

/// The synthetic source of a name.
pub fn synthetic(name: SynthName) -> SyntheticSource {
    let (task, description) = match name {
        SynthName::Friedman1 => (Task::Regression, "Friedman's first function of five uniform features, the rest idle"),
        SynthName::Sines => (Task::Regression, "32 sine waves in random directions on [-1, 1]^d, unit variance"),
        SynthName::Mixtures => (Task::Regression, "16 Gaussian clusters, a linear function in each"),
        SynthName::Twoclass => (Task::Classification, "labels 0 and 1 by a curved boundary in normal features"),
    };
    let text = SynthName::ALL.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text);
    SyntheticSource { name: text, task, target: "y", description }
}

/// A public data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublicDataset {
    /// Short name.
    pub name: &'static str,
    /// What is learned.
    pub task: Task,
    /// Target column; by position where the origin names no columns.
    pub target: &'static str,
    /// Rows, rounded where copies differ.
    pub rows: u64,
    /// Features.
    pub features: u32,
    /// Where it comes from.
    pub origin: &'static str,
    /// What is known about its licence.
    pub licence: &'static str,
}

/// All known data sets, by name.
///
/// ```
/// let known = nystream_datasets::catalogue::PUBLIC;
/// assert!(known.iter().any(|set| set.name == "beijing_air"));
/// ```
pub const PUBLIC: &[PublicDataset] = &[
    PublicDataset {
        name: "acs_income",
        task: Task::Classification,
        target: "income_gt_50k",
        rows: 295_243,
        features: 31,
        origin: "American Community Survey 2018 1-year person records (US Census Bureau), via folktables (Ding et al., NeurIPS 2021)",
        licence: "public microdata of the US Census Bureau; the copies state no licence",
    },
    PublicDataset {
        name: "beijing_air",
        task: Task::Regression,
        target: "PM2.5",
        rows: 420_768,
        features: 16,
        origin: "UCI 501, Beijing Multi-Site Air-Quality Data (Chen, 2019)",
        licence: "see the UCI page",
    },
    PublicDataset {
        name: "higgs",
        task: Task::Classification,
        target: "first column",
        rows: 11_000_000,
        features: 28,
        origin: "UCI 280, HIGGS (Baldi, Sadowski and Whiteson, 2014)",
        licence: "see the UCI page",
    },
    PublicDataset {
        name: "keggdirected",
        task: Task::Regression,
        target: "y",
        rows: 48_827,
        features: 20,
        origin: "UCI, KEGG Metabolic Relation Network (Directed) (Naeem and Asghar, 2011), via treforevans/uci_datasets",
        licence: "the copy is under the MIT licence",
    },
    PublicDataset {
        name: "kin40k",
        task: Task::Regression,
        target: "y",
        rows: 40_000,
        features: 8,
        origin: "kin family of robot-arm data (Schwaighofer and Tresp, NIPS 2002), via treforevans/uci_datasets",
        licence: "the copy is under the MIT licence",
    },
    PublicDataset {
        name: "protein",
        task: Task::Regression,
        target: "log1p_rmsd",
        rows: 45_730,
        features: 9,
        origin: "UCI 265, Physicochemical Properties of Protein Tertiary Structure (Rana, 2013), via treforevans/uci_datasets",
        licence: "the copy is under the MIT licence",
    },
    PublicDataset {
        name: "susy",
        task: Task::Classification,
        target: "first column",
        rows: 5_000_000,
        features: 18,
        origin: "UCI 279, SUSY (Baldi, Sadowski and Whiteson, 2014)",
        licence: "see the UCI page",
    },
    PublicDataset {
        name: "yearprediction",
        task: Task::Regression,
        target: "first column",
        rows: 515_345,
        features: 90,
        origin: "UCI 203, YearPredictionMSD (Bertin-Mahieux, 2011), from the Million Song Dataset",
        licence: "see the UCI page",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_synthetic_source_can_be_made() {
        for (name, text) in SynthName::ALL {
            let source = synthetic(name);
            assert_eq!(source.name, text);
            let spec: crate::SynthSpec = text.parse().unwrap();
            assert!(spec.columns().iter().any(|column| column.name == source.target));
            let labels = spec.columns().iter().any(|column| column.name == "y" && column.integer);
            assert_eq!(labels, source.task == Task::Classification);
        }
    }

    #[test]
    fn names_are_unique_and_sorted() {
        assert!(PUBLIC.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
