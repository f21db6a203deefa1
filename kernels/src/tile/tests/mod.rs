//! Tiles against the definition ([`Kernel::evaluate`]), and the invariants of the module docs, on every path of this processor.

mod budget;
mod entries;
mod functions;
mod gradients;
mod narrow;
mod products;
mod soundness;
mod sparse;
mod symmetric;

use super::*;
use crate::kernel::{Family, Kernel, Metric};
use crate::rows::{RowBuf, Rows};
use nystream_hashing::{RowId, StreamKey};

const FAMILIES: [Family; 15] = [
    Family::Gaussian,
    Family::Laplace,
    Family::Matern12,
    Family::Matern32,
    Family::Matern52,
    Family::Cauchy,
    Family::Wendland { smoothness: 2, dimension: 3 },
    Family::Wendland { smoothness: 4, dimension: 3 },
    Family::Wendland { smoothness: 4, dimension: 25 },
    Family::Polynomial { degree: 1, offset: 0.0 },
    Family::Polynomial { degree: 3, offset: 0.5 },
    Family::ArcCosine { depth: 1 },
    Family::ArcCosine { depth: 3 },
    Family::Ntk { depth: 1 },
    Family::Ntk { depth: 2 },
];

/// Hashed standard normal rows, with codes below 3.
fn random_rows(stage: &str, len: usize, numeric_width: usize, code_width: usize) -> RowBuf {
    let key = StreamKey::new(7, stage, 0);
    let value = |i: usize| key.normal_pair(RowId(i as u128)).0 as f32;
    let codes = StreamKey::new(7, stage, 1);
    RowBuf {
        numeric: (0..len * numeric_width).map(value).collect(),
        numeric_width,
        codes: (0..len * code_width).map(|i| (codes.u64(RowId(i as u128)) % 3) as u16 + 65_533).collect(),
        code_width,
    }
}

fn random_values(stage: &str, len: usize) -> Vec<f64> {
    let key = StreamKey::new(11, stage, 0);
    (0..len).map(|i| key.normal_pair(RowId(i as u128)).0).collect()
}

/// A metric of each kind for rows of these widths.
fn metrics(numeric_width: usize, code_width: usize) -> Vec<Metric> {
    let scales = |n: usize| (0..n).map(|k| 0.7 + 0.2 * (k % 4) as f64).collect::<Vec<_>>();
    let rows = numeric_width + 1;
    vec![
        Metric::Isotropic,
        Metric::PerFeature { numeric: scales(numeric_width), categorical: scales(code_width) },
        Metric::Full {
            map: random_values("map", rows * numeric_width).iter().map(|a| a / (rows as f64).sqrt()).collect(),
            rows,
            categorical: scales(code_width),
        },
    ]
}

fn bandwidth(family: Family, numeric_width: usize, code_width: usize) -> f64 {
    let typical = (numeric_width as f64 + 0.5 * code_width as f64).sqrt();
    if family.is_radial() { 1.3 * typical } else { typical }
}

/// The entries of a block without its padding, which must be zero.
fn block<T: Entry + std::fmt::Debug>(tiles: &Tiles<T>, rows: Rows<'_>) -> Vec<T> {
    let stride = tiles.stride();
    let mut out = vec![T::default(); rows.len() * stride];
    tiles.block(rows, &mut TileScratch::new(), &mut out);
    let mut entries = Vec::new();
    for row in out.chunks_exact(stride) {
        entries.extend_from_slice(&row[..tiles.centers()]);
        assert!(row[tiles.centers()..].iter().all(|&x| x == T::default()), "padding must be zero");
    }
    entries
}

#[test]
fn paths_have_names_and_one_is_always_there() {
    assert_eq!(SimdPath::available()[0], SimdPath::Portable);
    for path in [SimdPath::Portable, SimdPath::Avx2, SimdPath::Avx512, SimdPath::Neon] {
        assert_eq!(path.to_string().parse(), Ok(path));
    }
    assert_eq!("AVX2".parse::<SimdPath>(), Err(TileError::UnknownPath { given: "AVX2".into() }));
    let missing = [SimdPath::Neon, SimdPath::Avx512].into_iter().find(|p| !SimdPath::available().contains(p));
    if let Some(simd) = missing {
        let rows = random_rows("missing", 2, 1, 0);
        let error = Tiles::<f32>::new(&Kernel::new(Family::Gaussian, 1.0), rows.view(), &[], simd).unwrap_err();
        assert_eq!(error, TileError::Unavailable { simd, best: SimdPath::detect() });
    }
}

