"""What type checkers and editors see of the settings is what there is."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import dllm_fast
from dllm_fast.settings.keywords import InfillSettings, ModelSettings, Ranks, SamplerSettings

ROOT = Path(__file__).parents[2]
# As strict as mypy can be, without the types of other libraries, which take it half a minute.
CONFIG = """
[mypy]
strict = True
mypy_path = {path}
[mypy-numpy.*,torch.*,transformers.*,tokenizers.*,safetensors.*,jinja2.*]
follow_imports = skip
ignore_missing_imports = True
[mypy-dllm_fast.*]
follow_imports = silent
"""
MEANT = 'did you mean "block_length"'
# Lines that a type checker takes, and others with what it says of them.
LINES = {
    "sample(m, [1], max_new_tokens=3, order='random', temperature=0, suppress_tokens=[1, 2], eos_token_id=(1, 2))": "",
    "sample(m, [1], steps=None, suppress_tokens='[UNK]', stop_at_eos=True, seed=None, preset='llada')": "",
    "infill(m, [1], steps=4, block_length=8)": "",
    "stream(m, canvas=[1], steps=4, block_length=8)": "",
    "distributions(m, [1], block_length=8, top=3)": "",
    "SamplerConfig(steps=8, suppress_tokens=[1, 2], shift=None)": "",
    "mine(steps=4)": "",  # a function that passes settings on
    "mine(block_lenght=3)": 'Unexpected keyword argument "block_lenght" for "mine"; ' + MEANT,
    "sample(m, [1], **theirs)": "",  # of other libraries: no names that it knows
    "sample(m, [1], block_lenght=3)": 'Unexpected keyword argument "block_lenght" for "sample"; ' + MEANT,
    "infill(m, [1], block_lenght=3)": 'Unexpected keyword argument "block_lenght" for "infill"; ' + MEANT,
    "stream(m, [1], block_lenght=3)": 'Unexpected keyword argument "block_lenght" for "stream"; ' + MEANT,
    "infill(m, [1], max_new_tokens=3)": 'Unexpected keyword argument "max_new_tokens" for "infill"',
    "distributions(m, [1], temperature=3)": 'Unexpected keyword argument "temperature" for "distributions"',
    "SamplerConfig(block_lenght=3)": 'Unexpected keyword argument "block_lenght" for "SamplerConfig"',
    "sample(m, [1], gen_length=3)": 'Unexpected keyword argument "gen_length" for "sample"',
    "sample(m, [1], steps='4')": 'Argument "steps" to "sample" has incompatible type "str"; expected "int | None"',
    "sample(m, [1], stop_at_eos=4)": 'Argument "stop_at_eos" to "sample" has incompatible type "int"; expected "bool | None"',
}


def test_every_field_is_a_keyword_of_its_type() -> None:
    """None leaves a setting at its default; where a configuration keeps a tuple, any collection is taken."""

    def taken(kind: Any) -> set[Any]:
        return {Collection[get_args(one)[0]] if get_origin(one) is tuple else one for one in get_args(kind | None)}

    fields = {name: kind for name, kind in get_type_hints(dllm_fast.SamplerConfig).items() if name != "sources"}
    keywords = get_type_hints(SamplerSettings)
    assert keywords.keys() == fields.keys()
    for name, kind in fields.items():
        # An order may also be ranks, which are no setting.
        alone = {"suppress_tokens": {int}, "stop": {int, str}, "order": set(get_args(Ranks))}.get(name, set())
        assert set(get_args(keywords[name])) == taken(kind) | alone, name
    assert SamplerSettings.__annotations__.keys() - InfillSettings.__annotations__.keys() == {
        "max_new_tokens",
        "min_new_tokens",
        "stop",
        # What `infill` fills keeps its length.
        *("length", "initial_length", "expansion_factor", "eos_check_tokens", "eos_confidence_threshold"),
        *("expand_eos_confidence_threshold", "low_confidence_threshold", "low_density_threshold", "high_density_threshold"),
    }
    assert InfillSettings.__annotations__.keys() > ModelSettings.__annotations__.keys()
    assert not SamplerSettings.__required_keys__


def test_a_type_checker_knows_our_names_and_no_others(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="it is what reads the types")
    (tmp_path / "mypy.ini").write_text(CONFIG.format(path=ROOT / "python"))
    head = ["from typing import Any, Unpack"]
    head += ["from dllm_fast import SamplerConfig, SamplerSettings, distributions, infill, sample, stream"]
    head += ["m: Any = None", "theirs: dict[str, Any] = {'gen_length': 3}"]
    head += ["def mine(**settings: Unpack[SamplerSettings]) -> None:", "    sample(m, [1], **settings)"]
    (tmp_path / "mine.py").write_text("\n".join([*head, *LINES]))
    where = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache")]
    out, err, _ = api.run([*where, str(tmp_path / "mine.py")])
    said = {int(number): text for number, text in re.findall(r"mine\.py:(\d+): error: (.*)", out)}
    assert err == ""
    for number, (line, says) in enumerate(LINES.items(), len(head) + 1):
        assert said.get(number, "").startswith(says) if says else number not in said, (line, said.get(number))
