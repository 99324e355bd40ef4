//! Random choices, and numbers that nobody should pass.

use dllm_fast::rng::{Draw, Stream};

/// Random choices, a function of the case.
pub struct Dice {
    stream: Stream,
    thrown: u32,
}

impl Dice {
    pub fn new(case: u64, purpose: u32) -> Self {
        let stream = Stream {
            seed: case,
            request: purpose,
        };
        Self { stream, thrown: 0 }
    }

    pub fn bits(&mut self) -> u64 {
        self.thrown += 1;
        self.stream.bits53(self.thrown, 0, Draw::Order)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn unit(&mut self) -> f64 {
        self.bits() as f64 * 0.5f64.powi(53)
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number that somebody might pass; often one that nobody should.
    pub fn number(&mut self) -> f64 {
        const ODD: [f64; 14] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            1e-300,
            1.0 + f64::EPSILON,
            1.0 - f64::EPSILON,
        ];
        if self.one_in(3) {
            self.of(&ODD)
        } else {
            self.unit() * self.of(&[1.0, 1.0, 3.0, 100.0])
        }
    }

    /// A statistic: coarse, so that ties are common, and sometimes odd.
    pub fn statistic(&mut self) -> f64 {
        if self.one_in(40) {
            self.number()
        } else {
            self.below(9) as f64 / 8.0
        }
    }

    pub fn size(&mut self) -> usize {
        if self.one_in(8) {
            self.of(&[
                0,
                1,
                usize::MAX,
                usize::MAX / 2,
                usize::MAX / 2 + 1,
                1 << 32,
                (1 << 32) - 1,
            ])
        } else {
            1 + self.below(20)
        }
    }

    pub fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(2).then(|| make(self))
    }
}
