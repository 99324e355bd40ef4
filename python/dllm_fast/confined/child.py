"""The child process: reads a question, sets the limits, does the task, answers, and waits for the next.

It is run as a file by `parent.py`. Until it knows the parent's path of imports it has the standard library alone. Questions
and answers go over one socket, whose number is its first argument. The second is a pipe on which nothing is ever sent: when
its other end closes, the parent is gone, and the kernel ends this process also in the middle of a task (SIGIO, whose default
is that). Where a process that the parent forked still holds that end, the parent's pidfd tells it between two questions.
PR_SET_PDEATHSIG would watch the thread that started this process, not the parent. Other descriptors lead nowhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
from typing import Any

HEADER = struct.Struct("<Qdd")  # length of the question, its seconds, its bytes of memory
LENGTH = struct.Struct("<Q")
SOME = 1 << 20
MOST_KEPT = 256 << 20  # bytes of memory that a child may hold between questions
DEFAULT = (signal.SIGALRM, signal.SIGIO, signal.SIGXCPU, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Answers questions until the parent is gone."""
    channel, life, parent = map(int, sys.argv[1:])
    _quiet()
    watched = _watch(channel, life, parent)
    paths = json.loads(_read(channel, LENGTH.unpack(_read(channel, LENGTH.size))[0]))
    # The standard library first: a file beside somebody's script must not take its place here.
    library = os.path.dirname(os.__file__)
    own = [path for path in sys.path if path.startswith(library) and not path.endswith("-packages")]
    sys.path[:] = dict.fromkeys([*own, *paths, *sys.path])
    # This very package, not another version that lies on the way, also where the parent found it by a hook alone.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    import dllm_fast  # noqa: F401, where its modules are found from now on

    del sys.path[0]
    from dllm_fast.confined.tasks import TASKS

    _write(channel, {"python": sys.hexversion, "limited": _limited()})
    while True:
        if any(number != channel for number, _ in watched.poll()):
            os._exit(0)
        length, seconds, memory = HEADER.unpack(_read(channel, HEADER.size))
        _limit(seconds, memory)
        try:
            question = _read(channel, length)
            name, payload = json.loads(question.decode("utf-8", "surrogatepass"))
            answer = json.dumps({"answer": TASKS[name](payload)}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        except MemoryError:
            answer = b'{"memory": true, "worn": true}'
        except BaseException as error:  # whatever a task raises, also what is no Exception
            answer = _failure(error)
        question, payload = b"", None
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _pages()[1] * resource.getpagesize() > MOST_KEPT:
            answer = answer[:-1] + b', "worn": true}'
        _send(channel, answer)


def _failure(error: BaseException) -> bytes:
    try:
        text = str(error)[:10_000]
    except Exception:
        text = ""
    return json.dumps({"error": [type(error).__name__, text]}).encode()


def _quiet() -> None:
    """Ctrl-C is the parent's, and the kernel's own signals end this process, whatever was inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 64)):
        _lower(limit, most, hard=True)
    _lower(resource.RLIMIT_STACK, 8 << 20)
    # Where memory is out, this process goes and not its parent.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _lower(limit: int, most: int, *, hard: bool = False) -> None:
    """Sets a limit, no higher than what was inherited."""
    highest = resource.getrlimit(limit)[1]
    soft = most if highest == resource.RLIM_INFINITY else min(most, highest)
    resource.setrlimit(limit, (soft, soft if hard else highest))


def _limit(seconds: float, memory: float) -> None:
    """Of the next task. The parent looks at the clock, too; this holds also when the parent is gone."""
    # Beyond what it has, which is not the task's.
    _lower(resource.RLIMIT_AS, _pages()[0] * resource.getpagesize() + int(memory))
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)


def _limited() -> bool:
    """Whether this system keeps to a limit of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (1, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        # Of the kernel itself: an allocator may have asked for much before, as that of Python without the GIL does.
        mmap.mmap(-1, 64 << 20).close()
        return False
    except OSError:
        return True
    finally:
        highest = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (highest, highest))


def _watch(channel: int, life: int, parent: int) -> select.poll:
    """What to wait on between questions. Leaves if the parent is gone already."""
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    watched = select.poll()
    watched.register(life, select.POLLIN)
    with contextlib.suppress(AttributeError, OSError):  # an old kernel, or one that forbids it: the pipe remains
        watched.register(os.pidfd_open(parent), select.POLLIN)
    if os.getppid() != parent or watched.poll(0):
        os._exit(0)
    watched.register(channel, select.POLLIN)
    return watched


def _pages() -> tuple[int, int]:
    """Pages of addresses and of memory that this process holds; zeros where they cannot be read."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return 0, 0
    try:
        size, resident, *_ = os.read(file, 200).split()
        return int(size), int(resident)
    finally:
        os.close(file)


def _read(channel: int, length: int) -> bytes:
    """So many bytes. Leaves where there are no more: the parent is gone."""
    parts: list[bytes] | None = []
    while length:
        try:
            part = os.read(channel, min(length, SOME))
            if parts is not None:
                parts.append(part)
        except OSError:
            part = b""
        except MemoryError:
            parts = None  # the rest is read all the same: the parent hears nothing before it has written all
            continue
        if not part:
            os._exit(0)
        length -= len(part)
    if parts is None:
        raise MemoryError
    return b"".join(parts)


def _write(channel: int, answer: dict[str, Any]) -> None:
    _send(channel, json.dumps(answer).encode())


def _send(channel: int, data: bytes) -> None:
    for part in (LENGTH.pack(len(data)), data):
        left = memoryview(part)
        while left:
            left = left[os.write(channel, left[:SOME]) :]


if __name__ == "__main__":
    main()
