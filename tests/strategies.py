"""Inputs that hypothesis draws: rows of logits where ties and infinities are common, canvases, settings.

Large arrays come from a seeded NumPy generator, so that hypothesis has a few numbers to shrink instead of thousands.
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

import dllm_fast
from dllm_fast import _core
from dllm_fast.settings import belongs, resolve
from reference.sampler import CUTS

INF = np.inf
# Around the sizes that matter to the core: one lane, 256 accumulators, a tile of 4,096 ids, several tiles.
VOCABULARIES = (1, 2, 3, 50, 255, 256, 257, 600, 4095, 4096, 4097, 9000)
DTYPES = ("float32", "float16", "bfloat16")

seeds = st.integers(0, 2**64 - 1)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def _coarse(rng, v):
    """A grid of halves: many ties, also for the largest."""
    return rng.integers(-6, 7, v) / 2


def _with_holes(rng, v):
    x = _coarse(rng, v)
    x[rng.random(v) < rng.choice([0.1, 0.9])] = -INF
    return x


def _sharp(rng, v):
    """One id far above the rest, as a sure model has it."""
    x = rng.normal(0, 2, v)
    x[rng.integers(v)] += rng.choice([5, 15, 30, 45, 80, 300])
    return x


def _one_hot(rng, v):
    x = np.full(v, -INF)
    x[rng.integers(v)] = rng.normal()
    return x


def _infinite(rng, v):
    x = _coarse(rng, v)
    x[rng.integers(0, v, rng.integers(1, 4))] = INF
    return x


_ROWS = {
    "normal": lambda rng, v: rng.normal(0, rng.choice([0.1, 1, 5, 20]), v),
    "coarse": _coarse,
    "with_holes": _with_holes,
    "sharp": _sharp,
    "all_equal": lambda rng, v: np.full(v, rng.choice([0.0, -3.0, 7.5, 1e4])),
    "one_hot": _one_hot,
    "infinite": _infinite,
    "huge": lambda rng, v: rng.normal(0, 1e4, v),
}


def row(rng, kind: str, vocabulary: int) -> np.ndarray:
    """A row of float64 logits of a kind; at least one id is above -inf."""
    x = _ROWS[kind](rng, vocabulary)
    if x.max() == -INF:
        x[rng.integers(vocabulary)] = 0.0
    return x


def as_dtype(values: np.ndarray, dtype: str) -> torch.Tensor:
    """The values rounded to a dtype, and not beyond its range."""
    limit = 6e4 if dtype == "float16" else 3e38
    clipped = np.where(np.isinf(values), values, np.clip(values, -limit, limit))
    return torch.from_numpy(clipped).to(getattr(torch, dtype))


@st.composite
def logits(draw, max_rows: int = 4, vocabularies=VOCABULARIES, kinds=tuple(_ROWS), dtypes=DTYPES) -> torch.Tensor:
    """A tensor `[N, V]` of rows of different kinds, usable each."""
    rng = draw(generators)
    vocabulary = draw(st.sampled_from(vocabularies))
    rows = [row(rng, draw(st.sampled_from(kinds)), vocabulary) for _ in range(draw(st.integers(1, max_rows)))]
    return as_dtype(np.stack(rows), draw(st.sampled_from(dtypes)))


def widened(tensor: torch.Tensor) -> np.ndarray:
    """The same values as a float32 array."""
    return tensor.float().numpy()


@st.composite
def suppressed(draw, matrix: torch.Tensor) -> list[int]:
    """Ids to suppress that leave something to every row."""
    vocabulary = matrix.shape[1]
    ids = draw(st.lists(st.integers(0, vocabulary - 1), max_size=5))
    open_ = widened(matrix).copy()
    open_[:, ids] = -INF
    return ids if (open_.max(axis=1) > -INF).all() else []


temperatures = st.one_of(st.just(0.0), st.sampled_from([0.01, 0.3, 0.7, 1.0, 1.5, 10.0]), st.floats(0.05, 5))
fractions = st.sampled_from([1e-6, 0.05, 0.3, 0.5, 0.9, 0.99, 1.0])


def filters(vocabulary: int = 1000):
    """Settings of top-k, top-p and min-p, each of them often absent."""
    return st.fixed_dictionaries(
        {},
        optional={
            "top_k": st.one_of(st.sampled_from([1, 2, 5, vocabulary]), st.integers(1, 2 * vocabulary)),
            "top_p": st.one_of(fractions, st.floats(1e-3, 1)),
            "min_p": st.one_of(st.sampled_from([0.0, 1e-30, 0.01, 0.1, 0.5, 1.0]), st.floats(0, 1)),
        },
    )


@st.composite
def row_laws(draw, rows: int, vocabulary: int) -> dict:
    """Temperature and filters, each one for all rows or one for each; not all of them are there."""

    def one_or_each(values):
        # Few different ones, so that rows share laws.
        few = st.sampled_from(draw(st.lists(values, min_size=1, max_size=3)))
        return st.one_of(values, st.lists(few, min_size=rows, max_size=rows))

    kinds = {
        "top_k": st.one_of(st.sampled_from([1, 2, 5, vocabulary]), st.integers(1, 2 * vocabulary)),
        "top_p": st.one_of(fractions, st.floats(1e-3, 1)),
        "min_p": st.one_of(st.sampled_from([0.0, 1e-30, 0.01, 0.5, 1.0]), st.floats(0, 1)),
    }
    names = draw(st.sets(st.sampled_from(sorted(kinds))))
    temperature = draw(st.lists(temperatures, min_size=rows, max_size=rows))
    return {"temperature": temperature} | {name: draw(one_or_each(kinds[name])) for name in sorted(names)}


def of_row(settings: dict, row: int) -> dict:
    """The settings of one row among those of many."""
    return {name: value[row] if isinstance(value, list) else value for name, value in settings.items()}


# --- canvases and settings of the sampler; tokens are 0..VOCABULARY-1 with the mask and an end token among them

VOCABULARY = 11
MASK = 7
END = 3
OTHER_END = 9
tokens = st.sampled_from([t for t in range(VOCABULARY) if t != MASK])


@st.composite
def canvases(draw, max_length: int = 14) -> np.ndarray:
    """Masks and given tokens in any arrangement: all masks, none, a prompt before them, holes; also no position at all."""
    length = draw(st.integers(0, max_length))
    kind = draw(st.sampled_from(["prompt", "holes", "masks"]))
    canvas = np.array([draw(tokens) for _ in range(length)], dtype=np.int64)
    if kind == "masks":
        canvas[:] = MASK
    elif kind == "prompt" and length:
        canvas[draw(st.integers(0, length)) :] = MASK
    elif length:
        canvas[draw(st.lists(st.booleans(), min_size=length, max_size=length))] = MASK
    return canvas


batches = st.lists(canvases(), min_size=1, max_size=4)

# How frequent tokens are, in text where several never occur, or nothing but one does.
counts = st.lists(st.sampled_from([0, 0, 1, 1, 2, 50, 10**6, 10**12]), min_size=VOCABULARY, max_size=VOCABULARY).filter(any)
calibrations = st.fixed_dictionaries(
    {"token_frequencies": counts.map(_core.TokenFrequencies)},
    optional={
        "position_decay": st.sampled_from([0.0, 0.1, 1.0, 300.0]),
        "information_cap": st.sampled_from([0.1, 1.0, INF]),
    },
)

ORDERS = (
    *("confidence", "margin", "entropy", "random", "left-to-right", "sampled-confidence", "ancestral", "certainty-prior"),
    *("ranks", "calibrated"),
)
# Those that need nothing of the caller beside settings.
PLAIN_ORDERS = tuple(order for order in ORDERS if order != "ranks")
# Of those that count masks; one says which positions instead.
SCHEDULES = ("even", "linear", "cosine", "dream", "maskgit", "first-hitting")

thresholds = st.one_of(st.sampled_from([-0.5, 0.0, 0.2, 0.5, 0.9, 1.0, 1.5]), st.floats(0, 1))
factors = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e9]), st.floats(0, 5))
bounds = st.one_of(st.sampled_from([0.0, 0.1, 1.0, 1e9]), st.floats(0, 10))


def changed(config: dict, **values) -> dict:
    """Settings with these values, and without what nothing reads any more."""
    new = config | values
    left = set(belongs.left_over(dllm_fast.SamplerConfig(**config), values, resolve.DEFAULTS))
    return {name: value for name, value in new.items() if name not in left}


@st.composite
def neighbours(draw) -> dict:
    """LocalLeap: a lower threshold around what passes the threshold."""
    near, threshold = sorted((draw(thresholds), draw(thresholds)))
    distance = draw(st.sampled_from([{}, {"neighbour_distance": 0}, {"neighbour_distance": 1}, {"neighbour_distance": 99}]))
    return {"threshold": threshold, "neighbour_threshold": near, **distance}


cuts = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"threshold": thresholds}),
    st.fixed_dictionaries({"factor": factors}),
    st.fixed_dictionaries({"entropy_bound": bounds}),
    st.fixed_dictionaries({"entropy_threshold": bounds}),
    neighbours(),
    st.fixed_dictionaries({"run_threshold": thresholds}, optional={"threshold": thresholds}),
)
gap_bars = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 2.5, INF]), st.floats(0, 2))


@st.composite
def stops(draw, *, is_one_block: bool) -> dict:
    """Prophet's stop, or none; also of a named answer, where the canvas is one block."""
    if draw(st.integers(0, 3)):
        return {}
    chosen = {"gap_stop": draw(gap_bars)}
    if is_one_block and draw(st.booleans()):
        chosen |= {"gap_start": draw(st.integers(0, 12)), "gap_length": draw(st.integers(1, 6))}
    return chosen


