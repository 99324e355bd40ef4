"""Compiles what the tests of this folder run beforehand, on all cores: one after the other takes twice as long."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import build
from .sanitizer import SOURCES


@pytest.fixture(scope="session", autouse=True)
def libraries():
    if build.why_not() is None:
        kernels = [(source, build.OPTIMISED) for source in sorted(build.KERNELS.glob("*.cu"))]
        sanitized = sorted({(source, build.SANITIZED) for sources in SOURCES.values() for source in sources})
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda job: build.library(job[0], options=job[1]), [*sanitized, *kernels]))
