"""The exercises of the text model: short prompts whose answers differ in length.

`sort:cabb=` -> `abbc`, `reverse:cabb=` -> `bbac`, `pack:cabb=` -> `c1a1b2` (run lengths). The length of the answer is
not that of the prompt, so a sampler has to find the end of the answer, too.
"""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING

from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    from random import Random

LETTERS = "abcdefgh"
MAX_LETTERS = 12
TASKS = ("sort", "reverse", "pack")


def answer(prompt: str) -> str:
    """The answer to `<task>:<word>=`."""
    task, _, rest = prompt.partition(":")
    word = rest.removesuffix("=")
    match task:
        case "sort":
            return "".join(sorted(word))
        case "reverse":
            return word[::-1]
        case "pack":
            return "".join(f"{letter}{len(list(run))}" for letter, run in itertools.groupby(word))
        case _:
            raise InvalidValueError(
                f"a prompt must read <task>:<word>= with a task of {', '.join(TASKS)}, got {prompt!r}; write it like sort:pear="
            )


def is_held_out(prompt: str) -> bool:
    """One prompt in sixteen, by its checksum, is never seen in training."""
    return zlib.crc32(prompt.encode()) % 16 == 0


def random_prompt(random: Random, max_letters: int, *, held_out: bool) -> str:
    """A prompt of the wanted set: a uniform task, a uniform length, letters in runs of one to four."""
    while True:
        length, word = random.randint(1, max_letters), ""
        while len(word) < length:
            # Another letter than the last, so that no run outgrows one digit.
            word += random.choice(LETTERS.replace(word[-1:] or " ", "")) * random.choice((1, 1, 1, 2, 3, 4))
        prompt = f"{random.choice(TASKS)}:{word[:length]}="
        if is_held_out(prompt) == held_out:
            return prompt
