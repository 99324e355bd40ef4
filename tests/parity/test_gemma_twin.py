"""Our DiffusionGemma against the class of transformers: what is encoded, denoised, and shown of the step before."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dllm_fast
import gemma
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache
from dllm_fast.open import open_runner
from dllm_fast.runners.runner import Task

WITHIN = 2e-6
FORMS = {
    "as-published": {},
    "global-alone": {"layer_types": [gemma.GLOBAL] * 3},
    "wide-window": {"sliding_window": 64},
    "all-experts": {"top_k_experts": 4, "num_global_key_value_heads": 4},
    "otherwise": {
        "final_logit_softcapping": 50.0,
        "hidden_activation": "silu",
        "rms_norm_eps": 1e-3,
        "layer_types": [gemma.GLOBAL, gemma.LOCAL, gemma.GLOBAL],
        "rope_parameters": {
            gemma.LOCAL: {"rope_type": "default", "rope_theta": 500.0},
            gemma.GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 9000.0},
        },
    },
}
forms = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Each form's checkpoint, opened once, and the class of transformers with the same weights."""
    made = {}

    def get(form: str):
        if form not in made:
            stock = gemma.stock(**FORMS[form])
            made[form] = dllm_fast.load(gemma.save(stock, tmp_path_factory.mktemp(form))), stock
        return made[form]

    return get


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, gemma.VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


