"""Ctrl-C is heard within 0.3 s in every loop of the core, and what was interrupted is as if it had not been called.

A signal comes every 10 ms. A loop that looks for signals lets the handler run again and again, so the longest time of the
calling thread's processor between two of its runs says how long somebody would wait, also on a busy machine.
"""

from __future__ import annotations

import os
import textwrap

import pytest

from tests import limited

#: Seconds that a signal may wait.
PROMISE = 0.3

SETUP = """
import itertools, os, signal, sys, threading, time
import numpy as np
import dllm_fast
from dllm_fast import Sampler, SamplerConfig, _core, demo, mask_predict

def beats(work):
    "The longest time between two runs of the handler, and the time of the whole."
    at = [time.thread_time()]
    signal.signal(signal.SIGALRM, lambda *_: at.append(time.thread_time()))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        kept = work()  # to let go of it is Python's part
        at.append(time.thread_time())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return max(b - a for a, b in itertools.pairwise(at)), at[-1] - at[0]

# Memory that nobody writes costs nothing, so rows can be many and wide.
half = lambda *shape: np.zeros(shape, np.float16)
filters = dict(temperature=0.7, top_k=500_000, top_p=0.9, min_p=0.01, softcap=30.0)
"""

#: What is called, and how often: each lasts long enough to tell.
LOOPS = {
    "rows": "mask_predict(half(80, 10**6), **filters)",
    "one wide row": "mask_predict(half(1, 10**9), softcap=30.0)",
    "float32": "mask_predict(np.zeros((1500, 10**6), np.float32), temperature=0.7)",
    "a nucleus": "mask_predict(half(40, 10**6), temperature=1.0, top_p=0.5)",
    "a crowded bin": "mask_predict(crowd, temperature=1.0, top_k=10**6, top_p=0.3)",
    "predict": "big.predict(half(40, 10**6))",
    "feed logits": "big.feed(half(40, 10**6))",
    "feed scores": "many.feed(tokens=tokens, scores=scores)",
    "next": "[Sampler(config, [row] * 700).next() for _ in range(2)]",
    "a list": "[Sampler(config, [ids]) for _ in range(12)]",
    "many seeds": "Sampler(config, [[1]] * 300_000, seed=[0] * 300_000)",
    "canvases": "[many.canvases for _ in range(20)] + [short.canvases for _ in range(4)]",
    "trajectory": "done.trajectory",
    "request": "[asked.canvases for _ in range(3)] + [asked.positions for _ in range(3)]",
    "puzzles": "demo.problems(3000)",
    "hard puzzles": "demo.problems(40, givens=(22, 22))",
}

#: Those that are quick to prepare; `ATTACK_LOOPS=all` tries every one.
EVERY = os.environ.get("ATTACK_LOOPS") == "all"
QUICK = ["rows", "one wide row", "a crowded bin", "next", "many seeds", "puzzles"]

BEATS = """
config = SamplerConfig(mask_token_id=0, threshold=0.5)
wide = SamplerConfig(mask_token_id=10**6 - 1, **{k: v for k, v in filters.items() if k != "softcap"})
rng = np.random.default_rng(0)
row = np.zeros(50_000, np.int64)

def given(name):
    if name == "a crowded bin":
        return dict(crowd=1 + 1e-3 * rng.random((1, 10**7), np.float32))
    if name == "a list":
        return dict(ids=np.ones(10**7, np.int64))  # NumPy's own copy of more takes longer than we may
    if name in ("predict", "feed logits"):
        big = Sampler(wide, [np.full(40, 10**6 - 1)])
        big.next()
        return dict(big=big)
    if name in ("feed scores", "canvases"):
        many = Sampler(config, [np.zeros(3 * 10**5, np.int64)] * 20)
        many.next()
        n = 6 * 10**6
        short = Sampler(config, [row[:4]] * 200_000)
        return dict(many=many, short=short, tokens=np.ones(n, np.int64), scores=rng.random(n))
    if name == "trajectory":
        done = Sampler(config, [row] * 60)
        done.next()
        done.feed(tokens=np.ones(3 * 10**6, np.int64), scores=np.ones(3 * 10**6))
        return dict(done=done)
    if name == "request":
        return dict(asked=Sampler(config, [row[:4]] * 300_000).next())
    return {}

threads = int(sys.argv[1])
_core.set_threads(threads or None)
for name, call in zip(sys.argv[2::2], sys.argv[3::2]):
    values = given(name)
    longest, whole = beats(lambda: eval(call, globals() | values))
    print(name, longest, whole, sep=";", flush=True)
"""


