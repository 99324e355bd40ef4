"""From what the caller gives to the plan of a run: special tokens, lengths, canvases, random streams.

Everything that can be refused is refused here, before the first forward.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from dllm_fast.arrays import MOST_NUMBERS, as_array, check_many
from dllm_fast.errors import EqualSamplesWarning, InvalidTypeError, InvalidValueError, shown, warn
from dllm_fast.families.model_info import for_call
from dllm_fast.open_positions import open_of, opened
from dllm_fast.orders import moved, ranks_of, shifted, waits_of
from dllm_fast.records import count, scalar
from dllm_fast.runners.guides import PAIR, guides, negatives_of
from dllm_fast.settings.config import changed
from dllm_fast.tensors import is_tensor
from dllm_fast.text import tokens
from dllm_fast.verifiers import second

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.result import Stats
    from dllm_fast.runners.guides import Guide
    from dllm_fast.runners.runner import Runner
    from dllm_fast.runners.verified import Second
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.settings.resolve import Resolved
    from dllm_fast.text.prompts import Prompt
    from dllm_fast.verifiers import Verifier

DEFAULT_NEW_TOKENS = 128
# Where the length changes: the most of an answer, which both papers have, and masks that it begins with.
MOST_NEW_TOKENS, FIRST_MASKS = 2048, 64
# Rows of one call: little enough to allocate, whatever else they hold.
_MOST_ROWS = 2**20


@dataclass(frozen=True, slots=True)
class Tried:
    """How the lengths of gaps were chosen.

    Attributes:
        lengths: of the gaps of each canvas.
        scores: of the lengths of each canvas, the mean of logarithms of probabilities; 0 where there was nothing to choose.
        tries: combinations that were tried for each canvas, a forward each.
        stats: of all of them.
    """

    lengths: list[list[int]]
    scores: list[float]
    tries: list[int]
    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a run starts from. Lists have an entry for each row, prompt-major.

    Attributes:
        tokenizer: for the texts of the answer, or None.
        config: the settings as they are used, each with its source.
        rule: the settings that decide: with everything that is suppressed.
        special: tokens that the tokenizer says are special, suppressed beside those of the settings.
        canvases: what is filled, int64.
        open: which positions of each are written, bool.
        starts: first position that `sample` appended; 0 for `infill`.
        block_starts: from where blocks are counted: `starts`, but the beginning of the canvas for a block-causal model.
        ranks: of each position of a canvas, where the caller gave an order.
        waits: pairs of a position and those that must be written before it, where the caller gave some.
        prompts: number of the prompt.
        guides: how it is guided, or None.
        seeds, requests: the random stream.
        seed: as it was given, or drawn.
        aliases: names of peers that the caller typed.
        is_infilling: nothing was appended.
        tried: the lengths of gaps, and what it took to choose them, where there are some.
        second: the model that verifies, where one does.
    """

    tokenizer: Any
    config: SamplerConfig
    rule: SamplerConfig
    special: tuple[int, ...]
    canvases: list[NDArray[np.int64]]
    open: list[NDArray[np.bool_]]
    starts: list[int]
    block_starts: list[int]
    ranks: list[NDArray[np.float64]] | None
    waits: list[dict[int, list[int]]] | None
    prompts: list[int]
    guides: list[Guide | None]
    seeds: list[int]
    requests: list[int]
    seed: int | list[int]
    aliases: dict[str, str]
    is_infilling: bool
    tried: Tried | None = None
    second: Second | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return self.config.stop_texts

    @property
    def longest(self) -> list[int]:
        """Positions that each canvas may come to have."""
        first, most = self.config.initial_length, self.config.max_new_tokens
        more = 0 if first is None or most is None else most - first
        return [len(canvas) + more for canvas in self.canvases]

    @property
    def max_rows(self) -> int | None:
        """Rows of the run in a forward at most, beside their twins."""
        most = self.config.max_batch_rows
        return most if most is None or not any(self.guides) else most // PAIR


