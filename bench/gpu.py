"""Everything that needs a GPU, in one command under eight minutes: are the kernels right, and how fast are they?

python bench/gpu.py --out bench/results/gpu       on a machine with a GPU
python bench/gpu.py --out /tmp/gpu --dry-run      anywhere: toy sizes, emulated kernels, no times
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """See `bench.on_gpu.main`."""
    # As a script Python puts this folder first, where names such as `kernels` hide others'.
    here = Path(__file__).parent.resolve()
    sys.path[:] = [str(ROOT), *(place for place in sys.path if Path(place or ".").resolve() != here)]
    if importlib.util.find_spec("dllm_fast") is None:
        sys.path.insert(1, str(ROOT / "python"))  # a checkout that is not installed
    from bench.on_gpu.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