ends = st.sampled_from(
    [
        {},
        {"eos_token_id": END},
        {"eos_token_id": END, "stop_at_eos": True},
        {"eos_token_id": (END, OTHER_END), "stop_at_eos": True},
    ]
)


# One token, or two that stand side by side; one of them may be an end token.
stop_tokens = st.lists(
    st.one_of(tokens, st.tuples(tokens, tokens), st.sampled_from([END, (END, OTHER_END)])), min_size=1, max_size=3
)


@st.composite
def endings(draw, chosen: dict) -> dict:
    """Settings, and what ends a row besides: stops, and the least number of tokens before. None of them is suppressed."""
    more = draw(st.fixed_dictionaries({}, optional={"stop": stop_tokens.map(tuple), "min_new_tokens": st.integers(0, 8)}))
    ends = {*np.atleast_1d(chosen.get("eos_token_id", ())).tolist()} if more.get("min_new_tokens") else set()
    single = [stop for stop in more.get("stop", ()) if isinstance(stop, int)]
    policies = ["allow"]
    if chosen.get("eos_token_id") is not None or single:
        is_told = chosen["order"] == "ancestral" or chosen["schedule"] == "dilated" or "drafts" in chosen
        is_revised = bool({"edit_threshold", "remask", "drafts"} & set(chosen))
        policies += ["penalise"] + ["delay"] * (not is_told) + ["suffix"] * (not is_revised)
    more["eos_policy"] = draw(st.sampled_from(policies))
    if more["eos_policy"] == "penalise":
        more["eos_penalty"] = draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 1e300, np.inf]))
        ends = {*np.atleast_1d(chosen.get("eos_token_id", ())).tolist()}
    elif more["eos_policy"] == "suffix":
        ends = {*np.atleast_1d(chosen.get("eos_token_id", ())).tolist()}
    named = {token for stop in more.get("stop", ()) for token in np.atleast_1d(stop).tolist()}
    kept = tuple(token for token in chosen.get("suppress_tokens", ()) if token not in named | ends)
    return chosen | more | ({"suppress_tokens": kept} if "suppress_tokens" in chosen else {})


