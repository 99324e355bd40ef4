"""Children by `fork`, of a process whose threads are in the core or in torch: none inherits a lock, none waits for a thread."""

from __future__ import annotations

import os
import sys

import pytest

from tests import limited

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# 1,000 is the long form.
FORKS = int(os.environ.get("FORKS", "60"))

_COMMON = """
import os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
import numpy as np

logits = np.random.default_rng(0).normal(size=(64, 9000)).astype(np.float32)  # worth the threads

def child(work, seconds=30):
    "Whether `work` answers with true in a child by fork, in time."
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, status
            return
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise SystemExit("a child hung")

def draws():
    import dllm_fast
    return dllm_fast.mask_predict(logits, temperature=1.0, seed=1).token.tolist()

def own_threads():
    "Helpers of ours that run in this process."
    time.sleep(0.3)  # a thread names itself, when it gets a core
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    return sum(name.startswith("dllm-fast") for name in names)
"""


def run(code: str, *arguments: object, seconds: float = 120) -> str:
    """What the code prints, in a process with limits, two threads for torch."""
    around = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    ended = limited.run(_COMMON + code, *arguments, seconds=seconds, environment=around)
    assert ended.code == 0, (ended.code, ended.output[-2000:], ended.errors[-4000:])
    return ended.output.strip()


@pytest.mark.parametrize("whose", ["torch", "own"])
def test_forks_while_threads_are_in_the_core(whose: str) -> None:
    code = """
import torch, dllm_fast
from dllm_fast import _core
own = sys.argv[2] == "own"
_core.set_threads(3 if own else None)
expected = draws()
model, tokenizer = dllm_fast.demo.load()
puzzle = dllm_fast.demo.problems(1, seed=1)[0]
stop, rounds = threading.Event(), [0, 0, 0]

def predict(place):
    while not stop.is_set():
        if own:
            _core.set_threads(2 + (rounds[place] + place) % 3)
        assert draws() == expected
        rounds[place] += 1

def sample():
    while not stop.is_set():
        assert dllm_fast.demo.check(dllm_fast.infill(model, puzzle).sequences[0])
        rounds[2] += 1

threads = [threading.Thread(target=predict, args=(i,)) for i in (0, 1)] + [threading.Thread(target=sample)]
for thread in threads:
    thread.start()
try:
    for _ in range(int(sys.argv[1])):
        child(lambda: draws() == expected)
finally:
    stop.set()
    for thread in threads:
        thread.join()
assert all(rounds), rounds
print("held", rounds)
"""
    assert run(code, FORKS, whose, seconds=120 + FORKS).startswith("held")


@pytest.mark.skipif(sys.platform != "linux", reason="threads are borrowed on Linux")
def test_a_child_that_loads_the_core_first_leaves_torchs_threads_alone() -> None:
    """Torch has computed in the parent; the child imports `dllm_fast`."""
    code = """
import multiprocessing, torch
wide = torch.randn(64, 100_000)

def compute():
    torch.softmax(wide, -1)

def work():
    assert "dllm_fast" not in sys.modules
    return len(draws()) == 64

def fresh():
    "Torch makes threads of the child's, since the thread that forked had none."
    compute()
    return work()

def in_a_thread(call):
    done = []
    thread = threading.Thread(target=lambda: done.append(call()))
    thread.start()
    thread.join()
    assert done

compute()
child(work)
in_a_thread(lambda: child(work))
in_a_thread(lambda: child(fresh))
child(lambda: child(work) is None)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.apply_async(work).get(30)
assert work()
print("held")
"""
    assert run(code) == "held"


@pytest.mark.skipif(
    sys.platform != "linux" or os.cpu_count() == 1, reason="threads are borrowed on Linux, and by several cores"
)
@pytest.mark.parametrize("way", ["exec", "spawn"])
def test_a_program_of_its_own_borrows_them_again(way: str) -> None:
    """`exec` behind a fork, and `posix_spawn`, make no child in this sense."""
    program = _COMMON + "\nimport torch\ntorch.softmax(torch.randn(64, 9000), -1)\ndraws()\nprint(own_threads())\n"
    code = """
import torch
torch.softmax(torch.randn(64, 100_000), -1)
program = [sys.executable, "-c", sys.argv[1]]
if sys.argv[2] == "exec":
    pid = os.fork()
    if pid == 0:
        os.execv(sys.executable, program)
else:
    pid = os.posix_spawn(sys.executable, program, os.environ)
assert os.waitpid(pid, 0)[1] == 0
"""
    # On a busy machine now and then one gives them up.
    assert any(run(code, program, way) == "0" for _ in range(4))


def test_a_child_of_a_child_has_helpers_of_its_own() -> None:
    code = """
import dllm_fast
from dllm_fast import _core
_core.set_threads(3)
expected = draws()

def work(depth):
    # Helpers that do not pay on a busy machine are left alone for at most 16 rounds.
    right = all(draws() == expected for _ in range(18)) and own_threads() == 2
    return right and (depth == 0 or child(lambda: work(depth - 1)) is None)

child(lambda: work(3))
print("held")
"""
    assert run(code) == "held"


@pytest.mark.parametrize("whose", ["torch", "own"])
def test_a_signal_handler_may_fork_in_the_midst_of_the_core(whose: str) -> None:
    """The child goes on in the call that the handler came into, without the threads that helped there."""
    code = """
import torch, dllm_fast
from dllm_fast import _core
_core.set_threads(2 if sys.argv[1] == "own" else None)
torch.softmax(torch.randn(64, 100_000), -1)
wide = np.tile(np.random.default_rng(0).normal(size=(10, 126_464)).astype(np.float16), (60, 1))
filters = dict(temperature=1.0, top_p=0.9, top_k=50, seed=1)
expected = dllm_fast.mask_predict(wide, **filters).token.tolist()
children = []

def handler(*_):
    signal.setitimer(signal.ITIMER_REAL, 0)
    children.append(os.fork())

signal.signal(signal.SIGALRM, handler)

def call():
    children.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    code = 1
    try:
        code = 0 if dllm_fast.mask_predict(wide, **filters).token.tolist() == expected else 2
    finally:
        if children == [0]:
            os._exit(code)
    assert code == 0
    return children

for _ in range(5):
    while not call():
        pass  # it was done before the signal came
    until = time.monotonic() + 60
    while not (ended := os.waitpid(children[0], os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(children[0], signal.SIGKILL)
            raise SystemExit("a child hung")
        time.sleep(0.01)
    assert ended[1] == 0
print("held")
"""
    assert run(code, whose, seconds=400) == "held"
