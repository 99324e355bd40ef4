//! The categorical sampler follows its law: draws alone and after each filter, at three vocabularies with tails down to
//! 1e-7, from float32 and bf16 logits, against probabilities that are computed here in plain float64.
//!
//! `LAW_DRAWS` is the number of draws of each case (default 200,000, and five times as many at vocabulary 50; the
//! recorded run, see `tests/README.md`, has 10^7). Draw i is the library's own uniform for position i of a fixed seed, so
//! a run is a fixed computation; `LAW_SEED` (default 0) asks for other draws.
//!
//! Cells: every id with at least ten expected draws; ids below that are pooled in the order of their probability until a
//! pool expects ten, so the tail has cells of its own; and a second partition in which the ids with a probability below
//! 1e-4 are pooled by tile of the vocabulary. Thresholds: a cell fails if the Chernoff bound of its two-sided tail, which
//! is never below the exact binomial probability, falls below `FAMILY` divided by the number of cells of all cases
//! (Bonferroni); a case fails if its chi-square, as a standard normal (Wilson-Hilferty), leaves `CHI_SQUARE` deviations.

use dllm_fast::logits::arith::TILE;
use dllm_fast::logits::draw::{Distribution, Sampling};
use dllm_fast::logits::filter::Filters;
use dllm_fast::logits::kernel::Isa;
use dllm_fast::logits::row::{Logits, Row};
use dllm_fast::logits::stats::{Scratch, stats};
use dllm_fast::rng::{Draw, Stream};
use dllm_fast::watch::Watch;
use std::time::Instant;

/// Probability with which a right sampler fails any cell of any case.
const FAMILY: f64 = 1e-3;
/// Deviations that the chi-square of a case may lie from its expectation; a right one fails in 7e-6 of all seeds.
const CHI_SQUARE: f64 = 4.5;
/// Expected draws in a cell, at least.
const EXPECTED: f64 = 10.0;
/// Ids that the rows hold at -inf, and one that is suppressed; none may ever be drawn.
const FORBIDDEN: [usize; 3] = [3, 17, 41];
const SUPPRESSED: u32 = 7;

/// How far a boundary between ids may lie from its place in [0, 1).
const PLACE: f64 = 2e-7;
/// How far the length of a share may be off, relative to it.
const LENGTH: f64 = 2e-6;

const VOCABULARIES: [usize; 3] = [50, 32_000, 262_144];
const FILTERS: [&str; 6] = ["none", "temperature", "top-k", "top-p", "min-p", "all"];

fn draws(vocabulary: usize) -> u32 {
    let default = if vocabulary == 50 { 1_000_000 } else { 200_000 };
    std::env::var("LAW_DRAWS").map_or(default, |n| {
        n.parse().expect("LAW_DRAWS is a number of draws")
    })
}

/// First of the seeds of the cases.
fn first_seed() -> u64 {
    std::env::var("LAW_SEED").map_or(0, |n| n.parse().expect("LAW_SEED is a seed"))
}

/// Cells of all cases together, at most: every id of every case, and the tiles.
fn all_cells() -> f64 {
    let ids: usize = VOCABULARIES.iter().map(|v| v + v.div_ceil(TILE)).sum();
    (2 * FILTERS.len() * ids) as f64
}

/// Logits whose probabilities fall from a few tenths to 1e-7, with the ids in a fixed random order: head and tail lie
/// everywhere. Zipf's law where the vocabulary is large, a straight line where it is small.
fn falling(vocabulary: usize) -> Vec<f32> {
    let slope = match vocabulary {
        262_144 => 1.1,
        32_000 => 1.42,
        _ => 16.0 / vocabulary as f64,
    };
    let mut ids: Vec<usize> = (0..vocabulary).collect();
    let order = Stream {
        seed: 0x5eed,
        request: 0,
    };
    ids.sort_by_key(|&id| order.bits53(id as u32, 0, Draw::Order));
    let mut x = vec![0.0; vocabulary];
    for (rank, id) in ids.into_iter().enumerate() {
        let rank = rank as f64;
        x[id] = (3.0
            - slope
                * if vocabulary < 1000 {
                    rank
                } else {
                    (rank + 1.0).ln()
                }) as f32;
    }
    for id in FORBIDDEN {
        x[id] = f32::NEG_INFINITY;
    }
    x
}

/// Logits as they lie in memory.
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl Values {
    fn new(x: &[f32], dtype: &str) -> Self {
        match dtype {
            "f32" => Self::F32(x.to_vec()),
            // Cut off, not rounded: any bf16 will do.
            _ => Self::Bf16(x.iter().map(|v| (v.to_bits() >> 16) as u16).collect()),
        }
    }

    fn logits(&self) -> Logits<'_> {
        match self {
            Self::F32(x) => Logits::F32(x),
            Self::Bf16(x) => Logits::Bf16(x),
        }
    }

    fn values(&self) -> Vec<f64> {
        match self {
            Self::F32(x) => x.iter().copied().map(f64::from).collect(),
            Self::Bf16(x) => x
                .iter()
                .map(|&b| f64::from(f32::from_bits(u32::from(b) << 16)))
                .collect(),
        }
    }
}

