//! Which row groups the output has, and who writes them.
//!
//! A group is a run of whole pieces, a piece being up to G sum blocks of one file that begin at a multiple of G. G and the groups are functions of the
//! catalog alone; a worker owns a run of groups. So the output has the same row groups, made of the same batches, for any
//! number of workers.
//!
//! Where files are spread over hosts a process has groups of its own blocks, and its part the bytes that any number of workers gives: pieces begin at a multiple of G in a run of its blocks.

use nystream_datasets::table::TABLE_GROUP_ROWS;
use nystream_datasets::{BLOCK_ROWS, BlockRun, Catalog};

/// Groups a large data set is cut into at least, so that workers have about the same share.
const SHARES: u64 = 64;
/// Blocks of the smallest group of a large file: 16,384 rows.
const LEAST_BLOCKS: u64 = 8;

/// The row groups of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Blocks of a group, at most.
    most: u64,
    /// The blocks that are shared out: all, or those of the process, in the order of the data.
    own: Vec<BlockRun>,
    /// How many workers share them, and which of them is the first.
    workers: usize,
    first: usize,
    /// Of each group the first block, counted through `own`; then the number of blocks.
    cuts: Vec<u64>,
    /// Of each group the first global block.
    starts: Vec<u64>,
}

impl Layout {
    /// The layout of predictions for `catalog` in the process of worker `index` of `peers`.
    pub fn new(catalog: &Catalog, peers: usize, index: usize) -> Self {
        let most = TABLE_GROUP_ROWS / BLOCK_ROWS;
        let blocks = (catalog.blocks() / SHARES).next_power_of_two().clamp(LEAST_BLOCKS, most);
        let (own, workers, first) = match catalog.placed_runs(peers, index) {
            Some((runs, workers)) => (runs, workers, index / workers * workers),
            None => (catalog.runs(0, catalog.blocks()), peers.max(1), 0),
        };
        let (mut cuts, mut starts) = (Vec::new(), Vec::new());
        let (mut rows, mut passed) = (0, 0);
        for run in &own {
            for block in (run.first..run.end).step_by(blocks as usize) {
                let piece = catalog.rows_of(&[BlockRun { first: block, end: (block + blocks).min(run.end), ..*run }]);
                if starts.is_empty() || rows + piece > blocks * BLOCK_ROWS {
                    cuts.push(passed + block - run.first);
                    starts.push(catalog.global_block(run.file, block));
                    rows = 0;
                }
                rows += piece;
            }
            passed += run.end - run.first;
        }
        cuts.push(passed);
        Layout { most: blocks, own, workers, first, cuts, starts }
    }

    /// Rows that are shared out.
    pub fn rows(&self, catalog: &Catalog) -> u64 {
        catalog.rows_of(&self.own)
    }

    /// Rows of a group, at most.
    pub fn group_rows(&self) -> u64 {
        self.most * BLOCK_ROWS
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.starts.len()
    }

    /// Whether a group begins at global block `block`.
    pub fn begins(&self, block: u64) -> bool {
        self.starts.binary_search(&block).is_ok()
    }

    /// The blocks of worker `index`, counted over all processes.
    pub fn runs(&self, index: usize) -> Vec<BlockRun> {
        let cut = |i: usize| self.cuts[(self.groups() as u128 * i as u128 / self.workers as u128) as usize];
        let worker = index - self.first;
        let (lo, hi) = (cut(worker), cut(worker + 1));
        let mut runs = Vec::new();
        let mut passed = 0;
        for run in &self.own {
            let length = run.end - run.first;
            let (begin, end) = (lo.max(passed), hi.min(passed + length));
            if begin < end {
                runs.push(BlockRun { first: run.first + begin - passed, end: run.first + end - passed, ..*run });
            }
            passed += length;
        }
        runs
    }
}

