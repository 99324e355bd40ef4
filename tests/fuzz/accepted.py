"""Which odd values each argument takes, and why. Whatever else is not refused fails the test.

A value is on a list because it has one meaning that is followed, not because it was found to pass.
"""

from __future__ import annotations

from dllm_fast.settings.manual import entries

NONE = ("None",)  # the default
# Whole numbers of Python, NumPy and torch; the range is checked where the number is used.
WHOLE = (
    *("-1", "0", "1", "2", "7", "16777217", "2147483648", "4294967296", "10000000000000", "4611686018427387904"),
    *("9223372036854775808", "18446744073709551616", "-9223372036854775808", "1000000000000000000000000000000", "10**5000"),
    *("np.int64(1)", "np.int8(-1)", "np.uint64(2**64-1)", "torch.tensor(1)", "np.array(1)"),
)
# Numbers: those, and every real number that converts to a float by itself.
NUMBER = (
    *WHOLE,
    *("0.0", "0.5", "1.0", "-0.5", "1e+308", "5e-324", "nan", "inf", "-inf", "Decimal(1)", "Decimal('nan')", "Fraction(1, 2)"),
    *("np.float32(0.5)", "np.float64(nan)", "torch.tensor(0.5)"),
)
FLAG = ("True", "False", "np.True_", "torch.tensor(True)")
TEXT = ("''", "'abc'", "'1'", "'\\ud800'", "'\\0'", "'a' * 10**6")
# Flat integers, however they lie in memory: views are read as what they show.
IDS = (
    *("[]", "()", "[1]", "(1, 2)", "[1, 2]", "[-1]", "[2**32]", "range(3)", "liar", "np [1, 2]", "np int32", "np [-1]"),
    *("np empty", "np big-endian", "np strided", "np reversed", "np no strides", "np read-only", "np unaligned"),
    *("np nothing masked", "torch [1, 2]", "torch int32", "torch empty", "torch strided", "torch negative ids", "torch size"),
    *("torch storage", "np whole objects", "torch sparse ids"),  # gone through item by item, or bytes of a storage that are 0
)
# A set of ids has no order that counts, and an iterator is gone through once.
ITEMS = ("set()", "{1, 2}", "iterator", "generator", "map", "['abc']", "['abc', 1]", "np text")
# Rows of ids, of any lengths.
ROWS = (
    *("{'input_ids': [1]}", "[[1], [1, 2]]", "[[1]] * 3", "[[]]", "[[[1]]]", "[1, [2]]", "np 2 x 2", "torch 2 x 2"),
    *("np 0 x 5", "np 2 x 0", "torch nested ids", "torch jagged"),
)
LOGITS = (
    *("np 0 x 5", "np float32", "torch float32", "torch bfloat16", "torch grad", "torch parameter", "torch negative"),
    *("torch subclass", "torch inference"),
)
MASKED = ("np bool", "np whole floats", "torch bool", *IDS, *ROWS)
CALLABLE = ("int", "print", "torch module", "raises in __call__")
STATISTICS = (*IDS, "np float64 flat", "np whole floats", "[0.5]", "[1.0]", "[nan]")
EMPTY = ("{}", "[]", "()", "set()", "''")

