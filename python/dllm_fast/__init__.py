"""dllm_fast samples from diffusion language models.

    import dllm_fast

    result = dllm_fast.sample(model, prompt, preset="llada", max_new_tokens=128, tokenizer=tokenizer)
    print(result.text, result.stats.nfe)

Names are loaded when they are first used, so that importing the package is quick and needs neither torch nor a GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm_fast import demo
    from dllm_fast._core import Edit, Prediction, Sampler, TokenFrequencies, __version__
    from dllm_fast.distribution import Distribution, distributions
    from dllm_fast.errors import DllmFastError
    from dllm_fast.events import StepEvent
    from dllm_fast.explanation import Explanation, explain
    from dllm_fast.integrations.custom_generate import generate
    from dllm_fast.loading.load import load
    from dllm_fast.loading.model import LoadedModel
    from dllm_fast.predict import mask_predict, schedule
    from dllm_fast.result import Result, Stats
    from dllm_fast.run import Run
    from dllm_fast.sampling import infill, sample, stream
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.settings.keywords import SamplerSettings
    from dllm_fast.settings.presets import presets

__all__ = [
    "Distribution",
    "DllmFastError",
    "Edit",
    "Explanation",
    "LoadedModel",
    "Prediction",
    "Result",
    "Run",
    "Sampler",
    "SamplerConfig",
    "SamplerSettings",
    "Stats",
    "StepEvent",
    "TokenFrequencies",
    "__version__",
    "demo",
    "distributions",
    "explain",
    "generate",
    "infill",
    "load",
    "mask_predict",
    "presets",
    "sample",
    "schedule",
    "stream",
]

_HOME = {
    "Distribution": "distribution",
    "DllmFastError": "errors",
    "Edit": "_core",
    "Explanation": "explanation",
    "LoadedModel": "loading.model",
    "Prediction": "_core",
    "Result": "result",
    "Sampler": "_core",
    "SamplerConfig": "settings.config",
    "SamplerSettings": "settings.keywords",
    "Run": "run",
    "Stats": "result",
    "StepEvent": "events",
    "TokenFrequencies": "_core",
    "__version__": "_core",
    "distributions": "distribution",
    "explain": "explanation",
    "generate": "integrations.custom_generate",
    "infill": "sampling",
    "load": "loading.load",
    "mask_predict": "predict",
    "presets": "settings.presets",
    "sample": "sampling",
    "schedule": "predict",
    "stream": "sampling",
}


def __getattr__(name: str) -> Any:
    if name == "demo":
        return importlib.import_module("dllm_fast.demo")
    if name not in _HOME:
        raise AttributeError(f"module 'dllm_fast' has no attribute {name!r}")
    module = importlib.import_module(f"dllm_fast.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
