"""The five equalities of `correctness.py`: each must hold, and each counts its launches itself."""

from __future__ import annotations

import json
from collections.abc import Callable

from bench.on_gpu import correctness
from bench.on_gpu.stage import Json, Stage


def _held(section: Callable[[Stage], Json]) -> Callable[[Stage], Json]:
    def check(stage: Stage) -> Json:
        found = section(stage)
        print(json.dumps(found, indent=1, default=str))
        assert found["passed"], f"not equal: {found.get('wrong')}"
        return found

    return check


mask_prediction = _held(correctness.mask_prediction)
commit = _held(correctness.commit)
attention = _held(correctness.attention)
draws = _held(correctness.draws)
sampling = _held(correctness.sampling)
