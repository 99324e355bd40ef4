"""Runs one kernel on given rows: `python -m tests.emulator mask_predict in.npz out.npz`.

In: `logits` [N, V] as float32, float16, or the bits of bfloat16 in uint16, and what else `dllm_fast.mask_predict` takes, by its
names: `temperature`, `top_k`, `top_p`, `min_p`, `softcap`, `suppress`, `current`, `seed`, `request`, `positions`, `step`.
Out: the fields of `dllm_fast.mask_predict`, so that anybody can compare the two.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[2] / "python"


def main() -> int:
    """Status 0: done; 2: bad input."""
    parser = argparse.ArgumentParser(prog="python -m tests.emulator", description=__doc__.splitlines()[0])
    parser.add_argument("kernel", choices=["mask_predict"])
    parser.add_argument("given", metavar="in.npz")
    parser.add_argument("result", metavar="out.npz")
    options = parser.parse_args()

    import numpy as np

    try:
        import dllm_fast.kernels.launches  # noqa: F401
    except ModuleNotFoundError:
        sys.path.insert(0, str(_PACKAGE))  # a checkout that is not installed
    from . import build
    from .mask_predict import FIELDS, NAN, NOTHING_ALLOWED, mask_predict

    if why := build.why_not():
        parser.error(why)
    with np.load(options.given) as file:
        given = dict(file)
    logits = given.pop("logits", None)
    if logits is None or logits.ndim != 2 or logits.dtype.name not in ("float32", "float16", "uint16", "int16"):
        parser.error("logits must be a matrix of float32, float16 or uint16 (the bits of bfloat16)")
    names = {"temperature", "top_k", "top_p", "min_p", "softcap", "suppress", "current"}
    names |= {"seed", "request", "positions", "step"}
    if unknown := sorted(given.keys() - names):
        parser.error(f"{unknown[0]} is not an argument of mask_predict; there are {', '.join(sorted(names))}")
    for name in ("temperature", "top_k", "top_p", "min_p", "softcap"):
        if name in given:
            given[name] = given[name].item()
    prediction = mask_predict(np.ascontiguousarray(logits), **given)
    for row, status in enumerate(prediction.status.tolist()):
        if status == NAN:
            parser.error(f"row {row} is NaN at id {prediction.token[row]}")
        if status == NOTHING_ALLOWED:
            parser.error(f"row {row} is -inf everywhere")
    fields = {name: getattr(prediction, name) for name in FIELDS}
    if prediction.current is not None:
        fields["current"] = prediction.current
    np.savez(options.result, **fields)
    return 0


if __name__ == "__main__":
    sys.exit(main())
