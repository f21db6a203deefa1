//! Exactness against integers one by one, and the group laws, bit for bit.

use super::*;
use crate::checks::distance;
use nystream_hashing::{RowId, StreamKey};
use proptest::prelude::*;

/// Hashed rows of a fit: entries in [-bound, bound] (with exact extremes), roots of weights, targets.
#[derive(Clone)]
struct Data {
    shape: GramShape,
    rows: usize,
    stride: usize,
    k: Vec<f64>,
    roots: Option<Vec<f64>>,
    y: Vec<f64>,
}

fn data(shape: GramShape, rows: usize, weighted: bool, seed: u64) -> Data {
    let stride = shape.centers + 3;
    let bound = 2f64.powi(shape.scale_log2);
    let value = |stage: &str, at: usize| {
        let key = StreamKey::new(seed, stage, 0);
        match key.u64(RowId(1 << 100 | at as u128)) % 16 {
            0 => 1.0,
            1 => -1.0,
            2 => 0.0,
            _ => 2.0 * key.uniform(RowId(at as u128)) - 1.0,
        }
    };
    let k = (0..rows * stride)
        .map(|at| if at % stride < shape.centers { bound * value("k", at) } else { f64::NAN })
        .collect();
    let roots = weighted.then(|| (0..rows).map(|row| value("root", row).abs()).collect());
    let y = (0..rows * shape.targets).map(|at| value("y", at)).collect();
    Data { shape, rows, stride, k, roots, y }
}

impl Data {
    fn add_range(&self, gram: &ExactGram, scratch: &mut GramScratch, rows: std::ops::Range<usize>) {
        let (k, roots, y) = self.part(&rows);
        gram.add(scratch, k, self.stride, rows.len(), roots, y).unwrap();
    }

    fn subtract_range(&self, gram: &ExactGram, scratch: &mut GramScratch, rows: std::ops::Range<usize>) {
        let (k, roots, y) = self.part(&rows);
        gram.subtract(scratch, k, self.stride, rows.len(), roots, y).unwrap();
    }

    fn part(&self, rows: &std::ops::Range<usize>) -> (&[f64], Option<&[f64]>, &[f64]) {
        let t = self.shape.targets;
        (
            &self.k[rows.start * self.stride..rows.end * self.stride],
            self.roots.as_ref().map(|roots| &roots[rows.clone()]),
            &self.y[rows.start * t..rows.end * t],
        )
    }

    /// Some of the rows, in this order.
    fn pick(&self, rows: &[usize]) -> Data {
        let t = self.shape.targets;
        let gather =
            |from: &[f64], width: usize| rows.iter().flat_map(|row| from[row * width..][..width].to_vec()).collect();
        Data {
            shape: self.shape,
            rows: rows.len(),
            stride: self.stride,
            k: gather(&self.k, self.stride),
            roots: self.roots.as_ref().map(|roots| gather(roots, 1)),
            y: gather(&self.y, t),
        }
    }

    fn gram(&self) -> ExactGram {
        let gram = ExactGram::new(self.shape);
        self.add_range(&gram, &mut GramScratch::default(), 0..self.rows);
        gram
    }

    /// The slow, obvious form: integers one by one.
    fn reference(&self) -> GramSums {
        let GramShape { centers: m, targets: t, precision, scale_log2 } = self.shape;
        let bits = if precision == Precision::Single { 22 } else { 43 };
        let integer = |x: f64, bits: i32| (x * 2f64.powi(bits)).round_ties_even() as i128;
        let (mut gram, mut cross) = (vec![0i128; m * m], vec![0i128; m * t]);
        let (mut squares, mut sums, mut weights) = (vec![0i128; t], vec![0i128; t], 0i128);
        for row in 0..self.rows {
            let root = self.roots.as_ref().map_or(1.0, |roots| roots[row]);
            let k: Vec<i128> =
                (0..m).map(|j| integer(root * self.k[row * self.stride + j], bits - scale_log2)).collect();
            let y: Vec<i128> = (0..t).map(|j| integer(root * self.y[row * t + j], 43)).collect();
            for i in 0..m {
                (0..m).for_each(|j| gram[i * m + j] += k[i] * k[j]);
                (0..t).for_each(|j| cross[i * t + j] += k[i] * y[j]);
            }
            let w = integer(root, 43);
            weights += w * w;
            (0..t).for_each(|j| squares[j] += y[j] * y[j]);
            (0..t).for_each(|j| sums[j] += w * y[j]);
        }
        GramSums {
            gram: Mat::from_fn(m, m, |i, j| gram[i * m + j] as f64 * 2f64.powi(2 * (scale_log2 - bits))),
            cross: Mat::from_fn(m, t, |i, j| cross[i * t + j] as f64 * 2f64.powi(scale_log2 - bits - 43)),
            target_squares: squares.iter().map(|&v| v as f64 * 2f64.powi(-86)).collect(),
            target_sums: sums.iter().map(|&v| v as f64 * 2f64.powi(-86)).collect(),
            weight_sum: weights as f64 * 2f64.powi(-86),
            rows: self.rows as u64,
        }
    }
}

