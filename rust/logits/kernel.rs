//! The three inner loops over a tile of logits, compiled once per instruction set from one source.
//!
//! The bodies are ordinary safe Rust over fixed-size arrays, which the compiler turns into vector code. Because the
//! order of the operations is part of the source and the compiler may not reorder floating-point work, the portable
//! build, AVX2, AVX-512 and NEON (the baseline of aarch64) give the same bits.

use super::arith::{LANES, Softcap, clamp, exp32, round_bf16, round_f16, tree};
use super::cut::{Cut, Ids, fixed};

/// Instruction sets with a path of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Whatever the build targets: NEON on aarch64, SSE2 on `x86_64`.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 foundation.
    Avx512,
}

impl Isa {
    /// The widest instruction set of this machine.
    pub fn best() -> Self {
        *Self::available().last().expect("portable is always there")
    }

    /// Every path that this machine can run, narrowest first.
    pub fn available() -> &'static [Self] {
        use std::sync::OnceLock;
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            #[allow(unused_mut)]
            let mut isas = vec![Self::Portable];
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                isas.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                    isas.push(Self::Avx512);
                }
            }
            isas
        })
    }
}

/// Largest and second largest value of a tile; equal values count separately, NaN is passed over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopTwo {
    /// Largest value.
    pub first: f32,
    /// Second largest value.
    pub second: f32,
}

/// Elements of a group of `group_maxima`.
pub const GROUP: usize = 64;

/// Sums over a tile relative to its maximum `m`, with `d = max((x - m) * inv_t, FLOOR)` and `e = exp32(d)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums {
    /// Sum of `e`.
    pub mass: f32,
    /// Sum of `e * d`.
    pub moment: f32,
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

impl TopTwo {
    const NONE: Self = Self {
        first: f32::NEG_INFINITY,
        second: f32::NEG_INFINITY,
    };

    /// The two largest of both.
    #[inline(always)]
    pub fn merge(self, other: Self) -> Self {
        Self {
            first: larger(self.first, other.first),
            second: larger(
                larger(self.second, other.second),
                smaller(self.first, other.first),
            ),
        }
    }
}

#[inline(always)]
fn top_two_body<const W: usize>(x: &[f32]) -> TopTwo {
    let mut first = [f32::NEG_INFINITY; W];
    let mut second = [f32::NEG_INFINITY; W];
    let (chunks, tail) = x.as_chunks::<W>();
    for c in chunks {
        for i in 0..W {
            // The order of the operands matters: a comparison with NaN is false and must keep what we have.
            second[i] = larger(smaller(c[i], first[i]), second[i]);
            first[i] = larger(c[i], first[i]);
        }
    }
    let mut best = TopTwo::NONE;
    for i in 0..W {
        best = best.merge(TopTwo {
            first: first[i],
            second: second[i],
        });
    }
    for &v in tail.iter().filter(|v| !v.is_nan()) {
        best = best.merge(TopTwo {
            first: v,
            second: f32::NEG_INFINITY,
        });
    }
    best
}

#[inline(always)]
fn sums_body<const W: usize>(x: &[f32], m: f32, inv_t: f32) -> Sums {
    let mut mass = [0f32; LANES];
    let mut moment = [0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for strip in (0..LANES).step_by(W) {
        // W lanes at a time, so that their accumulators stay in registers while the tile is walked.
        let mut s = [0f32; W];
        let mut a = [0f32; W];
        for c in chunks {
            let c: &[f32; W] = c[strip..strip + W].try_into().expect("W divides LANES");
            for i in 0..W {
                let d = clamp((c[i] - m) * inv_t);
                let e = exp32(d);
                s[i] += e;
                a[i] = e.mul_add(d, a[i]);
            }
        }
        mass[strip..strip + W].copy_from_slice(&s);
        moment[strip..strip + W].copy_from_slice(&a);
    }
    for (i, &v) in tail.iter().enumerate() {
        let d = clamp((v - m) * inv_t);
        let e = exp32(d);
        mass[i] += e;
        moment[i] = e.mul_add(d, moment[i]);
    }
    Sums {
        mass: tree(mass),
        moment: tree(moment),
    }
}

#[inline(always)]
fn weights_body(x: &[f32], m: f32, inv_t: f32, out: &mut [f32]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = exp32(clamp((v - m) * inv_t));
    }
}

#[inline(always)]
fn widen_bf16_body(bits: &[u16], out: &mut [f32]) {
    for (o, &b) in out.iter_mut().zip(bits) {
        *o = f32::from_bits(u32::from(b) << 16);
    }
}

/// Exact: the 15 low bits, moved to where float32 keeps exponent and fraction, are the value times 2^-112.
#[inline(always)]
fn widen_f16_body(bits: &[u16], out: &mut [f32]) {
    for (o, &b) in out.iter_mut().zip(bits) {
        let sign = u32::from(b & 0x8000) << 16;
        let magnitude = u32::from(b & 0x7fff) << 13;
        let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
        let special = magnitude | 0x7f80_0000;
        *o = f32::from_bits(
            sign | if magnitude >= 0x0f80_0000 {
                special
            } else {
                finite
            },
        );
    }
}

#[inline(always)]
fn softcap_f32_body(x: &mut [f32], cap: Softcap) {
    for v in x {
        *v = cap.apply(*v);
    }
}

#[inline(always)]
fn softcap_bf16_body(x: &mut [f32], cap: Softcap) {
    for v in x {
        *v = round_bf16(cap.apply(*v));
    }
}

#[inline(always)]
fn softcap_f16_body(x: &mut [f32], cap: Softcap) {
    for v in x {
        *v = round_f16(cap.apply(*v));
    }
}

