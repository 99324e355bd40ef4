"""Runs checks, each in a process of its own, several at a time, within a budget. Knows neither CUDA nor torch.

A CUDA error stays with its process for good, and a kernel that hangs never comes back. So a check that dies or hangs loses
itself alone: it is killed at its limit, and what it had printed is kept. What a check has found is a file that it writes at
its end; a check that ends well without one, or that launched no kernel, has not held.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_POLL_S = 0.05
# Of what is printed at the end: a few words of each that failed, all of which are in the log.
_LAST_LINES, _LAST_CHARACTERS, _WHY_CHARACTERS = 12, 1000, 300
# Of what a check prints: the beginning and the end, so much of each. What is larger in all may not come back from there.
_HALF_LOG_BYTES = 256 * 1024
# A process that waits for a device which does not answer is not gone with its SIGKILL.
_GONE_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: of it.
        does: the function that checks, `module:function`.
        limit_s: seconds after which it is killed.
        is_first: runs alone before the others, which are not begun unless it holds.
    """

    name: str
    does: str
    limit_s: float
    is_first: bool = False


@dataclass(slots=True)
class Outcome:
    """How a check ended.

    Attributes:
        status: "held", or what went wrong.
        why: in a line.
        seconds: that it took.
        launched: kernels by name, and how often.
        found: what it tells.
    """

    status: str
    why: str = ""
    seconds: float = 0.0
    launched: dict[str, int] = field(default_factory=dict)
    found: Json = field(default_factory=dict)

    @property
    def has_held(self) -> bool:
        return self.status == "held"


@dataclass(slots=True)
class _Running:
    check: Check
    process: subprocess.Popen[bytes]
    began: float
    log: Path
    record: Path


# Makes the command of a check: the check, and the file that it writes its record to.
Command = Callable[[Check, Path], Sequence[str]]


