"""A class of transformers as a `Network`: its own layers, our attention, its head on scored rows only.

Classes that look their attention up in transformers' `AttentionInterface` hand over queries, keys and values of every layer
and take back what was mixed. So a `Batch` decides what is seen, keys and values live in our slots, and the model's masks and
caches are not made at all. Classes that call torch's attention function themselves do the same through `attention_door.py`. The
running forward is found through a context variable, which other threads do not see.
"""

from __future__ import annotations

import functools
import math
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.modules.hold import FORWARD, Hold, Hooked, held
from dllm_fast.modules.keep import evaluate
from dllm_fast.runners.network import NetworkRunner
from dllm_fast.transformers import attention_door
from dllm_fast.transformers.call import unwanted
from dllm_fast.transformers.describe import output_embeddings
from dllm_fast.transformers.native_engine import engine_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.networks.batch import Batch

NAME = "dllm_fast"
INTERFACE, FUNCTION = "AttentionInterface", "scaled_dot_product_attention"
MASKS = "AttentionMaskInterface"
# Where a config keeps which attention it wants.
_CHOICES = ("_attn_implementation", "_attn_implementation_internal")
# What some classes hand to their attention and `Batch.attend` does not compute.
_UNKNOWN = ("softcap", "s_aux", "sinks", "position_bias", "head_mask", "cache")


class UnsupportedError(Exception):
    """This class cannot run on our attention; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """What a class does to the logits after its output embeddings."""

    kind: str = "none"
    value: float = 1.0

    def __call__(self, logits: Tensor) -> Tensor:
        match self.kind:
            case "softcap":
                return torch.tanh(logits / self.value) * self.value
            case "scale":
                return logits * self.value
            case _:
                return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a probe found out about a class.

    Attributes:
        layers: calls of the attention in a forward, in order.
        kv_heads, head_dim: the shape of a key.
        reaches: for each layer how far it sees to both sides, or None.
        first_position: position id of the first token (RoBERTa counts from behind its padding id).
        after: what follows the output embeddings.
        through: where its layers meet our attention, `INTERFACE` or `FUNCTION`.
    """

    through: str
    layers: int
    kv_heads: int
    head_dim: int
    reaches: tuple[int | None, ...]
    first_position: int = 0
    after: After = field(default_factory=After)


class NativeNetwork:
    """A `Network` around a model of transformers, which the caller keeps alive; runs while it is installed."""

    def __init__(self, model: nn.Module, plan: Plan, *, vocabulary: int, context: int | None) -> None:
        self.layers, self.kv_heads, self.head_dim = plan.layers, plan.kv_heads, plan.head_dim
        self.vocabulary, self.context = vocabulary, context
        # The engine, which has this network, lives as long as the model.
        self._held = weakref.ref(model)
        self._plan = plan

    @property
    def _model(self) -> nn.Module:
        model = self._held()
        assert model is not None
        return model

    @property
    def _head(self) -> nn.Module:
        """The one of now: somebody may put another into the model between two runs."""
        head = output_embeddings(self._model)
        assert head is not None
        return head

    def install(self, hold: Hold) -> None:
        """Before all forwards: our attention is chosen, the head passed over."""
        install(hold, self._model, self._plan.through)

    def hidden(self, batch: Batch) -> Tensor:
        call = Call(batch, self._plan.reaches, through=self._plan.through)
        mask = None
        if self._plan.through == INTERFACE:
            # A mask of four dimensions is taken as it is, so none is made. Nobody reads this one.
            mask = torch.zeros((1, 1, 1, 1), dtype=self._head.weight.dtype, device=batch.ids.device)  # type: ignore[arg-type]
        features = call.run(self._model, batch.positions + self._plan.first_position, mask)
        assert call.layer == self.layers
        return features

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden)
        return self._plan.after(logits)


class NativeRunner(NetworkRunner):
    """`NetworkRunner` of a `NativeNetwork`."""

    def __init__(self, model: nn.Module, plan: Plan, info: ModelInfo, *, is_captured: bool = True) -> None:
        """`is_captured`: nothing is known to keep its steps from being captured."""
        network = NativeNetwork(model, plan, vocabulary=info.vocabulary, context=info.context)
        super().__init__(network, info, engine_of(model, network, plan, info) if is_captured else None)
        self._model = model  # the network does not keep it alive
        self._native = network

    def change(self, hold: Hold) -> None:
        """Evaluation mode, and our attention."""
        evaluate(hold, self._model)
        self._native.install(hold)