#[inline(always)]
fn fixed_mass_body(x: &[f32], m: f32, inv_t: f32) -> u64 {
    x.iter()
        .map(|&v| fixed(exp32(clamp((v - m) * inv_t))))
        .sum()
}

#[inline(always)]
fn append_above_body(x: &[f32], bound: f32, first_id: u32, out: &mut Ids) {
    // Without a branch for each element: all are written at the end, which moves only past those that are kept.
    let start = out.x.len();
    out.x.resize(start + x.len(), 0.0);
    out.id.resize(start + x.len(), 0);
    let (values, ids) = (&mut out.x[start..], &mut out.id[start..]);
    let mut kept = 0;
    for (g, group) in x.chunks(GROUP).enumerate() {
        // Where little is kept most groups hold nothing, and a whole group is tested in a few vector instructions.
        if group.iter().filter(|v| **v >= bound).count() > 0 {
            for (j, &v) in group.iter().enumerate() {
                values[kept] = v;
                ids[kept] = first_id + (g * GROUP + j) as u32;
                kept += usize::from(v >= bound);
            }
        }
    }
    out.x.truncate(start + kept);
    out.id.truncate(start + kept);
}

#[inline(always)]
fn group_maxima_body(x: &[f32], out: &mut Vec<f32>) {
    for group in x.chunks(GROUP) {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (chunks, tail) = group.as_chunks::<16>();
        for c in chunks {
            for (lane, &v) in lanes.iter_mut().zip(c) {
                *lane = larger(v, *lane);
            }
        }
        out.push(
            lanes
                .iter()
                .chain(tail)
                .fold(f32::NEG_INFINITY, |a, &b| larger(b, a)),
        );
    }
}

#[inline(always)]
fn drop_cut_body(x: &[f32], m: f32, inv_t: f32, cut: Cut, first_id: u32, weights: &mut [f32]) {
    for (j, (w, &v)) in weights.iter_mut().zip(x).enumerate() {
        *w = if cut.keeps(v, first_id + j as u32, (v - m) * inv_t) {
            *w
        } else {
            0.0
        };
    }
}

#[inline(always)]
fn lane_sum_body(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for c in chunks {
        for (lane, v) in lanes.iter_mut().zip(c) {
            *lane += v;
        }
    }
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *lane += v;
    }
    tree(lanes)
}

/// Defines `name(isa, args)` that runs `body` compiled for `isa`.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty, $portable:expr, $avx2:expr, $avx512:expr) => {
        $(#[$doc])*
        pub fn $name(isa: Isa, $($arg: $ty),*) -> $ret {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) -> $ret { $avx2($($arg),*) }
                #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
                fn avx512($($arg: $ty),*) -> $ret { $avx512($($arg),*) }
                match isa {
                    // SAFETY: `Isa::available` offers these only where the processor has the features.
                    Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    Isa::Portable => {}
                }
            }
            $portable($($arg),*)
        }
    };
}

dispatch!(
    /// Largest and second largest value of a tile.
    top_two(x: &[f32]) -> TopTwo, top_two_body::<16>, top_two_body::<32>, top_two_body::<64>
);
dispatch!(
    /// Sums of a tile relative to its maximum `m`, at inverse temperature `inv_t`.
    sums(x: &[f32], m: f32, inv_t: f32) -> Sums, sums_body::<16>, sums_body::<16>, sums_body::<64>
);
dispatch!(
    /// `exp32` of every element relative to `m` at inverse temperature `inv_t`, into `out`.
    weights(x: &[f32], m: f32, inv_t: f32, out: &mut [f32]) -> (), weights_body, weights_body, weights_body
);
dispatch!(
    /// bfloat16 bits as float32.
    widen_bf16(bits: &[u16], out: &mut [f32]) -> (), widen_bf16_body, widen_bf16_body, widen_bf16_body
);
dispatch!(
    /// float16 bits as float32.
    widen_f16(bits: &[u16], out: &mut [f32]) -> (), widen_f16_body, widen_f16_body, widen_f16_body
);
dispatch!(
    /// Bounds logits.
    softcap_f32(x: &mut [f32], cap: Softcap) -> (), softcap_f32_body, softcap_f32_body, softcap_f32_body
);
dispatch!(
    /// Bounds logits, each rounded to bfloat16.
    softcap_bf16(x: &mut [f32], cap: Softcap) -> (), softcap_bf16_body, softcap_bf16_body, softcap_bf16_body
);
dispatch!(
    /// Bounds logits, each rounded to float16.
    softcap_f16(x: &mut [f32], cap: Softcap) -> (), softcap_f16_body, softcap_f16_body, softcap_f16_body
);
dispatch!(
    /// Sum of the weights of a tile relative to `m` as fixed-point integers.
    fixed_mass(x: &[f32], m: f32, inv_t: f32) -> u64, fixed_mass_body, fixed_mass_body, fixed_mass_body
);
dispatch!(
    /// Appends the elements that reach `bound` with their ids; `first_id` is that of `x[0]`.
    append_above(x: &[f32], bound: f32, first_id: u32, out: &mut Ids) -> (),
    append_above_body, append_above_body, append_above_body
);
dispatch!(
    /// Appends the largest element of each group of 64.
    group_maxima(x: &[f32], out: &mut Vec<f32>) -> (), group_maxima_body, group_maxima_body, group_maxima_body
);
dispatch!(
    /// Sets the weights of the elements that `cut` drops to 0. `m` is the maximum of the row, `first_id` the id of `x[0]`.
    drop_cut(x: &[f32], m: f32, inv_t: f32, cut: Cut, first_id: u32, weights: &mut [f32]) -> (),
    drop_cut_body, drop_cut_body, drop_cut_body
);
dispatch!(
    /// Sum of weights in the shape of `sums`.
    lane_sum(x: &[f32]) -> f32, lane_sum_body, lane_sum_body, lane_sum_body
);
