//! Threads of our own that help a caller, which never waits for one that has not begun.
//!
//! Whoever is awake takes part. A helper that gets up late finds the door closed and goes back to sleep, so on a busy machine
//! the caller loses nothing to a thread that gets no core; it waits for those only that are inside, one piece long.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A piece ends sooner than a thread gets up, as a rule.
const SPIN: Duration = Duration::from_micros(30);

/// Work of a caller that helpers may join. It must not panic.
struct Job {
    /// Where the caller has its `&(dyn Fn() + Sync)`.
    work: *const (),
    /// How many are inside, and whether the door is closed.
    inside: AtomicUsize,
    caller: Thread,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

// SAFETY: what `work` leads to is `Sync`, and only read while its caller waits (`Job::join`).
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

impl Job {
    fn join(&self) {
        let enter = |inside| (inside & CLOSED == 0).then_some(inside + 1);
        if self
            .inside
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, enter)
            .is_err()
        {
            return;
        }
        // SAFETY: the door was open, so the caller is in `run`, and stays there until nobody is inside.
        let work = unsafe { *self.work.cast::<&(dyn Fn() + Sync)>() };
        work();
        // The job lives in an `Arc` of ours, so it may be touched after the caller has gone.
        if self.inside.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            self.caller.unpark();
        }
    }

    /// Nobody comes in any more; waits for those who are inside.
    fn close(&self) {
        self.inside.fetch_or(CLOSED, Ordering::Relaxed);
        let began = Instant::now();
        while self.inside.load(Ordering::Acquire) != CLOSED {
            if began.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                thread::park();
            }
        }
    }
}

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs with the number of helpers that each still wants.
    jobs: Vec<(Arc<Job>, usize)>,
    threads: usize,
}

/// The pool of this process. It is never freed: threads use it as long as the process lives.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

/// For a child of `fork`: its parent's threads are not here, and its locks may be held by one of them.
pub fn forget() {
    POOL.store(std::ptr::null_mut(), Ordering::Relaxed);
}

fn pool() -> &'static Pool {
    let known = POOL.load(Ordering::Acquire);
    let found = if known.is_null() {
        let made = Box::into_raw(Box::<Pool>::default());
        match POOL.compare_exchange(known, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(earlier) => {
                // SAFETY: made above, and nobody has seen it.
                drop(unsafe { Box::from_raw(made) });
                earlier
            }
        }
    } else {
        known
    };
    // SAFETY: it came out of a box, and is never freed.
    unsafe { &*found }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one helper does for ever.
    fn help(&self) {
        let mut state = self.lock();
        loop {
            if let Some((job, wanted)) = state.jobs.iter_mut().find(|(_, wanted)| *wanted > 0) {
                *wanted -= 1;
                let job = Arc::clone(job);
                drop(state);
                job.join();
                drop(job);
                state = self.lock();
            } else {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Runs `work`, which must not panic, on the caller and on up to `helpers` threads that come in before the caller is done.
pub fn run(helpers: usize, work: &(dyn Fn() + Sync)) {
    let pool = pool();
    let job = Arc::new(Job {
        work: (&raw const work).cast(),
        inside: AtomicUsize::new(0),
        caller: thread::current(),
    });
    let mut state = pool.lock();
    while state.threads < helpers {
        let name = format!("dllm-fast-{}", state.threads);
        // Where no thread can be had there are fewer helpers, or none.
        if thread::Builder::new()
            .name(name)
            .spawn(|| pool.help())
            .is_err()
        {
            break;
        }
        state.threads += 1;
    }
    let helpers = helpers.min(state.threads);
    state.jobs.push((Arc::clone(&job), helpers));
    drop(state);
    for _ in 0..helpers {
        pool.wake.notify_one();
    }
    work();
    job.close();
    pool.lock()
        .jobs
        .retain(|(other, _)| !Arc::ptr_eq(other, &job));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn helpers_come_in_while_the_caller_works() {
        let (caller, calls) = (thread::current().id(), AtomicUsize::new(0));
        run(2, &|| {
            calls.fetch_add(1, Ordering::Relaxed);
            while thread::current().id() == caller && calls.load(Ordering::Relaxed) < 3 {
                thread::yield_now();
            }
        });
        assert_eq!(calls.into_inner(), 3);
    }

    #[test]
    fn the_caller_waits_for_those_inside() {
        let (caller, inside, left) = (
            thread::current().id(),
            AtomicBool::new(false),
            AtomicBool::new(false),
        );
        run(1, &|| {
            if thread::current().id() == caller {
                while !inside.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            } else {
                inside.store(true, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
                left.store(true, Ordering::Relaxed);
            }
        });
        assert!(left.into_inner());
    }

    #[test]
    fn nobody_comes_in_after_the_caller_has_left() {
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            let mut calls = AtomicUsize::new(0);
            run(3, &|| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert!((1..=4).contains(calls.get_mut()));
        }
    }

    #[test]
    fn several_callers_share_the_helpers() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..if cfg!(miri) { 5 } else { 500 } {
                        let calls = AtomicUsize::new(0);
                        run(2, &|| {
                            calls.fetch_add(1, Ordering::Relaxed);
                        });
                        assert!((1..=3).contains(&calls.into_inner()));
                    }
                });
            }
        });
    }
}
