//! The AVX2 + FMA and AVX-512 paths.
//!
//! AVX2 goes through pulp's token, whose intrinsics are safe. pulp offers AVX-512 only behind a feature that would also
//! recompile the dense algebra for it, so that path calls `core::arch` directly.
//!
//! **Soundness.** All unsafe code of the crate is in this file (the crate denies it elsewhere), and there are two kinds. Instructions: a token is made only after the processor
//! has been seen to have them. Bytes taken for a register and back: sizes are checked by the compiler. No pointer is followed (one is made, of a reference, for the hint of a prefetch): memory is read and written through references to whole arrays,
//! which come of slices by checked indexing, in release builds as in others; so what a wrong length does is a panic (`tests/soundness.rs`, which also holds every operation on every path
//! against its definition, lane by lane). Miri does not run vendors' instructions; the portable path has no unsafe code for it to check.

use super::entry::Real;
use super::functions::horner;
use super::lanes::{Lanes, Path, Task};
use core::arch::x86_64::*;
use core::mem::transmute;
use pulp::cast;
use pulp::x86::V3;

/// What a reduction takes away from its argument: the nearest integer.
const NEAREST: i32 = 0;

/// Proof that AVX2 and FMA are present.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(V3);

/// Proof that AVX-512 F and DQ are present (with AVX2 and FMA).
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx2 {
    /// The token, if this processor has the instructions.
    pub fn detect() -> Option<Self> {
        V3::try_new().map(Avx2)
    }

    /// Runs `task` compiled for this path.
    pub fn enter<T, K: Task<T>>(self, task: K) -> K::Output
    where
        Self: Path<T>,
    {
        struct Call<T, K>(Avx2, K, core::marker::PhantomData<T>);
        impl<T, K: Task<T>> pulp::NullaryFnOnce for Call<T, K>
        where
            Avx2: Path<T>,
        {
            type Output = K::Output;
            #[inline(always)]
            fn call(self) -> K::Output {
                // 12 accumulators, 2 vectors of centers, 1 broadcast: 15 of 16 registers.
                self.1.run::<Avx2, 6, 2>(self.0)
            }
        }
        self.0.vectorize(Call(self, task, core::marker::PhantomData))
    }
}

impl Avx512 {
    /// The token, if this processor has the instructions.
    pub fn detect() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
        let present = present && Avx2::detect().is_some();
        present.then_some(Avx512(()))
    }

    /// Runs `task` compiled for this path.
    pub fn enter<T, K: Task<T>>(self, task: K) -> K::Output
    where
        Self: Path<T>,
    {
        #[target_feature(enable = "avx512f,avx512dq,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        fn compiled<T, K: Task<T>>(path: Avx512, task: K) -> K::Output
        where
            Avx512: Path<T>,
        {
            // 24 accumulators, 4 vectors of centers; the broadcasts are operands in memory.
            task.run::<Avx512, 6, 4>(path)
        }
        // SAFETY: `self` is only made by `detect`, which found every feature named above (V3 includes the bit-manipulation ones).
        unsafe { compiled(self, task) }
    }
}

/// Methods of an AVX2 vector type that are one safe intrinsic of pulp's token.
macro_rules! avx2_methods {
    ($($name:ident($($a:ident : $ty:ident),*) -> $out:ident = $field:ident . $f:ident $(::<$imm:literal>)?;)*) => {$(
        #[inline(always)]
        fn $name(self, $($a: Self::$ty),*) -> Self::$out {
            self.0.$field.$f$(::<$imm>)?($($a),*)
        }
    )*};
}