class Call:
    """One forward: which layer comes next, and what the head would have taken.

    Args:
        batch: what to compute.
        reaches: of the layers; None to find them out.
        through: where the layers meet our attention.
    """

    def __init__(self, batch: Batch, reaches: Sequence[int | None] | None, *, through: str) -> None:
        self.batch = batch
        self.through = through
        self.layer = 0
        self.found: list[tuple[int, int, torch.dtype]] = []
        self.found_reaches: list[int | None] = []
        self.features: list[Tensor] = []
        self._reaches = reaches

    def run(self, model: nn.Module, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Features `[B, Q, H]`."""
        before = FORWARD.get()
        FORWARD.set(self)
        try:
            model(input_ids=self.batch.ids, position_ids=positions, attention_mask=mask, **unwanted(model))
        finally:
            FORWARD.set(before)
        if len(self.features) != 1:
            raise UnsupportedError(f"its output embeddings are called {len(self.features)} times in a forward, not once")
        return self.features[0]

    def mask(self, rule: Callable[..., Tensor], context: int) -> Tensor:
        """In place of a mask, the reach of the layers that get it: a number in a tensor; -1 for everything."""
        query, keys = torch.tensor(context), torch.arange(2 * context + 1)
        zero = torch.tensor(0)
        seen = torch.as_tensor(rule(zero, zero, query, keys)).expand_as(keys)
        left, right = int(seen[:context].sum()), int(seen[context + 1 :].sum())
        if left == context:
            reach = -1
        elif left == right and bool(seen[context - left : context + right + 1].all()):
            reach = left
        else:
            raise UnsupportedError(f"its local attention sees {left} tokens to the left and {right} to the right")
        return torch.full((1, 1, 1, 1), reach, dtype=torch.int64)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        queries = self.batch.ids.shape[1]
        if query.shape[2] != queries or key.shape[2] != queries:
            raise UnsupportedError("its attention has keys that are not those of the queries")
        if self._reaches is None:
            reach = int(mask) if mask is not None and mask.dtype == torch.int64 and mask.numel() == 1 else -1
            self.found_reaches.append(None if reach < 0 else reach)
            self.found.append((key.shape[1], key.shape[3], key.dtype))
        layer, self.layer = self.layer, self.layer + 1
        reaches = self.found_reaches if self._reaches is None else self._reaches
        if layer >= len(reaches):
            raise UnsupportedError("its layers differ from one forward to the next")
        # What is called from here on is no layer.
        FORWARD.set(None)
        try:
            return self.batch.attend(layer, query, key, value, reach=reaches[layer], scale=scale)
        finally:
            FORWARD.set(self)


def _attention(  # noqa: PLR0917, the positions are transformers' own
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """What the layers call. Forwards that are not ours (another thread's) get what they would have had."""
    call: Call | None = FORWARD.get()
    if call is None:
        plain = _plain(module)
        return plain(module, query, key, value, attention_mask, scaling=scaling, **rest)  # type: ignore[no-any-return]
    if unknown := [name for name in _UNKNOWN if rest.get(name) is not None]:
        raise UnsupportedError(f"its attention takes {unknown[0]}, which ours does not compute")
    return call.attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


def _function(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, scale: float | None = None, **__: Any
) -> Tensor | None:
    """The door in torch's function; None for calls that are not of our forwards."""
    call: Call | None = FORWARD.get()
    if call is None or call.through != FUNCTION:
        return None
    if attn_mask is not None:
        raise UnsupportedError("it makes masks of its own")
    if query.dim() != 4:
        raise UnsupportedError(f"its queries have {query.dim()} dimensions")
    return call.attend(query, key, value, None, scale)


def _mask(*args: Any, mask_function: Callable[..., Tensor], config: Any = None, **rest: Any) -> Tensor | None:
    """What the layers are given as a mask."""
    call: Call | None = FORWARD.get()
    if call is not None:
        context = getattr(config, "max_position_embeddings", None)
        return call.mask(mask_function, context if isinstance(context, int) else 1 << 16)
    masks = getattr(_transformers(), MASKS)()
    plain = masks.get(implementation(config)) or masks["sdpa"]
    return plain(*args, mask_function=mask_function, config=config, **rest)  # type: ignore[no-any-return]


def _plain(module: nn.Module) -> Callable[..., Any]:
    """The attention that a layer would have had."""
    functions = getattr(_transformers(), INTERFACE)()
    name = implementation(getattr(module, "config", None))
    # Classes bring the eager one along.
    eager = getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None) if name == "eager" else None
    found: Callable[..., Any] = eager or functions.get(name) or functions["sdpa"]
    return found


def _skip_head(through: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
    """Keeps what the head is given and gives it nothing to do."""
    call: Call | None = FORWARD.get()
    if call is None or call.through != through:
        return None
    call.features.append(args[0])
    # Kernels of quantised heads may not bear no rows: one of bitsandbytes divides by their number.
    is_plain = type(module) is torch.nn.Linear
    return (args[0][..., : 0 if is_plain else 1, :],)


# One each, by which they are found again in a head, and which can be written to a file with it.
_SKIPS = {through: functools.partial(_skip_head, through) for through in (INTERFACE, FUNCTION)}


def _transformers() -> Any:
    return sys.modules["transformers"]


def install(hold: Hold, model: nn.Module, through: str) -> None:
    """Our attention in a model, for as long as somebody holds it.

    Raises:
        UnsupportedError: the version of transformers, or the class, has no place for it.
    """
    head = output_embeddings(model)
    if head is None:
        raise UnsupportedError("it names no output embeddings")
    if through == INTERFACE:
        _register()
    else:
        hold.change("attention function", attention_door, functools.partial(attention_door.Swap, _function))
    hold.change(f"head, {through}", head, functools.partial(Hooked, head, _SKIPS[through]))
    for config in _configs(model):
        if through == INTERFACE:
            hold.change("attention", config, functools.partial(_Chosen, config))
        if "use_cache" in vars(config):
            hold.change("use_cache", config, functools.partial(_Uncached, config))


def _register() -> None:
    transformers = _transformers()
    for interface, function in ((INTERFACE, _attention), (MASKS, _mask)):
        registry = getattr(transformers, interface, None)
        if registry is None:
            raise UnsupportedError(f"transformers {transformers.__version__} has no {interface}")
        registry.register(NAME, function)


class _Chosen:
    """A change for `hold.py`: a config names our attention."""

    def __init__(self, config: Any) -> None:
        self._config, settings = config, vars(config)
        self.name: str | None = config._attn_implementation
        self._before = {name: settings[name] for name in _CHOICES if name in settings}

    def apply(self) -> None:
        self._config._attn_implementation = NAME

    def undo(self) -> None:
        settings = vars(self._config)
        for name in _CHOICES:
            if name in self._before:
                settings[name] = self._before[name]  # where it stood, so that the order stays, too
            else:
                settings.pop(name, None)


class _Uncached:
    """A change for `hold.py`: a config asks for no cache of the class's own."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._before = config.use_cache

    def apply(self) -> None:
        self._config.use_cache = False

    def undo(self) -> None:
        self._config.use_cache = self._before


def implementation(config: object) -> str | None:
    """The attention that a config names, also while it names ours because a run needs it."""
    chosen = held("attention", config)
    name: str | None = chosen.name if isinstance(chosen, _Chosen) else getattr(config, "_attn_implementation", None)
    return "sdpa" if name == NAME else name  # of a copy that somebody made meanwhile


def _configs(model: nn.Module) -> list[Any]:
    """The configs that the modules of a model read, each once, and their parts."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = vars(module).get("config")
        if config is None or not hasattr(config, "_attn_implementation"):
            continue
        parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
        for part in (config, *(part for part in parts if hasattr(part, "_attn_implementation"))):
            found.setdefault(id(part), part)
    return list(found.values())


def after_candidates(config: object) -> list[After]:
    """What the class may do after its head, by its config; the probe compares."""
    candidates = [After()]
    for name in ("final_logit_softcapping", "logit_softcapping", "logits_soft_cap"):
        value = getattr(config, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            candidates.append(After(kind="softcap", value=float(value)))
    scales = [getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)]
    for value in (v for v in scales if isinstance(v, int | float) and not isinstance(v, bool) and v > 0):
        candidates += [After(kind="scale", value=float(value)), After(kind="scale", value=1.0 / float(value))]
    width = getattr(config, "d_model", None) or getattr(config, "hidden_size", None)
    if getattr(config, "scale_logits", None) is True and isinstance(width, int):
        candidates.append(After(kind="scale", value=1.0 / math.sqrt(width)))
    return candidates
