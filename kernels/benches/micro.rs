//! Criterion micro-benches of the parts that everything else is made of, each on one core, on the fastest dispatch path.
//!
//! `cargo bench -p nystream-kernels --bench micro -- FILTER`, where FILTER is a part of a name: `functions`, `tiles`, `products`, `gradients`, `gram`, `sparse`, `dense`, or
//! `functions/laplace/f32`, `dense/cholesky` and the like. Quick by default: half a second a benchmark, all in about a minute. For a comparison, save what is there with
//! `-- --save-baseline before`, make the change, and look with `-- --baseline before`; `--measurement-time 5` for differences of a few percent. What is printed as elements is
//! kernel entries (`functions`, `tiles`, `products`, `gradients`, `sparse`), or flops (`gram`, `dense`).
//!
//! `products` (beside the peak of the same run) and `gram` have the numbers that BENCHMARKS.md states; this one is for finding what a change did.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use faer::Mat;
use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::dense::{SEQUENTIAL, cholesky, gemm, solve_lower, symmetric_eigen};
use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, Precision};
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::rows::RowBuf;
use nystream_kernels::tile::{Entry, Gradients, SimdPath, SparseScratch, SparseTiles, TileScratch, Tiles};
use std::hint::black_box;
use std::time::Duration;

const ROWS: usize = 96;
const CENTERS: usize = 1024;

const FAMILIES: [(&str, Family); 10] = [
    ("gaussian", Family::Gaussian),
    ("laplace", Family::Laplace),
    ("matern32", Family::Matern32),
    ("matern52", Family::Matern52),
    ("cauchy", Family::Cauchy),
    ("wendland2", Family::Wendland { smoothness: 2, dimension: 3 }),
    ("wendland4", Family::Wendland { smoothness: 4, dimension: 3 }),
    ("polynomial3", Family::Polynomial { degree: 3, offset: 1.0 }),
    // An arc sine and a root a layer.
    ("arccosine1", Family::ArcCosine { depth: 1 }),
    ("ntk1", Family::Ntk { depth: 1 }),
];

fn rows(stage: &str, len: usize, d: usize) -> RowBuf {
    let key = StreamKey::new(1, stage, 0);
    let numeric = (0..len * d).map(|i| key.normal_pair(RowId(i as u128)).0 as f32).collect();
    RowBuf { numeric, numeric_width: d, codes: Vec::new(), code_width: 0 }
}

fn values(len: usize) -> Vec<f64> {
    let key = StreamKey::new(1, "values", 0);
    (0..len).map(|i| key.normal_pair(RowId(i as u128)).0).collect()
}

fn tiles<T: Entry>(family: Family, d: usize) -> Tiles<T> {
    let kernel = Kernel::new(family, (2.0 * d as f64).sqrt());
    Tiles::new(&kernel, rows("z", CENTERS, d).view(), &[], SimdPath::detect()).expect("a sound kernel")
}

