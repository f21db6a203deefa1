//! Data that is spread over hosts: each process lists the files that it sees, and all make one catalog of them.
//!
//! A file is known by its name relative to the root of the host that has it, so the catalog, with its order of files and numbering of blocks, is that of one host
//! which sees all of them: so is the model, bit for bit. What processes exchange is what a catalog takes from a footer ([`HostFiles`]), once, at
//! the start. A name that several hosts have is one file, of which each can read a part; length and footer must be equal (pages are not compared, as
//! nowhere). It is read once.
//!
//! [`Placement`]: a file is read where it is. Blocks that several processes have go to those with fewest, so that all have as many as the files allow; a worker
//! owns runs of its process's blocks, in the order of the files. All of it is a function of what was exchanged.
//!
//! Cost: the descriptions of all files, once in every process, some hundred bytes a row group and a column.

use crate::catalog::{BlockRun, Catalog, CatalogFile, Described};
use crate::column::ColumnInfo;
use crate::width::ColumnBytes;
use crate::{DataError, Sources};
use nystream_hashing::FileId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files that one process sees, from their footers.
#[derive(Clone, Debug)]
pub struct HostFiles {
    files: Vec<Described>,
}

/// What another process is told of a file.
#[derive(Serialize, Deserialize)]
struct Sent {
    name: String,
    rows: u64,
    bytes: u64,
    row_groups: Vec<u64>,
    synth: bool,
    digest: [u8; 32],
    tag: Option<String>,
    columns: Vec<ColumnInfo>,
    sizes: Vec<ColumnBytes>,
}

impl HostFiles {
    /// Reads the footers of what `specs` name on this host. A folder or a glob without files is no error here: other hosts may have some.
    ///
    /// # Errors
    /// A path that does not exist; a file that cannot be read.
    pub fn open<S: AsRef<str>>(specs: &[S]) -> Result<Self, DataError> {
        let sources = Sources::parse_any(specs)?;
        let files = sources.files.iter().map(Catalog::describe).collect::<Result<_, _>>()?;
        Ok(HostFiles { files })
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|described| described.file.path.as_path())
    }

    /// For the other processes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sent: Vec<Sent> = self.files.iter().map(sent).collect();
        // Plain numbers and names: serialisation cannot fail.
        serde_json::to_vec(&sent).unwrap_or_default()
    }

    /// The catalog of the files of all processes. `parts` are what each sent, `hosts` how messages name them, and `me` which one this is.
    ///
    /// ```
    /// use nystream_datasets::{Catalog, DataError, HostFiles, Sources, make};
    /// let hosts = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    /// for (host, name) in hosts.iter().zip(["a", "b"]) {
    ///     let source = format!("synth:sines?rows=5000&d=2&seed={name}", name = name.len());
    ///     make::make(&source.parse()?, &host.path().join(name), &make::MakeOptions::default(), |_, _| {})?;
    /// }
    /// let files: Vec<HostFiles> =
    ///     hosts.iter().map(|host| HostFiles::open(&[host.path().to_str().unwrap()])).collect::<Result<_, DataError>>()?;
    /// let parts: Vec<Vec<u8>> = files.iter().map(HostFiles::to_bytes).collect();
    /// let names = ["first".to_string(), "second".to_string()];
    /// let catalog = files[1].unite(&parts, &names, 1)?;
    /// assert_eq!((catalog.files.len(), catalog.total_rows), (2, 10_000));
    /// // Two workers, one on each host: the second reads the file that it has.
    /// assert_eq!(catalog.partition(2, 1).iter().map(|run| run.file).collect::<Vec<_>>(), [1]);
    /// # Ok::<(), DataError>(())
    /// ```
    ///
    /// # Errors
    /// Files of one name that differ, naming both hosts; files whose columns differ; no file at all.
    pub fn unite(&self, parts: &[Vec<u8>], hosts: &[String], me: usize) -> Result<Catalog, DataError> {
        let host = |process: usize| hosts.get(process).cloned().unwrap_or_else(|| format!("process {process}"));
        let mut union: BTreeMap<String, (Sent, Vec<usize>)> = BTreeMap::new();
        for (process, bytes) in parts.iter().enumerate() {
            let files: Vec<Sent> = serde_json::from_slice(bytes).map_err(|e| DataError::Footer {
                path: PathBuf::from(host(process)),
                reason: format!("its list of files is damaged ({e})"),
            })?;
            for file in files {
                match union.get_mut(&file.name) {
                    None => {
                        union.insert(file.name.clone(), (file, vec![process]));
                    }
                    Some((known, holders)) => {
                        if (known.bytes, known.digest, &known.tag) != (file.bytes, file.digest, &file.tag) {
                            let (first, second) = (host(holders[0]), host(process));
                            let sizes = format!("{} and {} bytes", known.bytes, file.bytes);
                            return Err(DataError::HostsDiffer { name: file.name, first, second, sizes });
                        }
                        holders.push(process);
                    }
                }
            }
        }
        if union.is_empty() {
            return Err(DataError::NoSources);
        }
        let own: BTreeMap<&str, &Described> = self.files.iter().map(|d| (d.file.name.as_str(), d)).collect();
        let (mut blocks, mut all_holders, mut described) = (Vec::new(), Vec::new(), Vec::new());
        for (name, (file, holders)) in union {
            blocks.push(file.rows.div_ceil(crate::BLOCK_ROWS));
            described.push(match own.get(name.as_str()) {
                Some(own) => (*own).clone(),
                None => received(file, &host(holders[0])),
            });
            all_holders.push(holders);
        }
        // By name, bytewise: the order of a map of strings.
        let catalog = Catalog::assemble(described.into_iter().map(Ok))?;
        debug_assert!(me < parts.len());
        let hosts = (0..parts.len()).map(host).collect();
        Ok(catalog.placed(Placement { hosts, ..Placement::new(&blocks, &all_holders, parts.len()) }))
    }
}