/// The settings of a case. `top_p` ends in the middle of an id's share, so that no rounding can move the cut.
fn sampling(filter: &str, x: &[f64]) -> Sampling {
    let k = (x.len() / 8).clamp(20, 3000);
    let mut sampling = Sampling {
        temperature: 1.0,
        filters: Filters::default(),
    };
    match filter {
        "temperature" => sampling.temperature = 0.8,
        "top-k" => sampling.filters.top_k = Some(k),
        "min-p" => sampling.filters.min_p = Some(2e-5),
        "all" => {
            sampling.temperature = 1.25;
            sampling.filters.top_k = Some(k);
            sampling.filters.min_p = Some(3e-4);
        }
        _ => {}
    }
    if ["top-p", "all"].contains(&filter) {
        let share = probabilities(x, &sampling);
        let mut falling = share.clone();
        falling.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        let last = falling
            .iter()
            .find(|&&p| {
                sum += p;
                sum > 0.95
            })
            .expect("the whole exceeds 0.95");
        sampling.filters.top_p = Some(sum - last / 2.0);
    }
    sampling
}

/// The law that the draws must follow: a plain softmax, cut by sorting.
fn probabilities(x: &[f64], sampling: &Sampling) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = x
        .iter()
        .map(|v| ((v - max) / sampling.temperature).exp())
        .collect();
    let mut order: Vec<usize> = (0..x.len()).filter(|&id| weights[id] > 0.0).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    let Filters {
        top_k,
        top_p,
        min_p,
    } = sampling.filters;
    order.truncate(top_k.unwrap_or(usize::MAX));
    if let Some(p) = top_p {
        let all: f64 = order.iter().map(|&id| weights[id]).sum();
        let mut sum = 0.0;
        let reached = |&id: &usize| {
            sum += weights[id];
            sum >= p * all
        };
        let last = order
            .iter()
            .position(reached)
            .expect("the whole reaches any share");
        order.truncate(last + 1);
    }
    order.retain(|&id| weights[id] >= min_p.unwrap_or(0.0));
    let kept: f64 = order.iter().map(|&id| weights[id]).sum();
    let mut probabilities = vec![0.0; x.len()];
    for id in order {
        probabilities[id] = weights[id] / kept;
    }
    probabilities
}

/// Does something with the distribution of a row.
fn with_distribution<T>(
    values: &Values,
    sampling: &Sampling,
    then: impl FnOnce(&mut dyn FnMut(f64) -> usize) -> T,
) -> T {
    let suppressed = [SUPPRESSED];
    let watch = Watch::never();
    let mut scratch = Scratch::new(Isa::best(), Some(&watch));
    let row = Row::new(values.logits(), &suppressed, Isa::best());
    let stats = stats(&row, &mut scratch).expect("a usable row");
    let distribution =
        Distribution::new(&row, &stats, sampling, &mut scratch).expect("nobody stops it");
    then(&mut |u| distribution.draw(u, &mut scratch).expect("nobody stops it") as usize)
}

/// Draws of each id.
fn count(values: &Values, sampling: &Sampling, seed: u64, draws: u32) -> Vec<u32> {
    let stream = Stream { seed, request: 0 };
    let mut counts = vec![0; values.logits().len()];
    with_distribution(values, sampling, |draw| {
        for i in 0..draws {
            counts[draw(stream.uniform(i, 0, Draw::Token))] += 1;
        }
    });
    counts
}

/// Some ids together: how often they were drawn, and how often they should be.
#[derive(Clone, Copy, Default)]
struct Cell {
    observed: f64,
    expected: f64,
}

impl Cell {
    fn add(&mut self, count: u32, expected: f64) {
        self.observed += f64::from(count);
        self.expected += expected;
    }

    /// Logarithm of the Chernoff bound on the probability of a deviation this large to either side.
    fn ln_tail(&self, draws: f64) -> f64 {
        let part = |o: f64, e: f64| if o > 0.0 { o * (o / e).ln() } else { 0.0 };
        let (o, e) = (self.observed, self.expected);
        2f64.ln() - part(o, e) - part(draws - o, draws - e)
    }
}

