//! Sparse against dense products: 3-D points uniform in a cube, a bandwidth of 1 % of the extent.
//!
//! `cargo bench -p nystream-kernels --bench sparse [-- ROWS CENTERS]` (1,000,000 and 100,000): seconds for K v and K^T(K v) over all rows on one core, in calls of 2,048 rows, beside the
//! dense products, of which a few calls are measured and scaled up; the certified bound, and the true error in f64 on the rows of one call. Then the share of entries kept at which
//! sparse products take as long as dense ones: `SPARSE_GAIN`.
//!
//! `-- budgets [ROWS CENTERS]` (100,000 and 100,000, with the tolerance of 1,000,000 rows): the cutoff beside budgets of rows that leave out, for any V and for the one at hand, and that draw: entries a row,
//! nanoseconds of the thread a row for K v and K^T(K v), and the error in f64 beside its bound, relative to what is allowed.
#![allow(clippy::print_stdout, missing_docs)]

use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::constants::SUM_BLOCK_ROWS;
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::tile::{
    Budget, DrawnRows, Entry, Missing, SimdPath, SparseScratch, SparseTiles, TileError, TileScratch, Tiles, norm_cutoff,
};
use std::time::Instant;

/// |K v - y|_2 over |v|_2 that is asked for.
const EPSILON: f64 = 1e-3;
const BANDWIDTH: f64 = 0.01;
/// Dense calls that are measured; the least counts.
const DENSE_CALLS: usize = 3;

fn main() -> Result<(), TileError> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if std::env::args().any(|argument| argument == "budgets") {
        return budgets(numbers.first().copied().unwrap_or(100_000), numbers.get(1).copied().unwrap_or(100_000));
    }
    let (n, m) = (numbers.first().copied().unwrap_or(1_000_000), numbers.get(1).copied().unwrap_or(100_000));
    let (x, z) = (cube("x", n), cube("z", m));
    let key = StreamKey::new(1, "values", 0);
    let v: Vec<f64> = (0..m).map(|i| key.normal_pair(RowId(i as u128)).0).collect();
    println!("{n} rows, {m} centers, {}, one core; f32 entries, f64 sums", SimdPath::detect());
    let gaussian = norm_cutoff(EPSILON, n as u64, m);
    run::<f32>("gaussian", Family::Gaussian, BANDWIDTH, gaussian, &x, &z, &v)?;
    // A support in which the gaussian has fallen to 1e-2.
    run::<f32>("wendland2", Family::Wendland { smoothness: 2, dimension: 3 }, 3.0 * BANDWIDTH, 0.0, &x, &z, &v)?;
    for (d, columns) in [(3, 1), (3, 8), (10, 1), (10, 8)] {
        break_even::<f32>(d, columns)?;
    }
    Ok(())
}

/// Seconds of sparse over those of dense products, at several shares of entries kept: `columns` vectors, points of `d` coordinates of which three matter.
fn break_even<T: Entry>(d: usize, columns: usize) -> Result<(), TileError> {
    let (n, m, simd) = (4 * SUM_BLOCK_ROWS, 16_384, SimdPath::detect());
    let flat = |stage: &str, len: usize| {
        let key = StreamKey::new(2, stage, 0);
        let value = |i: usize| key.uniform(RowId(i as u128)) as f32 * if i % d < 3 { 1.0 } else { 0.01 };
        RowBuf { numeric: (0..len * d).map(value).collect(), numeric_width: d, codes: Vec::new(), code_width: 0 }
    };
    let (x, z) = (flat("x", n), flat("z", m));
    let v: Vec<f64> = (0..m * columns).map(|i| (i as f64).sin()).collect();
    println!("d = {d}, {columns} columns: share kept, sparse over dense K v, K^T(K v)");
    for bandwidth in [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0] {
        let kernel = Kernel::new(Family::Wendland { smoothness: 2, dimension: d as u32 }, bandwidth);
        let sparse = SparseTiles::<T>::new(&kernel, z.view(), &[], simd, 0.0)?;
        let dense = Tiles::<T>::new(&kernel, z.view(), &[], simd)?;
        let vectors = sparse.vectors(&v, columns);
        let (mut s, mut t) = (SparseScratch::new(), TileScratch::new());
        let (mut y, mut bounds, mut acc) = (vec![0.0; n * columns], vec![0.0; n * columns], vec![0.0; m * columns]);
        let mut best = [f64::INFINITY; 4];
        let mut entries = 0;
        for _ in 0..DENSE_CALLS {
            let mut lap = |at: usize, work: &mut dyn FnMut()| {
                let clock = Instant::now();
                work();
                best[at] = best[at].min(clock.elapsed().as_secs_f64());
            };
            lap(0, &mut || entries = sparse.k_v(x.view(), &vectors, &mut s, &mut y, &mut bounds));
            lap(1, &mut || dense.k_v(x.view(), &v, columns, &mut t, &mut y));
            let block = x.view().slice(0, SUM_BLOCK_ROWS);
            lap(2, &mut || {
                sparse.map_rows(block, Some(&vectors), columns, &mut s, &mut acc, |_, kv, _, u| u.copy_from_slice(kv));
            });
            lap(3, &mut || dense.kt_kv(block, None, &v, columns, &mut t, &mut acc));
        }
        let share = entries as f64 / (n * m) as f64;
        println!("  {share:.3}  {:.2}  {:.2}", best[0] / best[1], best[2] / best[3]);
    }
    Ok(())
}

