//! Ctrl-C, and whatever else a signal handler wants, while the core works.

use crate::watch::Watch;
use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Signals are looked for so often. Each look takes the interpreter lock, for which other threads may make it wait.
const INTERVAL: Duration = Duration::from_millis(50);

/// Runs work without the interpreter. Its signal handlers run meanwhile, in the main thread as always; what one raises ends the
/// work and comes out as it is.
pub(super) fn detached<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Watch<'_>) -> T + Send,
) -> PyResult<T> {
    let raised = Mutex::new(None);
    // Without an interpreter, as at the end of a process, nobody has anything to say.
    let go_on = || match Python::try_attach(|py| py.check_signals().err()).flatten() {
        Some(error) => {
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            false
        }
        None => true,
    };
    let done = py.detach(|| work(&Watch::new(INTERVAL, &go_on)));
    let raised = raised.into_inner().unwrap_or_else(PoisonError::into_inner);
    raised.map_or(Ok(done), Err)
}

/// In a loop of fewer items no Python runs.
pub(super) const ITEMS_BETWEEN: usize = 1 << 10;

/// Runs the handlers of signals that have come, now and then: before every item of a loop that keeps the interpreter.
pub(super) fn heard(py: Python<'_>, item: usize) -> PyResult<()> {
    if item % ITEMS_BETWEEN == ITEMS_BETWEEN - 1 {
        py.check_signals()?;
    }
    Ok(())
}
