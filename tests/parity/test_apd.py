"""APD against its published loop: equal at temperature 0; above it, what the paper says, and what the code does instead."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from parity.compare import assert_same
from parity.loops import apd
from parity.models import Model, cases
from reference import agreed

weights = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.95])
lookaheads = st.sampled_from([None, 1, 2, 3, 50])


class Verifier(Model):
    """Line i depends on tokens 0 to i alone."""

    def __init__(self, vocabulary: int, seed: int):
        self.vocabulary, self.seed = vocabulary, seed

    def alone(self, tokens) -> torch.Tensor:
        lines = [np.random.default_rng([self.seed, *tokens[: i + 1]]).normal(0, 2, self.vocabulary) for i in range(len(tokens))]
        return torch.from_numpy((np.round(np.array(lines) * 4) / 4).astype(np.float32))


class Near(Model):
    """Sees nothing further right than the last mask that may be written, as the published loop has it."""

    def __init__(self, model, mask: int, reach: int | None):
        self.model, self.mask, self.reach = model, mask, reach
        self.vocabulary = model.vocabulary

    def alone(self, tokens) -> torch.Tensor:
        masks = np.flatnonzero(np.asarray(tokens) == self.mask)
        end = len(tokens) if self.reach is None or not masks.size else min(int(masks[0]) + self.reach, len(tokens))
        seen = self.model.alone(tokens[:end])
        return torch.cat([seen, seen.new_zeros(len(tokens) - end, seen.shape[1])])


def noise_of(seed: int, vocabulary: int):
    return lambda places: np.array([[agreed.noise(seed, 0, int(p), i) for i in range(vocabulary)] for p in places])


def both(data, length, weight, reach, temperature, *, is_intended, shift=False):
    case = data.draw(cases(length, rows=2, vocabularies=(4, 5, 8, 16, 33)))
    verifier = Verifier(case.model.vocabulary, 3)
    whole = case.model
    case.model = Near(whole, case.mask, reach)

    def loop(prompt, seed):
        return apd.generate(
            whole.alone,
            verifier.alone,
            prompt,
            mask=case.mask,
            gen_length=length,
            weight=weight,
            max_lookahead=reach,
            shift=shift,
            temperature=temperature,
            gumbel=noise_of(seed, whole.vocabulary),
            is_intended=is_intended,
        )

    asked = {"verifier_mixture": weight, "window_length": reach, "max_new_tokens": length, "shift": shift}
    assert_same(case, loop, preset="apd", verifier=verifier, temperature=temperature, **asked)


@given(st.data(), st.integers(1, 10), weights, lookaheads, st.booleans())
def test_the_published_loop_at_temperature_0(data, length, weight, reach, shift):
    both(data, length, weight, reach, 0.0, is_intended=False, shift=shift)


@given(st.data(), st.integers(1, 8), weights, lookaheads, st.sampled_from([0.2, 1.0, 2.0]))
def test_the_rule_of_the_paper_above_it(data, length, weight, reach, temperature):
    both(data, length, weight, reach, temperature, is_intended=True)


def test_quirk_the_published_loop_draws_at_the_square_of_the_temperature():
    rng = np.random.default_rng(0)
    logits, noise = rng.normal(0, 2, (500, 9)), -np.log(-np.log(rng.random((500, 9))))
    for temperature in (0.2, 0.7, 3.0):
        drawn = apd.argmax(logits, temperature, noise, is_intended=False)
        assert (drawn == apd.argmax(logits, temperature**2, noise, is_intended=True)).all()


def test_quirk_the_published_loop_drops_the_noise_of_the_mixture():
    """A mixture that is the model alone accepts only what is drawn where it is the most probable token, too."""
    rng = np.random.default_rng(1)
    table = torch.from_numpy(rng.normal(0, 1, (40, 9)).astype(np.float32))

    def run(is_intended):
        noise = noise_of(5, 9)
        asked = {"mask": 8, "gen_length": 30, "weight": 1.0, "temperature": 1.0, "gumbel": noise, "is_intended": is_intended}
        return apd.generate(lambda t: table[: len(t)], lambda t: table[: len(t)] * 0, [1], **asked).forwards // 2

    assert run(is_intended=True) == 1
    assert run(is_intended=False) > 10
