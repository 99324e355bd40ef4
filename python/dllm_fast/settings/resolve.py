"""From what people type to a `SamplerConfig`: presets, our names and those of others, over what the model recommends."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.nearest import nearest
from dllm_fast.records import scalar
from dllm_fast.settings import belongs
from dllm_fast.settings.aliases import ALIASES
from dllm_fast.settings.config import BESIDE_THRESHOLD, CUTS, SamplerConfig, changed
from dllm_fast.settings.presets import presets
from dllm_fast.settings.translation import answer, translate

NAMES = tuple(field.name for field in dataclasses.fields(SamplerConfig) if field.name != "sources")
_DEFAULT = SamplerConfig()
# What None comes to, where that can be said before a model is known: two names that say the same must agree.
DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(SamplerConfig)} | {"stop_at_eos": True}
# Letters of a name that is shown.
_LONGEST = 100
# Of `sample`, for those who misspell them.
ARGUMENTS = (
    *("preset", "config", "tokenizer", "attention_mask", "chat", "negative_prompt", "seed", "num_samples", "on_step"),
    *("guesses", "like", "eligible_after", "verifier"),
)


class Recommends(Protocol):
    """What a model recommends: its family, the published rule and settings over that, and its shift, with sources."""

    @property
    def family(self) -> str: ...

    @property
    def preset(self) -> str | None: ...

    @property
    def defaults(self) -> Mapping[str, Any]: ...

    @property
    def shift(self) -> int: ...

    @property
    def sources(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings after presets and aliases.

    Attributes:
        config: the settings; its `sources` say who set each.
        given: names that the caller set, in our words; the others come from the preset, the model's family or the defaults.
        aliases: what the caller typed, to our name for it, or to a note where there was nothing to set.
    """

    config: SamplerConfig
    given: frozenset[str]
    aliases: dict[str, str]


def resolve(
    preset: str | None,
    config: SamplerConfig | None,
    settings: Mapping[str, Any],
    model: Recommends | None = None,
    *,
    lacking: Collection[str] = (),
) -> Resolved:
    """Settings over `config` or the preset, over what the model's family recommends, over the defaults.

    Of the settings and of the arguments of `sample`, the caller does not take those that are `lacking`.
    A preset is a whole rule: beside one, or a config, the family only says what belongs to the model (shift, blocks).

    Raises:
        InvalidValueError: an unknown name or preset, two names for one thing with different values, a bad value.
        InvalidTypeError: a value, or `config`, of the wrong type.
    """
    values, aliases = _canonical({name: scalar(value) for name, value in settings.items()}, lacking)
    if preset is None and config is not None:
        # `config=presets()["llada"]` is `preset="llada"`: its settings are not the caller's own.
        preset = next((name for name, published in presets().items() if published is config), None)
        config = None if preset is not None else config
    base = _base(preset, config)
    sources = dict.fromkeys(NAMES, "default")
    if preset is None and config is None and model is not None and model.preset is not None:
        base = changed(presets()[model.preset], **model.defaults)
        sources |= dict.fromkeys(_set_in(base), f"family {model.family}")
    elif preset is not None:
        sources |= dict.fromkeys(_set_in(base), f"preset {preset}")
    given = set(values)
    if config is not None:
        given |= _set_in(config)
    sources |= dict.fromkeys(given, "caller")
    if "steps" in values and "steps_per_block" not in values:
        values["steps_per_block"] = None
    elif "steps_per_block" in values and "steps" not in values:
        values["steps"] = None
    # A cut that the caller names takes the place of the preset's; a bound of 0 is one, and what is no number is refused below.
    alone = ("factor", "entropy_bound", "entropy_threshold", "verify", "verifier_mixture")
    cuts = (*CUTS, *BESIDE_THRESHOLD, "verify", "verifier_mixture")
    named = {name for name in cuts if values.get(name) is not None and values[name] is not False}
    if named & {*alone}:
        values = dict.fromkeys(cuts, None) | values
    elif named:
        # What stands beside a threshold takes the place of what else does, and leaves the preset's threshold.
        beside = BESIDE_THRESHOLD if named & {*BESIDE_THRESHOLD} else ()
        values = dict.fromkeys((*alone, *beside), None) | values
    # And whoever takes a rule away, what belongs to it: of a preset, or of his config.
    for name in belongs.left_over(base, values, DEFAULTS):
        values[name], sources[name] = None, "default"
        given.discard(name)
    if model is not None and "shift" not in given:
        values["shift"], sources["shift"] = bool(model.shift), model.sources.get("shift", f"family {model.family}")
    return Resolved(changed(base, **values, sources=sources), frozenset(given), aliases)