/// Every id of the law, pooled in the order of its probability so that each cell expects `EXPECTED` draws.
fn by_probability(counts: &[u32], law: &[f64], draws: f64) -> Vec<Cell> {
    let mut ids: Vec<usize> = (0..law.len()).filter(|&id| law[id] > 0.0).collect();
    ids.sort_by(|&a, &b| law[b].total_cmp(&law[a]).then(a.cmp(&b)));
    let mut cells = Vec::new();
    let mut open = Cell::default();
    for id in ids {
        open.add(counts[id], law[id] * draws);
        if open.expected >= EXPECTED {
            cells.push(std::mem::take(&mut open));
        }
    }
    // What is left of the tail joins the last cell.
    let last = cells.last_mut().expect("some cell is full");
    last.observed += open.observed;
    last.expected += open.expected;
    cells
}

/// The improbable ids of each tile.
fn by_tile(counts: &[u32], law: &[f64], draws: f64) -> Vec<Cell> {
    let tail = |(counts, law): (&[u32], &[f64])| {
        let mut cell = Cell::default();
        for (&c, &p) in counts.iter().zip(law).filter(|(_, p)| **p < 1e-4) {
            cell.add(c, p * draws);
        }
        cell
    };
    let tiles = counts.chunks(TILE).zip(law.chunks(TILE)).map(tail);
    tiles.filter(|cell| cell.expected >= EXPECTED).collect()
}