class Driver:
    """Runs checks and writes first.json and first.log into a folder after each.

    Args:
        checks: in the order in which they begin.
        command: of a check.
        out: folder of the results.
        budget_s: seconds, in all; nothing runs longer.
        width: so many at a time.
        environment: of the checks.
        facts: what else belongs into the results.
        is_whole: these are all checks, so every kernel must be launched by one of them.

    Attributes:
        outcomes: of the checks, by name.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        *,
        command: Command,
        out: Path,
        budget_s: float,
        width: int,
        environment: Mapping[str, str],
        facts: Json,
        is_whole: bool,
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._checks, self._command, self._environment = checks, command, environment
        self._out, self._width, self._facts, self._is_whole = out, width, facts, is_whole
        self._began = time.perf_counter()
        self._budget_s = budget_s
        self._logs: dict[str, str] = {}
        self._running: list[_Running] = []
        self._not_written: OSError | None = None

    def run(self) -> bool:
        """True if every check ran and held, and, of all checks, every kernel was launched by one."""
        self._out.mkdir(parents=True, exist_ok=True)
        first = [check for check in self._checks if check.is_first]
        with tempfile.TemporaryDirectory(prefix="checks-") as folder, _stopped_gently():
            try:
                self._run(first, Path(folder))
                failed = [check.name for check in first if not self.outcomes[check.name].has_held]
                rest = [check for check in self._checks if not check.is_first]
                if failed:
                    self._leave(rest, f"{failed[0]} has not held")
                self._run([] if failed else rest, Path(folder))
            finally:
                self._leave([check for check in self._checks if check.name not in self.outcomes], "the run was stopped")
                self._write()
        return self.has_held

    @property
    def has_held(self) -> bool:
        """Has everything, and is it on the disk?"""
        are_held = all(outcome.has_held for outcome in self.outcomes.values())
        return are_held and not self.never_launched and self._not_written is None

    @property
    def launched(self) -> Counter[str]:
        """Kernels that any check launched."""
        return sum((Counter(outcome.launched) for outcome in self.outcomes.values()), Counter())

    @property
    def never_launched(self) -> list[str]:
        """Kernels that a check knows of and that none of all checks has launched."""
        if not self._is_whole:
            return []
        known = [name for outcome in self.outcomes.values() for name in outcome.found.get("kernels", ())]
        return sorted(set(known) - self.launched.keys())

    def table(self) -> str:
        """What became of each check, then the last words of those that have not held."""
        width = max((len(name) for name in self.outcomes), default=0)
        lines = [
            f"{name:{width}}  {o.status:16}  {o.seconds:4.0f} s  {sum(o.launched.values()):7} launches of {len(o.launched)}"
            for name, o in self.outcomes.items()
        ]
        for name, outcome in self.outcomes.items():
            if outcome.status not in ("held", "NOT BEGUN"):
                last = "\n".join(self._logs.get(name, "").splitlines()[-_LAST_LINES:])
                lines += [f"\n----- {name}: {outcome.status}: {outcome.why[:_WHY_CHARACTERS]}", last[-_LAST_CHARACTERS:]]
        if missing := self.never_launched:
            lines.append(f"\n----- kernels that no check launched: {', '.join(missing)}")
        if self._not_written is not None:
            lines.append(f"\n----- not written: {self._not_written}")
        return "\n".join(lines)

    # --- running

    def _left(self) -> float:
        return self._began + self._budget_s - time.perf_counter()

    def _leave(self, checks: Sequence[Check], why: str) -> None:
        for check in checks:
            self.outcomes[check.name] = Outcome("NOT BEGUN", why)

    def _run(self, checks: Sequence[Check], folder: Path) -> None:
        waiting, running = list(checks), self._running
        written = time.perf_counter()
        try:
            while waiting or running:
                while waiting and len(running) < self._width and self._left() > 0:
                    running.append(self._begin(waiting.pop(0), folder))
                if waiting and self._left() <= 0:
                    self._leave(waiting, f"the {self._budget_s:g} s of the budget were over")
                    waiting = []
                for one in [one for one in running if self._has_ended(one)]:
                    running.remove(one)
                    self._end(one)
                if time.perf_counter() - written > 2.0:  # whoever kills this program has what was printed so far
                    self._write()
                    written = time.perf_counter()
                time.sleep(_POLL_S)
        finally:
            while running:
                one = running.pop()
                _kill(one.process)
                self._end(one, Outcome("STOPPED", "the run was stopped"))

    def _begin(self, check: Check, folder: Path) -> _Running:
        log, record = folder / f"{len(self._logs)}-{check.name}.log", folder / f"{check.name}.json"
        with log.open("wb") as file:
            process = subprocess.Popen(
                list(self._command(check, record)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,
            )
        return _Running(check, process, time.perf_counter(), log, record)

    def _has_ended(self, one: _Running) -> bool:
        spent = time.perf_counter() - one.began
        return one.process.poll() is not None or spent > one.check.limit_s or self._left() <= 0

    def _end(self, one: _Running, outcome: Outcome | None = None) -> None:
        if outcome is None:
            outcome = self._judged(one)
        outcome.seconds = time.perf_counter() - one.began
        self.outcomes[one.check.name] = outcome
        self._logs[one.check.name] = _log(one.log)
        print(
            f"{one.check.name}: {outcome.status} ({outcome.seconds:.0f} s) {outcome.why[:_WHY_CHARACTERS]}".rstrip(), flush=True
        )
        self._write()

    def _judged(self, one: _Running) -> Outcome:
        code = one.process.poll()
        # What it has started may outlive it.
        is_gone = _kill(one.process)
        if code is None:
            is_over = self._left() <= 0
            over = f"killed as the {self._budget_s:g} s of the budget were over"
            left = "" if is_gone else ", and was still there afterwards: the device does not answer"
            return Outcome("OUT OF TIME", (over if is_over else f"killed at its limit of {one.check.limit_s:g} s") + left)
        record = _read(one.record)
        found: Json = {"launched": (record or {}).get("launched", {}), "found": (record or {}).get("found", {})}
        if code < 0:
            return Outcome("DIED", f"by {_name(-code)}", **found)
        if record is None:
            return Outcome("FAILED" if code > 0 else "NO RECORD", f"status {code}, and no record", **found)
        if code > 0 or record.get("why"):
            return Outcome("FAILED", record.get("why") or f"status {code}, behind a check that had held", **found)
        if not record["launched"]:
            return Outcome("LAUNCHED NOTHING", "it ended well, but no kernel was launched in it", **found)
        return Outcome("held", **found)

    # --- writing

    def _write(self) -> None:
        """A disk that is full costs what is written, not the run."""
        try:
            self._write_all()
        except OSError as error:
            if self._not_written is None:
                print(f"not written: {error}", flush=True)
            self._not_written = error
        else:
            self._not_written = None

    def _write_all(self) -> None:
        result = self._facts | {
            "held": self.has_held and len(self.outcomes) == len(self._checks),
            "seconds": round(time.perf_counter() - self._began, 1),
            "budget_s": self._budget_s,
            "checks": {
                name: {
                    "status": outcome.status,
                    "why": outcome.why,
                    "seconds": round(outcome.seconds, 1),
                    "launched": outcome.launched,
                    "found": outcome.found,
                }
                for name, outcome in self.outcomes.items()
            },
            "running": [one.check.name for one in self._running],
            "never_launched": self.never_launched,
        }
        _replace(self._out / "first.json", json.dumps(result, indent=1) + "\n")
        logs = [(name, f"{self.outcomes[name].status} {self.outcomes[name].why}", text) for name, text in self._logs.items()]
        logs += [(one.check.name, "running", _log(one.log)) for one in self._running]
        _replace(self._out / "first.log", "".join(f"===== {name}: {status}\n{text}\n" for name, status, text in logs))


@contextlib.contextmanager
def _stopped_gently() -> Iterator[None]:
    """SIGTERM, as of `timeout`, ends the run through its `finally`."""

    def stop(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kill(process: subprocess.Popen[bytes]) -> bool:
    """Ends a process and all that it started. Is it gone?"""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_GONE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _name(number: int) -> str:
    """Of a signal; those for real time have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _log(path: Path) -> str:
    """What a check has printed, without the middle where it is too much."""
    with path.open("rb") as file:
        begin = file.read(_HALF_LOG_BYTES)
        left_out = file.seek(0, os.SEEK_END) - 2 * _HALF_LOG_BYTES
        file.seek(max(_HALF_LOG_BYTES, _HALF_LOG_BYTES + left_out))
        end = file.read(_HALF_LOG_BYTES)
    gap = f"\n[{left_out} bytes are left out here]\n".encode() if left_out > 0 else b""
    return (begin + gap + end).decode("utf-8", errors="replace")


def _read(record: Path) -> Json | None:
    try:
        found: Json = json.loads(record.read_text(encoding="utf-8"))
        is_whole = isinstance(found["launched"], dict) and isinstance(found["found"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if is_whole else None


def _replace(path: Path, text: str) -> None:
    """Whoever reads sees the whole file."""
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