fn sent(described: &Described) -> Sent {
    let file = &described.file;
    Sent {
        name: file.name.clone(),
        rows: file.rows,
        bytes: file.bytes,
        row_groups: file.row_groups.clone(),
        synth: file.synth.is_some(),
        digest: file.digest,
        tag: described.tag.clone(),
        columns: described.infos.clone(),
        sizes: described.sizes.clone(),
    }
}

/// A file that another process has. Nothing opens it here.
fn received(sent: Sent, host: &str) -> Described {
    let file = CatalogFile {
        path: PathBuf::from(format!("{} on {host}", sent.name)),
        id: FileId::from_relative_path(&sent.name),
        name: sent.name,
        rows: sent.rows,
        bytes: sent.bytes,
        row_groups: sent.row_groups,
        columns: Arc::new([]),
        synth: None,
        object: None,
        digest: sent.digest,
    };
    Described { file, infos: sent.columns, sizes: sent.sizes, tag: sent.tag }
}

/// Which process reads which blocks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Of each process, in the order of the files.
    owned: Vec<Vec<BlockRun>>,
    /// Of each file, the processes that have it, in their order.
    holders: Vec<Vec<usize>>,
    /// How messages name the processes.
    hosts: Vec<String>,
}

impl Placement {
    /// Of files of so many `blocks`, each on the processes `holders`, of `processes`.
    fn new(blocks: &[u64], holders: &[Vec<usize>], processes: usize) -> Self {
        let mut owned = vec![Vec::new(); processes];
        let mut load = vec![0u64; processes];
        let alone = (0..blocks.len()).filter(|file| holders[*file].len() == 1);
        for file in alone {
            let process = holders[file][0];
            load[process] += blocks[file];
            owned[process].push(BlockRun { file, first: 0, end: blocks[file] });
        }
        // The large ones first: small ones then even out what is left.
        let mut shared: Vec<usize> = (0..blocks.len()).filter(|file| holders[*file].len() > 1).collect();
        shared.sort_by_key(|file| (std::cmp::Reverse(blocks[*file]), *file));
        for file in shared {
            let shares = level(&holders[file].iter().map(|process| load[*process]).collect::<Vec<_>>(), blocks[file]);
            let mut first = 0;
            for (process, share) in holders[file].iter().zip(shares) {
                load[*process] += share;
                owned[*process].push(BlockRun { file, first, end: first + share });
                first += share;
            }
        }
        for runs in &mut owned {
            runs.retain(|run| run.first < run.end);
            runs.sort_by_key(|run| run.file);
        }
        Placement { owned, holders: holders.to_vec(), hosts: Vec::new() }
    }

    /// The runs of the process of worker `index` of `peers`, and the workers of a process.
    pub fn of_process(&self, peers: usize, index: usize) -> (Vec<BlockRun>, usize) {
        let workers = (peers / self.owned.len().max(1)).max(1);
        (self.owned.get(index / workers).cloned().unwrap_or_default(), workers)
    }

    /// How messages name process `process`.
    pub fn host(&self, process: usize) -> Option<String> {
        self.hosts.get(process).cloned()
    }