/// Blocks decoded together: a power of two, so that no batch crosses a piece; fewer where rows are wide.
pub(super) fn blocks_per_batch(row_bytes: usize) -> u64 {
    match crate::engine::feed::blocks_per_batch(row_bytes) {
        3 => 2,
        blocks => blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_datasets::{HostFiles, Sources};

    fn catalog(rows: &[u64]) -> Catalog {
        let specs: Vec<String> =
            rows.iter().enumerate().map(|(i, rows)| format!("synth:sines?rows={rows}&d=2&seed={i}")).collect();
        Catalog::open_any(&Sources::parse(&specs).unwrap()).unwrap()
    }

    #[test]
    fn groups_are_whole_pieces_and_workers_share_all_of_them() {
        for rows in [&[1][..], &[2048, 5, 9], &[40_000], &[3_000_000, 1, 70_000], &[20_000_000], &[10; 100]] {
            let catalog = catalog(rows);
            let most = TABLE_GROUP_ROWS;
            let one = Layout::new(&catalog, 1, 0);
            for pair in one.cuts.windows(2) {
                let rows = catalog.rows_of(&catalog.runs(pair[0], pair[1]));
                assert!(rows > 0 && rows <= most, "{rows}");
            }
            for peers in 1..6 {
                let mut seen = Vec::new();
                for index in 0..peers {
                    let layout = Layout::new(&catalog, peers, index);
                    assert_eq!((&layout.cuts, &layout.starts), (&one.cuts, &one.starts));
                    for run in layout.runs(index) {
                        assert_eq!(run.first % LEAST_BLOCKS, 0, "a run begins within a piece");
                        seen.extend((run.first..run.end).map(|block| catalog.global_block(run.file, block)));
                    }
                }
                assert_eq!(seen, (0..catalog.blocks()).collect::<Vec<_>>());
            }
        }
        assert_eq!(Layout::new(&catalog(&[10; 100]), 2, 0).groups(), 1);
        assert!(Layout::new(&catalog(&[3_000_000]), 2, 0).groups() >= 40);
    }

    /// Three hosts, one file on two of them: workers have whole groups of what their host has, and together everything once.
    #[test]
    fn spread_files_are_laid_out_by_process() {
        let file = |rows: u64| format!("synth:sines?rows={rows}&d=2");
        let hosts = [vec![file(300_000), file(90_000)], vec![file(90_000), file(10), file(20)], vec![file(5000)]];
        let files: Vec<HostFiles> = hosts.iter().map(|host| HostFiles::open(host).unwrap()).collect();
        let parts: Vec<Vec<u8>> = files.iter().map(HostFiles::to_bytes).collect();
        for workers in 1..4 {
            let (mut seen, mut rows) = (Vec::new(), 0);
            for (process, own) in files.iter().enumerate() {
                let catalog = own.unite(&parts, &[], process).unwrap();
                let peers = 3 * workers;
                let one = Layout::new(&own.unite(&parts, &[], process).unwrap(), 3, process);
                for worker in process * workers..(process + 1) * workers {
                    let layout = Layout::new(&catalog, peers, worker);
                    assert_eq!((&layout.cuts, &layout.starts), (&one.cuts, &one.starts));
                    for run in layout.runs(worker) {
                        assert!(catalog.sees(process, run.file));
                        seen.extend((run.first..run.end).map(|block| catalog.global_block(run.file, block)));
                    }
                }
                rows += one.rows(&catalog);
            }
            seen.sort_unstable();
            let catalog = files[0].unite(&parts, &[], 0).unwrap();
            assert_eq!(seen, (0..catalog.blocks()).collect::<Vec<_>>());
            assert_eq!(rows, catalog.total_rows);
        }
    }

    #[test]
    fn no_rows_are_no_groups() {
        let catalog = catalog(&[0]);
        let layout = Layout::new(&catalog, 2, 1);
        assert_eq!(layout.groups(), 0);
        assert!(layout.runs(1).is_empty());
    }
}
