"""Is the right length found for a gap of unknown length? On the embedded text model: `python -m bench.gaps`.

A piece of 1 to 6 letters is cut out of an answer of `demo.text_problems`, and lengths from 1 to 8 are tried. The model is
*sure* of a case where the score of the length that it chooses, the mean log-probability of the gap and its right context, is
above log 0.9; `--sure` sets another bound.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import dataclass

import dllm_fast
from bench.quality import wilson
from dllm_fast import demo

LEAST, MOST = 1, 8


@dataclass(frozen=True, slots=True)
class Case:
    """A canvas without its gap: where that is, and what was cut out."""

    canvas: list[int]
    position: int
    cut: list[int]


def cases(n: int, seed: int = 0) -> list[Case]:
    """`n` answers with a piece cut out; each is closed by 8 end tokens."""
    model, tokenizer = demo.load_text()
    end = model.info.eos_token_ids[0]
    dice, found = random.Random(seed), []
    for prompt, answer in demo.text_problems(2 * n, seed=seed):
        asked, written = tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids
        if len(written) > 1 and len(found) < n:
            begin = dice.randrange(len(written))
            stop = dice.randint(begin + 1, min(len(written), begin + 6))
            canvas = [*asked, *written[:begin], *written[stop:], *[end] * 8]
            found.append(Case(canvas, len(asked) + begin, written[begin:stop]))
    return found


def measured(given: list[Case]) -> list[tuple[float, bool, bool]]:
    """Of each case the score of the chosen length, whether it is the right one, and whether the filled gap is."""
    model, _ = demo.load_text()
    found = []
    for case in given:
        run = dllm_fast.stream(model, canvas=case.canvas, gaps=[(case.position, LEAST, MOST)])
        tried = run._plan.tried  # the score is nobody else's business
        result = run.result()
        assert tried is not None
        length, score = tried.lengths[0][0], tried.scores[0]
        filled = result.sequences[0][case.position : case.position + length].tolist()
        found.append((score, length == len(case.cut), filled == case.cut))
    return found


def main() -> None:
    """Prints shares with 95 % intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sure", type=float, default=0.9, help="mean probability above which the model is sure")
    options = parser.parse_args()
    found = measured(cases(options.n, options.seed))
    sure = [one for one in found if one[0] > math.log(options.sure)]
    for name, some in (("all", found), ("sure", sure)):
        for what, index in (("length", 1), ("gap", 2)):
            right = sum(one[index] for one in some)
            low, high = wilson(right, len(some))
            print(f"{name}: right {what} in {right} of {len(some)}, {100 * low:.1f} to {100 * high:.1f} %")


if __name__ == "__main__":
    main()
