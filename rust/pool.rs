//! The one door to parallel work: the threads of OpenMP where torch brought them and while they pay, else helpers of our own.
//!
//! Work is taken in short pieces by whoever is awake, and results never depend on who that was. No lock outlives a `fork`:
//! a child begins with new helpers, and leaves OpenMP alone.

use crate::{helpers, openmp};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Elementary operations below which one thread is as quick.
const WORTH_THREADS: usize = 1 << 16;
/// Elementary operations of one piece: some microseconds, far less than a slice of the scheduler.
const PIECE: usize = 1 << 14;
/// Elementary operations, some 0.1 s at most, of one item that several threads may share a loop of: an item ends before the
/// caller is asked whether to go on.
const MOST_SHARED: usize = 1 << 21;
/// How often the caller is asked whether to go on.
const ROUND: Duration = Duration::from_millis(20);
/// The most threads that anybody may set.
pub const MOST_THREADS: usize = 1024;

/// The number that somebody has set; 0 for none.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Number of threads from now on, of our own, 1 to `MOST_THREADS`; `None` takes `RAYON_NUM_THREADS`, or else the threads of
/// torch, or else one per core.
pub fn set_threads(threads: Option<usize>) {
    let threads = threads.map_or(0, |threads| threads.clamp(1, MOST_THREADS));
    THREADS.store(threads, Ordering::Relaxed);
}

/// A number that is found once; several threads that look at once find the same.
struct Once(AtomicUsize);

impl Once {
    const UNKNOWN: usize = usize::MAX;

    const fn new() -> Self {
        Self(AtomicUsize::new(Self::UNKNOWN))
    }

    fn get(&self, find: impl Fn() -> usize) -> usize {
        let known = self.0.load(Ordering::Relaxed);
        if known != Self::UNKNOWN {
            return known;
        }
        let found = find();
        self.0.store(found, Ordering::Relaxed);
        found
    }
}

/// What the environment asks for; 0 for nothing.
fn asked_for() -> usize {
    static ASKED: Once = Once::new();
    ASKED.get(|| {
        let asked = std::env::var("RAYON_NUM_THREADS").unwrap_or_default();
        asked.parse().map_or(0, |n: usize| n.min(MOST_THREADS))
    })
}

