"""How long canvases are, and their blocks: what the caller, the rule, the model and the prompts say of it, made one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllm_fast.arrays import MOST_NUMBERS
from dllm_fast.errors import InvalidValueError
from dllm_fast.settings.config import changed, told

if TYPE_CHECKING:
    from dllm_fast.runners.runner import Runner
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.settings.resolve import Resolved
    from dllm_fast.text.prompts import Prompt

DEFAULT_NEW_TOKENS = 128
# Where the length changes: the most of an answer, which both papers have, and masks that it begins with.
MOST_NEW_TOKENS, FIRST_MASKS = 2048, 64


def check_growing(config: SamplerConfig, model: Runner) -> None:
    """Refuses rows whose length changes for a model that does not see the whole canvas."""
    if config.length == "fixed":
        return
    rule = None if model.info is None else model.info.attention_rule
    if rule is not None and (rule.fixed_blocks is not None or rule.has_canvas or rule.reorders):
        raise InvalidValueError(
            f"length={config.length!r} asks how sure the model is of the end of the whole answer, got one with attention "
            f"{rule.name!r}, which sees no more than a block of it; leave it out"
        )


def _canvas(model: Runner) -> int:
    """How many tokens a model denoises at once, always all of them; 1 for a model that takes any number."""
    info = model.info
    return info.block_length or 1 if info is not None and info.attention_rule.has_canvas else 1


def is_absolute(model: Runner) -> bool:
    return model.info is not None and model.info.attention_rule.fixed_blocks is not None


def with_blocks(config: SamplerConfig, resolved: Resolved, model: Runner) -> SamplerConfig:
    """The settings with the block of a model that attends by blocks, or, where they are block-causal, a part of it.

    Raises:
        InvalidValueError: the caller's block does not divide the model's: part of it would be filled before it can be seen.
    """
    info = model.info
    if info is None or info.block_length is None:
        return config
    if config.shift and info.attention_rule.has_canvas:
        raise InvalidValueError("shift must be off for a model whose canvas predicts itself, got True; leave it out")
    block, whole = config.block_length, info.block_length
    if block is not None and info.attention_rule.allows(block):
        return config
    if "block_length" in resolved.given and block is not None:
        must = (
            "be the canvas of this model" if info.attention_rule.has_canvas else "divide the block of this block-causal model"
        )
        raise InvalidValueError(
            f"block_length must {must}, got {block} and {whole}; leave it out, or load the model with another block_length"
        )
    sources = dict(config.sources) | {"block_length": info.sources.get("block_length", "model")}
    return told(config, block_length=whole, sources=sources)


def with_length(
    config: SamplerConfig,
    resolved: Resolved,
    prompts: list[Prompt],
    model: Runner,
    *,
    infilling: bool,
    negatives: list[Prompt] | None = None,
) -> SamplerConfig:
    """The settings with the number of new tokens, the block and the end rule decided."""
    longest = max(len(prompt.ids) + len(prompt.tail) for prompt in prompts)
    which = "prompt"
    if negatives is not None:
        away = max(len(other.ids) + len(own.tail) for own, other in zip(prompts, negatives, strict=True))
        which, longest = ("prompt", longest) if away <= longest else ("negative_prompt", away)
    context, canvas = model.context, _canvas(model)
    if infilling:
        if context is not None and longest > context:
            raise InvalidValueError(f"a canvas must fit the model's context of {context} tokens, got {longest}; shorten it")
        if short := next((length for prompt in prompts if (length := len(prompt.ids)) % canvas), None):
            raise InvalidValueError(
                f"what is filled must be whole canvases of this model, of {canvas} tokens each, got {short} tokens; lengthen it"
            )
        return changed(config, stop_at_eos=bool(config.stop_at_eos))

    new_tokens, least = config.max_new_tokens, config.min_new_tokens
    grows = config.length != "fixed"
    if new_tokens is None:
        usual = -(-max(MOST_NEW_TOKENS if grows else DEFAULT_NEW_TOKENS, least) // canvas) * canvas
        new_tokens = usual if context is None else min(usual, max((context - longest) // canvas, 1) * canvas)
    first = config.initial_length or 0
    name, fewest = ("initial_length", first) if first > least else ("min_new_tokens", least)
    if context is not None and config.max_new_tokens is None and longest < context < longest + fewest:
        raise InvalidValueError(
            f"{which} and new tokens must fit the model's context of {context} tokens, got {longest} + {fewest} at least; "
            f"shorten the {which} or lower {name}"
        )
    if context is not None and config.max_new_tokens is None and longest >= context:
        raise InvalidValueError(
            f"a {which} must leave room in the model's context of {context} tokens, got {longest}; shorten the {which}"
        )
    if context is not None and longest + new_tokens > context:
        raise InvalidValueError(
            f"{which} and new tokens must fit the model's context of {context} tokens, got {longest} + {new_tokens}; "
            f"shorten the {which} or lower max_new_tokens"
        )
    if new_tokens % canvas:
        nearest = [n for n in (new_tokens // canvas * canvas, -(-new_tokens // canvas) * canvas) if n]
        raise InvalidValueError(
            f"max_new_tokens must be whole canvases of this model, of {canvas} tokens each, got {new_tokens}; use "
            f"{' or '.join(map(str, nearest))}"
        )
    block = config.block_length
    absolute = is_absolute(model)
    if block is not None and "block_length" in resolved.given and new_tokens % block and not absolute and not grows:
        raise InvalidValueError(_block_error(block, new_tokens))
    block = block if block is None or absolute else min(block, new_tokens)
    steps = config.steps
    plain = config.commits_counts and config.schedule == "even" and config.fills_blocks and not absolute and not grows
    if steps is None and config.steps_per_block is None and plain:
        # One token a forward, said in full; a short last block has no such number.
        steps = new_tokens if block is None or new_tokens % block == 0 else None
    stop = config.stop_at_eos
    return changed(
        config,
        max_new_tokens=new_tokens,
        initial_length=min(max(first or FIRST_MASKS, least), new_tokens) if grows else None,
        block_length=block,
        steps=steps,
        stop_at_eos=bool(config.eos_token_ids) if stop is None else stop,
    )


def _block_error(block: int, new_tokens: int) -> str:
    divisors = [d for d in range(1, new_tokens + 1) if new_tokens % d == 0]
    nearest = min(divisors, key=lambda d: (abs(d - block), d))
    lengths = [n for n in (new_tokens // block * block, -(-new_tokens // block) * block) if n]
    return (
        f"block_length must divide max_new_tokens, got {block} and {new_tokens}; use block_length={nearest}, "
        f"or max_new_tokens={' or '.join(map(str, dict.fromkeys(lengths)))}"
    )


def check_size(
    prompts: list[Prompt],
    config: SamplerConfig,
    num_samples: int,
    *,
    infilling: bool,
    negatives: list[Prompt] | None = None,
) -> None:
    """Refuses more positions in all rows, and their twins under guidance, than can be allocated."""
    new_tokens = 0 if infilling else config.max_new_tokens or 0
    own = [len(prompt.ids) for prompt in prompts]
    twins = [] if config.guidance == 0 else own if negatives is None else [len(prompt.ids) for prompt in negatives]
    answers = sum(new_tokens + len(prompt.tail) for prompt in prompts)
    positions = num_samples * (sum(own) + answers + (sum(twins) + answers if twins else 0))
    if positions > MOST_NUMBERS:
        raise InvalidValueError(
            f"the canvases must hold at most 2^27 positions in all, got {positions}; lower max_new_tokens, or sample in "
            "several calls"
        )
