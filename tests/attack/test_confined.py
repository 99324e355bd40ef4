"""The child process with limits: what it brings back, what becomes of it, and that it never stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import limited
from dllm_fast import confined
from dllm_fast.confined import parent


@pytest.fixture(autouse=True)
def no_child_stays() -> Iterator[None]:
    confined.end()
    yield
    confined.end()
    assert not parent._kept.children


def echo(payload: Any, seconds: float = 20, gigabytes: float = 1) -> Any:
    return confined.ask("echo", payload, seconds=seconds, gigabytes=gigabytes)


def pid() -> int:
    echo(None)
    child = parent._kept.child
    assert child is not None
    return child._process.pid


def is_gone(process: int, seconds: float = 10) -> bool:
    """Whether the process ends, or waits to be reaped, in this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{process}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_everything_comes_through_as_it_is() -> None:
    payload = {
        "numbers": [0, -1, 2**64, 10**4000, 1.5, -0.0, float("inf"), 1e-320],
        "texts": ["", "é", "\ud800", "\udc00\ud800", "\ud83d\ude00", "😀", "\0\x7f\u2028"],
        "others": [None, True, [], {}, [[{"": {}}]]],
    }
    answer = echo(payload)
    assert answer == payload
    assert repr(answer) == repr(payload)
    assert str(echo(float("nan"))) == "nan"
    assert echo("x" * 5_000_000) == "x" * 5_000_000, "more than the buffer of a socket holds"


def test_an_exception_of_the_task() -> None:
    with pytest.raises(confined.TaskError, match="KeyError: 'nothing'") as caught:
        confined.ask("nothing", None, seconds=20, gigabytes=1)
    assert (caught.value.kind, caught.value.text) == ("KeyError", "'nothing'")
    assert echo(1) == 1


def test_memory_and_long_answers_are_limited() -> None:
    with pytest.raises(confined.LimitError, match=r"more than 0\.1 GiB of memory") as caught:
        echo("x" * 50_000_000, gigabytes=0.1)
    assert caught.value.limit == "memory"
    with pytest.raises(confined.LimitError, match="answered with more than 64 MiB") as caught:
        echo("x" * 70_000_000)
    assert caught.value.limit == "answer"
    assert echo(1) == 1


def test_a_child_that_stops_is_ended() -> None:
    child = pid()
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(confined.LimitError, match=r"longer than 0\.3 seconds") as caught:
        echo(1, seconds=0.3)
    assert caught.value.limit == "time"
    assert is_gone(child)
    assert echo(1) == 1


def test_a_child_that_was_killed_is_replaced() -> None:
    child = pid()
    os.kill(child, signal.SIGKILL)
    assert is_gone(child)
    assert pid() != child


def test_it_is_kept() -> None:
    assert pid() == pid()


def test_threads_get_their_own_answers() -> None:
    wrong = []

    def work(index: int) -> None:
        for number in range(50):
            if echo([index, number]) != [index, number]:
                wrong.append((index, number))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(parent._kept.children) == 1


def test_it_outlives_the_thread_that_started_it() -> None:
    thread = threading.Thread(target=echo, args=(1,))
    thread.start()
    thread.join()
    child = parent._kept.child
    assert child is not None
    assert child.lives()
    assert pid() == child._process.pid


def test_an_interrupt_ends_the_question() -> None:
    """The child is stopped, so that the question waits; the handler asks, too, and then raises."""
    child = pid()
    os.kill(child, signal.SIGSTOP)
    heard = []

    def interrupt(number: int, frame: object) -> None:
        heard.append(echo("in the middle"))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            echo("first")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert heard == ["in the middle"]
    assert is_gone(child)
    assert echo("second") == "second"


def test_a_fork_starts_its_own() -> None:
    child = pid()
    reader, writer = os.pipe()
    forked = os.fork()
    if forked == 0:
        signal.alarm(60)  # whoever hangs is ended, and says nothing
        try:
            own = pid()
            os.write(writer, b"own" if own != child and echo(5) == 5 else b"the same")
            confined.end()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "own"
    os.waitpid(forked, 0)
    assert pid() == child


LEAVES = """
import os, signal, sys, threading, time
from dllm_fast import confined
from dllm_fast.confined import parent
confined.ask("echo", 1, seconds=20, gigabytes=1)
process = parent._kept.child._process.pid
if "busy" in sys.argv[1]:  # a task that ends after minutes
    threading.Thread(target=lambda: confined.ask("echo", "x" * 10_000_000, seconds=200, gigabytes=1), daemon=True).start()
    time.sleep(0.02)
print(process, flush=True)
if "forked" in sys.argv[1]:  # by a library in C: Python is not told, and the other end of the socket stays open
    libc = __import__("ctypes").CDLL(None)
    if libc.fork() == 0:
        libc.sleep(5)
        libc._exit(0)
if "kill" in sys.argv[1]:
    os.kill(os.getpid(), signal.SIGKILL)
if "exit" in sys.argv[1]:
    os._exit(3)
"""