def plan(
    runner: Runner,
    tokenizer: Any,
    resolved: Resolved,
    read: Callable[..., list[Prompt]],
    *,
    seed: int | Sequence[int] | None,
    num_samples: int,
    is_infilling: bool,
    ranks: object = None,
    eligible_after: object = None,
    negative: Callable[..., list[Prompt]] | None = None,
    open_: object = None,
    verifier: Verifier | None = None,
) -> Plan:
    """What a run starts from.

    Args:
        runner: how the model is run.
        tokenizer: of the caller or the checkpoint, or None.
        resolved: the settings as far as they are known without prompts.
        read: makes prompts of what the caller gave, once the tokenizer and, to fill in, the mask are known.
        seed, num_samples: as `sample` takes them.
        is_infilling: fill the masks that are there and append nothing.
        ranks, eligible_after: what the caller wants of the order of the positions, or None.
        negative: as `read`, of what guidance leads away from; None for the prompt in masks.
        open_: which positions of each canvas are written, where no mask says it.
        verifier: the second model, or None.

    Raises:
        InvalidValueError, InvalidTypeError: what cannot work.
    """
    check_ends(resolved.config, tokenizer, infilling=is_infilling)
    check_growing(resolved.config, runner, infilling=is_infilling)
    told = with_ids(resolved.config, runner, tokenizer)
    named, special = with_suppressed(told, runner, tokenizer)
    prompts = read(tokenizer=tokenizer, mask=named.mask_token_id if is_infilling else None)
    blocked = with_blocks(named, resolved, runner)
    check_ids(prompts, blocked, runner, special, infilling=is_infilling)
    negatives = None if negative is None else _negatives(negative(tokenizer=tokenizer), len(prompts), blocked, resolved, runner)
    config = with_length(blocked, resolved, prompts, runner, infilling=is_infilling, negatives=negatives)
    flags = opened(open_, prompts, blocked, infilling=is_infilling)
    plain = plain_seed(seed)
    seeds, requests = streams(plain, num_samples, len(prompts))
    each = len(seeds) // len(prompts)
    check_samples(each, config)
    check_size(prompts, config, each, infilling=is_infilling, negatives=negatives)
    of_rows = [number for number in range(len(prompts)) for _ in range(each)]
    starts = [0 if is_infilling else len(prompts[number].ids) for number in of_rows]
    canvases = [canvas_of(prompts[number], config, infilling=is_infilling) for number in of_rows]
    ranked, waits = row_orders(ranks, eligible_after, prompts, config, infilling=is_infilling)
    is_open = [
        open_of(canvas, prompts[number], config, flags[number]) for canvas, number in zip(canvases, of_rows, strict=True)
    ]
    if config.verify and any(positions[0] for positions in is_open):
        raise InvalidValueError(
            "verify goes on from what is given, got a canvas whose first token is open; set verify to False, or give it"
        )
    other, unknown = second(verifier, config, runner, tokenizer, canvases)
    return Plan(
        tokenizer=tokenizer,
        config=config,
        rule=changed(
            config,
            suppress_tokens=(*config.suppress_tokens, *special, *unknown),
            stop=tuple(one for one in config.stop if not isinstance(one, str)),
        ),
        special=special,
        canvases=canvases,
        open=is_open,
        starts=starts,
        block_starts=[0] * len(starts) if _is_absolute(runner) else starts,
        ranks=None if ranked is None else [ranked[number] for number in of_rows],
        waits=None if waits is None else [waits[number] for number in of_rows],
        prompts=of_rows,
        guides=guides(config, is_open, starts, None if negatives is None else [negatives[number] for number in of_rows]),
        seeds=seeds,
        requests=requests,
        seed=plain,
        aliases=resolved.aliases,
        is_infilling=is_infilling,
        second=other,
    )


def _is_absolute(model: Runner) -> bool:
    return model.info is not None and model.info.attention_rule.fixed_blocks is not None


def check_ends(config: SamplerConfig, tokenizer: Any, *, infilling: bool) -> None:
    """Refuses texts that end an answer without a tokenizer, and what ends one where nothing is appended."""
    for name in ("stop", "min_new_tokens"):
        if infilling and (value := getattr(config, name)):
            raise InvalidValueError(
                f"infill keeps what stands behind a gap, so that nothing ends it, got {name}={shown(value)}; leave it out, or "
                "use sample"
            )
    if infilling and config.eos_policy == "suffix":
        raise InvalidValueError(
            "infill keeps what stands behind a gap, got eos_policy='suffix', which fills it with end tokens; use 'delay' or "
            "'penalise', or use sample"
        )
    if config.stop_texts and tokenizer is None:
        raise InvalidValueError(
            f"a stop of text needs a tokenizer, got {config.stop_texts[0][:40]!r} and none; pass tokenizer=, or token ids"
        )


