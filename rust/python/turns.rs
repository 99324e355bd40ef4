//! One call at a time, without a deadlock: the others wait for their turn, and who calls from inside a call of its own is told.

use super::error::bad_call;
use pyo3::prelude::*;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A value for one call at a time. No Python runs during a turn but the signal handlers of `detached`.
pub(super) struct Turns<T> {
    /// The process and the thread whose turn it is; 0 if nobody's.
    owner: AtomicU64,
    /// Only the owner locks it, so nobody ever waits here: not the child of a `fork` either, where the owner is gone.
    value: Mutex<T>,
}

/// A turn, over when it is dropped.
pub(super) struct Turn<'a, T> {
    owner: &'a AtomicU64,
    value: Option<MutexGuard<'a, T>>,
}

impl<T> Turns<T> {
    pub fn new(value: T) -> Self {
        Self {
            owner: AtomicU64::new(0),
            value: Mutex::new(value),
        }
    }

    /// Waits for a turn, without the interpreter, which whoever has the turn may need. Signals are heard meanwhile.
    pub fn take(&self, py: Python<'_>) -> PyResult<Turn<'_, T>> {
        const WAIT: Duration = Duration::from_micros(100);
        let me = this_thread();
        while let Err(owner) =
            self.owner
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
        {
            if owner >> 32 != me >> 32 {
                return Err(bad_call(
                    "a sampler must be at rest when a process forks, got a child made while another call was at work on it; make a new Sampler in the child",
                ));
            }
            if owner == me {
                return Err(bad_call(
                    "a sampler does one call at a time, got a call from a signal handler, or another callback, that ran inside a call of the same thread; call it once that has returned",
                ));
            }
            py.detach(|| std::thread::sleep(WAIT));
            py.check_signals()?;
        }
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Turn {
            owner: &self.owner,
            value: Some(value),
        })
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("until it is dropped")
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("until it is dropped")
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        self.owner.store(0, Ordering::Release);
    }
}

/// Process and thread in one number, never 0.
fn this_thread() -> u64 {
    // It only counts: a thread's number decides nothing but whose turn it is.
    static THREADS: AtomicU32 = AtomicU32::new(1);
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    let number = NUMBER.get();
    let number = if number == 0 {
        THREADS.fetch_add(1, Ordering::Relaxed).max(1)
    } else {
        number
    };
    NUMBER.set(number);
    u64::from(std::process::id()) << 32 | u64::from(number)
}