fn run<T: Entry>(
    name: &str,
    family: Family,
    bandwidth: f64,
    cutoff: f64,
    x: &RowBuf,
    z: &RowBuf,
    v: &[f64],
) -> Result<(), TileError> {
    let (kernel, simd, n) = (Kernel::new(family, bandwidth), SimdPath::detect(), x.len());
    let calls = || (0..n).step_by(SUM_BLOCK_ROWS).map(|start| (start, (start + SUM_BLOCK_ROWS).min(n)));
    let clock = Instant::now();
    let sparse = SparseTiles::<T>::new(&kernel, z.view(), &[], simd, cutoff)?;
    let vectors = sparse.vectors(v, 1);
    let setup = clock.elapsed().as_secs_f64();
    let mut scratch = SparseScratch::new();
    let (mut y, mut bounds, mut acc) = (vec![0.0; n], vec![0.0; n], vec![0.0; z.len()]);
    let clock = Instant::now();
    let mut entries = 0;
    for (start, end) in calls() {
        let rows = x.view().slice(start, end);
        entries += sparse.k_v(rows, &vectors, &mut scratch, &mut y[start..end], &mut bounds[start..end]);
    }
    let forward = clock.elapsed().as_secs_f64();
    let clock = Instant::now();
    for (start, end) in calls() {
        let rows = x.view().slice(start, end);
        sparse.map_rows(rows, Some(&vectors), 1, &mut scratch, &mut acc, |_, kv, _, u| u[0] = kv[0]);
    }
    let both = clock.elapsed().as_secs_f64();

    let dense = Tiles::<T>::new(&kernel, z.view(), &[], simd)?;
    let mut dense_scratch = TileScratch::new();
    let mut part = vec![0.0; SUM_BLOCK_ROWS.min(n)];
    let (mut dense_forward, mut dense_both) = (f64::INFINITY, f64::INFINITY);
    for (start, end) in calls().take(DENSE_CALLS) {
        let (rows, part, scale) =
            (x.view().slice(start, end), &mut part[..end - start], n as f64 / (end - start) as f64);
        let clock = Instant::now();
        dense.k_v(rows, v, 1, &mut dense_scratch, part);
        dense_forward = dense_forward.min(clock.elapsed().as_secs_f64() * scale);
        let clock = Instant::now();
        dense.kt_kv(rows, None, v, 1, &mut dense_scratch, &mut acc);
        dense_both = dense_both.min(clock.elapsed().as_secs_f64() * scale);
    }
    println!("{name}, bandwidth {bandwidth}, cutoff {cutoff:.1e}: order and pack {setup:.2} s");
    println!("  {:.1} entries kept of {} a row", entries as f64 / n as f64, z.len());
    println!("  K v       {forward:8.2} s, dense {dense_forward:8.1} s: {:6.1} times", dense_forward / forward);
    println!("  K^T(K v)  {both:8.2} s, dense {dense_both:8.1} s: {:6.1} times", dense_both / both);
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let certified = norm(&bounds) / norm(v);
    println!("  certified |K v - y| <= {certified:.2e} |v|, asked for {EPSILON:.0e} |v|");

    // The truth, of the rows of one call.
    let rows = x.view().slice(0, SUM_BLOCK_ROWS.min(n));
    let exact = Tiles::<f64>::new(&kernel, z.view(), &[], simd)?;
    let wide = SparseTiles::<f64>::new(&kernel, z.view(), &[], simd, cutoff)?;
    let (mut truth, mut found, mut bound) = (part.clone(), part.clone(), part);
    exact.k_v(rows, v, 1, &mut TileScratch::new(), &mut truth);
    wide.k_v(rows, &wide.vectors(v, 1), &mut SparseScratch::new(), &mut found, &mut bound);
    let errors: Vec<f64> = truth.iter().zip(&found).map(|(a, b)| (a - b).abs()).collect();
    // Besides what is left out, sums of some hundred terms are rounded.
    let rounding = 1e-13;
    let within = errors.iter().zip(&bound).filter(|(error, bound)| **error <= **bound + rounding).count();
    println!(
        "  {within} of {} rows within their bounds; error {:.2e}, bound {:.2e} (norms over these rows)",
        rows.len(),
        norm(&errors),
        norm(&bound)
    );
    Ok(())
}

/// Rows that the tolerance of `budgets` is for.
const ALL_ROWS: u64 = 1_000_000;

