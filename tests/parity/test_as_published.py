"""`as_published` of every preset: it runs as the published loop does, or is refused with the reason; nothing in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dllm_fast
import toys
from dllm_fast.errors import InvalidValueError
from dllm_fast.settings.presets import PRESETS
from parity.models import Table

#: Where each preset is held beside its published loop, or beside a law or a definition where none is published or it draws.
HELD = {
    "llada": "parity/test_llada.py",
    "llada-semi-ar": "parity/test_llada.py",
    "llada-random": "parity/test_llada.py",
    "dream-origin": "parity/test_dream.py",
    "dream-maskgit-plus": "parity/test_dream.py",
    "dream-entropy": "parity/test_dream.py",
    "dream-margin": "parity/test_dream.py",
    "maskgit": "parity/test_maskgit.py",
    "mdlm": "parity/test_mdlm.py",
    "remdm-cap": "law/test_remasks.py",
    "remdm-rescale": "law/test_remasks.py",
    "remdm-conf": "law/test_remasks.py",
    "remdm-loop": "law/test_remasks.py",
    "p2": "parity/test_revisers.py",
    "remedi": "parity/test_revisers.py",
    "saber": "parity/test_revisers.py",
    "wino": "parity/test_wino.py",
    "revise-low-confidence": "property/test_remasking.py",
    "first-hitting": "parity/test_mdlm.py",
    "fast-dllm": "parity/test_fast_dllm.py",
    "fast-dllm-factor": "parity/test_fast_dllm.py",
    "llada2.1-quality": "parity/test_token_editing.py",
    "llada2.1-speed": "parity/test_token_editing.py",
    "llada2.1-conservative": "parity/test_token_editing.py",
    "entropy-bound": "parity/test_entropy_bound.py",
    "local-leap": "parity/test_nearby.py",
    "klass": "parity/test_memory.py",
    "credit": "parity/test_memory.py",
    "hierarchy": "parity/test_nearby.py",
    "prophet": "parity/test_nearby.py",
    "certainty-prior": "parity/test_nearby.py",
    "pc-sampler": "parity/test_pc_sampler.py",
    "diffusion-gemma": "parity/test_diffusion_gemma_rule.py",
    "dus": "parity/test_positions.py",
    "wedlm": "parity/test_positions.py",
    "fast-dllm-v2": "parity/test_positions.py",
    "d2f": "parity/test_positions.py",
    "block-refinement": "parity/test_uniform_refinement.py",
    "udlm": "property/test_posterior.py",
    "gidd": "property/test_posterior.py",
    "linear-spec": "property/test_verify.py",
    "daedal": "parity/test_length.py",
    "rho-eos": "parity/test_length.py",
    "apd": "parity/test_apd.py",
    "left-to-right": "property/test_sampler.py",
}
_MEANT = r"is the rule as it is meant, got as_published beside it; leave as_published out: what published loops do otherwise is"
_NOISE = r"as_published keeps quirks of loops over masks, got it beside noise; leave it out"
_GAPS = r"gap_stop measures logits, whose gaps are lost in probabilities rounded to their dtype, got as_published beside it"
REFUSED = {
    name: _NOISE if preset.settings.noise != "mask" else _MEANT
    for name, preset in PRESETS.items()
    if preset.settings.noise != "mask" or preset.settings.remask is not None or preset.settings.length != "fixed"
} | {"prophet": _GAPS}
LENGTH = 24


def test_every_preset_is_held_somewhere():
    tests = Path(__file__).parents[1]
    assert {*HELD} == {*PRESETS}
    assert not [name for name, file in HELD.items() if not (tests / file).is_file()]


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason_before_any_forward(name):
    def model(ids):
        raise AssertionError("a forward")

    rule = PRESETS[name].settings
    given = {"vocabulary": 32} | ({"mask_token_id": 31} if rule.noise != "uniform" else {})
    with pytest.raises(InvalidValueError, match=REFUSED[name]):
        dllm_fast.sample(model, [1, 2], preset=name, as_published=True, max_new_tokens=8, **given)


def both(name: str, seed: int, ahead: float):
    """What the rule and the published loop write into rows with masks here and there, on logits that tie."""
    dice = np.random.default_rng(seed)
    model = Table(dice, 32, LENGTH + 16, ahead=ahead, dtype=torch.bfloat16, softmax_decides=True)
    canvases = [np.where(dice.random(LENGTH) < share, dice.integers(model.mask, size=LENGTH), model.mask) for share in (0, 0.5)]
    rule = PRESETS[name].settings
    given = {} if name in toys.PACED_BY_THEMSELVES or rule.threshold or rule.factor or rule.entropy_bound else {"steps": 6}
    if rule.order == "calibrated":
        # Decays by a power of two, and tokens that tell equally much: what ties in confidence may tie in rank.
        given |= {"token_frequencies": dllm_fast.TokenFrequencies([1] * model.vocabulary), "position_decay": 0.0}
    run = {"preset": name, "mask_token_id": model.mask, "seed": seed, **given}
    results = (dllm_fast.infill(model, [*map(list, canvases)], **run, as_published=flag) for flag in (False, True))
    return [[[edit[:4] for edit in row] for row in result.trajectory] for result in results]


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in {*REFUSED, "linear-spec", "apd"}])
def test_it_changes_something_exactly_where_the_row_says_so(name):
    """Tokens, or the probabilities that are reported."""
    differs = tokens_differ = False
    for seed in range(5):
        for ahead in (6.0, 10.0):
            rule, published = both(name, seed, ahead)
            differs |= rule != published
            tokens_differ |= [[e[:3] for e in row] for row in rule] != [[e[:3] for e in row] for row in published]
    quirks = PRESETS[name].quirks
    assert differs == bool(quirks)
    # Float32 moves a probability of the schedule by 1e-7: no short run shows it in a token.
    assert tokens_differ == (bool(quirks) and "eported probabilities" not in quirks)
