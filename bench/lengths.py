"""Do answers find their length? On the embedded text model, whose answers have 2 to 24 letters: `python -m bench.lengths`.

Fixed lengths beside `rho-eos` and `daedal`, which begin with as many masks. Told are the share of right answers, the share
whose length is right (an end token stands where the right answer ends), forwards of a row, and positions of its answer at last.
DAEDAL looks at 4 end tokens here: a canvas of this model has no room for its authors' 32.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import dllm_fast
from bench.quality import wilson
from dllm_fast import demo

MOST = 40
FIRST = (2, 4, 8, 16, 32)
RULES: dict[str, dict[str, Any]] = {
    "fixed": {"preset": "fast-dllm"},
    "rho-eos": {"preset": "rho-eos", "max_new_tokens": MOST},
    "daedal": {"preset": "daedal", "max_new_tokens": MOST, "eos_check_tokens": 4},
}


def measured(rule: str, first: int, n: int, seed: int = 0) -> tuple[int, int, float, float]:
    """Right answers and right lengths of `n`, mean forwards of a row, and mean positions of its answer."""
    model, tokenizer = demo.load_text()
    problems = demo.text_problems(n, seed=seed)
    begins: dict[str, Any] = {"max_new_tokens" if rule == "fixed" else "initial_length": first}
    result = dllm_fast.sample(model, [prompt for prompt, _ in problems], max_batch_rows=50, **begins, **RULES[rule])
    right = lengths = 0
    for row, (_, answer) in zip(result, problems, strict=True):
        right += row.text == answer
        lengths += row.finish_reason == "stop" and len(row.new_tokens) == len(tokenizer.encode(answer).ids) + 1
    sizes = [len(row.sequence) - len(tokenizer.encode(prompt).ids) for row, (prompt, _) in zip(result, problems, strict=True)]
    return right, lengths, float(np.mean(result.stats.nfe_per_row)), float(np.mean(sizes))


def main() -> None:
    """Prints a line for each rule and first length, with 95 % intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for rule in RULES:
        for first in FIRST:
            right, lengths, forwards, size = measured(rule, first, options.n, options.seed)
            low, high = wilson(right, options.n)
            some, many = wilson(lengths, options.n)
            print(
                f"{rule} from {first}: right {100 * right / options.n:.1f} % ({100 * low:.1f} to {100 * high:.1f}), "
                f"length {100 * lengths / options.n:.1f} % ({100 * some:.1f} to {100 * many:.1f}), "
                f"{forwards:.1f} forwards, {size:.1f} positions"
            )


if __name__ == "__main__":
    main()