def _set_in(config: SamplerConfig) -> set[str]:
    """Names of the settings that are not at their default."""
    return {name for name in NAMES if getattr(config, name) != getattr(_DEFAULT, name)}


def _base(preset: str | None, config: SamplerConfig | None) -> SamplerConfig:
    if preset is not None and config is not None:
        raise InvalidValueError(
            f"preset and config both give all settings, got preset={preset!r} and a config; keep one of them"
        )
    if config is not None:
        if not isinstance(config, SamplerConfig):
            raise InvalidTypeError(
                f"config must be a SamplerConfig, got {type(config).__name__}; pass single settings by name instead"
            )
        return config
    if preset is None:
        return _DEFAULT
    known = presets()
    if not isinstance(preset, str):
        raise InvalidTypeError(f"preset must be a name, got {type(preset).__name__}; use one of dllm_fast.presets()")
    if preset not in known:
        near = _question(preset, known)
        names = "dllm_fast.presets()" if near else ", ".join(known)
        remedy = near or "; leave it out for what the model's family recommends"
        raise InvalidValueError(f"preset must be one of {names}, got {preset!r}{remedy}")
    return known[preset]


def _canonical(settings: Mapping[str, Any], lacking: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings under our names, and the aliases that were used."""
    values: dict[str, Any] = {}
    typed: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for name, value in settings.items():
        found = {name: None if name == "top_k" and _is_off(value) else value}
        if name in ALIASES:
            found, aliases[name] = translate(name, value, settings)
        elif name not in NAMES:
            raise InvalidValueError(unknown(name, value, lacking))
        for ours, canonical in found.items():
            if ours in values and not _same(*(DEFAULTS[ours] if v is None else v for v in (values[ours], canonical))):
                raise InvalidValueError(
                    f"{typed[ours]} and {name} both say {ours} and must agree, "
                    f"got {shown(settings[typed[ours]])} and {shown(value)}; keep one of them"
                )
            if ours not in values or canonical is not None:
                values[ours] = canonical
                typed[ours] = name
    total, each = typed.get("steps"), typed.get("steps_per_block")
    if total and each and values["steps"] is not None and values["steps_per_block"] is not None:
        raise InvalidValueError(
            f"{total} is the total number of forwards and {each} the number in each block, "
            f"got {total}={values['steps']} and {each}={values['steps_per_block']}; "
            "give one of them (LLaDA counts the total, Diffusers counts per block)"
        )
    return values, aliases


def _is_off(top_k: object) -> bool:
    """With others 0 tokens to draw from, or -1 (vLLM), are all of them."""
    return isinstance(top_k, int) and not isinstance(top_k, bool) and top_k in (0, -1)


def _same(a: object, b: object) -> bool:
    """Equal, also where the values are lists or arrays of ids."""
    if hasattr(a, "__len__") or hasattr(b, "__len__"):
        return _listed(a) == _listed(b)
    return bool(a == b)


def _listed(ids: object) -> str:
    return repr(list(ids)) if isinstance(ids, list | tuple) else repr(ids)


def unknown(name: str, value: object, lacking: Collection[str] = ()) -> str:
    """What to say of a name that is no setting: never a name that is refused next, but what that would be answered with."""
    if name in ARGUMENTS:
        return f"{name} is an argument of sample and not a setting, got {shown(value)}; leave it out, or call sample with it"
    if name in ALIASES:
        remedy = answer(name)
        where = " (of sample)" if set(re.findall(r"(\w+)=", remedy)) & set(lacking) else ""
        return f"{name} is not a setting here, got {shown(value)}; {remedy}{where}"
    name = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
    near = nearest(name, [*NAMES, *ARGUMENTS, *ALIASES])
    taken = [known for known in near if known not in ALIASES or ALIASES[known].ours is not None]
    taken = [known for known in taken if known not in lacking and (known not in ALIASES or ALIASES[known].ours not in lacking)]
    if near and near[0] not in taken:
        remedy = "leave it out: it is an argument of sample"
        if near[0] in ALIASES and ALIASES[near[0]].ours is None:
            remedy = ALIASES[near[0]].remedy
        return f"{name} is not a setting, got {shown(value)}; if {near[0]!r} is meant, {remedy}"
    return (
        f"{name} is not a setting, got {shown(value)}{_asked(taken) or ';'} help(dllm_fast.SamplerConfig) describes all of them"
    )


def unknown_to_config(name: str, value: object) -> str:
    """What to say of a name that is no field of a `SamplerConfig`."""
    return unknown(name, value, lacking=ARGUMENTS)


def _question(name: str, known: Iterable[str]) -> str:
    return _asked(nearest(name, known))


def _asked(near: Iterable[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
