//! Rates of kernel products by several threads at once, beside the multiply-add peak of as many threads: what `benches/peers` sets beside other libraries.
//!
//! `cargo bench -p nystream-kernels --bench threads -- --threads 2 --d 10,90 --rows 65536 --centers 4096 [--data FOLDER]`: gaussian K v, each
//! thread over its part of the rows, one JSON object a line. With `--data` the rows are those of FOLDER/x.D.f32, the centers of FOLDER/z.D.f32 and the vector of
//! FOLDER/v.D.f32 (little-endian f32, row by row; 1 / (2 sigma^2) is 1 / (2 D)), and the product goes to
//! FOLDER/kv.D.f32 and, summed in f64, FOLDER/kv.D.f64. `--d 0` measures the peak alone.
#![allow(clippy::print_stdout, missing_docs)]

use nystream_hashing::{RowId, StreamKey};
use nystream_kernels::kernel::{Family, Kernel};
use nystream_kernels::rows::Rows;
use nystream_kernels::tile::{Entry, SimdPath, TileScratch, Tiles, multiply_adds};
use std::path::Path;
use std::time::Instant;

/// Some 30 ms a thread, beside which its start is short.
const ROUNDS: u64 = 4_000_000;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1));
    let number = |name: &str, default| option(name).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (threads, repeats) = (number("--threads", 2), number("--repeats", 5));
    let (len, centers) = (number("--rows", 65_536), number("--centers", 4096));
    let simd = SimdPath::detect();
    let peaks = [peak::<f32>(simd, threads, repeats), peak::<f64>(simd, threads, repeats)];
    println!(r#"{{"simd": "{simd}", "threads": {threads}, "peak_f32": {:e}, "peak_f64": {:e}}}"#, peaks[0], peaks[1]);
    let features = option("--d").map_or("10,30,90,784", String::as_str).split(',');
    for d in features.filter_map(|d| d.parse::<usize>().ok()).filter(|&d| d > 0) {
        let values = |name: &str, len: usize| match option("--data") {
            Some(folder) => read(&Path::new(folder).join(format!("{name}.{d}.f32")), len),
            None => Ok(normals(name, len)),
        };
        let (x, z, v) = (values("x", len * d)?, values("z", centers * d)?, values("v", centers)?);
        let kernel = Kernel::new(Family::Gaussian, (d as f64).sqrt());
        let Ok(tiles) = Tiles::<f32>::new(&kernel, Rows::new(&z, d, &[], 0), &[], simd) else { continue };
        let wide: Vec<f64> = v.iter().map(|&v| f64::from(v)).collect();
        let (mut out, mut out64) = (vec![0f32; len], vec![0f64; len]);
        let part = len.div_ceil(threads);
        let f32_sums = best(repeats, || {
            std::thread::scope(|scope| {
                for (x, out) in x.chunks(part * d).zip(out.chunks_mut(part)) {
                    let (tiles, v) = (&tiles, &v);
                    scope.spawn(move || tiles.k_v_f32(Rows::new(x, d, &[], 0), v, &mut TileScratch::new(), out));
                }
            });
        });
        let f64_sums = best(repeats, || {
            std::thread::scope(|scope| {
                for (x, out) in x.chunks(part * d).zip(out64.chunks_mut(part)) {
                    let (tiles, v) = (&tiles, &wide);
                    scope.spawn(move || tiles.k_v(Rows::new(x, d, &[], 0), v, 1, &mut TileScratch::new(), out));
                }
            });
        });
        println!(
            r#"{{"d": {d}, "rows": {len}, "centers": {centers}, "f32_sums": {f32_sums:e}, "f64_sums": {f64_sums:e}}}"#
        );
        if let Some(folder) = option("--data") {
            let (out, out64): (Vec<_>, Vec<_>) =
                (out.iter().map(|v| v.to_le_bytes()).collect(), out64.iter().map(|v| v.to_le_bytes()).collect());
            std::fs::write(Path::new(folder).join(format!("kv.{d}.f32")), out.as_flattened())?;
            std::fs::write(Path::new(folder).join(format!("kv.{d}.f64")), out64.as_flattened())?;
        }
    }
    Ok(())
}

/// The least seconds of some runs, after one that is not counted.
fn best(repeats: usize, mut run: impl FnMut()) -> f64 {
    run();
    let seconds = |()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    std::iter::repeat_n((), repeats).map(seconds).fold(f64::INFINITY, f64::min)
}

/// Flop/s of multiply-adds of all threads together.
fn peak<T: Entry>(simd: SimdPath, threads: usize, repeats: usize) -> f64 {
    let operations = multiply_adds::<T>(simd, ROUNDS).map_or(0, |(operations, _)| operations);
    let seconds = best(repeats, || {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| std::hint::black_box(multiply_adds::<T>(simd, ROUNDS).map(|(_, value)| value)));
            }
        });
    });
    operations as f64 * threads as f64 / seconds
}

fn read(path: &Path, len: usize) -> std::io::Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    if bytes.len() != 4 * len {
        let message = format!("{} has {} bytes, not {}", path.display(), bytes.len(), 4 * len);
        return Err(std::io::Error::other(message));
    }
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn normals(stage: &str, len: usize) -> Vec<f32> {
    let key = StreamKey::new(1, stage, 0);
    (0..len).map(|i| key.normal_pair(RowId(i as u128)).0 as f32).collect()
}
