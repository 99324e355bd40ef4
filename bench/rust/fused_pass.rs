//! The fused pass over rows of logits on one thread, for every instruction set of this machine: statistics alone, and
//! statistics with a draw. `cargo bench --bench fused_pass`.

#![allow(clippy::trivially_copy_pass_by_ref)] // divan hands arguments over by reference

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use dllm_fast::logits::draw::Sampling;
use dllm_fast::logits::filter::Filters;
use dllm_fast::logits::kernel::Isa;
use dllm_fast::logits::predict::{Law, Matrix, Site, predict};
use dllm_fast::logits::row::Logits;
use dllm_fast::pool;
use dllm_fast::rng::{Draw, Stream};
use dllm_fast::watch::Watch;

const VOCABULARY: usize = 126_464;
const ROWS: usize = 8;

fn main() {
    pool::set_threads(Some(1));
    divan::main();
}

/// Roughly Gaussian values of standard deviation 3.
fn logits() -> Vec<f32> {
    let stream = Stream {
        seed: 1,
        request: 0,
    };
    let value = |id: usize| -> f32 {
        let sum: f64 = (0..4)
            .map(|step| stream.uniform(id as u32, step, Draw::Order))
            .sum();
        ((sum - 2.0) * 3.0 * 3f64.sqrt()) as f32
    };
    (0..ROWS * VOCABULARY).map(value).collect()
}

fn sites() -> Vec<Site> {
    let site = |row| Site {
        row,
        stream: Stream {
            seed: 2,
            request: 0,
        },
        position: row as u32,
        step: 0,
        law: 0,
        current: None,
    };
    (0..ROWS).map(site).collect()
}

fn run(bencher: Bencher, logits: Logits<'_>, width: usize, law: &Law, isa: Isa) {
    let (sites, watch) = (sites(), Watch::never());
    let laws = std::slice::from_ref(law);
    let matrix = Matrix {
        logits,
        vocabulary: VOCABULARY,
        softcap: None,
    };
    bencher
        .counter(BytesCount::new(ROWS * VOCABULARY * width))
        .bench_local(|| predict(black_box(&matrix), black_box(&sites), laws, isa, &watch).unwrap());
}

fn law(temperature: f64, filters: Filters) -> Law {
    let sampling = Sampling {
        temperature,
        filters,
    };
    Law {
        sampling,
        ..Law::default()
    }
}

#[divan::bench(args = Isa::available().iter().copied(), max_time = 1)]
fn greedy_f32(bencher: Bencher, isa: Isa) {
    let greedy = law(0.0, Filters::default());
    run(bencher, Logits::F32(&logits()), 4, &greedy, isa);
}

#[divan::bench(args = Isa::available().iter().copied(), max_time = 1)]
fn greedy_bf16(bencher: Bencher, isa: Isa) {
    let bits: Vec<u16> = logits()
        .iter()
        .map(|v| (v.to_bits() >> 16) as u16)
        .collect();
    let greedy = law(0.0, Filters::default());
    run(bencher, Logits::Bf16(&bits), 2, &greedy, isa);
}

#[divan::bench(args = Isa::available().iter().copied(), max_time = 1)]
fn temperature_1_f32(bencher: Bencher, isa: Isa) {
    let all = law(1.0, Filters::default());
    run(bencher, Logits::F32(&logits()), 4, &all, isa);
}

#[divan::bench(args = Isa::available().iter().copied(), max_time = 1)]
fn top_p_f32(bencher: Bencher, isa: Isa) {
    let nucleus = Filters {
        top_p: Some(0.95),
        ..Filters::default()
    };
    run(bencher, Logits::F32(&logits()), 4, &law(1.0, nucleus), isa);
}

#[divan::bench(args = Isa::available().iter().copied(), max_time = 1)]
fn top_k_f32(bencher: Bencher, isa: Isa) {
    let largest = Filters {
        top_k: Some(50),
        ..Filters::default()
    };
    run(bencher, Logits::F32(&logits()), 4, &law(1.0, largest), isa);
}