fn shape(centers: usize, targets: usize, precision: Precision, scale_log2: i32) -> GramShape {
    GramShape { centers, targets, precision, scale_log2 }
}

fn bytes(gram: &ExactGram) -> Vec<Vec<u8>> {
    (0..gram.pieces()).map(|piece| gram.export(piece).unwrap()).collect()
}

#[test]
fn equal_to_integers_one_by_one() {
    use Precision::{Double, Single};
    for (m, t, rows, precision, scale, weighted) in [
        (1, 0, 1, Single, 0, false),
        (1, 1, 5, Double, 0, true),
        (7, 2, 513, Single, 3, true),
        (7, 2, 513, Double, -2, true),
        (256, 1, 40, Single, 0, false),
        (257, 3, 600, Single, 0, true),
        (257, 3, 100, Double, 1, true),
        (600, 1, 30, Double, 0, false),
        (800, 1, 20, Single, 0, false),
        (20, 300, 90, Single, 0, true),
        (20, 129, 90, Double, 0, false),
        (5, 1, 4500, Single, 0, false),
        (5, 1, 4500, Double, 0, true),
    ] {
        let data = data(shape(m, t, precision, scale), rows, weighted, (m + rows) as u64);
        assert_eq!(data.gram().finish(), data.reference(), "m {m}, t {t}, rows {rows}, {precision:?}");
    }
}

#[test]
fn a_gram_is_the_sum_of_products_of_rounded_entries() {
    for (precision, scale) in [(Precision::Single, 0), (Precision::Single, 3), (Precision::Double, -1)] {
        for weighted in [false, true] {
            let data = data(shape(3, 1, precision, scale), 40, weighted, 8);
            let gram = ExactGram::new(data.shape);
            data.add_range(&gram, &mut GramScratch::default(), 0..40);
            let rounded = |i: usize, j: usize| {
                data.shape.rounded(data.k[i * data.stride + j], data.roots.as_ref().map_or(1.0, |roots| roots[i]))
            };
            let sums = gram.finish();
            for (a, b) in [(0, 0), (1, 0), (2, 2)] {
                let sum: f64 = (0..40).map(|i| rounded(i, a) * rounded(i, b)).sum();
                assert!((sums.gram[(a, b)] - sum).abs() <= 1e-14 * 40.0 * 4f64.powi(scale), "{precision:?} {scale}");
            }
        }
    }
}

#[test]
fn extreme_entries_fill_panels_without_rounding() {
    // All entries at the bound: every panel sum is 2^53, the slab sums 2^55, and signs must survive the limbs.
    for precision in [Precision::Single, Precision::Double] {
        let shape = shape(3, 2, precision, 0);
        let rows = SLAB_ROWS + PANEL_ROWS;
        let below = 1.0 - 2f64.powi(-43);
        let k: Vec<f64> = (0..rows).flat_map(|_| [1.0, -1.0, below]).collect();
        let y: Vec<f64> = (0..rows).flat_map(|_| [-1.0, below]).collect();
        let data = Data { shape, rows, stride: 3, k, roots: None, y };
        assert_eq!(data.gram().finish(), data.reference());
    }
}

