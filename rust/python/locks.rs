//! A lock of Python that an interrupt cannot leave locked.
//!
//! From CPython 3.14 on, a signal handler can run behind `lock.__enter__` and before the block of a `with lock:` has begun; what
//! it raises leaves the lock locked for good. Here each `with` has an object of its own, which releases when it goes.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A lock that its thread may take again: `with lock.held(): ...`.
#[pyclass(module = "dllm_fast._core", frozen)]
pub(super) struct Lock {
    /// A `threading.RLock`: it hears signals while it waits.
    inner: Py<PyAny>,
    /// The process that it is of.
    process: AtomicU32,
}

#[pymethods]
impl Lock {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let inner = py.import("threading")?.call_method0("RLock")?.unbind();
        Ok(Self {
            inner,
            process: AtomicU32::new(std::process::id()),
        })
    }

    /// For one `with`.
    fn held(&self, py: Python<'_>) -> PyResult<Held> {
        let here = std::process::id();
        if self.process.swap(here, Ordering::Relaxed) != here {
            // A child of `fork`: whoever had it, but for the thread that forked, is not here to give it back.
            let is_own = self.inner.call_method0(py, "_is_owned")?;
            if !is_own.is_truthy(py)? {
                self.inner.call_method0(py, "_at_fork_reinit")?;
            }
        }
        Ok(Held {
            lock: self.inner.clone_ref(py),
            is_held: AtomicBool::new(false),
        })
    }
}

/// One thread's use of a lock: taken when it is entered, released when it is left or goes.
#[pyclass(module = "dllm_fast._core", frozen)]
pub(super) struct Held {
    lock: Py<PyAny>,
    is_held: AtomicBool,
}

impl Held {
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_held.load(Ordering::Relaxed) {
            self.lock.call_method0(py, "release")?;
            self.is_held.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[pymethods]
impl Held {
    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_held.load(Ordering::Relaxed) {
            return Err(PyRuntimeError::new_err(
                "what held() gives is for one `with`, got a second; call held() again",
            ));
        }
        // Both are functions of C: no handler runs between the lock and the note of it.
        self.lock.call_method0(py, "acquire")?;
        self.is_held.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.release(py)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !*self.is_held.get_mut() {
            return;
        }
        Python::attach(|py| {
            // It goes while what was raised is on its way.
            let raised = PyErr::take(py);
            if let Err(error) = self.release(py) {
                error.write_unraisable(py, None);
            }
            if let Some(raised) = raised {
                raised.restore(py);
            }
        });
    }
}
