//! The register tile: R rows by C vectors of centers, held in registers while the features go by.
//!
//! Per entry and feature one fused multiply-add, in ascending feature order, starting from -|x|^2 - |z|^2 (panels hold 2 z, so that the sum is minus the squared
//! distance); then the codes, and the family. Each lane sees the same sequence of operations wherever it lies in a tile, and padding is computed like anything else, so an
//! entry's bits depend on its row and its center only.
//!
//! Where r^2 comes out below NEAR (|x|^2 + |z|^2), cancellation has eaten its digits: that lane (and no other) is replaced by the
//! sum of squared differences. The test is written so that NaN (infinite norms) counts as near: the direct form then gives -infinity, and the kernel 0.
//! With the threshold 2^-8 of f32, r^2 keeps a relative error of about 2^-16 sqrt(d) in the worst lane that is not recomputed.

use super::entry::Real;
use super::functions::{Shape, of_inner, radial, slope};
use super::lanes::Path;
use super::pack::{Form, Mode};

/// Takes finished entries, a row of a tile at a time.
pub trait Sink<V, const R: usize, const C: usize> {
    /// Whether slopes are wanted instead of entries ([`slope`]).
    const SLOPES: bool = false;
    /// A tile begins: its first row, and its panel.
    fn begin(&mut self, first_row: usize, panel: usize);
    /// The entries of row `first_row + r` with the centers of the panel.
    fn put(&mut self, r: usize, entries: [V; C]);
    /// All R rows have been put.
    #[inline(always)]
    fn end(&mut self) {}
}

/// Forms the entries of all packed `rows` (groups of R) with all `panels`.
/// Panels outside, groups inside: a panel stays in the first-level cache while the groups go by.
#[inline(always)]
pub fn sweep<T: Real, P: Path<T>, const R: usize, const C: usize>(
    p: P,
    form: &Form<T>,
    rows: &[T],
    panels: &[T],
    sink: &mut impl Sink<P::V, R, C>,
) {
    match form.mode {
        Mode::Expanded => sweep_mode::<T, P, R, C, EXPANDED>(p, form, rows, panels, sink),
        Mode::Direct => sweep_mode::<T, P, R, C, DIRECT>(p, form, rows, panels, sink),
        Mode::Inner => sweep_mode::<T, P, R, C, INNER>(p, form, rows, panels, sink),
    }
}

const EXPANDED: u8 = 0;
const DIRECT: u8 = 1;
const INNER: u8 = 2;

#[inline(always)]
fn sweep_mode<T: Real, P: Path<T>, const R: usize, const C: usize, const MODE: u8>(
    p: P,
    form: &Form<T>,
    rows: &[T],
    panels: &[T],
    sink: &mut impl Sink<P::V, R, C>,
) {
    let depth = form.depth();
    // Filled in place: returned by value, the tile would be copied by a call.
    let mut tile = [[p.splat(T::ZERO); C]; R];
    for (j, panel) in panels.chunks_exact(depth * C * P::N).enumerate() {
        for (g, group) in rows.chunks_exact(depth * R).enumerate() {
            arguments::<T, P, R, C, MODE>(p, form, group, panel, &mut tile);
            sink.begin(g * R, j);
            finish::<T, P, _, R, C, MODE>(p, form, group, panel, &tile, sink);
            sink.end();
        }
    }
}

/// Applies the family to every vector of a tile.
#[inline(always)]
fn finish<T: Real, P: Path<T>, S: Sink<P::V, R, C>, const R: usize, const C: usize, const MODE: u8>(
    p: P,
    form: &Form<T>,
    group: &[T],
    panel: &[T],
    arguments: &[[P::V; C]; R],
    sink: &mut S,
) {
    // One loop a family, so that the choice is made once a tile. Plain loops, not closures: what the compiler fails to inline here would lose the
    // instruction set.
    macro_rules! each {
        (|$r:ident, $c:ident, $a:ident| $value:expr) => {
            for ($r, row) in arguments.iter().enumerate() {
                let mut entries = *row;
                for $c in 0..C {
                    let $a = row[$c];
                    entries[$c] = $value;
                }
                sink.put($r, entries);
            }
        };
    }
    if S::SLOPES {
        match form.shape {
            Shape::Gaussian => each!(|_r, _c, a| slope(p, Shape::Gaussian, a)),
            Shape::Laplace => each!(|_r, _c, a| slope(p, Shape::Laplace, a)),
            Shape::Matern32 => each!(|_r, _c, a| slope(p, Shape::Matern32, a)),
            Shape::Matern52 => each!(|_r, _c, a| slope(p, Shape::Matern52, a)),
            shape @ (Shape::Wendland { .. } | Shape::Polynomial { .. }) => each!(|_r, _c, a| slope(p, shape, a)),
            // Named, not `_`: a new family must not become another one here. The last two have no slope and are refused before.
            Shape::Cauchy | Shape::ArcCosine { .. } | Shape::Ntk { .. } => {
                each!(|_r, _c, a| slope(p, Shape::Cauchy, a))
            }
        }
    } else if MODE == INNER {
        let at = form.width + form.codes;
        let xx = &group[at * R..][..R];
        let zz = P::arrays(&panel[at * C * P::N..][..C * P::N]);
        match form.shape {
            shape @ Shape::Polynomial { .. } => each!(|_r, _c, a| of_inner(p, shape, a, a, a)),
            shape => each!(|r, c, a| of_inner(p, shape, a, p.splat(xx[r]), p.load(&zz[c]))),
        }
    } else {
        match form.shape {
            Shape::Gaussian => each!(|_r, _c, a| radial(p, Shape::Gaussian, a)),
            Shape::Laplace => each!(|_r, _c, a| radial(p, Shape::Laplace, a)),
            Shape::Matern32 => each!(|_r, _c, a| radial(p, Shape::Matern32, a)),
            Shape::Matern52 => each!(|_r, _c, a| radial(p, Shape::Matern52, a)),
            shape @ Shape::Wendland { .. } => each!(|_r, _c, a| radial(p, shape, a)),
            // The others have the mode of inner products.
            Shape::Cauchy | Shape::Polynomial { .. } | Shape::ArcCosine { .. } | Shape::Ntk { .. } => {
                each!(|_r, _c, a| radial(p, Shape::Cauchy, a))
            }
        }
    }
}