def check_growing(config: SamplerConfig, model: Runner, *, infilling: bool) -> None:
    """Refuses rows whose length changes where nothing is appended, and for a model that does not see the whole canvas."""
    if config.length == "fixed":
        return
    if infilling:
        raise InvalidValueError(
            f"infill keeps what stands behind a gap where it is, got length={config.length!r}; leave it out, write a gap of "
            "unknown length as [MASK:3-10] or with gaps=, or use sample"
        )
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


def with_ids(config: SamplerConfig, model: Runner, tokenizer: Any) -> SamplerConfig:
    """The settings with the mask, the end tokens and, for noise, the size of the vocabulary, where the caller left them open.

    Raises:
        InvalidValueError: no mask for a rule of masks, a mask beside noise, or a vocabulary that nobody knows.
    """
    mask, ends, sources = config.mask_token_id, config.eos_token_id, dict(config.sources)
    vocabulary, has_noise = config.vocabulary, config.noise != "mask"
    if mask is None:
        mask, sources["mask_token_id"] = for_call("mask_token_id", model, tokenizer)
    if has_noise:
        if mask is None and config.noise == "hybrid":
            raise InvalidValueError(
                "noise='hybrid' shows masks among other tokens, got none from the model or the tokenizer; pass mask_token_id="
            )
        if mask is not None and config.noise != "hybrid":
            raise InvalidValueError(
                f"noise={config.noise!r} is for models that never saw a mask, got one with the mask {mask} "
                f"({sources['mask_token_id']}); leave noise out, or choose a preset for models with masks"
            )
        if vocabulary is None:
            vocabulary, sources["vocabulary"] = model.vocabulary, "model"
        if vocabulary is None:
            raise InvalidValueError(
                "noise is drawn from the vocabulary, got a model that does not say how many ids it has; pass vocabulary="
            )
        if model.vocabulary is not None and vocabulary > model.vocabulary:
            raise InvalidValueError(
                f"vocabulary must be at most that of the model, got {vocabulary} for {model.vocabulary} ids; leave it out"
            )
    elif mask is None:
        raise InvalidValueError(
            "a mask token is needed, got none from the model or the tokenizer; pass mask_token_id= "
            "(LLaDA 126336, Dream 151666, LLaDA2 156895, BERT 103), or noise='uniform' for a model of uniform noise"
        )
    if ends is None:
        ends, source = for_call("eos_token_id", model, tokenizer)
        sources["eos_token_id"] = "default" if ends is None else source
    return changed(config, mask_token_id=mask, vocabulary=vocabulary, eos_token_id=ends, sources=sources)


def with_suppressed(config: SamplerConfig, model: Runner, tokenizer: Any) -> tuple[SamplerConfig, tuple[int, ...]]:
    """The settings with names of tokens as ids, and the special tokens of the tokenizer that are suppressed besides.

    Those are not written into the settings, which stay short and fit any tokenizer; `sources` names them.

    Raises:
        InvalidValueError: a name without a tokenizer, or one that it does not know.
    """
    given = tokens.ids_of(config.suppress_tokens, tokenizer, "suppress_tokens")
    special: tuple[int, ...] = ()
    if not (config.as_published if config.allow_special is None else config.allow_special):
        ends = model.token_id("eos_token_id")
        written = {config.mask_token_id, *config.eos_token_ids, *((ends,) if isinstance(ends, int) else ends or ())}
        for stop in config.stop:  # who names one wants it written
            written |= {tokens.token_id(tokenizer, stop)} if isinstance(stop, str) else {*np.atleast_1d(stop).tolist()}
        special = tokens.not_written(tokenizer, {*written, *given}, model.vocabulary)
    sources = dict(config.sources)
    if special:
        by_tokenizer = f"tokenizer: {tokens.shown(tokenizer, special)} (special; allow_special=True lets them be written)"
        sources["suppress_tokens"] = f"{sources['suppress_tokens']}; {by_tokenizer}" if given else by_tokenizer
    return changed(config, suppress_tokens=given, sources=sources), special


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
    return changed(config, block_length=whole, sources=sources)