#[test]
fn capacity_is_guarded_before_the_integers_can_overflow() {
    // A full Gram matrix by doubling: 2^40 rows at the bound in every entry.
    let shape = shape(2, 1, Precision::Double, 0);
    let gram = ExactGram::new(shape);
    let mut scratch = GramScratch::default();
    gram.add(&mut scratch, &[1.0, -1.0], 2, 1, None, &[-1.0]).unwrap();
    for _ in 0..40 {
        gram.merge(&gram).unwrap();
    }
    assert_eq!(gram.rows(), MAX_ROWS);
    let full = gram.finish();
    let n = MAX_ROWS as f64;
    assert_eq!(full.gram, faer::mat![[n, -n], [-n, n]]);
    assert_eq!((full.cross[(0, 0)], full.cross[(1, 0)]), (-n, n));
    assert_eq!((full.weight_sum, full.target_squares[0], full.target_sums[0]), (n, n, -n));
    let more = gram.add(&mut scratch, &[1.0, -1.0], 2, 1, None, &[-1.0]);
    assert_eq!(more, Err(GramError::Capacity { rows: MAX_ROWS, more: 1 }));
    gram.subtract(&mut scratch, &[1.0, -1.0], 2, 1, None, &[-1.0]).unwrap();
    assert_eq!(gram.rows(), MAX_ROWS - 1);
}

#[test]
fn numbers_out_of_range_are_named_and_change_nothing() {
    let shape = shape(2, 2, Precision::Single, 1);
    let gram = ExactGram::new(shape);
    let mut scratch = GramScratch::default();
    let good = [1.0f32, 2.0, -2.0, 0.5];
    let y = [0.0, 1.0, -1.0, 0.5];
    gram.add(&mut scratch, &good, 2, 2, None, &y).unwrap();
    let before = bytes(&gram);
    let mut add = |k: &[f32], roots: Option<&[f64]>, y: &[f64]| gram.add(&mut scratch, k, 2, 2, roots, y).unwrap_err();
    for value in [2.001f32, -3.0, f32::INFINITY] {
        let found = add(&[1.0, 1.0, 1.0, value], None, &y);
        assert_eq!(found, GramError::EntryOutOfRange { row: 1, center: 1, value: value.into(), bound: 2.0 });
    }
    assert!(matches!(add(&[f32::NAN, 1.0, 1.0, 1.0], None, &y), GramError::EntryOutOfRange { row: 0, center: 0, .. }));
    let found = add(&good, None, &[0.0, 0.0, 0.0, -1.5]);
    assert_eq!(found, GramError::TargetOutOfRange { row: 1, target: 1, value: -1.5 });
    assert!(matches!(add(&good, None, &[f64::NAN; 4]), GramError::TargetOutOfRange { row: 0, target: 0, .. }));
    assert_eq!(add(&good, Some(&[1.0, 1.5]), &y), GramError::WeightOutOfRange { row: 1, value: 1.5 });
    assert!(matches!(add(&good, Some(&[-0.5, 1.0]), &y), GramError::WeightOutOfRange { row: 0, .. }));
    assert_eq!(add(&good, Some(&[1.0]), &y), GramError::Length { what: "weights", expected: 2, found: 1 });
    assert_eq!(add(&good[..3], None, &y), GramError::Length { what: "kernel entries", expected: 4, found: 3 });
    assert_eq!(add(&good, None, &y[..3]), GramError::Length { what: "targets", expected: 4, found: 3 });
    let narrow = gram.add(&mut scratch, &good, 1, 2, None, &y);
    assert_eq!(narrow, Err(GramError::Length { what: "stride", expected: 2, found: 1 }));
    assert_eq!(bytes(&gram), before);
    gram.add::<f32>(&mut scratch, &[], 2, 0, None, &[]).unwrap();
    assert_eq!(bytes(&gram), before);
    // An f32 entry just above the bound rounds to it.
    gram.add(&mut scratch, &[2.0f32 * (1.0 + f32::EPSILON), 0.0], 2, 1, None, &[0.0, 0.0]).unwrap();
    assert_eq!(gram.finish().gram[(0, 0)], 1.0 + 4.0 + 4.0);
}

