"""Whatever runs in the middle of a call may call the same sampler: it gets an answer or an error, and nobody waits for ever.

Python runs in many places: when arguments are converted (`__array__`, `__iter__`, `__index__`, `__float__`), when objects
are made (the garbage collector, `__del__`, weak references), between them (signals, profilers, other threads).
"""

from __future__ import annotations

import textwrap

from tests import limited

SETUP = """
import contextlib, faulthandler, gc, os, signal, sys, threading, time, warnings, weakref
import numpy as np
from dllm_fast import DllmFastError, Sampler, SamplerConfig, _core, mask_predict

# Python 3.12 and later warn of every fork beside a thread, which is what is tried here.
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
MASK = 9
config = SamplerConfig(mask_token_id=MASK, threshold=0.5)
canvases = [np.array([1, MASK, MASK, MASK]), np.array([MASK, MASK])]
logits = np.random.default_rng(0).normal(0, 1, (5, 10)).astype(np.float32)
ROWS = np.array([0, 1])

def made():
    sampler = Sampler(config, canvases, seed=3)
    sampler.next()
    return sampler

def reading(sampler):
    return [sampler.next, lambda: sampler.sites(ROWS), lambda: sampler.pace(ROWS), lambda: sampler.predict(logits),
            lambda: sampler.canvases, lambda: sampler.trajectory, lambda: sampler.nfe_per_row, lambda: sampler.stable(ROWS),
            lambda: sampler.edits(ROWS, ROWS), lambda: sampler.is_done(0), lambda: sampler.config(0)]

def state(sampler):
    return [c.tolist() for c in sampler.canvases], sampler.nfe_per_row, sampler.trajectory

def methods(sampler, wrap=lambda value: value):
    "Every method, its arguments wrapped."
    rows, index = wrap([0, 1]), wrap([0, 1, 2, 3, 4])
    return {
        "new": lambda: Sampler(config, wrap([wrap(c.tolist()) for c in canvases]), seed=wrap([1, 2]), request=wrap([0, 1])),
        "next": sampler.next,
        "sites": lambda: sampler.sites(rows),
        "pace": lambda: sampler.pace(rows),
        "predict": lambda: sampler.predict(logits, rows=rows, index=index),
        "feed logits": lambda: sampler.feed(logits, rows=rows, index=index),
        "feed a prediction": lambda: sampler.feed(prediction=sampler.predict(logits), rows=rows),
        "feed tokens": lambda: sampler.feed(tokens=wrap([1] * 5), scores=wrap([0.5] * 5), rows=rows),
        "canvases": lambda: sampler.canvases,
        "trajectory": lambda: sampler.trajectory,
        "nfe_per_row": lambda: sampler.nfe_per_row,
        "mask_predict": lambda: mask_predict(logits, seed=wrap([1, 2, 3, 4, 5]), positions=index),
        "batch": lambda: sampler.next().batch(wrap([0, 0]), wrap([4, 2])),
        "add": lambda: sampler.add(wrap([1, MASK]), config, seed=wrap([5])[0], block_start=wrap([1])[0]),
        "cancel": lambda: sampler.cancel(wrap([1])[0]),
        "is_done": lambda: sampler.is_done(wrap([1])[0]),
        "config": lambda: sampler.config(wrap([1])[0]),
        "stable": lambda: sampler.stable(rows),
        "edits": lambda: sampler.edits(rows, wrap([0, 1])),
        "with_canvases": lambda: sampler.next().with_canvases(wrap([wrap(c.tolist()) for c in canvases])),
        "edit": lambda: _core.Edit(step=0, position=0, token=wrap([1]), probability=0.5, kind="commit"),
    }

calls, refused = 0, 0

def call_back(sampler, busy=[]):
    "Calls every method that changes nothing, and is not called from itself."
    global calls, refused
    if busy:
        return
    busy.append(1)
    try:
        for method in reading(sampler):
            try:
                method()
                calls += 1
            except DllmFastError as error:  # or there is no request just now
                refused += "one call at a time" in str(error)
    finally:
        busy.clear()
"""


def run(code: str, **limits: float) -> str:
    """The output of a child that must end well."""
    ended = limited.run(SETUP + textwrap.dedent(code), **limits)
    assert (ended.code, ended.errors) == (0, ""), ended
    return ended.output


