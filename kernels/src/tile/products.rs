//! Products of a block of kernel entries (rows x stride, in cache) with f64 blocks of vectors, summed in f64.
//!
//! The shapes of the sums, which are part of the answer:
//! * K v, one column: each row has C x WIDENED vector accumulators; panel by panel each takes its own lanes, by (fused) multiply-add; then
//!   accumulators are added in order, then lanes in order.
//! * K V, several columns: each output is one chain of multiply-adds in ascending center order.
//! * K^T U: each output is one chain in ascending row order, starting from what the accumulator holds.
//!
//! None depends on how many rows or columns are handled at once, so blocks may be cut anywhere between rows.

use super::entry::Real;
use super::lanes::{Lanes, Path, Task};
use crate::constants::WIDE_CHUNK;

/// Columns are padded to whole f64 vectors.
pub fn padded_columns<T, P: Path<T>>(columns: usize) -> usize {
    columns.next_multiple_of(<P::Wide as Lanes<f64>>::N)
}

/// Entries of a block of rows: `rows x stride`.
#[derive(Clone, Copy)]
pub struct Entries<'a, T> {
    pub k: &'a [T],
    pub stride: usize,
    pub centers: usize,
}

/// out = K v for one column: `v` has `stride` values (zero beyond the centers), `out` one a row.
pub struct Dot<'a, T> {
    pub entries: Entries<'a, T>,
    pub v: &'a [f64],
    pub out: &'a mut [f64],
}

impl<T: Real> Task<T> for Dot<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let stride = self.entries.stride;
        let (mut k, mut out) = (self.entries.k, self.out);
        // Two rows at a time in f32, four in f64: eight accumulators, enough to hide the latency of the addition.
        if P::WIDENED == 2 {
            while out.len() >= 2 {
                dot_rows::<T, P, C, 2>(p, &k[..2 * stride], stride, self.v, &mut out[..2]);
                (k, out) = (&k[2 * stride..], &mut out[2..]);
            }
        } else {
            while out.len() >= 4 {
                dot_rows::<T, P, C, 4>(p, &k[..4 * stride], stride, self.v, &mut out[..4]);
                (k, out) = (&k[4 * stride..], &mut out[4..]);
            }
        }
        for (i, out) in out.iter_mut().enumerate() {
            dot_rows::<T, P, C, 1>(p, &k[i * stride..][..stride], stride, self.v, std::slice::from_mut(out));
        }
    }
}

#[inline(always)]
fn dot_rows<T: Real, P: Path<T>, const C: usize, const Q: usize>(
    p: P,
    k: &[T],
    stride: usize,
    v: &[f64],
    out: &mut [f64],
) {
    let w = p.wide();
    let zero = w.splat(0.0);
    let mut rows: [&[[P::Array; C]]; Q] = [&[]; Q];
    for (q, row) in rows.iter_mut().enumerate() {
        *row = P::arrays(&k[q * stride..(q + 1) * stride]).as_chunks::<C>().0;
    }
    let vectors = <P::Wide as Lanes<f64>>::arrays(v);
    let mut sums = [[[zero; 2]; C]; Q];
    for j in 0..rows[0].len() {
        let v = &vectors[j * C * P::WIDENED..][..C * P::WIDENED];
        for c in 0..C {
            for part in 0..P::WIDENED {
                let v = w.load(&v[c * P::WIDENED + part]);
                for q in 0..Q {
                    let k = p.widen(p.load(&rows[q][j][c]), part);
                    sums[q][c][part] = w.mul_add(k, v, sums[q][c][part]);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        let mut total = zero;
        for parts in sums {
            for part in &parts[..P::WIDENED] {
                total = w.add(total, *part);
            }
        }
        *out = sum_lanes(w, total);
    }
}

/// The sum of the lanes, in order.
#[inline(always)]
fn sum_lanes<W: Lanes<f64>>(w: W, v: W::V) -> f64 {
    let mut lanes = [0.0; 8];
    if let Some(first) = W::arrays_mut(&mut lanes).first_mut() {
        w.store(first, v);
    }
    lanes[..W::N].iter().sum()
}

/// acc += K^T u for one column: `acc` has `stride` values.
pub struct Scatter<'a, T> {
    pub entries: Entries<'a, T>,
    pub u: &'a [f64],
    pub acc: &'a mut [f64],
}

impl<T: Real> Task<T> for Scatter<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let stride = self.entries.stride;
        let (mut k, mut u) = (self.entries.k, self.u);
        while u.len() >= 4 {
            scatter_rows::<T, P, 4>(p, &k[..4 * stride], stride, &u[..4], self.acc);
            (k, u) = (&k[4 * stride..], &u[4..]);
        }
        for (i, u) in u.iter().enumerate() {
            scatter_rows::<T, P, 1>(p, &k[i * stride..][..stride], stride, std::slice::from_ref(u), self.acc);
        }
    }
}

