"""What to say of an option that does not exist: the nearest, or what a name of another library or of Python is here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_PROMPT = ("prompt", "text")
# Names whose options are called otherwise; the first that the command has.
_CALLED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("prompt", "text", "input", "inputs", "input_ids", "messages", "prompt_token_ids"), _PROMPT),
    "prompts": ("prompts", "text"),
    "system_prompt": ("system",),
    **dict.fromkeys(("chat_template", "use_chat_template", "apply_chat_template"), ("chat",)),
    "torch_dtype": ("dtype",),
    "device_map": ("device",),
}
_OF_GENERATE = ("max_new_tokens", "chat", "system", "prompts")
_SAID = {
    **dict.fromkeys(("model", "model_path", "folder", "checkpoint"), "the folder is the argument behind the command"),
    "tokenizer": "the tokenizer.json of the folder is taken",
}
# A setting in a text, as Python has it.
_SETTING = re.compile(r"\b(\w+)=(True|False|None|'[^']*'|\d+(?:\.\d+)?)?")


def answer(option: str, options: Collection[str]) -> str:
    """What follows "... is not an option", or nothing.

    Args:
        option: what was typed.
        options: those that there are, with their dashes.
    """
    from dllm_fast.nearest import nearest
    from dllm_fast.settings.aliases import ALIASES
    from dllm_fast.settings.resolve import ARGUMENTS, NAMES

    name = option.strip("-").replace("-", "_").casefold()
    named = {known.strip("-").replace("-", "_"): known for known in options if known.startswith("--")}
    if "order" not in named:  # a command that does not sample
        near = nearest(name, named, 1)
        return f"; did you mean {named[near[0]]}?" if near else ""
    if said := _known(name, options):
        return said
    near = nearest(name, [*named, *_CALLED, *_SAID, *ALIASES, *NAMES, *ARGUMENTS], 1)
    if not near:
        return ""
    return f"; did you mean {named[near[0]]}?" if near[0] in named else _known(near[0], options, meant=True)


def in_options(text: str, options: Collection[str]) -> str:
    """A text about settings with the options in their place, as far as there are."""

    def typed(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if f"--{name}" not in options:
            return found[0]
        if value in ("True", "False"):
            return f"--{'no-' * (value == 'False')}{name}"
        if value is not None:
            return f"--{name} {'none' if value == 'None' else value.strip(chr(39))}"
        # A value of Python's that is none of the command's.
        return f"--{name} " if found.string[found.end() : found.end() + 1].isalnum() else f"--{name}"

    return _SETTING.sub(typed, text)


def remedy_in_options(text: str, options: Collection[str]) -> str:
    """An error or a warning with the options in its remedy. What stands before it may quote what was typed."""
    rule, semicolon, remedy = text.rpartition("; ")
    return f"{rule}{semicolon}{in_options(remedy, options)}" if semicolon else text


def _known(name: str, options: Collection[str], *, meant: bool = False) -> str:
    """The answer to a name that says something by itself, or that a mistyped one may have `meant`; or nothing."""
    from dllm_fast.settings.aliases import ALIASES
    from dllm_fast.settings.resolve import ARGUMENTS, NAMES
    from dllm_fast.settings.translation import answer

    alias = ALIASES.get(name)
    ours = name if alias is None or alias.ours is None else alias.ours
    is_same = alias is None or not alias.more
    called = [_option(other) for other in (*_CALLED.get(name, ()), *[ours] * is_same) if _option(other) in options]
    if called:
        return f"; did you mean {called[0]}?"
    guess = f"if {_option(name)} is meant, " if meant else ""
    if name in _SAID:
        return f"; {guess}{_SAID[name]}"
    if of_generate := [other for other in (*_CALLED.get(name, ()), ours) if other in _OF_GENERATE]:
        which = "it" if of_generate[0] == name else _option(of_generate[0])
        return f"; {guess}{which} is one of dllm-fast generate"
    if alias is not None:
        remedy = in_options(answer(name), options)
        if only := re.fullmatch(r"use (--[\w-]+)", remedy):
            return f"; did you mean {only[1]}?"
        in_python = "in Python, " if _SETTING.search(remedy) or "result." in remedy else ""
        return f"; {guess}{in_python}{remedy}"
    return f"; {guess}in Python, dllm_fast.sample takes {name}=" if name in (*NAMES, *ARGUMENTS) else ""


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
