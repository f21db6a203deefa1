//! Which row groups the output has, and who writes them.
//!
//! A group is a run of whole pieces, a piece being up to G sum blocks of one file that begin at a multiple of G. G and the groups are functions of the
//! catalog alone; a worker owns a run of groups. So the output has the same row groups, made of the same batches, for any
//! number of workers.

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
    /// First global block of each group, then the number of blocks.
    cuts: Vec<u64>,
}

impl Layout {
    /// The layout of predictions for `catalog`.
    pub fn new(catalog: &Catalog) -> Self {
        let most = TABLE_GROUP_ROWS / BLOCK_ROWS;
        let blocks = (catalog.blocks() / SHARES).next_power_of_two().clamp(LEAST_BLOCKS, most);
        let mut cuts = vec![0];
        let mut rows = 0;
        for (index, file) in catalog.files.iter().enumerate() {
            for first in (0..file.blocks()).step_by(blocks as usize) {
                let piece = ((first + blocks) * BLOCK_ROWS).min(file.rows) - first * BLOCK_ROWS;
                if rows > 0 && rows + piece > blocks * BLOCK_ROWS {
                    cuts.push(catalog.global_block(index, first));
                    rows = 0;
                }
                rows += piece;
            }
        }
        if catalog.blocks() > 0 {
            cuts.push(catalog.blocks());
        }
        Layout { most: blocks, cuts }
    }

    /// Rows of a group, at most.
    pub fn group_rows(&self) -> u64 {
        self.most * BLOCK_ROWS
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.cuts.len() - 1
    }

    /// Whether a group begins at global block `block`.
    pub fn begins(&self, block: u64) -> bool {
        self.cuts.binary_search(&block).is_ok()
    }

    /// The blocks of worker `index` of `peers`.
    pub fn runs(&self, catalog: &Catalog, peers: usize, index: usize) -> Vec<BlockRun> {
        let cut = |i: usize| self.cuts[(self.groups() as u128 * i as u128 / peers.max(1) as u128) as usize];
        catalog.runs(cut(index), cut(index + 1))
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
    use nystream_datasets::Sources;

    fn catalog(rows: &[u64]) -> Catalog {
        let specs: Vec<String> =
            rows.iter().enumerate().map(|(i, rows)| format!("synth:sines?rows={rows}&d=2&seed={i}")).collect();
        Catalog::open_any(&Sources::parse(&specs).unwrap()).unwrap()
    }

    #[test]
    fn groups_are_whole_pieces_and_workers_share_all_of_them() {
        for rows in [&[1][..], &[2048, 5, 9], &[40_000], &[3_000_000, 1, 70_000], &[20_000_000], &[10; 100]] {
            let catalog = catalog(rows);
            let layout = Layout::new(&catalog);
            let most = TABLE_GROUP_ROWS;
            for pair in layout.cuts.windows(2) {
                let rows = catalog.rows_of(&catalog.runs(pair[0], pair[1]));
                assert!(rows > 0 && rows <= most, "{rows}");
            }
            for peers in 1..6 {
                let mut seen = Vec::new();
                for index in 0..peers {
                    for run in layout.runs(&catalog, peers, index) {
                        assert_eq!(run.first % LEAST_BLOCKS, 0, "a run begins within a piece");
                        seen.extend((run.first..run.end).map(|block| catalog.global_block(run.file, block)));
                    }
                }
                assert_eq!(seen, (0..catalog.blocks()).collect::<Vec<_>>());
            }
        }
        assert_eq!(Layout::new(&catalog(&[10; 100])).groups(), 1);
        assert!(Layout::new(&catalog(&[3_000_000])).groups() >= 40);
    }

    #[test]
    fn no_rows_are_no_groups() {
        let catalog = catalog(&[0]);
        let layout = Layout::new(&catalog);
        assert_eq!(layout.groups(), 0);
        assert!(layout.runs(&catalog, 2, 1).is_empty());
    }
}