def test_arguments_that_call_back() -> None:
    output = run("""
    class Odd(list):
        "A list, or something like it, that calls the sampler whenever somebody looks at it."
        sampler, asked = None, ()
        def __getattribute__(self, name):
            if name in type(self).asked:
                call_back(type(self).sampler)
            return super().__getattribute__(name)
        def __iter__(self):
            call_back(type(self).sampler)
            return super().__iter__()
        def __len__(self):
            call_back(type(self).sampler)
            return super().__len__()
        def __getitem__(self, i):
            call_back(type(self).sampler)
            return super().__getitem__(i)
        def __eq__(self, other):
            call_back(type(self).sampler)
            return super().__eq__(other)
        __hash__ = None

    class Array(Odd):
        def __array__(self, dtype=None, copy=None):
            call_back(type(self).sampler)
            return np.array(list.copy(self), dtype)

    class Number:
        "Stands for a number wherever one may stand."
        sampler = None
        def __init__(self, value):
            self.value = value
        def __index__(self):
            call_back(type(self).sampler)
            return int(self.value)
        def __float__(self):
            call_back(type(self).sampler)
            return float(self.value)

    def numbers(value):
        return [x if isinstance(x, list) else Number(x) for x in value] if isinstance(value, list) else value

    for kind, wrap in (("list", Odd), ("array", Array), ("number", numbers)):
        for name in methods(made()):
            sampler = made()
            plain, before = made(), calls
            Odd.sampler = Number.sampler = Array.sampler = sampler
            Odd.asked = Array.asked = ("dtype", "__array_interface__", "__class__")
            with contextlib.suppress(DllmFastError, TypeError):
                methods(sampler, wrap)[name]()
                with contextlib.suppress(DllmFastError, TypeError):
                    methods(plain)[name]()
                assert state(sampler) == state(plain), (kind, name)
    print(calls > 500, refused)
    """)
    assert output == "True 0\n"


def test_collectors_and_profilers_that_call_back() -> None:
    output = run("""
    class Dying:
        def __init__(self, sampler):
            self.sampler, self.me = sampler, self
        def __del__(self):
            call_back(self.sampler)

    class Plain:
        pass

    @contextlib.contextmanager
    def dying(sampler):
        gc.set_threshold(1)
        for _ in range(50):
            Dying(sampler)
        yield
        gc.set_threshold(700)

    @contextlib.contextmanager
    def collected(sampler):
        told = lambda phase, info: call_back(sampler)
        gc.callbacks.append(told)
        gc.set_threshold(1)
        yield
        gc.set_threshold(700)
        gc.callbacks.remove(told)

    @contextlib.contextmanager
    def weak(sampler):
        gc.set_threshold(1)
        kept = []
        for _ in range(50):
            plain = Plain()
            plain.me = plain
            kept.append(weakref.ref(plain, lambda _: call_back(sampler)))
            del plain
        yield
        gc.set_threshold(700)

    @contextlib.contextmanager
    def profiled(sampler):
        sys.setprofile(lambda *_: call_back(sampler))
        yield
        sys.setprofile(None)

    @contextlib.contextmanager
    def traced(sampler):
        def trace(*_):
            call_back(sampler)
            return trace
        sys.settrace(trace)
        yield
        sys.settrace(None)

    for way in (dying, collected, weak, profiled, traced):
        before = calls
        for name in methods(made()):
            sampler, plain = made(), made()
            with way(sampler):
                with contextlib.suppress(DllmFastError, TypeError):
                    methods(sampler)[name]()
            with contextlib.suppress(DllmFastError, TypeError):
                methods(plain)[name]()
            assert state(sampler) == state(plain), (way.__name__, name)
        # Without the GIL the collector comes when it likes.
        assert calls > before + 50 or not getattr(sys, '_is_gil_enabled', lambda: True)(), way
    print(refused)
    """)
    assert output == "0\n"


def test_an_answer_that_comes_from_elsewhere_meanwhile() -> None:
    output = run("""
    class Feeding(list):
        "Answers the request itself while its logits are looked for."
        def __array__(self, dtype=None, copy=None):
            sampler.feed(logits)
            return np.arange(5)

    for call in (lambda index: sampler.feed(logits, index=index), lambda index: sampler.predict(logits, index=index)):
        sampler, plain = made(), made()
        plain.feed(logits)
        try:
            call(Feeding())
        except DllmFastError as error:
            print("; " in str(error))
        assert state(sampler) == state(plain)
    """)
    assert output == "True\nTrue\n"