@st.composite
def settings(draw, orders=PLAIN_ORDERS, schedules=SCHEDULES, temperatures=temperatures, annealed: bool = True) -> dict:
    """Settings of `SamplerConfig`, all of which any canvas can be run with (so `steps_per_block`, not `steps`).

    Without `annealed` there is no noise on the order under the maskgit schedule, which has a rule of its own for it.
    """
    order = draw(st.sampled_from(orders))
    if order == "ancestral":
        schedules = [schedule for schedule in schedules if schedule not in ("first-hitting", "maskgit")]
    chosen = {
        "mask_token_id": MASK,
        "order": order,
        "schedule": draw(st.sampled_from(schedules)),
        "temperature": draw(temperatures),
    }
    optional = {
        "steps_per_block": st.integers(1, 20),
        "block_length": st.integers(1, 8),
        "min_commit": st.integers(1, 4),
        "order_temperature": st.sampled_from([0.0, 0.1, 1.0, 5.0]),
        "eps": st.sampled_from([1e-3, 0.5]),
        "suppress_tokens": st.lists(st.integers(0, VOCABULARY - 1), max_size=3).map(tuple),
        "shift": st.booleans(),
    }
    if order == "ancestral":
        # It has neither a ranking nor a cut; the settings of those mean nothing to it.
        for name in ("min_commit", "order_temperature"):
            del optional[name]
    elif chosen["schedule"] == "first-hitting":
        del optional["min_commit"]
    else:
        chosen |= draw(cuts)
    if order == "random":
        del optional["order_temperature"]
    # Noise under the maskgit schedule needs a score that is a probability.
    if chosen["schedule"] == "maskgit" and (not annealed or order in ("entropy", "left-to-right", "ranks", "calibrated")):
        optional.pop("order_temperature", None)
    if chosen["schedule"] == "first-hitting":
        del optional["steps_per_block"]
    if order == "certainty-prior":
        optional["prior_sigma"] = st.sampled_from([0.1, 1.0, 3.0, 30.0])
    elif order == "calibrated":
        chosen |= draw(calibrations)
    if chosen["schedule"] != "dream":
        del optional["eps"]
    chosen |= draw(st.fixed_dictionaries({}, optional=optional))
    if order != "ancestral" and chosen["schedule"] != "first-hitting":
        chosen |= draw(stops(is_one_block="block_length" not in chosen))
    chosen |= draw(ends)
    chosen |= draw(filters(VOCABULARY))
    return chosen


