"""How fast are the fused pass and the selector in Rust? Runs `cargo bench` and keeps what it prints. `python -m bench.kernels`.

One thread, no Python; the fused pass for each instruction set of this machine.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from bench import harness
from bench.harness import Json

BENCHES = ("fused_pass", "selector")
SECONDS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
BYTES = {"B/s": 1.0, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}


def main(argv: Sequence[str] | None = None) -> None:
    options = harness.arguments(__doc__, argv)
    others = harness.Others()
    cases: list[Json] = []
    for bench in BENCHES:
        command = ["cargo", "bench", "--quiet", "--bench", bench]
        if options.quick:
            command += ["--", "--sample-count", "1", "--max-time", "0.1"]
        done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        cases += [{"bench": bench} | case for case in parse(done.stdout)]
        harness.progress(done.stdout)
    content = {"threads": 1, "rows": 8, "vocabulary": 126_464, "cases": cases}
    harness.progress(str(harness.write("kernels", options.out, content, quick=options.quick, others=others)))


def parse(table: str) -> list[Json]:
    """The cases in divan's table: a function, and below it a line for each argument."""
    cases: list[Json] = []
    function = ""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if found := re.match(r"^[├╰]─ (\w+)", line):
            function = found[1]
        argument = re.match(r"^[│ ]  [├╰]─ (\w+)\s+(\S+ \S+)", line)
        numbers = line[line.index(argument[2]) :].split("│") if argument else []
        if argument and len(numbers) == 6:
            fastest, slowest, median, mean = (_value(cell, SECONDS) for cell in numbers[:4])
            case = {"function": function, "argument": argument[1], "median_s": median, "fastest_s": fastest}
            cases.append(case | {"slowest_s": slowest, "mean_s": mean, "samples": int(numbers[4])})
        elif cases and len(cells) > 3 and any(cell.endswith("B/s") for cell in cells):
            rates = [cell for cell in cells if cell.endswith("B/s")]
            cases[-1]["bytes_per_s"] = _value(rates[2], BYTES)
    return cases


def _value(cell: str, units: dict[str, float]) -> float:
    number, unit = cell.split()
    return float(number) * units[unit]


if __name__ == "__main__":
    main()
