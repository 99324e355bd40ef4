"""The parent's side: starts the child, asks it, ends it, and starts another one where it died.

One child is kept for each process; a process that was forked from this one starts its own. One question is asked at a time.
Whatever interrupts a question ends the child, so that no answer can be taken for that of another question.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dllm_fast._core import Lock
from dllm_fast.confined.errors import DiedError, LimitError, TaskError, UnavailableError

if os.name == "posix":  # elsewhere `_program` refuses before anything else is needed
    import fcntl

    from dllm_fast.confined.child import HEADER, LENGTH, SOME

START_SECONDS = 60  # a busy machine is slow to start a process
MOST_ANSWER = 64 << 20  # bytes

# What the child sees of the environment: where libraries lie, and the time zone.
_KEPT = ("LD_LIBRARY_PATH", "TZ")
# The allocators must not take addresses that nobody has asked for: those of the C library, and of Python without the GIL.
_SET = {
    "LC_CTYPE": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",
    "MIMALLOC_ARENA_RESERVE": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class _Kept:
    """What this process has: a child, and the lock of those who ask."""

    def __init__(self) -> None:
        self.lock = Lock()  # a handler may ask just before there is an owner, or just after
        self.owner: int | None = None
        self.child: _Child | None = None
        self.children: set[_Child] = set()
        self.pid = os.getpid()
        self.refused: str | None = None  # why no child can be had, where that will not change


def ask(task: str, payload: Any, *, seconds: float, gigabytes: float) -> Any:
    """What a task of the child process makes of plain data.

    Args:
        task: its name in `tasks.py`.
        payload: None, bools, numbers, strings, lists, and mappings with strings as names.
        seconds: of wall time for the task; a wait for other threads' questions does not count.
        gigabytes: of address space for the task, beyond what the child has.

    Raises:
        LimitError: time, memory or the length of the answer ran out.
        DiedError: the child crashed.
        TaskError: the task raised an exception.
        UnavailableError: no child can be had.
        ValueError: the payload is no plain data.
    """
    data = json.dumps([task, payload], ensure_ascii=False).encode("utf-8", "surrogatepass")
    kept = _here()
    if kept.owner == threading.get_ident():  # a handler of a signal, or a finalizer, in the middle of a question
        child = _started(kept)
        try:
            return child.ask(data, seconds, gigabytes)
        finally:
            child.end()
    with kept.lock.held():
        kept.owner = threading.get_ident()
        try:
            if kept.child is None or not kept.child.lives():
                kept.child = None
                _end_all(kept)  # what interrupts left behind
                kept.child = _started(kept)
            return kept.child.ask(data, seconds, gigabytes)
        finally:
            kept.owner = None


def unavailable() -> str | None:
    """Why no child can be had here, or None where one can be; starts it if there is none."""
    try:
        ask("echo", None, seconds=START_SECONDS, gigabytes=1)
    except UnavailableError as error:
        return str(error)
    return None


def end() -> None:
    """Ends the children of this process, if there are any. The next question starts another."""
    _end_all(_here())


def _end_all(kept: _Kept) -> None:
    for child in tuple(kept.children):
        child.end()


def _started(kept: _Kept) -> _Child:
    """A child, started by a thread, which no signal interrupts in the middle."""
    made: list[_Child | BaseException] = []

    def start() -> None:
        try:
            made.append(_Child(kept))
        except BaseException as error:
            made.append(error)
        finally:
            done.release()

    # `Thread.start` and `join` make another exception of an interrupt at the wrong time; a bare lock, which only this call and
    # its thread know, does not.
    done = _thread.allocate_lock()
    done.acquire()
    try:
        _thread.start_new_thread(start, ())
    except RuntimeError as error:
        raise UnavailableError(f"a child process cannot be started: {error}") from error
    done.acquire()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


class _Child:
    def __init__(self, kept: _Kept) -> None:
        if kept.refused is not None:
            raise UnavailableError(kept.refused)
        self._kept = kept
        try:
            program = _program()
        except UnavailableError as error:
            kept.refused = str(error)
            raise
        self._socket, theirs = socket.socketpair()
        life, self._life = os.pipe()
        # Above those of the standard streams, which are free where this process has none, and are laid over in the child.
        passed = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3) for number in (theirs.fileno(), life)]
        theirs.close()
        os.close(life)
        file = Path(__file__).with_name("child.py")
        try:
            self._process = subprocess.Popen(
                [program, "-I", "-B", str(file), *map(str, passed), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=passed,
                cwd="/",
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | _SET,
                start_new_session=True,
            )
        except BaseException as error:
            self._close()
            if isinstance(error, OSError | subprocess.SubprocessError):
                raise UnavailableError(f"a child process cannot be started: {error}") from error
            raise
        finally:
            for number in passed:
                os.close(number)
        kept.children.add(self)
        self._socket.setblocking(False)
        try:
            self._greet()
        except BaseException:
            self.end()
            raise

    def _greet(self) -> None:
        """Tells the child where modules are found, and hears whether it can limit itself."""
        data = json.dumps(_paths()).encode()
        try:
            answer = self._exchange(LENGTH.pack(len(data)) + data, START_SECONDS)
        except LimitError as error:
            raise UnavailableError(f"a child process did not start within {START_SECONDS} seconds") from error
        except DiedError as error:
            raise UnavailableError(f"a child process does not start: {error}") from error
        if answer["python"] != sys.hexversion:
            self._kept.refused = "the program that runs Python has another version than this process"
        elif not answer["limited"]:
            self._kept.refused = "this system does not limit the memory of a process (RLIMIT_AS)"
        if self._kept.refused is not None:
            raise UnavailableError(self._kept.refused)

    def lives(self) -> bool:
        if self._status(0) is None:
            return True
        self.end()
        return False

    def ask(self, data: bytes, seconds: float, gigabytes: float) -> Any:
        try:
            answer = self._exchange(HEADER.pack(len(data), seconds, gigabytes * 2**30) + data, seconds)
        except BaseException:
            self.end()
            raise
        if answer.get("worn"):
            self.end()
        if "memory" in answer:
            raise LimitError(f"it took more than {gigabytes:g} GiB of memory", "memory")
        if "error" in answer:
            raise TaskError(*answer["error"])
        return answer["answer"]

    def _exchange(self, data: bytes, seconds: float) -> dict[str, Any]:
        """Sends, and receives one message. Both never wait longer than the time that is left."""
        deadline = time.monotonic() + seconds
        left = memoryview(data)
        got, length = bytearray(), LENGTH.size
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN | select.POLLOUT)
        while len(got) < length:
            rest = deadline - time.monotonic()
            if rest <= 0 or not waiting.poll(rest * 1000 + 1):
                raise LimitError(f"it took longer than {seconds:g} seconds", "time")
            try:
                if left:
                    left = left[self._socket.send(left[:SOME], _NO_SIGNAL) :]
                    if not left:
                        waiting.modify(self._socket, select.POLLIN)
                    continue
                part = self._socket.recv(SOME)
            except BlockingIOError:
                continue
            except OSError:
                part = b""
            if not part:
                raise DiedError(self._end_text())
            got += part
            if length == LENGTH.size and len(got) >= length:
                length += LENGTH.unpack_from(got)[0]
                if length > MOST_ANSWER:
                    raise LimitError(f"it answered with more than {MOST_ANSWER >> 20} MiB", "answer")
        answer: dict[str, Any] = json.loads(got[LENGTH.size :].decode("utf-8", "surrogatepass"))
        return answer

    def _end_text(self) -> str:
        """How the child ended, which has closed its end of the socket."""
        code = self._status(5)
        if code is None:
            return "its process closed the connection"
        return f"its process ended by signal {-code}" if code < 0 else f"its process ended with status {code}"

    def _status(self, seconds: float) -> int | None:
        """How the process ended, or None where it does not in this time.

        `Popen.poll` and `wait` take a lock that an interrupt can leave locked, for good.
        """
        deadline = time.monotonic() + seconds
        while self._process.returncode is None:
            try:
                number, status = os.waitpid(self._process.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                number, status = self._process.pid, 0
            if number:
                self._process.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.001)
        return self._process.returncode

    def end(self) -> None:
        """Ends the process, if it lives, and leaves nothing behind; where it is interrupted, it will be called again."""
        if self._kept.child is self:
            self._kept.child = None
        if self._status(0) is None:
            with contextlib.suppress(ProcessLookupError):  # somebody else has just waited for it
                os.kill(self._process.pid, signal.SIGKILL)
            self._status(math.inf)
        self._close()
        self._kept.children.discard(self)

    def _close(self) -> None:
        self._socket.close()
        life, self._life = self._life, -1
        if life >= 0:
            os.close(life)

    def forget(self) -> None:
        """In a process that was forked: the child is another's."""
        self._close()
        self._process.returncode = 0  # else its finalizer would warn, and wait for it


_NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)


def _program() -> str:
    """The interpreter to start, which need not be what runs this process."""
    if os.name != "posix":
        raise UnavailableError("processes have no limits of memory on this system")
    if getattr(sys, "frozen", False):
        raise UnavailableError("a frozen program has no Python to start")
    if not Path(__file__).with_name("child.py").is_file():
        raise UnavailableError("the package is not in a folder")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, os.path.join(sys.exec_prefix, "bin", version)):
        # Starting what is not Python could do anything: an application that embeds it would start itself.
        if path and os.path.basename(path).lower().startswith(("python", "pypy")) and os.access(path, os.X_OK):
            return path
    raise UnavailableError(f"sys.executable must be a Python to start, got {sys.executable!r}")


def _paths() -> list[str]:
    """Where this process finds modules: what it was started with is not what the child is."""
    paths = []
    for path in sys.path:
        with contextlib.suppress(OSError, TypeError):  # the folder that it works in was removed
            paths.append(os.path.abspath(os.fsdecode(path)))
    return paths


_kept = _Kept()


def _here() -> _Kept:
    """What belongs to this process, also after a fork that Python was not told of."""
    if _kept.pid != os.getpid():
        _forget()
    return _kept


def _forget() -> None:
    global _kept  # noqa: PLW0603, a process that was forked begins anew
    for child in _kept.children:
        child.forget()
    _kept = _Kept()


def _leave() -> None:
    """At the end of this process. Where a daemon thread still asks, it has nobody to tell, and the child ends by itself."""
    kept = _here()
    if kept.owner in (None, threading.get_ident()):
        _end_all(kept)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_leave)
