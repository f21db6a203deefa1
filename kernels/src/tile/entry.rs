//! The two precisions of kernel entries, and their constants.

use super::SimdPath;
use super::lanes::{Arrays, Task};
use std::ops::{Add, Mul, Neg};

/// What the tiles need from a precision.
pub trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + PartialEq
    + Neg<Output = Self>
    + Add<Output = Self>
    + Mul<Output = Self>
    + Default
    + 'static
{
    const ZERO: Self;
    const HALF: Self;
    const ONE: Self;
    const TWO: Self;
    const THIRD: Self;
    const LN_2: Self;
    const HALF_PI: Self;
    const INVERSE_PI: Self;
    /// Minus the exponent bias: 2^x is taken as 0 from here down.
    const EXP2_MIN: Self;
    /// 1.5 times 2^mantissa bits: adding it rounds to an integer.
    const ROUND: Self;
    /// Coefficients of 2^f on [-1/2, 1/2], ascending.
    const EXP2: &'static [Self];
    /// (asin(s)/s - 1)/s^2 as a polynomial in s^2 on [0, 1/4], ascending.
    const ASIN: &'static [Self];
    /// A squared distance below this share of |x|^2 + |z|^2 is recomputed from differences.
    const NEAR: Self;

    /// Rounded once; kept within a quarter of the largest finite value.
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    /// Runs `task` on `token`'s path.
    fn dispatch<K: Task<Self>>(token: Token, task: K) -> K::Output;
}

/// The type of kernel entries: `f32` or `f64`. Sealed.
pub trait Entry: Real {}
impl Entry for f32 {}
impl Entry for f64 {}

/// A dispatch path known to be available on this processor.
#[derive(Clone, Copy, Debug)]
pub enum Token {
    Portable(Arrays<false>),
    #[cfg(target_arch = "aarch64")]
    Neon(Arrays<true>),
    #[cfg(target_arch = "x86_64")]
    Avx2(super::x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::x86::Avx512),
}

impl Token {
    /// That of the fastest path of this processor.
    pub fn fastest() -> Self {
        Token::of(SimdPath::detect()).unwrap_or(Token::Portable(Arrays))
    }

    /// The token of `path`, if this processor has it.
    pub fn of(path: SimdPath) -> Option<Self> {
        match path {
            SimdPath::Portable => Some(Token::Portable(Arrays)),
            #[cfg(target_arch = "aarch64")]
            SimdPath::Neon => Some(Token::Neon(Arrays)),
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx2 => super::x86::Avx2::detect().map(Token::Avx2),
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx512 => super::x86::Avx512::detect().map(Token::Avx512),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }
}

macro_rules! real {
    ($t:ident, min: $min:literal, round: $round:literal, near: $near:expr, exp2: $exp2:expr, asin: $asin:expr) => {
        // The minimax coefficients come near ln 2 and are not it.
        #[allow(clippy::approx_constant)]
        impl Real for $t {
            const ZERO: Self = 0.0;
            const HALF: Self = 0.5;
            const ONE: Self = 1.0;
            const TWO: Self = 2.0;
            const THIRD: Self = 1.0 / 3.0;
            const LN_2: Self = std::$t::consts::LN_2;
            const HALF_PI: Self = std::$t::consts::FRAC_PI_2;
            const INVERSE_PI: Self = std::$t::consts::FRAC_1_PI;
            const EXP2_MIN: Self = $min;
            const ROUND: Self = $round;
            const EXP2: &'static [Self] = &$exp2;
            const ASIN: &'static [Self] = &$asin;
            const NEAR: Self = $near;

            #[inline]
            fn from_f64(x: f64) -> Self {
                let limit = f64::from(<$t>::MAX) / 4.0;
                x.clamp(-limit, limit) as $t
            }
            #[inline]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn dispatch<K: Task<Self>>(token: Token, task: K) -> K::Output {
                match token {
                    Token::Portable(path) => path.enter(task),
                    #[cfg(target_arch = "aarch64")]
                    Token::Neon(path) => path.enter(task),
                    #[cfg(target_arch = "x86_64")]
                    Token::Avx2(path) => path.enter(task),
                    #[cfg(target_arch = "x86_64")]
                    Token::Avx512(path) => path.enter(task),
                }
            }
        }
    };
}

real!(
    f32,
    min: -127.0,
    round: 12_582_912.0,
    near: 1.0 / 256.0,
    exp2: [1.0, 0.693_147, 0.240_222_47, 0.055_507_112, 0.009_671_298, 0.001_326_946_4],
    asin: [0.166_666_73, 0.074_988_55, 0.045_001_38, 0.026_554_542, 0.038_085_025]
);

real!(
    f64,
    min: -1023.0,
    round: 6_755_399_441_055_744.0,
    near: 1.0 / 4096.0,
    exp2: [
        1.0,
        std::f64::consts::LN_2,
        0.24022650695910097,
        0.0555041086648216,
        0.009618129107606888,
        0.0013333558146416936,
        0.0001540353044173605,
        1.525273382983612e-05,
        1.321544258792169e-06,
        1.0178062445845774e-07,
        7.072585949269223e-09,
        4.4549605981865186e-10
    ],
    asin: [
        0.16666666666666669,
        0.07499999999998433,
        0.04464285714635543,
        0.030381944138531247,
        0.02237217294214989,
        0.017352392720869973,
        0.013971212973552933,
        0.011479177415184906,
        0.01032281435018578,
        0.005457506718640358,
        0.01740087944269402,
        -0.014851887071247204,
        0.028757851367421566
    ]
);
