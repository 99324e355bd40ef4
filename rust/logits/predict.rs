//! The mask-prediction step: a proposal and its statistics for each of many rows of logits.

use super::arith::Softcap;
use super::coupled;
use super::draw::{Distribution, Sampling};
use super::kernel::Isa;
use super::row::{Dtype, Logits, Row};
use super::stats::{Scratch, Stats, Unusable, stats};
use crate::pool;
use crate::rng::{Draw, Stream};
use crate::watch::Watch;
use std::sync::Arc;

/// How tokens are drawn at the sites that name it, and which ids none of them may have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Law {
    /// Temperature and filters.
    pub sampling: Sampling,
    /// Rising ids that count as -inf.
    pub suppressed: Arc<[u32]>,
    /// Rising ids whose logits count as smaller by the penalty.
    pub penalised: Arc<[u32]>,
    /// At least 0, finite.
    pub penalty: f32,
    /// Are the statistics those of the distribution at this temperature, too, and not at 1? (0 leaves them at 1.)
    pub is_tempered: bool,
    /// Is a token drawn by noise that does not change from step to step? (`coupled.rs`)
    pub is_coupled: bool,
}

/// The random numbers and the current token of one row.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Row of the matrix of logits.
    pub row: usize,
    /// Randomness of the sequence it belongs to.
    pub stream: Stream,
    /// Position in the canvas.
    pub position: u32,
    /// Step of the sequence.
    pub step: u32,
    /// Index of its law among those of the call.
    pub law: u32,
    /// Token whose probability is wanted as well.
    pub current: Option<u32>,
}

impl Law {
    /// What the logits are divided by before anything else, and how a token is drawn from what comes of it.
    fn scale(&self) -> (Option<f32>, Sampling) {
        let sampling = self.sampling;
        if !self.is_tempered || sampling.temperature == 0.0 {
            return (None, sampling);
        }
        let plain = Sampling {
            temperature: 1.0,
            ..sampling
        };
        (Some(sampling.temperature as f32), plain)
    }
}

/// What is predicted at one position. Probabilities are those of the softmax at temperature 1, before any filter; under a
/// tempered law, of the logits divided by its temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The proposed token.
    pub token: u32,
    /// Its probability.
    pub probability: f64,
    /// The largest probability.
    pub top1: f64,
    /// The second largest.
    pub top2: f64,
    /// Entropy in nats.
    pub entropy: f64,
    /// Logarithm of the sum of the exponentials of the logits.
    pub logsumexp: f64,
    /// Probability of the current token, NaN if none was given.
    pub current: f64,
    /// The most probable token; the lowest on a tie.
    pub argmax: u32,
}

impl Prediction {
    /// With its probabilities as a softmax in the dtype of the logits gives them, so that sure positions tie.
    #[must_use]
    pub fn rounded(self, dtype: Dtype) -> Self {
        let [probability, top1, top2] =
            [self.probability, self.top1, self.top2].map(|x| dtype.round(x));
        Self {
            probability,
            top1,
            // The published margin is a difference in that dtype, rounded once more.
            top2: top1 - dtype.round(top1 - top2),
            current: if self.current.is_nan() {
                self.current
            } else {
                dtype.round(self.current)
            },
            ..self
        }
    }
}

/// A matrix of logits, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// All values.
    pub logits: Logits<'a>,
    /// Length of a row.
    pub vocabulary: usize,
    /// Bound on the logits, before anything else.
    pub softcap: Option<Softcap>,
}

