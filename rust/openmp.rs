//! The threads of OpenMP, where the process has them: torch computes with these.
//!
//! They spin for a while after each parallel loop, so right after a forward of the model they are awake and occupy the
//! cores: threads of our own would have to get up and to wait for a core, longer than most of our loops take. The price is
//! that OpenMP waits for all of its threads, also for one that gets no core on a busy machine: `pool.rs` watches that.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Whether this process may use it.
static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Allows it in this process, unless that came from `fork`: threads do not survive that, and where torch had computed in the
/// parent, OpenMP would wait for them.
pub fn allow() {
    ALLOWED.store(!was_forked(), Ordering::Relaxed);
}

/// For a child of `fork`.
pub fn forbid() {
    ALLOWED.store(false, Ordering::Relaxed);
}

/// Whether this process came from `fork` without another program behind it, as the kernel remembers; true where it does not
/// say.
fn was_forked() -> bool {
    std::fs::read_to_string("/proc/self/stat").map_or(true, |stat| is_forked(&stat))
}

/// The same from a line of `/proc/self/stat`: flags of the first thread, of which a program that was started has at least one.
fn is_forked(stat: &str) -> bool {
    const FORKED_WITHOUT_EXEC: u32 = 0x40;
    // The name, in parentheses, may hold anything.
    let flags = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_none_or(|flags| flags == 0 || flags & FORKED_WITHOUT_EXEC != 0)
}

/// The number of threads that torch has set for its callers' loops; `None` where there is no OpenMP. Needs no threads.
pub fn threads() -> Option<usize> {
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let address = entry(&FOUND, c"omp_get_max_threads")?;
    // SAFETY: the name belongs to OpenMP, and has this signature.
    let count = unsafe {
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> std::ffi::c_int>(address)()
    };
    usize::try_from(count).ok()
}

/// Whether `run` finds it, and may use it.
pub fn is_here() -> bool {
    ALLOWED.load(Ordering::Relaxed) && parallel().is_some()
}

/// Runs `work`, which must not panic, on as many threads as torch uses at once, the caller among them, and waits for all; on
/// the caller alone where there is no OpenMP.
pub fn run(work: &(dyn Fn() + Sync)) {
    match parallel() {
        // SAFETY: it is OpenMP's.
        Some(parallel) => unsafe { run_on(parallel, work) },
        None => work(),
    }
}

fn parallel() -> Option<Parallel> {
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let address = entry(&FOUND, c"GOMP_parallel")?;
    // SAFETY: the name belongs to OpenMP, and its signature is part of the binary interface of programs compiled by GCC.
    Some(unsafe { std::mem::transmute::<*mut c_void, Parallel>(address) })
}

/// `GOMP_parallel(function, data, number of threads or 0, flags)`, of GCC's OpenMP and of those that are compatible with it.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);

/// Torch sets the number of threads of its callers' teams.
const AS_MANY_AS_TORCH: u32 = 0;

/// # Safety
/// `parallel` calls the function that it is given with the address that it is given, on any threads and any number of times,
/// and returns after all of these calls have.
unsafe fn run_on(parallel: Parallel, work: &(dyn Fn() + Sync)) {
    let lent = &raw const work;
    // SAFETY: what is lent outlives the call, and threads may share it because it is `Sync`.
    unsafe { parallel(enter, lent.cast_mut().cast(), AS_MANY_AS_TORCH, 0) };
}

/// What each thread of the team does. A panic must not pass through frames of C: here it would end the process.
extern "C" fn enter(lent: *mut c_void) {
    // SAFETY: `run_on` gave the address of its reference, and waits.
    let work = unsafe { *lent.cast_const().cast::<&(dyn Fn() + Sync)>() };
    work();
}

/// Looked for in each call until it is found, because torch may be imported later than we are.
#[cfg(all(target_os = "linux", not(miri)))]
fn entry(found: &AtomicPtr<c_void>, name: &CStr) -> Option<*mut c_void> {
    use std::ffi::c_char;
    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    }
    let mut address = found.load(Ordering::Relaxed);
    if address.is_null() {
        // SAFETY: a null handle means all libraries that were loaded for everybody, and the name ends with a zero.
        address = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
        found.store(address, Ordering::Relaxed);
    }
    (!address.is_null()).then_some(address)
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn entry(_: &AtomicPtr<c_void>, _: &CStr) -> Option<*mut c_void> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Does what OpenMP does, with two threads of its own beside the caller.
    unsafe extern "C" fn parallel(
        enter: extern "C" fn(*mut c_void),
        lent: *mut c_void,
        _: u32,
        _: u32,
    ) {
        let address = lent.expose_provenance();
        std::thread::scope(|scope| {
            for _ in 1..3 {
                scope.spawn(move || enter(std::ptr::with_exposed_provenance_mut(address)));
            }
            enter(lent);
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
    fn nobody_is_asked_unless_that_was_allowed() {
        assert!(!is_here());
    }

    #[test]
    fn the_kernel_says_who_was_forked() {
        let stat = |flags: &str| format!("7 (a) b) R 1 7 7 0 -1 {flags} 99 0 0 0");
        assert!(!is_forked(&stat("4194304")));
        assert!(is_forked(&stat("4194368")));
        for unknown in [stat("0"), stat("-1"), String::new(), "7 (a) R".into()] {
            assert!(is_forked(&unknown), "{unknown}");
        }
    }
}