#[test]
fn pieces_are_canonical_small_and_checked() {
    let data = data(shape(300, 2, Precision::Double, 0), 400, true, 5);
    let gram = data.gram();
    let copy = ExactGram::new(data.shape);
    for (piece, bytes) in bytes(&gram).into_iter().enumerate() {
        assert!(bytes.len() <= 1_000_000);
        copy.import_add(piece, &bytes).unwrap();
        assert!(matches!(copy.import_add(piece, &bytes[..bytes.len() - 1]), Err(GramError::BadPiece { .. })));
        assert!(matches!(copy.import_add(piece, &bytes[..5]), Err(GramError::BadPiece { .. })));
        let mut wider = bytes.clone();
        wider[super::pieces::HEADER - 1] += 1;
        assert!(matches!(copy.import_add(piece, &wider), Err(GramError::BadPiece { .. })));
        assert!(copy.import_add(piece + 1, &bytes).is_err());
    }
    assert_eq!(bytes(&copy), bytes(&gram));
    assert_eq!(copy.finish(), gram.finish());
    let pieces = gram.pieces();
    assert_eq!(gram.export(pieces), Err(GramError::NoSuchPiece { piece: pieces, pieces }));
    let other = ExactGram::new(shape(300, 2, Precision::Single, 0));
    assert!(matches!(other.import_add(0, &gram.export(0).unwrap()), Err(GramError::BadPiece { .. })));
    assert!(matches!(other.merge(&gram), Err(GramError::ShapeMismatch { .. })));
}

#[test]
fn threads_share_one_gram() {
    let data = data(shape(300, 1, Precision::Single, 0), 3000, true, 8);
    let shared = ExactGram::new(data.shape);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (data, shared) = (&data, &shared);
            scope.spawn(move || {
                let mut scratch = GramScratch::default();
                for start in (worker * 100..3000).step_by(400) {
                    data.add_range(shared, &mut scratch, start..start + 100);
                }
            });
        }
    });
    assert_eq!(bytes(&shared), bytes(&data.gram()));
}

#[test]
fn duplicated_row_is_weight_two_to_rounding() {
    for (precision, tolerance) in [(Precision::Single, 2f64.powi(-20)), (Precision::Double, 2f64.powi(-41))] {
        let base = data(shape(9, 1, precision, 0), 50, false, 3);
        let twice = ExactGram::new(base.shape);
        let mut scratch = GramScratch::default();
        base.add_range(&twice, &mut scratch, 0..50);
        base.add_range(&twice, &mut scratch, 7..8);
        let mut roots = vec![0.5f64.sqrt(); 50];
        roots[7] = 1.0;
        let weighted = Data { roots: Some(roots), ..base }.gram().finish();
        let twice = twice.finish();
        // Relative to w_max = 2.
        assert!(distance(&(2.0 * &weighted.gram), &twice.gram) < 51.0 * tolerance);
        assert!(distance(&(2.0 * &weighted.cross), &twice.cross) < 51.0 * tolerance);
        assert!((2.0 * weighted.weight_sum - twice.weight_sum).abs() < 51.0 * 2f64.powi(-41));
        assert!((2.0 * weighted.target_squares[0] - twice.target_squares[0]).abs() < 51.0 * 2f64.powi(-41));
    }
}

#[test]
fn folds_sum_to_the_total() {
    let data = data(shape(30, 2, Precision::Single, 0), 700, true, 12);
    let total = data.gram();
    let mut scratch = GramScratch::default();
    let folds: Vec<ExactGram> = (0..5)
        .map(|fold| {
            let gram = ExactGram::new(data.shape);
            (fold..700).step_by(5).for_each(|row| data.add_range(&gram, &mut scratch, row..row + 1));
            gram
        })
        .collect();
    let sum = ExactGram::new(data.shape);
    folds.iter().for_each(|fold| sum.merge(fold).unwrap());
    assert_eq!(bytes(&sum), bytes(&total));
    sum.remove(&folds[2]).unwrap();
    let rest = total.finish().without(&folds[2].finish());
    assert!(distance(&rest.gram, &sum.finish().gram) < 1e-12);
    assert_eq!(rest.rows, sum.rows());
}

