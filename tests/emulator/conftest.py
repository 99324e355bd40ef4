"""Uses the second core: kernels are compiled at once, and the runs under AddressSanitizer go on beside the tests."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import build
from .sanitizer import run_sanitized

_beside = ThreadPoolExecutor(1)
_runs = {}


def pytest_collection_finish(session):
    """Starts what the `sanitized` tests that were selected will ask for."""
    if build.why_not() is None and not session.config.option.collectonly:
        for item in session.items:
            if "sanitized" in getattr(item, "fixturenames", ()):
                case = item.callspec.params["case"]
                _runs[case] = _beside.submit(run_sanitized, case)


@pytest.fixture(scope="session", autouse=True)
def libraries():
    """The libraries of all kernels."""
    if build.why_not() is None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(build.library, sorted(build.KERNELS.glob("*.cu"))))


@pytest.fixture
def sanitized(case):
    """How the run of a case ended."""
    return _runs[case].result()