/// What is the same for every vector type: whole arrays in memory.
macro_rules! memory_methods {
    ($t:ty) => {
        #[inline(always)]
        fn arrays(slice: &[$t]) -> &[Self::Array] {
            slice.as_chunks().0
        }
        #[inline(always)]
        fn arrays_mut(slice: &mut [$t]) -> &mut [Self::Array] {
            slice.as_chunks_mut().0
        }
        #[inline(always)]
        fn scalar_mul_add(self, a: $t, b: $t, c: $t) -> $t {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn prefetch<U>(self, value: &U) {
            // SAFETY: a hint of SSE, which every x86-64 has: it accesses no memory that the program can tell, and cannot fault.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast()) }
        }
    };
}

impl Lanes<f32> for Avx2 {
    type Array = [f32; 8];
    type V = __m256;
    type M = __m256;
    type F = __m256;
    const N: usize = 8;
    memory_methods!(f32);
    #[inline(always)]
    fn load(self, from: &Self::Array) -> Self::V {
        cast(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut Self::Array, v: Self::V) {
        *to = cast(v);
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        self.0.avx._mm256_set1_ps(x)
    }
    avx2_methods! {
        add(a: V, b: V) -> V = avx._mm256_add_ps;
        sub(a: V, b: V) -> V = avx._mm256_sub_ps;
        mul(a: V, b: V) -> V = avx._mm256_mul_ps;
        div(a: V, b: V) -> V = avx._mm256_div_ps;
        max(a: V, b: V) -> V = avx._mm256_max_ps;
        min(a: V, b: V) -> V = avx._mm256_min_ps;
        sqrt(a: V) -> V = avx._mm256_sqrt_ps;
        mul_add(a: V, b: V, c: V) -> V = fma._mm256_fmadd_ps;
        mul_sub(a: V, b: V, c: V) -> V = fma._mm256_fmsub_ps;
        neg_mul_add(a: V, b: V, c: V) -> V = fma._mm256_fnmadd_ps;
        less(a: V, b: V) -> M = avx._mm256_cmp_ps::<17>;
        equal(a: V, b: V) -> M = avx._mm256_cmp_ps::<0>;
    }
    #[inline(always)]
    fn not_negative(self, a: Self::V) -> Self::M {
        self.0.avx._mm256_cmp_ps::<29>(a, self.0.avx._mm256_setzero_ps())
    }
    #[inline(always)]
    fn no_flags(self) -> Self::F {
        self.0.avx._mm256_setzero_ps()
    }
    // The sign bit; the NaN of an invalid operation has it set on x86.
    #[inline(always)]
    fn flag(self, flags: Self::F, a: Self::V) -> Self::F {
        self.0.avx._mm256_or_ps(flags, a)
    }
    #[inline(always)]
    fn any_flag(self, flags: Self::F) -> bool {
        self.0.avx._mm256_movemask_ps(flags) != 0
    }
    #[inline(always)]
    fn select(self, m: Self::M, if_true: Self::V, if_false: Self::V) -> Self::V {
        self.0.avx._mm256_blendv_ps(if_false, if_true, m)
    }
    #[inline(always)]
    fn add_exponent(self, x: Self::V, t: Self::V) -> Self::V {
        let n = self.0.avx2._mm256_slli_epi32::<23>(cast(t));
        cast(self.0.avx2._mm256_add_epi32(cast(x), n))
    }
}

impl Lanes<f64> for Avx2 {
    type Array = [f64; 4];
    type V = __m256d;
    type M = __m256d;
    type F = __m256d;
    const N: usize = 4;
    memory_methods!(f64);
    #[inline(always)]
    fn load(self, from: &Self::Array) -> Self::V {
        cast(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut Self::Array, v: Self::V) {
        *to = cast(v);
    }
    #[inline(always)]
    fn splat(self, x: f64) -> Self::V {
        self.0.avx._mm256_set1_pd(x)
    }
    avx2_methods! {
        add(a: V, b: V) -> V = avx._mm256_add_pd;
        sub(a: V, b: V) -> V = avx._mm256_sub_pd;
        mul(a: V, b: V) -> V = avx._mm256_mul_pd;
        div(a: V, b: V) -> V = avx._mm256_div_pd;
        max(a: V, b: V) -> V = avx._mm256_max_pd;
        min(a: V, b: V) -> V = avx._mm256_min_pd;
        sqrt(a: V) -> V = avx._mm256_sqrt_pd;
        mul_add(a: V, b: V, c: V) -> V = fma._mm256_fmadd_pd;
        mul_sub(a: V, b: V, c: V) -> V = fma._mm256_fmsub_pd;
        neg_mul_add(a: V, b: V, c: V) -> V = fma._mm256_fnmadd_pd;
        less(a: V, b: V) -> M = avx._mm256_cmp_pd::<17>;
        equal(a: V, b: V) -> M = avx._mm256_cmp_pd::<0>;
    }
    #[inline(always)]
    fn not_negative(self, a: Self::V) -> Self::M {
        self.0.avx._mm256_cmp_pd::<29>(a, self.0.avx._mm256_setzero_pd())
    }
    #[inline(always)]
    fn no_flags(self) -> Self::F {
        self.0.avx._mm256_setzero_pd()
    }
    // The sign bit; the NaN of an invalid operation has it set on x86.
    #[inline(always)]
    fn flag(self, flags: Self::F, a: Self::V) -> Self::F {
        self.0.avx._mm256_or_pd(flags, a)
    }
    #[inline(always)]
    fn any_flag(self, flags: Self::F) -> bool {
        self.0.avx._mm256_movemask_pd(flags) != 0
    }
    #[inline(always)]
    fn select(self, m: Self::M, if_true: Self::V, if_false: Self::V) -> Self::V {
        self.0.avx._mm256_blendv_pd(if_false, if_true, m)
    }
    #[inline(always)]
    fn add_exponent(self, x: Self::V, t: Self::V) -> Self::V {
        let n = self.0.avx2._mm256_slli_epi64::<52>(cast(t));
        cast(self.0.avx2._mm256_add_epi64(cast(x), n))
    }
}

impl Path<f32> for Avx2 {
    type Wide = Self;
    const WIDENED: usize = 2;
    #[inline(always)]
    fn wide(self) -> Self {
        self
    }
    #[inline(always)]
    fn widen(self, v: __m256, part: usize) -> __m256d {
        let avx = self.0.avx;
        avx._mm256_cvtps_pd(if part == 0 { avx._mm256_castps256_ps128(v) } else { avx._mm256_extractf128_ps::<1>(v) })
    }
}

impl Path<f64> for Avx2 {
    type Wide = Self;
    const WIDENED: usize = 1;
    #[inline(always)]
    fn wide(self) -> Self {
        self
    }
    #[inline(always)]
    fn widen(self, v: __m256d, _part: usize) -> __m256d {
        v
    }
}

/// Methods of an AVX-512 vector type that are one intrinsic.
macro_rules! avx512_methods {
    ($($name:ident($($a:ident : $ty:ident),*) -> $out:ident = $f:ident $(::<$imm:literal>)?;)*) => {$(
        #[inline(always)]
        fn $name(self, $($a: Self::$ty),*) -> Self::$out {
            // SAFETY: the token proves that AVX-512 F is present.
            unsafe { $f$(::<$imm>)?($($a),*) }
        }
    )*};
}

impl Lanes<f32> for Avx512 {
    type Array = [f32; 16];
    type V = __m512;
    type M = __mmask16;
    type F = __mmask16;
    const N: usize = 16;
    memory_methods!(f32);
    #[inline(always)]
    fn load(self, from: &Self::Array) -> Self::V {
        // SAFETY: array and register are the same 64 bytes (the compiler checks the size), all of whose values are valid in both; no pointer is followed.
        unsafe { transmute::<[f32; 16], __m512>(*from) }
    }
    #[inline(always)]
    fn store(self, to: &mut Self::Array, v: Self::V) {
        // SAFETY: as for `load`.
        *to = unsafe { transmute::<__m512, [f32; 16]>(v) };
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe { _mm512_set1_ps(x) }
    }
    avx512_methods! {
        add(a: V, b: V) -> V = _mm512_add_ps;
        sub(a: V, b: V) -> V = _mm512_sub_ps;
        mul(a: V, b: V) -> V = _mm512_mul_ps;
        div(a: V, b: V) -> V = _mm512_div_ps;
        max(a: V, b: V) -> V = _mm512_max_ps;
        min(a: V, b: V) -> V = _mm512_min_ps;
        sqrt(a: V) -> V = _mm512_sqrt_ps;
        mul_add(a: V, b: V, c: V) -> V = _mm512_fmadd_ps;
        mul_sub(a: V, b: V, c: V) -> V = _mm512_fmsub_ps;
        neg_mul_add(a: V, b: V, c: V) -> V = _mm512_fnmadd_ps;
        less(a: V, b: V) -> M = _mm512_cmp_ps_mask::<17>;
        equal(a: V, b: V) -> M = _mm512_cmp_ps_mask::<0>;
    }
    #[inline(always)]
    fn not_negative(self, a: Self::V) -> Self::M {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe { _mm512_cmp_ps_mask::<29>(a, _mm512_setzero_ps()) }
    }
    #[inline(always)]
    fn no_flags(self) -> Self::F {
        0
    }
    #[inline(always)]
    fn flag(self, flags: Self::F, a: Self::V) -> Self::F {
        // SAFETY: the token proves that AVX-512 F is present. The comparison is "not greater or equal": true for NaN.
        flags | unsafe { _mm512_cmp_ps_mask::<25>(a, _mm512_setzero_ps()) }
    }
    #[inline(always)]
    fn any_flag(self, flags: Self::F) -> bool {
        flags != 0
    }
    #[inline(always)]
    fn select(self, m: Self::M, if_true: Self::V, if_false: Self::V) -> Self::V {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe { _mm512_mask_blend_ps(m, if_false, if_true) }
    }
    #[inline(always)]
    fn add_exponent(self, x: Self::V, t: Self::V) -> Self::V {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), n))
        }
    }
    // Four instructions besides the polynomial instead of six. Arguments whose result would be denormal, and NaN, give 0. (Split by the floor, which the scaling takes
    // itself, it would be three; but then arguments just below 0 lie at the other end of the polynomial than 0, where its error is a bias: entries of smooth kernels are all
    // there, and conjugate gradients took half as many steps again.)
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        // SAFETY: the token proves that AVX-512 F and DQ are present.
        let f = unsafe { _mm512_reduce_ps::<NEAREST>(x) };
        let y = horner(self, f32::EXP2, f);
        let n = <Self as Lanes<f32>>::sub(self, x, f);
        // SAFETY: as above.
        unsafe { _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<29>(x, _mm512_set1_ps(f32::EXP2_MIN + 1.0)), y, n) }
    }
}