class Stock:
    """The class of transformers, step by step: what it has encoded, and what it predicted last."""

    def __init__(self, model, prompts: list[torch.Tensor]) -> None:
        """Shorter prompts are padded on the left, as its users do."""
        longest = max(map(len, prompts))
        ids = torch.stack([torch.cat([torch.zeros(longest - len(p), dtype=torch.int64), p]) for p in prompts])
        self.model = model
        self.seen = torch.stack([torch.arange(longest) >= longest - len(p) for p in prompts])
        self.cache = None
        self.encode(ids, self.seen)

    @torch.no_grad()
    def encode(self, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        encoder = self.model.model.encoder
        begin = 0 if self.cache is None else self.cache.get_seq_length()
        positions = torch.arange(begin, begin + ids.shape[1])[None]
        out = encoder(input_ids=ids, attention_mask=seen, cache=self.cache, position_ids=positions)
        self.cache = out.cache
        return out.last_hidden_state

    @torch.no_grad()
    def logits(self, canvas: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        mask = torch.nn.functional.pad(self.seen, (0, canvas.shape[1]), value=True)
        return self.model(
            decoder_input_ids=canvas, cache=self.cache, self_conditioning_logits=shown, decoder_attention_mask=mask
        ).logits

    def take(self, canvas: torch.Tensor) -> None:
        """A canvas is finished."""
        self.seen = torch.nn.functional.pad(self.seen, (0, canvas.shape[1]), value=True)
        self.encode(canvas, self.seen)


class Ours:
    """A session that is asked by hand: rows with a prompt each, and the canvas behind it."""

    def __init__(self, model, prompts: list[torch.Tensor], canvases: int, cache: str = "auto", suppressed=()) -> None:
        runner, _ = open_runner(model)
        size = runner.info.block_length
        self.starts = [len(p) for p in prompts]
        self.texts = [np.concatenate([p.numpy(), np.zeros(size * canvases, dtype=np.int64)]) for p in prompts]
        self.begins, self.size = list(self.starts), size
        self.session = runner.begin(
            Task(
                lengths=[len(text) for text in self.texts],
                starts=self.starts,
                prompts=list(range(len(prompts))),
                mask_token_id=None,
                cache=cache,
                suppressed=suppressed,
            )
        )

    @torch.no_grad()
    def logits(self, canvas: torch.Tensor, temperature: float = 1.0, rows: list[int] | None = None) -> torch.Tensor:
        rows = list(range(len(self.starts))) if rows is None else rows
        for row, shown in zip(rows, canvas, strict=True):
            self.texts[row][self.begins[row] : self.begins[row] + self.size] = shown.numpy()
        (part,) = self.session.parts(self.request(rows, temperature))
        scored, lines = part[1]()
        assert lines is None
        return scored.view(len(rows), self.size, -1).clone()

    def request(self, rows: list[int], temperature: float) -> SimpleNamespace:
        begins = np.array([self.begins[row] for row in rows])
        windows = np.stack([begins, begins + self.size], axis=1)
        positions = [np.arange(*window) for window in windows]

        def batch(begin, end, *, shift):
            assert not shift
            width = int((end - begin).max())
            ids = np.zeros((len(rows), width), dtype=np.int64)
            for line, row in enumerate(rows):
                ids[line, : end[line] - begin[line]] = self.texts[row][begin[line] : end[line]]
            lines = [line * width + positions[line] - begin[line] for line in range(len(rows))]
            return ids, np.concatenate(lines)

        return SimpleNamespace(
            rows=np.array(rows),
            canvases=[self.texts[row] for row in rows],
            positions=positions,
            counts=np.array([len(own) for own in positions]),
            windows=windows,
            lengths=np.array([len(self.texts[row]) for row in rows]),
            temperatures=np.full(len(rows), temperature),
            causal=np.zeros(len(rows), dtype=bool),
            shadow_of=lambda _: None,
            batch=batch,
        )

    def take(self, rows: list[int] | None = None) -> None:
        """The canvases of these rows are finished."""
        for row in range(len(self.begins)) if rows is None else rows:
            self.begins[row] += self.size


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=WITHIN, rtol=0)


@forms
@pytest.mark.parametrize("length", [1, gemma.WINDOW, 23])
def test_what_is_encoded(opened, form, length):
    """Features, and the keys and values that they leave, of a text in front of a canvas."""
    model, stock = opened(form)
    ids, network = tokens(2, length), model.network
    cache = SlotCache(network, 2, length, dtype=torch.float32, device=torch.device("cpu"))
    positions = torch.arange(length).expand(2, -1)
    with torch.inference_mode():
        ours = network.hidden(
            Batch(
                ids=ids,
                positions=positions,
                end=positions + 1,
                cache=cache,
                slots=slice(0, length),
                keys=length,
                origin=torch.full((2, 1), length),
            )
        )
    theirs = Stock(stock, list(ids))
    theirs.cache = None
    close(ours, theirs.encode(ids, theirs.seen))
    for layer, held in enumerate(theirs.cache.layers):
        kept = held.keys.shape[2]
        assert kept == length or (held.is_sliding and kept == min(length, stock.config.text_config.sliding_window - 1))
        close(cache.keys[layer][:, :, length - kept : length], held.keys)
        close(cache.values[layer][:, :, length - kept : length], held.values)


@forms
@pytest.mark.parametrize("cache", ["auto", "none"])
def test_canvases_one_after_the_other(opened, form, cache):
    """Steps without and with what the step before predicted, then the next canvas behind the first, encoded."""
    model, stock = opened(form)
    prompt = tokens(1, 11)
    theirs, ours = Stock(stock, list(prompt)), Ours(model, list(prompt), 3, cache)
    for number in range(3):
        shown = None
        for step, temperature in enumerate((0.8, 0.6, 0.4)):
            canvas = tokens(1, gemma.CANVAS, seed=10 * number + step)
            logits = theirs.logits(canvas, shown)
            close(ours.logits(canvas, temperature), logits)
            shown = logits / temperature
        theirs.take(canvas)
        ours.take()


@forms
def test_rows_of_any_length_side_by_side(opened, form):
    """Rows that end, and rows that are at another canvas, have what they have alone; transformers pads them on the left."""
    model, stock = opened(form)
    prompts = [tokens(n, seed=n) for n in (3, 17, 9)]
    theirs, ours = Stock(stock, prompts), Ours(model, prompts, 2)
    alone = [Stock(stock, [prompt]) for prompt in prompts]
    shown: list = [None] * 3
    together = None
    for step in range(2):
        canvas = tokens(3, gemma.CANVAS, seed=step)
        mine = ours.logits(canvas, 0.5)
        together = theirs.logits(canvas, None if together is None else together / 0.5)
        close(mine, together)
        for row in range(3):
            logits = alone[row].logits(canvas[row : row + 1], shown[row])
            close(mine[row : row + 1], logits)
            shown[row] = logits / 0.5
    # Row 1 goes on to the next canvas, row 0 is done, row 2 denoises on.
    ours.take([1])
    alone[1].take(canvas[1:2])
    shown[1] = None
    for step in range(2):
        canvas = tokens(2, gemma.CANVAS, seed=5 + step)
        mine = ours.logits(canvas, 0.5, rows=[1, 2])
        for line, row in enumerate((1, 2)):
            logits = alone[row].logits(canvas[line : line + 1], shown[row])
            close(mine[line : line + 1], logits)
            shown[row] = logits / 0.5


def test_in_bfloat16_it_loses_what_the_class_loses(tmp_path):
    """Of the logits in float32, over four models, without and with what the step before predicted; at most twice as much."""
    lost = {"ours": 0.0, "theirs": 0.0}
    for seed in range(4):
        stock = gemma.stock(seed)
        model = dllm_fast.load(gemma.save(stock, tmp_path / str(seed)), dtype="bfloat16")
        ids, canvas = list(tokens(2, 23, seed=seed)), tokens(2, gemma.CANVAS, seed=seed + 50)
        wide, half, ours = Stock(stock, ids), Stock(copy.deepcopy(stock).bfloat16(), ids), Ours(model, ids, 1)
        shown = shown_half = None
        for _ in range(2):
            right, theirs = wide.logits(canvas, shown), half.logits(canvas, shown_half)
            lost["theirs"] += float((theirs - right).square().mean())
            lost["ours"] += float((ours.logits(canvas, 0.5) - right).square().mean())
            shown, shown_half = right / 0.5, (theirs / 0.5).bfloat16()
    assert 0 < lost["ours"] <= 4 * lost["theirs"]


def test_a_suppressed_token_has_no_share(opened):
    """What is never written is not shown, either: as a processor of transformers that comes before theirs."""
    model, stock = opened("as-published")
    prompt, canvas = tokens(1, 5), tokens(1, gemma.CANVAS)
    theirs, ours = Stock(stock, list(prompt)), Ours(model, list(prompt), 1, suppressed=(3, 7))
    logits = theirs.logits(canvas)
    logits[..., [3, 7]] = -torch.inf
    assert torch.equal(ours.logits(canvas).isinf(), logits.isinf())
    close(ours.logits(canvas)[..., 8:], theirs.logits(canvas, logits)[..., 8:])


def test_the_comparison_can_fail(opened):
    """Each thing that makes this model moves the logits by far more than the tolerance."""
    model, stock = opened("as-published")
    prompt, canvas = tokens(1, 11), tokens(1, gemma.CANVAS)
    right = Stock(stock, list(prompt)).logits(canvas)
    for name, tensor in stock.named_buffers():
        if name.endswith("layers.0.layer_scalar"):  # behind the last but one, the next norm takes it back
            old = tensor.clone()
            tensor.mul_(1.1)
            assert (Stock(stock, list(prompt)).logits(canvas) - right).abs().max() > 1e-4, name
            tensor.copy_(old)
    ours = Ours(model, list(prompt), 1)
    first, second = ours.logits(canvas), ours.logits(canvas)
    assert (first - second).abs().max() > 1e-3, "nothing is shown of the step before"
    assert (ours.logits(canvas, 0.1) - ours.logits(canvas)).abs().max() > 1e-3, "the temperature plays no part"
    other = Ours(model, list(prompt.roll(1, dims=1)), 1).logits(canvas)
    assert (first - other).abs().max() > 1e-3