#[test]
fn bad_input_is_refused_with_its_numbers() {
    let rows = random_rows("bad", 3, 2, 1);
    let simd = SimdPath::Portable;
    let new = |kernel: &Kernel, offset: &[f32]| Tiles::<f32>::new(kernel, rows.view(), offset, simd).unwrap_err();
    for bandwidth in [0.0, -1.0, f64::INFINITY, 1e-320] {
        let error = new(&Kernel::new(Family::Laplace, bandwidth), &[]);
        assert_eq!(error, TileError::Bandwidth { bandwidth });
    }
    assert!(matches!(new(&Kernel::new(Family::Laplace, f64::NAN), &[]), TileError::Bandwidth { .. }));
    let gaussian = Kernel::new(Family::Gaussian, 1.0);
    assert_eq!(new(&gaussian, &[0.0]), TileError::Offset { given: 1, numeric_width: 2 });
    let infinite = TileError::NonFiniteOffset { column: 1, value: f32::INFINITY };
    assert_eq!(new(&gaussian, &[0.0, f32::INFINITY]), infinite);
    let metric = |metric| Kernel { metric, ..gaussian.clone() };
    let short = metric(Metric::PerFeature { numeric: vec![1.0], categorical: vec![1.0] });
    assert_eq!(new(&short, &[]), TileError::ScaleCount { part: "numeric", given: 1, width: 2 });
    let zero = metric(Metric::PerFeature { numeric: vec![1.0, 1.0], categorical: vec![0.0] });
    assert_eq!(new(&zero, &[]), TileError::Scale { part: "categorical", column: 0, value: 0.0 });
    let map = metric(Metric::Full { map: vec![1.0; 3], rows: 2, categorical: vec![1.0] });
    assert_eq!(new(&map, &[]), TileError::MapShape { given: 3, rows: 2, numeric_width: 2 });
    let map = metric(Metric::Full { map: vec![1.0, f64::INFINITY], rows: 1, categorical: vec![1.0] });
    assert_eq!(new(&map, &[]), TileError::MapValue { index: 1, value: f64::INFINITY });
    let power = Kernel::new(Family::Polynomial { degree: 2, offset: -1.0 }, 1.0);
    assert_eq!(new(&power, &[]), TileError::Family { parameter: "offset", value: -1.0 });
    for (smoothness, dimension, parameter, value) in [(3, 3, "smoothness", 3.0), (2, 0, "dimension", 0.0)] {
        let compact = Kernel::new(Family::Wendland { smoothness, dimension }, 1.0);
        assert_eq!(new(&compact, &[]), TileError::Family { parameter, value });
    }
    let shallow = Kernel::new(Family::Ntk { depth: 0 }, 1.0);
    assert_eq!(new(&shallow, &[]), TileError::Family { parameter: "depth", value: 0.0 });
    let mut centers = rows.clone();
    centers.numeric[3] = f32::INFINITY;
    let error = Tiles::<f64>::new(&gaussian, centers.view(), &[], simd).unwrap_err();
    assert_eq!(error, TileError::NonFiniteCenter { row: 1, column: 1, value: f32::INFINITY });
}

#[test]
fn packed_centers_take_what_was_promised() {
    for (m, d, codes) in [(1, 1, 0), (17, 0, 3), (200, 11, 2), (257, 30, 0)] {
        let centers = random_rows("memory", m, d, codes);
        for simd in SimdPath::available() {
            let tiles = Tiles::<f32>::new(&Kernel::new(Family::Gaussian, 1.0), centers.view(), &[], simd).unwrap();
            let used = tiles.stride() * tiles.form.depth() * 4;
            assert!(used <= Tiles::<f32>::memory_bytes(m, d, codes));
        }
    }
}