def check_ids(
    prompts: list[Prompt], config: SamplerConfig, model: Runner, special: tuple[int, ...] = (), *, infilling: bool
) -> None:
    """Refuses ids outside the vocabulary, as far as that is known, nothing that may be written, and masks in a prompt."""
    vocabulary = model.vocabulary
    if vocabulary is not None:
        masks = () if config.mask_token_id is None else (config.mask_token_id,)
        suppressed = [token for token in config.suppress_tokens if isinstance(token, int)]
        stops = [token for one in config.stop if not isinstance(one, str) for token in np.atleast_1d(one).tolist()]
        ends = config.eos_token_ids
        settings = {"mask_token_id": masks, "eos_token_id": ends, "suppress_tokens": suppressed, "stop": stops}
        for setting, ids_of_it in settings.items():
            if outside := [token for token in ids_of_it if token >= vocabulary]:
                raise InvalidValueError(
                    f"{setting} must be an id of the vocabulary, got {outside[0]} for {vocabulary} ids; "
                    "check it against the tokenizer"
                )
        table = config.token_frequencies
        if table is not None and len(table) != vocabulary:
            raise InvalidValueError(
                f"token_frequencies must have a count for each of the {vocabulary} ids of the vocabulary, got {len(table)}; "
                f"count with TokenFrequencies.of(ids, {vocabulary})"
            )
        may_be_barred = config.min_new_tokens or config.eos_policy in {"suffix", "penalise"}
        early = {*ends, *(one for one in config.stop if isinstance(one, int))} if may_be_barred else ()
        if len({*suppressed, *masks, *special, *early}) >= vocabulary:
            raise InvalidValueError(
                f"suppress_tokens must leave a token that may be written, got {len(set(suppressed))} of {vocabulary} ids "
                f"beside the mask{' and what ends an answer' if early else ''}; suppress fewer"
            )
    name = "canvas" if infilling else "prompt"
    for row, prompt in enumerate(prompts):
        ids = np.concatenate([prompt.ids, prompt.tail])
        _check_ids_in(ids, model, name, row)
        if not infilling and (found := np.flatnonzero(ids == config.mask_token_id)).size:
            raise InvalidValueError(
                f"a prompt must hold no mask tokens, got one at position {found[0]} of row {row}; "
                "to fill masks in place use dllm_fast.infill"
            )


def _negatives(given: list[Prompt], prompts: int, config: SamplerConfig, resolved: Resolved, model: Runner) -> list[Prompt]:
    """The negative prompt of each prompt. It may hold masks, where nothing is told.

    Raises:
        InvalidValueError: without guidance, not one for each prompt, or ids outside the vocabulary.
    """
    if config.guidance == 0 and "guidance" not in resolved.given:
        raise InvalidValueError(
            "negative_prompt is what guidance leads away from, got one without guidance; pass guidance=1.0, or leave it out"
        )
    for row, prompt in enumerate(given):
        _check_ids_in(prompt.ids, model, "negative_prompt", row)
    return negatives_of(given, prompts)


def _check_ids_in(ids: NDArray[np.int64], model: Runner, name: str, row: int) -> None:
    low, high = ids.min(), ids.max()
    if low < 0 or (model.vocabulary is not None and high >= model.vocabulary):
        raise InvalidValueError(
            f"ids of the {name} must lie in [0, {model.vocabulary or '2^32'}), "
            f"got {low if low < 0 else high} in row {row}; use the tokenizer of this model"
        )


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
        if "max_new_tokens" in resolved.given:
            raise InvalidValueError(
                f"infill appends nothing, got max_new_tokens={config.max_new_tokens}; leave it out, or use sample"
            )
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
    absolute = _is_absolute(model)
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


def canvas_of(prompt: Prompt, config: SamplerConfig, *, infilling: bool) -> NDArray[np.int64]:
    """The canvas that is filled: the prompt, its masks and what closes a text, or what `infill` was given."""
    if infilling:
        return prompt.ids.copy()  # they may be the caller's, who may write into them while the model runs
    shown = 0 if config.mask_token_id is None else config.mask_token_id  # noise covers it
    count = (config.max_new_tokens if config.length == "fixed" else config.initial_length) or 0
    return np.concatenate([prompt.ids, np.full(count, shown, dtype=np.int64), prompt.tail])