# What a setting of a type takes; what is no number and no flag stands below.
TYPES = {"int": (*WHOLE, *NONE), "float": (*NUMBER, *NONE), "bool": (*FLAG, *NONE), "str": NONE, "TokenFrequencies": NONE}
# Arguments by name, for all doors.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    **{entry.name: TYPES[entry.kind.removesuffix(" | None")] for entry in entries() if "tuple" not in entry.kind},
    **dict.fromkeys(
        (
            *("max_rows", "num_samples", "top", "n", "masks", "blocks", "min_givens", "max_givens"),
            *("step", "position", "row", "nfe", "replayed", "pad_token_id", "threads", "mask", "start"),
        ),
        (*WHOLE, *NONE),
    ),
    **dict.fromkeys(("softcap", "time", "tokens_per_forward", "model_ms", "sampler_ms"), (*NUMBER, *NONE)),
    **dict.fromkeys(("score_all", "held_out", "chat", "synced_gpus", "guesses"), (*FLAG, *NONE)),
    **dict.fromkeys(("prompt", "canvas"), (*IDS, *ROWS)),
    "negative_prompt": (*NONE, *IDS, *ROWS),
    "counts": IDS,
    **dict.fromkeys(("suppress_tokens", "eos_token_id", "eos_token_ids"), (*WHOLE, *NONE, *IDS, *ITEMS, *TEXT)),
    "stop": (*WHOLE, *NONE, *IDS, *ITEMS, *TEXT, *ROWS),  # texts, ids, and sequences of them
    **dict.fromkeys(
        (
            *("suppress", "current", "argmax", "positions", "rows", "index", "begin", "end", "ids", "since", "places"),
            *("head_ids", "head_counts", "leader", "hidden"),
        ),
        (*NONE, *IDS),
    ),
    **dict.fromkeys(("seed", "request", "block_start"), (*WHOLE, *NONE, *IDS, *ITEMS, "[2**64]", "[10**400]", "np uint64 max")),
    **dict.fromkeys(("attention_mask", "token_type_ids"), (*NONE, *MASKED)),
    **dict.fromkeys(("probability", "top1", "top2", "entropy", "logsumexp", "probabilities"), (*NUMBER, *NONE, *STATISTICS)),
    **dict.fromkeys(("head_probabilities", "leader_probability"), (*NUMBER, *NONE, *STATISTICS)),
    **dict.fromkeys(("logits", "unguided"), LOGITS),
    **dict.fromkeys(("logits_processor", "stopping_criteria", "past_key_values"), (*NONE, *EMPTY)),
    **dict.fromkeys(("model", "on_step", "like", "verifier"), (*NONE, *CALLABLE)),
    **dict.fromkeys(("values", "sources", "config", "aliases"), (*NONE, "{}")),
    **dict.fromkeys(("texts", "tokens", "texts_error", "tokens_error"), (*NONE, *TEXT, *IDS, *ROWS, "['abc']")),
    **dict.fromkeys(
        (
            *("sequences", "new_tokens", "trajectory", "nfe_per_row", "guess_positions", "guess_tokens", "canvases"),
            "open_positions",
            *("input_ids", "token"),
        ),
        (*IDS, *ROWS, *EMPTY, "[2**64]", "[10**400]"),
    ),
    **dict.fromkeys(("stable_prefix", "edits"), (*IDS, *ROWS)),
    **dict.fromkeys(("finish_reasons", "is_done"), ()),
    **dict.fromkeys(("gaps", "gap_lengths"), (*NONE, *EMPTY, *ROWS)),
    "ignore_keys": EMPTY,
    **dict.fromkeys(("prediction", "scores", "twins"), NONE),
    **dict.fromkeys(("givens", "stats", "folder_or_id", "object"), ()),
    "tokenizer": (*NONE, "raises in encode"),  # its methods are looked for, and called where there is text
    "dtype": (*NONE, "torch.float32"),
    "device": (*NONE, "torch.device"),
    "family": NONE,
    "attention": NONE,
    "quantise": NONE,
    "adapter": NONE,
    "streamer": NONE,
    "open": NONE,  # beside a mask, which says it
    "generation_config": NONE,
    "position_ids": (*NONE, *IDS, *ROWS),
    "eligible_after": (*NONE, "{}"),
    **dict.fromkeys(("preset", "cache_policy", "revision", "kind", "name"), NONE),
}
# What an argument means beside that at one door, and why.
DOORS: dict[tuple[str, str], tuple[str, ...]] = {
    ("load", "shift"): ("0", "1", "np.int64(1)", "torch.tensor(1)", "np.array(1)"),  # files say it in either way
    ("load", "revision"): TEXT,  # of a hub id; a folder has one state
    ("mask_predict", "step"): (*IDS, *ITEMS),  # one for each row
    ("_core.mask_predict", "step"): (*IDS, *ITEMS),
    **{
        (door, name): (*IDS, *ITEMS, *STATISTICS)  # one for each row
        for door in ("mask_predict", "_core.mask_predict", "_core.row_laws")
        for name in ("temperature", "top_k", "top_p", "min_p")
    },
    ("_core.row_laws", "rows"): WHOLE,  # how many, where elsewhere they are which
    **{(door, "order"): (*STATISTICS, *ROWS) for door in ("sample", "infill", "stream", "generate")},  # ranks
    ("Edit", "token"): WHOLE,  # one, where elsewhere they are several
    ("Edit.from_dict of", "token"): WHOLE,
    ("StepEvent.from_dict of", "positions"): ROWS,  # one row for each of its rows
    ("Prediction", "current"): STATISTICS,
    ("Result.from_dict of", "seed"): WHOLE,
}
# Doors that answer every question: whatever is no solved puzzle is none.
ANY = {("demo.check", "canvas")}


def is_accepted(door: str, odd: dict[str, str]) -> bool:
    """May a call with these odd values be answered?"""
    return all(
        (door, name) in ANY or value in ARGUMENTS.get(name, ()) or value in DOORS.get((door, name), ())
        for name, value in odd.items()
    )