#[inline(always)]
fn scatter_rows<T: Real, P: Path<T>, const Q: usize>(p: P, k: &[T], stride: usize, u: &[f64], acc: &mut [f64]) {
    let w = p.wide();
    let mut rows: [&[P::Array]; Q] = [&[]; Q];
    let mut weights = [w.splat(0.0); Q];
    for q in 0..Q {
        rows[q] = P::arrays(&k[q * stride..(q + 1) * stride]);
        weights[q] = w.splat(u[q]);
    }
    let acc = <P::Wide as Lanes<f64>>::arrays_mut(&mut acc[..stride]);
    for (j, acc) in acc.chunks_exact_mut(P::WIDENED).enumerate() {
        for (part, acc) in acc.iter_mut().enumerate() {
            let mut sum = w.load(acc);
            for q in 0..Q {
                sum = w.mul_add(weights[q], p.widen(p.load(&rows[q][j]), part), sum);
            }
            w.store(acc, sum);
        }
    }
}

/// The two products with several columns. Both walk the centers in chunks, whose entries are widened to f64 once.
pub enum Direction {
    /// rows x columns += K V.
    Forward,
    /// centers x columns += K^T U.
    Transposed,
}

/// `forward`: out (rows x padded columns) += K V, with `v` packed by [`PackColumns`].
/// `transposed`: out (centers x padded columns) += K^T U, with `v` = U, rows x padded columns.
pub struct Many<'a, T> {
    pub entries: Entries<'a, T>,
    pub direction: Direction,
    pub rows: usize,
    pub columns: usize,
    pub v: &'a [f64],
    pub out: &'a mut [f64],
    /// At least `rows x WIDE_CHUNK`.
    pub wide: &'a mut [f64],
}

impl<T: Real> Task<T> for Many<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) {
        let Entries { k, stride, centers } = self.entries;
        let n = <P::Wide as Lanes<f64>>::N;
        let columns = padded_columns::<T, P>(self.columns);
        // v may be packed for more centers than the entries have: strips are that long.
        let packed = self.v.len() / columns.max(1);
        for start in (0..centers).step_by(WIDE_CHUNK) {
            let len = WIDE_CHUNK.min(centers - start);
            for i in 0..self.rows {
                // Whole vectors: the padding of a row of entries is read and never used.
                let from = &k[i * stride + start..][..len.next_multiple_of(P::N).min(stride - start)];
                widen_row::<T, P>(p, from, &mut self.wide[i * WIDE_CHUNK..][..WIDE_CHUNK]);
            }
            let mut column = 0;
            while column < columns {
                let vectors = if columns - column >= 2 * n { 2 } else { 1 };
                match (&self.direction, vectors) {
                    (Direction::Forward, 2) => forward::<P::Wide, R, 2>(
                        p.wide(),
                        self.rows,
                        self.wide,
                        &self.v[packed * column + start * 2 * n..][..len * 2 * n],
                        self.out,
                        columns,
                        column,
                    ),
                    (Direction::Forward, _) => forward::<P::Wide, R, 1>(
                        p.wide(),
                        self.rows,
                        self.wide,
                        &self.v[packed * column + start * n..][..len * n],
                        self.out,
                        columns,
                        column,
                    ),
                    (Direction::Transposed, 2) => transposed::<P::Wide, R, 2>(
                        p.wide(),
                        self.rows,
                        self.wide,
                        self.v,
                        &mut self.out[start * columns..][..len * columns],
                        columns,
                        column,
                    ),
                    (Direction::Transposed, _) => transposed::<P::Wide, R, 1>(
                        p.wide(),
                        self.rows,
                        self.wide,
                        self.v,
                        &mut self.out[start * columns..][..len * columns],
                        columns,
                        column,
                    ),
                }
                column += vectors * n;
            }
        }
    }
}

#[inline(always)]
fn widen_row<T: Real, P: Path<T>>(p: P, from: &[T], to: &mut [f64]) {
    let w = p.wide();
    let to = <P::Wide as Lanes<f64>>::arrays_mut(to);
    for (from, to) in P::arrays(from).iter().zip(to.chunks_exact_mut(P::WIDENED)) {
        let v = p.load(from);
        for (part, to) in to.iter_mut().enumerate() {
            w.store(to, p.widen(v, part));
        }
    }
}