REACHES = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"sub_block_length": st.integers(1, 5)}, optional={"inherit_token": st.booleans()}),
    st.just({"inherit_token": True}),
    st.fixed_dictionaries({"window_length": st.integers(1, 8)}),
    st.fixed_dictionaries(
        {"add_block_at": st.sampled_from([0.1, 0.5, 1.0])}, optional={"activate_block_at": st.sampled_from([0.1, 0.7, 1.0])}
    ),
)


@st.composite
def placed(draw, **arguments) -> dict:
    """Settings that also say which positions a step writes: far from each other, near the first, or in some part only."""
    if draw(st.integers(0, 5)) == 0:
        chosen = {"mask_token_id": MASK, "order": "left-to-right", "schedule": "dilated", "temperature": draw(temperatures)}
        chosen["dilation"] = draw(st.integers(2, 5))
        if chosen["temperature"] > 0 and draw(st.booleans()):
            chosen["temperature_end"] = draw(st.sampled_from([0.1, 1.0, 5.0]))
        return chosen | draw(st.fixed_dictionaries({}, optional={"block_length": st.integers(1, 14)})) | draw(ends)
    orders = tuple(order for order in PLAIN_ORDERS if order != "ancestral")
    chosen = draw(settings(**({"annealed": False, "orders": orders, "schedules": SCHEDULES[:-1]} | arguments)))
    chosen |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "spacing": st.sampled_from([1, 2, 3, 5, 99]),
                "position_penalty": st.sampled_from([0.0, 0.02, 0.3, 10.0]),
            },
        )
    )
    if draw(st.booleans()):
        reach = draw(REACHES)
        chosen |= reach
        if reach:
            chosen["schedule"] = "even"
            for name in ("steps_per_block", "gap_stop", "gap_start", "gap_length", "eps"):
                chosen.pop(name, None)
        if "add_block_at" in reach:
            chosen.pop("min_commit", None)
    return chosen


@st.composite
def drafting(draw) -> dict:
    """Settings of `SamplerConfig` for uniform noise, whose picks are drafts; any canvas can be run with them."""
    order = draw(st.sampled_from([order for order in ORDERS if order not in ("ancestral", "certainty-prior", "ranks")]))
    chosen = {
        "noise": "uniform",
        "vocabulary": draw(st.sampled_from([1, VOCABULARY, 7])),
        "drafts": True,
        "order": order,
        "steps_per_block": draw(st.integers(1, 8)),
        "temperature": draw(st.sampled_from([0.0, 0.4, 1.0, 3.0])),
        "stop_stable": draw(st.integers(0, 3)),
        "stop_entropy": draw(st.sampled_from([0.0, 0.005, 0.5, 1.0, 1e9])),
        **(draw(calibrations) if order == "calibrated" else {}),
        **draw(cuts.filter(len)),
        **draw(ends),
        **draw(filters(VOCABULARY)),
    }
    if chosen["temperature"]:
        chosen |= draw(st.fixed_dictionaries({}, optional={"temperature_end": st.sampled_from([0.001, 0.4, 1.0, 2.0])}))
    optional = {
        "block_length": st.integers(1, 8),
        "min_commit": st.integers(1, 4),
        "suppress_tokens": st.lists(st.integers(0, VOCABULARY - 1), max_size=3).map(tuple),
        "shift": st.booleans(),
    }
    return chosen | draw(st.fixed_dictionaries({}, optional=optional))


