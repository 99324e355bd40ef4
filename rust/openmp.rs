//! The threads of OpenMP, where the process has them: torch computes with these.
//!
//! They spin for a while after each parallel loop, so right after a forward of the model they are awake and occupy the
//! cores: threads of our own would have to get up and to wait for a core, longer than most of our loops take.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// The process whose OpenMP may be used; 0 for none.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Allows it in this process. Its children by `fork` may not: threads do not survive that, and OpenMP would wait for them.
pub fn allow() {
    PROCESS.store(std::process::id(), Ordering::Relaxed);
}

/// Runs `work` on as many threads as torch uses at once, the caller among them, and waits for all; false where there is no
/// OpenMP.
pub fn run<W: Fn() + Sync>(work: &W) -> bool {
    if PROCESS.load(Ordering::Relaxed) != std::process::id() {
        return false;
    }
    let Some(parallel) = entry() else {
        return false;
    };
    // SAFETY: it is GOMP_parallel.
    unsafe { run_on(parallel, work) };
    true
}

/// # Safety
/// `parallel` calls the function that it is given with the address that it is given, on any threads and any number of times,
/// and returns after all of these calls have.
unsafe fn run_on<W: Fn() + Sync>(parallel: Parallel, work: &W) {
    let team = Team {
        work,
        panic: Mutex::new(None),
    };
    // SAFETY: `team` outlives the call, and threads may share it because `W` is `Sync`.
    unsafe {
        parallel(
            enter::<W>,
            (&raw const team).cast_mut().cast(),
            AS_MANY_AS_TORCH,
            0,
        );
    };
    let panic = team
        .panic
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// Torch sets the number of threads of its callers' teams.
const AS_MANY_AS_TORCH: u32 = 0;

struct Team<'a, W> {
    work: &'a W,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What each thread of the team does. A panic must not pass through frames of C: it is kept for the caller.
extern "C" fn enter<W: Fn() + Sync>(team: *mut c_void) {
    // SAFETY: `run` gave the address of its `Team<W>`, and waits.
    let team = unsafe { &*team.cast_const().cast::<Team<'_, W>>() };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(team.work)) {
        *team.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
    }
}

/// `GOMP_parallel(function, data, number of threads or 0, flags)`, of GCC's OpenMP and of those that are compatible with it.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);

/// Looked for in each call until it is found, because torch may be imported later than we are.
#[cfg(all(target_os = "linux", not(miri)))]
fn entry() -> Option<Parallel> {
    use std::ffi::c_char;
    use std::sync::OnceLock;
    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    }
    static FOUND: OnceLock<Parallel> = OnceLock::new();
    if let Some(&parallel) = FOUND.get() {
        return Some(parallel);
    }
    // SAFETY: a null handle means all libraries that were loaded for everybody, and the name ends with a zero.
    let address = unsafe { dlsym(std::ptr::null_mut(), c"GOMP_parallel".as_ptr()) };
    if address.is_null() {
        return None;
    }
    // SAFETY: the name belongs to OpenMP, and its signature is part of the binary interface of programs compiled by GCC.
    let parallel = unsafe { std::mem::transmute::<*mut c_void, Parallel>(address) };
    Some(*FOUND.get_or_init(|| parallel))
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn entry() -> Option<Parallel> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Does what OpenMP does, with two threads of its own beside the caller.
    unsafe extern "C" fn parallel(
        enter: extern "C" fn(*mut c_void),
        team: *mut c_void,
        _: u32,
        _: u32,
    ) {
        let address = team.expose_provenance();
        std::thread::scope(|scope| {
            for _ in 1..3 {
                scope.spawn(move || enter(std::ptr::with_exposed_provenance_mut(address)));
            }
            enter(team);
        });
    }

    #[test]
    fn every_thread_works_on_what_the_caller_lends() {
        let calls = AtomicUsize::new(0);
        // SAFETY: `parallel` keeps the promises.
        unsafe {
            run_on(parallel, &|| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(calls.into_inner(), 3);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let found = catch_unwind(|| {
            // SAFETY: `parallel` keeps the promises.
            unsafe { run_on(parallel, &|| panic!("of a worker")) };
        });
        assert_eq!(
            found.unwrap_err().downcast_ref::<&str>(),
            Some(&"of a worker")
        );
    }

    #[test]
    fn nobody_is_asked_unless_that_was_allowed() {
        assert!(!run(&|| unreachable!("not allowed")));
    }
}
