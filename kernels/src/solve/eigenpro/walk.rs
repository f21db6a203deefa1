//! The function between two projections: batches, the subsample's correction, and what follows without kernel entries.

use super::super::SolveError;
use super::centers::{center_product, center_rows};
use super::preconditioner::scale_rows;
use super::projection::Projector;
use super::{EigenProModel, EigenProOperator, EigenProProblem, EigenProState, Temporary, unflatten};
use faer::Mat;
use std::ops::Range;

/// a diag(scale).
fn scale_columns(a: &mut Mat<f64>, scale: &[f64]) {
    for (j, scale) in scale.iter().enumerate() {
        a.col_as_slice_mut(j).iter_mut().for_each(|x| *x *= scale);
    }
}

/// The working state between projections.
pub(super) struct Walk {
    pub(super) alpha: Mat<f64>,
    pub(super) temporaries: Vec<Temporary>,
    /// First row of the batches since the last projection.
    pub(super) since: usize,
    /// Subsample coefficients are E (c + ridge_c): the data's part and the ridge's.
    pub(super) c: Mat<f64>,
    pub(super) ridge_c: Mat<f64>,
    /// E^T f(S).
    pub(super) u: Mat<f64>,
    /// Values on Z of the temporaries, K(Z, batches) w.
    pub(super) h: Mat<f64>,
    /// Values on Z that earlier projections left.
    pub(super) carried: Mat<f64>,
}

impl Walk {
    /// The walk that begins at a projected iterate.
    pub(super) fn begin<O: EigenProOperator>(
        operator: &mut O,
        problem: &EigenProProblem<'_>,
        state: &EigenProState,
        m: usize,
    ) -> Result<Self, SolveError<O::Error>> {
        let alpha = unflatten(&state.alpha, m, state.columns);
        let (q, t) = (problem.preconditioner.rank(), alpha.ncols());
        let u = center_product(operator, problem.center_directions, alpha.as_ref()).map_err(SolveError::Operator)?;
        let zero = Mat::<f64>::zeros(q, t);
        let h = Mat::zeros(m, t);
        let carried = unflatten(&state.carried, m, state.columns);
        let (temporaries, since) = (Vec::new(), state.position);
        Ok(Walk { h, carried, alpha, temporaries, since, c: zero.clone(), ridge_c: zero, u })
    }

    /// f <- f - gamma P (sum_B g k(x, .) + b lambda f).
    pub(super) fn step<O: EigenProOperator>(
        &mut self,
        operator: &mut O,
        problem: &EigenProProblem<'_>,
        rows: Range<usize>,
        gamma: f64,
    ) -> Result<(), SolveError<O::Error>> {
        let p = problem.preconditioner;
        let sample = p.expand(&(&self.c + &self.ridge_c));
        let model = EigenProModel {
            alpha: self.alpha.as_ref(),
            sample: sample.as_ref(),
            temporaries: &self.temporaries,
            since: self.since,
        };
        let partial = operator.batch(rows.clone(), &model).map_err(SolveError::Operator)?;
        for (what, part, expected) in [
            ("rows of the batch's residual", &partial.residual, rows.len()),
            ("rows of the batch's center sums", &partial.centers, self.alpha.nrows()),
            ("rows of the batch's subsample sums", &partial.sample, p.sample()),
        ] {
            SolveError::check(what, expected, part.nrows())?;
            SolveError::check("columns of a batch's sums", self.alpha.ncols(), part.ncols())?;
        }
        let shrink = |j: usize| gamma * rows.len() as f64 * problem.ridge_of(j);
        let shrinks: Vec<f64> = (0..self.alpha.ncols()).map(shrink).collect();
        let projected = p.project(partial.sample.as_ref());

        let mut data = projected.clone();
        scale_rows(&mut data, p.gains());
        let mut ridge = self.u.clone();
        scale_rows(&mut ridge, p.gains());
        if problem.ridge > 0.0 {
            let keep: Vec<f64> = shrinks.iter().map(|shrink| 1.0 - shrink).collect();
            let parts = [&mut self.alpha, &mut self.c, &mut self.ridge_c, &mut self.h, &mut self.carried];
            let held = self.temporaries.iter_mut().map(|t| &mut t.weights);
            parts.into_iter().chain(held).for_each(|part| scale_columns(part, &keep));
        }
        self.c += faer::Scale(gamma) * data;
        scale_columns(&mut ridge, &shrinks);
        self.ridge_c += ridge;
        self.h -= faer::Scale(gamma) * &partial.centers;
        if operator.keeps(self.since, &rows) {
            self.temporaries.push(Temporary { rows, weights: faer::Scale(-gamma) * &partial.residual });
        }

        // E^T K_SS E = diag(mu): the values on S follow without a kernel entry.
        let left: Vec<f64> = p.values().iter().zip(p.gains()).map(|(mu, d)| 1.0 - mu * d).collect();
        let mut pulled = self.u.clone();
        scale_columns(&mut pulled, &shrinks);
        let mut moved = faer::Scale(gamma) * projected + pulled;
        scale_rows(&mut moved, &left);
        self.u -= moved;
        Ok(())
    }

    /// Puts the walk's function into the span of the centers; returns what an inexact projection left.
    pub(super) fn project<O: EigenProOperator, P: Projector<Error = O::Error>>(
        &mut self,
        operator: &mut O,
        projector: &mut P,
        problem: &EigenProProblem<'_>,
        consistent: bool,
    ) -> Result<Mat<f64>, P::Error> {
        let directions = problem.center_directions;
        let on_centers = |c: &Mat<f64>| center_rows(directions, c.as_ref());
        if !consistent {
            let h = &self.h + &self.carried + on_centers(&(&self.c + &self.ridge_c));
            let (theta, left) = projector.project(h.as_ref())?;
            self.alpha += theta;
            return Ok(left);
        }
        // The data's part first; then P acts on what of it lies in the span: E^T of its values on S.
        let (theta, first_left) = projector.project(self.h.as_ref())?;
        let mut c = faer::Scale(-1.0) * center_product(operator, directions, theta.as_ref())?;
        scale_rows(&mut c, problem.preconditioner.gains());
        c += &self.ridge_c;
        let (second, second_left) = projector.project((&self.carried + on_centers(&c)).as_ref())?;
        self.alpha += theta + second;
        Ok(first_left + second_left)
    }
}