@pytest.mark.parametrize("how", ["return", "exit", "kill", "kill busy", "exit busy", "return busy"])
def test_it_leaves_with_its_parent(how: str) -> None:
    ended = limited.run(LEAVES, how, seconds=60)
    assert ended.errors == ""
    assert is_gone(int(ended.output))


def test_a_fork_that_lives_on_does_not_keep_it() -> None:
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", LEAVES, "forked exit"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait()
        assert is_gone(child)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("sys.executable = None; sys.exec_prefix = '/nowhere'", "sys.executable must be a Python"),
        ("sys.executable = '/usr/bin/env'; sys.exec_prefix = '/nowhere'", "sys.executable must be a Python"),
        ("sys.frozen = True", "a frozen program"),
        ("import subprocess; subprocess.Popen = fails", "cannot be started: no processes"),
        ("parent.sys.hexversion += 1; sys.hexversion += 1", "another version"),
        (
            "open('python_', 'w').write('#!/bin/sh'); os.chmod('python_', 0o755); sys.executable = os.path.abspath('python_')",
            "does not start",
        ),
    ],
)
def test_where_no_child_can_be_had(change: str, reason: str, tmp_path: Any) -> None:
    code = f"""
        import os, sys
        from dllm_fast import confined
        from dllm_fast.confined import parent
        os.chdir({str(tmp_path)!r})
        def fails(*arguments, **named): raise BlockingIOError("no processes")
        {change}
        print(confined.unavailable())
    """
    ended = limited.run(code)
    assert ended.errors == ""
    assert reason in ended.output


def test_a_start_that_embeds_python_finds_the_interpreter() -> None:
    ended = limited.run(
        "import sys; sys.executable = '/usr/sbin/uwsgi'; from dllm_fast import confined; print(confined.unavailable())"
    )
    assert ended.output == "None\n"


def test_it_has_the_package_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "dllm_fast"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('another version')")
    monkeypatch.syspath_prepend(tmp_path)
    assert echo("here") == "here"


def test_odd_settings_of_the_parent_do_not_reach_it() -> None:
    """Blocked and ignored signals, closed standard streams, a pipe signal that kills, no working directory."""
    code = """
        import os, shutil, signal, sys, tempfile
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        out = os.dup(1)
        for number in (0, 1, 2):
            os.close(number)
        folder = tempfile.mkdtemp(); os.chdir(folder); shutil.rmtree(folder)
        from dllm_fast import confined
        from dllm_fast.confined import parent
        confined.ask("echo", 1, seconds=20, gigabytes=1)
        for _ in range(20):
            os.kill(parent._kept.child._process.pid, signal.SIGKILL)
            try:
                confined.ask("echo", "x" * 1000000, seconds=20, gigabytes=1)
            except confined.DiedError:
                confined.ask("echo", 1, seconds=20, gigabytes=1)
        os.write(out, b"%d" % confined.ask("echo", 7, seconds=20, gigabytes=1))
    """
    ended = limited.run(code)
    assert (ended.code, ended.output) == (0, "7")


def test_interrupts_at_any_time_leave_nothing_behind() -> None:
    code = """
        import os, random, signal, time
        from dllm_fast import confined
        def interrupt(*arguments): raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        drawn, wrong, heard, rounds = random.Random(1), 0, 0, 30
        for _ in range(rounds):
            try:
                signal.setitimer(signal.ITIMER_REAL, drawn.choice([0.001, 0.05, 0.3]) * drawn.random() + 1e-6)
                for _ in range(9):
                    number = drawn.random()
                    answer = confined.ask("echo", [number, "x" * drawn.choice([1, 300_000])], seconds=20, gigabytes=1)
                    wrong += answer[0] != number
                time.sleep(1)
            except KeyboardInterrupt:
                heard += 1
        confined.ask("echo", 1, seconds=20, gigabytes=1)
        confined.end()
        try:
            os.waitpid(-1, os.WNOHANG)
            left = "a child"
        except ChildProcessError:
            left = "none"
        print(wrong, heard == rounds, left, len(os.listdir("/proc/self/fd")) < 10)
    """
    ended = limited.run(code, seconds=120)
    assert (ended.errors, ended.output) == ("", "0 True none True\n")


def test_a_lock_that_an_interrupt_left_locked_holds_nobody_up() -> None:
    code = """
        from dllm_fast import confined
        from dllm_fast.confined import parent
        confined.ask("echo", 1, seconds=20, gigabytes=1)
        parent._kept.child._process._waitpid_lock.acquire()  # an interrupt within `Popen.poll`
        confined.end()
        print(confined.ask("echo", 2, seconds=20, gigabytes=1))
    """
    assert limited.run(code, seconds=30).output == "2\n"


def test_where_no_process_may_be_started() -> None:
    code = """
        import os, resource
        from dllm_fast import confined
        from dllm_fast.text import chat, strict
        if os.getuid() == 0:  # whom no number of processes binds
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        print(confined.unavailable())
        print(chat.ChatTemplate("{{ messages[0].role | upper }}", "it").render([{"role": "user", "content": ""}], {}))
    """
    ended = limited.run(code)
    assert ended.errors == ""
    assert ended.output.startswith("a child process cannot be started: ")
    assert ended.output.endswith("\nUSER\n")
