//! Exact Gram beside a plain f64 GEMM and the f64 multiply-add peak of the same run: rates and ratios.
//!
//! `cargo bench -p nystream-kernels --bench gram -- 2048 4096`

#![allow(clippy::print_stdout)]

use faer::Mat;
use nystream_kernels::dense::{SEQUENTIAL, gemm};
use nystream_kernels::exact_sum::ExactSum;
use nystream_kernels::gram::{ExactGram, GramScratch, GramShape, Precision};
use nystream_kernels::tile::{SimdPath, multiply_adds};
use std::time::Instant;

fn main() {
    let terms: Vec<f64> = (1..1_000_000).map(|i| (i as f64).sin() * 1e3).collect();
    for (name, add) in [("add", ExactSum::add as fn(&mut ExactSum, f64)), ("add_product", |s, x| s.add_product(x, x))] {
        let mut sum = ExactSum::new();
        let rate = best(3, terms.len() as f64, || terms.iter().for_each(|&x| add(&mut sum, x)));
        println!("ExactSum::{name}: {:.2} ns", 1.0 / rate);
    }
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![512, 2048, 4096] } else { sizes };
    let n = 1024;
    let (a, b) = (Mat::from_fn(n, n, |i, j| (i * j % 7) as f64), Mat::from_fn(n, n, |i, j| (i + j) as f64));
    let mut c = Mat::zeros(n, n);
    let gemm_flops = 2.0 * (n as f64).powi(3);
    for m in sizes {
        let rows = 2048;
        let k: Vec<f32> = (0..rows * m)
            .map(|i| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 16_777_216.0)
            .collect();
        let y = vec![0.5; rows];
        for (precision, products) in [(Precision::Single, 1.0), (Precision::Double, 3.0)] {
            let gram = ExactGram::new(GramShape { centers: m, targets: 1, precision, scale_log2: 0 });
            let mut scratch = GramScratch::default();
            let flops = rows as f64 * (m * (m + 1)) as f64;
            let mut gemm_rate: f64 = 0.0;
            let mut rate: f64 = 0.0;
            let mut peak: f64 = 0.0;
            // Alternating, so that a busy machine flatters neither.
            for _ in 0..3 {
                for _ in 0..20 {
                    let start = Instant::now();
                    let Ok((operations, value)) = multiply_adds::<f64>(SimdPath::detect(), 20_000) else { return };
                    std::hint::black_box(value);
                    peak = peak.max(operations as f64 / start.elapsed().as_secs_f64() / 1e9);
                }
                gemm_rate = gemm_rate.max(best(1, gemm_flops, || {
                    gemm(c.as_mut(), false, 1.0, a.as_ref(), b.as_ref(), SEQUENTIAL);
                }));
                rate = rate.max(best(1, flops, || {
                    gram.add(&mut scratch, &k, m, rows, None, &y).expect("entries are in range");
                }));
            }
            let (of_peak, of_gemm) = (100.0 * rate * products / peak, 100.0 * rate * products / gemm_rate);
            println!(
                "m {m} {precision:?}: {rate:.2} GF, with {products} products {of_peak:.1} % of the peak {peak:.1}, {of_gemm:.1} % of the f64 GEMM {n} ({gemm_rate:.1})"
            );
        }
    }
}

/// Best rate of a few runs, in Gflop/s.
fn best(times: usize, flops: f64, mut run: impl FnMut()) -> f64 {
    run();
    (0..times)
        .map(|_| {
            let start = Instant::now();
            run();
            flops / start.elapsed().as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max)
}
