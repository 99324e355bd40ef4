"""Whole generations on random models whose heads the kernels take: from graphs, from graphs again, and without graphs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch

import dllm_fast
from bench.on_gpu import launched
from bench.on_gpu.checks.loops import Replayed
from bench.on_gpu.stage import Json, Stage
from dllm_fast import switches
from dllm_fast.families.model_info import ModelInfo
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.decoder import Decoder, DecoderConfig
from dllm_fast.networks.experts import ExpertsConfig
from dllm_fast.networks.rotary import Rotary
from dllm_fast.ops import launcher
from dllm_fast.result import Stats
from dllm_fast.runners.graphs import Engine

VOCABULARY = 1000
BLOCK = 32
Capture = Callable[[Callable[[], None]], Callable[[], None]]
POLICIES = (("full", "none"), ("full", "dual"), ("full", "prefix"), ("block_causal", "exact_block"))
RULES: tuple[Json, ...] = (
    {"preset": "llada"},
    {"preset": "fast-dllm", "threshold": 0.02},
    {"preset": "llada", "temperature": 0.7, "top_p": 0.9},
)
# What a forward of such a model launches, by the beginnings of names.
_FORWARD = ("dllm_attention", "dllm_fused_add_norm", "dllm_fused_qkv", "dllm_fused_swiglu")


def heads_of_64(stage: Stage) -> Json:
    """As many key heads as query heads."""
    return _every_policy(stage, _network(stage, head_dim=64, kv_heads=4))


def heads_of_128(stage: Stage) -> Json:
    """Two query heads share a key head."""
    return _every_policy(stage, _network(stage, head_dim=128, kv_heads=2))


def experts(stage: Stage) -> Json:
    """A mixture, whose products read no value on the host."""
    mixture = ExpertsConfig(count=16, chosen=4, inner=stage.pick(256, 32), shared=stage.pick(256, 32))
    return _every_policy(stage, _network(stage, head_dim=64, kv_heads=4, experts=mixture))


def tried(stage: Stage) -> Json:
    """What is built but off, each switch on by itself: the tokens are those without it."""
    network = _network(stage, head_dim=64, kv_heads=4)
    lines = []
    for rule in stage.pick(RULES, RULES[:1]):
        with mock.patch.dict(os.environ, {switches.VARIABLE: ""}):
            plain = _from_graphs(stage, network, rule, is_looped=False)
        for name in switches.SWITCHES:
            with mock.patch.dict(os.environ, {switches.VARIABLE: name}):
                is_same = _same(_from_graphs(stage, network, rule, is_looped=name == "while"), plain)
            lines.append(f"{name}, {rule}: {'same tokens' if is_same else 'OTHER TOKENS'}")
            print(lines[-1], flush=True)
    wrong = [line for line in lines if "OTHER" in line]
    assert not wrong, wrong
    return {"runs": lines}


def _from_graphs(stage: Stage, network: Decoder, rule: Json, *, is_looped: bool) -> list[np.ndarray]:
    """Tokens of the last of some runs, which has no shape that it has not seen."""
    model = _opened(stage, network, "full")
    engine = model.engine = Engine(network, dtype=torch.bfloat16, where=stage.device, capture=_capture(stage))
    new = stage.pick(32, 8)
    given = {"max_new_tokens": new, "block_length": stage.pick(16, 8), "cache": "dual", "stop_at_eos": False, "seed": 3, **rule}
    with launcher.counted() as counter:
        for _ in range(stage.pick(3, 2)):
            result = dllm_fast.sample(model, stage.pick([[1, 2, 3], [4] * 9], [[1, 2, 3]]), **given)
    if is_looped and "threshold" in rule:  # a block may be over before a loop is worth it
        counter = Counter({name: count for name, count in counter.items() if not name.startswith("dllm_loop")})
        is_looped = False
    _expect(counter, (*_kernels(rule, has_engine=True), *(("dllm_loop",) if is_looped else ())))
    assert engine.loop_trouble is None, engine.traceback
    assert engine.trouble is None, engine.traceback or engine.trouble
    assert engine.captured, "nothing was captured"
    return list(result.sequences)


def _network(stage: Stage, *, head_dim: int, kv_heads: int, **more: Any) -> Decoder:
    sizes = stage.pick(
        {"width": 256, "layers": 2, "heads": 4, "kv_heads": kv_heads, "inner": 256},
        {"width": 64, "layers": 1, "heads": 2, "kv_heads": 2 if kv_heads == 4 else 1, "inner": 64},
    )
    config = DecoderConfig(
        vocabulary=stage.pick(VOCABULARY, 120),
        context=512,
        head_dim=head_dim,
        norm_eps=1e-5,
        rotary=Rotary(width=head_dim, theta=1e4),
        rotary_float32=True,
        qk_norm=True,
        **sizes,
        **more,
    )
    network = Decoder(config)
    random = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        parameter.data = torch.ones_like(parameter) if "norm" in name else torch.randn(parameter.shape, generator=random) * 0.06
    return network.to(torch.bfloat16).to(stage.device).eval().requires_grad_(False)


def _opened(stage: Stage, network: Decoder, attention: str) -> LoadedModel:
    return LoadedModel(network, None, _info(stage, network, attention), {})


def _info(stage: Stage, network: Decoder, attention: str) -> ModelInfo:
    return ModelInfo(
        family="llada",
        mask_token_id=network.vocabulary - 1,
        eos_token_ids=(),
        shift=0,
        attention=attention,  # type: ignore[arg-type]
        block_length=BLOCK if attention == "block_causal" else None,
        dtype=torch.bfloat16,
        device=stage.device,
        vocabulary=network.vocabulary,
        context=512,
        preset=None,
        defaults={},
        sources={},
        verified="no: random weights",
    )


def replayed_eagerly(body: Callable[[], None]) -> Callable[[], None]:
    """In place of a capture: the same work through the same buffers, launch by launch."""
    body()
    return body


def _capture(stage: Stage) -> Capture | None:
    """CUDA's, which is that of an engine by default; in a rehearsal there is none."""
    return Replayed() if stage.dry else None