/// The arguments of the family: minus the scaled squared distances, or the inner products.
#[inline(always)]
fn arguments<T: Real, P: Path<T>, const R: usize, const C: usize, const MODE: u8>(
    p: P,
    form: &Form<T>,
    group: &[T],
    panel: &[T],
    arguments: &mut [[P::V; C]; R],
) {
    let lanes = C * P::N;
    let (width, at) = (form.width, form.width + form.codes);
    let zero = p.splat(T::ZERO);
    let xs = group[..width * R].as_chunks::<R>().0;
    let zs = P::arrays(&panel[..width * lanes]).as_chunks::<C>().0;
    let (nx, nz) = (&group[at * R..][..R], P::arrays(&panel[at * lanes..][..lanes]));
    let mut sums = [[zero; C]; R];
    if MODE == EXPANDED {
        for r in 0..R {
            let nx = p.splat(nx[r]);
            for c in 0..C {
                sums[r][c] = p.add(nx, p.load(&nz[c]));
            }
        }
    }
    for (x, z) in xs.iter().zip(zs) {
        feature::<T, P, R, C, MODE>(p, x, z, &mut sums);
    }
    if MODE == EXPANDED && any_near::<T, P, R, C>(p, group[(at + 1) * R], nz, &sums) {
        // On a copy, whose lanes the compiler may index: the tile itself stays in registers.
        let mut copy = sums;
        near::<T, P, R, C>(p, xs, zs, nx, nz, &mut copy);
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = copy[r][c];
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            arguments[r][c] = sums[r][c];
        }
    }
    for k in 0..form.codes {
        let x = &group[(width + k) * R..][..R];
        let z = P::arrays(&panel[(width + k) * lanes..][..lanes]);
        let weight = p.splat(form.code_weights[k]);
        for r in 0..R {
            for c in 0..C {
                let same = p.equal(p.splat(x[r]), p.load(&z[c]));
                arguments[r][c] = if MODE == INNER {
                    p.add(arguments[r][c], p.select(same, weight, zero))
                } else {
                    p.sub(arguments[r][c], p.select(same, zero, weight))
                };
            }
        }
    }
}

/// Whether a lane of a tile may be near: its greatest argument of all rows against the least norm term of the rows, which no row's own test passes if this does
/// not. Sums that are not numbers come of infinite norms, which make the test one of infinities: it says near.
#[inline(always)]
fn any_near<T: Real, P: Path<T>, const R: usize, const C: usize>(
    p: P,
    least: T,
    nz: &[P::Array],
    sums: &[[P::V; C]; R],
) -> bool {
    let (least, share) = (p.splat(least), p.splat(T::NEAR));
    let mut flags = p.no_flags();
    for c in 0..C {
        let greatest = sums.iter().skip(1).fold(sums[0][c], |greatest, row| p.max(greatest, row[c]));
        flags = p.flag(flags, p.mul_sub(p.add(least, p.load(&nz[c])), share, greatest));
    }
    p.any_flag(flags)
}

/// One feature of a tile.
#[inline(always)]
fn feature<T: Real, P: Path<T>, const R: usize, const C: usize, const MODE: u8>(
    p: P,
    x: &[T; R],
    z: &[P::Array; C],
    sums: &mut [[P::V; C]; R],
) {
    let mut centers = [p.splat(T::ZERO); C];
    for c in 0..C {
        centers[c] = p.load(&z[c]);
    }
    for r in 0..R {
        let x = p.splat(x[r]);
        for c in 0..C {
            sums[r][c] = if MODE == DIRECT {
                let difference = p.sub(x, centers[c]);
                p.neg_mul_add(difference, difference, sums[r][c])
            } else {
                p.mul_add(x, centers[c], sums[r][c])
            };
        }
    }
}

/// Replaces the near lanes of a tile by sums of squared differences.
#[inline(always)]
fn near<T: Real, P: Path<T>, const R: usize, const C: usize>(
    p: P,
    xs: &[[T; R]],
    zs: &[[P::Array; C]],
    nx: &[T],
    nz: &[P::Array],
    arguments: &mut [[P::V; C]; R],
) {
    let (share, half) = (p.splat(T::NEAR), p.splat(T::HALF));
    for r in 0..R {
        for c in 0..C {
            let norms = p.add(p.splat(nx[r]), p.load(&nz[c]));
            let excess = p.mul_sub(norms, share, arguments[r][c]);
            if !p.any_flag(p.flag(p.no_flags(), excess)) {
                continue;
            }
            let mut direct = p.splat(T::ZERO);
            for (x, z) in xs.iter().zip(zs) {
                // Panels hold 2 z: halving is exact.
                let difference = p.neg_mul_add(half, p.load(&z[c]), p.splat(x[r]));
                direct = p.neg_mul_add(difference, difference, direct);
            }
            arguments[r][c] = p.select(p.not_negative(excess), arguments[r][c], direct);
        }
    }
}
