"""The emulator itself: it runs what is right, in any order of the threads, and shows what is wrong."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from dllm_fast.kernels.launches import Launch

from . import build
from .launch import EmulatorError, run

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

SAMPLES = Path(__file__).parent / "planted" / "samples.cu"
ORDERS = (0, 1, 2, 3, 4, 5)


def launch(kernel, *arguments, grid=(1, 1, 1), block=(256, 1, 1), order=0):
    """Arrays go as pointers, ctypes scalars as they are."""
    given = tuple(ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments)
    run(Launch("samples", kernel, grid, block, given), order=order, library=build.library(SAMPLES))


def numbers(n):
    return np.arange(n, dtype=np.int32)


@pytest.mark.parametrize("order", ORDERS)
def test_each_thread_of_each_block_runs_once(order):
    grid, block = (2, 3, 2), (8, 4, 2)
    out = np.full(12 * 64, -1, dtype=np.int32)
    launch("where_am_i", out, grid=grid, block=block, order=order)
    np.testing.assert_array_equal(out, numbers(len(out)))


def test_arguments_of_all_kinds_arrive():
    out = np.zeros(1)
    launch("add_up", out, ctypes.c_int32(-3), ctypes.c_int64(2**40), ctypes.c_float(0.5), ctypes.c_double(0.25))
    assert out[0] == 2**40 - 2.25


def test_warp_operations():
    out = np.zeros((64, 5), dtype=np.int32)
    launch("warp_operations", out, block=(64, 1, 1), order=2)
    lane = numbers(64) % 32
    ballot = sum(1 << i for i in range(0, 32, 3))
    expected = [np.full(64, 7), lane ^ 5, np.where(lane >= 3, lane - 3, lane), np.full(64, np.int32(np.uint32(ballot)))]
    np.testing.assert_array_equal(out[:, :4].T, expected)
    assert out[:6, 4].tolist() == [0, 1, 2, 1, 3, 1]


@pytest.mark.parametrize("order", ORDERS)
def test_a_barrier_makes_the_order_irrelevant(order):
    out = np.zeros(256, dtype=np.int32)
    launch("mirrored", numbers(256), out, order=order)
    np.testing.assert_array_equal(out, numbers(256)[::-1])


@pytest.mark.parametrize("order", ORDERS)
def test_planted_missing_barrier_gives_wrong_numbers(order):
    out = np.zeros(256, dtype=np.int32)
    launch("planted_missing_barrier", numbers(256), out, order=order)
    assert not np.array_equal(out, numbers(256)[::-1])


def test_stacks_go_with_their_launch():
    """A guarded stack is two mappings, and a process may have some 65,000: many libraries would use them up."""

    def mappings():
        return len(Path("/proc/self/maps").read_text().splitlines())

    launch("mirrored", numbers(256), np.zeros(256, dtype=np.int32))
    before = mappings()
    own = SAMPLES.read_text() + "// a library of its own\n"
    given = numbers(256), np.zeros(256, dtype=np.int32)
    pointers = tuple(ctypes.c_void_p(array.ctypes.data) for array in given)
    run(Launch("samples", "mirrored", (1, 1, 1), (256, 1, 1), pointers), library=build.library(SAMPLES, text=own))
    assert mappings() - before < 100


def test_planted_divergent_barrier_is_named():
    with pytest.raises(EmulatorError, match=r"128 of 256 wait, the first at __syncthreads in block \(0, 0, 0\), thread \(0,"):
        launch("planted_divergent_barrier", np.zeros(256, dtype=np.int32))


def test_planted_divergent_warp_operation_is_named():
    with pytest.raises(EmulatorError, match="different operations, __shfl_xor_sync and __ballot_sync"):
        launch("planted_divergent_warp", np.zeros(32, dtype=np.int32), block=(32, 1, 1))


def test_planted_read_of_uninitialised_shared_memory_gives_nan():
    out = np.zeros(32, dtype=np.float32)
    for _ in range(2):
        launch("planted_uninitialised", out, block=(32, 1, 1), grid=(3, 1, 1))
        assert np.isnan(out).all()


@pytest.mark.parametrize("order", ORDERS)
def test_asynchronous_copies_have_arrived_after_the_wait(order):
    out = np.full(128, -1, dtype=np.int32)
    launch("staged_copy", numbers(256), out, block=(32, 1, 1), order=order)
    np.testing.assert_array_equal(out, np.where(numbers(128) < 124, numbers(128), 0))


def test_planted_short_wait_reads_what_is_not_there_yet():
    out = np.zeros(128, dtype=np.int32)
    launch("planted_short_wait", numbers(256), out, block=(32, 1, 1))
    assert (out == -1).all(), "the poison of shared memory"


def test_planted_missing_wait_is_named():
    with pytest.raises(EmulatorError, match="copies that nobody waited for"):
        launch("planted_no_wait", numbers(256), block=(32, 1, 1))


def test_whole_warps_only():
    with pytest.raises(EmulatorError, match="whole warps"):
        launch("where_am_i", numbers(48), block=(48, 1, 1))


def test_the_number_of_arguments_is_checked():
    with pytest.raises(EmulatorError, match="takes 1 arguments, got 2"):
        launch("where_am_i", numbers(32), numbers(32), block=(32, 1, 1))


@pytest.mark.parametrize("case", ["outside_of_global_memory", "outside_of_shared_memory"])
def test_planted_out_of_bounds_is_reported_by_the_address_sanitizer(sanitized):
    assert sanitized.returncode != 0
    assert "heap-buffer-overflow" in sanitized.stderr
    assert re.search(r"samples\.cu:\d+", sanitized.stderr), sanitized.stderr[:2000]  # a line of the kernel


@pytest.mark.parametrize("case", ["mask_predict", "layer"])
def test_the_kernels_stay_inside_their_memory(sanitized):
    assert sanitized.returncode == 0, sanitized.stderr[-4000:]
    assert "done" in sanitized.stdout