fn cores() -> usize {
    static CORES: Once = Once::new();
    CORES.get(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// The number that somebody has set.
fn set() -> Option<usize> {
    [THREADS.load(Ordering::Relaxed), asked_for()]
        .into_iter()
        .find(|&threads| threads > 0)
}

/// To be called once, before the first fork: keeps what a child must not inherit from it.
pub fn watch_forks() {
    #[cfg(all(unix, not(miri)))]
    {
        use std::ffi::c_int;
        type Handler = Option<extern "C" fn()>;
        unsafe extern "C" {
            fn pthread_atfork(before: Handler, parent: Handler, child: Handler) -> c_int;
        }
        /// Only stores to atomics: all that a child may do of which the parent had several threads.
        extern "C" fn in_child() {
            helpers::forget();
            openmp::forbid();
        }
        // SAFETY: the handler is a function of this library, which is never unloaded.
        let failed = unsafe { pthread_atfork(None, None, Some(in_child)) };
        assert!(failed == 0, "no memory for a handler of fork");
    }
}

/// `work(i, state)` for `i` in `0..n`, in order, each worker with a state of its own. Serial unless `cost`, in
/// elementary operations over all `n`, is worth the threads.
///
/// The caller begins at once, and others take pieces as soon as they are awake. Where it takes long, everybody pauses every
/// 20 ms and the caller is asked whether to `go_on`, while no other thread is inside: it may do anything there, fork for
/// example, and if it answers false the result is `None`. `state` is told whether the caller works alone, which may then do
/// anything in `work`, too.
pub fn map<T: Send, S>(
    n: usize,
    cost: usize,
    state: impl Fn(bool) -> S + Sync,
    work: impl Fn(usize, &mut S) -> T + Sync,
    go_on: impl Fn() -> bool,
) -> Option<Vec<T>> {
    let piece = (PIECE.saturating_mul(n) / cost.max(1)).clamp(1, n.max(1));
    let alone = cost < WORTH_THREADS || n <= piece || cost / n > MOST_SHARED;
    let next = AtomicUsize::new(0);
    let runs = Mutex::new(Vec::<(usize, Vec<T>)>::new());
    let panic = Mutex::new(None::<Box<dyn Any + Send>>);
    let take = |until: Instant, is_alone: bool| {
        let mut mine = Vec::new();
        let mut times = Vec::new();
        let mut own = None;
        let mut began = Instant::now();
        loop {
            let first = next.fetch_add(piece, Ordering::Relaxed);
            if first >= n {
                break;
            }
            let own = own.get_or_insert_with(|| state(is_alone));
            let last = n.min(first + piece);
            mine.push((first, (first..last).map(|i| work(i, own)).collect()));
            let now = Instant::now();
            times.push(now - began);
            began = now;
            if now >= until {
                break;
            }
        }
        lock(&runs).append(&mut mine);
        times
    };
    // Nothing may unwind into the threads of others.
    let take = |until, is_alone| {
        catch_unwind(AssertUnwindSafe(|| take(until, is_alone))).unwrap_or_else(|payload| {
            next.store(n, Ordering::Relaxed);
            *lock(&panic) = Some(payload);
            Vec::new()
        })
    };
    loop {
        let until = Instant::now() + ROUND;
        if alone {
            take(until, true);
        } else {
            let left = n
                .saturating_sub(next.load(Ordering::Relaxed))
                .div_ceil(piece);
            round(left, &|is_alone| take(until, is_alone));
        }
        if let Some(payload) = lock(&panic).take() {
            resume_unwind(payload);
        }
        if next.load(Ordering::Relaxed) >= n {
            break;
        }
        if !go_on() {
            return None;
        }
    }
    let mut runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
    runs.sort_unstable_by_key(|&(first, _)| first);
    let mut all = Vec::with_capacity(n);
    all.extend(runs.into_iter().flat_map(|(_, values)| values));
    Some(all)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long each piece took that one thread has done.
type Times = Vec<Duration>;

/// `take` on the caller and whoever else may help, where `pieces` are left; it is told whether that is nobody.
fn round(pieces: usize, take: &(dyn Fn(bool) -> Times + Sync)) {
    let set = set();
    let threads = set.unwrap_or_else(|| openmp::threads().map_or_else(cores, |n| n.min(cores())));
    let alone = || {
        take(true);
    };
    if threads < 2 || pieces < 2 {
        alone();
        return;
    }
    // Borrowed as they are: a team of another size would make OpenMP end threads, and start them again for torch.
    let may_borrow = set.is_none() && openmp::is_here() && BORROWED.may_try();
    if may_borrow {
        BORROWED.watch(take, openmp::run);
    } else if OWN.may_try() {
        OWN.watch(take, |work| helpers::run(threads.min(pieces) - 1, work));
    } else {
        alone();
    }
}

/// Whether threads pay. On a busy machine the caller waits for one that has no core, longer than the whole loop takes it
/// alone; then they are left alone for a while: for the more rounds, the more time such a round has lost, and the more of them
/// came in a row. So what is lost stays a small share, and one hiccup of an idle machine costs little.
struct Trust {
    /// Rounds to go without them.
    pause: AtomicU32,
    /// Rounds of a pause for each time of a round alone that was lost.
    weight: AtomicU32,
    /// The longest pause.
    longest: u32,
}

/// OpenMP's: the caller waits for all of them.
static BORROWED: Trust = Trust::new(128);
/// Our own: it waits for those who have begun.
static OWN: Trust = Trust::new(16);

impl Trust {
    /// A loss is spread over at least so many times its length.
    const HEAVIEST: u32 = 8;

    const fn new(longest: u32) -> Self {
        Self {
            pause: AtomicU32::new(0),
            weight: AtomicU32::new(1),
            longest,
        }
    }

    fn may_try(&self) -> bool {
        let less = |pause: u32| pause.checked_sub(1);
        self.pause
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_err()
    }

    /// A round of `take` by the threads of `run`, and whether they paid.
    fn watch(&self, take: &(dyn Fn(bool) -> Times + Sync), run: impl FnOnce(&(dyn Fn() + Sync))) {
        let caller = std::thread::current().id();
        let others = AtomicUsize::new(0);
        let own = Mutex::new(Vec::new());
        let began = Instant::now();
        run(&|| {
            let times = take(false);
            if std::thread::current().id() == caller {
                *lock(&own) = times;
            } else {
                others.fetch_add(times.len(), Ordering::Relaxed);
            }
        });
        let took = began.elapsed();
        let own = own.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.judge(
            took.as_secs_f64() / alone(&own, others.into_inner()).unwrap_or(took.as_secs_f64()),
        );
    }

    /// `share`: what a round took, of the time that the caller would have taken alone.
    fn judge(&self, share: f64) {
        let weight = self.weight.load(Ordering::Relaxed);
        let (pause, weight) = if share < 0.9 {
            // Now and then they pay on a busy machine, too.
            (0, (weight / 4).max(1))
        } else {
            let pause = (f64::from(weight) * (share - 0.9)).ceil();
            (
                pause.min(f64::from(self.longest)) as u32,
                (2 * weight).min(Self::HEAVIEST),
            )
        };
        self.pause.store(pause, Ordering::Relaxed);
        self.weight.store(weight, Ordering::Relaxed);
    }
}

/// Seconds that the caller would have taken for its own pieces and those of others, had it kept its core: a piece that took
/// several times as long as another was interrupted. `None` where it did none.
fn alone(own: &[Duration], others: usize) -> Option<f64> {
    let least = *own.iter().min()?;
    let sum: Duration = own.iter().map(|&time| time.min(4 * least)).sum();
    Some(sum.as_secs_f64() * (own.len() + others) as f64 / own.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_for_any_number_of_threads() {
        for threads in [1, 2, 7] {
            set_threads(Some(threads));
            for n in [0, 1, 2, 100] {
                for cost in [0, 1 << 17, 1 << 20, usize::MAX] {
                    assert_eq!(
                        map(n, cost, |_| 1, |i, one| i + *one, || true),
                        Some((1..=n).collect::<Vec<_>>())
                    );
                }
            }
        }
        set_threads(None);
    }

    #[test]
    fn the_caller_is_asked_while_nobody_works_and_may_stop() {
        let caller = std::thread::current().id();
        for threads in [1, 3] {
            set_threads(Some(threads));
            let (asked, inside) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let go_on = || {
                assert_eq!(std::thread::current().id(), caller);
                assert_eq!(inside.load(Ordering::Relaxed), 0);
                asked.fetch_add(1, Ordering::Relaxed) < 3
            };
            let slow = |i, (): &mut ()| {
                inside.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
                inside.fetch_sub(1, Ordering::Relaxed);
                i
            };
            assert!(map(100_000, 1 << 30, |_| (), slow, go_on).is_none());
            assert_eq!(asked.into_inner(), 4);
        }
        set_threads(None);
    }

    /// Somebody who shares the work must not be left inside by a fork.
    #[test]
    fn who_works_alone_is_told() {
        set_threads(Some(3));
        for (cost, told) in [
            (1 << 10, &[true][..]),
            (1 << 24, &[true, false]),
            (1 << 40, &[true]),
        ] {
            let caller = std::thread::current().id();
            let work = |_, alone: &mut bool| {
                assert!(!*alone || std::thread::current().id() == caller);
                *alone
            };
            let found = map(100, cost, |alone| alone, work, || true).unwrap();
            assert!(found.iter().all(|alone| told.contains(alone)), "{cost}");
        }
        set_threads(None);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        for threads in [1, 4] {
            set_threads(Some(threads));
            for at in [0, 57] {
                let work = |i, (): &mut ()| assert!(i != at, "of a worker");
                let found = catch_unwind(|| map(100, 1 << 24, |_| (), work, || true));
                assert_eq!(
                    found.unwrap_err().downcast_ref::<&str>(),
                    Some(&"of a worker")
                );
            }
        }
        set_threads(None);
    }

    #[test]
    fn a_pause_is_as_long_as_the_loss_and_grows_in_a_row() {
        let trust = Trust::new(128);
        let mut pauses = Vec::new();
        for share in [
            0.5,
            3.9,
            0.5,
            3.9,
            3.9,
            3.9,
            3.9,
            3.9,
            1.0,
            900.0,
            0.5,
            0.5,
            3.9,
            f64::INFINITY,
        ] {
            assert!(trust.may_try());
            trust.judge(share);
            pauses.push((0..1000).take_while(|_| !trust.may_try()).count());
        }
        assert_eq!(pauses, [0, 3, 0, 3, 6, 12, 24, 24, 1, 128, 0, 0, 3, 128]);
    }

    #[test]
    fn an_interrupted_piece_counts_as_much_as_its_work() {
        let ms = |all: &[u64]| {
            all.iter()
                .map(|&t| Duration::from_millis(t))
                .collect::<Times>()
        };
        let alone = |own: &[u64], others| alone(&ms(own), others);
        assert_eq!(alone(&[], 7), None);
        assert!((alone(&[1, 1, 2], 3).unwrap() - 0.008).abs() < 1e-9);
        assert!((alone(&[1, 1, 500], 0).unwrap() - 0.006).abs() < 1e-9);
    }
}
