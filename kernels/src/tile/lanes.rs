//! Vectors of f32 and f64 lanes under each dispatch path, as one small set of operations.
//!
//! Generic code never sees an instruction set: it is written against [`Lanes`] (arithmetic in one
//! precision) and [`Path`] (a precision plus its widening to f64). A value of a path's token type
//! proves that the processor has the instructions; only detection makes one. All methods are `inline(always)`, so that they are compiled inside
//! the function that enables the instructions (see [`Task`]).
//!
//! Every operation is one IEEE operation a lane, the same in every lane, so a lane's result depends on its own
//! inputs only. `mul_add` is fused on every path but the portable one, which rounds twice: a fused
//! operation without hardware support is a slow library call.

use super::entry::Real;
use super::functions;

/// Arithmetic on vectors of `N` lanes of `T`.
pub trait Lanes<T>: Copy + Send + Sync + 'static {
    /// `[T; N]`, as it lies in memory.
    type Array: Copy;
    /// A vector register.
    type V: Copy;
    /// One truth value a lane.
    type M: Copy;
    /// Flags gathered over several vectors.
    type F: Copy;
    /// Lanes.
    const N: usize;

    /// The slice as whole vectors; a remainder is dropped.
    fn arrays(slice: &[T]) -> &[Self::Array];
    /// The slice as whole vectors; a remainder is dropped.
    fn arrays_mut(slice: &mut [T]) -> &mut [Self::Array];
    fn load(self, from: &Self::Array) -> Self::V;
    fn store(self, to: &mut Self::Array, v: Self::V);
    fn splat(self, x: T) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`: `b` when either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: `b` when either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a b - c`.
    fn mul_sub(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a b`.
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// One lane of [`Lanes::mul_add`], bit for bit.
    fn scalar_mul_add(self, a: T, b: T, c: T) -> T;
    /// `a < b`, false where either is NaN.
    fn less(self, a: Self::V, b: Self::V) -> Self::M;
    fn equal(self, a: Self::V, b: Self::V) -> Self::M;
    /// `a >= 0`, false where it is NaN.
    fn not_negative(self, a: Self::V) -> Self::M;
    /// Lanes met so far: see [`Lanes::flag`].
    fn no_flags(self) -> Self::F;
    /// Marks every lane where `a` is negative or NaN as an invalid operation makes it (others, -0 among them, may be marked too).
    fn flag(self, flags: Self::F, a: Self::V) -> Self::F;
    fn any_flag(self, flags: Self::F) -> bool;
    fn select(self, m: Self::M, if_true: Self::V, if_false: Self::V) -> Self::V;
    /// Adds the integer held in the low mantissa bits of `t` to the exponent of `x`, wrapping.
    fn add_exponent(self, x: Self::V, t: Self::V) -> Self::V;
    /// Asks for the cache line of a value that will be read soon, into the second level; changes no result.
    #[inline(always)]
    fn prefetch<U>(self, _value: &U) {}
    /// 2^x as [`functions::exp2`] has it, by the instructions that the path has for it.
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V
    where
        T: Real,
    {
        functions::exp2_by_rounding(self, x)
    }
}

/// A dispatch path for entries of type `T`: its lanes, and their exact widening to f64.
pub trait Path<T>: Lanes<T> {
    /// The same path in f64.
    type Wide: Lanes<f64>;
    /// f64 vectors that hold the lanes of one vector of `T`.
    const WIDENED: usize;
    fn wide(self) -> Self::Wide;
    /// Part `part < WIDENED` of the lanes of `v`, in order, as f64.
    fn widen(self, v: Self::V, part: usize) -> <Self::Wide as Lanes<f64>>::V;
}

/// Work to be compiled once for each path. `R` rows by `C` vectors is the register tile that suits the path.
pub trait Task<T> {
    type Output;
    /// Must be `inline(always)`, and so must everything hot below it.
    fn run<P: Path<T>, const R: usize, const C: usize>(self, path: P) -> Self::Output;
}

/// Plain arrays, left to the compiler: 128 bits. `FUSED` where the target has fused multiply-add throughout (aarch64).
#[derive(Clone, Copy, Debug)]
pub struct Arrays<const FUSED: bool>;

macro_rules! array_lanes {
    ($t:ty, $n:literal, $mantissa:literal) => {
        impl<const FUSED: bool> Lanes<$t> for Arrays<FUSED> {
            type Array = [$t; $n];
            type V = [$t; $n];
            type M = [bool; $n];
            type F = bool;
            const N: usize = $n;

            #[inline(always)]
            fn arrays(slice: &[$t]) -> &[Self::Array] {
                slice.as_chunks().0
            }
            #[inline(always)]
            fn arrays_mut(slice: &mut [$t]) -> &mut [Self::Array] {
                slice.as_chunks_mut().0
            }
            #[inline(always)]
            fn load(self, from: &Self::Array) -> Self::V {
                *from
            }
            #[inline(always)]
            fn store(self, to: &mut Self::Array, v: Self::V) {
                *to = v;
            }
            #[inline(always)]
            fn splat(self, x: $t) -> Self::V {
                [x; $n]
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] - b[i])
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * b[i])
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] / b[i])
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn sqrt(self, a: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i].sqrt())
            }
            #[inline(always)]
            fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                std::array::from_fn(|i| <Self as Lanes<$t>>::scalar_mul_add(self, a[i], b[i], c[i]))
            }
            #[inline(always)]
            fn mul_sub(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                std::array::from_fn(|i| <Self as Lanes<$t>>::scalar_mul_add(self, a[i], b[i], -c[i]))
            }
            #[inline(always)]
            fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                std::array::from_fn(|i| <Self as Lanes<$t>>::scalar_mul_add(self, -a[i], b[i], c[i]))
            }
            #[inline(always)]
            fn scalar_mul_add(self, a: $t, b: $t, c: $t) -> $t {
                if FUSED { a.mul_add(b, c) } else { a * b + c }
            }
            #[inline(always)]
            fn less(self, a: Self::V, b: Self::V) -> Self::M {
                std::array::from_fn(|i| a[i] < b[i])
            }
            #[inline(always)]
            fn equal(self, a: Self::V, b: Self::V) -> Self::M {
                std::array::from_fn(|i| a[i] == b[i])
            }
            #[inline(always)]
            fn not_negative(self, a: Self::V) -> Self::M {
                std::array::from_fn(|i| a[i] >= 0.0)
            }
            #[inline(always)]
            fn no_flags(self) -> bool {
                false
            }
            #[inline(always)]
            fn flag(self, flags: bool, a: Self::V) -> bool {
                a.iter().fold(flags, |flags, &a| flags | (a < 0.0) | a.is_nan())
            }
            #[inline(always)]
            fn any_flag(self, flags: bool) -> bool {
                flags
            }
            #[inline(always)]
            fn select(self, m: Self::M, if_true: Self::V, if_false: Self::V) -> Self::V {
                std::array::from_fn(|i| if m[i] { if_true[i] } else { if_false[i] })
            }
            #[inline(always)]
            fn add_exponent(self, x: Self::V, t: Self::V) -> Self::V {
                std::array::from_fn(|i| <$t>::from_bits(x[i].to_bits().wrapping_add(t[i].to_bits() << $mantissa)))
            }
        }
    };
}

array_lanes!(f32, 4, 23);
array_lanes!(f64, 2, 52);

impl<const FUSED: bool> Path<f32> for Arrays<FUSED> {
    type Wide = Self;
    const WIDENED: usize = 2;
    #[inline(always)]
    fn wide(self) -> Self {
        self
    }
    #[inline(always)]
    fn widen(self, v: [f32; 4], part: usize) -> [f64; 2] {
        [f64::from(v[2 * part]), f64::from(v[2 * part + 1])]
    }
}

impl<const FUSED: bool> Path<f64> for Arrays<FUSED> {
    type Wide = Self;
    const WIDENED: usize = 1;
    #[inline(always)]
    fn wide(self) -> Self {
        self
    }
    #[inline(always)]
    fn widen(self, v: [f64; 2], _part: usize) -> [f64; 2] {
        v
    }
}

impl<const FUSED: bool> Arrays<FUSED> {
    /// Runs `task` on this path.
    pub fn enter<T, K: Task<T>>(self, task: K) -> K::Output
    where
        Self: Path<T>,
    {
        task.run::<Self, 4, 2>(self)
    }
}
