"""What the package does without torch, for any version of Python: python -W error .ci/python.py prints the same everywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pkgutil
from pathlib import Path

import numpy as np

import dllm_fast
from dllm_fast import Sampler, cli
from dllm_fast.text.chat import ChatTemplate

for module in pkgutil.walk_packages(dllm_fast.__path__, "dllm_fast."):
    if (spec := module.module_finder.find_spec(module.name, None)) and str(spec.origin).endswith(".py"):
        compile(Path(spec.origin).read_bytes(), spec.origin, "exec")
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    cli.main(["--help"])
assert "dllm-fast" in said.getvalue()

logits = np.random.default_rng(0).normal(0, 3, (40, 5000)).astype(np.float32)
found = dllm_fast.mask_predict(logits, temperature=0.8, top_p=0.9, seed=1)
print(found.token.tolist(), found.entropy.sum().hex())
table = dllm_fast.TokenFrequencies(range(1, 5001))
for name, preset in dllm_fast.presets().items():
    if preset.verify or preset.verifier_mixture is not None or preset.remask == "verify" or preset.length != "fixed":
        print(name, "asks for more than the logits of a canvas")
        continue
    has_mask = preset.noise != "uniform"
    needs = {
        "mask_token_id": 7 if has_mask else None,
        "vocabulary": None if preset.noise == "mask" else 5000,
        "token_frequencies": table if preset.order == "calibrated" else None,
    }
    sampler = Sampler(dataclasses.replace(preset, **needs), [[7] * 40], seed=3, open=None if has_mask else [[True] * 40])
    while (request := sampler.next()) is not None:
        here = logits[request.positions[0]]
        sampler.feed(prediction=sampler.predict(here))
    print(name, sampler.canvases[0].tolist())
print(dllm_fast.schedule("cosine", 100, 9))
print(ChatTemplate("{{ messages[0].content|upper }}", "here").render([{"role": "user", "content": "hello"}], {}))
