"""`explain`: how a model would be run, and why."""

from __future__ import annotations

import dataclasses
import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from dllm_fast import cores, records
from dllm_fast.families.model_info import for_call
from dllm_fast.loading.load import load
from dllm_fast.loading.model import LoadedModel
from dllm_fast.modules.hold import Settled
from dllm_fast.networks.decoder import Decoder
from dllm_fast.networks.diffusion_gemma import DiffusionGemma
from dllm_fast.networks.fallback import left_to_torch
from dllm_fast.open import open_runner
from dllm_fast.runners import caches
from dllm_fast.text import tokens
from dllm_fast.transformers import canvas, native_engine
from dllm_fast.transformers.like import LikeRunner, known
from dllm_fast.transformers.probe import study
from dllm_fast.transformers.study import NATIVE, PLAIN
from dllm_fast.transformers.wrappers import is_pretrained, unwrap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.runners.runner import Runner

_APPROXIMATE = "approximate where a model sees both ways: keys change as tokens are committed; ask for it by name"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explanation:
    """How `sample` would run a model. `str()` is a table; `to_dict()` can be written as JSON.

    Attributes:
        family: row of the table of families, or what stands in for it.
        mask_token_id: the mask, or None where nothing says it: then `sample` needs `mask_token_id=`.
        shift: 1 where the logits of position i - 1 predict position i.
        attention: which tokens a token sees, a name of `networks.visible.RULES`, or `unknown`.
        block_length: of attention by blocks.
        eos_token_ids: tokens that end an answer.
        tier: the way in which it is run, with the reason in `reason`.
        cache: the policy that `cache="auto"` picks, with the reason in `cache_reason`.
        settings: what the family recommends, used where the caller says nothing.
        probed: each probe and its result.
        refused: ways and policies that were ruled out, and why.
        sources: of each choice, who made it.
        verified: how it is known that the numbers are right.
        notes: what is unusual about the files and what was done; what becomes of text under the tokenizer.
    """

    family: str
    mask_token_id: int | None
    shift: int
    attention: str
    block_length: int | None
    eos_token_ids: tuple[int, ...]
    tier: str
    reason: str
    cache: str
    cache_reason: str
    vocabulary: int | None
    context: int | None
    dtype: str | None
    device: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    probed: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    verified: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return plain | {
            "eos_token_ids": list(self.eos_token_ids),
            "settings": dict(self.settings),
            "probed": dict(self.probed),
            "refused": [{"what": what, "why": why} for what, why in self.refused],
            "sources": dict(self.sources),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return records.described(self)

    def _repr_html_(self) -> str:
        """What is printed, for notebooks."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        choices = ("family", "mask_token_id", "eos_token_ids", "shift", "attention", "block_length", "vocabulary", "context")
        lines = [(name, _shown(getattr(self, name)), self.sources.get(name, "")) for name in choices]
        lines += [("weights", f"{self.dtype} on {self.device}", "")] if self.dtype else []
        lines += [("run", self.tier, self.reason), ("cache", self.cache, self.cache_reason)]
        lines += [("default", f"{name}={value!r}", "") for name, value in self.settings.items()]
        lines += [("probed", name, _shown(value)) for name, value in self.probed.items()]
        lines += [("not taken", what, why) for what, why in self.refused]
        lines += [("note", "", note) for note in self.notes]
        lines += [("verified", self.verified, "")]
        first, second = (max(len(line[i]) for line in lines) for i in (0, 1))
        return "\n".join(f"{a:{first}}  {b:{min(second, 40)}}  {c}".rstrip() for a, b, c in lines)


def explain(
    model: LoadedModel | str | Path | Callable[..., Any] | None, tokenizer: Any = None, like: Any = None
) -> Explanation:
    """How `sample` would run a model: what is taken for its mask, its attention and its ends, by whom, and which way is used.

    Args:
        model: as `sample` takes it; a folder or hub id is opened, a model of transformers is run on a few tokens.
        tokenizer: where the mask or the ends come from it.
        like: as `sample` takes it.

    Raises:
        CheckpointError, InvalidValueError: where `sample` would refuse the model.
    """
    with Settled(), Settled():
        return _of(model, tokenizer, like)


def _of(model: Any, tokenizer: Any, like: Any) -> Explanation:
    tokenizer = tokens.unlimited(tokenizer)
    if like is not None:
        return _with_remarks(_like(model, tokenizer, like), known(like, tokenizer)[1])
    if model is None:
        from dllm_fast import demo

        model, own = demo.load()
        tokenizer = own if tokenizer is None else tokenizer
    opened: Any = model if callable(model) else load(model)
    inside = unwrap(opened)
    if isinstance(inside.model, LoadedModel) and inside.why is None:
        opened = inside.model
    found = _way(opened, tokenizer)
    read = inside.model.tokenizer if tokenizer is None and isinstance(inside.model, LoadedModel) else tokenizer
    return _with_remarks(found, read)


def _with_remarks(found: Explanation, tokenizer: Any) -> Explanation:
    said = tokens.remarks(tokenizer, {found.mask_token_id, *found.eos_token_ids}, found.vocabulary)
    crowded = cores.trouble(torch.get_num_threads(), cores.allowed()) if found.device in (None, "cpu") else None
    return dataclasses.replace(found, notes=(*found.notes, *said, *([crowded] if crowded else [])))


def _like(model: Any, tokenizer: Any, like: Any) -> Explanation:
    """A function of which a model tells."""
    runner, _ = open_runner(model, tokenizer, like)
    assert isinstance(runner, LikeRunner)
    return _called(runner, "a function; what is known comes from like=", "a function is called as it is")


def _called(runner: LikeRunner, reason: str, why: str) -> Explanation:
    assert runner.info is not None
    refused = [(way, why) for way in ("own decoder", NATIVE)]
    refused += _policies(runner.info, cached=False)
    return _explained(runner.info, PLAIN, reason, refused, {"sees": runner.sees}, cached=False)


def _way(opened: Any, tokenizer: Any) -> Explanation:
    """How a model in memory would be run."""
    if is_pretrained(opened) and canvas.has_canvas(opened):
        network, info = canvas.around(opened, tokenizer)
        reason = f"{type(network).__name__} on the weights of the model"
        refused = [*_policies(info, cached=True), *_left_to_torch(info, network, network.head_dim)]
        return _explained(info, "own decoder", reason, refused, {}, cached=True)
    if is_pretrained(opened):
        found = study(cast("nn.Module", opened), tokenizer)
        cached = found.plan is not None
        refused = [*found.refused, *_policies(found.info, cached=cached)]
        reason = found.reason + _replays(refused, *native_engine.report(unwrap(opened).model, found))
        if found.plan is not None:
            refused += _left_to_torch(found.info, None, found.plan.head_dim)
        return _explained(found.info, found.tier, reason, refused, found.probed, cached=cached)
    if isinstance(opened, LoadedModel):
        tier = "own decoder" if isinstance(opened.network, Decoder | DiffusionGemma) else "own encoder"
        reason = f"opened by dllm_fast.load: {type(opened.network).__name__}"
        refused = _policies(opened.info, cached=True)
        engine = opened.engine
        reason += _replays(refused, engine is not None, None if engine is None else engine.trouble)
        if engine is not None and engine.loop_trouble is not None:
            refused.append(("loops on the device", engine.loop_trouble))
        refused += _left_to_torch(opened.info, opened.network, opened.network.head_dim)
        return _explained(opened.info, tier, reason, refused, {}, cached=True)
    runner, tokenizer = open_runner(opened, tokenizer)
    if isinstance(runner, LikeRunner):
        why = f"{unwrap(opened).why}, so it is called as it is"
        return _called(runner, why, why)
    return _unknown(opened, runner, tokenizer)


def _replays(refused: list[tuple[str, str]], is_there: bool, trouble: str | None) -> str:
    """What to say of graphs on a device that has them."""
    if is_there and trouble is not None:
        refused.append(("CUDA graphs", trouble))
    return "; small steps are replayed from CUDA graphs" if is_there and trouble is None else ""


def _left_to_torch(info: ModelInfo, network: object, head_dim: int) -> list[tuple[str, str]]:
    """What the kernels do not take of a model that runs where they could."""
    if info.device.type != "cuda":
        return []
    return [("CUDA kernels", why) for why in left_to_torch(network, head_dim, info.dtype)]


def _explained(
    info: ModelInfo, tier: str, reason: str, refused: list[tuple[str, str]], probed: Mapping[str, Any], *, cached: bool
) -> Explanation:
    policy = _policy(info, cached=cached)
    if policy.keeps:
        why = "exact: keys left of a block never change"
    elif cached:
        why = f"no cache is exact here: exact_block {caches.ExactBlock.obstacle(info.attention_rule)}"
    else:
        why = "this way of running keeps nothing between forwards"
    preset = {} if info.preset is None else {"preset": info.preset}
    return Explanation(
        family=info.family,
        mask_token_id=info.mask_token_id,
        shift=info.shift,
        attention=info.attention,
        block_length=info.block_length,
        eos_token_ids=info.eos_token_ids,
        tier=tier,
        reason=reason,
        cache=policy.name,
        cache_reason=why,
        vocabulary=info.vocabulary,
        context=info.context,
        dtype=str(info.dtype).removeprefix("torch."),
        device=str(info.device),
        settings=preset | dict(info.defaults),
        probed=dict(probed),
        refused=tuple(refused),
        sources=dict(info.sources),
        verified=info.verified,
        notes=info.notes,
    )


def _policy(info: ModelInfo, *, cached: bool) -> type[caches.Policy]:
    """What `cache="auto"` picks."""
    return caches.resolve("auto", info.attention_rule) if cached else caches.Uncached


def _policies(info: ModelInfo, *, cached: bool) -> list[tuple[str, str]]:
    """Why `auto` does not pick the others."""
    best = _policy(info, cached=cached)

    def why(policy: type[caches.Policy]) -> str:
        better = f"{best.name} computes less and is exact" if best.keeps else _APPROXIMATE
        return (policy.obstacle(info.attention_rule) or better) if cached else "needs our own attention"

    others = (policy for policy in caches.POLICIES.values() if policy.keeps and policy is not best)
    return [(f"cache {policy.name}", why(policy)) for policy in others]


def _unknown(model: Any, runner: Runner, tokenizer: Any) -> Explanation:
    """A module or function of which only its answers are known."""
    mask, by_mask = for_call("mask_token_id", runner, tokenizer)
    ends, by_ends = for_call("eos_token_id", runner, tokenizer)
    sources = {"family": "class", "mask_token_id": by_mask, "eos_token_ids": by_ends}
    rows = getattr(runner, "rows", None)
    return Explanation(
        family=type(model).__name__,
        mask_token_id=mask if isinstance(mask, int) else None,
        shift=0,
        attention="unknown",
        block_length=None,
        eos_token_ids=() if ends is None else (ends,) if isinstance(ends, int) else ends,
        tier=PLAIN,
        reason="any callable from ids to logits; nothing is known of a model inside: say it with like=",
        cache="none",
        cache_reason="this way of running keeps nothing between forwards",
        vocabulary=runner.vocabulary,
        context=runner.context,
        dtype=None,
        device=None,
        refused=(
            *((way, "needs a model of transformers, or a folder for dllm_fast.load") for way in ("own decoder", NATIVE)),
            *([] if rows is None else [("other batches", f"exported for {rows} rows, which guidance doubles")]),
        ),
        sources=sources | {"shift": "default", "attention": "not probed"},
        verified="no; its logits are taken as they are",
    )


def _shown(value: object) -> str:
    if value is None or value == ():
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
