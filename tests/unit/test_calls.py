"""What the arguments of a call alone say is refused before anything is opened: by each function, and by the command."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

import dllm_fast
from dllm_fast import cli
from dllm_fast.errors import DllmFastError

NOWHERE = "/nowhere/at/all"
OF_ALL = [
    ({"seed": -1}, "seed must lie in [0, 2^64), got -1"),
    ({"seed": [1, 2**64]}, "seed must lie in [0, 2^64), got 18446744073709551616"),
    ({"seed": "a"}, "seed must be a whole number"),
    ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
    ({"order": "ranks"}, "order='ranks' goes by ranks of the caller's, got none"),
    ({"preset": "pc-sampler"}, "order 'calibrated' (PC-Sampler) needs to know how frequent each token is anywhere, got no"),
    ({"verifier": "x"}, "a verifier is asked under verifier_mixture alone"),
    ({"preset": "apd"}, "verifier_mixture=0.7 mixes the logits of two models, got no second one"),
    ({"expansion_factor": 4}, "expansion_factor is read under length='daedal' or 'rho-eos' alone, got 4"),
]
OF_INFILL = [
    ({"stop": "x"}, "infill keeps what stands behind a gap, so that nothing ends it, got stop=('x',)"),
    ({"stop": 3}, "got stop=(3,)"),
    ({"min_new_tokens": 2}, "got min_new_tokens=2"),
    ({"eos_policy": "suffix"}, "got eos_policy='suffix'"),
    ({"length": "daedal"}, "got length='daedal'"),
    ({"preset": "rho-eos"}, "got length='rho-eos'"),
    ({"config": dllm_fast.SamplerConfig(max_new_tokens=4)}, "infill appends nothing, got max_new_tokens=4"),
]
OF_SAMPLE = [({"negative_prompt": [1]}, "negative_prompt is what guidance leads away from, got one without guidance")]


@pytest.mark.parametrize(
    ("function", "settings", "says"),
    [
        *((dllm_fast.sample, *case) for case in OF_ALL + OF_SAMPLE),
        *((dllm_fast.infill, *case) for case in OF_ALL + OF_INFILL),
    ],
)
def test_no_checkpoint_is_opened_for_what_cannot_be(function: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DllmFastError, match=re.escape(says)):
        function(NOWHERE, [1, 2], **settings)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("generate", "-p", "x", "--seed", "-1"), "seed must lie in"),
        (("generate", "-p", "x", "--num-samples", "0"), "num_samples must be at least 1, got 0; use 1"),
        (("generate", "-p", "x", "--verifier", "y"), "pass --preset apd, or leave verifier out"),
        (("generate", "-p", "x", "--negative-prompt", "y"), "pass --guidance 1.0, or leave it out"),
        (("infill", "--text", "x", "--preset", "pc-sampler"), "language: --token-frequencies dllm_fast.TokenFrequencies.of"),
        (("infill", "--text", "x", "--stop", "y"), "infill keeps what stands behind a gap"),
        (("infill", "--text", "x", "--preset", "daedal"), "infill keeps what stands behind a gap where it is"),
        (("generate", "-p", "x", "--expansion-factor", "4"), "leave it out, or set --length daedal"),
    ],
)
def test_the_command_opens_none_either(capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], says: str) -> None:
    name, *more = typed
    assert cli.main([name, NOWHERE, *more]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("ranks", "ranks are typed as numbers, a rank for each position: --order 3,1,2"),
        ("1,a", "must be a name, or ranks as 3,1,2, got '1,a'"),
    ],
)
def test_ranks_are_typed_as_numbers(capsys: pytest.CaptureFixture[str], typed: str, says: str) -> None:
    with pytest.raises(SystemExit):
        cli.main(["generate", NOWHERE, "-p", "x", "--order", typed])
    assert says in capsys.readouterr().err


def test_it_waits_for_no_torch() -> None:
    command = "import sys, dllm_fast.calls; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
