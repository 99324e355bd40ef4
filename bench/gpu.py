"""How fast is it on a GPU? Times in one command of five minutes.

python bench/gpu.py --out "$OUT"              on a machine with a GPU
python bench/gpu.py --out /tmp/gpu --dry-run  anywhere: toy sizes, emulated kernels, no times
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """See `bench.on_gpu.main`."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from bench.on_gpu import place

    place.settle(__file__)
    from bench.on_gpu.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