impl<'a> Matrix<'a> {
    /// Row `i` without the `suppressed` ids.
    pub fn row(&self, i: usize, suppressed: &'a [u32], isa: Isa) -> Row<'a> {
        let (start, end) = (i * self.vocabulary, (i + 1) * self.vocabulary);
        Row::new(self.logits.slice(start, end), suppressed, isa).bounded(self.softcap)
    }

    /// Row `i` as a law has it.
    pub fn row_under(&self, i: usize, law: &'a Law, isa: Isa) -> Row<'a> {
        let row = self.row(i, &law.suppressed, isa);
        let row = row.penalised(&law.penalised, law.penalty);
        row.divided(law.scale().0)
    }
}

/// Predictions for all sites, in their order. Fails with the first site that has no statistics, or with `Interrupted` as soon
/// as `watch` says so; reads no row that no site names.
pub fn predict(
    matrix: &Matrix<'_>,
    sites: &[Site],
    laws: &[Law],
    isa: Isa,
    watch: &Watch<'_>,
) -> Result<Vec<Prediction>, (usize, Unusable)> {
    predict_by(matrix, sites, laws, isa, watch, |i, row, law, scratch| {
        one(&row, &sites[i], law, scratch).map(|(prediction, _)| prediction)
    })
}

/// What `work` makes of each site: of its index, its row and its law.
pub fn predict_by<T: Send>(
    matrix: &Matrix<'_>,
    sites: &[Site],
    laws: &[Law],
    isa: Isa,
    watch: &Watch<'_>,
    work: impl Fn(usize, Row<'_>, &Law, &mut Scratch<'_>) -> Result<T, Unusable> + Sync,
) -> Result<Vec<T>, (usize, Unusable)> {
    let cost = sites.len() * matrix.vocabulary;
    let predictions = pool::map(
        sites.len(),
        cost,
        // Who asks may run anybody's Python, which may fork: not while others are inside.
        |is_alone| Scratch::new(isa, is_alone.then_some(watch)),
        |i, scratch| {
            let (site, law) = (&sites[i], &laws[sites[i].law as usize]);
            work(
                i,
                matrix.row_under(site.row, law, scratch.isa),
                law,
                scratch,
            )
        },
        || watch.goes_on(),
    );
    let failed = |(i, p): (usize, Result<_, _>)| p.map_err(|e| (i, e));
    match predictions {
        Some(predictions) if watch.goes_on() => {
            predictions.into_iter().enumerate().map(failed).collect()
        }
        _ => Err((0, Unusable::Interrupted)),
    }
}

/// The prediction from a row, and its statistics.
pub fn one(
    row: &Row<'_>,
    site: &Site,
    law: &Law,
    scratch: &mut Scratch<'_>,
) -> Result<(Prediction, Stats), Unusable> {
    let sampling = law.scale().1;
    let stats = stats(row, scratch)?;
    let token = if sampling.temperature == 0.0 {
        stats.argmax
    } else if law.is_coupled {
        coupled::draw(
            row,
            &stats,
            &sampling,
            (site.stream, site.position),
            scratch,
        )?
    } else {
        let u = site.stream.uniform(site.position, site.step, Draw::Token);
        Distribution::new(row, &stats, &sampling, scratch)?.draw(u, scratch)?
    };
    let probability = |id: u32| stats.probability(row.value(id as usize));
    let prediction = Prediction {
        token,
        probability: probability(token),
        top1: stats.top1,
        top2: stats.top2,
        entropy: stats.entropy,
        logsumexp: stats.logsumexp,
        current: site.current.map_or(f64::NAN, probability),
        argmax: stats.argmax,
    };
    Ok((prediction, stats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logits::arith::TILE;
    use crate::logits::filter::Filters;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn noise(n: usize, scale: f32) -> Vec<f32> {
        let stream = Stream {
            seed: 7,
            request: 0,
        };
        (0..n)
            .map(|i| {
                ((stream.uniform(i as u32, 0, Draw::Order) * 64.0) as f32).round() / 64.0 * scale
            })
            .collect()
    }

    fn law(temperature: f64, filters: Filters) -> Law {
        let sampling = Sampling {
            temperature,
            filters,
        };
        Law {
            sampling,
            suppressed: [].into(),
            penalised: [0].into(),
            penalty: if temperature == 0.7 { 1.5 } else { 0.0 },
            ..Law::default()
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let filters = [
            Filters::default(),
            Filters {
                top_k: Some(50),
                ..Filters::default()
            },
            Filters {
                top_p: Some(0.9),
                ..Filters::default()
            },
            Filters {
                min_p: Some(0.05),
                ..Filters::default()
            },
            Filters {
                top_k: Some(40),
                top_p: Some(0.5),
                min_p: Some(0.01),
            },
        ];
        let vocabularies = [1, 2, 50, 255, 256, 257, 4095, 4096, 4097, 9001];
        // Miri, which checks that each path is called where its instructions exist, takes minutes for more.
        let (vocabularies, filters) = if cfg!(miri) {
            (&vocabularies[5..6], &filters[4..])
        } else {
            (&vocabularies[..], &filters[..])
        };
        for &vocabulary in vocabularies {
            let values = noise(3 * vocabulary, 12.0);
            let bf16: Vec<u16> = values.iter().map(|v| (v.to_bits() >> 16) as u16).collect();
            let sites: Vec<Site> = (0..3)
                .map(|row| Site {
                    row,
                    stream: Stream {
                        seed: 3,
                        request: 1,
                    },
                    position: row as u32,
                    step: 5,
                    law: 0,
                    current: Some(0),
                })
                .collect();
            for logits in [
                Logits::F32(&values),
                Logits::Bf16(&bf16),
                Logits::F16(&bf16),
            ] {
                for temperature in [0.0, 0.7, 1.0] {
                    for &filters in filters {
                        let suppressed = if vocabulary > 2 { &[1][..] } else { &[] };
                        let matrix = Matrix {
                            logits,
                            vocabulary,
                            softcap: (temperature == 0.7).then(|| Softcap::new(30.0)),
                        };
                        let laws = [Law {
                            suppressed: suppressed.into(),
                            ..law(temperature, filters)
                        }];
                        let portable =
                            predict(&matrix, &sites, &laws, Isa::Portable, &Watch::never());
                        for &isa in Isa::available() {
                            // Debug output compares NaN with NaN and shows every digit.
                            let got = predict(&matrix, &sites, &laws, isa, &Watch::never());
                            assert_eq!(
                                format!("{got:?}"),
                                format!("{portable:?}"),
                                "{isa:?} {vocabulary} {temperature}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sure_rows_keep_their_order() {
        // Both probabilities are 1 in float32; the mass of the others still tells them apart.
        let mut rows = vec![-20.0f32; 2 * 5000];
        rows[3] = 0.0;
        rows[5003] = 0.125;
        let sites = [0, 1].map(|row| Site {
            row,
            stream: Stream {
                seed: 0,
                request: 0,
            },
            position: 0,
            step: 0,
            law: 0,
            current: None,
        });
        let matrix = Matrix {
            logits: Logits::F32(&rows),
            vocabulary: 5000,
            softcap: None,
        };
        let got = predict(
            &matrix,
            &sites,
            &[Law::default()],
            Isa::best(),
            &Watch::never(),
        )
        .unwrap();
        assert!(got[1].top1 > got[0].top1);
        for (p, gap) in got.iter().zip([-20.0f64, -20.125]) {
            let rest = 4999.0 * gap.exp();
            assert!(((1.0 - p.top1) / (rest / (1.0 + rest)) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn unusable_rows_are_named() {
        let mut rows = vec![0.0f32; 3 * 5000];
        rows[5000 + 4999] = f32::NAN;
        rows[10_000..].fill(f32::NEG_INFINITY);
        let matrix = Matrix {
            logits: Logits::F32(&rows),
            vocabulary: 5000,
            softcap: None,
        };
        let at = |row| Site {
            row,
            stream: Stream {
                seed: 0,
                request: 0,
            },
            position: 0,
            step: 0,
            law: 0,
            current: None,
        };
        for &isa in Isa::available() {
            let run =
                |sites: &[Site]| predict(&matrix, sites, &[Law::default()], isa, &Watch::never());
            assert_eq!(run(&[at(0), at(1)]), Err((1, Unusable::NotANumber(4999))));
            assert_eq!(run(&[at(2)]), Err((0, Unusable::NothingAllowed)));
            assert!(run(&[at(0)]).is_ok(), "rows that nobody names are not read");
        }
    }

    #[test]
    fn infinite_logits_share_the_mass() {
        let rows = [1.0, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY];
        let matrix = Matrix {
            logits: Logits::F32(&rows),
            vocabulary: 4,
            softcap: None,
        };
        let mut seen = [0; 4];
        for step in 0..200 {
            let site = Site {
                row: 0,
                stream: Stream {
                    seed: 0,
                    request: 0,
                },
                position: 0,
                step,
                law: 0,
                current: Some(0),
            };
            let p = predict(
                &matrix,
                &[site],
                &[law(1.0, Filters::default())],
                Isa::best(),
                &Watch::never(),
            )
            .unwrap()[0];
            assert_eq!(
                (p.top1, p.top2, p.probability, p.current),
                (0.5, 0.5, 0.5, 0.0)
            );
            assert!((p.entropy - 2f64.ln()).abs() < 1e-15 && p.logsumexp == f64::INFINITY);
            seen[p.token as usize] += 1;
        }
        assert!(seen[1] > 60 && seen[3] > 60 && seen[1] + seen[3] == 200);
    }

    /// Every loop over a wide row stops where it is asked to, whatever the filters and the dtype.
    #[test]
    fn a_row_is_left_in_the_middle() {
        let vocabulary = 33 * TILE;
        let flat: Vec<f32> = (0..vocabulary).map(|i| (i % 1000) as f32 * 1e-6).collect();
        let halves: Vec<u16> = flat.iter().map(|v| (v.to_bits() >> 16) as u16).collect();
        let infinite: Vec<f32> = flat
            .iter()
            .map(|v| if *v > 0.0 { *v } else { f32::INFINITY })
            .collect();
        let mut late_nan = flat.clone();
        late_nan[vocabulary - 1] = f32::NAN;
        let site = Site {
            row: 0,
            stream: Stream {
                seed: 3,
                request: 1,
            },
            position: 0,
            step: 0,
            law: 0,
            current: None,
        };
        let all = Filters {
            top_k: Some(vocabulary - 1),
            top_p: Some(0.9),
            min_p: Some(1e-3),
        };
        let few = Filters {
            top_k: Some(3),
            ..Filters::default()
        };
        let nucleus = Filters {
            top_p: Some(0.5),
            ..Filters::default()
        };
        let cases = [
            (Logits::F32(&flat), 0.0, Filters::default()),
            (Logits::Bf16(&halves), 0.7, Filters::default()),
            (Logits::F16(&halves), 1.0, all),
            (Logits::F32(&flat), 1.0, few),
            (Logits::F32(&flat), 1.0, nucleus),
            (Logits::F32(&infinite), 1.0, Filters::default()),
            (Logits::F32(&late_nan), 1.0, Filters::default()),
        ];
        for (logits, temperature, filters) in cases {
            let matrix = Matrix {
                logits,
                vocabulary,
                softcap: Some(Softcap::new(30.0)),
            };
            let laws = [law(temperature, filters)];
            let asked = AtomicUsize::new(0);
            let run = |after: usize| {
                asked.store(0, Ordering::Relaxed);
                let go_on = || asked.fetch_add(1, Ordering::Relaxed) < after;
                let watch = Watch::new(Duration::ZERO, &go_on);
                predict(&matrix, &[site], &laws, Isa::best(), &watch)
            };
            let whole = format!("{:?}", run(usize::MAX));
            let questions = asked.load(Ordering::Relaxed);
            assert!(
                questions >= vocabulary / TILE / 16,
                "{questions} {filters:?}"
            );
            for after in 0..questions {
                assert_eq!(
                    run(after),
                    Err((0, Unusable::Interrupted)),
                    "{after} {filters:?}"
                );
                assert_eq!(asked.load(Ordering::Relaxed), after + 1, "stops at once");
            }
            assert_eq!(format!("{:?}", run(questions)), whole);
        }
    }
}