@st.composite
def posteriors(draw) -> dict:
    """Settings of `SamplerConfig` for the reverse process over noise; any canvas can be run with them."""
    noise = draw(st.sampled_from(["uniform", "hybrid"]))
    chosen = {
        "noise": noise,
        "order": "ancestral",
        "vocabulary": VOCABULARY,
        "temperature": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        "schedule": draw(st.sampled_from(["even", "linear", *(["cosine"] if noise == "uniform" else [])])),
        **draw(ends),
    }
    if noise == "hybrid":
        chosen |= {"mask_token_id": MASK, "noise_share": draw(st.sampled_from([None, 0.0, 0.1, 0.5, 0.9]))}
    optional = {
        "steps_per_block": st.integers(1, 8),
        "block_length": st.integers(1, 8),
        "suppress_tokens": st.lists(st.integers(0, VOCABULARY - 1), max_size=3).map(tuple),
        "shift": st.booleans(),
    }
    return chosen | draw(st.fixed_dictionaries({}, optional=optional))


@st.composite
def remembering(draw, **arguments) -> dict:
    """Settings of `SamplerConfig` that remember distributions; any canvas can be run with them."""
    once = {"orders": tuple(order for order in PLAIN_ORDERS if order != "ancestral"), "schedules": SCHEDULES[:-1]}
    chosen = draw(editing(**arguments) if draw(st.integers(0, 4)) == 0 else settings(annealed=False, **(once | arguments)))
    kinds = draw(st.sampled_from(["kl", "credit", "both"]))
    if kinds != "credit":
        for name in CUTS:
            chosen.pop(name, None)
        chosen |= {"threshold": draw(thresholds), "kl_threshold": draw(st.sampled_from([0.0, 0.01, 0.3, 2.0, INF]))}
        chosen |= draw(st.sampled_from([{}, {"kl_steps": 1}, {"kl_steps": 3}]))
    if kinds != "kl":
        chosen["credit"] = draw(st.sampled_from([0.0, 0.7, 3.0]))
        for name, values in (("credit_power", [0.0, 0.2, 2.0]), ("credit_decay", [0.0, 0.8, 1.0])):
            if draw(st.booleans()):
                chosen[name] = draw(st.sampled_from(values))
    return chosen


@st.composite
def editing(draw, **arguments) -> dict:
    """Settings of `SamplerConfig` that edit tokens; any canvas can be run with them. Rules that are the reverse process
    itself write each mask once, and do not go with it."""
    once = {"orders": tuple(order for order in PLAIN_ORDERS if order != "ancestral"), "schedules": SCHEDULES[:-1]}
    chosen = draw(settings(annealed=False, **(once | arguments)))
    chosen["edit_threshold"] = draw(st.one_of(st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 2.0]), st.floats(0, 1)))
    chosen["max_post_steps"] = draw(st.sampled_from([0, 1, 2, 5, 16]))
    return chosen


#: What takes tokens back, and where it can do that.
REMASKS = ("cap", "rescale", "confidence", "loop", "planner", "confidence-drop", "low-confidence", "verify")
etas = st.one_of(st.sampled_from([0.0, 0.008, 0.3, 0.9, 1.0]), st.floats(0, 1))