def check(threads: int, names: list[str]) -> None:
    """Prints and holds what each loop made a signal wait."""
    calls = [word for name in names for word in (name, LOOPS[name])]
    ended = limited.run(SETUP + BEATS, threads, *calls, seconds=150, gigabytes=8)
    assert ended.code == 0, ended
    told = {name: (float(longest), float(whole)) for name, longest, whole in (x.split(";") for x in ended.output.splitlines())}
    print(told)
    assert list(told) == names
    for name, (longest, whole) in told.items():
        assert whole > 1.5 * PROMISE, f"{name} is over in {whole:.2f} s and tells nothing"
        assert longest < PROMISE, f"{name} makes a signal wait for {longest:.2f} s"


@pytest.mark.parametrize("call", ["mask_predict(half(3000, 10**6), **filters)", "demo.problems(200_000)"])
def test_ctrl_c_ends_it(call: str) -> None:
    code = f"""
    begun, sent = time.perf_counter(), []
    def press():
        time.sleep(0.3)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=press, daemon=True).start()
    try:
        {call}
    except KeyboardInterrupt:
        print(time.perf_counter() - sent[0])
    """
    ended = limited.run(SETUP + textwrap.dedent(code), seconds=60)
    assert ended.code == 0, ended
    # Each would last for more than a minute.
    assert float(ended.output) < 3, ended


def test_what_a_handler_raises_comes_out_as_it_is() -> None:
    code = """
    class Mine(BaseException):
        pass
    mine = Mine()
    def handler(*_):
        raise mine
    signal.signal(signal.SIGALRM, handler)
    for call in (lambda: mask_predict(half(300, 10**6), **filters), lambda: demo.problems(200_000)):
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            call()
        except Mine as error:
            assert error is mine
            print("out")
    # Handlers run in the main thread alone: elsewhere nothing is interrupted.
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    done = []
    worker = threading.Thread(target=lambda: done.append(len(mask_predict(half(20, 10**6), **filters))))
    worker.start()
    while not done:
        try:
            time.sleep(0.01)
        except Mine:
            print("here")
    print(done)
    """
    ended = limited.run(SETUP + textwrap.dedent(code), seconds=60)
    assert ended == (0, "out\nout\nhere\n[20]\n", ""), ended


def test_an_interrupted_run_goes_on_as_if_nothing_had_been() -> None:
    code = """
    config = SamplerConfig(mask_token_id=0, threshold=0.9, temperature=0.5)
    canvases = [np.zeros(n, np.int64) for n in (200_000, 1, 150_000, 70_000)]
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (1, 5_000_000)).astype(np.float32)

    def state(sampler):
        return [hash(c.tobytes()) for c in sampler.canvases], sampler.nfe_per_row

    def run(call):
        "Three steps of scores, one of logits for a small row."
        sampler, draw = call(lambda: Sampler(config, canvases)), np.random.default_rng(1)
        for _ in range(3):
            request = call(sampler.next)
            again = call(sampler.next)
            assert [p.tobytes() for p in request.positions] == [p.tobytes() for p in again.positions]
            n = sum(map(len, request.positions))
            tokens, scores = draw.integers(1, 100, n), draw.random(n)
            call(lambda: sampler.feed(tokens=tokens, scores=scores), sampler)
        small = call(lambda: Sampler(config, [np.zeros(3, np.int64)], seed=4))
        small.next()
        index = np.zeros(3, np.int64)
        told = call(lambda: small.predict(logits, index=index), small)
        call(lambda: small.feed(logits, index=index), small)
        return state(sampler), state(small), told.token.tolist(), told.entropy.tolist()

    whole = run(lambda work, sampler=None: work())
    interrupts = 0

    def often(work, sampler=None):
        "The answer at last, after interrupts that come later and later."
        global interrupts
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        before = sampler and state(sampler)
        for after in itertools.count(1):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 * 1.2**after)
                answer = work()
                signal.setitimer(signal.ITIMER_REAL, 0)
                return answer
            except KeyboardInterrupt:
                interrupts += 1
                if sampler and state(sampler) != before:
                    return None  # it was done when the signal came
        raise AssertionError

    assert run(often) == whole
    print(interrupts)
    """
    ended = limited.run(SETUP + textwrap.dedent(code), seconds=120)
    assert ended.code == 0, ended
    assert int(ended.output) > 5, ended


def test_loops_hear_signals() -> None:
    check(1, list(LOOPS) if EVERY else QUICK)


@pytest.mark.parametrize("threads", [0, 2] if EVERY else [2])
def test_rows_spread_over_threads_hear_them_too(threads: int) -> None:
    check(threads, ["rows"])