impl Lanes<f64> for Avx512 {
    type Array = [f64; 8];
    type V = __m512d;
    type M = __mmask8;
    type F = __mmask8;
    const N: usize = 8;
    memory_methods!(f64);
    #[inline(always)]
    fn load(self, from: &Self::Array) -> Self::V {
        // SAFETY: array and register are the same 64 bytes (the compiler checks the size), all of whose values are valid in both; no pointer is followed.
        unsafe { transmute::<[f64; 8], __m512d>(*from) }
    }
    #[inline(always)]
    fn store(self, to: &mut Self::Array, v: Self::V) {
        // SAFETY: as for `load`.
        *to = unsafe { transmute::<__m512d, [f64; 8]>(v) };
    }
    #[inline(always)]
    fn splat(self, x: f64) -> Self::V {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe { _mm512_set1_pd(x) }
    }
    avx512_methods! {
        add(a: V, b: V) -> V = _mm512_add_pd;
        sub(a: V, b: V) -> V = _mm512_sub_pd;
        mul(a: V, b: V) -> V = _mm512_mul_pd;
        div(a: V, b: V) -> V = _mm512_div_pd;
        max(a: V, b: V) -> V = _mm512_max_pd;
        min(a: V, b: V) -> V = _mm512_min_pd;
        sqrt(a: V) -> V = _mm512_sqrt_pd;
        mul_add(a: V, b: V, c: V) -> V = _mm512_fmadd_pd;
        mul_sub(a: V, b: V, c: V) -> V = _mm512_fmsub_pd;
        neg_mul_add(a: V, b: V, c: V) -> V = _mm512_fnmadd_pd;
        less(a: V, b: V) -> M = _mm512_cmp_pd_mask::<17>;
        equal(a: V, b: V) -> M = _mm512_cmp_pd_mask::<0>;
    }
    #[inline(always)]
    fn not_negative(self, a: Self::V) -> Self::M {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe { _mm512_cmp_pd_mask::<29>(a, _mm512_setzero_pd()) }
    }
    #[inline(always)]
    fn no_flags(self) -> Self::F {
        0
    }
    #[inline(always)]
    fn flag(self, flags: Self::F, a: Self::V) -> Self::F {
        // SAFETY: the token proves that AVX-512 F is present. The comparison is "not greater or equal": true for NaN.
        flags | unsafe { _mm512_cmp_pd_mask::<25>(a, _mm512_setzero_pd()) }
    }
    #[inline(always)]
    fn any_flag(self, flags: Self::F) -> bool {
        flags != 0
    }
    #[inline(always)]
    fn select(self, m: Self::M, if_true: Self::V, if_false: Self::V) -> Self::V {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe { _mm512_mask_blend_pd(m, if_false, if_true) }
    }
    #[inline(always)]
    fn add_exponent(self, x: Self::V, t: Self::V) -> Self::V {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe {
            let n = _mm512_slli_epi64::<52>(_mm512_castpd_si512(t));
            _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(x), n))
        }
    }
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        // SAFETY: the token proves that AVX-512 F and DQ are present.
        let f = unsafe { _mm512_reduce_pd::<NEAREST>(x) };
        let y = horner(self, f64::EXP2, f);
        let n = <Self as Lanes<f64>>::sub(self, x, f);
        // SAFETY: as above.
        unsafe { _mm512_maskz_scalef_pd(_mm512_cmp_pd_mask::<29>(x, _mm512_set1_pd(f64::EXP2_MIN + 1.0)), y, n) }
    }
}

impl Path<f32> for Avx512 {
    type Wide = Self;
    const WIDENED: usize = 2;
    #[inline(always)]
    fn wide(self) -> Self {
        self
    }
    #[inline(always)]
    fn widen(self, v: __m512, part: usize) -> __m512d {
        // SAFETY: the token proves that AVX-512 F is present.
        unsafe {
            let half = if part == 0 {
                _mm512_castps512_ps256(v)
            } else {
                _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)))
            };
            _mm512_cvtps_pd(half)
        }
    }
}

impl Path<f64> for Avx512 {
    type Wide = Self;
    const WIDENED: usize = 1;
    #[inline(always)]
    fn wide(self) -> Self {
        self
    }
    #[inline(always)]
    fn widen(self, v: __m512d, _part: usize) -> __m512d {
        v
    }
}