#[inline(always)]
fn forward<W: Lanes<f64>, const R: usize, const S: usize>(
    w: W,
    rows: usize,
    k: &[f64],
    v: &[f64],
    out: &mut [f64],
    columns: usize,
    column: usize,
) {
    let v = W::arrays(v).as_chunks::<S>().0;
    let mut i = 0;
    while i + R <= rows {
        forward_rows::<W, S, R>(w, &k[i * WIDE_CHUNK..], v, &mut out[i * columns..], columns, column);
        i += R;
    }
    while i < rows {
        forward_rows::<W, S, 1>(w, &k[i * WIDE_CHUNK..], v, &mut out[i * columns..], columns, column);
        i += 1;
    }
}

#[inline(always)]
fn forward_rows<W: Lanes<f64>, const S: usize, const Q: usize>(
    w: W,
    k: &[f64],
    v: &[[W::Array; S]],
    out: &mut [f64],
    columns: usize,
    column: usize,
) {
    let mut rows: [&[f64]; Q] = [&[]; Q];
    for q in 0..Q {
        rows[q] = &k[q * WIDE_CHUNK..][..v.len()];
    }
    let mut sums = [[w.splat(0.0); S]; Q];
    for q in 0..Q {
        let out = W::arrays(&out[q * columns + column..][..S * W::N]);
        for s in 0..S {
            sums[q][s] = w.load(&out[s]);
        }
    }
    for (j, v) in v.iter().enumerate() {
        let mut vectors = [w.splat(0.0); S];
        for s in 0..S {
            vectors[s] = w.load(&v[s]);
        }
        for q in 0..Q {
            let k = w.splat(rows[q][j]);
            for s in 0..S {
                sums[q][s] = w.mul_add(k, vectors[s], sums[q][s]);
            }
        }
    }
    for q in 0..Q {
        let out = W::arrays_mut(&mut out[q * columns + column..][..S * W::N]);
        for s in 0..S {
            w.store(&mut out[s], sums[q][s]);
        }
    }
}

#[inline(always)]
fn transposed<W: Lanes<f64>, const R: usize, const S: usize>(
    w: W,
    rows: usize,
    k: &[f64],
    u: &[f64],
    out: &mut [f64],
    columns: usize,
    column: usize,
) {
    let len = out.len() / columns;
    let mut j = 0;
    while j + R <= len {
        transposed_centers::<W, S, R>(w, rows, &k[j..], u, &mut out[j * columns..], columns, column);
        j += R;
    }
    while j < len {
        transposed_centers::<W, S, 1>(w, rows, &k[j..], u, &mut out[j * columns..], columns, column);
        j += 1;
    }
}

#[inline(always)]
fn transposed_centers<W: Lanes<f64>, const S: usize, const Q: usize>(
    w: W,
    rows: usize,
    k: &[f64],
    u: &[f64],
    out: &mut [f64],
    columns: usize,
    column: usize,
) {
    let mut sums = [[w.splat(0.0); S]; Q];
    for q in 0..Q {
        let out = W::arrays(&out[q * columns + column..][..S * W::N]);
        for s in 0..S {
            sums[q][s] = w.load(&out[s]);
        }
    }
    for i in 0..rows {
        let u = W::arrays(&u[i * columns + column..][..S * W::N]);
        let mut vectors = [w.splat(0.0); S];
        for s in 0..S {
            vectors[s] = w.load(&u[s]);
        }
        let k = &k[i * WIDE_CHUNK..][..Q];
        for q in 0..Q {
            let k = w.splat(k[q]);
            for s in 0..S {
                sums[q][s] = w.mul_add(k, vectors[s], sums[q][s]);
            }
        }
    }
    for q in 0..Q {
        let out = W::arrays_mut(&mut out[q * columns + column..][..S * W::N]);
        for s in 0..S {
            w.store(&mut out[s], sums[q][s]);
        }
    }
}

/// Packs V (centers x columns, row-major) for [`Direction::Forward`]: strips of two f64 vectors of columns (one for the last, where that is enough), each
/// strip centers x its width, zero-padded.
pub struct PackColumns<'a> {
    pub v: &'a [f64],
    pub columns: usize,
    pub out: &'a mut [f64],
}

impl<T> Task<T> for PackColumns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, _p: P) {
        let n = <P::Wide as Lanes<f64>>::N;
        let columns = padded_columns::<T, P>(self.columns);
        let centers = self.v.len() / self.columns;
        let mut column = 0;
        while column < columns {
            let width = if columns - column >= 2 * n { 2 * n } else { n };
            let used = width.min(self.columns - column);
            let strip = &mut self.out[centers * column..][..centers * width];
            for (strip, v) in strip.chunks_exact_mut(width).zip(self.v.chunks_exact(self.columns)) {
                strip[..used].copy_from_slice(&v[column..column + used]);
                strip[used..].fill(0.0);
            }
            column += width;
        }
    }
}
