"""DiffusionGemma's own `generate` against ours, at our noise: its random calls are answered from our streams.

Equal are the tokens of every canvas up to the first end token, and how often each row went through the decoder. What its code
does beyond that, and ours does not:

- `max_new_tokens` is rounded up to whole canvases; ours must be whole canvases, and what is not is refused.
- Behind an end token it writes the padding token where the config has one, and leaves what was there where it has none; ours
  writes the end token. Rows that have ended go on through the decoder as long as others do.
- A window of 1 makes its cache keep all keys (`keys[-1 + 1:]`), and so its layers see all that was encoded.
- With `attention_bias` its biases are not tied, so that its encoder has others; such a model is refused by `load`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
import gemma
from reference import noise, philox

SEED = 7


class Streams:
    """Answers to the random calls of their sampler, for rows of these prompts, and how many forwards each row has had.

    It asks for the first canvas (`randint`), then in each step for a token everywhere (`multinomial`) and for new noise.
    """

    def __init__(self, starts: list[int], vocabulary: int) -> None:
        self.begins, self.vocabulary = list(starts), vocabulary
        self.steps = [0] * len(starts)
        self.is_done = [False] * len(starts)
        self.has_drawn = False
        self.canvases = 0

    def randint(self, *, low: int, high: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
        assert (low, high) == (0, self.vocabulary)
        rows, width = size
        if not self.has_drawn:  # a canvas begins
            self.begins = [begin + width * (self.canvases > 0) for begin in self.begins]
            self.canvases += 1
            self.is_done = [False] * rows
        steps = [step + 1 if self.has_drawn else 0 for step in self.steps]  # what has not begun shows the noise of step 0
        self.has_drawn = False
        tokens = [
            [noise.shown(SEED + row, 0, self.begins[row] + i, steps[row], high) for i in range(width)] for row in range(rows)
        ]
        return torch.tensor(tokens, device=device)

    def multinomial(self, probs: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert num_samples == 1
        self.has_drawn = True
        rows, width = len(self.begins), len(probs) // len(self.begins)
        sums = probs.double().cumsum(dim=1)
        cells = [(row, self.begins[row] + i, self.steps[row]) for row in range(rows) for i in range(width)]
        u = torch.tensor([philox.bits53(SEED + row, 0, position, step, 0) * 2.0**-53 for row, position, step in cells])
        return torch.searchsorted(sums, u.double()[:, None] * sums[:, -1:], right=True)

    def note(self, finished: torch.Tensor) -> torch.Tensor:
        """Their rule of stopping has said which rows are finished."""
        self.steps = [step + (not done) for step, done in zip(self.steps, self.is_done, strict=True)]
        self.is_done = [a or b for a, b in zip(self.is_done, finished.tolist(), strict=True)]
        return finished


def theirs(patches, model, prompts: list[list[int]], *, pad: bool, **settings) -> tuple[list[list[int]], list[int]]:
    """New tokens of each row by their `generate`, and the forwards of each."""
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as own

    longest = max(map(len, prompts)) + 3 * pad
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    streams = Streams([len(prompt) for prompt in prompts], gemma.VOCABULARY)
    stops = own.StableAndConfidentStoppingCriteria.__call__
    with patches.context() as patch:
        patch.setattr(torch, "randint", streams.randint)
        patch.setattr(torch, "multinomial", streams.multinomial)
        patch.setattr(own.StableAndConfidentStoppingCriteria, "__call__", lambda *args: streams.note(stops(*args)))
        sampler = own.EntropyBoundSamplerConfig(entropy_bound=settings.pop("entropy_bound"))
        out = model.generate(ids, attention_mask=seen, sampler_config=sampler, **settings)
    new = out.sequences[:, longest:]
    return new.tolist(), (new.shape[1] / out.tokens_per_forward).round().int().tolist()


def until_end(tokens: list[int], ends: set[int]) -> list[int]:
    found = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: found + 1]


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    """A model whose predictions are sure enough to be picked several at a time, and to be finished before the last step."""
    model = gemma.stock(final_logit_softcapping=30.0)
    with torch.no_grad():
        model.model.decoder.norm.weight.mul_(12)
    return dllm_fast.load(gemma.save(model, tmp_path_factory.mktemp("sure"))), model


# What ours calls a setting, and what they do.
NAMES = {
    "temperature": "t_max",
    "temperature_end": "t_min",
    "steps_per_block": "max_denoising_steps",
    "entropy_bound": "entropy_bound",
    "stop_stable": "stability_threshold",
    "stop_entropy": "confidence_threshold",
    "max_new_tokens": "max_new_tokens",
    "eos_token_id": "eos_token_id",
}
PUBLISHED = {
    "temperature": 0.8,
    "temperature_end": 0.4,
    "steps_per_block": 48,
    "entropy_bound": 0.1,
    "stop_stable": 1,
    "stop_entropy": 0.005,
    "max_new_tokens": 2 * gemma.CANVAS,
}
CASES = {
    "published": {},
    "nearly-0": {"temperature": 0.02, "temperature_end": 0.01},
    "hot": {"temperature": 1.5, "temperature_end": 1.0, "steps_per_block": 12, "entropy_bound": 2.0},
    "one-step": {"steps_per_block": 1},
    "few-steps": {"steps_per_block": 5, "entropy_bound": 0.5},
    "never-stops": {"steps_per_block": 9, "stop_stable": 50},
    "stops-at-once": {"steps_per_block": 9, "stop_stable": 0, "stop_entropy": 9.0},
    "stable-for-three": {"steps_per_block": 20, "stop_stable": 3, "stop_entropy": 0.5, "entropy_bound": 1.0},
    "ends": {"steps_per_block": 7, "eos_token_id": [1, 42, 55, 90]},
    "everything-picked": {"steps_per_block": 6, "entropy_bound": 1e6},
}
PROMPTS = {
    "one": [[5, 6, 7, 8, 9]],
    "ragged": [[5, 6, 7, 8, 9], [3] * 17, [4, 2], [90, 11, 60]],
}


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("case", CASES)
def test_tokens_and_forwards(sure, monkeypatch, case, prompts):
    model, stock = sure
    rows = PROMPTS[prompts]
    settings = PUBLISHED | CASES[case]
    expected, forwards = theirs(
        monkeypatch, stock, rows, pad=prompts == "ragged", **{NAMES[name]: value for name, value in settings.items()}
    )
    seeds = [SEED + row for row in range(len(rows))]
    ends = set(settings.pop("eos_token_id", ()))
    given = {"preset": "diffusion-gemma", "seed": seeds, **settings}
    given |= {"eos_token_id": sorted(ends)} if ends else {"stop_at_eos": False}
    for opened in (model, stock) if case in ("published", "ends") else (model,):
        found = dllm_fast.sample(opened, rows, **given)
        assert found.stats.nfe_per_row == forwards
        for ours, own in zip(found.new_tokens, expected, strict=True):
            assert until_end(np.asarray(ours).tolist(), ends) == until_end(own, ends)


def test_what_the_cases_are_about(sure):
    """Rows stop before the last step, at different steps, and end before their last canvas: else nothing is compared."""
    model, _ = sure
    rows = PROMPTS["ragged"]
    settings = {"preset": "diffusion-gemma", "seed": [SEED + row for row in range(len(rows))], **PUBLISHED}
    early = dllm_fast.sample(model, rows, **settings, stop_at_eos=False).stats.nfe_per_row
    assert len(set(early)) > 1
    assert min(early) < 2 * settings["steps_per_block"]
    ended = dllm_fast.sample(model, rows, **settings | CASES["ends"])
    lengths = [len(until_end(np.asarray(new).tolist(), {1, 42, 55, 90})) for new in ended.new_tokens]
    assert min(lengths) < gemma.CANVAS < max(lengths) < 2 * gemma.CANVAS


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "exact_block"])
def test_every_cache_gives_the_same(sure, cache):
    """Keys on the left of a canvas never change, so that even the policies that are approximate elsewhere are exact here."""
    model, _ = sure
    settings = {"preset": "diffusion-gemma", "seed": 3, "max_new_tokens": 16, "steps_per_block": 6, "stop_at_eos": False}
    rows = PROMPTS["ragged"]
    right = dllm_fast.sample(model, rows, **settings)
    found = dllm_fast.sample(model, rows, **settings, cache=cache)
    assert [new.tolist() for new in found.new_tokens] == [new.tolist() for new in right.new_tokens]


def test_rows_that_wait_for_room(sure):
    """Each writes what it writes alone."""
    model, _ = sure
    settings = {"preset": "diffusion-gemma", "max_new_tokens": 16, "steps_per_block": 6, "stop_at_eos": False}
    rows = PROMPTS["ragged"]
    found = dllm_fast.sample(model, rows, **settings, seed=3, max_batch_rows=2)
    alone = [dllm_fast.sample(model, [row], **settings, seed=3).new_tokens[0].tolist() for row in rows]
    assert [new.tolist() for new in found.new_tokens] == alone
