//! How wide predictive variances must be: noise and signal from rows that were left out.
//!
//! A Gaussian process whose ridge is L has noise over signal = L, and noise from the residuals. With m << n centers and a ridge chosen by
//! prediction error, L is far smaller than any noise over signal that would explain the errors (it balances what the centers cannot express),
//! and the variances that follow are too wide by orders of magnitude. So both are fitted: with e_i the error and q_i the latent variance (units of
//! the kernel) of a row left out and w_i its weight, maximise the predictive likelihood
//!
//! sum_i w_i (-1/2 ln v_i - e_i^2 / (2 v_i)),   v_i = noise + signal q_i,   noise, signal >= 0,
//!
//! subject to noise + signal mean k(x, x) >= the spread of the target: far from all rows nothing more is known than that.
//!
//! For signal = rho noise the best noise is the weighted mean of e_i^2 / (1 + rho q_i), which makes that of e_i^2 / v_i one. What remains is a search in
//! one variable, on a grid of powers of two and then by golden section; on the constraint it is one in signal.
//!
//! Source of the criterion: leave-one-out predictive log probability, Rasmussen and Williams 2006, section 5.4.2.

/// Scales of variances that explain the errors of rows left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Variance of the noise, squared units of the target; where weights tell how exact rows are, that of a row of mean weight.
    pub noise: f64,
    /// Prior variance of the function for k(x, x) = 1, squared units of the target.
    pub signal: f64,
    /// Rows that were used.
    pub rows: usize,
    /// Weighted mean of e^2 / v over them: 1 where the constraint does not bind.
    pub mean_square: f64,
    /// Share of their weight within 1.96 standard deviations.
    pub within_95: f64,
}

/// *Shape.* Rows below which nothing can be said.
const LEAST_ROWS: usize = 10;
/// *Shape.* Powers of two between which noise and signal are weighed.
const OCTAVES: i32 = 40;
/// *Shape.* Steps of a golden section: 0.618^60 is 3e-13.
const SECTIONS: usize = 60;
/// Half the width of a normal distribution's central 95 %, in standard deviations.
const HALF_WIDTH_95: f64 = 1.959963984540054;

/// Errors and latent variances of rows left out.
///
/// ```
/// use nystream_kernels::nystrom::LeftOutRows;
/// let mut rows = LeftOutRows::default();
/// // Errors of variance 4 where little is known of the function, 1 where much is.
/// for i in 0..100 {
///     let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
///     rows.push(sign, 0.0, 1.0);
///     rows.push(2.0 * sign, 0.3, 1.0);
/// }
/// let scales = rows.calibrate(1.0, 5.0).unwrap();
/// assert!((scales.noise - 1.0).abs() < 1e-6 && (scales.signal - 10.0).abs() < 1e-5);
/// assert!((scales.mean_square - 1.0).abs() < 1e-9 && scales.within_95 == 1.0);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeftOutRows {
    /// e_i^2.
    squares: Vec<f64>,
    /// q_i.
    latents: Vec<f64>,
    /// w_i, in any unit.
    weights: Vec<f64>,
}

impl LeftOutRows {
    /// Adds a row: its error, its latent variance in units of the kernel, and its weight, in any unit. A row without a finite error (its
    /// target is null, or nothing but itself predicts it) or without weight says nothing.
    pub fn push(&mut self, residual: f64, latent: f64, weight: f64) {
        let square = residual * residual;
        if square.is_finite() && latent.is_finite() && weight > 0.0 {
            self.squares.push(square);
            self.latents.push(latent);
            self.weights.push(weight);
        }
    }

    /// The scales of greatest predictive likelihood; `None` for fewer than ten rows, or when all are predicted exactly. `diagonal` is the mean of
    /// k(x, x), `spread` the mean square of the target about its centre.
    pub fn calibrate(&self, diagonal: f64, spread: f64) -> Option<Calibration> {
        let rows = self.squares.len();
        if rows < LEAST_ROWS || self.mean(self.squares.iter().copied()) <= 0.0 {
            return None;
        }
        let unit = self.mean(self.latents.iter().copied());
        let scales = |rho: f64| {
            let noise = self.noise(rho);
            (noise, rho * noise)
        };
        // Where latent variances vanish, or tell nothing, all is noise.
        let mut best = scales(0.0);
        if unit > 0.0 {
            let found = scales(minimise(|x| self.loss(scales(x.exp2() / unit))).exp2() / unit);
            if self.loss(found) < self.loss(best) {
                best = found;
            }
        }
        let known = best.0 + best.1 * diagonal;
        if known < spread && diagonal > 0.0 {
            // The constraint binds: noise and signal share the spread.
            let shares = |x: f64| {
                let noise = spread / (1.0 + x.exp2());
                (noise, (spread - noise) / diagonal)
            };
            best = shares(minimise(|x| self.loss(shares(x))));
        }
        let (noise, signal) = best;
        let ratios: Vec<f64> = self.terms(noise, signal).map(|(e, v)| e / v).collect();
        let within_95 = self.mean(ratios.iter().map(|r| f64::from(u8::from(*r <= HALF_WIDTH_95 * HALF_WIDTH_95))));
        Some(Calibration { noise, signal, rows, mean_square: self.mean(ratios.into_iter()), within_95 })
    }

    /// Weighted mean of one value a row.
    fn mean(&self, values: impl Iterator<Item = f64>) -> f64 {
        let sum: f64 = values.zip(&self.weights).map(|(value, w)| w * value).sum();
        sum / self.weights.iter().sum::<f64>()
    }

    /// (e_i^2, noise + signal q_i) of each row.
    fn terms(&self, noise: f64, signal: f64) -> impl Iterator<Item = (f64, f64)> {
        self.squares.iter().zip(&self.latents).map(move |(e, q)| (*e, noise + signal * q))
    }

    /// Weighted mean of ln v + e^2 / v: twice the negative log likelihood of a row, less a constant.
    fn loss(&self, (noise, signal): (f64, f64)) -> f64 {
        let loss = self.mean(self.terms(noise, signal).map(|(e, v)| v.ln() + e / v));
        if loss.is_nan() { f64::INFINITY } else { loss }
    }

    /// The best noise where signal = rho noise.
    fn noise(&self, rho: f64) -> f64 {
        self.mean(self.terms(1.0, rho).map(|(e, v)| e / v))
    }
}

/// The x in [-40, 40] where `loss` is least, on whole numbers and then by golden section.
fn minimise(loss: impl Fn(f64) -> f64) -> f64 {
    let grid = (-OCTAVES..=OCTAVES).map(f64::from);
    let start = grid.min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap_or_default();
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (start - 1.0, start + 1.0);
    for _ in 0..SECTIONS {
        let (left, right) = (high - golden * (high - low), low + golden * (high - low));
        if loss(left) <= loss(right) { high = right } else { low = left }
    }
    (low + high) / 2.0
}
