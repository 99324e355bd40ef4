"""Folders that somebody has changed: only errors of ours come out, or a model, within limits on time and memory.

FUZZ_FOLDERS=20000 tries so many; FUZZ_SEED begins elsewhere. The file of the tokenizer has a fuzz of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import limited

ROOT = Path(__file__).resolve().parents[2]
CASES = int(os.environ.get("FUZZ_FOLDERS", "200"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

CODE = """
import collections, json, random, shutil, struct, sys, time, warnings
from pathlib import Path
place, tests, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.path[:0] = [tests, tests + "/attack"]
import torch
torch.set_num_threads(1)
import dllm_fast
from dllm_fast.errors import DllmFastError
from dllm_fast.loading.convert import convert
from test_files import KINDS, put, write
warnings.simplefilter("ignore")
BASES = ("plain", "shards", "bert", "dream", "adapter", "pickled", "pickled shards")
for base in BASES:
    write(place / base, base)
JSON = (".json", ".safetensors")
ODD = [None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, 10**400,
       "", "0", "x", "llada", "full", "float16", "\\x00", "\\n", "a" * 5000, "\\ud800", "../../etc/passwd", "/dev/zero",
       [], {}, [[]], [0], ["x"], {"x": 1}, [None] * 3, list(range(2000)),
       {"type": "yarn", "factor": 2.0}, {"content": "<m>"}, {"content": 1}]
NAMES = ["tie_word_embeddings", "weight_tying", "num_hidden_layers", "n_layers", "vocab_size", "rope_scaling", "rope_theta",
         "layer_types", "quantization_config", "mask_token_id", "eos_token_id", "pad_token_id", "block_length", "model_type",
         "architectures", "dtype", "torch_dtype", "added_tokens_decoder", "chat_template", "mask_token", "tokenizer_class",
         "do_lower_case", "additional_special_tokens", "extra_special_tokens", "rank_pattern", "alpha_pattern", "use_rslora",
         "weight_map", "metadata", "__metadata__", "max_position_embeddings", "head_dim", "sliding_window", "auto_map"]
def spots(value, found):
    if isinstance(value, dict):
        found += [(value, key) for key in value]
        for inner in value.values():
            spots(inner, found)
    elif isinstance(value, list):
        found += [(value, i) for i in range(len(value))]
        for inner in value:
            spots(inner, found)
    return found
def change(draw, value):
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        found = spots(value, [])
        how = draw.random()
        if how < 0.2 or not found:
            value[draw.choice(NAMES)] = draw.choice(ODD)
            continue
        holder, key = draw.choice(found)
        if how < 0.35:
            del holder[key]
        elif how < 0.5 and isinstance(holder, dict):
            holder[draw.choice(NAMES + [key + "x", ""])] = holder.pop(key)
        elif how < 0.6 and type(holder[key]) in (int, float):
            holder[key] = draw.choice((holder[key] + 1, -holder[key], holder[key] * 2, holder[key] * 10**6, str(holder[key])))
        elif how < 0.7:
            holder[key] = draw.choice(found)[0]
        else:
            holder[key] = draw.choice(ODD)
    return value
def bytes_of(draw, data):
    for _ in range(draw.choice((1, 1, 3))):
        at, how = draw.randrange(len(data) + 1), draw.randrange(4)
        new = draw.randbytes(draw.choice((1, 1, 8)))
        if how == 0:
            data = data[:at]
        elif how == 1:
            data = data[:at] + new + data[at:]
        elif how == 2:
            data = data[:at] + new + data[at + len(new):]
        else:
            data = data[:at] + data[draw.randrange(len(data) + 1):]
    return data
def mutate(draw, folder):
    names = sorted(p.name for p in folder.iterdir() if p.name != "tokenizer.json")
    path = folder / draw.choice(names)
    how = draw.random()
    if how < 0.08:
        kind = draw.choice(KINDS)
        put(path, kind)
        return f"{path.name} {kind}"
    data = path.read_bytes()
    if how < 0.3 or path.suffix not in JSON:
        path.write_bytes(bytes_of(draw, data))
        return f"{path.name} bytes"
    head, rest = (data, b"") if path.suffix == ".json" else (data[8:8 + int.from_bytes(data[:8], "little")], None)
    if rest is None:
        rest = data[8 + len(head):]
    try:
        text = json.dumps(change(draw, json.loads(head))).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # a value inside itself
        text = b"{}"
    path.write_bytes(text if path.suffix == ".json" else struct.pack("<Q", len(text)) + text + rest)
    return f"{path.name} values"
found, slowest = collections.Counter(), 0
for seed in range(first, first + count):
    draw = random.Random(seed)
    base = draw.choice(BASES)
    name = base.replace(" ", "-")
    folder = place / f"case-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / base, folder)
    what = mutate(draw, folder)
    begin = time.process_time()
    try:
        if base.startswith("pickled"):
            shutil.rmtree(place / "out", ignore_errors=True)
            convert(folder, place / "out")
        elif base == "adapter":
            dllm_fast.load(place / "base", adapter=folder)
        else:
            dllm_fast.load(folder)
        end = "opened"
    except DllmFastError as error:
        end = "refused"
        assert len(str(error)) < 2100, seed
    except BaseException as error:
        print(f"FAILED seed {seed} {base} {what}: {type(error).__name__}: {ascii(str(error))[:300]}", flush=True)
        import traceback
        print(ascii(traceback.format_exc()[-900:]))
        end = "failed"
    taken = time.process_time() - begin
    if taken > 3:
        print(f"SLOW seed {seed} {base} {what}: {taken:.1f} s", flush=True)
    slowest = max(slowest, taken)
    found[end] += 1
    print(f"\\r{seed}", end="", file=sys.stderr, flush=True)
print(dict(found), f"slowest {slowest:.2f} s")
"""


def test_changed_folders_are_refused_or_opened(tmp_path: Path) -> None:
    """Settings, headers and bytes at random, and files that are none, in seven kinds of folders."""
    ended = limited.run(CODE, tmp_path, ROOT / "tests", SEED, CASES, gigabytes=6, seconds=120 + CASES)
    print(ended.output)
    assert ended.code == 0, f"ended with {ended.code} after case {ended.errors[-2000:]}\n{ended.output[-2000:]}"
    assert "FAILED" not in ended.output
    assert "SLOW" not in ended.output
