//! Whether a long computation still goes on: somebody may have pressed Ctrl-C.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Asks its owner, in the owner's own thread and not too often, whether work goes on. Once the answer is no it stays no, and
/// the other threads that share the work see it, too.
pub struct Watch<'a> {
    go_on: &'a (dyn Fn() -> bool + Sync),
    owner: ThreadId,
    interval: Duration,
    began: Instant,
    /// When to ask next, in nanoseconds since it began.
    due: AtomicU64,
    stopped: AtomicBool,
}

impl<'a> Watch<'a> {
    /// Asks `go_on` in this thread, at most once in an `interval`, and not before the first has passed.
    pub fn new(interval: Duration, go_on: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self {
            go_on,
            owner: std::thread::current().id(),
            interval,
            began: Instant::now(),
            due: AtomicU64::new(nanoseconds(interval)),
            stopped: AtomicBool::new(false),
        }
    }

    /// Nobody stops it.
    pub fn never() -> Self {
        Self::new(Duration::MAX, &|| true)
    }

    /// Goes the work on? Cheap, but not free: to be asked every few microseconds.
    pub fn goes_on(&self) -> bool {
        if self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        if self.due.load(Ordering::Relaxed) > self.elapsed()
            || std::thread::current().id() != self.owner
        {
            return true;
        }
        let answer = (self.go_on)();
        self.stopped.store(!answer, Ordering::Relaxed);
        // Counted from the end: what the owner does with the question may take long.
        let due = self.elapsed().saturating_add(nanoseconds(self.interval));
        self.due.store(due, Ordering::Relaxed);
        answer
    }

    fn elapsed(&self) -> u64 {
        nanoseconds(self.began.elapsed())
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_no_stays_and_reaches_every_thread() {
        let asked = AtomicUsize::new(0);
        let third = || asked.fetch_add(1, Ordering::Relaxed) < 2;
        let watch = Watch::new(Duration::ZERO, &third);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| watch.goes_on());
            assert!(other.join().unwrap());
        });
        assert_eq!(asked.load(Ordering::Relaxed), 0, "only the owner is asked");
        let answers: Vec<bool> = (0..4).map(|_| watch.goes_on()).collect();
        assert_eq!(answers, [true, true, false, false]);
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| watch.goes_on());
            assert!(!other.join().unwrap());
        });
    }

    #[test]
    fn the_owner_is_left_alone_for_an_interval() {
        let watch = Watch::new(Duration::from_secs(3600), &|| panic!("asked too early"));
        assert!((0..1000).all(|_| watch.goes_on()));
        assert!(Watch::never().goes_on());
    }
}