/// Entries into memory: with one feature, little but the family's function.
fn blocks<T: Entry>(c: &mut Criterion, precision: &str) {
    let mut group = c.benchmark_group("functions");
    group.throughput(Throughput::Elements((ROWS * CENTERS) as u64));
    let mut entries = vec![T::default(); ROWS * CENTERS];
    for (name, family) in FAMILIES {
        let (tiles, x, mut scratch) = (tiles::<T>(family, 1), rows("x", ROWS, 1), TileScratch::new());
        group.bench_function(format!("{name}/{precision}"), |b| {
            b.iter(|| tiles.block(x.view(), &mut scratch, &mut entries));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("tiles");
    group.throughput(Throughput::Elements((ROWS * CENTERS) as u64));
    for d in [3, 10, 32, 90] {
        let (tiles, x, mut scratch) = (tiles::<T>(Family::Gaussian, d), rows("x", ROWS, d), TileScratch::new());
        group.bench_function(format!("d{d}/{precision}"), |b| {
            b.iter(|| tiles.block(x.view(), &mut scratch, &mut entries));
        });
    }
    group.finish();
}

fn entries(c: &mut Criterion) {
    blocks::<f32>(c, "f32");
    blocks::<f64>(c, "f64");
}

fn products(c: &mut Criterion) {
    let v = values(CENTERS * 8);
    let v32: Vec<f32> = v[..CENTERS].iter().map(|&v| v as f32).collect();
    for d in [10, 90] {
        let (tiles, x) = (tiles::<f32>(Family::Gaussian, d), rows("x", ROWS, d));
        let (x, mut scratch) = (x.view(), TileScratch::new());
        let mut group = c.benchmark_group("products");
        group.throughput(Throughput::Elements((ROWS * CENTERS) as u64));
        let (mut out32, mut acc32) = (vec![0f32; ROWS], vec![0f32; CENTERS]);
        group.bench_function(format!("k_v_f32/d{d}"), |b| b.iter(|| tiles.k_v_f32(x, &v32, &mut scratch, &mut out32)));
        group.bench_function(format!("kt_kv_f32/d{d}"), |b| {
            b.iter(|| tiles.kt_kv_f32(x, None, &v32, &mut scratch, &mut acc32));
        });
        for t in [1, 8] {
            let (mut out, mut acc) = (vec![0f64; ROWS * t], vec![0f64; CENTERS * t]);
            let v = &v[..CENTERS * t];
            group.bench_function(format!("k_v/{t}/d{d}"), |b| b.iter(|| tiles.k_v(x, v, t, &mut scratch, &mut out)));
            group.bench_function(format!("kt_kv/{t}/d{d}"), |b| {
                b.iter(|| tiles.kt_kv(x, None, v, t, &mut scratch, &mut acc));
            });
        }
        let z = rows("z", CENTERS, d);
        let (first, mut acc) = ((CENTERS - ROWS) / 2, vec![0f64; CENTERS]);
        let middle = z.view().slice(first, first + ROWS);
        group.bench_function(format!("symmetric_k_v/d{d}"), |b| {
            b.iter(|| tiles.symmetric_k_v(middle, first, &v[..CENTERS], 1, &mut scratch, &mut acc));
        });
        group.finish();
        let mut group = c.benchmark_group("gradients");
        group.throughput(Throughput::Elements((ROWS * CENTERS) as u64));
        let gradients = Gradients::new(&tiles, &v[..CENTERS], 1).expect("a gaussian has gradients");
        let (mut out, mut outer) = (vec![0f64; ROWS * d], vec![0f64; d * d]);
        group.bench_function(format!("at/d{d}"), |b| b.iter(|| gradients.at(x, &mut scratch, &mut out)));
        group.bench_function(format!("add_outer/d{d}"), |b| {
            b.iter(|| gradients.add_outer(x, None, &mut scratch, &mut outer));
        });
        group.finish();
    }
}

fn gram(c: &mut Criterion) {
    let (m, n) = (512, 1024);
    let k: Vec<f32> = values(n * m).iter().map(|v| (v.abs() as f32).min(1.0)).collect();
    let y = vec![0.5; n];
    let mut group = c.benchmark_group("gram");
    group.throughput(Throughput::Elements((n * m * (m + 1)) as u64));
    for (name, precision) in [("single", Precision::Single), ("double", Precision::Double)] {
        let gram = ExactGram::new(GramShape { centers: m, targets: 1, precision, scale_log2: 0 });
        let mut scratch = GramScratch::default();
        group.bench_function(name, |b| {
            b.iter(|| gram.add(&mut scratch, &k, m, n, None, &y).expect("entries are in range"));
        });
    }
    group.finish();
}

/// Points in three dimensions, of which a row keeps few centers: the walk down the tree and the small tiles.
fn sparse(c: &mut Criterion) {
    let (x, z) = (rows("x", 2048, 3), rows("z", 8192, 3));
    let mut group = c.benchmark_group("sparse");
    group.throughput(Throughput::Elements((x.len() * z.len()) as u64));
    let v = values(z.len());
    for (name, bandwidth) in [("narrow", 0.02), ("wide", 0.2)] {
        let kernel = Kernel::new(Family::Gaussian, bandwidth);
        let tiles = SparseTiles::<f32>::new(&kernel, z.view(), &[], SimdPath::detect(), 1e-9).expect("a sound kernel");
        let (vectors, mut scratch) = (tiles.vectors(&v, 1), SparseScratch::new());
        let (mut out, mut bounds) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        group.bench_function(format!("k_v/{name}"), |b| {
            b.iter(|| black_box(tiles.k_v(x.view(), &vectors, &mut scratch, &mut out, &mut bounds)));
        });
    }
    group.finish();
}

fn dense(c: &mut Criterion) {
    let m = 384;
    let values = values(m * m);
    let a = Mat::from_fn(m, m, |i, j| values[i * m + j]);
    let mut spd = Mat::from_fn(m, m, |i, j| if i == j { m as f64 } else { 0.0 });
    gemm(spd.as_mut(), true, 1.0, a.as_ref(), a.transpose(), SEQUENTIAL);
    let mut factor = spd.clone();
    cholesky(factor.as_mut(), SEQUENTIAL).expect("positive definite");
    let (mut work, cube) = (spd.clone(), (m * m * m) as u64);
    let mut group = c.benchmark_group("dense");
    group.throughput(Throughput::Elements(2 * cube));
    group.bench_function("gemm", |b| {
        b.iter(|| gemm(work.as_mut(), false, 1.0, a.as_ref(), a.as_ref(), SEQUENTIAL));
    });
    group.throughput(Throughput::Elements(cube / 3));
    group.bench_function("cholesky", |b| {
        b.iter(|| {
            work.copy_from(&spd);
            cholesky(work.as_mut(), SEQUENTIAL).expect("positive definite");
        });
    });
    group.throughput(Throughput::Elements(cube));
    group.bench_function("solve_lower", |b| {
        b.iter(|| {
            work.copy_from(&a);
            solve_lower(factor.as_ref(), work.as_mut(), SEQUENTIAL);
        });
    });
    // Flops of the reduction and its way back, 9 m^3 or so.
    group.throughput(Throughput::Elements(9 * cube));
    group.bench_function("symmetric_eigen", |b| {
        b.iter(|| black_box(symmetric_eigen(spd.as_ref(), SEQUENTIAL).expect("converges")));
    });
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .sample_size(20)
        .without_plots()
}

criterion_group! {
    name = all;
    config = quick();
    targets = entries, products, gram, sparse, dense
}
criterion_main!(all);