@st.composite
def remasking(draw, kinds=REMASKS, **arguments) -> dict:
    """Settings of `SamplerConfig` that take written tokens back; any canvas can be run with them."""
    kind = draw(st.sampled_from(kinds))
    ranked = tuple(order for order in PLAIN_ORDERS if order != "ancestral")
    rules = {
        "loop": {"orders": ("ancestral",), "schedules": ("even", "linear")},
        "planner": {"orders": ("confidence", "sampled-confidence", "entropy"), "schedules": ("even", "linear", "cosine")},
        "confidence-drop": {"orders": ("confidence", "sampled-confidence"), "schedules": SCHEDULES[:-1]},
        "verify": {"orders": ranked, "schedules": ("even",)},
        "low-confidence": {"orders": ranked, "schedules": SCHEDULES[:-1]},
    }
    rule = rules.get(kind, {"orders": ("ancestral",), "schedules": ("even", "linear", "cosine")})
    chosen = draw(settings(**({"annealed": False} | rule | arguments)))
    for name in ("kl_threshold", "kl_steps", "credit", "credit_power", "credit_decay"):
        chosen.pop(name, None)
    if kind in ("planner", "confidence-drop"):
        # They have counts, or a bar, of their own.
        for name in (*CUTS, "order_temperature", "gap_stop", "gap_start", "gap_length"):
            chosen.pop(name, None)
    if kind == "planner":
        chosen.pop("min_commit", None)
    if kind == "verify":
        # It has counts of its own, and takes back of what a cut lets through.
        for name in ("steps_per_block", "gap_stop", "gap_start", "gap_length"):
            chosen.pop(name, None)
        if not set(chosen) & set(CUTS):
            chosen |= draw(cuts.filter(len))
    chosen["remask"] = kind
    if kind == "low-confidence":
        chosen["remask_budget"] = draw(st.sampled_from([0, 1, 2, 5, 20]))
    elif kind == "verify":
        bars = st.one_of(st.sampled_from([-0.5, 0.0, 0.3, 0.9, 1.0, 1.5]), st.floats(0, 1))
        chosen |= draw(st.fixed_dictionaries({}, optional={"remask_threshold": bars}))
    elif kind != "confidence-drop":
        chosen |= draw(st.fixed_dictionaries({}, optional={"remask_eta": etas}))
    return chosen


@st.composite
def growing(draw, names=("daedal", "rho-eos")) -> dict:
    """Settings of `SamplerConfig` whose answers change their length; a canvas has one run of masks, 10 at most."""
    orders = tuple(order for order in PLAIN_ORDERS if order != "ancestral")
    chosen = draw(settings(annealed=False, orders=orders, schedules=("even",)))
    for name in ("steps_per_block", "gap_stop", "gap_start", "gap_length", "eos_token_id", "stop_at_eos"):
        chosen.pop(name, None)
    chosen |= {"length": draw(st.sampled_from(names)), "max_new_tokens": draw(st.integers(10, 30))}
    chosen |= draw(ends.filter(len))
    chosen |= draw(st.fixed_dictionaries({}, optional={"expansion_factor": st.integers(1, 8)}))
    chosen["suppress_tokens"] = tuple(token for token in chosen.get("suppress_tokens", ()) if token not in (END, OTHER_END))
    shares = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.floats(0, 1))
    if chosen["length"] == "daedal":
        chosen |= draw(
            st.fixed_dictionaries(
                {"eos_check_tokens": st.integers(1, 6)},
                optional={
                    "eos_confidence_threshold": shares,
                    "expand_eos_confidence_threshold": shares,
                    "low_confidence_threshold": shares,
                },
            )
        )
    else:
        low, high = sorted((draw(shares), draw(shares)))
        chosen |= {"low_density_threshold": low, "high_density_threshold": high}
    chosen |= draw(st.fixed_dictionaries({}, optional={"spacing": st.sampled_from([2, 3]), "position_penalty": st.just(0.3)}))
    if draw(st.booleans()):
        chosen |= {"min_new_tokens": draw(st.integers(0, 8))}
    if draw(st.booleans()):
        chosen |= {"stop": draw(stop_tokens.map(tuple))}
        named = {token for stop in chosen["stop"] for token in np.atleast_1d(stop).tolist()}
        chosen["suppress_tokens"] = tuple(token for token in chosen["suppress_tokens"] if token not in named)
    policy = draw(st.sampled_from(["allow", "delay", "penalise"]))
    return (
        chosen | {"eos_policy": policy} | ({"eos_penalty": draw(st.sampled_from([0.5, 5.0]))} if policy == "penalise" else {})
    )


@st.composite
def answers(draw) -> np.ndarray:
    """Canvases of one run of masks between given tokens."""
    before, masks, behind = draw(st.integers(0, 4)), draw(st.integers(0, 10)), draw(st.integers(0, 3))
    given = [draw(tokens) for _ in range(before + behind)]
    return np.array([*given[:before], *[MASK] * masks, *given[before:]], dtype=np.int64)
