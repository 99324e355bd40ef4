"""Is everything right on this GPU? Correctness only, each check in a process of its own, in 270 seconds.

python bench/on_gpu/first.py --out out              on a machine with a GPU
python bench/on_gpu/first.py --out out --dry-run    anywhere: toy sizes, emulated kernels

Writes first.json and first.log into the folder after each check. Status 0: every check ran and held, and every kernel was
launched by one of them; 1: not so; 2: there is nothing to run on. README.md beside this file says how to come here.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    _root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(_root))

from bench.on_gpu import place

if __name__ == "__main__":
    place.settle(__file__)

BUDGET_S = 270.0
# A rehearsal holds no device, and compiles the emulated kernels first.
_REHEARSAL = 5
# A check that hangs prints its stacks so long before it is killed.
_LAST_WORDS_S = 3.0


def main() -> int:
    """Runs the checks, or with --one a single check in this process."""
    options = _arguments()
    if options.one is not None:
        faulthandler.enable()
        faulthandler.dump_traceback_later(max(options.limit - _LAST_WORDS_S, 1.0))
        from bench.on_gpu.checks import child

        return child.run(options.one, is_dry=options.dry_run, record=options.record, limit_s=options.limit)
    from bench.on_gpu.checks import CHECKS
    from bench.on_gpu.driver import Check, Driver

    unknown = [name for name in options.only if name not in {check.name for check in CHECKS}]
    if unknown:
        print(f"--only: {unknown[0]!r} is no check; there are {', '.join(repr(check.name) for check in CHECKS)}")
        return 2
    slower = _REHEARSAL if options.dry_run else 1
    checks = [replace(check, limit_s=slower * check.limit_s) for check in CHECKS]
    checks = [check for check in checks if not options.only or check.is_first or check.name in options.only]

    def command(check: Check, record: Path) -> list[str]:
        given = ["--one", check.does, "--record", str(record), "--limit", f"{check.limit_s:g}"]
        return [sys.executable, str(Path(__file__).resolve()), *given, *(["--dry-run"] if options.dry_run else [])]

    driver = Driver(
        checks,
        command=command,
        out=options.out.resolve(),
        budget_s=options.budget or slower * BUDGET_S,
        width=options.width,
        environment=place.environment(),
        facts=_facts(options),
        is_whole=not options.only,
    )
    has_held = driver.run()
    print(f"\n{driver.table()}\n")
    print(f"{'every check held' if has_held else 'NOT everything held'}; {options.out / 'first.json'} and first.log beside it")
    return 0 if has_held else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/on_gpu/first.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results (default: out)")
    parser.add_argument("--budget", type=float, help=f"seconds in all (default: {BUDGET_S:g}, a rehearsal has more)")
    parser.add_argument("--width", type=int, default=6, help="checks at a time (default: 6)")
    parser.add_argument("--dry-run", action="store_true", help="rehearse on the CPU: toy sizes, emulated kernels")
    parser.add_argument("--only", action="append", default=[], metavar="CHECK", help="this check behind loading; repeatable")
    parser.add_argument("--one", metavar="MODULE:FUNCTION", help="run this check here, in this process")
    parser.add_argument("--record", type=Path, help="with --one: where to write what it has found")
    parser.add_argument("--limit", type=float, default=600.0, help="with --one: seconds that it has")
    return parser.parse_args()


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    commit, has_changes = place.commit()
    return {
        "check": "first",
        "command": " ".join(["python bench/on_gpu/first.py", *(f"--only {name!r}" for name in options.only)])
        + " --dry-run" * options.dry_run,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_rehearsal": options.dry_run,
        "commit": commit,
        "has_changes": has_changes,
        "switches": os.environ.get("DLLM_FAST_TRY", ""),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    sys.exit(main())