    /// The processes that have file number `file`, as messages name them.
    pub fn shown(&self, file: usize) -> Option<String> {
        let names: Vec<String> = self.holders.get(file)?.iter().filter_map(|process| self.host(*process)).collect();
        (!names.is_empty()).then(|| names.join(" and "))
    }

    /// Whether process `process` has file number `file`.
    pub fn sees(&self, process: usize, file: usize) -> bool {
        self.holders.get(file).is_some_and(|holders| holders.contains(&process))
    }

    /// Whether two processes have a file in common.
    pub fn meet(&self, a: usize, b: usize) -> bool {
        a == b || self.holders.iter().any(|holders| holders.contains(&a) && holders.contains(&b))
    }

    /// The runs of worker `index` of `peers`, who are as many in every process: the blocks of its process in order, counts differing by at most one.
    pub fn runs(&self, peers: usize, index: usize) -> Vec<BlockRun> {
        let (owned, workers) = self.of_process(peers, index);
        let total: u64 = owned.iter().map(|run| run.end - run.first).sum();
        let cut = |i: usize| (u128::from(total) * i as u128 / workers as u128) as u64;
        let (lo, hi) = (cut(index % workers), cut(index % workers + 1));
        let mut begun = 0;
        let mut runs = Vec::new();
        for run in owned {
            let (first, end) = (begun.max(lo), (begun + run.end - run.first).min(hi));
            if first < end {
                runs.push(BlockRun { file: run.file, first: run.first + first - begun, end: run.first + end - begun });
            }
            begun += run.end - run.first;
        }
        runs
    }
}

/// `blocks` dealt to those with `loads` so that the largest load is least; of those alike the first get one more.
fn level(loads: &[u64], blocks: u64) -> Vec<u64> {
    let filled = |height: u64| loads.iter().map(|load| u128::from(height.saturating_sub(*load))).sum::<u128>();
    // The highest level that does not take more than there is.
    let (mut low, mut high) = (0u64, loads.iter().max().copied().unwrap_or(0).saturating_add(blocks));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if filled(middle) <= u128::from(blocks) { low = middle } else { high = middle - 1 }
    }
    let mut shares: Vec<u64> = loads.iter().map(|load| low.saturating_sub(*load)).collect();
    let mut left = blocks - shares.iter().sum::<u64>();
    for (share, load) in shares.iter_mut().zip(loads) {
        if left > 0 && *load <= low {
            *share += 1;
            left -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_block_has_one_owner_that_holds_it(
            files in vec((0u64..40, 1u32..32), 1..12), processes in 1usize..5, workers in 1usize..4,
        ) {
            let blocks: Vec<u64> = files.iter().map(|(blocks, _)| *blocks).collect();
            let holders: Vec<Vec<usize>> = files.iter().map(|(_, mask)| {
                let some: Vec<usize> = (0..processes).filter(|p| mask >> p & 1 == 1).collect();
                if some.is_empty() { vec![0] } else { some }
            }).collect();
            let placement = Placement::new(&blocks, &holders, processes);
            let mut seen = Vec::new();
            for process in 0..processes {
                let mut counts = Vec::new();
                for worker in 0..workers {
                    let runs = placement.runs(processes * workers, process * workers + worker);
                    prop_assert!(runs.windows(2).all(|pair| pair[0].file < pair[1].file));
                    counts.push(runs.iter().map(|run| run.end - run.first).sum::<u64>());
                    for run in runs {
                        prop_assert!(holders[run.file].contains(&process));
                        seen.extend((run.first..run.end).map(|block| (run.file, block)));
                    }
                }
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            }
            seen.sort_unstable();
            let all: Vec<(usize, u64)> = blocks.iter().enumerate().flat_map(|(file, n)| (0..*n).map(move |b| (file, b))).collect();
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn blocks_of_several_holders_even_out() {
        assert_eq!(level(&[10, 0, 3], 11), [0, 7, 4]);
        assert_eq!(level(&[0, 0], 5), [3, 2]);
        assert_eq!(level(&[9, 0], 4), [0, 4]);
        assert_eq!(level(&[2], 0), [0]);
        // 8 blocks are on the first alone, 6 on both: the second reads these.
        let placement = Placement::new(&[8, 6], &[vec![0], vec![0, 1]], 2);
        assert_eq!(placement.runs(2, 1), [BlockRun { file: 1, first: 0, end: 6 }]);
        assert!(placement.sees(1, 1) && !placement.sees(1, 0) && placement.meet(0, 1));
        let apart = Placement::new(&[8, 6], &[vec![0], vec![1]], 2);
        assert!(!apart.meet(0, 1) && apart.meet(1, 1) && !apart.sees(2, 0));
    }
}
