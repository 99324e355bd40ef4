//! The selector alone: n candidates in, the chosen ones out. `cargo bench --bench selector`.

use divan::Bencher;
use dllm_fast::rng::{Draw, Stream};
use dllm_fast::rules::cut::{Candidate, Cut, select};
use dllm_fast::watch::Watch;

const LENGTHS: [usize; 3] = [32, 256, 4096];

fn main() {
    divan::main();
}

fn candidates(n: usize) -> Vec<Candidate> {
    let stream = Stream {
        seed: 1,
        request: 0,
    };
    let candidate = |index: usize| {
        let confidence = stream.uniform(index as u32, 0, Draw::Order);
        Candidate {
            key: confidence,
            confidence,
            entropy: 1.0 - confidence,
            index: index as u32,
            position: index as u32,
        }
    };
    (0..n).map(candidate).collect()
}

fn run(bencher: Bencher, n: usize, cut: Cut, floor: usize) {
    let watch = Watch::never();
    bencher
        .with_inputs(|| candidates(n))
        .bench_local_refs(|candidates| select(candidates, cut, floor, &watch).unwrap());
}

#[divan::bench(args = LENGTHS)]
fn count_one_in_eight(bencher: Bencher, n: usize) {
    run(bencher, n, Cut::Count, n / 8);
}

#[divan::bench(args = LENGTHS)]
fn threshold(bencher: Bencher, n: usize) {
    run(bencher, n, Cut::Threshold(0.9), 1);
}

#[divan::bench(args = LENGTHS)]
fn factor(bencher: Bencher, n: usize) {
    let cut = Cut::Factor {
        factor: 1.0,
        as_published: false,
    };
    run(bencher, n, cut, 1);
}

#[divan::bench(args = LENGTHS)]
fn entropy_bound(bencher: Bencher, n: usize) {
    run(bencher, n, Cut::EntropyBound(0.1), 1);
}

#[divan::bench(args = LENGTHS)]
fn neighbours(bencher: Bencher, n: usize) {
    let cut = Cut::Neighbours {
        threshold: 0.9,
        near: 0.75,
        distance: 4,
    };
    run(bencher, n, cut, 1);
}

#[divan::bench(args = LENGTHS)]
fn runs(bencher: Bencher, n: usize) {
    let cut = Cut::Runs {
        threshold: 0.9,
        run: 0.4,
    };
    run(bencher, n, cut, 1);
}
