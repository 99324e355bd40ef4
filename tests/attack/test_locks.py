"""Locks of the package: no interrupt leaves one locked, and a thread can take again what it has."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import pytest

import dllm_fast
import limited
from dllm_fast._core import Lock


def is_free(lock: Lock, seconds: float = 0.5) -> bool:
    """Whether another thread gets it in this time."""
    got = threading.Event()

    def take() -> None:
        with lock.held():
            got.set()

    threading.Thread(target=take, daemon=True).start()
    return got.wait(seconds)


def test_who_has_it_may_take_it_again_and_nobody_else() -> None:
    lock = Lock()
    with lock.held():
        with lock.held():
            assert not is_free(lock)
        assert not is_free(lock)
    assert is_free(lock)


def test_what_is_raised_inside_releases_it_and_comes_out_as_it_is() -> None:
    lock, error = Lock(), ValueError("mine")
    with pytest.raises(ValueError, match="mine") as raised, lock.held():
        raise error
    assert raised.value is error
    assert is_free(lock)


def test_an_interrupt_behind_its_enter_does_not_leave_it_locked() -> None:
    lock = Lock()
    held = lock.held()
    held.__enter__()
    assert not is_free(lock)
    del held  # as a `with` does whose block never began
    assert is_free(lock)


def test_what_is_on_its_way_comes_through_where_a_lock_goes() -> None:
    """The stack of a frame is emptied while the exception waits: that is where a `with` that never began lets it go."""
    lock = Lock()

    def entered() -> object:
        held = lock.held()
        held.__enter__()
        return held

    def interrupt() -> None:
        raise KeyboardInterrupt("mine")

    with pytest.raises(KeyboardInterrupt, match="mine"):
        (entered(), interrupt())
    assert is_free(lock)


def test_what_held_gives_is_for_one_with() -> None:
    lock = Lock()
    held = lock.held()
    with held:
        with pytest.raises(RuntimeError, match="is for one `with`, got a second"):
            held.__enter__()
        assert not is_free(lock)
    assert is_free(lock)
    with held:
        assert not is_free(lock)
    assert is_free(lock)


FORKS = """
import os, signal, threading, warnings
from dllm_fast._core import Lock

warnings.simplefilter("ignore")
lock, taken, done = Lock(), threading.Event(), threading.Event()

def keep():
    with lock.held():
        taken.set()
        done.wait()

threading.Thread(target=keep, daemon=True).start()
taken.wait()
own = Lock()
with own.held():
    child = os.fork()
    signal.alarm(20)
    if not child:
        with lock.held():
            pass
        with own.held():
            pass
if not child:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="no fork on this system")
def test_a_child_of_fork_does_not_wait_for_a_thread_of_its_parent() -> None:
    assert limited.run(FORKS) == (0, "7\n", "")


ALARMS = """
import random, signal, sys, threading
from dllm_fast._core import Lock

class Alarm(BaseException):
    pass

def ring(*_):
    raise Alarm

signal.signal(signal.SIGALRM, ring)
lock, heard = Lock(), 0
while heard < 500:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-4))
        while True:
            with lock.held():
                pass
    except Alarm:
        heard += 1
    got = threading.Event()
    def take():
        with lock.held():
            got.set()
    threading.Thread(target=take, daemon=True).start()
    if not got.wait(5):
        sys.exit("left locked")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms on this system")
def test_alarms_at_any_time_do_not_leave_it_locked() -> None:
    # From CPython 3.14 on, most of these leave a `with threading.RLock():` locked.
    assert limited.run(ALARMS) == (0, "", "")


def test_the_package_has_no_other_locks() -> None:
    # Between any two lines of Python a signal handler may run, or what is collected: in the thread that has the lock.
    files = Path(dllm_fast.__file__).parent.rglob("*.py")
    other = re.compile(r"threading\.(R?Lock|Condition|Semaphore)\(")
    assert [path.name for path in files if other.search(path.read_text(encoding="utf-8"))] == []
