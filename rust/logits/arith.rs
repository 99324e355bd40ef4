//! The arithmetic that decides, fixed to the bit.
//!
//! Only IEEE operations with one correct rounding are used (add, multiply, divide, fused multiply-add, integer
//! operations on the bits), in an order that is written down, so every instruction set and every device that follows
//! the same order gives the same bits. The platform's `exp` and `log` differ between machines and are never called.

/// Ids per tile. A row of logits is reduced tile by tile; a tile of `f32` fits the first-level cache.
pub const TILE: usize = 4096;
/// Accumulators per tile: element `j` of a tile is added to accumulator `j % LANES`, in rising `j`.
pub const LANES: usize = 256;

/// Differences below this weigh nothing: `exp(-60)` is lost against the maximum in every sum we make.
pub const FLOOR: f32 = -60.0;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// `1.5 * 2^23`: adding it rounds to the nearest integer and leaves that integer in the low bits.
const MAGIC: f32 = 12_582_912.0;
/// `2^f` on `[-1/2, 1/2]`, highest power first, constant term 1; relative error 1.4e-7.
const EXP2: [f32; 5] = [
    f32::from_bits(0x3aad_dcd9),
    f32::from_bits(0x3c1e_7536),
    f32::from_bits(0x3d63_5ba9),
    f32::from_bits(0x3e75_fcde),
    f32::from_bits(0x3f31_7215),
];
/// `exp(FLOOR)` as `exp_raw` computes it. Subtracting it makes everything at the floor exactly zero without a branch;
/// anything above `exp(-43)` is too large to notice.
const EXP_AT_FLOOR: f32 = f32::from_bits(0x142d_70d3);

#[inline(always)]
fn exp_raw(d: f32) -> f32 {
    let shifted = d.mul_add(LOG2_E, MAGIC);
    let f = d.mul_add(LOG2_E, -(shifted - MAGIC));
    let mut p = EXP2[0];
    for c in &EXP2[1..] {
        p = p.mul_add(f, *c);
    }
    let y = p.mul_add(f, 1.0);
    f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `max(d, FLOOR)`, keeping NaN.
#[inline(always)]
pub fn clamp(d: f32) -> f32 {
    if d < FLOOR { FLOOR } else { d }
}

/// `exp(d)` for `FLOOR <= d <= 0`: exactly 1 at 0 and exactly 0 at `FLOOR`. Of NaN it may be any number, because integers are
/// added to its bits.
#[inline(always)]
pub fn exp32(d: f32) -> f32 {
    exp_raw(d) - EXP_AT_FLOOR
}

/// A bound on logits: `cap * tanh(x / cap)`, as Gemma's head has it (2408.00118).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softcap {
    cap: f32,
    /// What `|x|` is multiplied by in the exponent of `tanh(y) = (1 - exp(-2y)) / (1 + exp(-2y))`.
    rate: f32,
}

impl Softcap {
    /// The bounds of a cap. A bounded logit is off by at most `3e-7 * cap`, which must stay small.
    pub const RANGE: std::ops::RangeInclusive<f64> = 1e-3..=1e3;

    /// A bound within `RANGE`.
    pub fn new(cap: f64) -> Self {
        debug_assert!(Self::RANGE.contains(&cap));
        Self {
            cap: cap as f32,
            rate: (-2.0 / cap) as f32,
        }
    }

    /// The bounded logit; NaN stays NaN.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        let e = exp32(clamp(x.abs() * self.rate));
        let bounded = (self.cap * ((1.0 - e) / (1.0 + e))).copysign(x);
        if x.is_nan() { x } else { bounded }
    }
}

/// The nearest bfloat16, ties to even. NaN stays NaN.
#[inline(always)]
pub fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if x.is_nan() {
        x
    } else {
        f32::from_bits(rounded)
    }
}

/// The nearest float16, ties to even, of a number below 65,520. NaN stays NaN.
#[inline(always)]
pub fn round_f16(x: f32) -> f32 {
    const SMALLEST_NORMAL: f32 = 6.103_515_6e-5;
    let bits = x.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0xfff + (bits >> 13 & 1)) & 0xffff_e000);
    // Adding 1/2 leaves multiples of 2^-24, which is what subnormal float16 are.
    let subnormal = ((x.abs() + 0.5) - 0.5).copysign(x);
    let finite = if x.abs() < SMALLEST_NORMAL {
        subnormal
    } else {
        normal
    };
    if x.is_nan() { x } else { finite }
}

