//! The one door to parallel work: a pool of threads that belongs to this process.
//!
//! Threads do not survive `fork()`, and a pool that lost its threads waits for ever; so the pool remembers the process
//! it was made in and a child makes its own. Results never depend on the number of threads.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

struct Pool {
    process: u32,
    threads: Option<usize>,
    workers: Option<Arc<ThreadPool>>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    process: 0,
    threads: None,
    workers: None,
});

/// Number of threads from now on; `None` takes `RAYON_NUM_THREADS`, or else one per core.
pub fn set_threads(threads: Option<usize>) {
    let mut state = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    state.threads = threads;
    discard(&mut state);
}

/// Forgets the pool; one made by another process must not be joined, its threads are not here.
fn discard(state: &mut Pool) {
    let old = state.workers.take();
    if state.process != std::process::id() {
        std::mem::forget(old);
    }
}

/// The helpers of whoever calls: one thread fewer than may work, because the caller works too.
fn helpers() -> Arc<ThreadPool> {
    let mut state = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if state.process != process {
        discard(&mut state);
        state.process = process;
    }
    let threads = state.threads.unwrap_or_else(default_threads);
    let made = state.workers.get_or_insert_with(|| {
        let build = |n| {
            ThreadPoolBuilder::new()
                .num_threads(n)
                .thread_name(|i| format!("dllm-fast-{i}"))
                .build()
        };
        Arc::new(
            build(threads.saturating_sub(1).max(1))
                .or_else(|_| build(1))
                .expect("a process can start one thread"),
        )
    });
    Arc::clone(made)
}

fn default_threads() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|n| n.parse().ok());
    asked
        .filter(|&n| n > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

fn threads() -> usize {
    let state = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    state.threads.unwrap_or_else(default_threads)
}

/// `work(i, state)` for `i` in `0..n`, in order, each worker with a state of its own. Serial unless `cost`, in
/// elementary operations over all `n`, is worth the threads.
///
/// The caller begins at once, and helpers take items as soon as they are awake: after a forward of the model they sleep,
/// and a call may be over before they have got up.
pub fn map<T: Send, S>(
    n: usize,
    cost: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(usize, &mut S) -> T + Sync,
) -> Vec<T> {
    const WORTH_THREADS: usize = 1 << 18;
    let workers = if n < 2 || cost < WORTH_THREADS {
        1
    } else {
        threads().min(n)
    };
    if workers == 1 {
        let mut own = state();
        return (0..n).map(|i| work(i, &mut own)).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(n));
    let take = || {
        let mut mine = Vec::new();
        let mut own = None;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                break;
            }
            mine.push((i, work(i, own.get_or_insert_with(&state))));
        }
        done.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut mine);
    };
    helpers().in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| take());
        }
        take();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|&(i, _)| i);
    done.into_iter().map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_for_any_number_of_threads() {
        for threads in [1, 2, 7] {
            set_threads(Some(threads));
            for cost in [0, usize::MAX] {
                assert_eq!(
                    map(100, cost, || 1, |i, one| i + *one),
                    (1..=100).collect::<Vec<_>>()
                );
            }
        }
        set_threads(None);
    }
}