/// The certified cutoff beside budgets of rows. Seconds are those of the thread: others may work beside it.
fn budgets(n: usize, m: usize) -> Result<(), TileError> {
    let (x, z, simd) = (cube("x", n), cube("z", m), SimdPath::detect());
    let ids: Vec<RowId> = (0..n as u128).map(RowId).collect();
    let key = StreamKey::new(1, "values", 0);
    let v: Vec<f64> = (0..m).map(|i| key.normal_pair(RowId(i as u128)).0).collect();
    println!(
        "{n} rows of {ALL_ROWS}, {m} centers, {simd}, f32 entries; entries a row, thread ns a row of K v and K^T(K v), error and bound of the tolerance"
    );
    for (name, family) in [("gaussian", Family::Gaussian), ("matern32", Family::Matern32), ("laplace", Family::Laplace)]
    {
        for (bandwidth, epsilon) in [(0.01, 1e-3), (0.01, 1e-1), (0.03, 1e-3), (0.03, 1e-1)] {
            println!("{name}, bandwidth {bandwidth}, tolerance {epsilon:.0e}");
            let kernel = Kernel::new(family, bandwidth);
            // The truth, of the rows of one call.
            let few = x.view().slice(0, SUM_BLOCK_ROWS.min(n) / 4);
            let mut truth = vec![0.0; few.len()];
            Tiles::<f64>::new(&kernel, z.view(), &[], simd)?.k_v(few, &v, 1, &mut TileScratch::new(), &mut truth);
            for mode in ["certified", "any v, left out", "this v, left out", "this v, drawn"] {
                let draws = (mode == "this v, drawn").then(|| StreamKey::new(0, "sparse products", 0));
                let margin = if draws.is_some() { Budget::margin(ALL_ROWS) } else { 1.0 };
                let cutoff = norm_cutoff(margin * epsilon, ALL_ROWS, m);
                let rows = DrawnRows { rows: x.view(), ids: &ids };
                let (kv, both, entries, _) =
                    in_mode::<f32>((&kernel, z.view(), cutoff), mode, draws, epsilon, rows, &v)?;
                let rows = rows.slice(0, few.len());
                let (.., errors) = in_mode::<f64>((&kernel, z.view(), cutoff), mode, draws, epsilon, rows, &v)?;
                let (found, bound) = errors;
                let off: Vec<f64> = truth.iter().zip(&found).map(|(a, b)| a - b).collect();
                let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
                let allowed = epsilon * (few.len() as f64 / ALL_ROWS as f64).sqrt() * norm(&v);
                println!(
                    "  {mode:17} {entries:8.0} entries {kv:8.0} {both:8.0} ns  error {:.1e} bound {:.2}",
                    norm(&off) / allowed,
                    bound.sqrt() * norm(&v) / allowed
                );
            }
        }
    }
    Ok(())
}

/// Nanoseconds a row of both products, entries a row; the products, and the sum of their squared errors that is allowed for.
type InMode = (f64, f64, f64, (Vec<f64>, f64));

/// What the products of `rows` take and give in a mode.
fn in_mode<T: Entry>(
    (kernel, z, cutoff): (&Kernel, Rows<'_>, f64),
    mode: &str,
    draws: Option<StreamKey>,
    epsilon: f64,
    rows: DrawnRows<'_>,
    v: &[f64],
) -> Result<InMode, TileError> {
    let mut tiles = SparseTiles::<T>::new(kernel, z, &[], SimdPath::detect(), cutoff)?;
    let vectors = tiles.vectors(v, 1);
    if mode != "certified" {
        let known = (mode != "any v, left out").then_some(&vectors);
        let budget = Budget::new(&tiles, (epsilon, ALL_ROWS), known, draws);
        tiles = tiles.within(budget);
    }
    let (n, mut scratch) = (rows.rows.len(), SparseScratch::new());
    let (mut y, mut square, mut entries, mut acc) = (vec![0.0; n], 0.0, 0, vec![0.0; z.len()]);
    let size = vectors.norms()[0];
    let mut calls = |s: usize, each: &mut dyn FnMut(usize, f64, Missing<'_>)| {
        let clock = thread_seconds();
        for start in (0..n).step_by(SUM_BLOCK_ROWS) {
            let part = rows.slice(start, (start + SUM_BLOCK_ROWS).min(n));
            let acc = &mut acc[..s * z.len()];
            entries += tiles.map_rows(part, Some(&vectors), s, &mut scratch, acc, |i, kv, missing, u| {
                u.copy_from_slice(&kv[..s]);
                each(start + i, kv[0], missing);
            });
        }
        1e9 * (thread_seconds() - clock) / n as f64
    };
    let kv = calls(0, &mut |i, value, missing| {
        y[i] = value;
        square += (missing.bounds[0] / size).powi(2) + missing.spread.variance;
    });
    let both = calls(1, &mut |_, _, _| {});
    Ok((kv, both, entries as f64 / (2 * n) as f64, (y, square)))
}

/// Seconds that this thread has had a processor, where the system tells (Linux); else of the clock.
fn thread_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
    nanoseconds.map_or_else(clock, |ns| 1e-9 * ns)
}

/// Points uniform in the unit cube.
fn cube(stage: &str, len: usize) -> RowBuf {
    let key = StreamKey::new(1, stage, 0);
    let numeric = (0..len * 3).map(|i| key.uniform(RowId(i as u128)) as f32).collect();
    RowBuf { numeric, numeric_width: 3, codes: Vec::new(), code_width: 0 }
}
