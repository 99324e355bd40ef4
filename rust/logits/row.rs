//! One row of logits, read in place.

use super::arith::{Softcap, TILE, round_bf16, round_f16};
use super::kernel::{self, Isa};

/// How a logit is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
}

impl Dtype {
    /// A probability as this dtype holds it, rounded through float32 like a softmax in that dtype.
    pub fn round(self, probability: f64) -> f64 {
        let single = probability as f32;
        f64::from(match self {
            Self::F32 => single,
            Self::Bf16 => round_bf16(single),
            Self::F16 => round_f16(single),
        })
    }
}

/// Logits as they lie in memory; bf16 and f16 as their bits.
#[derive(Clone, Copy, Debug)]
pub enum Logits<'a> {
    /// float32.
    F32(&'a [f32]),
    /// bfloat16 bits.
    Bf16(&'a [u16]),
    /// float16 bits.
    F16(&'a [u16]),
}

impl<'a> Logits<'a> {
    /// How they are written.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::F16(_) => Dtype::F16,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) | Self::F16(x) => x.len(),
        }
    }

    /// No values at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values `start..end`.
    pub fn slice(&self, start: usize, end: usize) -> Logits<'a> {
        match self {
            Self::F32(x) => Self::F32(&x[start..end]),
            Self::Bf16(x) => Self::Bf16(&x[start..end]),
            Self::F16(x) => Self::F16(&x[start..end]),
        }
    }
}

/// A row of logits in which some ids do not count.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    logits: Logits<'a>,
    suppressed: &'a [u32],
    penalised: &'a [u32],
    penalty: f32,
    raises: &'a [(u32, f64)],
    softcap: Option<Softcap>,
    divisor: Option<f32>,
    isa: Isa,
}

impl<'a> Row<'a> {
    /// `suppressed`: rising ids, each below the length of the row, that count as -inf.
    pub fn new(logits: Logits<'a>, suppressed: &'a [u32], isa: Isa) -> Self {
        debug_assert!(
            suppressed.is_sorted()
                && suppressed
                    .last()
                    .is_none_or(|&id| (id as usize) < logits.len())
        );
        Self {
            logits,
            suppressed,
            penalised: &[],
            penalty: 0.0,
            raises: &[],
            softcap: None,
            divisor: None,
            isa,
        }
    }

    /// The same with its logits bounded, and rounded to their dtype again.
    pub fn bounded(self, softcap: Option<Softcap>) -> Self {
        Self { softcap, ..self }
    }

    /// The same with the logits of some rising ids smaller by a penalty, in float32, behind the bound.
    pub fn penalised(self, penalised: &'a [u32], penalty: f32) -> Self {
        Self {
            penalised,
            penalty,
            ..self
        }
    }

    /// The same with each logit divided, as float32, which it then stays.
    pub fn divided(self, divisor: Option<f32>) -> Self {
        Self { divisor, ..self }
    }

    /// The same with something added to the logits of some rising ids behind all that, in float64, and rounded to float32. -inf
    /// stays what it is.
    pub fn raised(self, raises: &'a [(u32, f64)]) -> Self {
        Self { raises, ..self }
    }

    /// Size of the vocabulary.
    pub fn len(&self) -> usize {
        self.logits.len()
    }

    /// No ids at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.len().div_ceil(TILE)
    }

    /// The float32 values of tile `t`: the logits themselves where they can be used as they lie, else `scratch`.
    pub fn tile<'b>(&'b self, t: usize, scratch: &'b mut [f32; TILE]) -> &'b [f32] {
        let start = t * TILE;
        let end = self.len().min(start + TILE);
        let suppressed = between(self.suppressed, start, end);
        let penalised = between(self.penalised, start, end);
        let raises = self.raises_between(start, end);
        let is_bare = self.softcap.is_none() && self.divisor.is_none() && raises.is_empty();
        if let (Logits::F32(x), [], [], true) = (self.logits, suppressed, penalised, is_bare) {
            return &x[start..end];
        }
        let values = &mut scratch[..end - start];
        self.read(start, values);
        for &id in penalised {
            values[id as usize - start] -= self.penalty;
        }
        self.divide(values);
        for &id in suppressed {
            values[id as usize - start] = f32::NEG_INFINITY;
        }
        for &(id, raise) in raises {
            let value = &mut values[id as usize - start];
            *value = raised(*value, raise);
        }
        values
    }

    /// The value of one id; -inf where suppressed.
    pub fn value(&self, id: usize) -> f32 {
        if self.suppressed.binary_search(&(id as u32)).is_ok() {
            return f32::NEG_INFINITY;
        }
        let mut value = [0.0];
        self.read(id, &mut value);
        if self.penalised.binary_search(&(id as u32)).is_ok() {
            value[0] -= self.penalty;
        }
        self.divide(&mut value);
        match self.raises_between(id, id + 1) {
            [] => value[0],
            raises => raised(value[0], raises[0].1),
        }
    }

    fn raises_between(&self, start: usize, end: usize) -> &'a [(u32, f64)] {
        if self.raises.is_empty() {
            return &[];
        }
        let place = |end: usize| self.raises.partition_point(|&(id, _)| (id as usize) < end);
        &self.raises[place(start)..place(end)]
    }

    fn divide(&self, values: &mut [f32]) {
        if let Some(divisor) = self.divisor {
            for value in values {
                *value /= divisor;
            }
        }
    }

    /// The float32 values from `start` on, suppressed or not.
    fn read(&self, start: usize, values: &mut [f32]) {
        match self.logits.slice(start, start + values.len()) {
            Logits::F32(x) => values.copy_from_slice(x),
            Logits::Bf16(x) => kernel::widen_bf16(self.isa, x, values),
            Logits::F16(x) => kernel::widen_f16(self.isa, x, values),
        }
        if let Some(cap) = self.softcap {
            match self.logits {
                Logits::F32(_) => kernel::softcap_f32(self.isa, values, cap),
                Logits::Bf16(_) => kernel::softcap_bf16(self.isa, values, cap),
                Logits::F16(_) => kernel::softcap_f16(self.isa, values, cap),
            }
        }
    }
}

