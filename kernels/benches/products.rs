//! Rates of kernel products on one core, beside the multiply-add peak of the same run.
//!
//! `cargo bench -p nystream-kernels --bench products [-- FILTER]`: entries per second for K v and K^T(K v) (f32 and f64 sums), K^T Y with
//! several columns, gradients and their outer products, by number of features; each as a share of the peak in flop/s, which is what a target is stated in.
#![allow(clippy::print_stdout, missing_docs)]

use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::rows::{RowBuf, Rows};
use nystream_kernels::tile::{Entry, Gradients, SimdPath, TileScratch, Tiles, multiply_adds};
use std::time::{Duration, Instant};

const CENTERS: usize = 4096;
/// Short samples, of which the least counts: what other processes take is left out.
const ROWS: usize = 384;

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|f| name.contains(f.as_str()));
    for simd in SimdPath::available() {
        let (peak32, peak64) = (peak::<f32>(simd), peak::<f64>(simd));
        println!("{simd}: multiply-add peak {:.1} GF f32, {:.1} GF f64", peak32 / 1e9, peak64 / 1e9);
        println!("{:32} {:>5} {:>12} {:>12} {:>10}", "product", "d", "Gentries/s", "/ peak", "f32 sums");
        for d in
            [3, 10, 32, 90].into_iter().filter(|d| filter.iter().all(|f| f.parse::<usize>().map_or(true, |n| n == *d)))
        {
            for (family, name) in [(Family::Gaussian, "gaussian"), (Family::Laplace, "laplace")] {
                if wanted(name) && (simd != SimdPath::Portable || wanted("portable")) {
                    run::<f32>(simd, family, name, d, peak32, &wanted);
                }
            }
            if wanted("f64") && simd != SimdPath::Portable {
                run::<f64>(simd, Family::Gaussian, "f64 gaussian", d, peak64, &wanted);
            }
        }
    }
}

fn run<T: Entry>(simd: SimdPath, family: Family, name: &str, d: usize, peak: f64, wanted: &dyn Fn(&str) -> bool) {
    let (x, z) = (rows("x", ROWS, d), rows("z", CENTERS, d));
    let kernel = Kernel::new(family, (2.0 * d as f64).sqrt());
    let Ok(tiles) = Tiles::<T>::new(&kernel, z.view(), &[], simd) else { return };
    let mut scratch = TileScratch::new();
    let x: Rows<'_> = x.view();
    let mut first = None;
    let mut report = |what: &str, seconds: f64| {
        let rate = (ROWS * CENTERS) as f64 / seconds;
        let first = *first.get_or_insert(rate);
        let what = format!("{name} {what}");
        println!("{what:32} {d:>5} {:>12.3} {:>12.5} {:>10.2}", rate / 1e9, rate / peak, rate / first);
    };
    let (v, v32) = (values(CENTERS * 16), values(CENTERS).iter().map(|&v| v as f32).collect::<Vec<_>>());
    let mut out32 = vec![0f32; ROWS];
    report("K v, f32 sums", best(|| tiles.k_v_f32(x, &v32, &mut scratch, &mut out32)));
    let mut block = vec![T::default(); 96 * tiles.stride()];
    if wanted("block") {
        let part = x.slice(0, 18);
        let out = &mut block[..18 * tiles.stride()];
        report("block (18 rows)", best(|| tiles.block(part, &mut scratch, out)) * ROWS as f64 / 18.0);
    }
    let mut out = vec![0f64; ROWS * 16];
    let mut acc = vec![0f64; CENTERS * 16];
    report("K v, f64 sums", best(|| tiles.k_v(x, &v[..CENTERS], 1, &mut scratch, &mut out[..ROWS])));
    let mut acc32 = vec![0f32; CENTERS];
    report("K^T(K v), f32 sums", best(|| tiles.kt_kv_f32(x, None, &v32, &mut scratch, &mut acc32)));
    report("K^T(K v)", best(|| tiles.kt_kv(x, None, &v[..CENTERS], 1, &mut scratch, &mut acc[..CENTERS])));
    if wanted("symmetric") {
        // The rows in the middle, which stand for all: half of the centers are before them.
        let first = (CENTERS - ROWS) / 2;
        let middle = z.view().slice(first, first + ROWS);
        let run = || tiles.symmetric_k_v(middle, first, &v[..CENTERS], 1, &mut scratch, &mut acc[..CENTERS]);
        report("symmetric K v, f64 sums", best(run));
    }
    if let Ok(gradients) = Gradients::new(&tiles, &v[..CENTERS], 1) {
        let mut out = vec![0f64; ROWS * d];
        report("gradients", best(|| gradients.at(x, &mut scratch, &mut out)));
        let mut outer = vec![0f64; d * d];
        report("outer products", best(|| gradients.add_outer(x, None, &mut scratch, &mut outer)));
    }
    for t in [4, 16] {
        let what = format!("K^T(K V), {t} columns");
        let (v, acc) = (&v[..CENTERS * t], &mut acc[..CENTERS * t]);
        report(&what, best(|| tiles.kt_kv(x, None, v, t, &mut scratch, acc)));
    }
}

/// The least time of a few runs.
fn best(mut f: impl FnMut()) -> f64 {
    let (mut least, start) = (f64::INFINITY, Instant::now());
    f();
    while start.elapsed() < Duration::from_millis(120) {
        let once = Instant::now();
        f();
        least = least.min(once.elapsed().as_secs_f64());
    }
    least
}

fn peak<T: Entry>(simd: SimdPath) -> f64 {
    let mut operations = 0;
    let seconds = best(|| {
        if let Ok((done, value)) = multiply_adds::<T>(simd, 20_000) {
            operations = done;
            std::hint::black_box(value);
        }
    });
    operations as f64 / seconds
}

fn values(len: usize) -> Vec<f64> {
    let key = StreamKey::new(1, "values", 0);
    (0..len).map(|i| key.normal_pair(RowId(i as u128)).0).collect()
}

fn rows(stage: &str, len: usize, d: usize) -> RowBuf {
    let key = StreamKey::new(1, stage, 0);
    let numeric = (0..len * d).map(|i| key.normal_pair(RowId(i as u128)).0 as f32).collect();
    RowBuf { numeric, numeric_width: d, codes: Vec::new(), code_width: 0 }
}