def test_signal_handlers_that_call_back() -> None:
    output = run(
        """
    wide = SamplerConfig(mask_token_id=0, threshold=0.5)
    large = Sampler(wide, [np.zeros(250_000, np.int64)] * 6)
    leaving = 99  # there is no such row at first
    expected = Sampler(wide, [np.zeros(250_000, np.int64)] * 6)
    n = 6 * 250_000
    tokens, scores = np.ones(n, np.int64), np.random.default_rng(0).random(n)
    seen = set()

    def handler(*_, busy=[]):
        if busy:
            return
        busy.append(1)
        others = large.next, lambda: large.nfe_per_row, lambda: large.feed(tokens=[1], scores=[0.5], rows=[99])
        for method in (*others, lambda: large.cancel(leaving)):
            try:
                method()
                seen.add("answered")
            except DllmFastError as error:
                seen.add(str(error))
        busy.clear()

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    large.next()
    large.feed(tokens=tokens, scores=scores)
    expected.next()
    expected.feed(tokens=tokens, scores=scores)
    assert np.array_equal(large.canvases, expected.canvases)
    mask_predict(np.zeros((30, 10**6), np.float16), temperature=1.0, top_p=0.5)
    sampler = Sampler(wide, [np.zeros(30, np.int64)])
    sampler.next()
    large = sampler  # read by its own handler in the middle of a prediction
    sampler.predict(np.zeros((30, 10**6), np.float32))
    signal.setitimer(signal.ITIMER_REAL, 0)
    large, leaving = Sampler(wide, [np.zeros(400, np.int64), [0]]), 0
    large.next()
    logits, index = np.zeros((1, 10**6), np.float32), np.zeros(401, np.int64)
    signal.setitimer(signal.ITIMER_REAL, 0.02)  # the handler cancels a row while its logits are read
    for _ in range(2):
        try:
            large.feed(logits, index=index)
        except DllmFastError as error:
            seen.add(str(error))
    assert not np.concatenate(large.canvases).any()
    print(*sorted(seen), sep="\\n")
    """,
        seconds=120,
    )
    lines = output.splitlines()
    assert "answered" in lines, output
    assert any(line.startswith("a sampler does one call at a time, got a call from a signal handler") for line in lines), output
    assert any("got row 0, which was cancelled while these logits were read; feed those" in line for line in lines), output
    assert any("got 401 for 1, row 0 being cancelled; keep the order" in line for line in lines), output


def test_many_threads_at_one_sampler() -> None:
    output = run("""
    sys.setswitchinterval(1e-5)
    sampler, plain, failed = made(), made(), []

    def work():
        try:
            for _ in range(300):
                for name, method in methods(sampler).items():
                    if "feed" not in name and name not in ("edit", "add", "cancel"):
                        method()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(failed, state(sampler) == state(plain))
    for _ in range(100):
        # One answer is taken; the others come out of turn.
        sampler, taken = made(), []
        def feed():
            try:
                sampler.feed(logits)
                taken.append(1)
            except DllmFastError:
                pass
        threads = [threading.Thread(target=feed) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert len(taken) == 1, taken
    """)
    assert output == "[] True\n"


def test_rows_come_and_are_cancelled_from_other_threads() -> None:
    """One thread answers; others bring rows and take some away. Who stays writes what it writes alone."""
    output = run("""
    sys.setswitchinterval(1e-5)

    def serve():
        while any(thread.is_alive() for thread in threads) or not all(map(sampler.is_done, came)):
            request = sampler.next()
            if request is None:
                time.sleep(0.001)
                continue
            for row, canvas, positions in zip(request.rows, request.canvases, request.positions, strict=True):
                try:
                    sampler.feed(tokens=[int(canvas[0])] * len(positions), scores=[1] * len(positions), rows=[row])
                except DllmFastError as error:
                    assert "it was cancelled; leave it out" in str(error), error

    def come_and_go(number):
        try:
            for i in range(200):
                row = sampler.add([number, *[MASK] * 5], config if i % 2 else other, block_start=1)
                came[row] = number
                if i % 3 == 0:
                    time.sleep(0.0001)
                    was_done = sampler.is_done(row)
                    sampler.cancel(row)
                    gone[row] = sampler.edits([row], [0])[0]
                    assert sampler.is_done(row) and (not was_done or len(gone[row]) == 5)
        except BaseException as error:
            failed.append(error)

    other = SamplerConfig(mask_token_id=MASK, block_length=2)
    sampler, came, gone, failed = Sampler(config, [], max_rows=5), {}, {}, []
    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(1, 5)]
    [t.start() for t in threads]
    serve()
    canvases = sampler.canvases
    assert sorted(came) == list(range(800)) == list(range(len(canvases)))
    for row, number in came.items():
        edits = sampler.edits([row], [0])[0]
        assert edits == gone.get(row, edits), "nothing is written behind a cancel"
        assert {edit.token for edit in edits} <= {number}
        assert row in gone or canvases[row].tolist() == [number] * 6
    print(failed)
    """)
    assert output == "[]\n"


def test_a_child_of_fork_is_told_that_a_call_is_under_way() -> None:
    output = run("""
    wide = SamplerConfig(mask_token_id=0, threshold=0.5)
    sampler = Sampler(wide, [np.zeros(250_000, np.int64)] * 12)
    sampler.next()
    n = 12 * 250_000
    tokens, scores = np.ones(n, np.int64), np.random.default_rng(0).random(n)
    thread = threading.Thread(target=lambda: sampler.feed(tokens=tokens, scores=scores))
    thread.start()
    told = set()
    while thread.is_alive():
        child = os.fork()
        if not child:
            try:
                sampler.nfe_per_row
                os._exit(0)
            except DllmFastError:
                os._exit(7)
        told.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        time.sleep(0.02)
    print(7 in told, told <= {0, 7})
    """)
    assert output == "True True\n"