/// Deviations of the chi-square from its expectation, as a standard normal (Wilson and Hilferty).
fn chi_square(cells: &[Cell]) -> f64 {
    if cells.len() < 2 {
        return 0.0;
    }
    let sum: f64 = cells
        .iter()
        .map(|c| (c.observed - c.expected).powi(2) / c.expected)
        .sum();
    let free = (cells.len() - 1) as f64;
    let spread = 2.0 / (9.0 * free);
    ((sum / free).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// What is wrong with the counts; empty if they follow the law.
fn disagreements(name: &str, counts: &[u32], law: &[f64], draws: u32) -> Vec<String> {
    let mut wrong = Vec::new();
    let impossible = counts
        .iter()
        .zip(law)
        .filter(|(c, p)| **c > 0 && **p == 0.0);
    let impossible = impossible.count();
    if impossible > 0 {
        wrong.push(format!("{name}: drew {impossible} ids of probability 0"));
    }
    let draws = f64::from(draws);
    let partitions = [
        ("id", by_probability(counts, law, draws)),
        ("tile", by_tile(counts, law, draws)),
    ];
    for (kind, cells) in partitions {
        let z = if kind == "id" {
            chi_square(&cells)
        } else {
            0.0
        };
        if z.abs() > CHI_SQUARE {
            wrong.push(format!("{name}: chi-square lies {z:.1} deviations off"));
        }
        let tails = cells.iter().map(|c| (c.ln_tail(draws), c));
        let Some((tail, worst)) = tails.min_by(|a, b| a.0.total_cmp(&b.0)) else {
            continue;
        };
        if tail < (FAMILY / all_cells()).ln() {
            wrong.push(format!(
                "{name}: a cell by {kind} has {} draws for {:.1}",
                worst.observed, worst.expected
            ));
        }
        println!(
            "{name:32} by {kind:4} {:6} cells, chi-square {z:+.2} deviations, worst cell {:+.2} ({} for {:.1})",
            cells.len(),
            (worst.observed - worst.expected) / worst.expected.sqrt(),
            worst.observed,
            worst.expected,
        );
    }
    wrong
}

/// The case's logits, its settings and its law.
fn case(vocabulary: usize, dtype: &str, filter: &str) -> (Values, Sampling, Vec<f64>) {
    let values = Values::new(&falling(vocabulary), dtype);
    let mut x = values.values();
    x[SUPPRESSED as usize] = f64::NEG_INFINITY;
    let sampling = sampling(filter, &x);
    let law = probabilities(&x, &sampling);
    (values, sampling, law)
}

fn check(vocabulary: usize) {
    let mut wrong = Vec::new();
    for (d, dtype) in ["f32", "bf16"].into_iter().enumerate() {
        for (f, filter) in FILTERS.into_iter().enumerate() {
            let (values, sampling, law) = case(vocabulary, dtype, filter);
            let began = Instant::now();
            let draws = draws(vocabulary);
            let seed = first_seed() + (10 * d + f) as u64;
            let counts = count(&values, &sampling, seed, draws);
            let name = format!("{vocabulary} {dtype} {filter}");
            println!("{name}: {draws} draws, {:.1?}", began.elapsed());
            wrong.extend(disagreements(&name, &counts, &law, draws));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn vocabulary_50() {
    check(VOCABULARIES[0]);
}

#[test]
fn vocabulary_32000() {
    check(VOCABULARIES[1]);
}

#[test]
fn vocabulary_262144() {
    check(VOCABULARIES[2]);
}

/// The rows reach as far down as they claim, and the filters cut something and leave a tail.
#[test]
fn the_cases_are_what_they_claim() {
    for vocabulary in VOCABULARIES {
        for dtype in ["f32", "bf16"] {
            let smallest = |filter| {
                let (_, _, law) = case(vocabulary, dtype, filter);
                let kept = law.iter().filter(|p| **p > 0.0).count();
                let least = law.iter().copied().filter(|p| *p > 0.0);
                (kept, least.fold(1.0, f64::min))
            };
            let (all, least) = smallest("none");
            assert_eq!(all, vocabulary - FORBIDDEN.len() - 1);
            assert!((0.5e-7..2e-7).contains(&least), "{vocabulary} {least}");
            for filter in ["top-k", "top-p", "min-p", "all"] {
                let (kept, _) = smallest(filter);
                assert!(
                    5 < kept && kept < all,
                    "{vocabulary} {filter}: {kept} of {all}"
                );
            }
        }
    }
}

/// Without noise: a draw is a function of its uniform, so the shares of the ids can be measured. Every boundary between
/// two ids lies where the law has it, to 2e-7, and shares down to 1e-7 have the right length, to a few parts in a million.
#[test]
fn every_share_has_its_place_and_its_length() {
    for vocabulary in VOCABULARIES {
        for (dtype, filter) in [
            ("f32", "none"),
            ("bf16", "none"),
            ("f32", "all"),
            ("bf16", "top-p"),
        ] {
            let (values, sampling, law) = case(vocabulary, dtype, filter);
            let kept: Vec<usize> = (0..vocabulary).filter(|&id| law[id] > 0.0).collect();
            let mut ends = Vec::with_capacity(kept.len());
            let mut sum = 0.0;
            for &id in &kept {
                sum += law[id];
                ends.push(sum);
            }
            with_distribution(&values, &sampling, |draw| {
                // About 3,000 boundaries of each case.
                for i in (0..kept.len() - 1).step_by(1 + kept.len() / 3000) {
                    let below = draw((ends[i] - PLACE).max(0.0));
                    let above = draw((ends[i] + PLACE).min(1.0 - f64::EPSILON));
                    assert!(
                        below <= kept[i] && (kept[i] < above || 1.0 - ends[i] <= PLACE),
                        "{vocabulary} {dtype} {filter}: id {} should end at {}, {below} and {above} lie around it",
                        kept[i],
                        ends[i]
                    );
                }
                // The first uniform that draws an id beyond this one.
                let mut end_of = |id: usize, guess: f64| {
                    let (mut low, mut high) = (
                        (guess - 2.0 * PLACE).max(0.0),
                        (guess + 2.0 * PLACE).min(1.0),
                    );
                    while high - low > 1e-15 {
                        let middle = low.midpoint(high);
                        if draw(middle) > id {
                            high = middle;
                        } else {
                            low = middle;
                        }
                    }
                    high
                };
                let mut worst = 0.0f64;
                for i in (1..kept.len() - 1).step_by(1 + kept.len() / 300) {
                    let length = end_of(kept[i], ends[i]) - end_of(kept[i - 1], ends[i - 1]);
                    worst = worst.max((length / law[kept[i]] - 1.0).abs());
                }
                println!("{vocabulary} {dtype} {filter}: worst relative length {worst:e}");
                assert!(worst < LENGTH, "{vocabulary} {dtype} {filter}: {worst:e}");
            });
        }
    }
}

/// The tests above can fail: one cell that is drawn 1 % more often than it should is found, by 10^7 draws at the small
/// vocabulary, and at the others too where `LAW_DRAWS` asks for as many.
#[test]
fn a_bias_of_one_percent_in_one_cell_is_caught() {
    for vocabulary in VOCABULARIES {
        let draws = if vocabulary == 50 {
            10_000_000
        } else {
            draws(vocabulary)
        };
        if draws < 10_000_000 {
            continue;
        }
        for dtype in ["f32", "bf16"] {
            let (values, sampling, mut law) = case(vocabulary, dtype, "none");
            let counts = count(&values, &sampling, 99, draws);
            assert!(disagreements("without bias", &counts, &law, draws).is_empty());
            // The law with one probability 1 % lower: the sampler, unchanged, is then biased against it.
            let cell = (0..law.len())
                .filter(|&id| law[id] < 0.2)
                .max_by(|&a, &b| law[a].total_cmp(&law[b]))
                .expect("ids");
            law[cell] /= 1.01;
            let sum: f64 = law.iter().sum();
            for p in &mut law {
                *p /= sum;
            }
            let wrong = disagreements("planted bias", &counts, &law, draws);
            assert!(
                wrong.iter().any(|w| w.contains("a cell by id")),
                "{vocabulary} {dtype}: {wrong:?}"
            );
        }
    }
}
