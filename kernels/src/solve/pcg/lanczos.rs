//! The Lanczos matrix behind a run of conjugate gradients (Golub and Van Loan, section 10.2; Meurant 2006).

/// Condition number of the tridiagonal matrix of a run of (step, beta) pairs; 1 for an empty run.
///
/// T_jj = 1/a_j + b_j-1/a_j-1 and T_j,j+1 = sqrt(b_j)/a_j; its extreme eigenvalues (by bisection on the Sturm count) lie inside the
/// spectrum of the preconditioned operator, so the quotient is a lower bound.
pub(super) fn condition(run: &[(f64, f64)]) -> f64 {
    if run.is_empty() {
        return 1.0;
    }
    let k = run.len();
    let diagonal: Vec<f64> =
        (0..k).map(|j| 1.0 / run[j].0 + if j > 0 { run[j - 1].1 / run[j - 1].0 } else { 0.0 }).collect();
    let squares: Vec<f64> = (0..k - 1).map(|j| run[j].1 / (run[j].0 * run[j].0)).collect();
    let radius = |j: usize| {
        let left = if j > 0 { squares[j - 1].sqrt() } else { 0.0 };
        left + if j + 1 < k { squares[j].sqrt() } else { 0.0 }
    };
    let high = (0..k).map(|j| diagonal[j] + radius(j)).fold(0.0, f64::max);
    let below = |x: f64| {
        let mut count = 0;
        let mut q = 1.0;
        for j in 0..k {
            q = diagonal[j] - x - if j > 0 { squares[j - 1] / q } else { 0.0 };
            if q == 0.0 {
                q = f64::EPSILON * high;
            }
            count += usize::from(q < 0.0);
        }
        count
    };
    // The smallest x with at least `wanted` eigenvalues below it; bisection on the logarithm keeps small ones relative.
    let find = |wanted: usize| {
        let (mut a, mut b) = (high.ln() - 80.0, high.ln() + 1.0);
        for _ in 0..60 {
            let middle = 0.5 * (a + b);
            if below(middle.exp()) >= wanted { b = middle } else { a = middle }
        }
        b.exp()
    };
    find(k) / find(1)
}

#[cfg(test)]
mod tests {
    use super::condition;

    #[test]
    fn two_steps_of_a_two_by_two_system_give_its_condition() {
        // CG on diag(1, 9) with r = (1, 1): a_0 = 2/10, then by hand a_1 and b_0.
        let (mut r, mut p) = ([1.0f64, 1.0], [1.0f64, 1.0]);
        let d = [1.0, 9.0];
        let mut run = Vec::new();
        for _ in 0..2 {
            let rr = r[0] * r[0] + r[1] * r[1];
            let a = rr / (d[0] * p[0] * p[0] + d[1] * p[1] * p[1]);
            for i in 0..2 {
                r[i] -= a * d[i] * p[i];
            }
            let b = (r[0] * r[0] + r[1] * r[1]) / rr;
            for i in 0..2 {
                p[i] = r[i] + b * p[i];
            }
            run.push((a, b));
        }
        assert!((condition(&run) - 9.0).abs() < 1e-9, "{}", condition(&run));
        assert_eq!(condition(&[]), 1.0);
        assert!((condition(&[(0.3, 0.0)]) - 1.0).abs() < 1e-12);
    }
}
