//! The limit that products are measured against.

use super::entry::{Entry, Token};
use super::lanes::{Path, Task};
use super::{SimdPath, TileError};

/// Does `rounds` rounds of independent multiply-adds in registers, as many as the register tile keeps in flight, on the path
/// `simd`. Returns the floating-point operations done (two a lane and multiply-add) and a value that depends on all of them; the caller times it.
///
/// ```
/// use nystream_kernels::tile::{SimdPath, multiply_adds};
/// let (operations, _) = multiply_adds::<f32>(SimdPath::Portable, 10)?;
/// assert_eq!(operations, 10 * 2 * 4 * 2 * 4);
/// # Ok::<(), nystream_kernels::tile::TileError>(())
/// ```
///
/// # Errors
/// [`TileError::Unavailable`].
pub fn multiply_adds<T: Entry>(simd: SimdPath, rounds: u64) -> Result<(u64, T), TileError> {
    let token = Token::of(simd).ok_or(TileError::Unavailable { simd, best: SimdPath::detect() })?;
    Ok(T::dispatch(token, Probe(rounds)))
}

struct Probe(u64);

impl<T: Entry> Task<T> for Probe {
    type Output = (u64, T);
    // By index, as in the register tile: what iterators walk over the compiler keeps in memory, whose stores then are the limit.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn run<P: Path<T>, const R: usize, const C: usize>(self, p: P) -> (u64, T) {
        // Opaque, so that the loop is not folded.
        let x = p.splat(std::hint::black_box(T::HALF));
        let y = p.splat(std::hint::black_box(T::THIRD));
        let mut sums = [[p.splat(T::ONE); C]; R];
        for _ in 0..self.0 {
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = p.mul_add(sums[r][c], x, y);
                }
            }
        }
        let mut total = p.splat(T::ZERO);
        for r in 0..R {
            for c in 0..C {
                total = p.add(total, sums[r][c]);
            }
        }
        let mut lanes = [T::ZERO; 16];
        p.store(&mut P::arrays_mut(&mut lanes)[0], total);
        (self.0 * (2 * R * C * P::N) as u64, lanes[0])
    }
}