/// Retraction across the cuts of the loop: ranges that begin and end inside panels and slabs, and one longer than a slab. What is left has
/// the bytes of a Gram of the rows that are left; rows put back in reverse order give the first bytes; and nothing is left of nothing.
#[test]
fn retraction_across_panels_and_slabs_changes_no_bit() {
    let rows = SLAB_ROWS + PANEL_ROWS + 37;
    for precision in [Precision::Single, Precision::Double] {
        let data = data(shape(5, 2, precision, 0), rows, true, 21);
        let (empty, original) = (bytes(&ExactGram::new(data.shape)), bytes(&data.gram()));
        let mut scratch = GramScratch::default();
        for gone in [
            vec![PANEL_ROWS - 200..PANEL_ROWS + 200, SLAB_ROWS - 150..SLAB_ROWS + 250, rows - 7..rows],
            vec![100..100 + SLAB_ROWS + 200, rows - 1..rows],
            vec![0..1, PANEL_ROWS..2 * PANEL_ROWS, SLAB_ROWS..SLAB_ROWS + 1],
        ] {
            let gram = data.gram();
            gone.iter().for_each(|range| data.subtract_range(&gram, &mut scratch, range.clone()));
            let left: Vec<usize> = (0..rows).filter(|row| !gone.iter().any(|range| range.contains(row))).collect();
            let rest = data.pick(&left);
            assert_eq!(bytes(&gram), bytes(&rest.gram()), "{precision:?} {gone:?}");
            assert_eq!(gram.finish(), rest.reference(), "{precision:?} {gone:?}");
            gone.iter().rev().for_each(|range| data.add_range(&gram, &mut scratch, range.clone()));
            assert_eq!(bytes(&gram), original, "{precision:?} {gone:?}");
        }
        let gram = data.gram();
        data.subtract_range(&gram, &mut scratch, 0..rows);
        assert_eq!(bytes(&gram), empty);
        assert_eq!(gram.rows(), 0);
    }
}

#[test]
fn memory_is_what_the_plan_says() {
    let shape = shape(1000, 3, Precision::Double, 0);
    let gram = ExactGram::new(shape);
    let held: usize = gram.buffers.iter().map(|b| lock(b).capacity() * 16 + size_of::<Mutex<Vec<i128>>>()).sum();
    assert_eq!(held, ExactGram::memory_bytes(shape));
    let mut scratch = GramScratch::default();
    let data = data(shape, 2100, false, 1);
    data.add_range(&gram, &mut scratch, 0..2100);
    assert!(
        scratch.held() <= ExactGram::scratch_bytes(shape),
        "{} {}",
        scratch.held(),
        ExactGram::scratch_bytes(shape)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn order_split_merge_and_subtraction_change_no_bit(
        centers in 1usize..300,
        targets in 0usize..3,
        double in any::<bool>(),
        weighted in any::<bool>(),
        rows in 1usize..120,
        cuts in prop::collection::vec(0usize..120, 0..5),
        seed in any::<u64>(),
    ) {
        let precision = if double { Precision::Double } else { Precision::Single };
        let data = data(shape(centers, targets, precision, 0), rows, weighted, seed);
        let whole = bytes(&data.gram());
        let mut scratch = GramScratch::default();
        let mut edges: Vec<usize> = cuts.iter().map(|c| c % rows).chain([0, rows]).collect();
        edges.sort_unstable();
        // Runs in reverse order, each in a Gram of its own, merged.
        let merged = ExactGram::new(data.shape);
        for run in edges.windows(2).rev() {
            let part = ExactGram::new(data.shape);
            data.add_range(&part, &mut scratch, run[0]..run[1]);
            merged.merge(&part).unwrap();
        }
        prop_assert_eq!(&bytes(&merged), &whole);
        // Single rows in hashed order.
        let key = StreamKey::new(seed, "order", 0);
        let mut order: Vec<usize> = (0..rows).collect();
        order.sort_by_key(|&row| key.u64(RowId(row as u128)));
        let shuffled = ExactGram::new(data.shape);
        order.iter().for_each(|&row| data.add_range(&shuffled, &mut scratch, row..row + 1));
        prop_assert_eq!(&bytes(&shuffled), &whole);
        // Deleting all but the first run leaves that run.
        let first = ExactGram::new(data.shape);
        data.add_range(&first, &mut scratch, 0..edges[1]);
        data.subtract_range(&shuffled, &mut scratch, edges[1]..rows);
        prop_assert_eq!(bytes(&shuffled), bytes(&first));
    }
}