/// Those of rising ids that lie in a range.
fn between(ids: &[u32], start: usize, end: usize) -> &[u32] {
    if ids.is_empty() {
        return &[];
    }
    let from = ids.partition_point(|&id| (id as usize) < start);
    let to = ids.partition_point(|&id| (id as usize) < end);
    &ids[from..to]
}

/// A logit with something added.
fn raised(x: f32, raise: f64) -> f32 {
    (f64::from(x) + raise) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let mut widened = vec![0.0; all.len()];
        kernel::widen_f16(Isa::best(), &all, &mut widened);
        for bits in all {
            let (sign, e, f) = (
                bits >> 15,
                i32::from(bits >> 10 & 31),
                f64::from(bits & 1023),
            );
            let got = f64::from(widened[bits as usize]);
            let size = match e {
                0 => f * 2f64.powi(-24),
                31 if f > 0.0 => f64::NAN,
                31 => f64::INFINITY,
                _ => (1024.0 + f) * 2f64.powi(e - 25),
            };
            let expected = if sign == 1 { -size } else { size };
            assert!(
                got == expected || got.is_nan() && expected.is_nan(),
                "{bits:#x}: {got} {expected}"
            );
        }
    }

    #[test]
    fn rounding_leaves_what_is_representable() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let mut half = vec![0.0; all.len()];
        kernel::widen_f16(Isa::best(), &all, &mut half);
        for (&bits, &x) in all.iter().zip(&half) {
            assert!(
                !x.is_finite() || round_f16(x).to_bits() == x.to_bits(),
                "{x}"
            );
            let y = f32::from_bits(u32::from(bits) << 16);
            assert!(y.is_nan() || round_bf16(y).to_bits() == y.to_bits(), "{y}");
        }
        // To nearest, ties to even.
        for (x, nearest) in [
            (1.000_244_1, 1.0),
            (1.001_464_8, 1.001_953_1),
            (2.1e-8, 0.0),
            (65519.0, 65504.0),
        ] {
            assert_eq!(round_f16(x), nearest);
            assert_eq!(round_f16(-x), -nearest);
        }
        assert_eq!(round_bf16(1.003_906_2), 1.0);
    }

    #[test]
    fn suppressed_ids_are_minus_infinity_wherever_they_lie() {
        let x: Vec<f32> = (0..TILE + 10).map(|i| i as f32).collect();
        let suppressed = [0, 4095, 4096, 4105];
        let row = Row::new(Logits::F32(&x), &suppressed, Isa::best());
        let mut scratch = [0.0; TILE];
        let both = [
            row.tile(0, &mut scratch).to_vec(),
            row.tile(1, &mut scratch).to_vec(),
        ]
        .concat();
        for (id, &v) in both.iter().enumerate() {
            let expected = if suppressed.contains(&(id as u32)) {
                f32::NEG_INFINITY
            } else {
                id as f32
            };
            assert_eq!((v, row.value(id)), (expected, expected));
        }
    }

    #[test]
    fn raised_ids_are_raised_wherever_they_lie() {
        let x: Vec<f32> = (0..TILE + 10).map(|i| i as f32).collect();
        let raises = [(0, 0.5), (7, 1.0), (4095, 0.25), (4096, 1e-9)];
        let row = Row::new(Logits::F32(&x), &[7], Isa::best()).raised(&raises);
        let mut scratch = [0.0; TILE];
        let both = [
            row.tile(0, &mut scratch).to_vec(),
            row.tile(1, &mut scratch).to_vec(),
        ]
        .concat();
        for (id, &v) in both.iter().enumerate() {
            let expected = match id {
                0 => 0.5,
                7 => f32::NEG_INFINITY,
                4095 => 4095.25,
                _ => id as f32,
            };
            assert_eq!((v, row.value(id)), (expected, expected));
        }
    }
}
