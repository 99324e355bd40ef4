"""The tables of README and docs/ from the committed results, the families and the settings: `python -m bench`.

`--all` prints every case, `--run` measures everything first, `--write` puts the tables into the documents,
`--check` fails unless they are there.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import every_preset_picture, every_preset_report, fp8, preset_control, rules, tables
from bench.on_gpu import estimate
from dllm_fast.families import table as families
from dllm_fast.settings import manual

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="measure everything first, about 40 minutes on two idle cores")
    parser.add_argument("--quick", action="store_true", help="with --run: few sizes and repeats, to see that it runs")
    parser.add_argument("--all", action="store_true", help="print every case")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and docs/")
    parser.add_argument("--check", action="store_true", help="fail unless they are there")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: bench/results)")
    options = parser.parse_args(argv)
    if options.run:
        for name in tables.BENCHES:
            command = [sys.executable, "-m", f"bench.{name}", "--out", str(options.out)]
            subprocess.run(command + (["--quick"] if options.quick else []), cwd=ROOT, check=True)
    results = tables.load(options.out)
    print(tables.everything(results) if options.all else tables.readme(results))
    status = 0
    for name, blocks in documents(results).items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        wanted = text
        for marker, block in blocks.items():
            wanted = with_block(wanted, marker, block, name)
        if options.write:
            path.write_text(wanted, encoding="utf-8")
        elif options.check and wanted != text:
            print(f"{name} does not carry the generated tables; run `python -m bench --write`:", file=sys.stderr)
            print("\n".join(difflib.unified_diff(text.splitlines(), wanted.splitlines(), lineterm="", n=0)), file=sys.stderr)
            status = 1
    if options.write and not every_preset_picture.is_of(presets := every_preset_report.load()):
        every_preset_picture.draw(presets)
    return status


def documents(results: dict[str, tables.Json]) -> dict[str, dict[str, str]]:
    """What stands between which markers of which file."""
    presets = every_preset_report.load()
    return {
        "README.md": {
            "presets": rules.names(),
            "bench": tables.readme(results),
            "works-with": families.works_with(),
            "settings": manual.markdown(),
        },
        "docs/rules.md": {"rules": rules.table(presets, preset_control.load())},
        "docs/quality.md": every_preset_report.blocks(presets),
        "docs/cuda.md": estimate.blocks()
        | {"measured": estimate.measured()}
        | {"fp8": fp8.table(json.loads((RESULTS / "fp8.json").read_text(encoding="utf-8")))},
    }


def with_block(text: str, name: str, block: str, document: str = "README.md") -> str:
    """`text` with what stands between the markers of this name replaced."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, begin, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not begin or not end:
        raise SystemExit(f"{document} must hold the lines {opening} and {closing}")
    return f"{before}{opening}\n{block}\n{closing}{after}"


if __name__ == "__main__":
    sys.exit(main())