/// Sum of the accumulators as a fixed binary tree: lane `i` takes lane `i + n` for `n` = 128, 64, ..., 1.
#[inline(always)]
pub fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// `exp(d)` in float64 for `d <= 0`, by plain multiplications and additions (no fused ones); 0 below -700.
pub fn exp64(d: f64) -> f64 {
    // Not the crate's constants: the split of ln 2 has 11 trailing zero bits so that k * LN2_HI is exact.
    const LN2_HI: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN2_LO: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
    const SHIFT: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    if d < -700.0 {
        return 0.0;
    }
    let shifted = d * std::f64::consts::LOG2_E + SHIFT;
    let k = shifted - SHIFT;
    let r = (d - k * LN2_HI) - k * LN2_LO;
    // Horner on the Taylor series; |r| <= 0.35, the last term is below 1e-16.
    let mut p = 1.0;
    for n in (1..=14).rev() {
        p = 1.0 + p * (r / f64::from(n));
    }
    f64::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 52))
}

/// `ln(1 + r)` in float64 for `r >= 0`, exact to rounding for tiny `r`.
pub fn ln_1p(r: f64) -> f64 {
    let (s, k) = if r < 0.41 {
        (r / (2.0 + r), 0.0)
    } else {
        let z = 1.0 + r;
        let mut k = (z.to_bits() >> 52) as i64 - 1023;
        let mut y = f64::from_bits((z.to_bits() & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
        if y > std::f64::consts::SQRT_2 {
            y *= 0.5;
            k += 1;
        }
        ((y - 1.0) / (y + 1.0), k as f64)
    };
    // ln((1+s)/(1-s)) = 2 (s + s^3/3 + s^5/5 + ...), |s| <= 0.172.
    let q = s * s;
    let mut p = 1.0 / 23.0;
    for n in (0..11).rev() {
        p = p * q + 1.0 / f64::from(2 * n + 1);
    }
    k * std::f64::consts::LN_2 + 2.0 * s * p
}

/// Natural logarithm in float64 of a positive, finite, normal number.
pub fn ln(x: f64) -> f64 {
    let k = (x.to_bits() >> 52) as i64 - 1023;
    let y = f64::from_bits((x.to_bits() & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    k as f64 * std::f64::consts::LN_2 + ln_1p(y - 1.0)
}

/// `cos(r pi / 2)` in float64 for `r` in [0, 1]. The schedules take floors of it, so it must not differ by platform.
pub fn cos_half_pi(r: f64) -> f64 {
    let use_sine = r > 0.5;
    let x = if use_sine { 1.0 - r } else { r } * std::f64::consts::FRAC_PI_2;
    let q = x * x;
    // Taylor by Horner: 1 - q/(n(n-1)) (1 - ...), |x| <= pi/4, the last term is below 1e-18.
    let mut p = 1.0;
    for i in (1..=9).rev() {
        let n = f64::from(2 * i + i32::from(use_sine));
        p = 1.0 - p * (q / (n * (n - 1.0)));
    }
    if use_sine { x * p } else { p }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_exp32_are_exact() {
        assert_eq!(
            EXP_AT_FLOOR.to_bits(),
            exp_raw(FLOOR).to_bits(),
            "{:#x}",
            exp_raw(FLOOR).to_bits()
        );
        assert_eq!(exp32(0.0), 1.0);
        assert_eq!(exp32(clamp(f32::NEG_INFINITY)), 0.0);
    }

    #[test]
    fn exp32_is_close_and_rises() {
        let mut last = 0.0;
        for i in (0..60_000).rev() {
            let d = -(i as f32) / 1000.0;
            let e = exp32(d);
            assert!(e >= last, "falls at {d}");
            last = e;
            if d > -20.0 {
                let exact = f64::from(d).exp();
                assert!((f64::from(e) / exact - 1.0).abs() < 1.2e-6, "{d}: {e}");
            }
        }
    }

    #[test]
    fn float64_functions_agree_with_the_platform() {
        for i in 0..70_000 {
            let d = -f64::from(i) / 100.0;
            assert!(
                (exp64(d) / d.exp() - 1.0).abs() < 4e-16 * (1.0 - d / 10.0),
                "{d}"
            );
        }
        for i in 0..4000 {
            let r = 1e-12 * 1.01f64.powi(i);
            assert!((ln_1p(r) / r.ln_1p() - 1.0).abs() < 1e-15, "{r}");
            assert!((ln(r) - r.ln()).abs() < 1e-14, "{r}");
        }
        for i in 0..=1000 {
            let r = f64::from(i) / 1000.0;
            assert!(
                (cos_half_pi(r) - (r * std::f64::consts::FRAC_PI_2).cos()).abs() < 3e-16,
                "{r}"
            );
        }
        // The one rational point where the cosine is rational and a floor could fall on the wrong side.
        assert!((0.5..0.500_000_1).contains(&cos_half_pi(2.0 / 3.0)));
        assert_eq!((cos_half_pi(0.0), cos_half_pi(1.0)), (1.0, 0.0));
        assert_eq!(exp64(0.0), 1.0);
        assert_eq!(exp64(f64::NEG_INFINITY), 0.0);
        assert_eq!(ln_1p(0.0), 0.0);
    }
}
