//! The one door to parallel work: the threads of OpenMP where torch brought them, else a pool that belongs to this process.
//!
//! Threads do not survive `fork()`, and a pool that lost its threads waits for ever; so the pool remembers the process
//! it was made in and a child makes its own. Results never depend on the number of threads.

use crate::openmp;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// Number of threads from now on, of our own; `None` takes `RAYON_NUM_THREADS`, or else the threads of torch, or else one per
/// core.
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
    let threads = state.threads.or_else(asked_for).unwrap_or_else(cores);
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

fn asked_for() -> Option<usize> {
    let asked = std::env::var("RAYON_NUM_THREADS").ok()?;
    asked.parse().ok().filter(|&n| n > 0)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The number that somebody has set.
fn threads() -> Option<usize> {
    let state = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    state.threads.or_else(asked_for)
}

/// `work(i, state)` for `i` in `0..n`, in order, each worker with a state of its own. Serial unless `cost`, in
/// elementary operations over all `n`, is worth the threads.
///
/// The caller begins at once, and helpers take items as soon as they are awake. Only the calling thread asks `go_on`, between
/// items; once it answers false, nobody takes another item and the answer is `None`.
pub fn map<T: Send, S>(
    n: usize,
    cost: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(usize, &mut S) -> T + Sync,
    go_on: impl Fn() -> bool + Sync,
) -> Option<Vec<T>> {
    const WORTH_THREADS: usize = 1 << 16;
    let asked = if n < 2 || cost < WORTH_THREADS {
        Some(1)
    } else {
        threads().map(|threads| threads.min(n))
    };
    if asked == Some(1) {
        let mut own = state();
        return (0..n).map(|i| go_on().then(|| work(i, &mut own))).collect();
    }
    let caller = std::thread::current().id();
    let stopped = AtomicBool::new(false);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(n));
    let take = || {
        let is_caller = std::thread::current().id() == caller;
        let mut mine = Vec::new();
        let mut own = None;
        loop {
            if is_caller && !go_on() {
                stopped.store(true, Ordering::Relaxed);
            }
            if stopped.load(Ordering::Relaxed) {
                break;
            }
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
    // Borrowed as they are: a team of another size would make OpenMP end threads, and start them again for torch.
    let borrowed = asked.is_none() && openmp::run(&take);
    if !borrowed {
        helpers().in_place_scope(|scope| {
            for _ in 1..asked.unwrap_or_else(cores).min(n) {
                scope.spawn(|_| take());
            }
            take();
        });
    }
    if stopped.into_inner() {
        return None;
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|&(i, _)| i);
    Some(done.into_iter().map(|(_, value)| value).collect())
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
                    map(100, cost, || 1, |i, one| i + *one, || true),
                    Some((1..=100).collect::<Vec<_>>())
                );
            }
        }
        set_threads(None);
    }

    #[test]
    fn nobody_takes_more_once_the_caller_stops() {
        let caller = std::thread::current().id();
        for cost in [0, usize::MAX] {
            let asked = AtomicUsize::new(0);
            let go_on = || {
                assert_eq!(std::thread::current().id(), caller);
                asked.fetch_add(1, Ordering::Relaxed) < 3
            };
            let slow = |i, (): &mut ()| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                i
            };
            assert_eq!(map(100_000, cost, || (), slow, go_on), None);
            assert_eq!(asked.into_inner(), 4);
        }
    }
}