def _every_policy(stage: Stage, network: Decoder) -> Json:
    _logits(stage, network)
    wrong, lines = [], []
    for attention, cache in stage.pick(POLICIES, POLICIES[1:2]):
        for rule in stage.pick(RULES, RULES[2:]):
            found = _one(stage, network, attention, cache, rule)
            line = f"{attention}/{cache} {rule}: {found}"
            print(line, flush=True)
            lines.append(line)
            if found["wrong"]:
                wrong.append(line)
    assert not wrong, wrong
    return {"runs": lines}


def _logits(stage: Stage, network: Decoder) -> None:
    """The whole network by kernels and by torch."""
    ids = torch.randint(0, network.vocabulary - 1, (2, 40), generator=torch.Generator().manual_seed(1)).to(stage.device)
    model = _opened(stage, network, "full")
    with launcher.counted() as counter:
        ours = model(ids).double()
    _expect(counter, _FORWARD)
    with launched.nothing():
        theirs = model(ids).double()
    error = float((ours - theirs).norm() / theirs.norm())
    print(f"logits against torch: {error:.2e}", flush=True)
    assert error < 3e-2, f"logits differ from those of torch by {error:.2e}"


def _one(stage: Stage, network: Decoder, attention: str, cache: str, rule: Json) -> Json:
    """Runs from graphs, as many with the same buffers eagerly, and one without an engine."""
    new, prompts = stage.pick((32, [[1, 2, 3], [4] * 9]), (4, [[1, 2, 3]]))
    block = BLOCK if attention == "block_causal" else new // 2
    given = {"max_new_tokens": new, "cache": cache, "stop_at_eos": False, "seed": 3, "block_length": block, **rule}
    model = _opened(stage, network, attention)
    make = {"dtype": torch.bfloat16, "where": stage.device}
    engine = Engine(network, capture=_capture(stage), **make)
    buffers = Engine(network, capture=replayed_eagerly, **make)
    wrong: list[str] = []
    stats: list[Stats] = []

    def run(name: str, engine: Engine | None) -> list[np.ndarray]:
        model.engine = engine
        with launcher.counted() as counter:
            result = dllm_fast.sample(model, prompts, **given)
        stats.append(result.stats)
        try:
            _expect(counter, _kernels(rule, has_engine=engine is not None))
        except launched.LaunchError as error:
            wrong.append(f"{name}: {error}")
        return list(result.sequences)

    times = range(1, stage.pick(4, 3))
    runs = [run(f"run {i}", engine) for i in times]
    if stats[-1].replayed != stats[-1].nfe:
        wrong.append(f"the last run replayed {stats[-1].replayed} of {stats[-1].nfe} forwards")
    alike = [run(f"same buffers, run {i}", buffers) for i in times][-1]
    eager = run("without an engine", None)
    wrong += [f"run {i} gives other tokens than run 1" for i in times if not _same(runs[i - 1], runs[0])]
    if not _same(runs[0], alike):
        wrong.append("the same work outside of graphs gives other tokens")
    if "temperature" in rule:  # laws are data: what was captured holds for others
        given |= {"temperature": 1.3, "top_p": 0.8, "suppress_tokens": (5, 6)}
        other = run("another law", engine)
        if not _same(other, run("another law, same buffers", buffers)):
            wrong.append("a graph draws by another law than the one that it is given")
        if stats[-2].replayed != stats[-2].nfe:
            wrong.append(f"another law: {stats[-2].replayed} of {stats[-2].nfe} forwards replayed")
    if engine.traceback is not None:
        print(engine.traceback, flush=True)
    if engine.trouble is not None:
        wrong.append(f"nothing is captured: {engine.trouble}")
    captured, shapes = engine.captured, len(engine._graphs)
    # A shape is captured when it comes again, and all of them have.
    if not shapes or captured != shapes:
        wrong.append(f"{captured} of {shapes} shapes are captured")
    agree = float(np.mean([np.mean(a == b) for a, b in zip(eager, runs[0], strict=True)]))
    return {"captured": captured, "tokens as without an engine": round(agree, 3), "wrong": wrong}


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _kernels(rule: Json, *, has_engine: bool) -> tuple[str, ...]:
    """What a generation launches: with an engine the commit is on the device, too."""
    filtered = ("dllm_mask_filter",) if "top_p" in rule else ()
    return (*_FORWARD, "dllm_mask_predict", *filtered, *(("dllm_commit",) if has_engine else ()))


def _expect(counter: Counter[str], kinds: tuple[str, ...]) -> None:
    """Were kernels of all these kinds launched, and of no others?"""

    def found() -> Iterator[str]:
        for name in counter:
            yield next((kind for kind in kinds if name.startswith(kind)), name)

    missing, besides = set(kinds) - set(found()), set(found()) - set(kinds)
    if missing or besides:
        raise launched.LaunchError(f"misses launches of {sorted(missing)}, has those of {sorted(besides)} besides")