def row_orders(
    ranks: object, eligible_after: object, prompts: list[Prompt], config: SamplerConfig, *, infilling: bool
) -> tuple[list[NDArray[np.float64]] | None, list[dict[int, list[int]]] | None]:
    """For each prompt the ranks of its canvas, and positions of it that wait for others; None where the caller gave none."""
    new = config.max_new_tokens or 0
    ranked = None if ranks is None else ranks_of(ranks, len(prompts))
    waits = None if eligible_after is None else waits_of(eligible_after, len(prompts))
    if not infilling:
        places = [(len(prompt.ids), len(prompt.ids) + new + len(prompt.tail)) for prompt in prompts]
        if ranked is not None:
            ranked = [moved(row, start, new, length) for row, (start, length) in zip(ranked, places, strict=True)]
        if waits is not None:
            waits = [shifted(row, start, new) for row, (start, _) in zip(waits, places, strict=True)]
    return ranked, None if waits is None else [dict(row) for row in waits]


def plain_seed(seed: int | Sequence[int] | None) -> int | list[int]:
    """The seed in Python's own numbers: one for all prompts, or one for each; one that nobody knows in place of None."""
    if seed is None:
        return secrets.randbits(64)
    seed = scalar(seed)
    if _is_whole(seed):
        return int(seed)
    if is_tensor(seed) or isinstance(seed, np.ndarray):
        array = as_array(seed, "seed")
        seed = array.tolist() if array.ndim == 1 and array.dtype.kind in "iu" else seed
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes | bytearray | memoryview):
        check_many(len(seed), "seed")
        if all(map(_is_whole, seed)):
            return [int(s) for s in seed]
    raise InvalidTypeError(
        f"seed must be a whole number, or one for each prompt, got {shown(seed)}; pass an int, or None to draw one"
    )


def _is_whole(value: object) -> TypeGuard[int | np.integer[Any]]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def streams(seed: int | list[int], num_samples: int, prompts: int) -> tuple[list[int], list[int]]:
    """Seed and sample index of every row."""
    num_samples = count(num_samples, "num_samples", most=_MOST_ROWS, remedy="use 1 for one answer a prompt")
    if num_samples * prompts > _MOST_ROWS:
        raise InvalidValueError(
            f"there must be at most 2^20 rows, got {num_samples} samples for each of {prompts} prompts; sample in several calls"
        )
    seeds = [seed] * prompts if isinstance(seed, int) else seed
    if len(seeds) != prompts:
        raise InvalidValueError(
            f"seed must be one number, or one for each of {prompts} prompts, got {len(seeds)}; check its length"
        )
    for value in seeds:
        if not 0 <= value < 2**64:
            raise InvalidValueError(f"seed must lie in [0, 2^64), got {shown(value)}; use a number from 0")
    return [s for s in seeds for _ in range(num_samples)], list(range(num_samples)) * prompts


def check_samples(num_samples: int, config: SamplerConfig) -> None:
    """Warns where several samples are asked of a rule that certainly draws nothing that could tell them apart."""
    if num_samples == 1:
        return
    if config.noise != "mask":
        return  # each sees noise of its own
    picks = config.temperature > 0 and config.top_k != 1
    ranks = config.order_temperature > 0 or config.order in {"random", "ancestral"}
    if picks or (ranks and not _at_once(config)):
        return
    if config.temperature > 0:
        why = "a draw from one token draws nothing; leave top_k=1 out"
    elif ranks:
        why = "every block is filled in one step, where the order decides nothing; pass temperature=1.0 or more steps"
    else:
        why = "this rule draws nothing; pass temperature=1.0, order_temperature= or order='random'"
    warn(f"all {num_samples} samples of a prompt will be equal, because {why}, or num_samples=1", EqualSamplesWarning)


def _at_once(config: SamplerConfig) -> bool:
    """Is every block certainly filled in one step?"""
    if 1 in (config.steps, config.steps_per_block, config.block_length, config.max_new_tokens):
        return True
    all_ = config.threshold is not None and config.threshold <= 0
    return all_ or math.inf in (config.factor, config.entropy_bound)
