"""How many instructions does control take in two checkouts? `python -m bench.instructions BEFORE AFTER`.

Both have their extension beside their package, built with the release profile. Every preset that both know: `next`, `groups`
and `feed` of `Sampler` at batch 1, 16 and 64, and the whole of `sample` of a callable. valgrind counts, in the one thread that
samples, so that a busy machine does not matter: a second run tells the same within a few in a thousand.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import harness
from bench.harness import Json

WORKER = Path(__file__).with_name("instructions_worker.py")
BATCHES = (1, 16, 64)
# What somebody has to explain.
MOST = 1.03


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--presets", help="with commas; default: all that both have")
    parser.add_argument("--quick", action="store_true", help="batch 1 alone, and no sample")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the JSON result (default: bench/results)")
    options = parser.parse_args(argv)
    others = harness.Others()
    trees = {"before": options.before.resolve(), "after": options.after.resolve()}
    presets = options.presets or ",".join(name for name in names(trees["before"]) if name in names(trees["after"]))
    counts = {when: counted(tree, presets, quick=options.quick) for when, tree in trees.items()}
    cases: list[Json] = []
    for (what, preset, batch), before in counts["before"].items():
        after = counts["after"][what, preset, batch]
        cases.append(
            {
                "what": what,
                "preset": preset,
                "batch": batch,
                "before": round(before),
                "after": round(after),
                "ratio": after / before,
            }
        )
        harness.progress(f"{what:>7} {preset:<24} {batch:>2} {before:>10.0f} {after:>10.0f} {after / before:.3f}")
    over = [f"{case['what']} of {case['preset']} at batch {case['batch']}" for case in cases if case["ratio"] > MOST]
    harness.progress(f"more than {MOST - 1:.0%} above: {', '.join(over) or 'nothing'}")
    commits = {when: subject(tree) for when, tree in trees.items()}
    content = {
        "compared": commits,
        "instructions": "of one step, the mean over the steps of a fill, or of a call",
        "cases": cases,
    }
    harness.progress(str(harness.write("instructions", options.out, content, quick=options.quick, others=others)))


def names(tree: Path) -> list[str]:
    """The presets of a checkout."""
    code = "import dllm_fast; print(*dllm_fast.presets())"
    return _output(tree, [sys.executable, "-c", code]).split()


def subject(tree: Path) -> str:
    """Which commit a checkout is of."""
    return _output(tree, ["git", "-C", str(tree), "rev-parse", "HEAD"]).strip()


def counted(tree: Path, presets: str, *, quick: bool) -> dict[tuple[str, str, int], float]:
    """Instructions of a step, by what was done, preset and batch."""
    batches = ",".join(map(str, BATCHES[:1] if quick else BATCHES))
    with tempfile.TemporaryDirectory() as folder:
        valgrind = ["valgrind", "--tool=callgrind", "--dump-before=sched_yield", f"--callgrind-out-file={folder}/counts"]
        worker = [sys.executable, str(WORKER), presets, batches, *([] if quick else ["sample"])]
        done = _output(tree, valgrind + worker)
        found = {}
        for place, line in enumerate(done.splitlines()):
            what, preset, batch, steps = line.split()
            # A dump comes before each mark: the first holds what came before, every second one a count.
            text = Path(folder, f"counts.{2 * place + 2}").read_text(encoding="utf-8")
            summary = re.search(r"^summary: (\d+)", text, re.MULTILINE)
            assert summary is not None, "callgrind wrote no summary"
            found[what, preset, int(batch)] = int(summary[1]) / int(steps)
    return found


def _output(tree: Path, command: Sequence[str]) -> str:
    """What a command says on the package of a checkout, in one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    env = os.environ | threads | {"PYTHONPATH": str(tree / "python"), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed on {tree}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
