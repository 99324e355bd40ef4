//! The three inner loops over a tile of logits, compiled once per instruction set from one source.
//!
//! The bodies are ordinary safe Rust over fixed-size arrays, which the compiler turns into vector code. Because the
//! order of the operations is part of the source and the compiler may not reorder floating-point work, the portable
//! build, AVX2, AVX-512 and NEON (the baseline of aarch64) give the same bits.

use super::arith::{LANES, clamp, exp32, tree};
use super::cut::{Cut, bin};

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
fn bins_body(x: &[f32], m: f32, inv_t: f32, out: &mut [u16]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = bin(clamp((v - m) * inv_t));
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
    /// The bin of every element, by its scaled distance from `m`, into `out`.
    bins(x: &[f32], m: f32, inv_t: f32, out: &mut [u16]) -> (), bins_body, bins_body, bins_body
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
