//! Tables, not tests: `cargo test --release -p nystream-kernels --lib online::tests::speed -- --ignored --nocapture`. Timings decide nothing.
#![allow(clippy::print_stdout)]

use super::references::{kernel_sgd, online_ridge};
use super::*;

/// Processor time of this thread in seconds, from the scheduler: other programs on the machine do not count.
pub(super) fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns * 1e-9)
}

#[test]
#[ignore = "a table"]
fn average_loss_by_cap() {
    let stream = Stream::smooth(500, 5000, 10, 0.1);
    let entries = gaussian(4.0);
    let k = stream.kernel_matrix(&entries.kernel);
    let mean = |f: &[f64]| f.iter().zip(&stream.y).map(|(f, y)| (f - y).powi(2)).sum::<f64>() / 5000.0;
    let zero = mean(&[0.0; 5000]);
    for alpha in [0.02, 0.2, 2.0] {
        let exact = mean(&online_ridge(&k, &stream.y, alpha / 2.0));
        println!("alpha {alpha}: zero {zero:.5}, exact online ridge {exact:.5}");
        for growth in [Growth::Carry, Growth::CarryAfter, Growth::Restart] {
            for cap in [128, 256, 512, 1024, 2048] {
                let dictionary = dictionary(0.1 * alpha, cap, 1);
                let mut learner = ProjectedKons::new(
                    ProjectedParams { growth, ..ProjectedParams::new(entries.clone(), dictionary, alpha) },
                    10,
                    0,
                )
                .unwrap();
                learner.learn(&stream.batch()).unwrap();
                learner.flush().unwrap();
                let (info, mean) = (learner.info(), learner.info().mean_loss.unwrap());
                println!(
                    "  {growth:?} cap {cap}: {mean:.5} = {:.3} x exact, atoms {}, d_onl {:.0}, starts {}",
                    mean / exact,
                    info.dictionary,
                    info.online_dimension,
                    info.starts
                );
            }
        }
    }
    for step in [0.02, 0.05, 0.1, 0.2, 0.4] {
        let [decay, constant] = [true, false].map(|decay| mean(&kernel_sgd(&k, &stream.y, Loss::Squared, step, decay)));
        println!("kernel SGD, step {step}: {decay:.5} decaying, {constant:.5} constant");
    }
}

#[test]
#[ignore = "a table"]
fn rows_per_second() {
    for (cap, rows) in [(256, 60_000), (512, 30_000), (1024, 12_000), (2048, 4_000)] {
        for (operation, block, precision) in [
            (Operation::Blocks, 64, crate::gram::Precision::Single),
            (Operation::Blocks, 128, crate::gram::Precision::Single),
            (Operation::Blocks, 256, crate::gram::Precision::Single),
            (Operation::Blocks, 128, crate::gram::Precision::Double),
            (Operation::Rows, 128, crate::gram::Precision::Single),
        ] {
            let rows = if operation == Operation::Rows { rows / 10 } else { rows };
            let stream = Stream::smooth(510, rows + 3 * cap, 10, 0.1);
            let entries = EntryParams { precision, ..gaussian(4.0) };
            let params =
                ProjectedParams { operation, block, ..ProjectedParams::new(entries, dictionary(1e-3, cap, 1), 0.1) };
            let mut learner = ProjectedKons::new(params, 10, 0).unwrap();
            let filled = (0..).step_by(64).find(|&i| {
                learner.learn(&stream.part(i, i + 64)).unwrap();
                learner.info().dictionary == cap
            });
            let from = filled.unwrap() + 64;
            let before = processor_time();
            let outcomes = learner.learn(&stream.part(from, stream.len())).unwrap();
            let time = processor_time() - before;
            println!(
                "dictionary {cap}, {operation:?} of {block}, {precision:?}: {:.0} rows/s ({:.1} us a row)",
                outcomes.len() as f64 / time,
                1e6 * time / outcomes.len() as f64
            );
        }
    }
}

#[test]
#[ignore = "a table"]
fn recursive_rows_per_second() {
    for (m, t) in [(256, 1000), (512, 4000), (1024, 4000)] {
        let atoms = Stream::smooth(520, m, 10, 0.0);
        let stream = Stream::smooth(521, 1024, 10, 0.0);
        let targets: Vec<f64> = (0..1024 * t).map(|i| stream.y[i / t] * (i % t) as f64 / t as f64).collect();
        let entries = EntryParams { precision: crate::gram::Precision::Single, ..gaussian(4.0) };
        let mut learner = Recursive::new(RecursiveParams::new(entries, 0.1, t), atoms.rows.view()).unwrap();
        learner.insert(stream.rows.view(), &stream.ids, &targets, None).unwrap();
        let before = processor_time();
        learner.insert(stream.rows.view(), &stream.ids, &targets, None).unwrap();
        let time = processor_time() - before;
        println!(
            "{m} atoms, {t} targets: {:.0} rows/s, {:.1} Gflop/s",
            1024.0 / time,
            6.0 * (m * t) as f64 * 1024.0 / time * 1e-9
        );
    }
}
